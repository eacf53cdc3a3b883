// Causal attention with grouped queries, in blocks of query rows: memory is a block times the keys,
// so it grows with T and not with T^2. Probabilities are made again in backward from the kept
// log-sums.
#ifdef SIMD_LANES // read for each instruction set

// Turns scores into exp(s - max) over the first n keys and 0 up to width; returns the sum. Rows may
// be read and written up to the next multiple of 16.
SIMD_INLINE float SIMD_NAME(softmax_row)(float *s, int32_t n, int32_t width, float *top)
{
    simd_f most[SIMD_PIECES];
    for (int p = 0; p < SIMD_PIECES; p++)
        most[p] = (simd_f){0} - INFINITY;
    for (int32_t j = 0; j < n; j += SIMD_WIDE)
        for (int p = 0; p < SIMD_PIECES; p++) {
            int32_t at = j + p * SIMD_LANES;
            simd_f v = *simd_of(s + at);
            if (n - at < SIMD_LANES)
                simd_keep(&v, n - at, -INFINITY);
            simd_max(&most[p], &v);
        }
    float m = simd_top(most);
    simd_f sum[SIMD_PIECES] = {{0}};
    int32_t j = 0;
    for (; j < n; j += SIMD_WIDE)
        for (int p = 0; p < SIMD_PIECES; p++) {
            int32_t at = j + p * SIMD_LANES;
            simd_f v = *simd_of(s + at) - m;
            simd_exp(&v);
            if (n - at < SIMD_LANES)
                simd_keep(&v, n - at, 0.0f);
            sum[p] += v;
            *simd_at(s + at) = v;
        }
    for (; j < width; j += SIMD_LANES)
        *simd_at(s + j) = (simd_f){0};
    *top = m;
    return simd_sum(sum);
}

// Rows [q0, q0 + n) of a block: softmax, and what each row is to be divided by.
SIMD_KERNEL void SIMD_NAME(softmax_block)(float *s, ptrdiff_t lds, int32_t q0, int32_t n,
                                          float *inverse, float *lse, float *received)
{
    int32_t width = q0 + n;
    for (int32_t i = 0; i < n; i++) {
        float top, sum = SIMD_NAME(softmax_row)(s + i * lds, q0 + i + 1, width, &top);
        inverse[i] = 1.0f / sum;
        lse[i] = top + logf(sum);
        for (int32_t j = 0; j <= q0 + i && received; j++)
            received[j] += s[i * lds + j] * inverse[i];
    }
}

// p = exp(s - lse), ds = p (dp - d) scale, with 0 beyond the diagonal; dp is replaced by ds.
SIMD_KERNEL void SIMD_NAME(scores_back)(float *s, float *dp, ptrdiff_t lds, int32_t q0, int32_t n,
                                        const float *lse, const float *d, float scale)
{
    for (int32_t i = 0; i < n; i++) {
        float *p = s + i * lds, *g = dp + i * lds;
        int32_t valid = q0 + i + 1, width = q0 + n, j = 0;
        for (; j < valid; j += SIMD_LANES) {
            simd_f x = *simd_of(p + j) - lse[i], y = *simd_of(g + j);
            simd_exp(&x);
            if (valid - j < SIMD_LANES) {
                simd_keep(&x, valid - j, 0.0f);
                simd_keep(&y, valid - j, 0.0f);
            }
            *simd_at(p + j) = x;
            *simd_at(g + j) = x * (y - d[i]) * scale;
        }
        for (; j < width; j += SIMD_LANES) {
            *simd_at(p + j) = (simd_f){0};
            *simd_at(g + j) = (simd_f){0};
        }
    }
}

// nv vectors of the mean of n rows by their weights, in registers; nv is a constant where this is
// inlined.
SIMD_INLINE void SIMD_NAME(weigh)(const int nv, const float *s, const float *v, ptrdiff_t ld,
                                  int32_t n, float total, float *out)
{
    simd_f sum[8];
    for (int i = 0; i < nv; i++)
        sum[i] = (simd_f){0};
    for (int32_t j = 0; j < n; j++)
        for (int i = 0; i < nv; i++)
            sum[i] += s[j] * *simd_of(v + j * ld + i * SIMD_LANES);
    for (int i = 0; i < nv; i++)
        *simd_at(out + i * SIMD_LANES) = sum[i] / total;
}

