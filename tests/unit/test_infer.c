// Generation with fewer tokens of the prompt: against a full forward in which the same tokens are
// masked, against prompts without them, and the same bits however sequences are batched and threads
// share what is done for one of them.
#include "base/pool.h"
#include "base/rng.h"
#include "bench/infer.h"
#include "kernels/block.h"
#include "kernels/simd.h"
#include "model/model.h"
#include "model/reduce.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { CPU, REF };
enum { VOCAB = 60, NEW = 7, SEQS = 12, LONG = 48, LAYERS = 4 };

static const struct model_config small = {.dim = 24,
                                          .hidden = 40,
                                          .layers = LAYERS,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 6,
                                          .vocab = VOCAB,
                                          .max_positions = 96,
                                          .rope_theta = 1000,
                                          .norm_eps = 1e-5};

struct bed {
    struct dev dev;
    struct model *m;
    float *adapter;
};

// Weights large enough that what a token sees matters to what comes next.
static void bed_of(struct bed *b, int32_t kind, int32_t threads, int32_t layers)
{
    struct err err = {""};
    struct model_config c = small;
    struct model_params p;
    c.layers = layers;
    opt_defaults(model_options, model_option_count, &p);
    p.lora_rank = 3;
    if (dev_open(&b->dev, kind, threads, &err))
        fail_msg("%s", err.text);
    b->m = model_create(&b->dev, &p, &c, 5, &err);
    if (!b->m)
        fail_msg("%s", err.text);
    size_t n = model_shape(b->m)->n_values;
    b->adapter = mem_alloc(MEM_ADAPTER, (n + KERNEL_SLACK) * sizeof *b->adapter);
    model_init_adapter(b->m, 6, b->adapter);
    struct rng r = rng_stream(9, RNG_TEST, 0, 0, 0);
    for (size_t i = 0; i < n; i++)
        b->adapter[i] += (float)(0.4 * rng_normal(&r));
}

static void bed_open(struct bed *b, int32_t kind, int32_t threads)
{
    bed_of(b, kind, threads, LAYERS);
}

static void bed_close(struct bed *b)
{
    model_close(b->m);
    mem_free(b->adapter);
    dev_close(&b->dev);
}

static int32_t start[SEQS + 1], tokens[SEQS * LONG];
static float score[2][VOCAB];
static struct token_scores scores = {.vocab = VOCAB, .table = {score[0], score[1]}};

// Prompts of 1, 2, 5, ... tokens; ids repeat within them.
static int make_prompts(void **state)
{
    (void)state;
    pool_share_all();
    struct rng r = rng_stream(3, RNG_TEST, 1, 0, 0);
    for (int32_t q = 0; q < SEQS; q++) {
        int32_t n = q == 0 ? 1 : q == 1 ? 2 : 5 + (int32_t)rng_below(&r, LONG - 5);
        for (int32_t i = 0; i < n; i++)
            tokens[start[q] + i] = (int32_t)rng_below(&r, VOCAB / 2);
        start[q + 1] = start[q] + n;
    }
    for (int i = 0; i < 2 * VOCAB; i++)
        score[i / VOCAB][i % VOCAB] = (float)rng_below(&r, 20); // with ties
    return 0;
}

struct answer {
    int32_t out[SEQS * NEW], len[SEQS];
    int64_t when[SEQS * NEW], cache;
};

static void generate(struct bed *b, const struct model_reduce *reduce, int32_t q0, int32_t n,
                     struct answer *a)
{
    memset(a, 0, sizeof *a);
    struct model_gen g = {.adapter = b->adapter,
                          .n_seqs = n,
                          .start = start + q0,
                          .tokens = tokens,
                          .max_new = NEW,
                          .end = -1,
                          .out = a->out,
                          .out_len = a->len,
                          .token_ns = a->when,
                          .cache_bytes = &a->cache,
                          .reduce = reduce};
    model_generate(b->m, &g);
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(a->len[i], NEW);
}

static struct model_reduce reduce_of(const struct reduction *row, double keep, int32_t layer)
{
    return (struct model_reduce){
        .row = row, .keep = keep, .layer = layer, .seed = 4, .scores = &scores};
}

#define EACH_REDUCTION(row)                                                                        \
    for (const struct reduction *const *at_ = reduction_table, *row; (row = *at_) != NULL; at_++)

