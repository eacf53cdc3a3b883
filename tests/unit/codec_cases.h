// What every codec test shares: method texts to walk, shapes, inputs, one round trip.
#ifndef FSTQ_TESTS_CODEC_CASES_H
#define FSTQ_TESTS_CODEC_CASES_H

#include "base/fmath.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"
#include "codec/codec.h"
#include "kernels/simd.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

// At least one line for each row of the table (test_codec checks), more where options change the
// bytes.
static const char *const codec_cases[] = {
    "raw",
    "fp32",
    "fp16",
    "fp16:prescale=off",
    "bf16",
    "int",
    "int4",
    "int2:block=0",
    "int:bits=3,block=64,scale=bf16",
    "int:bits=5,block=100,code=rans",
    "int:bits=8,block=0,group=rank",
    "int:bits=6,block=0,group=class,code=delta",
    "nf4",
    "nf4:scale=log8,code=rans",
    "nf4:scale=log8,block=8",
    "qsgd",
    "qsgd:levels=1,code=gamma",
    "qsgd:bits=3,bucket=128,norm=max,code=rans",
    "qsgd:levels=127,bucket=0,code=omega",
    "qsgd:levels=9,bucket=33,code=delta",
    "fedpaq",
    "terngrad",
    "terngrad:clip=0,code=base3",
    "terngrad:code=rans,block=50",
    "sign",
    "sign:group=class,scale=bf16",
    "sign:block=7,scale=log8",
    "onebit",
    "onebit:group=tensor,scale=bf16",
    "fedbat",
    "fedbat:alpha_min=5e-4,alpha_max=5e-2",
    "uniform",
    "uniform:step=0.1,round=stochastic",
    "uniform:step=3,round=dither,group=class",
    "uniform:step=0.5,code=fixed",
    "eden",
    "drive:scale=mse,slice=64",
    "eden:bits=0.3",
    "eden:bits=2.5,slice=512",
    "eden:bits=4",
    "eden:bits=3",
    "topk",
    "topk:ratio=0.1,group=tensor,index=rice,value=fp32",
    "topk:ratio=0.3,group=class,index=bitmap",
    "topk:ratio=0.05,index=log2",
    "topk:index=raw32",
    "randk",
    "randk:ratio=0.3,unbiased=off,value=fp32",
    "stc",
    "stc:ratio=0.1,group=class,scale=bf16",
    "stc:ratio=0.2,group=all,index=log2",
    "sbc",
    "sbc:ratio=0.1,group=class",
    "sbc:ratio=0.4,group=all,scale=bf16",
    "dgc",
    "dgc:ratio=0.05,nesterov=on,clip=1,warmup=20,group=class,value=fp32",
    "ecolora",
    "ecolora:segments=3,ratio=0.2,group=tensor",
    "fstq",
    "fstq-paper",
    "fstq:policy=greedy,budget=0.1,importance=magnitude,tags=rice,scale=tier",
    "fstq:widths=0/1/2/3/4/6/8/16,bits=2,importance=absgd,tags=rans,group=class",
    "fstq:policy=percentile,widths=0/1/16,shares=0.1/"
    "0.3,budget=0,importance=random,top=int16,scale=tier,tags=bitmap",
    "fstq:budget=0.05,importance=gd,format=fp32,values=packed,scale=group",
    "fstq:budget=0.3,importance=uniform,policy=percentile,tags=dense",
    "fstq:widths=0/2,budget=0.05,gamma=0+ef",
    "signsgd",
    "signsgd:momentum=0.9,tie=zero",
    "powersgd",
    "powersgd:rank=4,warm=off,value=bf16",
    "powersgd:mode=alternating,rank=3",
    "efsign",
    "topk:ratio=0.1+ef:decay=0.9,reset=5",
    "qsgd+ef:force=on",
    "qsgd:norm=max+rans",
    "int4+zstd:level=1",
    "int:bits=8,block=0+zstd",
    "bf16+lz4",
    "dgc+rans",
    "stc:ratio=0.1,group=class,scale=bf16+ef+zstd",
    "raw+rans",
    "powersgd+ef",
    "natural",
    "natural:code=rans",
    "natdither",
    "natural:levels=3,norm=max,bucket=100,code=gamma",
    "threelc",
    "threelc:sparsity=1.75,block=100,code=rans",
    "terngrad:code=runs",
    "3lc",
    "topk:ratio=0.1+ef21",
    "sign+rans+ef21:init=zero,share=0.5",
    "fetchsgd",
    "fetchsgd:rows=3,cols=101,ratio=0.05,momentum=0",
    "cocktail",
    "cocktail:sample=0.5,ratio=0.3,bits=3,bucket=20,index=bitmap",
    "cocktail+ef",
    "demo",
    "demo:chunk=16,keep=3,value=fp32,index=log2",
    "randk:ratio=0.1,index=rice,shared=on",
    "randk:ratio=0.05,index=log2,value=fp32",
    "randk:index=raw32",
    "randk:ratio=0.2,index=bitmap",
    "fstq:budget=0.04,importance=magnitude,tags=rice,values=packed",
    "fstq:importance=magnitude,tags=rans,values=packed,group=class",
    "fstq:budget=0.2,importance=magnitude,tags=bitmap,policy=greedy,scale=tier",
    "fstq:policy=percentile,widths=0/3/6/16,shares=0.02/0.05/0.1,importance=magnitude,top=int16,"
    "tags=dense,upload_s=1",
    "uniform:step=2,dead=0.1",
    "uniform:step=1.5,dead=0.2,value=centre,group=class",
    "uniform:step=0.7,value=centre,block=100,scale=log8",
    "uniform:step=3,value=centre,group=rank,scale=bf16,code=fixed",
    "klt",
    "klt:step=0.5,gamma=0.5,keep=0.01",
    "klt:step=3,rdoq=0.1,unbiased=1,basis=0.5",
    "klt:dead=0,keep=0.001,basis=0.1+ef",
    "fstq:budget=0.1,importance=fedsrd",
    "tcq",
    "tcq:step=0.6,rdoq=0+ef",
    "fstq:transform=klt",
    "fstq:transform=klt,widths=0/1/3/8,bits=2,importance=absgd,group=tensor+ef",
    "fstq:transform=klt,policy=percentile,widths=0/4/16,shares=0.05/0.2,budget=0,gamma=1",
    "fstq:transform=klt,policy=greedy,budget=0.2,norm=class,scale=tier,tags=rice",
    "cocktail:sample=1,ratio=0.05,chunk=100,bits=2",
    NULL,
};

