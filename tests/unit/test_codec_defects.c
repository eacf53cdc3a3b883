// Defects of public code that concern a codec of the table, each with the project and file where it
// stands: what they get wrong, and that ours does not.
#include "codec_cases.h"

// The length of a message of n normal values.
static int64_t length_of(const char *text, uint32_t rows, uint32_t cols)
{
    struct session s;
    open_one(&s, rows, cols, text);
    float *x = mem_alloc(MEM_CODEC, s.shape.n_values * sizeof *x);
    fill(x, s.shape.n_values, DIST_NORMAL, 1);
    int64_t len = session_trip(&s, x, key_of(0));
    mem_free(x);
    close_one(&s);
    return len;
}

// grace torch/dist signsgd, onebit, terngrad, qsgd: a byte a symbol. Fed-BAT's client uploads
// float32. fedjax, flpytorch: one bit, or log2 3 of them, charged for three symbols.
static void test_symbols_are_packed(void **state)
{
    (void)state;
    enum { N = 16 * 4096 };
    assert_int_equal(length_of("signsgd", 16, 4096), 1 + N / 8);
    assert_int_equal(length_of("sign", 16, 4096), 1 + 4 + N / 8);
    assert_int_equal(length_of("onebit", 16, 4096), 1 + 16 * 8 + N / 8);
    assert_int_equal(length_of("fedbat", 16, 4096), 1 + 4 + N / 8);
    assert_int_equal(length_of("terngrad", 16, 4096), 1 + 4 + N / 4);
    assert_int_equal(length_of("terngrad:code=base3", 16, 4096), 1 + 4 + (N + 4) / 5);
    assert_int_equal(length_of("qsgd:levels=7", 16, 4096), 1 + 4 * N / 512 + N / 2);
}

// flpytorch compressors.py: ceil(log2 s) bits for codes that have 2 s + 1 values.
static void test_levels_fit_their_bits(void **state)
{
    (void)state;
    static const int levels[][2] = {{1, 2}, {2, 3}, {3, 3}, {4, 4}, {7, 4}, {8, 5}, {15, 5}};
    for (size_t k = 0; k < ARRAY_LEN(levels); k++) {
        char text[64];
        struct session s;
        snprintf(text, sizeof text, "qsgd:levels=%d,bucket=0,norm=max", levels[k][0]);
        open_one(&s, 1, 800, text);
        float x[800];
        for (int i = 0; i < 800; i++) // every level with either sign
            x[i] = (float)(i % (2 * levels[k][0] + 1) - levels[k][0]);
        assert_int_equal(session_trip(&s, x, key_of(0)), 1 + 4 + 100 * levels[k][1]);
        assert_memory_equal(s.x_hat, x, sizeof x);
        close_one(&s);
    }
}

// grace topk, dgc, threshold and DeMo: int64 indices. CommEfficient fed_aggregator.py: none are
// charged for local top-k. google-research top_k.py: the index bits once, not for each.
static void test_every_index_is_paid_for(void **state)
{
    (void)state;
    enum { N = 16 * 4096 };
    static const char *const texts[] = {"topk", "randk", "dgc"};
    for (size_t k = 0; k < ARRAY_LEN(texts); k++)
        for (int count = 1; count <= 1000; count *= 10) {
            char text[64];
            snprintf(text, sizeof text, "%s:ratio=%.9f,index=log2", texts[k], (count - 0.5) / N);
            int64_t len = length_of(text, 16, 4096), values = 2 * count, index = 1 + 2 * count;
            int64_t directory = k == 1 ? 0 : count < 128 ? 1 : 2; // randk's count is its option
            assert_int_equal(len, 1 + directory + 3 + index + values);
        }
    assert_true(length_of("demo:keep=1", 64, 4096) <= 1 + 1 + 3 + 1 + 64 * (8 + 8) / 8 + 64 * 2);
}