static void keeping_all_changes_nothing(void **state)
{
    (void)state;
    struct bed b;
    struct answer want, got;
    bed_open(&b, CPU, 2);
    generate(&b, NULL, 0, SEQS, &want);
    EACH_REDUCTION(row)
    for (int32_t l = row->first_layer; l < LAYERS; l++) {
        struct model_reduce r = reduce_of(row, 1, l);
        generate(&b, &r, 0, SEQS, &got);
        assert_memory_equal(got.out, want.out, sizeof want.out);
        assert_int_equal(got.cache, want.cache);
    }
    bed_close(&b);
}

static void prompts_beside_each_other_do_not_matter(void **state)
{
    (void)state;
    struct bed b;
    struct answer all, one;
    int differ = 0;
    bed_open(&b, CPU, 2);
    generate(&b, NULL, 0, SEQS, &one);
    EACH_REDUCTION(row)
    for (int32_t l = row->first_layer; l < 3; l++) {
        struct model_reduce r = reduce_of(row, 0.4, l);
        generate(&b, NULL, 0, SEQS, &one);
        generate(&b, &r, 0, SEQS, &all);
        differ += memcmp(one.out, all.out, sizeof all.out) != 0;
        for (int32_t q = 0; q < SEQS; q++) {
            generate(&b, &r, q, 1, &one);
            assert_memory_equal(one.out, all.out + q * NEW, NEW * sizeof *one.out);
        }
    }
    assert_true(differ > 10); // the reductions do something
    bed_close(&b);
}

// The caches: of all rows below the layer, of those that are left from there on, and what comes.
static void caches_shrink(void **state)
{
    (void)state;
    struct bed b;
    struct answer a;
    bed_open(&b, CPU, 1);
    EACH_REDUCTION(row)
    for (int32_t l = row->first_layer; l < 3; l++) {
        struct model_reduce r = reduce_of(row, 0.6, l);
        int64_t rows = 0;
        for (int32_t q = 0; q < SEQS; q++)
            for (int32_t k = 0; k < LAYERS; k++) {
                int32_t n = start[q + 1] - start[q], left = reduce_rows(&r, n, k);
                rows += left + NEW;
                if (row->worth)
                    assert_int_equal(left, k < l ? n : (int32_t)ceil(0.6 * n - 1e-9));
            }
        generate(&b, &r, 0, SEQS, &a);
        assert_int_equal(a.cache, rows * 2 * small.kv_heads * small.head_dim * (int)sizeof(float));
    }
    bed_close(&b);
}

static void times_rise(void **state)
{
    (void)state;
    struct bed b;
    struct answer a;
    bed_open(&b, CPU, 2);
    generate(&b, NULL, 0, SEQS, &a);
    for (int32_t q = 0; q < SEQS; q++)
        for (int32_t i = 0; i < NEW; i++)
            assert_true(a.when[q * NEW + i] > (i ? a.when[q * NEW + i - 1] : 0));
    bed_close(&b);
}

// What stays, worked out in plain words.
static int32_t chosen(const struct model_reduce *r, int32_t q, const float *received, bool *stays)
{
    int32_t kept[LONG], n = start[q + 1] - start[q];
    float work[2 * LONG];
    struct reduce_prompt p = {.token = tokens + start[q], .n = n, .received = received};
    int32_t k = reduce_choose(r, &p, kept, work);
    memset(stays, 0, (size_t)n);
    for (int32_t i = 0; i < k; i++) {
        assert_true(kept[i] >= 0 && kept[i] < n && !stays[kept[i]]);
        assert_true(i == 0 || kept[i] > kept[i - 1]);
        stays[kept[i]] = true;
    }
    return k;
}

