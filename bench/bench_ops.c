// Each operation of the training kernels alone: time, bytes against a copy of memory, arithmetic,
// and its distance from the plain reference.
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "dev/dev.h"
#include "kernels/simd.h"

#include <math.h>
#include <string.h>

struct ops_params {
    int32_t dev; // row of dev_table
    int32_t rows, dim, hidden, heads, vocab, rank, seq;
};

enum { REF = 1 }; // a row of dev_table

static struct ops_params params;

static const char *dev_name(int32_t i)
{
    return dev_table[i] ? dev_table[i]->name : NULL;
}

static const struct opt options[] = {
    OPT_ROW(struct ops_params, dev, "ops.dev", "cpu", dev_name, "who computes"),
    OPT(struct ops_params, rows, "ops.rows", "512", 8, 1 << 16, "tokens", "tokens of a call"),
    OPT(struct ops_params, dim, "ops.dim", "288", 16, 1 << 14, "", "width of the model"),
    OPT(struct ops_params, hidden, "ops.hidden", "768", 16, 1 << 15, "", "width inside the MLP"),
    OPT(struct ops_params, heads, "ops.heads", "6", 1, 256, "", "attention heads"),
    OPT(struct ops_params, vocab, "ops.vocab", "4096", 16, 1 << 18, "", "vocabulary"),
    OPT(struct ops_params, rank, "ops.rank", "16", 1, 256, "", "rank of the adapter"),
    OPT(struct ops_params, seq, "ops.seq", "256", 1, 1 << 14, "tokens", "length of a sequence"),
};

// Inputs and outputs of all operations on one device, with rows of ld values.
struct bed {
    struct dev dev;
    const struct kernel_ops *op;
    const struct kernel_ctx *cx;
    int32_t m, ld, *tokens, *pos, *start;
    kernel_act *x, *dy, *u, *qkv, *out, *spare; // out, and each: what an operation writes
    float *w, *table, *adapter, *grad, *lse, *rstd, *weight, *each, *cosine, *sine;
    float *vector, *mean, *var, *ema, *vector_grad; // of the optimizer
    kernel_step *step;
    struct kernel_linear lin;
    struct kernel_seqs seqs;
    size_t n_out, n_vector, n_grad;
    float *wide;     // (n_out)
    void *block[32]; // all of the above
    int n_blocks;
};

static struct kernel_attn attn(void)
{
    int32_t dim = params.dim / params.heads;
    return (struct kernel_attn){.heads = params.heads,
                                .kv_heads = params.heads,
                                .head_dim = dim,
                                .scale = 1.0f / sqrtf((float)dim)};
}

static struct kernel_weight table_of(const struct bed *b)
{
    return (struct kernel_weight){
        .w = b->table, .rows = params.vocab, .cols = params.dim, .ld = params.dim};
}

static void do_copy(struct bed *b)
{
    size_t n = (size_t)(b->m * b->ld) * kernel_dtype_bytes(b->cx->act);
    b->dev.row->copy(&b->dev, 0, b->out, b->x, n);
}

static void do_embed(struct bed *b)
{
    struct kernel_weight t = table_of(b);
    b->op->embed_fwd(b->cx, &t, b->tokens, b->m, b->out, b->ld);
}

static void do_embed_sq(struct bed *b)
{
    b->op->embed_bwd(b->cx, b->x, b->ld, b->tokens, b->m, params.dim, b->each, NULL);
}

static void do_norm(struct bed *b)
{
    b->op->rmsnorm_fwd(b->cx, b->x, b->ld, b->w, b->m, params.dim, 1e-5f, b->out, b->ld, NULL);
}

static void do_norm_back(struct bed *b)
{
    b->op->rmsnorm_bwd(b->cx, b->dy, b->ld, b->x, b->ld, b->w, b->rstd, b->m, params.dim, b->out,
                       b->ld, NULL);
}

static void do_rope(struct bed *b)
{
    struct kernel_rope r = {b->cosine,        b->sine, 2 * params.heads, params.dim / params.heads,
                            KERNEL_ROPE_HALF, 1.0f};
    b->op->rope(b->cx, &r, b->pos, b->m, b->out, b->ld);
}