// felisat compression_utils.py get_bits: mu and the Golomb parameter are left out, and a bit too
// many is charged for each position. Here what is counted is what was sent.
static void test_parts_are_the_message(void **state)
{
    (void)state;
    for (const char *const *t = codec_cases; *t; t++) {
        struct session s;
        shape_odd(&s.shape);
        session_open(&s, *t);
        float *x = mem_alloc(MEM_CODEC, s.shape.n_values * sizeof *x);
        fill(x, s.shape.n_values, DIST_NORMAL, 2);
        int64_t len = session_trip(&s, x, key_of(0));
        const struct codec_parts *p = &s.report.parts;
        assert_int_equal(p->header + p->directory + p->scales + p->indices + p->tags + p->values,
                         len);
        if (strcmp(*t, "raw") != 0)
            assert_true(p->header > 0);
        mem_free(x);
        session_close(&s);
        shape_free(&s.shape);
    }
}

// grace dist/compressor/onebit.py: ~mask of a uint8 is 254 or 255, and so are the decoded values.
static void test_onebit_decodes_to_its_two_means(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 5, "onebit");
    const float x[] = {1, 3, -1, -2, -6}, want[] = {2, 2, -3, -3, -3};
    session_trip(&s, x, key_of(0));
    assert_memory_equal(s.x_hat, want, sizeof want);
    close_one(&s);
}

// FLoCoRA: scales by row cost 4 bits a value of B, whose rows have r values.
static void test_scales_of_b_go_by_column(void **state)
{
    (void)state;
    struct session s;
    shape_init(&s.shape);
    shape_add(&s.shape, "B", 4096, 16, SHAPE_LORA_B);
    shape_seal(&s.shape);
    static const char *const texts[] = {"onebit", "int:bits=4,block=0,group=rank"};
    for (int k = 0; k < 2; k++) {
        session_open(&s, texts[k]);
        float *x = mem_alloc(MEM_CODEC, s.shape.n_values * sizeof *x);
        fill(x, s.shape.n_values, DIST_NORMAL, 1);
        session_trip(&s, x, key_of(0));
        assert_int_equal(s.report.parts.scales, 16 * (k ? 4 : 8));
        mem_free(x);
        session_close(&s);
    }
    shape_free(&s.shape);
}

// grace torch/memory/efsignsgd.py: the sum of workers, not their mean: the step grows with them.
static void test_the_mean_does_not_grow_with_clients(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 4, 50, "efsign");
    float x[200], mean[200];
    fill(x, 200, DIST_NORMAL, 1);
    for (int clients = 1; clients <= 16; clients *= 4) {
        memset(mean, 0, sizeof mean);
        for (int k = 0; k < clients; k++) {
            int64_t len = session_trip(&s, x, key_of(0));
            assert_int_equal(codec_decode_add(s.c, &(struct codec_key){7, 3, 0}, s.msg, (size_t)len,
                                              1 / (float)clients, mean, s.scratch, &s.err),
                             0);
        }
        for (int i = 0; i < 200; i++)
            assert_true(fabsf(mean[i] - s.x_hat[i]) <= 1e-6f * fabsf(s.x_hat[i]));
    }
    close_one(&s);
}

// grace memory/dgc.py: "clipping" clamps each value to the norm of all, which changes nothing.
static void test_dgc_clips_the_norm(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 4, "dgc:ratio=1,clip=1,value=fp32");
    const float x[] = {3, 0, -4, 0};
    session_trip(&s, x, key_of(0));
    assert_true(fabsf(s.x_hat[0] - 0.6f) < 1e-6f && fabsf(s.x_hat[2] + 0.8f) < 1e-6f);
    close_one(&s);
}

// grace qsgd: a zero tensor is 0 / 0, cast to an integer.
static void test_zero_tensors_are_zero(void **state)
{
    (void)state;
    static const char *const texts[] = {"qsgd",      "qsgd:norm=max,code=rans",
                                        "terngrad",  "natural",
                                        "natdither", "eden",
                                        "threelc",   "onebit",
                                        "nf4",       "int"};
    float x[600] = {0};
    for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
        struct session s;
        open_one(&s, 2, 300, texts[k]);
        session_trip(&s, x, key_of(0));
        for (int i = 0; i < 600; i++)
            assert_true(s.x_hat[i] == 0);
        close_one(&s);
    }
}

// google-research three_lc.py: random rounding, no error feedback.
static void test_threelc_rounds_to_the_nearest(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 10, 30, "3lc");
    float x[300], first[300];
    fill(x, 300, DIST_NORMAL, 1);
    session_trip(&s, x, key_of(0));
    memcpy(first, s.x_hat, sizeof first);
    for (uint32_t r = 1; r < 20; r++) {
        session_trip(&s, x, key_of(r));
        assert_memory_equal(first, s.x_hat, sizeof first);
    }
    for (int i = 0; i < 300; i++) // the residual is what was not sent
        assert_true(s.state_next[i] == x[i] - s.x_hat[i]);
    close_one(&s);
}