static void the_best_stay(void **state)
{
    (void)state;
    bool stays[LONG];
    float received[LONG];
    for (int i = 0; i < LONG; i++)
        received[i] = (float)(i * 7 % 10);
    received[3] = NAN;
    EACH_REDUCTION(row)
    for (int32_t q = 0; q < SEQS && row->worth; q++) {
        struct model_reduce r = reduce_of(row, 0.45, 1);
        int32_t n = start[q + 1] - start[q], k = (int32_t)ceil(0.45 * n - 1e-9), got = 0;
        assert_int_equal(chosen(&r, q, received, stays), k);
        assert_true(stays[n - 1]);
        bool scored = row->needs & REDUCE_SCORES, early = strcmp(row->name, "first") == 0,
             late = strcmp(row->name, "last") == 0, attended = row->needs & REDUCE_RECEIVED;
        for (int32_t i = 0; i < n; i++) {
            int32_t better = 1; // the last token
            for (int32_t j = 0; j < n - 1; j++) {
                const float *by = score[row->scores];
                float x = scored ? by[tokens[start[q] + i]] : i == 3 ? -1 : received[i];
                float y = scored ? by[tokens[start[q] + j]] : j == 3 ? -1 : received[j];
                better += scored || attended ? y > x || (y == x && j < i) : early ? j < i : j > i;
            }
            got += stays[i];
            if ((scored || attended || early || late) && i < n - 1)
                assert_int_equal(stays[i], better < k);
        }
        assert_int_equal(got, k);
    }
}

static void chance_follows_seed_and_prompt(void **state)
{
    (void)state;
    bool a[LONG], b[LONG];
    const int32_t q = SEQS - 1, n = start[q + 1] - start[q];
    struct model_reduce r = reduce_of(reduction_find("random"), 0.5, 1);
    chosen(&r, q, NULL, a);
    chosen(&r, q, NULL, b);
    assert_memory_equal(a, b, (size_t)n);
    r.seed++;
    chosen(&r, q, NULL, b);
    assert_memory_not_equal(a, b, (size_t)n);
}

// Without positions to keep, leaving tokens out before the first layer is another prompt.
static void left_out_before_all_layers(void **state)
{
    (void)state;
    struct bed b;
    struct answer want, got;
    bed_open(&b, CPU, 1);
    EACH_REDUCTION(row)
    for (int32_t q = 2; q < SEQS && row->worth && row->first_layer == 0; q++) {
        struct model_reduce r = reduce_of(row, 0.5, 0);
        bool stays[LONG];
        int32_t shorter[LONG], span[2] = {0, 0};
        chosen(&r, q, NULL, stays);
        for (int32_t i = 0; i < start[q + 1] - start[q]; i++)
            if (stays[i])
                shorter[span[1]++] = tokens[start[q] + i];
        r.compact = true;
        generate(&b, &r, q, 1, &got);
        memset(&want, 0, sizeof want);
        struct model_gen g = {.adapter = b.adapter,
                              .n_seqs = 1,
                              .start = span,
                              .tokens = shorter,
                              .max_new = NEW,
                              .end = -1,
                              .out = want.out,
                              .out_len = want.len};
        model_generate(b.m, &g);
        assert_memory_equal(got.out, want.out, NEW * sizeof *got.out);
    }
    bed_close(&b);
}

// A full forward in two parts, without a cache: all tokens below the layer, and above it those that
// stay, as they stand there.
static int32_t masked_next(struct bed *b, const int32_t *text, int32_t n, const bool *stays,
                           int32_t prompt, int32_t layer, bool compact)
{
    static int32_t target[LONG + NEW], pos[LONG + NEW], size[LONG + NEW], best[LONG + NEW], len[1];
    static float x[(LONG + NEW) * 24];
    int32_t span[2] = {0, n}, at = 0;
    for (int32_t i = 0; i < n; i++)
        target[i] = i == n - 1 ? 0 : -1;
    struct model_cut cut = {.layer = layer, .len = len, .pos = pos, .size = size, .x = x};
    struct model_batch all = {.n_seqs = 1, .start = span, .tokens = text, .targets = target};
    struct model_job below = {.batch = &all, .adapter = b->adapter, .cut = &cut};
    model_evaluate(b->m, &below, 1);
    assert_int_equal(len[0], n);
    for (int32_t i = 0; i < n; i++) {
        if (i < prompt && !stays[i])
            continue;
        target[at] = i == n - 1 ? 0 : -1;
        pos[at] = compact ? at : i;
        memmove(x + at++ * small.dim, x + i * small.dim, (size_t)small.dim * sizeof *x);
    }
    span[1] = at;
    struct model_batch rest = {.n_seqs = 1, .start = span, .targets = target, .from = &cut};
    struct model_job above = {.batch = &rest, .adapter = b->adapter, .best = best};
    model_evaluate(b->m, &above, 1);
    return best[at - 1];
}

