// The head and its loss, fused: logits exist a tile of the vocabulary at a time, of as many rows as
// there is room for. As in ce.c the softmax is taken online: with running maximum M and sum S a
// tile adds exp(logit - M) E_tile to dx, and dx and S shrink where M grows.
#include "multiply.h"

enum { CE_THREADS = 256 };
// Of the vocabulary at a time; and of a head that is not in fp32, floats to widen a part of it in.
enum { CE_TILE = 8192, CE_WIDENED = 1 << 22 };

// Of rows on their way through the tiles, (m) each.
struct ce_rows {
    float *top, *sum, *picked; // running maximum and sum, the target's logit
    const int32_t *target;
    const float *weight;
    float *loss;   // or NULL
    int32_t *best; // or NULL
};

struct ce_best {
    float value;
    int at;
};

// The larger one; of equal ones the earlier.
static __device__ __forceinline__ struct ce_best better(struct ce_best a, struct ce_best b)
{
    return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}
static __device__ struct ce_best warp_best(struct ce_best v)
{
    for (int d = 16; d > 0; d /= 2)
        v = better(v, {__shfl_xor_sync(GPU_ALL, v.value, d), __shfl_xor_sync(GPU_ALL, v.at, d)});
    return v;
}
// Once a kernel: part is not free again afterwards.
static __device__ struct ce_best block_best(struct ce_best v, struct ce_best *part)
{
    int lane = (int)(threadIdx.x % 32), warps = (int)(blockDim.x / 32);
    v = warp_best(v);
    if (lane == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_best(part[lane < warps ? lane : 0]);
}

// Words [v0, v0 + n) of row blockIdx.x: the running softmax, in whose place exp(logit - M) is left.
// NaN is never better, so that a row of nothing else names the first word. dx: or NULL.
static __global__ void __launch_bounds__(CE_THREADS)
    ce_tile(struct ce_rows r, float *__restrict__ tile, int v0, int n, bool exps,
            float *__restrict__ dx, ptrdiff_t lddx, int cols)
{
    SHARED(struct ce_best, part, [32]);
    SHARED(float, sums, [32]);
    float *l = tile + (ptrdiff_t)blockIdx.x * n, was = v0 > 0 ? r.top[blockIdx.x] : -INFINITY;
    struct ce_best best = {-INFINITY, 0};
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x)
        if (l[j] > best.value)
            best = {l[j], j};
    best = block_best(best, part);
    const bool more = v0 == 0 || best.value > was;
    const float top = more ? best.value : was;
    if (threadIdx.x == 0 && more) { // all have seen what was there
        r.top[blockIdx.x] = top;
        if (r.best)
            r.best[blockIdx.x] = v0 + best.at;
    }
    if (!exps)
        return;
    const int goal = r.target[blockIdx.x] - v0;
    float sum = 0;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        if (j == goal)
            r.picked[blockIdx.x] = l[j];
        l[j] = expf(l[j] - top);
        sum += l[j];
    }
    sum = block_sum(sum, sums);
    const float shrink = expf(was - top);
    if (threadIdx.x == 0)
        r.sum[blockIdx.x] = v0 > 0 ? r.sum[blockIdx.x] * shrink + sum : sum;
    if (dx && v0 > 0 && more)
        for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
            dx[blockIdx.x * lddx + j] *= shrink;
}

// loss = log S + M - logit of the target; dx = weight (dx / S - E_target), or NULL
static __global__ void __launch_bounds__(CE_THREADS)
    ce_end(struct ce_rows r, const void *__restrict__ head, int dtype, ptrdiff_t ld,
           float *__restrict__ dx, ptrdiff_t lddx, int cols)
{
    const int goal = r.target[blockIdx.x];
    if (r.loss && threadIdx.x == 0)
        r.loss[blockIdx.x] = goal < 0 ? 0.0f
                                      : logf(r.sum[blockIdx.x]) +
                                            (r.top[blockIdx.x] - r.picked[blockIdx.x]);
    if (!dx)
        return;
    const float weight = goal < 0 ? 0.0f : r.weight[blockIdx.x], by = weight / r.sum[blockIdx.x];
    dx += blockIdx.x * lddx;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        dx[j] = goal < 0 ? 0.0f : dx[j] * by - weight * stored_value(head, dtype, goal * ld + j);
}

