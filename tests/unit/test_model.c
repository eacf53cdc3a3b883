// The model against itself: gradients against differences of the loss, the fast kernels against the
// reference device, and the same bits however work is divided.
#include "base/rng.h"
#include "model/model.h"
#include "tests/emu/emu_run.h"

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

enum { CPU, REF, CUDA, FENCE, EMU }; // rows of dev_table

static const struct model_config small = {.dim = 24,
                                          .hidden = 40,
                                          .layers = 2,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .head_dim = 6,
                                          .vocab = 50,
                                          .max_positions = 64,
                                          .rope_theta = 1000,
                                          .norm_eps = 1e-5};
static const struct optim_params adamw = {
    .kind = OPTIM_ADAMW, .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .clip = 1};

static struct model_params params_of(const char *targets, int32_t rank)
{
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    snprintf(p.lora_targets, sizeof p.lora_targets, "%s", targets);
    p.lora_rank = rank;
    p.lora_alpha = 8;
    return p;
}

// A model on its own device, with an adapter whose B is not zero.
struct bed {
    struct dev dev;
    struct model *m;
    float *adapter;
    size_t n;
};

static void bed_close(struct bed *b)
{
    model_close(b->m);
    mem_free(b->adapter);
    dev_close(&b->dev);
}

#define BED(name, kind, threads, config, params)                                                   \
    struct bed name;                                                                               \
    bed_into(&name, kind, threads, config, params)

static void bed_into(struct bed *b, int32_t kind, int32_t threads, const struct model_config *c,
                     const struct model_params *p)
{
    struct err err = {""};
    *b = (struct bed){0};
    assert_int_equal(dev_open(&b->dev, kind, threads, &err), 0);
    b->m = model_create(&b->dev, p, c, 5, &err);
    if (!b->m)
        fail_msg("%s", err.text);
    b->n = model_shape(b->m)->n_values;
    b->adapter = mem_alloc(MEM_ADAPTER, (b->n + KERNEL_SLACK) * sizeof *b->adapter);
    model_init_adapter(b->m, 6, b->adapter);
    struct rng r = rng_stream(9, RNG_TEST, 0, 0, 0);
    for (size_t i = 0; i < b->n; i++)
        b->adapter[i] += (float)(0.1 * rng_normal(&r));
}

enum { ROWS_MAX = 4096 };

struct text {
    int32_t start[257], tokens[ROWS_MAX], targets[ROWS_MAX];
    float weights[ROWS_MAX];
    struct model_batch batch;
};

// Sequences of lengths 3 to 20; about a third of the tokens have no loss, weights differ.
static void make_text(struct text *t, int32_t seqs, uint32_t id, int32_t vocab)
{
    struct rng r = rng_stream(11, RNG_TEST, id, 0, 0);
    int32_t n = 0;
    t->start[0] = 0;
    for (int32_t s = 0; s < seqs; s++) {
        int32_t len = 3 + (int32_t)rng_below(&r, 18);
        for (int32_t i = 0; i < len; i++, n++) {
            t->tokens[n] = (int32_t)rng_below(&r, (uint32_t)vocab);
            t->targets[n] = rng_below(&r, 3) ? (int32_t)rng_below(&r, (uint32_t)vocab) : -1;
            t->weights[n] = (float)rng_below(&r, 4) * 0.5f;
        }
        t->start[s + 1] = n;
    }
    assert_true(n <= ROWS_MAX);
    t->batch = (struct model_batch){.n_seqs = seqs,
                                    .start = t->start,
                                    .tokens = t->tokens,
                                    .targets = t->targets,
                                    .weights = t->weights};
}

static int32_t rows_of(const struct text *t)
{
    return t->start[t->batch.n_seqs];
}

static double distance(const float *a, const float *b, size_t n)
{
    double most = 1e-30, apart = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)b[i]));
        apart = isnan(a[i]) ? INFINITY : fmax(apart, fabs((double)a[i] - b[i]));
    }
    return apart / most;
}

// Prompts of `prompt` to `prompt` + 8 tokens, answers of 3 to 6, whose weights differ.
static void make_answers(struct text *t, int32_t seqs, int32_t prompt, uint32_t id, int32_t vocab)
{
    struct rng r = rng_stream(12, RNG_TEST, id, 0, 0);
    make_text(t, seqs, id, vocab);
    int32_t n = 0;
    for (int32_t s = 0; s < seqs; s++) {
        int32_t first = prompt + (int32_t)rng_below(&r, 9);
        int32_t len = first + 3 + (int32_t)rng_below(&r, 4);
        for (int32_t i = 0; i < len; i++, n++) {
            t->tokens[n] = (int32_t)rng_below(&r, (uint32_t)vocab);
            t->targets[n] = i >= first ? (int32_t)rng_below(&r, (uint32_t)vocab) : -1;
            t->weights[n] = (float)(1 + rng_below(&r, 3)) * 0.5f;
        }
        t->start[s + 1] = n;
    }
    assert_true(n <= ROWS_MAX);
}

static double merged_loss(struct bed *b, const struct text *t, const struct model_merge *merge)
{
    struct model_job job = {.batch = &t->batch, .adapter = b->adapter, .merge = merge};
    model_evaluate(b->m, &job, 1);
    return job.loss;
}

static double loss_of(struct bed *b, const struct text *t)
{
    return merged_loss(b, t, NULL);
}