static void left_out_is_masked(void **state)
{
    (void)state;
    struct bed b;
    struct answer a;
    bed_open(&b, CPU, 1);
    EACH_REDUCTION(row)
    for (int32_t l = 1; l < LAYERS && row->worth && !(row->needs & REDUCE_RECEIVED); l++)
        for (int compact = 0; compact < 2; compact++) {
            struct model_reduce r = reduce_of(row, 0.4, l);
            r.compact = compact;
            generate(&b, &r, 0, SEQS, &a);
            for (int32_t q = 0; q < SEQS; q++) {
                int32_t text[LONG + NEW], n = start[q + 1] - start[q];
                bool stays[LONG];
                chosen(&r, q, NULL, stays);
                memcpy(text, tokens + start[q], (size_t)n * sizeof *text);
                for (int32_t i = 0; i < NEW; i++) {
                    int32_t next = masked_next(&b, text, n + i, stays, n, l, compact);
                    assert_int_equal(a.out[q * NEW + i], next);
                    text[n + i] = next;
                }
            }
        }
    bed_close(&b);
}

// The attention that decides is that of the layers below, of the prompt alone.
static void attention_below_decides(void **state)
{
    (void)state;
    struct bed b;
    struct answer a;
    bed_open(&b, CPU, 1);
    struct model_reduce r = reduce_of(reduction_find("attention"), 0.4, LAYERS - 1);
    generate(&b, &r, 0, SEQS, &a);
    for (int32_t q = 0; q < SEQS; q++) {
        static int32_t target[LONG], pos[LONG], size[LONG], len[1];
        static float x[LONG * 24], received[LONG];
        int32_t n = start[q + 1] - start[q];
        const int32_t span[2] = {0, n};
        bool stays[LONG];
        for (int32_t i = 0; i < n; i++)
            target[i] = i == n - 1 ? 0 : -1;
        struct model_cut cut = {.layer = r.layer, .len = len, .pos = pos, .size = size, .x = x};
        struct model_batch all = {
            .n_seqs = 1, .start = span, .tokens = tokens + start[q], .targets = target};
        struct model_job below = {
            .batch = &all, .adapter = b.adapter, .cut = &cut, .received = received};
        model_evaluate(b.m, &below, 1);
        chosen(&r, q, received, stays);
        int32_t next = masked_next(&b, tokens + start[q], n, stays, n, r.layer, false);
        assert_int_equal(a.out[q * NEW], next);
    }
    bed_close(&b);
}

// The likeliest token after a text whose first n tokens merge as in training: a full forward, with
// rows that count as often as they have tokens, and no cache.
static int32_t merged_next(struct bed *b, const int32_t *text, int32_t n, int32_t whole,
                           const struct model_merge *merge)
{
    int32_t target[LONG + NEW], best = 0;
    float weight[LONG + NEW] = {0};
    double least = INFINITY;
    const int32_t span[2] = {0, whole};
    for (int32_t k = 0; k < whole; k++)
        target[k] = k >= n - 1 ? 0 : -1; // such rows do not merge
    weight[whole - 1] = 1;
    for (int32_t t = 0; t < VOCAB; t++) {
        target[whole - 1] = t;
        struct model_batch all = {.n_seqs = 1,
                                  .start = span,
                                  .tokens = text,
                                  .targets = target,
                                  .weights = weight,
                                  .sum = true};
        struct model_job job = {.batch = &all, .adapter = b->adapter, .merge = merge};
        model_evaluate(b->m, &job, 1);
        best = job.loss < least ? t : best;
        least = fmin(job.loss, least);
    }
    return best;
}

// Where only the first of two layers merges, merging is that of training.
static void merged_rows_are_those_of_training(void **state)
{
    (void)state;
    struct bed b;
    struct answer a;
    int merged = 0;
    bed_of(&b, CPU, 1, 2);
    struct model_reduce r = reduce_of(reduction_find("merge"), 0.7, 1);
    generate(&b, &r, 0, SEQS, &a);
    for (int32_t q = 0; q < SEQS; q++) {
        int32_t text[LONG + NEW], n = start[q + 1] - start[q], go = n - reduce_rows(&r, n, 1);
        struct model_merge merge = {
            .ratio = n > 1 ? (go + 0.5) / (n - 1) : 0, .window = 8, .protect = true};
        memcpy(text, tokens + start[q], (size_t)n * sizeof *text);
        memcpy(text + n, a.out + q * NEW, NEW * sizeof *text);
        merged += go;
        for (int32_t i = 0; i < NEW; i += NEW - 1)
            assert_int_equal(text[n + i], merged_next(&b, text, n, n + i, &merge));
    }
    assert_true(merged > 40);
    bed_close(&b);
}