// One query against a cache.
SIMD_KERNEL void SIMD_NAME(step_head)(const float *q, const float *k, const float *v, ptrdiff_t ld,
                                      const float *log_size, int32_t n, int32_t dim, float scale,
                                      float *s, float *out)
{
    for (int32_t j = 0; j < n; j++) {
        const float *key = k + j * ld;
        simd_f sum[SIMD_PIECES] = {{0}};
        int32_t c = 0;
        for (; c + SIMD_WIDE <= dim; c += SIMD_WIDE)
            for (int p = 0; p < SIMD_PIECES; p++)
                sum[p] += *simd_of(q + c + p * SIMD_LANES) * *simd_of(key + c + p * SIMD_LANES);
        for (int p = 0; p < SIMD_PIECES && c < dim; p++, c += SIMD_LANES) {
            simd_f x, y;
            simd_load_part(&x, q + c, dim - c, 0.0f);
            simd_load_part(&y, key + c, dim - c, 0.0f);
            sum[p] += x * y;
        }
        s[j] = simd_sum(sum) * scale;
        if (log_size)
            s[j] += log_size[j];
    }
    float top, total = SIMD_NAME(softmax_row)(s, n, n, &top);
    int32_t c = 0;
    for (; c + 8 * SIMD_LANES <= dim; c += 8 * SIMD_LANES)
        SIMD_NAME(weigh)(8, s, v + c, ld, n, total, out + c);
    for (; c + 4 * SIMD_LANES <= dim; c += 4 * SIMD_LANES)
        SIMD_NAME(weigh)(4, s, v + c, ld, n, total, out + c);
    for (; c + SIMD_LANES <= dim; c += SIMD_LANES)
        SIMD_NAME(weigh)(1, s, v + c, ld, n, total, out + c);
    for (; c < dim; c++) {
        float sum = 0;
        for (int32_t j = 0; j < n; j++)
            sum += s[j] * v[j * ld + c];
        out[c] = sum / total;
    }
}

#else

#include "act.h"
#include "gemm.h"
#include "simd.h"

#include <assert.h>
#include <math.h>

#define SIMD_FILE "attention.c"
#include "simd_each.h"

enum { Q_ROWS = 48 };

// One head of one sequence, as rows of the qkv buffer.
struct head {
    const float *q, *k, *v;
    const float *log_size; // (len) or NULL
    ptrdiff_t ld;
    int32_t len, dim, window;
};

// The first key that query i sees.
static int32_t first_key(int32_t window, int32_t i)
{
    return window > 0 && i >= window ? i - window + 1 : 0;
}

static int32_t round_up(int32_t n, int32_t to)
{
    return (n + to - 1) / to * to;
}

// Head h of the sequence that begins at this row of qkv.
static struct head head_of(const struct kernel_attn *a, const float *qkv, ptrdiff_t ld, int32_t row,
                           int32_t len, int32_t h)
{
    int32_t kv = h / (a->heads / a->kv_heads);
    const float *rows = qkv + row * ld;
    return (struct head){.q = rows + h * a->head_dim,
                         .k = rows + (a->heads + kv) * a->head_dim,
                         .v = rows + (a->heads + a->kv_heads + kv) * a->head_dim,
                         .log_size = a->log_size ? a->log_size + row : NULL,
                         .ld = ld,
                         .len = len,
                         .dim = a->head_dim,
                         .window = a->window};
}

// rows of a (n, dim) times the packed transpose of all keys or values, for the first keys of them.
static void times_packed(const struct head *h, const float *a, ptrdiff_t lda, int32_t n,
                         const float *packed, int32_t keys, float alpha, float *c, ptrdiff_t ldc)
{
    int32_t wide = round_up(keys, GEMM_PANEL);
    struct gemm g = {.m = n,
                     .n = wide < h->len ? wide : h->len,
                     .k = h->dim,
                     .a = a,
                     .rsa = lda,
                     .csa = 1,
                     .b = {.packed = packed},
                     .c = c,
                     .ldc = ldc,
                     .alpha = alpha};
    gemm(&g, NULL);
}