static void check_gradients(const struct model_config *c, const struct text *t,
                            const struct model_merge *merge)
{
    static const char *const targets[] = {"all", "q,v", "down", "o,up"};
    for (size_t k = 0; k < ARRAY_LEN(targets); k++) {
        struct model_params p = params_of(targets[k], 3);
        BED(b, REF, 1, c, &p);
        float *grad = mem_alloc(MEM_OTHER, (b.n + KERNEL_SLACK) * sizeof *grad);
        float *along = mem_alloc(MEM_OTHER, b.n * sizeof *along);
        struct model_job job = {
            .batch = &t->batch, .adapter = b.adapter, .merge = merge, .grad = grad};
        model_backward(b.m, &job, 1, NULL);
        assert_true(fabs(job.loss - merged_loss(&b, t, merge)) < 1e-6);
        for (uint32_t i = 0; i < model_shape(b.m)->n_tensors; i++) {
            const struct shape_tensor *s = &model_shape(b.m)->tensors[i];
            struct rng r = rng_stream(3, RNG_TEST, i, 0, 0);
            size_t n = (size_t)s->rows * s->cols;
            double want = 0, size = 0, h = 5e-4;
            for (size_t j = 0; j < n; j++) {
                along[j] = (float)rng_normal(&r);
                want += (double)grad[s->offset + j] * along[j];
                size += (double)grad[s->offset + j] * grad[s->offset + j];
                b.adapter[s->offset + j] += (float)h * along[j];
            }
            double up = merged_loss(&b, t, merge);
            for (size_t j = 0; j < n; j++)
                b.adapter[s->offset + j] -= (float)(2 * h) * along[j];
            double slope = (up - merged_loss(&b, t, merge)) / (2 * h);
            for (size_t j = 0; j < n; j++)
                b.adapter[s->offset + j] += (float)h * along[j];
            if (!(fabs(slope - want) <= 0.02 * sqrt(size) + 1e-4))
                fail_msg("%s (%s): slope %g, gradient says %g", s->name, targets[k], slope, want);
        }
        mem_free(grad);
        mem_free(along);
        bed_close(&b);
    }
}

static void gradients_match_differences(void **state)
{
    (void)state;
    static struct text t;
    make_text(&t, 4, 1, small.vocab);
    check_gradients(&small, &t, NULL);
}

// Of three layers two merge. All that may merge does, into the next token: no step changes that.
static void gradients_go_through_merging(void **state)
{
    (void)state;
    static struct text t;
    struct model_config c = small;
    c.layers = 3;
    make_answers(&t, 3, 9, 41, small.vocab);
    for (int protect = 0; protect < 2; protect++)
        check_gradients(&c, &t,
                        &(struct model_merge){.ratio = 0.5, .window = 1, .protect = protect});
}

// Of f tokens that may merge, the first and the odd ones stay, and the last where it has no b.
static int32_t rows_merged(int32_t f, double ratio)
{
    int32_t some = (int32_t)(ratio * f), most = f / 2 > 0 ? f / 2 - 1 : 0;
    return some < most ? some : most;
}

static void merging_shortens_prompts(void **state)
{
    (void)state;
    static struct text t;
    struct model_config c = small;
    c.layers = 3;
    struct model_params p = params_of("all", 3);
    make_answers(&t, 150, 2, 42, c.vocab); // several slices
    for (double ratio = 0; ratio <= 0.5; ratio += 0.125)
        for (int way = 0; way < 4; way++) {
            p.recompute = way & 1;
            BED(a, CPU, 2, &c, &p);
            BED(b, way & 1 ? CPU : REF, 1, &c, &p);
            struct model_merge merge = {.ratio = ratio, .window = 4, .protect = way < 2};
            float *grad[2] = {mem_alloc(MEM_OTHER, a.n * 4), mem_alloc(MEM_OTHER, a.n * 4)};
            struct model_job job[2] = {
                {.batch = &t.batch, .adapter = a.adapter, .merge = &merge, .grad = grad[0]},
                {.batch = &t.batch,
                 .adapter = b.adapter,
                 .merge = ratio > 0 ? &merge : NULL,
                 .grad = grad[1]}};
            model_backward(a.m, &job[0], 1, NULL);
            model_backward(b.m, &job[1], 1, NULL);
            int64_t left = 0;
            for (int32_t q = 0; q < t.batch.n_seqs; q++) {
                int32_t len = t.start[q + 1] - t.start[q], f = 0;
                while (f < len && (way >= 2 || t.targets[t.start[q] + f] < 0))
                    f++;
                int32_t once = rows_merged(f, ratio);
                left += len - once - rows_merged(f - once, ratio);
            }
            assert_int_equal(job[0].rows_left, left);
            assert_int_equal(job[1].rows_left, left);
            if (way & 1) // other threads; and at ratio 0 a model that merges nothing
                assert_memory_equal(grad[0], grad[1], a.n * sizeof **grad);
            else if (!(distance(grad[0], grad[1], a.n) < 3e-5))
                fail_msg("ratio %g: gradients %g apart", ratio, distance(grad[0], grad[1], a.n));
            mem_free(grad[0]);
            mem_free(grad[1]);
            bed_close(&a);
            bed_close(&b);
        }
}

// The loss on a token of the answer, seen alone, while the tokens after it change.
static void merging_looks_at_nothing_later(void **state)
{
    (void)state;
    static struct text t;
    struct model_config c = small;
    c.layers = 3;
    struct model_params p = params_of("all", 3);
    struct model_merge merge = {.ratio = 0.4, .window = 6, .protect = true};
    BED(b, CPU, 1, &c, &p);
    for (uint32_t id = 50; id < 60; id++) {
        make_answers(&t, 1, 10, id, c.vocab);
        int32_t n = rows_of(&t), first = 0;
        while (t.targets[first] < 0)
            first++;
        t.batch.sum = true;
        for (int32_t at = first; at < n - 1; at++) {
            memset(t.weights, 0, sizeof t.weights);
            t.weights[at] = 1;
            double was = merged_loss(&b, &t, &merge);
            assert_true(was > 0 && was != loss_of(&b, &t));
            for (int32_t i = n - 1; i > at; i--) {
                t.tokens[i] = (t.tokens[i] + 7) % c.vocab;
                assert_true(merged_loss(&b, &t, &merge) == was);
            }
            t.tokens[at] = (t.tokens[at] + 7) % c.vocab;
            assert_true(merged_loss(&b, &t, &merge) != was);
        }
        t.tokens[first / 2] = (t.tokens[first / 2] + 7) % c.vocab; // the prompt is seen
        double was = merged_loss(&b, &t, &merge);
        t.tokens[first / 2] = (t.tokens[first / 2] + 7) % c.vocab;
        assert_true(merged_loss(&b, &t, &merge) != was);
    }
    bed_close(&b);
}