static void halves_merge_until_few_are_left(void **state)
{
    (void)state;
    struct model_reduce r = reduce_of(reduction_find("merge"), 0.25, 2);
    // 40 tokens, of which every second from the third on may go: 18, then 9, then what is wanted.
    const int32_t want[] = {40, 40, 22, 13, 10, 10};
    for (int32_t l = 0; l < 6; l++)
        assert_int_equal(reduce_rows(&r, 40, l), want[l]);
    for (int32_t n = 1; n < 5; n++)
        assert_int_equal(reduce_rows(&r, n, 5), n);
}

static void refuses(const struct bed *b, const struct model_reduce *r, const char *word)
{
    struct err err = {""};
    assert_int_equal(model_reduce_check(b->m, r, 40, &err), -1);
    if (!strstr(err.text, word))
        fail_msg("'%s' is not in '%s'", word, err.text);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    struct bed b;
    struct err err;
    bed_open(&b, CPU, 1);
    EACH_REDUCTION(row)
    {
        struct model_reduce r = reduce_of(row, 0.5, row->first_layer);
        assert_int_equal(model_reduce_check(b.m, &r, 40, &err), 0);
        r.layer = LAYERS;
        if (row != reduction_table[0])
            refuses(&b, &r, "the model's last layer is 3");
        r.layer = 0;
        if (row->first_layer)
            refuses(&b, &r, "can leave before layer 1 at the earliest");
        r.scores = NULL;
        if (row->needs & REDUCE_SCORES)
            refuses(&b, &r, "no scores");
    }
    struct model_reduce r = reduce_of(reduction_find("merge"), 0.5, 1);
    r.compact = true;
    refuses(&b, &r, "keep their positions");
    r = reduce_of(reduction_find("merge"), 0.1, 3);
    refuses(&b, &r, "at most half of the tokens merge in a layer");
    bed_close(&b);
}

// A merged adapter is part of the weights: the loss is the same up to rounding.
static void folded_adapters_say_the_same(void **state)
{
    (void)state;
    struct bed b;
    struct err err;
    int32_t target[SEQS * LONG];
    float apart[SEQS * LONG], folded[SEQS * LONG];
    bed_open(&b, CPU, 1);
    for (int32_t i = 0; i < start[SEQS]; i++)
        target[i] = tokens[(i + 5) % start[SEQS]];
    struct model_batch batch = {
        .n_seqs = SEQS, .start = start, .tokens = tokens, .targets = target};
    struct model_job job = {.batch = &batch, .adapter = b.adapter, .token_loss = apart};
    model_evaluate(b.m, &job, 1);
    assert_int_equal(model_fold(b.m, b.adapter, &err), 0);
    job.adapter = NULL;
    job.token_loss = folded;
    model_evaluate(b.m, &job, 1);
    for (int32_t i = 0; i < start[SEQS]; i++)
        if (!(fabsf(apart[i] - folded[i]) <= 1e-5f * (1 + fabsf(apart[i]))))
            fail_msg("token %d: %g apart, %g merged", i, (double)apart[i], (double)folded[i]);
    bed_close(&b);
}

