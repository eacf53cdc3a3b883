// The border between host code and kernels. C types only, streams as void *, so that a .cu file can
// include it. Each operation is declared once, below, as a function type NAME_fn with its formula;
// NAME_cpu is the CPU's kernel, NAME_ref a plain reference that the tests compare it with,
// NAME_cuda the GPU's and NAME_emu the GPU's source, run on the CPU by tests. src/dev makes its
// tables from the one list of names, KERNEL_OPS.
//
// Whose memory a pointer is:
//   const struct kernel_NAME *                     the host's: read before the operation returns,
//                                                  so that it may lie on the stack
//   kernel_act *, kernel_step *, float * ...       of any other type: the device's, in a prototype
//                                                  as in a struct
// kernel_act is never completed: activations are of the type that kernel_ctx.act names, and host
// code that looks into one does not compile.
//
// Matrices are row-major with a row stride in elements (ldx for x). Rows are tokens: m of them. dx
// is the gradient of x. Operations are coarse; a pointer said to be "or NULL" is an optional
// output. Rows may be read up to the next multiple of 16 columns: activations and weights in fp32
// end with KERNEL_SLACK floats to spare.
#ifndef FSTQ_KERNELS_H
#define FSTQ_KERNELS_H

#include "block.h"
#include "dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KERNEL_SLACK    32
#define KERNEL_LORA_MAX 3

typedef struct kernel_act kernel_act;

// How weights are multiplied by: in fp32; or both sides rounded to bf16, fp16 or tf32, which has as
// few bits of mantissa as fp16, and summed in fp32, where on a GPU activations are bf16 or fp16,
// too; or, in forwards alone, by weights of blocks that dots.c takes, in whole numbers of 8 bits,
// by all others in fp32.
enum kernel_math {
    KERNEL_MATH_F32,
    KERNEL_MATH_BF16,
    KERNEL_MATH_F16,
    KERNEL_MATH_TF32,
    KERNEL_MATH_INT8
};

// The CPU's lanes, of which those that have nothing to do take parts of another's operation: each()
// calls fn once for every part in [0, n), which together take so many multiplications. What a part
// computes must not depend on who does which. work: that of the part's lane, NULL on the lane that
// the operation was called on.
typedef void kernel_part_fn(void *arg, int32_t part, float *work);
struct kernel_team {
    void (*each)(const struct kernel_team *t, size_t products, int32_t n, kernel_part_fn *fn,
                 void *arg);
    int32_t lanes, own;
};

// Where an operation runs, and memory of the device to work in: kernel_work_floats() of it, per
// thread on the CPU.
struct kernel_ctx {
    void *stream;
    float *work;
    size_t work_floats;
    int32_t act;       // enum kernel_dtype of activations; fp32 on the CPU
    float grad_scale;  // of activations' gradients, that fp16 has small ones; 1 on the CPU
    int32_t math;      // enum kernel_math
    int64_t *apart_ns; // the host's, or NULL: to it the CPU's update adds the time of the averages
    struct kernel_blas *blas;       // the host's, of a GPU's stream (blas.h)
    const struct kernel_team *team; // or NULL: this lane alone
};