// c (m, dim) = [c +] p b, p (m, k) given by its two strides, b rows of the qkv buffer or of its
// gradient's.
static void times_rows(const float *p, ptrdiff_t rs, ptrdiff_t cs, int32_t m, int32_t k,
                       const float *b, ptrdiff_t ldb, int32_t dim, bool accumulate, float *c,
                       ptrdiff_t ldc)
{
    struct gemm g = {.m = m,
                     .n = dim,
                     .k = k,
                     .a = p,
                     .rsa = rs,
                     .csa = cs,
                     .b = {.w = b, .ld = ldb, .dtype = KERNEL_F32, .readable = true},
                     .c0 = accumulate ? c : NULL,
                     .ldc0 = ldc,
                     .c = c,
                     .ldc = ldc,
                     .alpha = 1.0f};
    gemm(&g, NULL);
}

// Proportional attention: a key that stands for several tokens counts as often. Keys before the
// window of queries from q0 on do not count.
static void add_log_size(const struct head *h, float *s, ptrdiff_t lds, int32_t q0, int32_t n)
{
    int32_t keys = q0 + n;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < first_key(h->window, q0 + i); j++)
            s[i * lds + j] = -INFINITY;
    for (int32_t i = 0; i < n && h->log_size; i++)
        for (int32_t j = 0; j < keys; j++)
            s[i * lds + j] += h->log_size[j];
}

static void scale_rows(float *c, ptrdiff_t ldc, int32_t m, int32_t cols, const float *by)
{
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < cols; j++)
            c[i * ldc + j] *= by[i];
}

static void pack_keys(const float *rows, ptrdiff_t ld, int32_t len, int32_t dim, float *packed)
{
    struct gemm_mat b = {.w = rows, .ld = ld, .dtype = KERNEL_F32, .trans = true};
    gemm_pack(&b, 0, dim, 0, len, packed);
}

static void head_fwd(const struct head *h, float scale, const float *keys, float *s, float *out,
                     ptrdiff_t ldo, float *lse, float *received)
{
    ptrdiff_t lds = round_up(h->len, GEMM_PANEL);
    for (int32_t q0 = 0; q0 < h->len; q0 += Q_ROWS) {
        int32_t n = h->len - q0 < Q_ROWS ? h->len - q0 : Q_ROWS;
        float inverse[Q_ROWS];
        times_packed(h, h->q + q0 * h->ld, h->ld, n, keys, q0 + n, scale, s, lds);
        add_log_size(h, s, lds, q0, n);
        SIMD_PICK(softmax_block, (s, lds, q0, n, inverse, lse + q0, received));
        times_rows(s, lds, 1, n, q0 + n, h->v, h->ld, h->dim, false, out + q0 * ldo, ldo);
        scale_rows(out + q0 * ldo, ldo, n, h->dim, inverse);
    }
}

// One call: a part of it is a head of a sequence.
struct forward {
    const struct kernel_ctx *cx;
    const struct kernel_attn *a;
    const struct kernel_seqs *seqs;
    const float *qkv;
    ptrdiff_t ldq;
    float *out;
    ptrdiff_t ldo;
    float *lse, *received;
    const struct kernel_team *team; // NULL: parts come in turn, and heads of a group find its keys
};