// Of two clients: the averages by hand.
static void scores_are_learned_by_id(void **state)
{
    (void)state;
    const int32_t span[] = {0, 2, 4};
    const int32_t first[] = {3, 1, 3, 5}, second[] = {3, 3, 3, 3};
    const float g[] = {1, 2, 0, 3, 2, 1, 0, 0, 9, 9}; // squares 5, 9, 5, 0, 162
    struct token_scores a, b, all, back;
    struct err err;
    token_scores_open(&a, 8);
    token_scores_open(&b, 8);
    token_scores_open(&all, 8);
    struct model_batch batch = {.n_seqs = 2, .start = span, .tokens = first};
    token_scores_add(&a, &batch, g, 2, 0.9);
    assert_true(a.table[SCORES_FISHER][3] == 5 && a.table[SCORES_FISHER][1] == 9);
    assert_true(a.table[SCORES_GRADNORM][1] == 3 && a.table[SCORES_FISHER][5] == 0);
    batch.tokens = second;
    token_scores_add(&a, &batch, g, 2, 0.9); // the mean of 5, 9, 5 and 0
    assert_true(fabs((double)a.table[SCORES_FISHER][3] - (0.9 * 5 + 0.1 * 4.75)) < 1e-6);
    assert_true(a.table[SCORES_FISHER][1] == 9 && a.seen[3] == 2 && a.seen[1] == 1);
    batch.n_seqs = 1;
    token_scores_add(&b, &batch, g + 8, 1, 0.9); // 81 and 81
    token_scores_join(&all, &a);
    token_scores_join(&all, &b);
    assert_int_equal(token_scores_finish(&all), 3);
    const float want = (float)((2 * 4.975 + 81) / 3);
    assert_true(fabsf(all.table[SCORES_FISHER][3] - want) < 1e-5f);
    assert_true(fabsf(all.table[SCORES_FISHER][7] - (want + 9) / 3) < 1e-5f); // nobody saw it
    char path[] = "/tmp/fstq-scores-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(token_scores_write(&all, path, &err), 0);
    assert_int_equal(token_scores_read(&back, 8, path, &err), 0);
    for (int k = 0; k < SCORES; k++)
        assert_memory_equal(back.table[k], all.table[k], 8 * sizeof(float));
    token_scores_close(&back);
    assert_int_equal(token_scores_read(&back, 9, path, &err), -1);
    assert_non_null(strstr(err.text, "is not 9 values"));
    all.table[SCORES_GRADNORM][2] = -1;
    assert_int_equal(token_scores_write(&all, path, &err), 0);
    assert_int_equal(token_scores_read(&back, 8, path, &err), -1);
    assert_non_null(strstr(err.text, "gradnorm: value 2 is negative"));
    remove(path);
    token_scores_close(&a);
    token_scores_close(&b);
    token_scores_close(&all);
}

// Few rows take another way through a weight of blocks than many do, with an adapter and without,
// on one thread and on three: the same bits for every row.
static void few_rows_are_the_bits_of_many(void **state)
{
    (void)state;
    enum { COLS = 320, ROWS = 160, MANY = 17, RANK = 3, LD = 336 };
    static float x[MANY * LD], y0[MANY * LD], many[MANY * LD], few[MANY * LD], u[MANY * 16];
    static float w[ROWS * COLS], adapter[2 * RANK * COLS + ROWS * RANK];
    static uint8_t q4[64 * COLS / 32 * 20], q8[32 * COLS / 32 * 34], nf4[64 * COLS / 64 * 34];
    struct rng r = rng_stream(5, RNG_TEST, 0, 0, 0);
    struct dev d[2];
    struct err err;
    float *const random[] = {x, y0, w, adapter};
    const size_t n[] = {ARRAY_LEN(x), ARRAY_LEN(y0), ARRAY_LEN(w), ARRAY_LEN(adapter)};
    for (size_t k = 0; k < ARRAY_LEN(n); k++)
        for (size_t i = 0; i < n[k]; i++)
            random[k][i] = (float)rng_normal(&r);
    block_encode(block_find(BLOCK_Q4_1), w, 64 * COLS / 32, q4);
    block_encode(block_find(BLOCK_Q8_0), w + 64 * COLS, 32 * COLS / 32, q8);
    block_encode(block_find(BLOCK_NF4), w + 96 * COLS, 64 * COLS / 64, nf4);
    const struct block_rows parts[] = {{block_find(BLOCK_Q4_1), q4, 64, COLS},
                                       {block_find(BLOCK_Q8_0), q8, 32, COLS},
                                       {block_find(BLOCK_NF4), nf4, 64, COLS}};
    struct kernel_linear l = {.w = {.blocks = parts, .rows = ROWS, .cols = COLS, .ld = COLS},
                              .lora = {{.rows = 32, .rank = RANK, .b = 2 * RANK * COLS},
                                       {.row0 = 48, .rows = 100, .rank = RANK}},
                              .n_lora = 2,
                              .ranks = 2 * RANK,
                              .scale = 0.5f};
    l.lora[1].b = l.lora[0].b + 32 * RANK;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dev_open(&d[i], CPU, i ? 1 : 3, &err), 0);
        dev_reserve(&d[i], kernel_work_floats(MANY, MANY, COLS, 2 * RANK, 8), 1);
    }
    for (int isa = 0; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        for (int adapted = 0; adapted < 2; adapted++) {
            const float *a = adapted ? adapter : NULL;
#define LINEAR(m, y)                                                                               \
    d[(m) % 2].ops->linear_fwd(&d[(m) % 2].lane[0].cx, &l, a, (kernel_act *)(void *)x, LD, m,      \
                               (kernel_act *)(void *)y0, (kernel_act *)(void *)(y), LD,            \
                               (kernel_act *)(void *)u, 16)
            LINEAR(MANY, many);
            for (int32_t m = 1; m < MANY; m++) {
                LINEAR(m, few);
                for (int32_t i = 0; i < m; i++)
                    assert_memory_equal(few + i * LD, many + i * LD, ROWS * sizeof *few);
            }
        }
    }
    simd_limit(SIMD_AVX512);
    dev_close(&d[0]);
    dev_close(&d[1]);
}