struct session {
    struct shape shape;
    struct codec_inst *c;
    uint8_t *msg, *scratch;
    float *x_hat, *state, *state_next, *sens, *grad;
    struct codec_report report;
    struct err err;
};

// A small adapter with odd sizes, an empty and a one-value tensor, and both classes.
static inline void shape_odd(struct shape *s)
{
    shape_init(s);
    shape_add(s, "l0.q.A", 4, 33, SHAPE_LORA_A);
    shape_add(s, "l0.q.B", 29, 4, SHAPE_LORA_B);
    shape_add(s, "none", 0, 5, SHAPE_OTHER);
    shape_add(s, "one", 1, 1, SHAPE_OTHER);
    shape_add(s, "l1.q.A", 4, 301, SHAPE_LORA_A);
    shape_add(s, "l1.q.B", 257, 4, SHAPE_LORA_B);
    shape_seal(s);
}

// Large enough for several blocks and lanes; B begins and ends off a byte boundary of packed codes.
static inline void shape_two(struct shape *s)
{
    shape_init(s);
    shape_add(s, "A", 8, 1003, SHAPE_LORA_A);
    shape_add(s, "B", 517, 8, SHAPE_LORA_B);
    shape_seal(s);
}

static inline void shape_one(struct shape *s, uint32_t rows, uint32_t cols)
{
    shape_init(s);
    shape_add(s, "x", rows, cols, SHAPE_LORA_A);
    shape_seal(s);
}