static void forward_part(void *arg, int32_t part, float *work)
{
    const struct forward *f = arg;
    const struct kernel_attn *a = f->a;
    int32_t q = part / a->heads, i = part % a->heads;
    int32_t row = f->seqs->start[q], len = f->seqs->start[q + 1] - row;
    float *keys = work ? work : f->cx->work, *s = keys + round_up(len, GEMM_PANEL) * a->head_dim;
    assert((size_t)(s - keys) + (size_t)round_up(len, GEMM_PANEL) * Q_ROWS <= f->cx->work_floats);
    struct head h = head_of(a, f->qkv, f->ldq, row, len, i);
    if (f->team || i % (a->heads / a->kv_heads) == 0)
        pack_keys(h.k, f->ldq, len, a->head_dim, keys);
    head_fwd(&h, a->scale, keys, s, f->out + row * f->ldo + i * a->head_dim, f->ldo,
             f->lse + (ptrdiff_t)i * f->seqs->rows + row, f->received ? f->received + row : NULL);
}

void attention_fwd_cpu(const struct kernel_ctx *cx, const struct kernel_attn *a,
                       const struct kernel_seqs *seqs, const kernel_act *qkv_act, ptrdiff_t ldq,
                       kernel_act *out_act, ptrdiff_t ldo, float *lse, float *received)
{
    struct forward f = {.cx = cx,
                        .a = a,
                        .seqs = seqs,
                        .qkv = act_in(qkv_act),
                        .ldq = ldq,
                        .out = act_out(out_act),
                        .ldo = ldo,
                        .lse = lse,
                        .received = received,
                        .team = received ? NULL : cx->team}; // summed in the order of heads
    size_t products = (size_t)seqs->rows * (size_t)seqs->longest * (size_t)(a->heads * a->head_dim);
    kernel_parts(f.team, products, seqs->n * a->heads, forward_part, &f);
}

static void row_dots(const float *a, const float *b, ptrdiff_t ld, int32_t m, int32_t cols,
                     float *out)
{
    for (int32_t i = 0; i < m; i++) {
        float sum = 0;
        for (int32_t j = 0; j < cols; j++)
            sum += a[i * ld + j] * b[i * ld + j];
        out[i] = sum;
    }
}

struct head_back {
    const float *keys, *values; // packed
    float *s, *dp;
    const float *out, *dout, *lse;
    ptrdiff_t ldo;
    float *dq, *dk, *dv; // (len, dim) with the strides of qkv; dk and dv are added to
    float scale;
};

static void head_bwd(const struct head *h, const struct head_back *b)
{
    ptrdiff_t lds = round_up(h->len, GEMM_PANEL);
    for (int32_t q0 = 0; q0 < h->len; q0 += Q_ROWS) {
        int32_t n = h->len - q0 < Q_ROWS ? h->len - q0 : Q_ROWS, keys = q0 + n;
        const float *dout = b->dout + q0 * b->ldo, *q = h->q + q0 * h->ld;
        float d[Q_ROWS];
        row_dots(dout, b->out + q0 * b->ldo, b->ldo, n, h->dim, d);
        times_packed(h, q, h->ld, n, b->keys, keys, b->scale, b->s, lds);
        add_log_size(h, b->s, lds, q0, n);
        times_packed(h, dout, b->ldo, n, b->values, keys, 1.0f, b->dp, lds);
        SIMD_PICK(scores_back, (b->s, b->dp, lds, q0, n, b->lse + q0, d, b->scale));
        times_rows(b->dp, lds, 1, n, keys, h->k, h->ld, h->dim, false, b->dq + q0 * h->ld, h->ld);
        times_rows(b->dp, 1, lds, keys, n, q, h->ld, h->dim, true, b->dk, h->ld);
        times_rows(b->s, 1, lds, keys, n, dout, b->ldo, h->dim, true, b->dv, h->ld);
    }
}