static float largest(const float *x, size_t from, size_t to)
{
    float most = 0;
    for (size_t i = from; i < to; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

// What is sent at a cut and trained above it gives the gradient of the layers above to the bit, and
// what comes back that of the layers below.
static void cut_and_joined_again(void **state)
{
    (void)state;
    enum { ROWS = 256 };
    static struct text t;
    static int32_t len[8], pos[ROWS], size[ROWS], start[9], targets[ROWS];
    struct model_config c = small;
    c.layers = 3;
    struct model_params p = params_of("all", 3);
    make_answers(&t, 8, 9, 71, c.vocab);
    t.batch.weights = NULL;
    for (int way = 0; way < 4; way++) {
        struct model_merge merge = {.ratio = 0.4, .window = 6, .protect = true};
        BED(b, CPU, 1, &c, &p);
        float *x = mem_alloc(MEM_OTHER, (size_t)(ROWS * c.dim) * sizeof *x);
        struct model_cut cut = {.layer = 1 + way / 2, .len = len, .pos = pos, .size = size, .x = x};
        // The whole may only merge below the cut, where layer 2 is the last.
        bool merges = way == 3;
        struct model_job below = {
            .batch = &t.batch, .adapter = b.adapter, .merge = merges ? &merge : NULL, .cut = &cut};
        model_evaluate(b.m, &below, 1);
        int32_t tokens = 0;
        start[0] = 0;
        for (int32_t q = 0; q < t.batch.n_seqs; q++) {
            int32_t from = t.start[q], gone = t.start[q + 1] - from - len[q], to = start[q];
            assert_true(merges ? gone > 0 : gone == 0);
            for (int32_t i = 0; i < len[q]; i++) { // answers are the last rows
                pos[to + i] = pos[from + i];
                size[to + i] = size[from + i];
                memmove(x + (to + i) * c.dim, x + (from + i) * c.dim, (size_t)c.dim * sizeof *x);
                int32_t target = t.targets[from + gone + i];
                targets[to + i] = target;
                assert_true(target < 0 || (size[to + i] == 1 && pos[to + i] == i + gone));
                tokens += size[to + i];
            }
            start[q + 1] = to + len[q];
        }
        assert_int_equal(tokens, rows_of(&t));
        assert_int_equal(below.rows_left, start[t.batch.n_seqs]);
        struct model_batch above = {
            .n_seqs = t.batch.n_seqs, .start = start, .targets = targets, .from = &cut};
        float *grad[3], *dx = mem_alloc(MEM_OTHER, (size_t)(ROWS * c.dim) * sizeof *dx);
        for (int k = 0; k < 3; k++)
            grad[k] = mem_alloc(MEM_OTHER, b.n * sizeof(float));
        struct model_job whole = {.batch = &t.batch,
                                  .adapter = b.adapter,
                                  .merge = merges ? &merge : NULL,
                                  .grad = grad[0]};
        struct model_job joined = {
            .batch = &above, .adapter = b.adapter, .grad = grad[1], .embed_grad = dx};
        model_backward(b.m, &whole, 1, NULL);
        model_backward(b.m, &joined, 1, NULL);
        for (int32_t q = t.batch.n_seqs; q-- > 0;) // back to where the rows were
            memmove(x + t.start[q] * c.dim, dx + start[q] * c.dim,
                    (size_t)(len[q] * c.dim) * sizeof *x);
        below.cut = NULL;
        below.back = &cut;
        below.grad = grad[2];
        model_backward(b.m, &below, 1, NULL);
        struct shape_range r = model_layers_from(b.m, cut.layer);
        assert_true(joined.loss == whole.loss && r.from == (size_t)cut.layer * b.n / 3);
        assert_memory_equal(grad[1] + r.from, grad[0] + r.from, (r.to - r.from) * sizeof(float));
        assert_true(largest(grad[1], 0, r.from) == 0 && largest(grad[1], r.from, b.n) > 0);
        assert_memory_equal(grad[2], grad[0], r.from * sizeof(float));
        assert_true(largest(grad[2], r.from, b.n) == 0);
        void *gone[] = {x, dx, grad[0], grad[1], grad[2]};
        for (size_t i = 0; i < ARRAY_LEN(gone); i++)
            mem_free(gone[i]);
        bed_close(&b);
    }
}

// A model of zeros gives every token the same chance, and all keys are alike: whatever merges, the
// mean loss is that of one token, so no weight is lost.
static void merged_labels_keep_their_weight(void **state)
{
    (void)state;
    static struct text t;
    struct model_params p = params_of("all", 0);
    BED(b, CPU, 1, &small, &p);
    struct err err;
    assert_int_equal(model_full_begin(b.m, &err), 0);
    memset(model_full_weights(b.m), 0, model_weight_count(b.m) * sizeof(float));
    model_full_changed(b.m);
    make_answers(&t, 6, 4, 61, small.vocab);
    for (int32_t i = 0; i < rows_of(&t); i++)
        t.targets[i] = i % small.vocab; // answers alone: all may merge
    struct model_merge merge = {.ratio = 0.5, .window = 8};
    struct model_job job = {.batch = &t.batch, .merge = &merge};
    model_evaluate(b.m, &job, 1);
    assert_true(job.rows_left < rows_of(&t));
    assert_true(fabs(job.loss - log(small.vocab)) < 1e-5);
    bed_close(&b);
}

static void cpu_matches_reference(void **state)
{
    (void)state;
    static struct text t;
    make_text(&t, 6, 2, small.vocab);
    int32_t rows = rows_of(&t);
    struct model_config c = small;
    for (int variant = 0; variant < 4; variant++) {
        c.tied = variant & 1;
        c.rope_style = variant & 2 ? KERNEL_ROPE_PAIR : KERNEL_ROPE_HALF;
        struct model_params p = params_of("all", 3);
        p.recompute = variant & 1;
        p.dtype = variant; // as stored: fp32, fp32, bf16, fp16
        BED(a, CPU, 1, &c, &p);
        BED(b, REF, 1, &c, &p);
        struct bed *bed[2] = {&a, &b};
        float *grad[2], *embed[2], *loss[2], *sq[2], *received[2];
        int32_t best[2][ROWS_MAX];
        struct model_job job[2];
        for (int i = 0; i < 2; i++) {
            grad[i] = mem_alloc(MEM_OTHER, (a.n + KERNEL_SLACK) * sizeof(float));
            embed[i] = mem_alloc(MEM_OTHER, (size_t)(rows * c.dim) * sizeof(float));
            loss[i] = mem_alloc(MEM_OTHER, (size_t)rows * sizeof(float));
            sq[i] = mem_alloc(MEM_OTHER, (size_t)rows * sizeof(float));
            received[i] = mem_alloc(MEM_OTHER, (size_t)rows * sizeof(float));
            job[i] = (struct model_job){.batch = &t.batch,
                                        .adapter = bed[i]->adapter,
                                        .grad = grad[i],
                                        .token_loss = loss[i],
                                        .token_sq = sq[i],
                                        .embed_grad = embed[i],
                                        .received = received[i],
                                        .best = best[i]};
            model_backward(bed[i]->m, &job[i], 1, NULL);
        }
        if (!(fabs(job[0].loss - job[1].loss) < 4e-6))
            fail_msg("variant %d: loss %.9g, reference %.9g", variant, job[0].loss, job[1].loss);
        if (!(distance(grad[0], grad[1], a.n) < 2e-5))
            fail_msg("variant %d: gradients %g apart", variant, distance(grad[0], grad[1], a.n));
        assert_true(distance(embed[0], embed[1], (size_t)(rows * c.dim)) < 2e-5);
        assert_true(distance(loss[0], loss[1], (size_t)rows) < 1e-5);
        assert_true(distance(sq[0], sq[1], (size_t)rows) < 2e-5);
        assert_true(distance(received[0], received[1], (size_t)rows) < 1e-5);
        assert_memory_equal(best[0], best[1], (size_t)rows * sizeof **best);
        for (int32_t i = 0; i < rows; i++) {
            double sum = 0;
            for (int32_t j = 0; j < c.dim; j++)
                sum += (double)embed[0][i * c.dim + j] * embed[0][i * c.dim + j];
            assert_true(fabs((t.targets[i] >= 0 ? sum : 0) - sq[0][i]) <= 1e-5 * sum);
            assert_true((loss[0][i] != 0) == (t.targets[i] >= 0) &&
                        (best[0][i] < 0) == (t.targets[i] < 0));
        }
        float *alone = mem_alloc(MEM_OTHER, (size_t)rows * sizeof *alone);
        job[0].embed_grad = NULL; // backward leaves the prompt's rows out
        job[0].token_sq = alone;
        model_backward(a.m, job, 1, NULL);
        assert_true(distance(alone, sq[0], (size_t)rows) < 1e-6);
        mem_free(alone);
        for (int i = 0; i < 2; i++) {
            void *all[] = {grad[i], embed[i], loss[i], sq[i], received[i]};
            for (size_t k = 0; k < ARRAY_LEN(all); k++)
                mem_free(all[k]);
            bed_close(bed[i]);
        }
    }
}

static struct model_client client_of(const struct bed *b, int32_t kind, float *adapter)
{
    size_t n = optim_floats(kind, b->n);
    return (struct model_client){
        .adapter = adapter, .moments = mem_alloc(MEM_OPTIMIZER, n * sizeof(float)), .n_moments = n};
}

// Three jobs, the second of several slices; 4 steps. One call a job and step, or all in one.
static void train_three(struct bed *b, bool together, float *out)
{
    static struct text t[3];
    struct model_client client[3];
    struct model_job job[3];
    make_text(&t[0], 4, 20, small.vocab);
    make_text(&t[1], 150, 21, small.vocab);
    make_text(&t[2], 7, 22, small.vocab);
    for (int j = 0; j < 3; j++) {
        memcpy(out + (size_t)j * b->n, b->adapter, b->n * sizeof *out);
        client[j] = client_of(b, OPTIM_ADAMW, out + (size_t)j * b->n);
        job[j] = (struct model_job){.batch = &t[j].batch, .client = &client[j]};
        model_load(b->m, &client[j], j);
    }
    for (int step = 0; step < 4; step++)
        if (together)
            model_train_step(b->m, job, 3, &adamw, NULL);
        else
            for (int j = 2; j >= 0; j--)
                model_train_step(b->m, &job[j], 1, &adamw, NULL);
    for (int j = 0; j < 3; j++) {
        model_store(b->m, &client[j]);
        mem_free(client[j].moments);
    }
}

static void division_of_work_changes_no_bit(void **state)
{
    (void)state;
    struct model_params p = params_of("all", 3);
    float *first = NULL, *other = NULL;
    size_t n = 0;
    for (int way = 0; way < 12; way++) { // the last four with recordings that run again
        p.recompute = way >> 2 & 1;
        BED(b, way < 8 ? CPU : FENCE, way & 1 ? 3 : 1, &small, &p);
        n = b.n;
        if (!first) {
            first = mem_alloc(MEM_OTHER, (3 * n + KERNEL_SLACK) * sizeof *first);
            other = mem_alloc(MEM_OTHER, (3 * n + KERNEL_SLACK) * sizeof *first);
        }
        train_three(&b, way & 2, way == 0 ? first : other);
        if (way == 0)
            assert_true(distance(first, b.adapter, n) > 1e-3); // it moved
        else
            assert_memory_equal(first, other, 3 * n * sizeof *first);
        bed_close(&b);
    }
    mem_free(first);
    mem_free(other);
}

static void masks_and_weights_shape_the_loss(void **state)
{
    (void)state;
    static struct text t, u;
    struct model_params p = params_of("all", 3);
    BED(b, CPU, 1, &small, &p);
    float loss[ROWS_MAX];
    make_text(&t, 5, 3, small.vocab);
    struct model_job job = {.batch = &t.batch, .adapter = b.adapter, .token_loss = loss};
    model_evaluate(b.m, &job, 1);
    double sum = 0, weight = 0;
    for (int32_t i = 0; i < rows_of(&t); i++)
        if (t.targets[i] >= 0) {
            sum += (double)t.weights[i] * (double)loss[i];
            weight += (double)t.weights[i];
        }
    assert_true(fabs(job.weight - weight) < 1e-9 && fabs(job.loss - sum / weight) < 1e-5);
    t.batch.sum = true;
    assert_true(fabs(loss_of(&b, &t) - sum) < 1e-4);
    t.batch.sum = false;
    // A weight of 0 is the same as no target, to the bit.
    make_text(&u, 5, 3, small.vocab);
    for (int32_t i = 0; i < rows_of(&u); i++)
        if (u.weights[i] == 0)
            u.targets[i] = -1;
    assert_true(loss_of(&b, &t) == loss_of(&b, &u));
    // No loss at all is 0 and leaves the adapter's gradient 0.
    for (int32_t i = 0; i < rows_of(&u); i++)
        u.weights[i] = 0;
    float *grad = mem_alloc(MEM_OTHER, (b.n + KERNEL_SLACK) * sizeof *grad);
    struct model_job none = {.batch = &u.batch, .adapter = b.adapter, .grad = grad};
    model_backward(b.m, &none, 1, NULL);
    assert_true(none.loss == 0);
    for (size_t i = 0; i < b.n; i++)
        assert_true(grad[i] == 0);
    mem_free(grad);
    bed_close(&b);
}

// Where few rows have a loss, the last layer works on those alone; asking for every token's loss
// makes it work on all. Both ways are the same numbers, for training, recompute and all layers'
// targets.
static void rows_without_loss_may_be_left_out(void **state)
{
    (void)state;
    static struct text t;
    static const char *const targets[] = {"all", "o", "gate,down"};
    make_text(&t, 90, 12, small.vocab); // two slices
    int32_t rows = rows_of(&t);
    for (int32_t i = 0; i < rows; i++) {
        t.targets[i] = t.tokens[(i + 1) % rows];
        t.weights[i] = i % 5 == 2 ? 0.5f : 0.0f;
    }
    for (int way = 0; way < 6; way++) {
        struct model_params p = params_of(targets[way % 3], 3);
        p.recompute = way / 3;
        BED(b, CPU, 1, &small, &p);
        float *grad[2], *sq[2], loss[ROWS_MAX];
        struct model_job job[2];
        for (int i = 0; i < 2; i++) {
            grad[i] = mem_alloc(MEM_OTHER, b.n * sizeof(float));
            sq[i] = mem_alloc(MEM_OTHER, (size_t)rows * sizeof(float));
            job[i] = (struct model_job){.batch = &t.batch,
                                        .adapter = b.adapter,
                                        .grad = grad[i],
                                        .token_sq = sq[i],
                                        .token_loss = i ? loss : NULL};
            model_backward(b.m, &job[i], 1, NULL);
        }
        assert_true(job[0].loss == job[1].loss && job[0].loss > 0);
        double size = 0;
        for (size_t i = 0; i < b.n; i++) { // == and not memcmp: a zero may have either sign
            assert_true(grad[0][i] == grad[1][i]);
            size += fabs((double)grad[0][i]);
        }
        assert_true(size > 0);
        for (int32_t i = 0; i < rows; i++)
            assert_true(sq[0][i] == sq[1][i]);
        for (int i = 0; i < 2; i++) {
            mem_free(grad[i]);
            mem_free(sq[i]);
        }
        bed_close(&b);
    }
}

static void optimizer_averages_and_clips(void **state)
{
    (void)state;
    static struct text t;
    struct model_params p = params_of("q,down", 2);
    BED(b, CPU, 1, &small, &p);
    make_text(&t, 3, 4, small.vocab);
    float *ema = mem_alloc(MEM_OTHER, b.n * 4), *sum = mem_alloc(MEM_OTHER, b.n * 4);
    float *grad = mem_alloc(MEM_OTHER, b.n * 4), *was = mem_alloc(MEM_OTHER, b.n * 4);
    struct model_client s = client_of(&b, OPTIM_SGD, b.adapter);
    struct model_job job = {.batch = &t.batch, .client = &s, .grad = grad};
    struct optim_params sgd = {.kind = OPTIM_SGD, .lr = 0.5, .clip = 0.01};
    s.ema = ema;
    s.sum = sum;
    s.rho = 0.75f;
    memcpy(was, b.adapter, b.n * 4);
    model_load(b.m, &s, 0);
    model_train_step(b.m, &job, 1, &sgd, NULL);
    model_store(b.m, &s);
    assert_true(job.grad_norm > 0.02 && s.steps == 1);
    double moved = 0;
    for (size_t i = 0; i < b.n; i++) {
        double d = (double)b.adapter[i] - was[i], g2 = (double)grad[i] * grad[i];
        moved += d * d;
        assert_true(fabs(ema[i] - 0.25 * g2) <= 1e-5 * g2 + 1e-12);
        assert_true(fabs(sum[i] - g2) <= 1e-5 * g2 + 1e-12);
    }
    assert_true(fabs(sqrt(moved) - 0.5 * 0.01) < 1e-5);
    void *all[] = {ema, sum, grad, was, s.moments};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
    bed_close(&b);
}

static void spans_share_out_the_time(void **state)
{
    (void)state;
    static struct text t[2];
    struct model_params p = params_of("all", 2);
    BED(b, CPU, 2, &small, &p);
    struct recorder rec;
    struct rec_event e[32];
    float sq[ROWS_MAX], *second = mem_alloc(MEM_ADAPTER, (b.n + KERNEL_SLACK) * sizeof *second);
    struct model_client s[2];
    struct model_job job[2];
    recorder_init(&rec, 64, 0, false);
    for (int j = 0; j < 2; j++) {
        make_text(&t[j], 60, 30 + (uint32_t)j, small.vocab);
        s[j] = client_of(&b, OPTIM_ADAMW, j ? second : b.adapter);
        s[j].id = 40 + j;
        job[j] = (struct model_job){.batch = &t[j].batch, .client = &s[j]};
        model_load(b.m, &s[j], j);
    }
    job[1].token_sq = sq; // only this one goes down to the embeddings
    struct model_merge merge = {.ratio = 0.5, .window = 4};
    job[0].merge = &merge; // and only this one merges
    int64_t from = clock_ns();
    model_train_step(b.m, job, 2, &adamw, &rec);
    int64_t wall = clock_ns() - from, sum = 0;
    size_t n = recorder_drain(&rec, e, ARRAY_LEN(e));
    static const uint8_t want[][2] = {
        {STAGE_FORWARD, 40},  {STAGE_BACKWARD, 40},   {STAGE_MERGE, 40},     {STAGE_FORWARD, 41},
        {STAGE_BACKWARD, 41}, {STAGE_EMBED_GRAD, 41}, {STAGE_OPTIMIZER, 40}, {STAGE_OPTIMIZER, 41}};
    assert_int_equal(n, ARRAY_LEN(want));
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(e[i].stage, want[i][0]);
        assert_int_equal(e[i].client, want[i][1]);
        assert_true(e[i].dur_ns >= 0);
        sum += e[i].dur_ns;
    }
    assert_true(e[0].dur_ns > 0 && e[2].dur_ns > 0 && e[5].dur_ns > 0 && sum <= wall);
    assert_true(e[2].bytes_in == 4 * small.dim * (int64_t)rows_of(&t[0]));
    assert_true(e[2].bytes_out == 4 * small.dim * job[0].rows_left);
    recorder_free(&rec);
    for (int j = 0; j < 2; j++)
        mem_free(s[j].moments);
    mem_free(second);
    bed_close(&b);
}

// Forward, backward and the optimizer's step are one recording, made the second time, which gives
// the bits of both calls.
static void a_step_is_one_recording(void **state)
{
    (void)state;
    struct text t;
    struct model_params p = params_of("all", 3);
    float *apart[2];
    make_text(&t, 3, 40, small.vocab);
    for (int whole = 0; whole < 2; whole++) {
        BED(b, EMU, 1, &small, &p);
        struct model_client client = client_of(&b, OPTIM_ADAMW, b.adapter);
        struct model_job job = {.batch = &t.batch, .client = &client};
        apart[whole] = mem_alloc(MEM_OTHER, b.n * sizeof **apart);
        model_load(b.m, &client, 0);
        for (int step = 0; step < 4; step++) {
            struct optim_params o = adamw;
            o.lr = 3e-3 / (1 + step); // no part of the recording
            uint64_t before = emu_counted().graphs;
            if (whole) {
                model_train_step(b.m, &job, 1, &o, NULL);
                assert_true(model_times(b.m).device_ns > 0 && model_times(b.m).optimizer_ns > 0);
            } else {
                model_backward(b.m, &job, 1, NULL);
                model_update(b.m, &job, 1, &o, NULL);
            }
            assert_int_equal(emu_counted().graphs - before, step == 0 ? 0 : whole ? 1 : 3);
            assert_true(job.grad_norm > 0);
        }
        model_store(b.m, &client);
        memcpy(apart[whole], b.adapter, b.n * sizeof **apart);
        assert_true(whole == 0 || memcmp(apart[0], apart[1], b.n * sizeof **apart) == 0);
        mem_free(client.moments);
        bed_close(&b);
    }
    mem_free(apart[0]);
    mem_free(apart[1]);
}

static void training_lowers_the_loss(void **state)
{
    (void)state;
    static struct text t;
    struct model_params p = params_of("all", 4);
    BED(b, CPU, 2, &small, &p);
    make_text(&t, 6, 5, small.vocab);
    struct model_client s = client_of(&b, OPTIM_ADAMW, b.adapter);
    struct model_job job = {.batch = &t.batch, .client = &s};
    struct optim_params o = adamw;
    o.lr = 1e-2;
    double before = loss_of(&b, &t);
    model_load(b.m, &s, 0);
    for (int step = 0; step < 60; step++)
        model_train_step(b.m, &job, 1, &o, NULL);
    model_store(b.m, &s);
    double after = loss_of(&b, &t);
    if (!(after < 0.8 * before))
        fail_msg("loss %g became %g", before, after);
    mem_free(s.moments);
    bed_close(&b);
}

// Greedy tokens through the cache against a full forward for every new token.
static void generation_matches_forward(void **state)
{
    (void)state;
    enum { NEW = 9, SEQS = 70 };
    static struct text t;
    static int32_t out[SEQS * NEW], len[SEQS];
    static bool ended[SEQS];
    make_text(&t, SEQS, 6, small.vocab);
    struct model_params p = params_of("all", 3);
    BED(b, CPU, 2, &small, &p);
    int32_t ends = 0;
    for (int32_t end = -1; end < 20; end += 20) {
        struct model_gen g = {.adapter = b.adapter,
                              .n_seqs = SEQS,
                              .start = t.start,
                              .tokens = t.tokens,
                              .max_new = NEW,
                              .end = end,
                              .out = out,
                              .out_len = len,
                              .ended = ended};
        model_generate(b.m, &g);
        for (int32_t q = 0; q < SEQS; q++) {
            int32_t n = t.start[q + 1] - t.start[q], seq[64], target[64], best[64];
            memcpy(seq, t.tokens + t.start[q], (size_t)n * sizeof *seq);
            bool stop = false;
            for (int32_t i = 0; i < NEW && !stop; i++) {
                int32_t span[2] = {0, n};
                struct model_batch one = {
                    .n_seqs = 1, .start = span, .tokens = seq, .targets = target};
                for (int32_t j = 0; j < n; j++)
                    target[j] = j == n - 1 ? 0 : -1;
                struct model_job job = {.batch = &one, .adapter = b.adapter, .best = best};
                model_evaluate(b.m, &job, 1);
                stop = best[n - 1] == end;
                if (stop)
                    assert_int_equal(len[q], i);
                else
                    assert_int_equal(out[q * NEW + i], best[n - 1]);
                seq[n] = best[n - 1];
                n++;
            }
            assert_true(ended[q] == stop && (stop || len[q] == NEW));
            ends += stop;
        }
    }
    assert_true(ends > 0);
    bed_close(&b);
}

// One pass over prompt and answer says what two say: the loss, whether the answer is what would be
// generated, and what is generated where it is not.
static void answers_come_with_their_loss(void **state)
{
    (void)state;
    enum { NEW = 6, SEQS = 70, LONG = 32 };
    static struct text t, whole;
    static int32_t out[2][SEQS * NEW], len[2][SEQS], answer[SEQS];
    static float token_loss[SEQS * LONG];
    static double loss[SEQS];
    static bool ended[2][SEQS], right[SEQS];
    make_text(&t, SEQS, 6, small.vocab);
    struct model_params p = params_of("all", 3);
    BED(b, CPU, 2, &small, &p);
    struct model_gen g = {.adapter = b.adapter,
                          .n_seqs = SEQS,
                          .start = t.start,
                          .tokens = t.tokens,
                          .max_new = NEW,
                          .end = -1,
                          .out = out[0],
                          .out_len = len[0],
                          .ended = ended[0]};
    model_generate(b.m, &g);
    int32_t n = 0;
    for (int32_t q = 0; q < SEQS; q++) { // every third answer has a token that the model never says
        whole.start[q] = n;
        answer[q] = t.start[q + 1] - t.start[q];
        for (int32_t i = 0; i < answer[q] + 1 + q % NEW; i++, n++) {
            int32_t k = i - answer[q];
            whole.tokens[n] = k < 0 ? t.tokens[t.start[q] + i] : out[0][q * NEW + k];
            if (k >= 0 && k == q % NEW && q % 3 == 0)
                whole.tokens[n] = (whole.tokens[n] + 1) % small.vocab;
            if (i > 0)
                whole.targets[n - 1] = k >= 0 ? whole.tokens[n] : -1;
        }
        whole.targets[n - 1] = -1;
    }
    whole.start[SEQS] = n;
    struct model_batch batch = {
        .n_seqs = SEQS, .start = whole.start, .tokens = whole.tokens, .targets = whole.targets};
    struct model_job job = {.batch = &batch, .adapter = b.adapter, .token_loss = token_loss};
    model_evaluate(b.m, &job, 1);
    g.start = whole.start;
    g.tokens = whole.tokens;
    g.out = out[1];
    g.out_len = len[1];
    g.ended = ended[1];
    g.answer = answer;
    g.loss = loss;
    g.right = right;
    model_generate(b.m, &g);
    for (int32_t q = 0; q < SEQS; q++) {
        double sum = 0;
        for (int32_t i = whole.start[q]; i < whole.start[q + 1]; i++)
            sum += (double)token_loss[i];
        assert_true(loss[q] == sum && right[q] == (q % 3 != 0));
        if (right[q])
            continue;
        assert_true(len[1][q] == NEW && !ended[1][q]);
        assert_memory_equal(out[1] + q * NEW, out[0] + q * NEW, NEW * sizeof(int32_t));
    }
    bed_close(&b);
}

static void all_weights_train(void **state)
{
    (void)state;
    static struct text t;
    struct model_params p = params_of("all", 0);
    struct model_config c = small;
    for (int tied = 0; tied < 2; tied++) {
        c.tied = tied;
        BED(b, CPU, 2, &c, &p);
        struct err err;
        assert_int_equal(b.n, 0);
        assert_int_equal(model_full_begin(b.m, &err), 0);
        make_text(&t, 120, 7, c.vocab); // several slices
        size_t n = model_weight_count(b.m);
        float *w = model_full_weights(b.m);
        struct model_client s = {.moments = mem_alloc(MEM_OPTIMIZER, 2 * n * sizeof(float)),
                                 .n_moments = 2 * n};
        struct model_job job = {.batch = &t.batch, .client = &s};
        model_load(b.m, &s, 0);
        model_full_backward(b.m, &job);
        const float *g = model_full_gradient(b.m);
        struct rng r = rng_stream(3, RNG_TEST, 77, 0, 0);
        for (int round = 0; round < 12; round++) { // slopes along random stretches of all weights
            size_t from = (size_t)round * n / 12, to = (size_t)(round + 1) * n / 12;
            float *along = mem_alloc(MEM_OTHER, n * sizeof *along);
            double want = 0, size = 0, h = 5e-4;
            for (size_t i = from; i < to; i++) {
                along[i] = (float)rng_normal(&r);
                want += (double)g[i] * along[i];
                size += (double)g[i] * g[i];
                w[i] += (float)h * along[i];
            }
            model_full_changed(b.m);
            double up = loss_of(&b, &t);
            for (size_t i = from; i < to; i++)
                w[i] -= (float)(2 * h) * along[i];
            model_full_changed(b.m);
            double slope = (up - loss_of(&b, &t)) / (2 * h);
            for (size_t i = from; i < to; i++)
                w[i] += (float)h * along[i];
            if (!(fabs(slope - want) <= 0.02 * sqrt(size) + 1e-3))
                fail_msg("weights %zu to %zu: slope %g, gradient says %g", from, to, slope, want);
            mem_free(along);
        }
        model_full_changed(b.m);
        double before = loss_of(&b, &t);
        for (int step = 0; step < 30; step++) {
            model_full_backward(b.m, &job);
            model_full_update(b.m, &job, &adamw);
        }
        assert_true(loss_of(&b, &t) < 0.9 * before);
        mem_free(s.moments);
        bed_close(&b);
    }
}

static void shapes_and_targets(void **state)
{
    (void)state;
    struct model_params p = params_of("all", 3);
    BED(b, CPU, 1, &small, &p);
    const struct shape *s = model_shape(b.m);
    assert_int_equal(s->n_tensors, 2 * 7 * 2);
    assert_int_equal(b.n, 2 * 3 * (4 * (24 + 24) - 2 * 12 + 2 * (24 + 40) + (40 + 24)));
    assert_string_equal(s->tensors[0].name, "layers.0.q.A");
    assert_string_equal(s->tensors[27].name, "layers.1.down.B");
    model_init_adapter(b.m, 1, b.adapter);
    double a2 = 0, bb = 0;
    for (uint32_t i = 0; i < s->n_tensors; i++)
        for (size_t j = 0; j < (size_t)s->tensors[i].rows * s->tensors[i].cols; j++) {
            double v = b.adapter[s->tensors[i].offset + j];
            if (s->tensors[i].kind == SHAPE_LORA_A)
                a2 += v * v;
            else
                bb += fabs(v);
        }
    assert_true(bb == 0 && fabs(a2 - 2 * 3 * 7) < 6); // each row of A has norm 1 in the mean
    bed_close(&b);
    struct err err = {""};
    struct dev dev;
    assert_int_equal(dev_open(&dev, CPU, 1, &err), 0);
    p = params_of("q,k,w", 3);
    assert_null(model_create(&dev, &p, &small, 1, &err));
    assert_non_null(strstr(err.text, "'w'"));
    struct model_config c = small;
    c.kv_heads = 3;
    p = params_of("all", 3);
    assert_null(model_create(&dev, &p, &c, 1, &err));
    dev_close(&dev);
}

// Memory grows with the tokens and not with their square; recompute keeps one layer.
static void memory_grows_with_tokens(void **state)
{
    (void)state;
    struct model_config c = small;
    c.layers = 8;
    struct model_params p = params_of("all", 3);
    BED(all, CPU, 1, &c, &p);
    p.recompute = MODEL_KEEP_LAYER;
    BED(one, CPU, 1, &c, &p);
    for (int32_t t = 256; t <= 4096; t *= 2) {
        size_t kept = model_kept_bytes(all.m, t), work = kernel_work_floats(t, t, 80, 9, 6);
        assert_true(model_kept_bytes(all.m, 2 * t) <= 2 * kept);
        assert_true(kernel_work_floats(2 * t, 2 * t, 80, 9, 6) <= 2 * work);
        assert_true(3 * model_kept_bytes(one.m, t) < kept);
    }
    bed_close(&all);
    bed_close(&one);
}

static void absent_devices_say_so(void **state)
{
    (void)state;
    for (int32_t i = 0; dev_table[i]; i++) {
        struct dev d;
        struct err err = {""};
        if (dev_open(&d, i, 1, &err))
            assert_non_null(strstr(err.text, dev_table[i]->name));
        else
            dev_close(&d);
    }
}

static void saved_and_loaded(void **state)
{
    (void)state;
    static struct text t;
    char path[] = "/tmp/test_model_XXXXXX.safetensors";
    close(mkstemps(path, 12));
    struct model_params p = params_of("all", 3);
    BED(b, CPU, 1, &small, &p);
    make_text(&t, 4, 8, small.vocab);
    struct err err = {""};
    double with = loss_of(&b, &t);
    static const double apart[KERNEL_DTYPES] = {1e-5, 3e-2, 5e-3};
    for (int dtype = 0; dtype < KERNEL_DTYPES; dtype++) {
        assert_int_equal(model_save(b.m, path, dtype, b.adapter, &err), 0);
        struct model_params q = params_of("all", 0);
        snprintf(q.path, sizeof q.path, "%s", path);
        q.dtype = dtype == KERNEL_F16 ? MODEL_DTYPE_F16 : MODEL_DTYPE_AUTO;
        struct bed l = {.dev = b.dev, .m = model_open(&b.dev, &q, &err)};
        if (!l.m)
            fail_msg("%s", err.text);
        assert_true(fabs(loss_of(&l, &t) - with) < apart[dtype]); // the adapter is merged
        assert_int_equal(model_config(l.m)->heads, small.heads);
        model_close(l.m);
    }
    unlink(path);
    bed_close(&b);
}

// Blocks in memory are the same weights as their values in fp32; what cannot be cut into blocks is
// refused.
static void quantised_at_load(void **state)
{
    (void)state;
    static struct text t;
    static const int32_t kind[] = {MODEL_DTYPE_Q8, MODEL_DTYPE_NF4, MODEL_DTYPE_Q4};
    char path[] = "/tmp/test_model_XXXXXX.safetensors";
    struct model_config c = small;
    struct err err = {""};
    close(mkstemps(path, 12));
    make_text(&t, 4, 8, small.vocab);
    c.dim = 64;
    c.hidden = 128;
    c.head_dim = 16;
    struct model_params p = params_of("all", 3);
    BED(plain, CPU, 1, &c, &p);
    for (size_t i = 0; i < ARRAY_LEN(kind); i++) {
        p.dtype = kind[i];
        BED(b, CPU, 1, &c, &p);
        double loss = loss_of(&b, &t), apart = fabs(loss - loss_of(&plain, &t));
        assert_true(apart > 0 && apart < (kind[i] == MODEL_DTYPE_Q8 ? 5e-3 : 0.1));
        assert_int_equal(model_save(b.m, path, KERNEL_F32, NULL, &err), 0);
        struct model_params q = params_of("all", 3);
        snprintf(q.path, sizeof q.path, "%s", path);
        struct bed l = {.dev = b.dev, .adapter = b.adapter, .m = model_open(&b.dev, &q, &err)};
        if (!l.m)
            fail_msg("%s", err.text);
        assert_true(loss_of(&l, &t) == loss);
        model_close(l.m);
        bed_close(&b);
    }
    bed_close(&plain);
    struct dev dev;
    c.hidden = 40;
    assert_int_equal(dev_open(&dev, CPU, 1, &err), 0);
    assert_null(model_create(&dev, &p, &c, 5, &err));
    assert_non_null(strstr(err.text, "model.dtype = q4: 40 columns"));
    dev_close(&dev);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_match_differences),
        cmocka_unit_test(gradients_go_through_merging),
        cmocka_unit_test(merging_shortens_prompts),
        cmocka_unit_test(merging_looks_at_nothing_later),
        cmocka_unit_test(cut_and_joined_again),
        cmocka_unit_test(merged_labels_keep_their_weight),
        cmocka_unit_test(cpu_matches_reference),
        cmocka_unit_test(division_of_work_changes_no_bit),
        cmocka_unit_test(masks_and_weights_shape_the_loss),
        cmocka_unit_test(rows_without_loss_may_be_left_out),
        cmocka_unit_test(optimizer_averages_and_clips),
        cmocka_unit_test(spans_share_out_the_time),
        cmocka_unit_test(a_step_is_one_recording),
        cmocka_unit_test(training_lowers_the_loss),
        cmocka_unit_test(generation_matches_forward),
        cmocka_unit_test(answers_come_with_their_loss),
        cmocka_unit_test(all_weights_train),
        cmocka_unit_test(shapes_and_targets),
        cmocka_unit_test(memory_grows_with_tokens),
        cmocka_unit_test(absent_devices_say_so),
        cmocka_unit_test(saved_and_loaded),
        cmocka_unit_test(quantised_at_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