static void do_linear(struct bed *b)
{
    b->op->linear_fwd(b->cx, &b->lin, b->adapter, b->x, b->ld, b->m, NULL, b->out, b->ld, b->u,
                      b->ld);
}

static void do_linear_back(struct bed *b)
{
    b->op->linear_bwd(b->cx, &b->lin, b->adapter, b->dy, b->ld, b->x, b->ld, b->u, b->ld, b->m,
                      NULL, b->out, b->ld, b->grad, NULL);
}

static void do_attention(struct bed *b)
{
    struct kernel_attn a = attn();
    b->op->attention_fwd(b->cx, &a, &b->seqs, b->qkv, b->ld, b->out, b->ld, b->lse, NULL);
}

static void do_attention_back(struct bed *b)
{
    struct kernel_attn a = attn();
    b->op->attention_bwd(b->cx, &a, &b->seqs, b->qkv, b->ld, b->x, b->dy, b->ld, b->lse, b->out);
}

static void do_swiglu(struct bed *b)
{
    b->op->swiglu_fwd(b->cx, b->x, b->ld, b->m, params.hidden, b->out, b->ld);
}

static void do_swiglu_back(struct bed *b)
{
    b->op->swiglu_bwd(b->cx, b->x, b->ld, b->dy, b->ld, b->m, params.hidden, b->out);
}

static void do_head(struct bed *b)
{
    struct kernel_weight t = table_of(b);
    b->op->ce_head(b->cx, &t, b->x, b->ld, b->m, b->tokens, b->weight, b->each, NULL, b->out, b->ld,
                   NULL);
}

static size_t vector_values(const struct bed *b)
{
    return (size_t)(b->m * b->ld) / 3;
}

static void update(struct bed *b, const struct kernel_fisher *f)
{
    const struct kernel_optim h = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    const struct kernel_ranges all = {0};
    b->op->update(b->cx, &h, b->step, &all, 0, vector_values(b), b->vector, b->mean, b->var,
                  b->vector_grad, f);
}

static void do_update(struct bed *b)
{
    update(b, NULL);
}

static void do_update_ema(struct bed *b)
{
    const struct kernel_fisher f = {.ema = b->ema, .rho = 0.9f};
    update(b, &f);
}

static void do_fisher(struct bed *b)
{
    const struct kernel_fisher f = {.ema = b->ema, .rho = 0.9f};
    b->op->fisher(b->cx, &f, b->vector_grad, vector_values(b));
}

// Work of one row, in floats moved and in operations.
struct op_row {
    const char *name;
    void (*run)(struct bed *b);
    double (*floats)(void), (*flops)(void);
};

#define OF(name, expression)                                                                       \
    static double name(void)                                                                       \
    {                                                                                              \
        double d = params.dim, h = params.hidden, r = params.rank, v = params.vocab;               \
        double t = params.seq;                                                                     \
        (void)d, (void)h, (void)r, (void)v, (void)t;                                               \
        return expression;                                                                         \
    }
OF(none, 0)
OF(whole, 2 * (3 * d > 2 * h ? 3 * d : 2 * h))
OF(two_dim, 2 * d)
OF(one_dim, d)
OF(four_dim, 4 * d)
OF(turned, 4 * d)
OF(three_hidden, 3 * h)
OF(five_hidden, 5 * h)
OF(linear_flops, 2 * (3 * d * d + 3 * r * d + 3 * r * d))
OF(linear_back_flops, 2 * (3 * d * d + 4 * 3 * r * d))
OF(attention_flops, 2 * t * d)
OF(attention_back_flops, 5 * t * d)
OF(head_flops, 4 * v * d)
OF(update_floats, 7.0 / 3 * (3 * d > 2 * h ? 3 * d : 2 * h))
OF(update_ema_floats, 9.0 / 3 * (3 * d > 2 * h ? 3 * d : 2 * h))
OF(fisher_floats, 3.0 / 3 * (3 * d > 2 * h ? 3 * d : 2 * h))

