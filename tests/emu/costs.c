// What codecs and steps cost a GPU that is not there: launches, and bytes of its memory that a
// launch must read and write, each word once. A line per method and size, for
// scripts/gpu_static.py; built with the checks, which see every access.
//
//     encode|decode METHOD VALUES MESSAGE-BYTES LAUNCHES READ WRITTEN PUT GOT
//     step LAYERS LAUNCHES PRODUCTS PUT GOT
#include "base/mem.h"
#include "base/rng.h"
#include "codec/codec.h"
#include "dev/dev.h"
#include "model/model.h"
#include "tests/emu/emu_run.h"

#include <stdio.h>
#include <string.h>

static const char *const methods[] = {"sign",
                                      "int4:block=256",
                                      "qsgd:bits=4,bucket=512",
                                      "fstq",
                                      "fstq:policy=percentile,budget=0",
                                      "topk:ratio=0.01,group=all",
                                      "stc:ratio=0.01,group=all",
                                      "eden:bits=1",
                                      "sign+ef",
                                      "signsgd",
                                      "cocktail+ef",
                                      "int4+ef21:init=zero"};

static struct emu_counts before;

static void begin(void)
{
    before = emu_counted();
}

static void say(const char *what)
{
    const struct emu_counts c = emu_counted();
    printf("%s %llu %llu %llu %llu %llu\n", what,
           (unsigned long long)(c.launches - before.launches),
           (unsigned long long)(c.read_bytes - before.read_bytes),
           (unsigned long long)(c.write_bytes - before.write_bytes),
           (unsigned long long)(c.put_bytes - before.put_bytes),
           (unsigned long long)(c.get_bytes - before.get_bytes));
}

static float *vector(struct dev *d, size_t n, uint32_t stream, bool squares)
{
    struct rng r = rng_stream(1, RNG_TEST, stream, 0, 0);
    float *x = mem_alloc(MEM_CODEC, (n + 1) * sizeof *x);
    for (size_t i = 0; i < n && stream; i++) {
        double v = rng_normal(&r);
        x[i] = (float)(squares ? v * v : v);
    }
    float *there = d->row->alloc(d, MEM_CODEC, (n + 1) * sizeof *x);
    dev_put(d, there, x, n * sizeof *x);
    mem_free(x);
    return there;
}

static void codec_costs(struct dev *d, const char *text, uint32_t rows)
{
    struct shape s;
    struct err err = {""};
    struct codec_report report;
    char head[160];
    shape_init(&s);
    shape_add(&s, "A", rows, 1024, SHAPE_LORA_A);
    shape_seal(&s);
    struct codec_inst *c = codec_open(text, &s, &err);
    if (!c)
        die(STATUS_USAGE, "%s: %s", text, err.text);
    const size_t n = s.n_values, state = codec_state_floats(c), bound = codec_bound(c);
    struct codec_device on = {.dev = d,
                              .stage = d->row->stage(d, codec_stage_bytes(c, d) + 1),
                              .room = d->row->alloc(d, MEM_CODEC, codec_device_bytes(c, d) + 1)};
    void *scratch = mem_alloc(MEM_CODEC, codec_scratch_bytes(c) + 1);
    uint8_t *msg = mem_alloc(MEM_CODEC, bound + 1);
    float *block[] = {vector(d, n, 1, false), vector(d, n, 2, true), vector(d, n, 3, false),
                      vector(d, state, 0, false), vector(d, state, 0, false)};
    const struct codec_input in = {.on = &on,
                                   .x = block[0],
                                   .sens = block[1],
                                   .grad = block[2],
                                   .state = block[3],
                                   .state_next = block[4],
                                   .key = {.seed = 1, .client = 2, .version = 3},
                                   .budget_bytes = -1};
    begin();
    int64_t len = codec_encode(c, &in, msg, bound, scratch, &report, &err);
    snprintf(head, sizeof head, "encode %s %zu %lld", text, n, (long long)len);
    say(head);
    const struct codec_output to = {.on = &on, .sink = {block[2], 0.5f, true}};
    begin();
    if (len < 0 || codec_decode_to(c, &in.key, msg, (size_t)len, to, scratch, &err))
        die(STATUS_CHECK, "%s: %s", text, err.text);
    snprintf(head, sizeof head, "decode %s %zu %lld", text, n, (long long)len);
    say(head);
    for (size_t i = 0; i < ARRAY_LEN(block); i++)
        d->row->free(d, block[i]);
    d->row->free(d, on.room);
    d->row->unstage(d, on.stage);
    mem_free(scratch);
    mem_free(msg);
    codec_close(c);
    shape_free(&s);
}

static void step_costs(struct dev *d, int32_t layers)
{
    const struct model_config c = {.dim = 32,
                                   .hidden = 64,
                                   .layers = layers,
                                   .heads = 2,
                                   .kv_heads = 2,
                                   .head_dim = 16,
                                   .vocab = 64,
                                   .max_positions = 64,
                                   .rope_theta = 10000,
                                   .norm_eps = 1e-5,
                                   .tied = true};
    static const int32_t start[] = {0, 8}, tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct err err = {""};
    struct model_params p;
    struct optim_params o;
    opt_defaults(model_options, model_option_count, &p);
    opt_defaults(optim_options, optim_option_count, &o);
    p.lora_rank = 4;
    struct model *m = model_create(d, &p, &c, 1, &err);
    if (!m)
        die(STATUS_USAGE, "%s", err.text);
    const size_t n = model_shape(m)->n_values;
    const struct model_batch batch = {
        .n_seqs = 1, .start = start, .tokens = tokens, .targets = tokens};
    float *adapter = mem_alloc(MEM_ADAPTER, (n + KERNEL_SLACK) * sizeof *adapter);
    float *moments = mem_alloc(MEM_OPTIMIZER, 2 * n * sizeof *moments);
    struct model_client client = {.adapter = adapter, .moments = moments, .n_moments = 2 * n};
    struct model_job job = {.batch = &batch, .client = &client};
    model_init_adapter(m, 1, adapter);
    model_load(m, &client, 0);
    model_train_step(m, &job, 1, &o, NULL);
    begin();
    model_train_step(m, &job, 1, &o, NULL);
    const struct emu_counts now = emu_counted();
    printf("step %d %llu %llu %llu %llu\n", (int)layers,
           (unsigned long long)(now.launches - before.launches),
           (unsigned long long)(now.products - before.products),
           (unsigned long long)(now.put_bytes - before.put_bytes),
           (unsigned long long)(now.get_bytes - before.get_bytes));
    model_close(m);
    mem_free(adapter);
    mem_free(moments);
}

int main(void)
{
    struct dev d;
    struct err err = {""};
    int32_t kind = 0;
    while (dev_table[kind] && strcmp(dev_table[kind]->name, "emu") != 0)
        kind++;
    emu_seed(0, EMU_FORWARD);
    if (!dev_table[kind] || dev_open(&d, kind, 1, &err))
        die(STATUS_ENV, "no emulation: %s", err.text);
    for (size_t i = 0; i < ARRAY_LEN(methods); i++)
        for (uint32_t rows = 16; rows <= 32; rows += 16)
            codec_costs(&d, methods[i], rows);
    for (int32_t layers = 1; layers <= 2; layers++)
        step_costs(&d, layers);
    dev_close(&d);
    return 0;
}
