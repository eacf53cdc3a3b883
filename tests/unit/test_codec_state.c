// What codecs remember, refuse and promise beyond one message: error feedback, momentum, votes,
// factors, budgets.
#include "codec_cases.h"

static int64_t send(struct session *s, const float *x, uint32_t version, bool acknowledged)
{
    struct codec_key key = key_of(version);
    int64_t len = session_trip(s, x, key);
    if (acknowledged)
        memcpy(s->state, s->state_next, codec_state_floats(s->c) * sizeof(float));
    return len;
}

// Error feedback.

// Top-1 of 3 by hand: what is not sent waits, and a lost message changes nothing.
static void test_residual_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 3, "topk:ratio=0.3,value=fp32+ef");
    const float x[] = {3, -2, 1};
    send(&s, x, 0, true);
    assert_true(s.x_hat[0] == 3 && s.x_hat[1] == 0 && s.x_hat[2] == 0);
    assert_true(s.state[0] == 0 && s.state[1] == -2 && s.state[2] == 1);
    assert_int_equal(s.report.staleness, -1);
    send(&s, x, 1, false); // v = 3 -4 2, and it is lost
    assert_true(s.x_hat[1] == -4);
    assert_int_equal(s.report.staleness, 1);
    assert_true(s.state[0] == 0 && s.state[1] == -2 && s.state[2] == 1);
    send(&s, x, 5, true); // the same v again
    assert_true(s.x_hat[0] == 0 && s.x_hat[1] == -4 && s.x_hat[2] == 0);
    assert_true(s.state[0] == 3 && s.state[1] == 0 && s.state[2] == 2);
    assert_int_equal(s.report.staleness, 5);
    close_one(&s);

    open_one(&s, 1, 3, "topk:ratio=0.3,value=fp32+ef:decay=0.5");
    send(&s, x, 0, true);
    send(&s, x, 1, true); // v = 3 -3 1.5: the tie goes to the lower index
    assert_true(s.x_hat[0] == 3 && s.state[1] == -3 && s.state[2] == 1.5f);
    close_one(&s);

    open_one(&s, 1, 3, "topk:ratio=0.3,value=fp32+ef:reset=2");
    send(&s, x, 0, true);
    send(&s, x, 3, true); // too old: v = x
    assert_true(s.x_hat[0] == 3 && s.state[1] == -2);
    close_one(&s);
}

// Everything sent so far plus the residual is everything that there was to send.
static void test_residual_conserves(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "sign+ef", "stc:ratio=0.1+ef", "int2:block=64+ef+rans", "powersgd+ef",
        "3lc",     "cocktail+ef"};
    for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
        struct session s;
        open_one(&s, 16, 40, texts[k]);
        size_t n = s.shape.n_values;
        float x[640];
        double sent[640] = {0}, total[640] = {0};
        for (uint32_t round = 0; round < 20; round++) {
            fill(x, n, DIST_NORMAL, round);
            send(&s, x, round, true);
            for (size_t i = 0; i < n; i++) {
                sent[i] += (double)s.x_hat[i];
                total[i] += (double)x[i];
            }
        }
        for (size_t i = 0; i < n; i++)
            if (fabs(sent[i] + (double)s.state[i] - total[i]) > 1e-6)
                fail_msg("%s: %g sent, %g kept, %g in all", texts[k], sent[i], (double)s.state[i],
                         total[i]);
        close_one(&s);
    }
}

static void test_divergent_feedback_is_refused(void **state)
{
    (void)state;
    expect_error("qsgd:levels=7,bucket=512+ef", "force=on");
    expect_error("terngrad+ef", "force=on");
    expect_error("randk:ratio=0.1+ef", "force=on");
    expect_error("eden:bits=0.5+ef", "force=on");
    expect_error("uniform:round=stochastic,step=3+ef", "force=on");
    expect_error("qsgd:bucket=512+rans+ef", "force=on");
    expect_error("dgc+ef", "force=on");
    expect_error("qsgd:levels=7,bucket=512+ef21", "force=on");
    expect_error("natdither:levels=3+ef", "force=on");
    expect_error("fetchsgd+ef", "aggregation of its own");
    expect_error("topk+ef21+rans", "aggregation of its own");
    expect_error("signsgd+ef", "aggregation of its own");
    expect_error("signsgd+zstd", "aggregation of its own");
    static const char *const fine[] = {"qsgd:levels=7,norm=max+ef",
                                       "randk:unbiased=off+ef",
                                       "eden:bits=1+ef",
                                       "terngrad+ef:force=on",
                                       "natural+ef",
                                       "topk+rans+ef21",
                                       "terngrad+ef21:force=on",
                                       "qsgd:levels=15,bucket=128+ef"};
    struct session s;
    for (size_t k = 0; k < ARRAY_LEN(fine); k++) {
        open_one(&s, 64, 64, fine[k]);
        assert_true((codec_diverges(s.c) != NULL) == (strstr(fine[k], "force") != NULL));
        close_one(&s);
    }
}

