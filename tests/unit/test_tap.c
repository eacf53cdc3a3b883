// What is read of layers on the way forward is what a cut sends there, its logits are those of the
// loss, and a client that runs forward alone keeps no layer but the one at work.
#include "base/rng.h"
#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CPU, REF, CUDA, FENCE }; // rows of dev_table
enum { DIM = 24, VOCAB = 50, LAYERS = 3, SEQS = 60, ROWS_MAX = SEQS * 20 };

static const struct model_config small = {.dim = DIM,
                                          .hidden = 40,
                                          .layers = LAYERS,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 6,
                                          .vocab = VOCAB,
                                          .max_positions = 64,
                                          .rope_theta = 1000,
                                          .norm_eps = 1e-5};

static int32_t start[SEQS + 1], tokens[ROWS_MAX], targets[ROWS_MAX];
static int32_t scored; // rows with a target

// Prompts and short answers; or answers alone, where the last layer goes on with all rows.
static struct model_batch text(bool answers_alone)
{
    struct rng r = rng_stream(11, RNG_TEST, 0, 0, 0);
    int32_t n = 0;
    scored = 0;
    for (int32_t s = 0; s < SEQS; s++) {
        int32_t len = 6 + (int32_t)rng_below(&r, 14);
        for (int32_t i = 0; i < len; i++, n++) {
            tokens[n] = (int32_t)rng_below(&r, VOCAB);
            targets[n] = i >= (answers_alone ? 1 : len - 2) ? (int32_t)rng_below(&r, VOCAB) : -1;
            scored += targets[n] >= 0;
        }
        start[s + 1] = n;
    }
    return (struct model_batch){
        .n_seqs = SEQS, .start = start, .tokens = tokens, .targets = targets};
}

static struct model *open_layers(struct dev *d, int32_t kind, int32_t threads, int32_t n_layers)
{
    struct model_params p;
    struct model_config c = small;
    c.layers = n_layers;
    struct err err = {""};
    opt_defaults(model_options, model_option_count, &p);
    p.lora_rank = 2;
    assert_int_equal(dev_open(d, kind, threads, &err), 0);
    struct model *m = model_create(d, &p, &c, 5, &err);
    if (!m)
        fail_msg("%s", err.text);
    return m;
}

static struct model *open_model(struct dev *d, int32_t kind, int32_t threads)
{
    return open_layers(d, kind, threads, LAYERS);
}

static float *floats(size_t n)
{
    return mem_alloc(MEM_DATA, n * sizeof(float));
}

// Layers 0 and 2 of 3 of rows with a target, or of all, with logits.
static const int32_t layers[] = {0, 2};
static float *tap(struct model *m, const struct model_batch *b, bool all, float *logits)
{
    int32_t rows = all ? b->start[SEQS] : scored;
    struct model_tap t = {.n = 2,
                          .layer = layers,
                          .all = all,
                          .rows = rows,
                          .x = floats((size_t)(2 * rows * DIM)),
                          .logits = logits};
    struct model_job job = {.batch = b, .tap = &t};
    model_evaluate(m, &job, 1);
    return t.x;
}

static void test_as_cut(void **state)
{
    static int32_t len[SEQS], pos[ROWS_MAX], size[ROWS_MAX];
    struct model_batch b = text(false);
    struct dev d;
    (void)state;
    for (int32_t kind = CPU; kind <= REF; kind++) {
        struct model *m = open_model(&d, kind, 2);
        size_t rows = (size_t)start[SEQS];
        struct model_cut cut = {.layer = 1, .len = len, .pos = pos, .size = size};
        cut.x = floats(rows * DIM);
        struct model_job job = {.batch = &b, .cut = &cut};
        model_evaluate(m, &job, 1);
        float *all = tap(m, &b, true, NULL), *few = tap(m, &b, false, NULL);
        assert_memory_equal(all, cut.x, rows * DIM * sizeof *all);
        for (size_t i = 0, at = 0; i < rows; i++) {
            if (targets[i] < 0)
                continue;
            for (size_t k = 0; k < 2; k++)
                assert_memory_equal(few + (k * (size_t)scored + at) * DIM,
                                    all + (k * rows + i) * DIM, DIM * sizeof *all);
            at++;
        }
        mem_free(all);
        mem_free(few);
        mem_free(cut.x);
        model_close(m);
        dev_close(&d);
    }
}

static void test_logits(void **state)
{
    static float loss[ROWS_MAX];
    static int32_t best[ROWS_MAX];
    struct dev d;
    (void)state;
    for (int way = 0; way < 2; way++) {
        struct model_batch b = text(way);
        struct model *m = open_model(&d, CPU, 1);
        float *logits = floats((size_t)scored * VOCAB);
        float *x = tap(m, &b, false, logits);
        struct model_job job = {.batch = &b, .token_loss = loss, .best = best};
        model_evaluate(m, &job, 1);
        for (int32_t i = 0, at = 0; i < start[SEQS]; i++) {
            if (targets[i] < 0)
                continue;
            const float *y = logits + VOCAB * at++;
            double sum = 0;
            int32_t most = 0;
            for (int32_t k = 0; k < VOCAB; k++) {
                sum += exp((double)y[k]);
                most = y[k] > y[most] ? k : most;
            }
            assert_int_equal(most, best[i]);
            assert_true(fabs(log(sum) - (double)y[targets[i]] - (double)loss[i]) < 1e-4);
        }
        mem_free(x);
        mem_free(logits);
        model_close(m);
        dev_close(&d);
    }
}

static void test_any_lanes(void **state)
{
    struct model_batch b = text(false);
    float *was = NULL;
    size_t bytes = (size_t)(2 * scored * DIM) * sizeof *was;
    static const int32_t kind[] = {CPU, CPU, FENCE};
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct dev d;
        struct model *m = open_model(&d, kind[i], 1 + 2 * (i == 1));
        float *logits = floats((size_t)scored * VOCAB);
        float *x = tap(m, &b, false, logits);
        if (was)
            assert_memory_equal(x, was, bytes);
        mem_free(was);
        mem_free(logits);
        was = x;
        model_close(m);
        dev_close(&d);
    }
    mem_free(was);
}

// Bytes of activations in a forward pass with taps, of a model of so many layers.
static size_t booked(int32_t n_layers)
{
    struct model_batch b = text(false);
    struct dev d;
    size_t before = mem_now(MEM_ACTIVATIONS);
    struct model *m = open_layers(&d, CPU, 1, n_layers);
    mem_free(tap(m, &b, false, NULL));
    size_t bytes = mem_now(MEM_ACTIVATIONS) - before;
    model_close(m);
    dev_close(&d);
    return bytes;
}

static void test_memory(void **state)
{
    (void)state;
    size_t few = booked(3);
    assert_true(few > 0);
    assert_int_equal(booked(9), few);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_cut),
        cmocka_unit_test(test_logits),
        cmocka_unit_test(test_any_lanes),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
