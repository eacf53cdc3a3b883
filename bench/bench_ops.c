// Each operation of the training kernels alone: time, bytes against a copy of memory, arithmetic,
// and its distance from the plain reference.
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/table.h"
#include "bench/bench.h"
#include "dev/dev.h"

#include <math.h>
#include <string.h>

struct ops_params {
    int32_t rows, dim, hidden, heads, vocab, rank, seq;
};

static struct ops_params params;

static const struct opt options[] = {
    OPT(struct ops_params, rows, "ops.rows", "512", 8, 1 << 16, "tokens", "rows of a call"),
    OPT(struct ops_params, dim, "ops.dim", "288", 16, 1 << 14, "", "width"),
    OPT(struct ops_params, hidden, "ops.hidden", "768", 16, 1 << 15, "", "width inside the MLP"),
    OPT(struct ops_params, heads, "ops.heads", "6", 1, 256, "", "attention heads"),
    OPT(struct ops_params, vocab, "ops.vocab", "4096", 16, 1 << 18, "", "vocabulary"),
    OPT(struct ops_params, rank, "ops.rank", "16", 1, 256, "", "rank of the adapter"),
    OPT(struct ops_params, seq, "ops.seq", "256", 1, 1 << 14, "tokens", "length of a sequence"),
};

// Inputs and outputs of all operations, with rows of ld floats.
struct bed {
    const struct kernel_ops *op;
    struct kernel_ctx cx;
    int32_t m, ld, *tokens, *pos, *start;
    float *x, *dy, *w, *table, *adapter, *grad, *u, *qkv, *lse, *rstd, *weight, *moments;
    float *cosine, *sine;
    float *out, *copy; // what an operation writes, and a second place for it
    struct kernel_linear lin;
    struct kernel_seqs seqs;
    size_t n_adapter;
};

static struct kernel_attn attn(void)
{
    int32_t dim = params.dim / params.heads;
    return (struct kernel_attn){.heads = params.heads,
                                .kv_heads = params.heads,
                                .head_dim = dim,
                                .scale = 1.0f / sqrtf((float)dim)};
}

static void do_copy(struct bed *b)
{
    memcpy(b->out, b->x, (size_t)(b->m * b->ld) * sizeof *b->x);
}

static void do_embed(struct bed *b)
{
    struct kernel_weight t = {
        .w = b->table, .rows = params.vocab, .cols = params.dim, .ld = params.dim};
    b->op->embed_fwd(&b->cx, &t, b->tokens, b->m, b->out, b->ld);
}

static void do_embed_sq(struct bed *b)
{
    b->op->embed_bwd(&b->cx, b->x, b->ld, b->tokens, b->m, params.dim, b->out, NULL);
}

static void do_norm(struct bed *b)
{
    b->op->rmsnorm_fwd(&b->cx, b->x, b->ld, b->w, b->m, params.dim, 1e-5f, b->out, b->ld, NULL);
}

static void do_norm_back(struct bed *b)
{
    b->op->rmsnorm_bwd(&b->cx, b->dy, b->ld, b->x, b->ld, b->w, b->rstd, b->m, params.dim, b->out,
                       b->ld, NULL);
}

static void do_rope(struct bed *b)
{
    struct kernel_rope r = {b->cosine,        b->sine, 2 * params.heads, params.dim / params.heads,
                            KERNEL_ROPE_HALF, 1.0f};
    b->op->rope(&b->cx, &r, b->pos, b->m, b->out, b->ld);
}

static void do_linear(struct bed *b)
{
    b->op->linear_fwd(&b->cx, &b->lin, b->adapter, b->x, b->ld, b->m, NULL, b->out, b->ld, b->u,
                      b->ld);
}

static void do_linear_back(struct bed *b)
{
    b->op->linear_bwd(&b->cx, &b->lin, b->adapter, b->dy, b->ld, b->x, b->ld, b->u, b->ld, b->m,
                      NULL, b->out, b->ld, b->grad, NULL);
}

static void do_attention(struct bed *b)
{
    struct kernel_attn a = attn();
    b->op->attention_fwd(&b->cx, &a, &b->seqs, b->qkv, b->ld, b->out, b->ld, b->lse, NULL);
}

static void do_attention_back(struct bed *b)
{
    struct kernel_attn a = attn();
    b->op->attention_bwd(&b->cx, &a, &b->seqs, b->qkv, b->ld, b->x, b->dy, b->ld, b->lse, b->out);
}