// DGC.

static void test_dgc_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 3, "dgc:ratio=0.3,momentum=0.5,value=fp32");
    const float x[] = {4, 2, -1};
    send(&s, x, 0, true); // u = v = 4 2 -1, 4 is sent
    assert_true(s.x_hat[0] == 4 && s.x_hat[1] == 0);
    assert_true(s.state[0] == 0 && s.state[1] == 2 && s.state[2] == -1);
    assert_true(s.state[3] == 0 && s.state[4] == 2 && s.state[5] == -1);
    send(&s, x, 1, true); // u = 4 3 -1.5, v = 4 5 -2.5
    assert_true(s.x_hat[0] == 0 && s.x_hat[1] == 5 && s.x_hat[2] == 0);
    assert_true(s.state[0] == 4 && s.state[1] == 0 && s.state[2] == -1.5f);
    assert_true(s.state[3] == 4 && s.state[4] == 0 && s.state[5] == -2.5f);
    close_one(&s);

    open_one(&s, 1, 1000, "dgc:ratio=0.001,warmup=2,group=all");
    float y[1000];
    fill(y, 1000, DIST_NORMAL, 1);
    static const int64_t kept[] = {100, 10, 1, 1}; // 0.001^(1/3), ^(2/3), then 0.001
    for (uint32_t round = 0; round < 4; round++) {
        send(&s, y, round, false);
        assert_int_equal(s.report.kept[7], kept[round]);
    }
    close_one(&s);
}

// Majority vote.

static void test_majority_vote(void **state)
{
    (void)state;
    for (int zero = 0; zero < 2; zero++) {
        struct session s;
        open_one(&s, 1, 5, zero ? "signsgd:step=0.5,tie=zero" : "signsgd:step=0.5");
        const float votes[4][5] = {
            {1, -1, 1, -1, 0}, {1, -1, -1, 1, -3}, {1, -1, 1, -1, 5}, {-9, -1, -1, 1, -1}};
        const struct codec_agg *agg = s.c->row->agg;
        int32_t counts[5];
        float delta[5];
        assert_int_equal(agg->state_bytes(s.c, 5), sizeof counts);
        agg->begin(s.c, counts, 5);
        for (int k = 0; k < 4; k++) {
            struct codec_key key = key_of(0);
            int64_t len = session_encode(&s, votes[k], key, codec_bound(s.c));
            assert_int_equal(len, 2);
            assert_int_equal(agg->add(s.c, &key, s.msg, 2, k + 1, counts, &s.err), 0);
            int32_t before[5];
            memcpy(before, counts, sizeof counts);
            assert_int_equal(agg->add(s.c, &key, s.msg, 1, 1, counts, &s.err), -1);
            assert_memory_equal(before, counts, sizeof counts);
        }
        agg->finish(s.c, counts, NULL, 10, delta, 5);
        float tie = zero ? 0 : 0.5f; // 0 counts as plus: 2 and 2 in the last place
        const float want[] = {0.5f, -0.5f, tie, tie, tie};
        for (int i = 0; i < 5; i++)
            assert_true(delta[i] == want[i]);
        close_one(&s);
    }
}

// PowerSGD.

static void test_powersgd_is_exact_on_low_rank(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 24, 50, "powersgd:rank=2");
    float a[24], b[50], c[24], d[50], x[1200];
    fill(a, 24, DIST_NORMAL, 1);
    fill(b, 50, DIST_NORMAL, 2);
    fill(c, 24, DIST_NORMAL, 3);
    fill(d, 50, DIST_NORMAL, 4);
    for (size_t i = 0; i < 1200; i++)
        x[i] = 1e3f * (a[i / 50] * b[i % 50] + c[i / 50] * d[i % 50]);
    int64_t len = send(&s, x, 0, true);
    assert_int_equal(len, 1 + 4 * 2 * (24 + 50));
    assert_true(codec_nmse(x, s.x_hat, 1200) < 1e-9);
    close_one(&s);
}