// flpytorch compressors.py: natural dithering gives back its input.
static void test_natural_dithering_rounds(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 512, "natural:levels=4,norm=max");
    float x[512], max = 0;
    fill(x, 512, DIST_NORMAL, 1);
    for (int i = 0; i < 512; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    session_trip(&s, x, key_of(0));
    for (int i = 0; i < 512; i++) {
        float a = fabsf(s.x_hat[i]) / max;
        assert_true(a == 0 || a == 0.125f || a == 0.25f || a == 0.5f || a == 1);
    }
    close_one(&s);
}

// OpenFL stc_pipeline.py: mu is the mean over all n, zeros included, and p times too small.
static void test_stc_mean_is_of_what_is_kept(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 10, "stc:ratio=0.2");
    const float x[] = {0, 0, 3, 0, 1, 0, -5, 0, 0.5f, 0};
    session_trip(&s, x, key_of(0));
    for (int i = 0; i < 10; i++)
        assert_true(s.x_hat[i] == (i == 2 ? 4.0f : i == 6 ? -4.0f : 0.0f));
    close_one(&s);
}

// FedML compression.py: QSGD is scaled down by default, and its quantiser floors. BytePS randomk:
// not scaled by n / k. The mean over draws says what is unbiased.
static void test_means_over_draws(void **state)
{
    (void)state;
    static const char *const texts[] = {"qsgd:levels=7",
                                        "qsgd:levels=1,norm=max",
                                        "terngrad:clip=0",
                                        "natural",
                                        "natdither",
                                        "randk:ratio=0.25",
                                        "eden"};
    enum { N = 256, R = 2000 };
    float x[N];
    double sum[N];
    for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
        struct session s;
        open_one(&s, 1, N, texts[k]);
        assert_true(codec_flags(s.c) & CODEC_UNBIASED);
        for (int i = 0; i < N; i++)
            x[i] = (float)(1 + i % 16) / 16;
        memset(sum, 0, sizeof sum);
        for (uint32_t r = 0; r < R; r++) {
            session_trip(&s, x, key_of(r));
            for (int i = 0; i < N; i++)
                sum[i] += (double)s.x_hat[i] / R;
        }
        double mean = 0, want = 0;
        for (int i = 0; i < N; i++) {
            mean += sum[i];
            want += (double)x[i];
        }
        if (fabs(mean / want - 1) > 0.02)
            fail_msg("%s: the mean is %.4f times what it should be", texts[k], mean / want);
        close_one(&s);
    }
}

// BytePS randomk: drawn with replacement, so some coordinates are sent twice and fewer in all.
static void test_randk_draws_without_replacement(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 100, "randk:ratio=0.9,unbiased=off,value=fp32");
    float x[100];
    fill(x, 100, DIST_NORMAL, 1);
    for (uint32_t r = 0; r < 50; r++) {
        session_trip(&s, x, key_of(r));
        int same = 0;
        for (int i = 0; i < 100; i++)
            same += s.x_hat[i] == x[i];
        assert_int_equal(same, 90);
    }
    close_one(&s);
}

// BytePS onebit: reads past the end up to a multiple of 32. Values and messages end where a
// sanitizer watches.
static void test_nothing_is_read_past_the_end(void **state)
{
    (void)state;
    static const char *const texts[] = {"signsgd",  "sign", "onebit",  "fedbat",
                                        "terngrad", "qsgd", "natural", "threelc"};
    for (size_t k = 0; k < ARRAY_LEN(texts); k++)
        for (uint32_t n = 1; n < 70; n++) {
            struct session s;
            open_one(&s, 1, n, texts[k]);
            float *x = mem_alloc(MEM_CODEC, n * sizeof *x);
            fill(x, n, DIST_NORMAL, n);
            size_t len = (size_t)session_trip(&s, x, key_of(0));
            uint8_t *exact = mem_alloc(MEM_CODEC, len);
            memcpy(exact, s.msg, len);
            struct codec_key key = key_of(0);
            assert_int_equal(codec_decode(s.c, &key, exact, len, s.x_hat, s.scratch, &s.err), 0);
            mem_free(exact);
            mem_free(x);
            close_one(&s);
        }
}