void attention_bwd_cpu(const struct kernel_ctx *cx, const struct kernel_attn *a,
                       const struct kernel_seqs *seqs, const kernel_act *qkv_act, ptrdiff_t ldq,
                       const kernel_act *out_act, const kernel_act *dout_act, ptrdiff_t ldo,
                       const float *lse, kernel_act *dqkv_act)
{
    const float *qkv = act_in(qkv_act), *out = act_in(out_act), *dout = act_in(dout_act);
    float *dqkv = act_out(dqkv_act);
    int32_t group = a->heads / a->kv_heads, total = seqs->rows, dim = a->head_dim;
    for (int32_t q = 0; q < seqs->n; q++) {
        int32_t row = seqs->start[q], len = seqs->start[q + 1] - row;
        ptrdiff_t wide = round_up(len, GEMM_PANEL);
        float *keys = cx->work, *values = keys + wide * dim;
        struct head_back b = {.keys = keys,
                              .values = values,
                              .s = values + wide * dim,
                              .dp = values + wide * dim + wide * Q_ROWS,
                              .ldo = ldo,
                              .scale = a->scale};
        assert((size_t)(b.dp - cx->work) + (size_t)wide * Q_ROWS <= cx->work_floats);
        for (int32_t i = 0; i < len; i++)
            memset(dqkv + (row + i) * ldq + a->heads * dim, 0,
                   (size_t)(2 * a->kv_heads * dim) * sizeof *dqkv);
        for (int32_t i = 0; i < a->heads; i++) {
            struct head h = head_of(a, qkv, ldq, row, len, i);
            if (i % group == 0) {
                pack_keys(h.k, ldq, len, dim, keys);
                pack_keys(h.v, ldq, len, dim, values);
            }
            b.out = out + row * ldo + i * dim;
            b.dout = dout + row * ldo + i * dim;
            b.lse = lse + (ptrdiff_t)i * total + row;
            b.dq = dqkv + row * ldq + i * dim;
            b.dk = dqkv + row * ldq + (a->heads + i / group) * dim;
            b.dv = dqkv + row * ldq + (a->heads + a->kv_heads + i / group) * dim;
            head_bwd(&h, &b);
        }
    }
}

// Where the keys, or values, of sequence i begin.
static float *cached(kernel_act *const *list, const struct kernel_cache *c, int32_t i)
{
    return act_out(list[i]) + c->skip;
}

void cache_rows_cpu(const struct kernel_ctx *cx, const struct kernel_attn *a,
                    const struct kernel_seqs *seqs, const kernel_act *qkv, ptrdiff_t ldq,
                    const struct kernel_cache *cache)
{
    ptrdiff_t ld = a->kv_heads * a->head_dim;
    (void)cx;
    for (int32_t q = 0; q < seqs->n; q++) {
        float *k = cached(cache->k, cache, q), *v = cached(cache->v, cache, q);
        for (int32_t i = seqs->start[q]; i < seqs->start[q + 1]; i++, k += ld, v += ld) {
            const float *key = act_in(qkv) + i * ldq + a->heads * a->head_dim;
            memcpy(k, key, (size_t)ld * sizeof *k);
            memcpy(v, key + ld, (size_t)ld * sizeof *v);
        }
    }
}

static void cache_append(const struct kernel_attn *a, const float *row, int32_t n, float *k,
                         float *v)
{
    ptrdiff_t ld = a->kv_heads * a->head_dim;
    const float *key = row + a->heads * a->head_dim;
    memcpy(k + n * ld, key, (size_t)ld * sizeof *k);
    memcpy(v + n * ld, key + ld, (size_t)ld * sizeof *v);
}

// One call: a part of it is a head of a query.
struct step {
    const struct kernel_ctx *cx;
    const struct kernel_attn *a;
    const struct kernel_cache *cache;
    const float *qkv;
    ptrdiff_t ldq;
    float *out;
    ptrdiff_t ldo;
};

static void step_part(void *arg, int32_t part, float *work)
{
    const struct step *s = arg;
    const struct kernel_attn *a = s->a;
    ptrdiff_t ld = a->kv_heads * a->head_dim;
    int32_t i = part / a->heads, h = part % a->heads, kv = h / (a->heads / a->kv_heads);
    int32_t n = s->cache->n[i] + 1, from = first_key(a->window, n - 1);
    assert((size_t)n <= s->cx->work_floats);
    const float *k = cached(s->cache->k, s->cache, i) + from * ld + kv * a->head_dim;
    const float *v = cached(s->cache->v, s->cache, i) + from * ld + kv * a->head_dim;
    SIMD_PICK(step_head,
              (s->qkv + i * s->ldq + h * a->head_dim, k, v, ld,
               s->cache->log_size ? s->cache->log_size[i] + from : NULL, n - from, a->head_dim,
               a->scale, work ? work : s->cx->work, s->out + i * s->ldo + h * a->head_dim));
}