// On a fixed matrix of full rank the warm start converges to the best approximation.
static void test_powersgd_warm_start(void **state)
{
    (void)state;
    double last[2];
    for (int warm = 0; warm < 2; warm++) {
        struct session s;
        open_one(&s, 40, 60, warm ? "powersgd:rank=4" : "powersgd:rank=4,warm=off");
        float x[2400];
        fill(x, 2400, DIST_NORMAL, 1);
        double first = 0;
        for (uint32_t round = 0; round < 30; round++) {
            send(&s, x, round, true);
            last[warm] = codec_nmse(x, s.x_hat, 2400);
            if (round == 0)
                first = last[warm];
        }
        assert_true(!warm || last[1] < 0.95 * first);
        close_one(&s);
    }
    assert_true(last[1] < 0.95 * last[0]);
}

// Alternating: the same factor for every client, so that the mean of messages is the message of the
// mean.
static void test_powersgd_alternating_is_linear(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 24, 50, "powersgd:mode=alternating,rank=3");
    float x[3][1200], sum[1200] = {0};
    fill(x[0], 1200, DIST_NORMAL, 1);
    fill(x[1], 1200, DIST_LAPLACE, 1);
    for (int i = 0; i < 1200; i++)
        x[2][i] = (x[0][i] + x[1][i]) / 2;
    for (uint32_t version = 0; version < 2; version++) {
        memset(sum, 0, sizeof sum);
        for (uint32_t client = 0; client < 2; client++) {
            struct codec_key key = {.seed = 1, .client = client, .version = version};
            int64_t len = session_encode(&s, x[client], key, codec_bound(s.c));
            assert_int_equal(len, 1 + 4 * 3 * (version ? 50 : 24));
            assert_int_equal(
                codec_decode_add(s.c, &key, s.msg, (size_t)len, 0.5f, sum, s.scratch, &s.err), 0);
        }
        struct codec_key key = {.seed = 1, .client = 9, .version = version};
        session_trip(&s, x[2], key);
        assert_true(codec_nmse(s.x_hat, sum, 1200) < 1e-9);
        double nmse = codec_nmse(x[2], s.x_hat, 1200); // a projection: never above 1
        assert_true(nmse > 0.5 && nmse < 1);
    }
    close_one(&s);
}

// Budgets.

static void test_budget_is_kept(void **state)
{
    (void)state;
    static const char *const texts[] = {"topk:ratio=0.5",
                                        "stc:ratio=0.5,group=class,scale=bf16",
                                        "sbc:ratio=0.5,group=all",
                                        "topk:ratio=0.5,index=bitmap",
                                        "randk:ratio=0.5",
                                        "randk:ratio=0.5,index=rice",
                                        "ecolora:segments=2,ratio=0.5"};
    struct session s;
    shape_init(&s.shape);
    shape_add(&s.shape, "A", 16, 1000, SHAPE_LORA_A);
    shape_add(&s.shape, "B", 800, 16, SHAPE_LORA_B);
    shape_seal(&s.shape);
    float *x = mem_alloc(MEM_CODEC, s.shape.n_values * sizeof *x);
    fill(x, s.shape.n_values, DIST_LAPLACE, 1);
    for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
        session_open(&s, texts[k]);
        int64_t full = session_encode(&s, x, key_of(0), codec_bound(s.c));
        for (int64_t budget = 300; budget < 2 * full; budget = budget * 3 / 2) {
            struct codec_input in = {.x = x, .key = key_of(0), .budget_bytes = budget};
            int64_t len =
                codec_encode(s.c, &in, s.msg, codec_bound(s.c), s.scratch, &s.report, &s.err);
            if (len >= 0 &&
                codec_decode(s.c, &in.key, s.msg, (size_t)len, s.x_hat, s.scratch, &s.err))
                fail_msg("%s: own message refused: %s", texts[k], s.err.text);
            bool fits =
                !strstr(texts[k], "bitmap") || budget > 3700; // a bitmap alone is 3600 bytes
            if (len < 0 || (len > budget && fits))
                fail_msg("%s: %lld bytes of %lld", texts[k], (long long)len, (long long)budget);
            if (fits && len < full && (double)len < 0.9 * (double)budget - 20)
                fail_msg("%s: only %lld bytes of %lld", texts[k], (long long)len,
                         (long long)budget);
        }
        session_close(&s);
    }
    mem_free(x);
    shape_free(&s.shape);
}

// EcoLoRA: over as many rounds as there are segments every part of the adapter is sent once.
static void test_ecolora_goes_round(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 10, 103, "ecolora:segments=4,ratio=1,gamma_a=0,value=fp32");
    float x[1030], sum[1030] = {0};
    fill(x, 1030, DIST_NORMAL, 1);
    for (uint32_t round = 5; round < 9; round++) {
        send(&s, x, round, true);
        for (int i = 0; i < 1030; i++)
            sum[i] += s.x_hat[i];
    }
    assert_memory_equal(sum, x, sizeof x);
    close_one(&s);
}