// HiPress TernGradEncode.pse: b-bit levels between min and max. TernGrad is -s, 0 or s.
static void test_terngrad_has_three_values(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 300, "terngrad:clip=0");
    float x[300], max = 0;
    fill(x, 300, DIST_LAPLACE, 1);
    for (int i = 0; i < 300; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    session_trip(&s, x, key_of(0));
    for (int i = 0; i < 300; i++)
        assert_true(s.x_hat[i] == 0 || s.x_hat[i] == (x[i] > 0 ? max : -max));
    close_one(&s);
}

// EDEN torch: the whole vector is padded to a power of two, 1.49 times for 16 x 11008.
static void test_eden_hardly_pads(void **state)
{
    (void)state;
    static const uint32_t cols[] = {4096, 11008, 14336, 1024};
    for (size_t k = 0; k < ARRAY_LEN(cols); k++) {
        double bits = 8.0 * (double)length_of("eden:bits=1", 16, cols[k]) / (16.0 * cols[k]);
        assert_true(bits < 1.1);
    }
}

// grace torch/memory/powersgd.py: a new random Q in every round, so that it never converges; ours
// starts from its last one. (That it helps: test_powersgd_warm_start of test_codec_state.)
static void test_powersgd_remembers_q(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 20, 30, "powersgd:rank=2");
    float x[600];
    fill(x, 600, DIST_NORMAL, 1);
    session_trip(&s, x, key_of(0));
    uint8_t first[512];
    size_t len = 1 + 4 * 2 * 20; // P
    memcpy(first, s.msg, len);
    memcpy(s.state, s.state_next, codec_state_floats(s.c) * sizeof(float));
    session_trip(&s, x, key_of(0)); // the same key: only Q differs
    assert_memory_not_equal(first, s.msg, len);
    close_one(&s);
}

// DeMo demo.py: its scatter is not deterministic. Here senders are added in client order, exactly.
static void test_demo_repeats(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 32, 40, "demo:sign=off,chunk=8,keep=4");
    enum { N = 1280 };
    float x[N], delta[2][N];
    void *votes = mem_alloc(MEM_CODEC, s.c->row->agg->state_bytes(s.c, N));
    for (int twice = 0; twice < 2; twice++) {
        s.c->row->agg->begin(s.c, votes, N);
        for (uint32_t k = 0; k < 8; k++) {
            struct codec_key key = {.seed = 7, .client = k, .version = 0};
            fill(x, N, DIST_LAPLACE, k);
            int64_t len = session_encode(&s, x, key, codec_bound(s.c));
            assert_int_equal(s.c->row->agg->add(s.c, &key, s.msg, (size_t)len, 1, votes, &s.err),
                             0);
        }
        s.c->row->agg->finish(s.c, votes, NULL, 8, delta[twice], N);
    }
    assert_memory_equal(delta[0], delta[1], sizeof delta[0]);
    mem_free(votes);
    close_one(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_symbols_are_packed),
        cmocka_unit_test(test_levels_fit_their_bits),
        cmocka_unit_test(test_every_index_is_paid_for),
        cmocka_unit_test(test_parts_are_the_message),
        cmocka_unit_test(test_onebit_decodes_to_its_two_means),
        cmocka_unit_test(test_scales_of_b_go_by_column),
        cmocka_unit_test(test_the_mean_does_not_grow_with_clients),
        cmocka_unit_test(test_dgc_clips_the_norm),
        cmocka_unit_test(test_zero_tensors_are_zero),
        cmocka_unit_test(test_threelc_rounds_to_the_nearest),
        cmocka_unit_test(test_natural_dithering_rounds),
        cmocka_unit_test(test_stc_mean_is_of_what_is_kept),
        cmocka_unit_test(test_means_over_draws),
        cmocka_unit_test(test_randk_draws_without_replacement),
        cmocka_unit_test(test_nothing_is_read_past_the_end),
        cmocka_unit_test(test_terngrad_has_three_values),
        cmocka_unit_test(test_eden_hardly_pads),
        cmocka_unit_test(test_powersgd_remembers_q),
        cmocka_unit_test(test_demo_repeats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