void attention_step_cpu(const struct kernel_ctx *cx, const struct kernel_attn *a,
                        const struct kernel_cache *cache, int32_t m, const kernel_act *qkv,
                        ptrdiff_t ldq, kernel_act *out, ptrdiff_t ldo)
{
    struct step s = {cx, a, cache, act_in(qkv), ldq, act_out(out), ldo};
    size_t keys = 0;
    for (int32_t i = 0; i < m; i++) {
        cache_append(a, s.qkv + i * ldq, cache->n[i], cached(cache->k, cache, i),
                     cached(cache->v, cache, i));
        keys += (size_t)cache->n[i] + 1;
    }
    kernel_parts(cx->team, 2 * keys * (size_t)(a->heads * a->head_dim), m * a->heads, step_part,
                 &s);
}

// Probability of key j for query i of head h, and the row's log-sum.
static double score_ref(const struct head *h, float scale, int32_t i, int32_t j)
{
    double sum = 0;
    for (int32_t c = 0; c < h->dim; c++)
        sum += (double)h->q[i * h->ld + c] * h->k[j * h->ld + c];
    return sum * scale + (h->log_size ? (double)h->log_size[j] : 0);
}

void attention_fwd_ref(const struct kernel_ctx *cx, const struct kernel_attn *a,
                       const struct kernel_seqs *seqs, const kernel_act *qkv_act, ptrdiff_t ldq,
                       kernel_act *out_act, ptrdiff_t ldo, float *lse, float *received)
{
    const float *qkv = act_in(qkv_act);
    float *out = act_out(out_act);
    (void)cx;
    int32_t total = seqs->rows;
    for (int32_t q = 0; q < seqs->n; q++)
        for (int32_t hd = 0; hd < a->heads; hd++) {
            int32_t row = seqs->start[q], len = seqs->start[q + 1] - row;
            struct head h = head_of(a, qkv, ldq, row, len, hd);
            for (int32_t i = 0; i < len; i++) {
                double top = -INFINITY, sum = 0;
                for (int32_t j = first_key(a->window, i); j <= i; j++)
                    top = fmax(top, score_ref(&h, a->scale, i, j));
                for (int32_t j = first_key(a->window, i); j <= i; j++)
                    sum += exp(score_ref(&h, a->scale, i, j) - top);
                lse[(ptrdiff_t)hd * total + row + i] = (float)(top + log(sum));
                float *o = out + (row + i) * ldo + hd * h.dim;
                for (int32_t c = 0; c < h.dim; c++)
                    o[c] = 0.0f;
                for (int32_t j = first_key(a->window, i); j <= i; j++) {
                    double p = exp(score_ref(&h, a->scale, i, j) - top) / sum;
                    for (int32_t c = 0; c < h.dim; c++)
                        o[c] += (float)(p * h.v[j * h.ld + c]);
                    if (received)
                        received[row + j] += (float)p;
                }
            }
        }
}