// EcoLoRA's shares: 1000 values of A and 2000 of B, min + (0.5 - min) exp(-gamma fall).
static void test_ecolora_sends_less_as_the_loss_comes_down(void **state)
{
    (void)state;
    static const struct {
        double fall;
        int a, b;
    } cases[] = {
        {0, 500, 1000},
        {-3, 500, 1000},                // a loss that went up
        {(double)NAN, 500, 1000},       // nobody says so, and no harm
        {0.6931471805599453, 300, 550}, // 0.1 + 0.4 / 2; 0.2 + 0.3 / 4
        {1.3862943611198906, 200, 438}, // 0.1 + 0.4 / 4; 0.2 + 0.3 / 16 of 2000 is 437.5
        {(double)INFINITY, 100, 400},
    };
    struct session s;
    shape_init(&s.shape);
    shape_add(&s.shape, "A", 10, 100, SHAPE_LORA_A);
    shape_add(&s.shape, "B", 200, 10, SHAPE_LORA_B);
    shape_seal(&s.shape);
    float x[3000];
    fill(x, 3000, DIST_NORMAL, 1);
    session_open(&s, "ecolora:ratio=0.5,min_a=0.1,min_b=0.2,gamma_a=1,gamma_b=2");
    for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
        struct codec_input in = {
            .x = x, .key = key_of(9), .budget_bytes = -1, .loss_fall = cases[k].fall};
        int64_t len = codec_encode(s.c, &in, s.msg, codec_bound(s.c), s.scratch, &s.report, &s.err);
        assert_true(len > 0);
        assert_int_equal(codec_decode(s.c, &in.key, s.msg, (size_t)len, s.x_hat, s.scratch, &s.err),
                         0);
        int a = 0, b = 0;
        for (int i = 0; i < 3000; i++)
            *(i < 1000 ? &a : &b) += s.x_hat[i] != 0;
        if (a != cases[k].a || b != cases[k].b)
            fail_msg("fall %g: %d and %d, want %d and %d", cases[k].fall, a, b, cases[k].a,
                     cases[k].b);
    }
    session_close(&s);
    shape_free(&s.shape);
    expect_error("ecolora:ratio=0.1,min_b=0.2", "min_b=0.2 is above ratio=0.1");
    expect_error("ecolora:group=all", "same min and gamma");
}

// A sparse message leaves what it does not hold untouched, and sends no zeros.
static void test_zeros_are_not_sent(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 100, "topk:ratio=0.5,value=fp32");
    float x[100] = {0};
    x[7] = 1;
    x[93] = -2;
    send(&s, x, 0, true);
    assert_int_equal(s.report.kept[8], 2);
    assert_memory_equal(x, s.x_hat, sizeof x);
    close_one(&s);
}

// Shared positions: those of one client are those of all, and the mean of messages is the message
// of the mean.
static void test_shared_positions_add_up(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 10, 30, "randk:ratio=0.1,shared=on,value=fp32,unbiased=off");
    assert_true(codec_flags(s.c) & CODEC_MASKABLE);
    float x[2][300], sum[300] = {0};
    for (uint32_t k = 0; k < 2; k++) {
        fill(x[k], 300, DIST_NORMAL, k);
        struct codec_key key = {.seed = 1, .client = k, .version = 4};
        session_trip(&s, x[k], key);
        for (int i = 0; i < 300; i++)
            sum[i] += s.x_hat[i];
    }
    int kept = 0;
    for (int i = 0; i < 300; i++) {
        kept += sum[i] != 0;
        assert_true(sum[i] == 0 || sum[i] == x[0][i] + x[1][i]);
    }
    assert_int_equal(kept, 30);
    close_one(&s);
    open_one(&s, 10, 30, "randk:ratio=0.1,value=fp32");
    assert_false(codec_flags(s.c) & CODEC_MASKABLE);
    close_one(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_residual_by_hand),
        cmocka_unit_test(test_residual_conserves),
        cmocka_unit_test(test_divergent_feedback_is_refused),
        cmocka_unit_test(test_dgc_by_hand),
        cmocka_unit_test(test_majority_vote),
        cmocka_unit_test(test_powersgd_is_exact_on_low_rank),
        cmocka_unit_test(test_powersgd_warm_start),
        cmocka_unit_test(test_powersgd_alternating_is_linear),
        cmocka_unit_test(test_budget_is_kept),
        cmocka_unit_test(test_ecolora_goes_round),
        cmocka_unit_test(test_ecolora_sends_less_as_the_loss_comes_down),
        cmocka_unit_test(test_zeros_are_not_sent),
        cmocka_unit_test(test_shared_positions_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