// W (rows, cols), y = x W^T, a row every ld elements. packed: W^T in the layout of
// kernel_pack_weight, or NULL (packed as it is used). blocks: NULL, or the parts that the rows lie
// in, as blocks, instead of w (on the CPU only); row0: the first of them that is W's.
struct kernel_weight {
    const void *w;
    const float *packed;
    const struct block_rows *blocks;
    int32_t dtype, rows, cols, ld, row0;
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

// Sequence s has rows [start[s], start[s + 1]). rows, longest: of all, and of the longest one,
// since a launcher cannot look into start.
struct kernel_seqs {
    int32_t n, rows, longest;
    const int32_t *start; // (n + 1)
};

// A row of qkv is heads queries, kv_heads keys, kv_heads values, each head_dim wide.
struct kernel_attn {
    int32_t heads, kv_heads, head_dim;
    int32_t window;        // a query sees so many rows, itself the last; 0 = all
    float scale;           // of the scores
    const float *log_size; // (m) added to every score of a key (attention_step: not), or NULL
};

// Heads of queries and keys that are normalised one by one: w (2, head_dim) is that of queries,
// then of keys.
struct kernel_heads {
    int32_t heads, kv_heads, head_dim;
    float eps;
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

enum kernel_optim_kind { KERNEL_ADAMW, KERNEL_SGD };

// An optimizer's constants.
struct kernel_optim {
    int32_t kind; // enum kernel_optim_kind
    double beta1, beta2, eps, weight_decay, momentum;
    double clip; // largest norm of the gradient, 0 = no limit
};

// What changes from step to step, so that the operations of a step are always the same.
typedef struct {
    double squares, norm;     // of the gradient, before clipping
    float lr;                 // written by the host
    float scale;              // of the gradient, by clipping
    float correct1, correct2; // adamw: 1 / (1 - beta^steps)
    int32_t steps;            // taken so far
} kernel_step;

typedef struct {
    size_t from, to;
} kernel_range;

// What is trained of a vector, ascending; range NULL: all of it.
struct kernel_ranges {
    int32_t n;
    const kernel_range *range; // (n)
};

// What is kept of a gradient g, unclipped; each pointer (n) or NULL.
struct kernel_fisher {
    float *ema, *sum, *grad; // rho ema + (1 - rho) g^2, sum + g^2, rho grad + (1 - rho) g
    float rho;
};

// Sequences that are being generated: those of sequence i begin `skip` elements after k[i] and
// v[i], (capacity, kv_heads * head_dim) each, n[i] rows of them valid. skip: to a layer's, where
// the lists are those of the first layer. log_size[i] (capacity) is added to every score of a key,
// attention_step's own at n[i] included; or NULL.
struct kernel_cache {
    kernel_act *const *k, *const *v;
    float *const *log_size;
    const int32_t *n;
    size_t skip;
};

// Embeddings.

// x (m, cols) = rows of table (rows, cols)
typedef void embed_fwd_fn(const struct kernel_ctx *cx, const struct kernel_weight *table,
                          const int32_t *tokens, int32_t m, kernel_act *x, ptrdiff_t ldx);
// token_sq[i] = ||dx_i||^2; dtable[token_i] += dx_i; each or NULL
typedef void embed_bwd_fn(const struct kernel_ctx *cx, const kernel_act *dx, ptrdiff_t lddx,
                          const int32_t *tokens, int32_t m, int32_t cols, float *token_sq,
                          float *dtable);

// Layers.

// y = x r w, r = 1 / sqrt(mean(x^2) + eps); rstd (m) = r, or NULL
typedef void rmsnorm_fwd_fn(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                            const float *w, int32_t m, int32_t cols, float eps, kernel_act *y,
                            ptrdiff_t ldy, float *rstd);
// dx += r (w dy - x r^2 mean(w dy x)); dw += sum over rows of dy x r, or NULL
typedef void rmsnorm_bwd_fn(const struct kernel_ctx *cx, const kernel_act *dy, ptrdiff_t lddy,
                            const kernel_act *x, ptrdiff_t ldx, const float *w, const float *rstd,
                            int32_t m, int32_t cols, kernel_act *dx, ptrdiff_t lddx, float *dw);
// y = y0 + x r w, r as above; rstd (m) = r, or NULL
typedef void norm_sum_fwd_fn(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                             const float *w, int32_t m, int32_t cols, float eps,
                             const kernel_act *y0, kernel_act *y, ptrdiff_t ldy, float *rstd);
// A row of qkv: every head of queries and keys becomes y = x r w, values stay
typedef void head_norm_fwd_fn(const struct kernel_ctx *cx, const struct kernel_heads *h,
                              const float *w, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                              kernel_act *y, ptrdiff_t ldy);
// dy of queries and keys becomes dx = r (w dy - x r^2 mean(w dy x)); that of values stays
typedef void head_norm_bwd_fn(const struct kernel_ctx *cx, const struct kernel_heads *h,
                              const float *w, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                              kernel_act *dy, ptrdiff_t lddy);
// x += b in every row
typedef void bias_rows_fn(const struct kernel_ctx *cx, const float *b, int32_t m, int32_t cols,
                          kernel_act *x, ptrdiff_t ldx);
// x *= by
typedef void scale_rows_fn(const struct kernel_ctx *cx, float by, int32_t m, int32_t cols,
                           kernel_act *x, ptrdiff_t ldx);
// Turns x in place: a pair (a, b) at angle t becomes (a cos t - b sin t, b cos t + a sin t). Row i
// stands at position pos[i].
typedef void rope_fn(const struct kernel_ctx *cx, const struct kernel_rope *r, const int32_t *pos,
                     int32_t m, kernel_act *x, ptrdiff_t ldx);
// y = y0 + x W^T + u B^T, u (m, ranks) = scale x A^T is kept; y0 (ldy) or NULL for 0, may be y.
// adapter NULL: y = y0 + x W^T
typedef void linear_fwd_fn(const struct kernel_ctx *cx, const struct kernel_linear *l,
                           const float *adapter, const kernel_act *x, ptrdiff_t ldx, int32_t m,
                           const kernel_act *y0, kernel_act *y, ptrdiff_t ldy, kernel_act *u,
                           ptrdiff_t ldu);
// du = scale dy B; dx = dx0 + dy W + du A, or dx NULL; dx0 (lddx) or NULL for 0. grad: dA += du^T x
// and dB += dy^T u, or NULL; dw += dy^T x, or NULL
typedef void linear_bwd_fn(const struct kernel_ctx *cx, const struct kernel_linear *l,
                           const float *adapter, const kernel_act *dy, ptrdiff_t lddy,
                           const kernel_act *x, ptrdiff_t ldx, const kernel_act *u, ptrdiff_t ldu,
                           int32_t m, const kernel_act *dx0, kernel_act *dx, ptrdiff_t lddx,
                           float *grad, float *dw);
// gu (m, 2 hidden): gate, up; h = silu(gate) up, silu(g) = g / (1 + exp(-g))
typedef void swiglu_fwd_fn(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                           int32_t m, int32_t hidden, kernel_act *h, ptrdiff_t ldh);
// With s = 1 / (1 + exp(-gate)): dgate = dh up s (1 + gate (1 - s)), dup = dh gate s. dgu may be gu
typedef void swiglu_bwd_fn(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                           const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden,
                           kernel_act *dgu);

// As swiglu with GELU (tanh): h = g s up, s = 1 / (1 + exp(-z)), z = 2 sqrt(2 / pi) (g + 0.044715
// g^3)
typedef void geglu_fwd_fn(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                          int32_t m, int32_t hidden, kernel_act *h, ptrdiff_t ldh);
// dgate = dh up s (1 + gate (1 - s) z'), dup = dh gate s. dgu may be gu
typedef void geglu_bwd_fn(const struct kernel_ctx *cx, const kernel_act *gu, ptrdiff_t ldg,
                          const kernel_act *dh, ptrdiff_t ldh, int32_t m, int32_t hidden,
                          kernel_act *dgu);

// Attention.

// Causal: P_ij = softmax over j <= i of (scale q_i k_j + log_size_j), out_i = sum of P_ij v_j. lse
// (heads, m): log of each row's sum of exp; received (m) += sum over i and heads of P_ij, or NULL
typedef void attention_fwd_fn(const struct kernel_ctx *cx, const struct kernel_attn *a,
                              const struct kernel_seqs *seqs, const kernel_act *qkv, ptrdiff_t ldq,
                              kernel_act *out, ptrdiff_t ldo, float *lse, float *received);
// dS_ij = P_ij (dout_i v_j - dout_i out_i) scale; dq_i = sum of dS_ij k_j, dk_j = sum of dS_ij q_i,
// dv_j = sum of P_ij dout_i
typedef void attention_bwd_fn(const struct kernel_ctx *cx, const struct kernel_attn *a,
                              const struct kernel_seqs *seqs, const kernel_act *qkv, ptrdiff_t ldq,
                              const kernel_act *out, const kernel_act *dout, ptrdiff_t ldo,
                              const float *lse, kernel_act *dqkv);
// Keys and values of each sequence's rows become the first ones of its cache; n is not looked at
typedef void cache_rows_fn(const struct kernel_ctx *cx, const struct kernel_attn *a,
                           const struct kernel_seqs *seqs, const kernel_act *qkv, ptrdiff_t ldq,
                           const struct kernel_cache *cache);
// One query per sequence, m of them: row i's key and value go to place n[i] of its cache, then it
// attends over all n[i] + 1
typedef void attention_step_fn(const struct kernel_ctx *cx, const struct kernel_attn *a,
                               const struct kernel_cache *cache, int32_t m, const kernel_act *qkv,
                               ptrdiff_t ldq, kernel_act *out, ptrdiff_t ldo);

// Merging.

// partner[i]: the row that row i merges into, else i; of sequence s the first free[s] rows may. key
// (m): kv_heads keys, each head_dim wide. Ties: the nearer b, the earlier a
typedef void merge_match_fn(const struct kernel_ctx *cx, const struct kernel_merge *g,
                            const struct kernel_seqs *seqs, const int32_t *free,
                            const kernel_act *key, ptrdiff_t ldk, int32_t *partner);
// y (rows, cols) = 0, y[into_i] += share_i x_i
typedef void merge_rows_fn(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                           const int32_t *into, const float *share, int32_t m, int32_t cols,
                           kernel_act *y, ptrdiff_t ldy, int32_t rows);
// dx_i = share_i dy[into_i]
typedef void merge_rows_bwd_fn(const struct kernel_ctx *cx, const kernel_act *dy, ptrdiff_t lddy,
                               const int32_t *into, const float *share, int32_t m, int32_t cols,
                               kernel_act *dx, ptrdiff_t lddx);

// The head and its loss.

// loss[i] = -log softmax(x_i W^T)[target_i]; best[i] = argmax, 0 if all are NaN; dx and dw (+=) of
// the sum of weight_i loss_i; each or NULL. target < 0: loss 0, no gradient
typedef void ce_head_fn(const struct kernel_ctx *cx, const struct kernel_weight *head,
                        const kernel_act *x, ptrdiff_t ldx, int32_t m, const int32_t *target,
                        const float *weight, float *loss, int32_t *best, kernel_act *dx,
                        ptrdiff_t lddx, float *dw);

// Rows.

// y_i = x[row_i]
typedef void gather_rows_fn(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                            const int32_t *row, int32_t n, int32_t cols, kernel_act *y,
                            ptrdiff_t ldy);
// x[row_i] = y_i, all other rows of the m are 0; row ascending
typedef void scatter_rows_fn(const struct kernel_ctx *cx, const kernel_act *y, ptrdiff_t ldy,
                             const int32_t *row, int32_t n, int32_t cols, kernel_act *x,
                             ptrdiff_t ldx, int32_t m);
// y (m, cols) = x, without a gap between rows
typedef void widen_rows_fn(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                           int32_t m, int32_t cols, float *y);
// and back
typedef void narrow_rows_fn(const struct kernel_ctx *cx, const float *x, int32_t m, int32_t cols,
                            kernel_act *y, ptrdiff_t ldy);

// The optimizer.

// s->squares = sum of x_i^2 over what is trained of n values
typedef void sum_squares_fn(const struct kernel_ctx *cx, const struct kernel_ranges *r,
                            const float *x, size_t n, kernel_step *s);
// Begins a step: steps + 1, norm = sqrt(squares), scale = clip / (norm + 1e-6) where norm > clip,
// else 1, and the corrections
typedef void next_step_fn(const struct kernel_ctx *cx, const struct kernel_optim *h,
                          kernel_step *s);
// For what is trained of values [from, from + n), with g = scale grad_i:
//   adamw: mean = beta1 mean + (1 - beta1) g, var = beta2 var + (1 - beta2) g^2,
//          w -= lr (correct1 mean / (sqrt(correct2 var) + eps) + weight_decay w)
//   sgd:   mean = momentum mean + g + weight_decay w, w -= lr mean; var is not used
// and then the averages of grad_i; f or NULL
typedef void update_fn(const struct kernel_ctx *cx, const struct kernel_optim *h,
                       const kernel_step *s, const struct kernel_ranges *r, size_t from, size_t n,
                       float *w, float *mean, float *var, const float *grad,
                       const struct kernel_fisher *f);
// The averages alone, of n values
typedef void fisher_fn(const struct kernel_ctx *cx, const struct kernel_fisher *f,
                       const float *grad, size_t n);
// y += x
typedef void add_fn(const struct kernel_ctx *cx, const float *x, size_t n, float *y);

#define KERNEL_OPS(OP)                                                                             \
    OP(embed_fwd)                                                                                  \
    OP(embed_bwd)                                                                                  \
    OP(rmsnorm_fwd)                                                                                \
    OP(rmsnorm_bwd)                                                                                \
    OP(rope)                                                                                       \
    OP(linear_fwd)                                                                                 \
    OP(linear_bwd)                                                                                 \
    OP(swiglu_fwd)                                                                                 \
    OP(swiglu_bwd)                                                                                 \
    OP(attention_fwd)                                                                              \
    OP(attention_bwd)                                                                              \
    OP(cache_rows)                                                                                 \
    OP(attention_step)                                                                             \
    OP(merge_match)                                                                                \
    OP(merge_rows)                                                                                 \
    OP(merge_rows_bwd)                                                                             \
    OP(ce_head)                                                                                    \
    OP(gather_rows)                                                                                \
    OP(scatter_rows)                                                                               \
    OP(widen_rows)                                                                                 \
    OP(narrow_rows)                                                                                \
    OP(sum_squares)                                                                                \
    OP(next_step)                                                                                  \
    OP(update)                                                                                     \
    OP(fisher)                                                                                     \
    OP(add)                                                                                        \
    OP(norm_sum_fwd)                                                                               \
    OP(head_norm_fwd)                                                                              \
    OP(head_norm_bwd)                                                                              \
    OP(bias_rows)                                                                                  \
    OP(scale_rows)                                                                                 \
    OP(geglu_fwd)                                                                                  \
    OP(geglu_bwd)

struct kernel_ops {
#define KERNEL_FIELD(name) name##_fn *name;
    KERNEL_OPS(KERNEL_FIELD)
#undef KERNEL_FIELD
};

#define KERNEL_DECLARE(name) name##_fn name##_cpu, name##_ref, name##_cuda, name##_emu;
KERNEL_OPS(KERNEL_DECLARE)
#undef KERNEL_DECLARE

// The activation n elements after x.
static inline kernel_act *kernel_act_at(const struct kernel_ctx *cx, const kernel_act *x, size_t n)
{
    return (kernel_act *)((char *)x + n * kernel_dtype_bytes(cx->act));
}

// Floats of work memory that any operation of the CPU needs at these sizes.
size_t kernel_work_floats(int32_t tokens, int32_t longest, int32_t widest, int32_t ranks,
                          int32_t head_dim);

// What the host works on before it goes to the device, or where the device's memory is the host's.
// W^T as panels of 32 columns, each (cols, 32), the last one 16 or 32 wide; zeros beyond the rows.
size_t kernel_packed_floats(int32_t rows, int32_t cols);
void kernel_pack_weight(const struct kernel_weight *w, float *packed);
// A row of W as floats, and one value of it.
void kernel_weight_row(const struct kernel_weight *w, int32_t row, float *y);
float kernel_weight_value(const struct kernel_weight *w, int32_t row, int32_t col);

// Does this CPU have instructions for KERNEL_MATH_BF16? Else the same bits are made in fp32.
bool kernel_bf16_fast(void);

// C (m, n) = A (m, k) B (k, n), for benches: A row-major, B packed by kernel_pack_weight or NULL to
// pack b.
void kernel_gemm(const struct kernel_ctx *cx, int32_t m, const float *a, ptrdiff_t lda,
                 const struct kernel_weight *w, float *c, ptrdiff_t ldc);

#ifdef __cplusplus
}
#endif

#endif
