// Token masks against cases worked by hand (Fed-FSTQ, Li et al. 2026, equations 16 to 18).
#include "model/model.h"
#include "model/tokens.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define KEYS 16
static float memory[3 * KEYS];

// Two sequences: prompt of 2, answers of 4 and 3 tokens with their end. Row r reads tokens[r].
static const int32_t start[] = {0, 5, 9};
static const int32_t tokens[] = {1, 2, 3, 4, 5, /**/ 1, 2, 6, 7};
static const int32_t targets[] = {-1, 3, 4, 5, 9, /**/ -1, 6, 7, 9};
static const struct model_batch batch = {
    .n_seqs = 2, .start = start, .tokens = tokens, .targets = targets};
// Scores of the tokens read by each row; the prompt's must never count.
static const float raw[] = {100, 100, 1, 4, 9, /**/ 100, 100, 16, 2};

static const struct token_source *source(const char *name)
{
    for (int i = 0; token_table[i]; i++)
        if (strcmp(token_table[i]->name, name) == 0)
            return token_table[i];
    fail_msg("no source %s", name);
    return NULL;
}

static struct token_opts opts(const char *text)
{
    struct token_opts o;
    struct err err;
    opt_defaults(token_options, token_option_count, &o);
    assert_int_equal(opt_set_list(token_options, token_option_count, &o, text, &err), 0);
    return o;
}

static void expect(const struct token_tracker *t, bool refresh, const float *want)
{
    float w[9];
    memset(w, 0x55, sizeof w);
    token_weights(t, &batch, refresh, w);
    for (int i = 0; i < 9; i++)
        if (fabsf(w[i] - want[i]) > 1e-6f)
            fail_msg("row %d: weight %g, expected %g", i, (double)w[i], (double)want[i]);
}

static const float all[] = {0, 1, 1, 1, 1, 0, 1, 1, 1};