static const struct op_row rows[] = {
    {"copy", do_copy, whole, none},
    {"embed_fwd", do_embed, two_dim, none},
    {"embed_bwd+sq", do_embed_sq, one_dim, none},
    {"rmsnorm_fwd", do_norm, two_dim, none},
    {"rmsnorm_bwd", do_norm_back, four_dim, none},
    {"rope", do_rope, turned, none},
    {"linear_fwd", do_linear, none, linear_flops},
    {"linear_bwd", do_linear_back, none, linear_back_flops},
    {"attention_fwd", do_attention, none, attention_flops},
    {"attention_bwd", do_attention_back, none, attention_back_flops},
    {"swiglu_fwd", do_swiglu, three_hidden, none},
    {"swiglu_bwd", do_swiglu_back, five_hidden, none},
    {"ce_head", do_head, none, head_flops},
    {"update", do_update, update_floats, none},
    {"update+ema", do_update_ema, update_ema_floats, none},
    {"fisher", do_fisher, fisher_floats, none},
};

// A block of the device for n values of this size.
static void *block(struct bed *b, size_t n, size_t size)
{
    void *p = b->dev.row->alloc(&b->dev, MEM_OTHER, (n + KERNEL_SLACK) * size);
    if (b->n_blocks == (int)ARRAY_LEN(b->block))
        die(STATUS_CHECK, "bench ops: more blocks than places");
    return b->block[b->n_blocks++] = p;
}

static void *put(struct bed *b, const void *x, size_t n, size_t size)
{
    void *p = block(b, n, size);
    dev_put(&b->dev, p, x, n * size);
    return p;
}

// Random values, the same ones in every bed; as activations where act says so.
static void *draw(struct bed *b, uint32_t id, size_t n, double scale, bool act)
{
    int32_t dtype = act ? b->cx->act : KERNEL_F32;
    struct rng r = rng_stream(1, RNG_TEST, 3, id, 0);
    float *x = mem_alloc(MEM_OTHER, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * (rng_unit(&r) - 0.5));
    kernel_from_f32(dtype, x, n, x);
    void *p = put(b, x, n, kernel_dtype_bytes(dtype));
    mem_free(x);
    return p;
}