static void do_swiglu(struct bed *b)
{
    b->op->swiglu_fwd(&b->cx, b->x, b->ld, b->m, params.hidden, b->out, b->ld);
}

static void do_swiglu_back(struct bed *b)
{
    b->op->swiglu_bwd(&b->cx, b->x, b->ld, b->dy, b->ld, b->m, params.hidden, b->out);
}

static void do_head(struct bed *b)
{
    struct kernel_weight t = {
        .w = b->table, .rows = params.vocab, .cols = params.dim, .ld = params.dim};
    b->op->ce_head(&b->cx, &t, b->x, b->ld, b->m, b->tokens, b->weight, b->lse, NULL, b->out, b->ld,
                   NULL);
}

static void do_adamw(struct bed *b)
{
    struct kernel_adamw h = {1e-3f, 0.9f, 0.999f, 1e-8f, 0, 1, 1, 1};
    size_t n = (size_t)(b->m * b->ld) / 3;
    b->op->adamw(&b->cx, &h, b->out, b->out + n, b->moments, b->x, n);
}

static void do_fisher(struct bed *b)
{
    size_t n = (size_t)(b->m * b->ld) / 3;
    struct kernel_fisher f = {.ema = b->moments + n, .rho = 0.9f};
    b->op->fisher(&b->cx, &f, b->x, n);
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
OF(adamw_floats, 7.0 / 3 * (3 * d > 2 * h ? 3 * d : 2 * h))
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
    {"adamw", do_adamw, adamw_floats, none},
    {"fisher", do_fisher, fisher_floats, none},
};

static float *floats(size_t n, double scale, struct rng *r)
{
    float *x = mem_alloc(MEM_OTHER, (n + KERNEL_SLACK) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * (rng_unit(r) - 0.5));
    return x;
}

static void bed_open(struct bed *b)
{
    const struct ops_params *p = &params;
    struct rng r = rng_stream(1, RNG_TEST, 3, 0, 0);
    int32_t widest = 3 * p->dim > 2 * p->hidden ? 3 * p->dim : 2 * p->hidden;
    int32_t seqs = (p->rows + p->seq - 1) / p->seq;
    b->m = p->rows;
    b->ld = (widest + 15) / 16 * 16 + 16;
    size_t all = (size_t)b->m * (size_t)b->ld, m = (size_t)b->m, dim = (size_t)p->dim;
    float **place[] = {&b->x, &b->dy, &b->qkv, &b->u, &b->moments, &b->out, &b->copy};
    for (size_t i = 0; i < ARRAY_LEN(place); i++)
        *place[i] = floats(all, 2, &r);
    for (size_t i = 0; i < all; i++)
        b->moments[i] = fabsf(b->moments[i]);
    b->w = floats(3 * dim * dim, 0.2, &r);
    b->table = floats((size_t)p->vocab * dim, 0.2, &r);
    b->rstd = floats(m, 0, &r);
    b->cosine = floats(64 * dim, 0, &r);
    b->sine = floats(64 * dim, 0, &r);
    for (size_t i = 0; i < 64 * dim; i++) { // a turn, so that repeating it leaves sizes as they are
        b->cosine[i] = 0.6f;
        b->sine[i] = 0.8f;
    }
    b->weight = floats(m, 1, &r);
    b->lse = floats(m * (size_t)p->heads, 0, &r);
    b->tokens = mem_alloc(MEM_OTHER, m * sizeof *b->tokens);
    b->pos = mem_alloc(MEM_OTHER, m * sizeof *b->pos);
    b->start = mem_alloc(MEM_OTHER, ((size_t)seqs + 1) * sizeof *b->start);
    for (int32_t i = 0; i < b->m; i++) {
        b->tokens[i] = (int32_t)rng_below(&r, (uint32_t)p->vocab);
        b->pos[i] = i % 64;
        b->rstd[i] = 1.0f;
    }
    b->lin =
        (struct kernel_linear){.w = {.w = b->w, .rows = 3 * p->dim, .cols = p->dim, .ld = p->dim},
                               .n_lora = 3,
                               .ranks = 3 * p->rank,
                               .scale = 1.0f};
    size_t at = (size_t)(3 * p->rank) * dim;
    for (int i = 0; i < 3; i++, at += dim * (size_t)p->rank)
        b->lin.lora[i] =
            (struct kernel_lora){.row0 = i * p->dim, .rows = p->dim, .rank = p->rank, .b = at};
    b->n_adapter = at;
    b->adapter = floats(at, 0.2, &r);
    b->grad = floats(at, 0, &r);
    b->cx.work_floats = kernel_work_floats(b->m, p->seq, widest, 3 * p->rank, p->dim / p->heads);
    b->cx.work = mem_alloc(MEM_OTHER, b->cx.work_floats * sizeof(float));
}