// Logits of words [v0, v0 + n), once all is known, to the loss's gradient by them.
static __global__ void __launch_bounds__(CE_THREADS)
    ce_slopes(struct ce_rows r, float *__restrict__ tile, int v0, int n)
{
    float *l = tile + (ptrdiff_t)blockIdx.x * n;
    const bool none = r.target[blockIdx.x] < 0;
    const int goal = r.target[blockIdx.x] - v0;
    const float weight = none ? 0.0f : r.weight[blockIdx.x], top = r.top[blockIdx.x];
    const float by = weight / r.sum[blockIdx.x];
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x)
        l[j] = none ? 0.0f : by * expf(l[j] - top) - (j == goal ? weight : 0.0f);
}

// A head and what its products go to.
struct ce_head {
    const struct kernel_ctx *cx;
    const struct kernel_weight *w;
    float *widened, *tile;
};

// logits (m, n) = x E[v0, v0 + n)^T; the part of the head, for the way back.
static struct gpu_matrix ce_logits(const struct ce_head *h, struct gpu_matrix x, int32_t m,
                                   int32_t v0, int32_t n)
{
    struct gpu_matrix e = gpu_rows_of(h->cx, h->w, v0, n, h->widened);
    gpu_multiply_weight(h->cx, m, n, h->w->cols, x, e, true, 0, h->tile, n);
    return e;
}

// The columns of a tile do not depend on the batch.
extern "C" void GPU_OP(ce_head)(const struct kernel_ctx *cx, const struct kernel_weight *head,
                                const kernel_act *x, ptrdiff_t ldx, int32_t m,
                                const int32_t *target, const float *weight, float *loss,
                                int32_t *best, kernel_act *dx, ptrdiff_t lddx, float *dw)
{
    const int32_t vocab = head->rows, cols = head->cols;
    const size_t room = head->dtype == KERNEL_F32 ? 0 : CE_WIDENED;
    const int32_t widest = gpu_rows_at_a_time(head, room);
    const int32_t tile = widest < CE_TILE ? widest : CE_TILE;
    assert(room < cx->work_floats);
    const size_t fit = (cx->work_floats - room) / (size_t)(tile + 3);
    assert(fit > 0);
    const int32_t rows = fit < (size_t)m ? (int32_t)fit : m;
    float *state = cx->work + room;
    const struct ce_head h = {cx, head, cx->work, state + (ptrdiff_t)3 * rows};
    const bool exps = loss || dx || dw;
    for (int32_t i = 0; i < m; i += rows) {
        const int32_t k = m - i < rows ? m - i : rows;
        const struct gpu_matrix in = {act_in(x) + i * ldx, ldx};
        const struct ce_rows r = {state,
                                  state + rows,
                                  state + (ptrdiff_t)2 * rows,
                                  target + i,
                                  weight ? weight + i : weight,
                                  loss ? loss + i : loss,
                                  best ? best + i : best};
        float *out = dx ? act_out(dx) + i * lddx : nullptr;
        for (int32_t v = 0, n; v < vocab; v += n) {
            n = vocab - v < tile ? vocab - v : tile;
            struct gpu_matrix e = ce_logits(&h, in, k, v, n);
            LAUNCH(ce_tile, (unsigned)k, (unsigned)gpu_threads(n, CE_THREADS), 0, cx->stream, r,
                   h.tile, v, n, exps, out, lddx, cols);
            if (dx)
                gpu_multiply_weight(cx, k, cols, n, {h.tile, n}, e, false, v > 0, out, lddx);
        }
        if (loss || dx)
            LAUNCH(ce_end, (unsigned)k, (unsigned)gpu_threads(cols, CE_THREADS), 0, cx->stream, r,
                   head->w, head->dtype, head->ld, out, lddx, cols);
        for (int32_t v = 0, n; v < vocab && dw; v += n) {
            n = vocab - v < tile ? vocab - v : tile;
            ce_logits(&h, in, k, v, n);
            LAUNCH(ce_slopes, (unsigned)k, (unsigned)gpu_threads(n, CE_THREADS), 0, cx->stream, r,
                   h.tile, v, n);
            gpu_multiply(cx, n, cols, k, 1, {h.tile, n}, true, in, false, 1,
                         dw + (ptrdiff_t)v * cols, cols);
        }
    }
}