static float *filled(struct bed *b, size_t n, float value)
{
    float *x = mem_alloc(MEM_OTHER, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = value;
    float *p = put(b, x, n, sizeof *x);
    mem_free(x);
    return p;
}

static void bed_rows(struct bed *b, int32_t m)
{
    int32_t *start = mem_alloc(MEM_OTHER, (size_t)(m + 1) * sizeof *start);
    b->m = m;
    b->seqs = (struct kernel_seqs){
        .rows = m, .longest = m < params.seq ? m : params.seq, .start = b->start};
    for (int32_t i = 0; i < m; i += params.seq)
        start[b->seqs.n++] = i;
    start[b->seqs.n] = m;
    dev_put(&b->dev, b->start, start, (size_t)(b->seqs.n + 1) * sizeof *start);
    mem_free(start);
}

// As everything was before the first operation.
static void bed_fill(struct bed *b)
{
    size_t n = b->n_vector, dim = (size_t)params.dim, m = (size_t)b->m;
    int32_t *token = mem_alloc(MEM_OTHER, 2 * m * sizeof *token), *pos = token + m;
    struct rng g = rng_stream(1, RNG_TEST, 3, 0, 0);
    for (size_t i = 0; i < m; i++) {
        token[i] = (int32_t)rng_below(&g, (uint32_t)params.vocab);
        pos[i] = (int32_t)(i % 64);
    }
    b->tokens = put(b, token, m, sizeof *token);
    b->pos = put(b, pos, m, sizeof *pos);
    mem_free(token);
    b->start = block(b, m + 1, sizeof *b->start);
    kernel_act **act[] = {&b->x, &b->dy, &b->qkv, &b->u, &b->out, &b->spare};
    for (uint32_t i = 0; i < ARRAY_LEN(act); i++)
        *act[i] = draw(b, 10 + i, b->n_out, 2, true);
    b->w = draw(b, 20, 3 * dim * dim, 0.2, false);
    b->table = draw(b, 21, (size_t)params.vocab * dim, 0.2, false);
    b->adapter = draw(b, 22, b->n_grad, 0.2, false);
    b->grad = filled(b, b->n_grad, 0);
    b->wide = block(b, b->n_out, sizeof *b->wide);
    b->weight = draw(b, 23, m, 1, false);
    b->rstd = filled(b, m, 1);
    b->lse = filled(b, m * (size_t)params.heads, 0);
    b->each = filled(b, m, 0);
    b->cosine = filled(b, 64 * dim, 0.6f); // a turn, so that repeating it leaves sizes as they are
    b->sine = filled(b, 64 * dim, 0.8f);
    b->vector = draw(b, 24, n, 1, false);
    b->vector_grad = draw(b, 25, n, 1, false);
    b->mean = draw(b, 26, n, 1, false);
    b->var = filled(b, n, 0.5f);
    b->ema = filled(b, n, 0.5f);
    const kernel_step step = {.lr = 1e-3f, .scale = 1, .correct1 = 1, .correct2 = 1};
    b->step = put(b, &step, 1, sizeof step);
}

static void bed_open(struct bed *b, int32_t kind, int32_t m)
{
    const struct ops_params *p = &params;
    struct err err = {""};
    int32_t widest = 3 * p->dim > 2 * p->hidden ? 3 * p->dim : 2 * p->hidden;
    *b = (struct bed){
        .m = m, .ld = (widest + 15) / 16 * 16 + 16, .n_grad = 6 * (size_t)p->rank * (size_t)p->dim};
    if (dev_open(&b->dev, kind, 1, &err))
        die(STATUS_ENV, "%s", err.text);
    dev_reserve(&b->dev, kernel_work_floats(m, p->seq, widest, 3 * p->rank, p->dim / p->heads), 1);
    b->op = b->dev.ops;
    b->cx = &b->dev.lane[0].cx;
    b->n_out = (size_t)m * (size_t)b->ld;
    b->n_vector = b->n_out / 3;
    bed_fill(b);
    bed_rows(b, m);
    b->lin =
        (struct kernel_linear){.w = {.w = b->w, .rows = 3 * p->dim, .cols = p->dim, .ld = p->dim},
                               .n_lora = 3,
                               .ranks = 3 * p->rank,
                               .scale = 1.0f};
    size_t at = (size_t)(3 * p->rank) * (size_t)p->dim;
    for (int i = 0; i < 3; i++, at += (size_t)p->dim * (size_t)p->rank)
        b->lin.lora[i] =
            (struct kernel_lora){.row0 = i * p->dim, .rows = p->dim, .rank = p->rank, .b = at};
}

static void bed_close(struct bed *b)
{
    for (int i = 0; i < b->n_blocks; i++)
        b->dev.row->free(&b->dev, b->block[i]);
    dev_close(&b->dev);
}

struct timed {
    struct bed *bed;
    const struct op_row *row;
};

static void loop(void *arg, int64_t n)
{
    const struct timed *t = arg;
    for (int64_t i = 0; i < n; i++)
        t->row->run(t->bed);
    t->bed->dev.row->wait(&t->bed->dev, 0);
    bench_use(t->bed->out);
}

// What attention's backward needs of its forward.
static void sums_of_attention(struct bed *b)
{
    kernel_act *out = b->out;
    b->out = b->spare;
    do_attention(b);
    b->out = out;
}

// All that a row's operation may have written, in fp32.
static float *written(struct bed *b, size_t *n)
{
    const struct {
        const float *x;
        size_t n;
    } part[] = {{b->wide, (size_t)(b->m * b->ld)},
                {b->vector, vector_values(b)},
                {b->ema, vector_values(b)},
                {b->grad, b->n_grad},
                {b->each, (size_t)b->m}};
    *n = 0;
    for (size_t i = 0; i < ARRAY_LEN(part); i++)
        *n += part[i].n;
    float *x = mem_alloc(MEM_OTHER, *n * sizeof *x), *at = x;
    b->op->widen_rows(b->cx, b->out, b->ld, b->m, b->ld, b->wide);
    for (size_t i = 0; i < ARRAY_LEN(part); at += part[i++].n)
        dev_get(&b->dev, at, part[i].x, part[i].n * sizeof *x);
    return x;
}

// The largest difference of a few rows' output from the reference's, relative to the largest value.
static double error_of(int32_t kind, const struct op_row *row)
{
    float *x[2];
    size_t n = 0;
    for (int i = 0; i < 2; i++) {
        struct bed b;
        bed_open(&b, i ? kind : REF, 8);
        sums_of_attention(&b);
        row->run(&b);
        x[i] = written(&b, &n);
        bed_close(&b);
    }
    double most = 1e-30, apart = 0;
    for (size_t i = 0; i < n; i++) {
        double w = fabs((double)x[0][i]), d = fabs((double)x[0][i] - (double)x[1][i]);
        most = w > most ? w : most;
        apart = d > apart || d != d ? d : apart; // a NaN stays, which fmax would drop
    }
    mem_free(x[0]);
    mem_free(x[1]);
    return apart / most;
}

static void measure(struct bench_ctx *c, const struct table *t, struct bed *b,
                    const struct op_row *row)
{
    struct timed copy = {b, &rows[0]}, op = {b, row};
    struct bench_case cases[] = {{"copy", NULL, loop, &copy}, {row->name, NULL, loop, &op}};
    struct bench_result res[2];
    double apart = error_of(params.dev, row);
    sums_of_attention(b);
    bench_measure(c, cases, 2, res);
    double bytes = row->floats() * b->m * 4, flops = row->flops() * b->m;
    double copied = rows[0].floats() * b->m * 4 / res[0].ns.median;
    bool ok = apart < (b->dev.row->host ? 2e-5 : 1e-4); // others add in other orders
    char cell[7][32];
    snprintf(cell[0], sizeof cell[0], "%s", row->name);
    fmt_fixed(cell[1], res[1].ns.median / 1e3, 9, 1);
    fmt_fixed(cell[2], bytes > 0 ? bytes / res[1].ns.median : NAN, 8, 2);
    fmt_fixed(cell[3], bytes > 0 ? bytes / res[1].ns.median / copied : NAN, 8, 2);
    fmt_fixed(cell[4], flops > 0 ? flops / res[1].ns.median : NAN, 8, 1);
    snprintf(cell[5], sizeof cell[5], "%.1e", apart);
    bench_row(
        c, t,
        (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], bench_check(c, ok)});
    struct bench_counter count[] = {{"error", apart},
                                    {"flop_per_s", 1e9 * flops / res[1].ns.median}};
    bench_report(c, row->name, &res[1], (int64_t)bytes, count, 2,
                 ok ? NULL : "differs from the reference");
}

