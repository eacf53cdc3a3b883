// The head and its loss, fused: logits exist a tile of the vocabulary at a time, of as many rows as
// there is room for. As in ce.c the softmax is taken online: with running maximum M and sum S a
// tile adds exp(logit - M) E_tile to dx, and dx and S shrink where M grows.
#include "multiply.h"

enum { CE_THREADS = 256 };
// Of the vocabulary at a time; and of a head that is not of the activations' type, floats to
// convert a part of it in.
enum { CE_TILE = 8192, CE_CONVERTED = 1 << 22 };

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

// Words [v0, v0 + n) of row blockIdx.x: the running softmax; exp(logit - M), which may take the
// logits' place. NaN is never better, so that a row of nothing else names the first word. dx: the
// sum so far, or NULL.
template <class T>
static __global__ void __launch_bounds__(CE_THREADS)
    ce_tile(struct ce_rows r, const float *tile, T *exps, int v0, int n, bool sums_too, float *dx,
            ptrdiff_t lddx, int cols)
{
    SHARED(struct ce_best, part, [32]);
    SHARED(float, sums, [32]);
    const float *l = tile + (ptrdiff_t)blockIdx.x * n;
    const float was = v0 > 0 ? r.top[blockIdx.x] : -INFINITY;
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
    if (!sums_too)
        return;
    const int goal = r.target[blockIdx.x] - v0;
    float sum = 0;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        if (j == goal)
            r.picked[blockIdx.x] = l[j];
        float e = expf(l[j] - top);
        exps[(ptrdiff_t)blockIdx.x * n + j] = e;
        sum += e;
    }
    sum = block_sum(sum, sums);
    const float shrink = expf(was - top);
    if (threadIdx.x == 0)
        r.sum[blockIdx.x] = v0 > 0 ? r.sum[blockIdx.x] * shrink + sum : sum;
    if (dx && v0 > 0 && more)
        for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
            dx[blockIdx.x * lddx + j] *= shrink;
}

// loss = log S + M - logit of the target; dx = scale weight (sum / S - E_target), or NULL, which
// may take the sum's place
template <class T>
static __global__ void __launch_bounds__(CE_THREADS)
    ce_end(struct ce_rows r, const void *__restrict__ head, int dtype, ptrdiff_t ld,
           const float *sum, ptrdiff_t ldsum, float scale, T *dx, ptrdiff_t lddx, int cols)
{
    const int goal = r.target[blockIdx.x];
    if (r.loss && threadIdx.x == 0)
        r.loss[blockIdx.x] = goal < 0 ? 0.0f
                                      : logf(r.sum[blockIdx.x]) +
                                            (r.top[blockIdx.x] - r.picked[blockIdx.x]);
    if (!dx)
        return;
    const float weight = goal < 0 ? 0.0f : r.weight[blockIdx.x] * scale;
    const float by = weight / r.sum[blockIdx.x];
    dx += blockIdx.x * lddx;
    sum += blockIdx.x * ldsum;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        dx[j] = goal < 0 ? 0.0f : sum[j] * by - weight * stored_value(head, dtype, goal * ld + j);
}

// Logits of words [v0, v0 + n), once all is known, to the loss's gradient by them, which may take
// their place.
template <class T>
static __global__ void __launch_bounds__(CE_THREADS)
    ce_slopes(struct ce_rows r, const float *tile, T *slopes, float scale, int v0, int n)
{
    const ptrdiff_t row = (ptrdiff_t)blockIdx.x * n;
    const bool none = r.target[blockIdx.x] < 0;
    const int goal = r.target[blockIdx.x] - v0;
    const float weight = none ? 0.0f : r.weight[blockIdx.x] * scale, top = r.top[blockIdx.x];
    const float by = weight / r.sum[blockIdx.x];
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x)
        slopes[row + j] =
            none ? 0.0f : by * expf(tile[row + j] - top) - (j == goal ? weight : 0.0f);
}

// A head on its way: rows at a time and words of a tile, and memory for them. exps and sum (rows,
// cols) are the logits and dx themselves in fp32.
template <class T> struct ce_head {
    const struct kernel_ctx *cx;
    const struct kernel_weight *w;
    int32_t rows, tile;
    float *converted, *state, *logits, *sum;
    T *exps;
};

