// The border between host code and kernels. C types only, streams as void *, so that a .cu file can
// include it. One list of operations (KERNEL_OPS): each has a CPU kernel NAME_cpu, a plain
// reference NAME_ref that the tests compare it with, and a place for NAME_cuda; src/dev makes its
// tables from the same list.
//
// Matrices are row-major floats with a row stride in floats (ldx for x). Rows are tokens: m of
// them. dx is the gradient of x. Operations are coarse; a pointer said to be "or NULL" is an
// optional output. Rows may be read up to the next multiple of 16 columns: activations and weights
// in fp32 end with KERNEL_SLACK floats to spare.
#ifndef FSTQ_KERNELS_H
#define FSTQ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum kernel_dtype { KERNEL_F32, KERNEL_BF16, KERNEL_F16, KERNEL_DTYPES };

#define KERNEL_SLACK    32
#define KERNEL_LORA_MAX 3

// Where an operation runs, and memory to work in: kernel_work_floats() of it, per thread on the
// CPU.
struct kernel_ctx {
    void *stream;
    float *work;
    size_t work_floats;
};

// W (rows, cols), y = x W^T. packed: W^T in the layout of kernel_pack_weight, or NULL (packed as it
// is used).
struct kernel_weight {
    const void *w;
    const float *packed;
    int32_t dtype, rows, cols;
};

// One target of a linear: rows [row0, row0 + rows) get scale * B A x; B (rows, rank) lies at this
// offset of the flat adapter.
struct kernel_lora {
    int32_t row0, rows, rank;
    size_t b;
};

// Projections that share an input (q,k,v; gate,up; o; down), stacked along the rows of W. The
// targets' A (rank, cols) lie one after another in the adapter, so that together they are one
// (ranks, cols) at offset a.
struct kernel_linear {
    struct kernel_weight w;
    struct kernel_lora lora[KERNEL_LORA_MAX]; // row0 ascending
    int32_t n_lora, ranks;                    // ranks: their sum, the width of u = scale * x A^T
    size_t a;
    float scale;
};

// Sequence s has rows [start[s], start[s + 1]).
struct kernel_seqs {
    int32_t n;
    const int32_t *start; // (n + 1)
};

// A row of qkv is heads queries, kv_heads keys, kv_heads values, each head_dim wide.
struct kernel_attn {
    int32_t heads, kv_heads, head_dim;
    float scale;           // of the scores
    const float *log_size; // (m) added to every score of a key (attention_step: not), or NULL
};

// ToMe's bipartite matching, for a causal model. A sequence's tokens are in turn of A (even) and B
// (odd); an a merges into the b that is most like it by the cosine of their keys, summed over
// heads, among those that come after it by at most `window` tokens. Merged are those a that are
// most like their b: this part of what may merge, rounded down. The first token never merges into
// another.
struct kernel_merge {
    int32_t kv_heads, head_dim, window;
    double ratio;
};

enum kernel_rope_style { KERNEL_ROPE_HALF, KERNEL_ROPE_PAIR }; // (i, i + d/2) and (2i, 2i + 1)

// Angles of position p at p * head_dim / 2. sign -1 turns back: the gradient's rotation.
struct kernel_rope {
    const float *cosine, *sine;
    int32_t heads, head_dim, style; // heads: queries and keys, from column 0
    float sign;
};

struct kernel_adamw {
    float lr, beta1, beta2, eps, weight_decay;
    float correct1, correct2; // 1 / (1 - beta^step)
    float grad_scale;         // clipping
};

struct kernel_sgd {
    float lr, momentum, weight_decay, grad_scale;
};

// What is kept of a gradient g, unclipped; each pointer (n) or NULL.
struct kernel_fisher {
    float *ema, *sum, *grad; // rho ema + (1 - rho) g^2, sum + g^2, rho grad + (1 - rho) g
    float rho;
};

// One sequence that is being generated: keys and values (capacity, kv_heads * head_dim), n of them
// valid.
struct kernel_cache {
    float *k, *v;
    int32_t n;
};