static inline void session_open(struct session *s, const char *text)
{
    s->err.text[0] = '\0';
    s->c = codec_open(text, &s->shape, &s->err);
    if (!s->c)
        fail_msg("%s: %s", text, s->err.text);
    size_t n = s->shape.n_values, st = codec_state_floats(s->c);
    s->msg = mem_alloc(MEM_CODEC, codec_bound(s->c) + 1);
    s->scratch = mem_alloc(MEM_CODEC, codec_scratch_bytes(s->c) + 1);
    s->x_hat = mem_alloc(MEM_CODEC, (n + 1) * sizeof(float));
    s->state = mem_alloc(MEM_CODEC, (st + 1) * sizeof(float));
    s->state_next = mem_alloc(MEM_CODEC, (st + 1) * sizeof(float));
    s->sens = mem_alloc(MEM_CODEC, (n + 1) * sizeof(float));
    s->grad = mem_alloc(MEM_CODEC, (n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        s->sens[i] = (float)(1 + i % 7) * 1e-3f;
        s->grad[i] = (float)((int)(i % 5) - 2) * 1e-2f;
    }
}

static inline void session_close(struct session *s)
{
    codec_close(s->c);
    mem_free(s->msg);
    mem_free(s->scratch);
    mem_free(s->x_hat);
    mem_free(s->state);
    mem_free(s->state_next);
    mem_free(s->sens);
    mem_free(s->grad);
}

// A session of one matrix, its shape included.
static inline void open_one(struct session *s, uint32_t rows, uint32_t cols, const char *text)
{
    shape_one(&s->shape, rows, cols);
    session_open(s, text);
}

static inline void close_one(struct session *s)
{
    session_close(s);
    shape_free(&s->shape);
}

// A method that must not open, with an error that says so.
static inline void expect_error(const char *text, const char *part)
{
    struct shape shape;
    shape_one(&shape, 64, 64);
    struct err err = {""};
    struct codec_inst *c = codec_open(text, &shape, &err);
    if (c)
        fail_msg("'%s' was accepted as %s", text, c->text);
    if (!strstr(err.text, part))
        fail_msg("'%s': the error is '%s', which lacks '%s'", text, err.text, part);
    shape_free(&shape);
}

static inline struct codec_key key_of(uint32_t version)
{
    return (struct codec_key){.seed = 7, .client = 3, .version = version};
}

static inline int64_t session_encode(struct session *s, const float *x, struct codec_key key,
                                     size_t cap)
{
    struct codec_input in = {.x = x,
                             .sens = s->sens,
                             .grad = s->grad,
                             .state = s->state,
                             .state_next = s->state_next,
                             .key = key,
                             .budget_bytes = -1};
    return codec_encode(s->c, &in, s->msg, cap, s->scratch, &s->report, &s->err);
}

// Encodes and decodes into x_hat; returns the message's length.
static inline int64_t session_trip(struct session *s, const float *x, struct codec_key key)
{
    int64_t len = session_encode(s, x, key, codec_bound(s->c));
    if (len < 0)
        fail_msg("%s: %s", s->c->text, s->err.text);
    if (codec_decode(s->c, &key, s->msg, (size_t)len, s->x_hat, s->scratch, &s->err))
        fail_msg("%s: own message refused: %s", s->c->text, s->err.text);
    return len;
}

enum dist { DIST_NORMAL, DIST_LAPLACE, DIST_STUDENT3 };

static inline void fill(float *x, size_t n, enum dist dist, uint32_t stream)
{
    struct rng r = rng_stream(20260428, RNG_TEST, (uint32_t)dist, stream, 0);
    for (size_t i = 0; i < n; i++) {
        double v = 0;
        if (dist == DIST_NORMAL) {
            v = rng_normal(&r);
        } else if (dist == DIST_LAPLACE) {
            double u = rng_unit(&r) - 0.5, a = -fmath_log(1 - 2 * fabs(u));
            v = u < 0 ? -a : a;
        } else {
            double z = rng_normal(&r), c = 0;
            for (int k = 0; k < 3; k++) {
                double g = rng_normal(&r);
                c += g * g;
            }
            v = z / sqrt(c / 3);
        }
        x[i] = (float)(v * 1e-3);
    }
}

#endif