static void run(struct bench_ctx *c)
{
    const struct table t = {.out = c->out,
                            .n_cols = 7,
                            .col = {{"Operation", "", 14, TABLE_LEFT},
                                    {"Time", "us", 9, TABLE_RIGHT},
                                    {"Moved", "GB/s", 8, TABLE_RIGHT},
                                    {"of copy", "", 8, TABLE_RIGHT},
                                    {"Arithmetic", "GFLOP/s", 8, TABLE_RIGHT},
                                    {"Error", "", 8, TABLE_RIGHT},
                                    {"Validation", "", 10, TABLE_RIGHT}}};
    struct bed b;
    if (params.dim % (2 * params.heads))
        die(STATUS_USAGE, "ops.dim = %d does not part into %d heads of even width", params.dim,
            params.heads);
    bed_open(&b, params.dev, params.rows);
    fprintf(c->out,
            "# %d rows, dim %d, hidden %d, %d heads, vocabulary %d, rank %d, sequences of %d; "
            "on %s%s%s\n",
            params.rows, params.dim, params.hidden, params.heads, params.vocab, params.rank,
            params.seq, b.dev.row->name, b.dev.row->host ? ", kernels " : "",
            b.dev.row->host ? simd_text() : "");
    fprintf(c->out, b.dev.row->host ? "# one thread\n"
                                    : "# time: from the first of many launches to the end of the "
                                      "last, divided by their number\n");
    bench_size(c, params.rows, "rows");
    bench_head(c, &t);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        measure(c, &t, &b, &rows[i]);
    bed_close(&b);
}

const struct bench bench_ops = {
    .name = "ops",
    .help = "each training operation alone, against a copy of memory and its plain reference",
    .ranks = 1,
    .opts = options,
    .n_opts = (int)ARRAY_LEN(options),
    .params = &params,
    .run = run,
};