static void bed_rows(struct bed *b, int32_t m)
{
    b->m = m;
    b->seqs.n = 0;
    for (int32_t i = 0; i < m; i += params.seq)
        b->start[b->seqs.n++] = i;
    b->start[b->seqs.n] = m;
    b->seqs.start = b->start;
    b->seqs.rows = m;
    b->seqs.longest = m < params.seq ? m : params.seq;
}

static void bed_close(struct bed *b)
{
    void *all[] = {b->x,      b->dy,  b->w,     b->table,   b->adapter, b->grad, b->u,
                   b->qkv,    b->lse, b->rstd,  b->weight,  b->moments, b->out,  b->copy,
                   b->tokens, b->pos, b->start, b->cx.work, b->cosine,  b->sine};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
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
    bench_use(t->bed->out);
}

// The largest difference of a few rows' output from the reference's, relative to the largest value.
static double error_of(struct bed *b, const struct op_row *row)
{
    size_t n = (size_t)b->ld * 8;
    double most = 1e-30, apart = 0;
    float *moments = mem_alloc(MEM_OTHER, n * sizeof *moments);
    memcpy(moments, b->moments, n * sizeof *moments);
    bed_rows(b, 8);
    memcpy(b->out, b->copy, n * sizeof *b->out);
    b->op = dev_table[1]->ops;
    do_attention(b); // makes the sums that its backward needs
    memcpy(b->out, b->copy, n * sizeof *b->out);
    row->run(b);
    float *want = mem_alloc(MEM_OTHER, n * sizeof *want);
    memcpy(want, b->out, n * sizeof *want);
    memcpy(b->out, b->copy, n * sizeof *b->out);
    memcpy(b->moments, moments, n * sizeof *moments);
    b->op = dev_table[0]->ops;
    row->run(b);
    for (size_t i = 0; i < n; i++) {
        double w = fabs((double)want[i]), d = fabs((double)want[i] - (double)b->out[i]);
        most = w > most ? w : most;
        apart = d > apart || d != d ? d : apart; // a NaN stays, which fmax would drop
    }
    mem_free(want);
    mem_free(moments);
    return apart / most;
}

static void measure(struct bench_ctx *c, const struct table *t, struct bed *b,
                    const struct op_row *row)
{
    struct timed copy = {b, &rows[0]}, op = {b, row};
    struct bench_case cases[] = {{"copy", NULL, loop, &copy}, {row->name, NULL, loop, &op}};
    struct bench_result res[2];
    double apart = error_of(b, row);
    bed_rows(b, params.rows);
    do_attention(b);
    bench_measure(c, cases, 2, res);
    double bytes = row->floats() * b->m * 4, flops = row->flops() * b->m;
    double copied = rows[0].floats() * b->m * 4 / res[0].ns.median;
    bool ok = apart < 2e-5;
    char cell[7][32];
    snprintf(cell[0], sizeof cell[0], "%s", row->name);
    fmt_fixed(cell[1], res[1].ns.median / 1e3, 9, 1);
    fmt_fixed(cell[2], bytes > 0 ? bytes / res[1].ns.median : NAN, 8, 2);
    fmt_fixed(cell[3], bytes > 0 ? bytes / res[1].ns.median / copied : NAN, 8, 2);
    fmt_fixed(cell[4], flops > 0 ? flops / res[1].ns.median : NAN, 8, 1);
    snprintf(cell[5], sizeof cell[5], "%.1e", apart);
    table_row(t, (const char *[]){cell[0], cell[1], cell[2], cell[3], cell[4], cell[5],
                                  bench_check(c, ok)});
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
    struct bed b = {0};
    if (params.dim % (2 * params.heads))
        die(STATUS_USAGE, "ops.dim = %d does not part into %d heads of even width", params.dim,
            params.heads);
    bed_open(&b);
    b.op = dev_table[0]->ops;
    fprintf(c->out,
            "# %d rows, dim %d, hidden %d, %d heads, vocabulary %d, rank %d, sequences of %d; "
            "kernels %s, one thread\n",
            params.rows, params.dim, params.hidden, params.heads, params.vocab, params.rank,
            params.seq, kernel_isa_text());
    table_head(&t);
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