void attention_bwd_ref(const struct kernel_ctx *cx, const struct kernel_attn *a,
                       const struct kernel_seqs *seqs, const kernel_act *qkv_act, ptrdiff_t ldq,
                       const kernel_act *out_act, const kernel_act *dout_act, ptrdiff_t ldo,
                       const float *lse, kernel_act *dqkv_act)
{
    const float *qkv = act_in(qkv_act), *out = act_in(out_act), *dout = act_in(dout_act);
    float *dqkv = act_out(dqkv_act);
    (void)cx;
    int32_t total = seqs->rows, group = a->heads / a->kv_heads, dim = a->head_dim;
    for (int32_t i = 0; i < total; i++)
        for (int32_t c = 0; c < (a->heads + 2 * a->kv_heads) * dim; c++)
            dqkv[i * ldq + c] = 0.0f;
    for (int32_t q = 0; q < seqs->n; q++)
        for (int32_t hd = 0; hd < a->heads; hd++) {
            int32_t row = seqs->start[q], len = seqs->start[q + 1] - row;
            struct head h = head_of(a, qkv, ldq, row, len, hd);
            float *dq = dqkv + row * ldq + hd * dim;
            float *dk = dqkv + row * ldq + (a->heads + hd / group) * dim;
            float *dv = dk + a->kv_heads * dim;
            for (int32_t i = 0; i < len; i++) {
                const float *o = out + (row + i) * ldo + hd * dim, *d = dout + (o - out);
                double dot = 0;
                for (int32_t c = 0; c < dim; c++)
                    dot += (double)o[c] * d[c];
                for (int32_t j = first_key(a->window, i); j <= i; j++) {
                    double p =
                        exp(score_ref(&h, a->scale, i, j) - lse[(ptrdiff_t)hd * total + row + i]);
                    double dp = 0;
                    for (int32_t c = 0; c < dim; c++)
                        dp += (double)d[c] * h.v[j * h.ld + c];
                    double ds = p * (dp - dot) * a->scale;
                    for (int32_t c = 0; c < dim; c++) {
                        dq[i * ldq + c] += (float)(ds * h.k[j * h.ld + c]);
                        dk[j * ldq + c] += (float)(ds * h.q[i * h.ld + c]);
                        dv[j * ldq + c] += (float)(p * d[c]);
                    }
                }
            }
        }
}

void cache_rows_ref(const struct kernel_ctx *cx, const struct kernel_attn *a,
                    const struct kernel_seqs *seqs, const kernel_act *qkv, ptrdiff_t ldq,
                    const struct kernel_cache *cache)
{
    int32_t ld = a->kv_heads * a->head_dim;
    (void)cx;
    for (int32_t q = 0; q < seqs->n; q++)
        for (int32_t i = seqs->start[q]; i < seqs->start[q + 1]; i++)
            for (int32_t c = 0; c < ld; c++) {
                const float *key = act_in(qkv) + i * ldq + a->heads * a->head_dim;
                ptrdiff_t to = (i - seqs->start[q]) * ld + c;
                cached(cache->k, cache, q)[to] = key[c];
                cached(cache->v, cache, q)[to] = key[ld + c];
            }
}

void attention_step_ref(const struct kernel_ctx *cx, const struct kernel_attn *a,
                        const struct kernel_cache *cache, int32_t m, const kernel_act *qkv_act,
                        ptrdiff_t ldq, kernel_act *out_act, ptrdiff_t ldo)
{
    const float *qkv = act_in(qkv_act);
    float *out = act_out(out_act);
    (void)cx;
    int32_t ld = a->kv_heads * a->head_dim, group = a->heads / a->kv_heads, dim = a->head_dim;
    for (int32_t i = 0; i < m; i++) {
        float *k = cached(cache->k, cache, i), *v = cached(cache->v, cache, i);
        int32_t n = cache->n[i] + 1;
        cache_append(a, qkv + i * ldq, n - 1, k, v);
        for (int32_t hd = 0; hd < a->heads; hd++) {
            struct head h = {.q = qkv + i * ldq + hd * dim,
                             .k = k + hd / group * dim,
                             .v = v + hd / group * dim,
                             .log_size = cache->log_size ? cache->log_size[i] : NULL,
                             .ld = ld,
                             .len = n,
                             .dim = dim};
            double top = -INFINITY, sum = 0;
            for (int32_t j = first_key(a->window, n - 1); j < n; j++)
                top = fmax(top, score_ref(&h, a->scale, 0, j));
            for (int32_t j = first_key(a->window, n - 1); j < n; j++)
                sum += exp(score_ref(&h, a->scale, 0, j) - top);
            for (int32_t c = 0; c < dim; c++) {
                double o = 0;
                for (int32_t j = first_key(a->window, n - 1); j < n; j++)
                    o += exp(score_ref(&h, a->scale, 0, j) - top) / sum * h.v[j * ld + c];
                out[i * ldo + hd * dim + c] = (float)o;
            }
        }
    }
}

#endif