#define KERNEL_OPS(OP)                                                                             \
    /* x (m, cols) = rows of table (rows, cols) */                                                 \
    OP(embed_fwd, (const struct kernel_ctx *cx, const struct kernel_weight *table,                 \
                   const int32_t *tokens, int32_t m, float *x, ptrdiff_t ldx))                     \
    /* token_sq[i] = ||dx_i||^2; dtable += scattered dx; each or NULL */                           \
    OP(embed_bwd,                                                                                  \
       (const struct kernel_ctx *cx, const float *dx, ptrdiff_t lddx, const int32_t *tokens,       \
        int32_t m, int32_t cols, float *token_sq, float *dtable))                                  \
    /* y = x / rms(x) * w; rstd (m) or NULL */                                                     \
    OP(rmsnorm_fwd, (const struct kernel_ctx *cx, const float *x, ptrdiff_t ldx, const float *w,   \
                     int32_t m, int32_t cols, float eps, float *y, ptrdiff_t ldy, float *rstd))    \
    /* dx += ...; dw += ... or NULL */                                                             \
    OP(rmsnorm_bwd, (const struct kernel_ctx *cx, const float *dy, ptrdiff_t lddy, const float *x, \
                     ptrdiff_t ldx, const float *w, const float *rstd, int32_t m, int32_t cols,    \
                     float *dx, ptrdiff_t lddx, float *dw))                                        \
    /* turns x in place; row i stands at position pos[i] */                                        \
    OP(rope, (const struct kernel_ctx *cx, const struct kernel_rope *r, const int32_t *pos,        \
              int32_t m, float *x, ptrdiff_t ldx))                                                 \
    /* y = y0 + x W^T + scale x A^T B^T; y0 (ldy) or NULL for 0, may be y; u (m, ranks) kept;      \
       adapter NULL: y = y0 + x W^T */                                                             \
    OP(linear_fwd, (const struct kernel_ctx *cx, const struct kernel_linear *l,                    \
                    const float *adapter, const float *x, ptrdiff_t ldx, int32_t m,                \
                    const float *y0, float *y, ptrdiff_t ldy, float *u, ptrdiff_t ldu))            \
    /* dx = dx0 + dy W + du A or dx NULL; grad += adapter gradients or NULL; dw += dy^T x or NULL  \
     */                                                                                            \
    OP(linear_bwd, (const struct kernel_ctx *cx, const struct kernel_linear *l,                    \
                    const float *adapter, const float *dy, ptrdiff_t lddy, const float *x,         \
                    ptrdiff_t ldx, const float *u, ptrdiff_t ldu, int32_t m, const float *dx0,     \
                    float *dx, ptrdiff_t lddx, float *grad, float *dw))                            \
    /* causal; lse (heads, m): log of each row's softmax sum; received (m) += attention each key   \
       gets from all queries and heads, or NULL */                                                 \
    OP(attention_fwd,                                                                              \
       (const struct kernel_ctx *cx, const struct kernel_attn *a, const struct kernel_seqs *seqs,  \
        const float *qkv, ptrdiff_t ldq, float *out, ptrdiff_t ldo, float *lse, float *received))  \
    OP(attention_bwd,                                                                              \
       (const struct kernel_ctx *cx, const struct kernel_attn *a, const struct kernel_seqs *seqs,  \
        const float *qkv, ptrdiff_t ldq, const float *out, const float *dout, ptrdiff_t ldo,       \
        const float *lse, float *dqkv))                                                            \
    /* partner[i]: the row that row i merges into, else i; of sequence s the first free[s] rows    \
       may. key (m): kv_heads keys, each head_dim wide. Ties: the nearer b, the earlier a */       \
    OP(merge_match,                                                                                \
       (const struct kernel_ctx *cx, const struct kernel_merge *g, const struct kernel_seqs *seqs, \
        const int32_t *free, const float *key, ptrdiff_t ldk, int32_t *partner))                   \
    /* y (rows, cols) = 0, y[into_i] += share_i x_i */                                             \
    OP(merge_rows,                                                                                 \
       (const struct kernel_ctx *cx, const float *x, ptrdiff_t ldx, const int32_t *into,           \
        const float *share, int32_t m, int32_t cols, float *y, ptrdiff_t ldy, int32_t rows))       \
    /* dx_i = share_i dy[into_i] */                                                                \
    OP(merge_rows_bwd,                                                                             \
       (const struct kernel_ctx *cx, const float *dy, ptrdiff_t lddy, const int32_t *into,         \
        const float *share, int32_t m, int32_t cols, float *dx, ptrdiff_t lddx))                   \
    /* one query per cache: appends its key and value, attends over all */                         \
    OP(attention_step, (const struct kernel_ctx *cx, const struct kernel_attn *a,                  \
                        struct kernel_cache *const *cache, int32_t n, const float *qkv,            \
                        ptrdiff_t ldq, float *out, ptrdiff_t ldo))                                 \
    /* gu (m, 2 hidden): gate, up; h = silu(gate) * up */                                          \
    OP(swiglu_fwd, (const struct kernel_ctx *cx, const float *gu, ptrdiff_t ldg, int32_t m,        \
                    int32_t hidden, float *h, ptrdiff_t ldh))                                      \
    /* dgu may be gu */                                                                            \
    OP(swiglu_bwd, (const struct kernel_ctx *cx, const float *gu, ptrdiff_t ldg, const float *dh,  \
                    ptrdiff_t ldh, int32_t m, int32_t hidden, float *dgu))                         \
    /* loss[i] = -log softmax(x_i W^T)[target_i]; best[i] = argmax, 0 if all are NaN; dx and dw    \
       (+=) of the sum of weight_i loss_i; each or NULL. target < 0: loss 0, no gradient. */       \
    OP(ce_head, (const struct kernel_ctx *cx, const struct kernel_weight *head, const float *x,    \
                 ptrdiff_t ldx, int32_t m, const int32_t *target, const float *weight,             \
                 float *loss, int32_t *best, float *dx, ptrdiff_t lddx, float *dw))                \
    /* y_i = x[row_i] */                                                                           \
    OP(gather_rows, (const struct kernel_ctx *cx, const float *x, ptrdiff_t ldx,                   \
                     const int32_t *row, int32_t n, int32_t cols, float *y, ptrdiff_t ldy))        \
    /* x[row_i] = y_i, all other rows of the m are 0; row ascending */                             \
    OP(scatter_rows,                                                                               \
       (const struct kernel_ctx *cx, const float *y, ptrdiff_t ldy, const int32_t *row, int32_t n, \
        int32_t cols, float *x, ptrdiff_t ldx, int32_t m))                                         \
    OP(adamw, (const struct kernel_ctx *cx, const struct kernel_adamw *h, float *w, float *mean,   \
               float *var, const float *grad, size_t n))                                           \
    OP(sgd, (const struct kernel_ctx *cx, const struct kernel_sgd *h, float *w, float *velocity,   \
             const float *grad, size_t n))                                                         \
    OP(fisher,                                                                                     \
       (const struct kernel_ctx *cx, const struct kernel_fisher *f, const float *grad, size_t n))  \
    OP(add, (const struct kernel_ctx *cx, const float *x, size_t n, float *y)) /* y += x */        \
    OP(sum_squares, (const struct kernel_ctx *cx, const float *x, size_t n, double *out))