// And through one of numbers.
static void few_rows_of_numbers_are_the_bits_of_many(void **state)
{
    (void)state;
    enum { COLS = 96, ROWS = 160, MANY = 9, RANK = 3, LD = 160, DTYPES = KERNEL_DTYPES };
    static float x[MANY * LD], y0[MANY * LD], many[MANY * LD], few[MANY * LD], u[MANY * 16];
    static float w[ROWS * COLS], adapter[RANK * COLS + ROWS * RANK];
    static float stored[ROWS * COLS];
    struct rng r = rng_stream(7, RNG_TEST, 0, 0, 0);
    struct dev d[2];
    struct err err;
    float *const random[] = {x, y0, w, adapter};
    const size_t n[] = {ARRAY_LEN(x), ARRAY_LEN(y0), ARRAY_LEN(w), ARRAY_LEN(adapter)};
    for (size_t k = 0; k < ARRAY_LEN(n); k++)
        for (size_t i = 0; i < n[k]; i++)
            random[k][i] = (float)rng_normal(&r);
    w[3] = 1e-6f; // subnormal as fp16
    struct kernel_linear l = {.w = {.w = stored, .rows = ROWS, .cols = COLS, .ld = COLS},
                              .lora = {{.rows = ROWS, .rank = RANK, .b = RANK * COLS}},
                              .n_lora = 1,
                              .ranks = RANK,
                              .scale = 0.5f};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(dev_open(&d[i], CPU, i ? 1 : 3, &err), 0);
        dev_reserve(&d[i], kernel_work_floats(MANY, MANY, ROWS, RANK, 8), 1);
    }
    for (int at = 0; at < DTYPES * SIMD_ISA_COUNT; at++) {
        simd_limit((enum simd_isa)(at / DTYPES));
        l.w.dtype = at % DTYPES;
        kernel_from_f32(l.w.dtype, w, ARRAY_LEN(w), stored);
        for (int adapted = 0; adapted < 2; adapted++) {
            const float *a = adapted ? adapter : NULL;
            LINEAR(MANY, many);
            for (int32_t m = 1; m < MANY; m++) {
                LINEAR(m, few);
                for (int32_t i = 0; i < m; i++)
                    assert_memory_equal(few + i * LD, many + i * LD, ROWS * sizeof *few);
            }
        }
    }
    simd_limit(SIMD_AVX512);
    dev_close(&d[0]);
    dev_close(&d[1]);
}

// Other devices: the same tokens stay, the same are generated.
static void devices_agree(void **state)
{
    (void)state;
    enum { FROM = 2, N = 3 }; // some are slow
    struct bed cpu, other;
    struct answer a, b;
    struct err err;
    bed_open(&cpu, CPU, 1);
    for (int32_t kind = REF; dev_table[kind]; kind++) {
        if (dev_usable(kind, &err))
            continue;
        bed_open(&other, kind, 2);
        const char *const names[] = {"attention", "merge", "last"};
        for (size_t i = 0; i < ARRAY_LEN(names); i++) {
            struct model_reduce r = reduce_of(reduction_find(names[i]), 0.5, 1);
            generate(&cpu, &r, FROM, N, &a);
            generate(&other, &r, FROM, N, &b);
            if (memcmp(a.out, b.out, sizeof a.out) != 0)
                fail_msg("%s on %s", names[i], dev_table[kind]->name);
        }
        bed_close(&other);
    }
    bed_close(&cpu);
}