static void test_no_mask_before_the_first_refresh(void **state)
{
    (void)state;
    struct token_opts o = opts("keep=0.5,every=10");
    struct token_tracker t;
    token_reset(&t, source("fisher"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
    for (int step = 1; step < 10; step++) {
        assert_false(token_step(&t));
        expect(&t, false, all);
    }
    assert_true(token_step(&t)); // step 10: full loss, scores
    expect(&t, true, all);
    token_update(&t, &batch, raw);
    assert_false(token_step(&t)); // the mask acts from step 11
    float w[9];
    token_weights(&t, &batch, false, w);
    assert_memory_not_equal(w, all, sizeof w);
    for (int step = 12; step < 20; step++)
        assert_false(token_step(&t));
    assert_true(token_step(&t));
}

// Position j of the answer is read by row first + 1 + j: means (1 + 16)/2, (4 + 2)/2, 9 times 1 -
// rho.
static void test_positions_in_the_answer_by_hand(void **state)
{
    (void)state;
    struct token_opts o = opts("keep=0.5,every=1,rho=0.9,key=answer");
    struct token_tracker t;
    token_reset(&t, source("fisher"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
    assert_true(token_step(&t));
    token_update(&t, &batch, raw);
    assert_true(fabsf(t.score[0] - 0.85f) < 1e-6f); // 0.1 * 8.5
    assert_true(fabsf(t.score[1] - 0.3f) < 1e-6f);
    assert_true(fabsf(t.score[2] - 0.9f) < 1e-6f);
    assert_true(t.score[3] == 0);
    token_update(&t, &batch, raw);
    assert_true(fabsf(t.score[0] - (0.9f * 0.85f + 0.85f)) < 1e-6f); // equation 17
    // ceil(0.5 * 4) = 2: the end and position 2; ceil(0.5 * 3) = 2: the end and position 0.
    const float want[] = {0, 0, 0, 1, 1, 0, 1, 0, 1};
    expect(&t, false, want);
}

// Prompts of 1 and 2 tokens: the same position of the sequence is another one of the answer.
static void test_positions_in_the_sequence_by_hand(void **state)
{
    (void)state;
    static const int32_t from[] = {0, 4, 7};
    static const int32_t reads[] = {1, 3, 4, 5, /**/ 1, 2, 6};
    static const int32_t next[] = {3, 4, 5, 9, /**/ -1, 6, 9};
    static const float sq[] = {100, 1, 4, 9, /**/ 100, 100, 16};
    const struct model_batch b = {.n_seqs = 2, .start = from, .tokens = reads, .targets = next};
    const struct {
        const char *opts;
        float score[5], want[7];
    } cases[] = {
        // Position 2 holds 4 and 16; of 4 rows the end and it are kept, of 2 rows the end.
        {"keep=0.5,every=1,rho=0", {0, 1, 10, 9, 0}, {0, 1, 0, 1, 0, 0, 1}},
        {"keep=0.5,every=1,rho=0,key=answer", {8.5f, 4, 9, 0, 0}, {0, 0, 1, 1, 0, 0, 1}},
        // Row r reads position r: 100 alone, 1 and 100, 4 and 16, 9.
        {"keep=0.5,every=1,rho=0,gate=emitted", {100, 50.5f, 10, 9, 0}, {1, 1, 0, 0, 0, 1, 0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct token_opts o = opts(cases[i].opts);
        struct token_tracker t;
        float w[7];
        token_reset(&t, source("fisher"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
        token_update(&t, &b, sq);
        for (int k = 0; k < 5; k++)
            assert_true(t.score[k] == cases[i].score[k]);
        token_weights(&t, &b, false, w);
        assert_memory_equal(w, cases[i].want, sizeof w);
    }
}

static void test_vocabulary_ids_by_hand(void **state)
{
    (void)state;
    struct token_opts o = opts("keep=0.75,every=1,rho=0,key=vocab");
    struct token_tracker t;
    token_reset(&t, source("gradnorm"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
    token_update(&t, &batch, raw);
    assert_true(t.score[3] == 1 && t.score[4] == 2 && t.score[5] == 3 && t.score[6] == 4);
    assert_true(fabsf(t.score[7] - sqrtf(2)) < 1e-6f && t.score[1] == 0 && t.score[2] == 0);
    const float want[] = {0, 0, 1, 1, 1, 0, 1, 1, 1}; // 3 of 4, ceil(2.25) = 3 of 3
    expect(&t, false, want);
}

// gate=emitted: the token a row reads decides about the loss it emits; the row before the answer
// counts.
static void test_emitted_by_hand(void **state)
{
    (void)state;
    struct token_opts o = opts("keep=0.5,every=1,rho=0,gate=emitted,key=answer");
    struct token_tracker t;
    token_reset(&t, source("fisher"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
    token_update(&t, &batch, raw);
    // Rows 1..4 read 100, 1, 4, 9 and rows 6..8 read 100, 16, 2: means 100, 8.5, 3, 9.
    assert_true(t.score[0] == 100 && t.score[1] == 8.5f && t.score[2] == 3 && t.score[3] == 9);
    const float want[] = {0, 1, 0, 0, 1, 0, 1, 1, 0};
    expect(&t, false, want);
}

static void test_losses_belong_to_the_row_that_predicts(void **state)
{
    (void)state;
    static const float losses[] = {0, 5, 1, 2, 8, 0, 3, 3, 1};
    struct token_opts o = opts("keep=0.25,every=1,rho=0,key=answer");
    struct token_tracker t;
    token_reset(&t, source("loss"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
    token_update(&t, &batch, losses);
    assert_true(t.score[0] == 4 && t.score[1] == 2 && t.score[2] == 1.5f && t.score[3] == 8);
    const float want[] = {0, 0, 0, 0, 1, 0, 1, 0, 0}; // the end takes part: it has a loss
    expect(&t, false, want);
}

static void test_soft_weights_average_to_one(void **state)
{
    (void)state;
    struct token_opts o = opts("keep=0.5,every=1,rho=0,soft=on,key=answer");
    struct token_tracker t;
    token_reset(&t, source("fisher"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
    token_update(&t, &batch, raw);
    // Scores 8.5, 3, 9: times 3 / 20.5; of two, 8.5 and 3: times 2 / 11.5.
    const float want[] = {0, 25.5f / 20.5f, 9 / 20.5f, 27 / 20.5f, 1, 0, 17 / 11.5f, 6 / 11.5f, 1};
    expect(&t, false, want);
}

static void test_keep_one_and_uniform_never_mask(void **state)
{
    (void)state;
    struct token_opts o = opts("keep=1,every=1"), half = opts("keep=0.5,every=1");
    struct token_tracker t;
    token_reset(&t, source("fisher"), &o, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
    assert_false(token_step(&t));
    expect(&t, false, all);
    static const char *const whole[] = {"uniform", "oracle"};
    for (int i = 0; i < 2; i++) {
        token_reset(&t, source(whole[i]), &half, KEYS, memory, rng_stream(1, RNG_TOKENS, 1, 1, 0));
        assert_false(token_step(&t));
        expect(&t, false, all);
    }
}

static void test_random_is_drawn_from_its_stream(void **state)
{
    (void)state;
    struct token_opts o = opts("keep=0.5,every=1");
    struct token_tracker t;
    float first[9], w[9];
    int kept = 0, differs = 0;
    for (uint32_t round = 0; round < 50; round++) {
        token_reset(&t, source("random"), &o, KEYS, memory, rng_stream(7, RNG_TOKENS, round, 1, 0));
        token_update(&t, &batch, raw);
        token_weights(&t, &batch, false, w);
        if (round == 0)
            memcpy(first, w, sizeof w);
        differs += memcmp(first, w, sizeof w) != 0;
        for (int i = 0; i < 9; i++)
            kept += w[i] > 0;
    }
    assert_int_equal(kept, 50 * 4); // 2 of 4 and 2 of 3
    assert_true(differs > 20);
    token_reset(&t, source("random"), &o, KEYS, memory, rng_stream(7, RNG_TOKENS, 0, 1, 0));
    token_update(&t, &batch, raw);
    token_weights(&t, &batch, false, w);
    assert_memory_equal(first, w, sizeof w);
}

// The K best of one long answer by definition: fewer than K rows are better, or as good and
// earlier.
static void test_masks_keep_the_best(void **state)
{
    (void)state;
    enum { N = 200 };
    static float scores[3 * (N + 1)], w[N];
    static int32_t from[] = {0, N}, reads[N], next[N];
    const struct model_batch b = {.n_seqs = 1, .start = from, .tokens = reads, .targets = next};
    struct token_opts o = opts("keep=0.37,every=1,key=answer");
    struct token_tracker t;
    struct rng r = rng_stream(3, RNG_TEST, 0, 0, 0);
    for (uint32_t levels = 1; levels < 1000; levels = levels * 3 + 1) { // from all tied to few
        token_reset(&t, source("loss"), &o, N + 1, scores, r);
        for (int i = 0; i < N; i++)
            t.score[i] = (float)rng_below(&r, levels);
        t.masked = true;
        token_weights(&t, &b, false, w);
        for (int i = 0; i < N; i++) {
            int better = 0;
            for (int j = 0; j < N; j++)
                better += t.score[j] > t.score[i] || (t.score[j] == t.score[i] && j < i);
            assert_true(w[i] == (better < 74 ? 1.0f : 0.0f));
        }
    }
}

// Answers of 3 and 2 tokens and their ends, scores 1 4 9 and 16 2: the better half is {9, 4} and
// {16}; the masks keep one of the first answer's two, and the second's or not.
static void test_recall_by_hand(void **state)
{
    (void)state;
    struct token_recall r = {0};
    const float one[] = {0, 1, 0, 1, 1, 0, 0, 1, 1}, two[] = {1, 0, 1, 0, 0, 1, 1, 0, 0};
    token_recall_add(&r, &batch, raw, one, 0.5);
    assert_true(r.top == 3 && r.kept == 1);
    token_recall_add(&r, &batch, raw, two, 0.5);
    assert_true(r.top == 6 && r.kept == 3);
    r = (struct token_recall){0};
    token_recall_add(&r, &batch, raw, all, 1);
    assert_true(r.top == 5 && r.kept == 5);
    r = (struct token_recall){0};
    static const float tied[9];
    token_recall_add(&r, &batch, tied, one, 0.3); // the first of each
    assert_true(r.top == 2 && r.kept == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_mask_before_the_first_refresh),
        cmocka_unit_test(test_positions_in_the_answer_by_hand),
        cmocka_unit_test(test_positions_in_the_sequence_by_hand),
        cmocka_unit_test(test_vocabulary_ids_by_hand),
        cmocka_unit_test(test_emitted_by_hand),
        cmocka_unit_test(test_losses_belong_to_the_row_that_predicts),
        cmocka_unit_test(test_soft_weights_average_to_one),
        cmocka_unit_test(test_keep_one_and_uniform_never_mask),
        cmocka_unit_test(test_random_is_drawn_from_its_stream),
        cmocka_unit_test(test_masks_keep_the_best),
        cmocka_unit_test(test_recall_by_hand),
    };
    return cmocka_run_group_tests_name("tokens", tests, NULL, NULL);
}