#define KERNEL_DECLARE(name, params)                                                               \
    void name##_cpu params;                                                                        \
    void name##_ref params;                                                                        \
    void name##_cuda params;
KERNEL_OPS(KERNEL_DECLARE)
#undef KERNEL_DECLARE

// Floats of work memory that any operation of the CPU needs at these sizes.
size_t kernel_work_floats(int32_t tokens, int32_t longest, int32_t widest, int32_t ranks,
                          int32_t head_dim);

// W^T as panels of 32 columns, each (cols, 32), the last one 16 or 32 wide; zeros beyond the rows.
size_t kernel_packed_floats(int32_t rows, int32_t cols);
void kernel_pack_weight(const struct kernel_weight *w, float *packed);
// n values of a stored type as floats, and back (round half to even).
void kernel_to_f32(int32_t dtype, const void *x, size_t n, float *y);
void kernel_from_f32(int32_t dtype, const float *x, size_t n, void *y);
static inline size_t kernel_dtype_bytes(int32_t dtype)
{
    return dtype == KERNEL_F32 ? 4 : 2;
}

const char *kernel_isa_text(void); // "avx512", "avx2", "neon", "base"
// C (m, n) = A (m, k) B (k, n), for benches: A row-major, B packed by kernel_pack_weight or NULL to
// pack b.
void kernel_gemm(const struct kernel_ctx *cx, int32_t m, const float *a, ptrdiff_t lda,
                 const struct kernel_weight *w, float *c, ptrdiff_t ldc);

#ifdef __cplusplus
}
#endif

#endif