static struct example example[2];
static struct examples questions = {2, example};

static const struct examples *ask(struct task *t)
{
    (void)t;
    return &questions;
}

// A prompt that says nothing, one that leaves no room for its answer, and no prompt at all.
static void prompts_that_cannot_be_are_named(void **state)
{
    (void)state;
    static const struct task_row row = {.test = ask};
    static const int32_t id[96];
    const struct infer_setting set = {.batch = 2, .answer = NEW};
    const struct task task = {.row = &row};
    const struct {
        int32_t n, prompt;
        const char *says;
    } bad[] = {{2, 0, "prompt of test example 2 is empty"},
               {2, 96 - NEW + 1,
                "longest prompt = 90 and task.max_answer = 7: together more than the 96 tokens"},
               {0, 0, "test set is empty"},
               {2, 96 - NEW, NULL}};
    struct infer_prompts p;
    struct err err;
    example[0] = example[1] = (struct example){.tokens = id, .n = 4, .answer = 3};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        questions.n = bad[i].n;
        example[1].answer = bad[i].prompt;
        int rc = infer_prompts_open(&p, &set, &task, &small, 1, &err);
        assert_int_equal(rc, bad[i].says ? -1 : 0);
        if (bad[i].says && !strstr(err.text, bad[i].says))
            fail_msg("'%s' says '%s'", bad[i].says, err.text);
        infer_prompts_close(&p);
    }
}

static bool (*replay)(struct dev *d, int32_t lane, uint64_t key);
static int replayed;

static bool counted(struct dev *d, int32_t lane, uint64_t key)
{
    bool known = replay(d, lane, key);
    replayed += known;
    return known;
}

// Where a device records, a step is recorded once and replayed from then on, with the tokens that
// steps launched anew have; not those of other caches, or of fewer sequences.
static void steps_are_replayed(void **state)
{
    (void)state;
    enum { FROM = 2, N = 3 };
    struct bed cpu, other;
    struct answer a, b;
    struct err err;
    bed_open(&cpu, CPU, 1);
    for (int32_t kind = REF; dev_table[kind]; kind++) {
        if (dev_usable(kind, &err))
            continue;
        bed_open(&other, kind, 1);
        struct dev_row row = *other.dev.row;
        replay = row.replay;
        row.replay = counted;
        other.dev.row = &row;
        const struct model_reduce fewer = reduce_of(reduction_find("last"), 0.5, 1);
        const struct model_reduce *const reduce[] = {NULL, &fewer, NULL};
        for (size_t i = 0; i < ARRAY_LEN(reduce); i++)
            for (int32_t n = N; n > 0; n--) {
                generate(&cpu, reduce[i], FROM, n, &a);
                replayed = 0;
                generate(&other, reduce[i], FROM, n, &b);
                assert_memory_equal(a.out, b.out, sizeof a.out);
                if (!row.host && replayed < NEW - 3)
                    fail_msg("%s: %d of %d steps replayed", row.name, replayed, NEW - 1);
            }
        bed_close(&other);
    }
    bed_close(&cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeping_all_changes_nothing),
        cmocka_unit_test(prompts_beside_each_other_do_not_matter),
        cmocka_unit_test(caches_shrink),
        cmocka_unit_test(times_rise),
        cmocka_unit_test(the_best_stay),
        cmocka_unit_test(chance_follows_seed_and_prompt),
        cmocka_unit_test(left_out_before_all_layers),
        cmocka_unit_test(left_out_is_masked),
        cmocka_unit_test(attention_below_decides),
        cmocka_unit_test(merged_rows_are_those_of_training),
        cmocka_unit_test(halves_merge_until_few_are_left),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(folded_adapters_say_the_same),
        cmocka_unit_test(scores_are_learned_by_id),
        cmocka_unit_test(few_rows_are_the_bits_of_many),
        cmocka_unit_test(few_rows_of_numbers_are_the_bits_of_many),
        cmocka_unit_test(devices_agree),
        cmocka_unit_test(steps_are_replayed),
        cmocka_unit_test(prompts_that_cannot_be_are_named),
    };
    return cmocka_run_group_tests(tests, make_prompts, NULL);
}