template <class T>
static struct ce_head<T> ce_lay(const struct kernel_ctx *cx, const struct kernel_weight *w,
                                int32_t m)
{
    struct gpu_room r = {cx->work, cx->work_floats};
    const bool same = sizeof(T) == sizeof(float), stored = w->dtype == gpu_dtype((T *)nullptr);
    struct ce_head<T> h = {};
    const size_t room = stored ? 0 : CE_CONVERTED, slack = 64;
    h.cx = cx;
    h.w = w;
    h.converted = gpu_take<float>(&r, room);
    h.tile = gpu_rows_at_a_time<T>(w, room);
    h.tile = h.tile < CE_TILE ? h.tile : CE_TILE; // which does not depend on the batch
    const size_t tile = (size_t)h.tile, cols = (size_t)w->cols;
    const size_t fit = (r.floats - slack) / (tile + 3 + (same ? 0 : tile / 2 + 1 + cols));
    assert(r.floats > slack && fit > 0);
    h.rows = fit < (size_t)m ? (int32_t)fit : m;
    h.state = gpu_take<float>(&r, 3 * (size_t)h.rows);
    h.logits = gpu_take<float>(&r, (size_t)h.rows * tile);
    h.exps = same ? reinterpret_cast<T *>(h.logits) : gpu_take<T>(&r, (size_t)h.rows * tile);
    h.sum = same ? nullptr : gpu_take<float>(&r, (size_t)h.rows * cols);
    return h;
}

// logits (m, n) = x E[v0, v0 + n)^T; the part of the head, for the way back.
template <class T>
static struct gpu_matrix ce_logits(const struct ce_head<T> &h, struct gpu_matrix x, int32_t m,
                                   int32_t v0, int32_t n)
{
    struct gpu_matrix e = gpu_rows_of<T>(h.cx, h.w, v0, n, h.converted);
    gpu_multiply_weight(h.cx, m, n, h.w->cols, x, e, true, 0, h.logits, n);
    return e;
}

template <class T>
static void ce_some(const struct ce_head<T> &h, const struct ce_rows &r, struct gpu_matrix x,
                    int32_t m, bool sums, T *dx, ptrdiff_t lddx, float *dw)
{
    const struct kernel_ctx *cx = h.cx;
    const int32_t vocab = h.w->rows, cols = h.w->cols;
    float *sum = dx && h.sum ? h.sum : reinterpret_cast<float *>(dx);
    const ptrdiff_t ld = h.sum ? cols : lddx;
    for (int32_t v = 0, n; v < vocab; v += n) {
        n = vocab - v < h.tile ? vocab - v : h.tile;
        struct gpu_matrix e = ce_logits(h, x, m, v, n);
        LAUNCH((ce_tile<T>), (unsigned)m, (unsigned)gpu_threads(n, CE_THREADS), 0, cx->stream, r,
               h.logits, h.exps, v, n, sums, sum, ld, cols);
        if (dx)
            gpu_multiply_weight(cx, m, cols, n, gpu_matrix_of(h.exps, n), e, false, v > 0, sum, ld);
    }
    if (sums)
        LAUNCH((ce_end<T>), (unsigned)m, (unsigned)gpu_threads(cols, CE_THREADS), 0, cx->stream, r,
               h.w->w, h.w->dtype, h.w->ld, sum, ld, cx->grad_scale, dx, lddx, cols);
    for (int32_t v = 0, n; v < vocab && dw; v += n) {
        n = vocab - v < h.tile ? vocab - v : h.tile;
        ce_logits(h, x, m, v, n);
        LAUNCH((ce_slopes<T>), (unsigned)m, (unsigned)gpu_threads(n, CE_THREADS), 0, cx->stream, r,
               h.logits, h.exps, cx->grad_scale, v, n);
        gpu_multiply(cx, n, cols, m, 1 / cx->grad_scale, gpu_matrix_of(h.exps, n), true, x, false,
                     1, dw + (ptrdiff_t)v * cols, cols);
    }
}

extern "C" void GPU_OP(ce_head)(const struct kernel_ctx *cx, const struct kernel_weight *head,
                                const kernel_act *x, ptrdiff_t ldx, int32_t m,
                                const int32_t *target, const float *weight, float *loss,
                                int32_t *best, kernel_act *dx, ptrdiff_t lddx, float *dw)
{
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        const struct ce_head<T> h = ce_lay<T>(cx, head, m);
        for (int32_t i = 0; i < m; i += h.rows) {
            const struct ce_rows r = {h.state,
                                      h.state + h.rows,
                                      h.state + (ptrdiff_t)2 * h.rows,
                                      target + i,
                                      weight ? weight + i : weight,
                                      loss ? loss + i : loss,
                                      best ? best + i : best};
            ce_some<T>(h, r, gpu_matrix_of(act_as<T>(x) + i * ldx, ldx),
                       m - i < h.rows ? m - i : h.rows, loss || dx || dw,
                       dx ? act_as<T>(dx) + i * lddx : nullptr, lddx, dw);
        }
    });
}
