// The head and its loss: logits of as many rows as there is room for, then a block a row makes of
// them the row's loss and its gradient by the logits, where they lie.
#include "multiply.h"

enum { CE_THREADS = 256 };

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

// NaN is never better, so that a row of nothing else names the first word.
static __global__ void __launch_bounds__(CE_THREADS)
    ce_rows(float *__restrict__ logits, int vocab, const int32_t *__restrict__ target,
            const float *__restrict__ weight, float *__restrict__ loss, int32_t *__restrict__ best,
            bool gradient)
{
    SHARED(struct ce_best, part, [32]);
    SHARED(float, sums, [32]);
    float *l = logits + (ptrdiff_t)blockIdx.x * vocab;
    struct ce_best top = {-INFINITY, 0};
    for (int v = (int)threadIdx.x; v < vocab; v += (int)blockDim.x)
        if (l[v] > top.value)
            top = {l[v], v};
    top = block_best(top, part);
    if (best && threadIdx.x == 0)
        best[blockIdx.x] = top.at;
    if (!loss && !gradient)
        return;
    int goal = target[blockIdx.x];
    float sum = 0;
    for (int v = (int)threadIdx.x; v < vocab; v += (int)blockDim.x)
        sum += expf(l[v] - top.value);
    sum = block_sum(sum, sums);
    if (loss && threadIdx.x == 0)
        loss[blockIdx.x] = goal < 0 ? 0.0f : logf(sum) + (top.value - l[goal]);
    if (!gradient)
        return;
    __syncthreads(); // the goal's logit was read
    float by = goal < 0 ? 0.0f : weight[blockIdx.x] / sum;
    for (int v = (int)threadIdx.x; v < vocab; v += (int)blockDim.x) {
        float d = by * expf(l[v] - top.value);
        l[v] = goal < 0 ? 0.0f : v == goal ? d - weight[blockIdx.x] : d;
    }
}

// Room for logits and, where the head is not in fp32, for a part of it.
extern "C" void GPU_OP(ce_head)(const struct kernel_ctx *cx, const struct kernel_weight *head,
                                const kernel_act *x, ptrdiff_t ldx, int32_t m,
                                const int32_t *target, const float *weight, float *loss,
                                int32_t *best, kernel_act *dx, ptrdiff_t lddx, float *dw)
{
    int32_t vocab = head->rows, cols = head->cols;
    size_t room = head->dtype == KERNEL_F32 ? 0 : cx->work_floats / 4;
    size_t fit = (cx->work_floats - room) / (size_t)vocab;
    assert(fit > 0);
    int32_t rows = fit < (size_t)m ? (int32_t)fit : m, some = gpu_rows_at_a_time(head, room);
    float *logits = cx->work + room;
    for (int32_t i = 0; i < m; i += rows) {
        int32_t n = m - i < rows ? m - i : rows;
        struct gpu_matrix in = {act_in(x) + i * ldx, ldx}, out = {logits, vocab};
        for (int32_t v = 0; v < vocab; v += some) {
            int32_t k = vocab - v < some ? vocab - v : some;
            gpu_multiply_weight(cx, n, k, cols, in, gpu_rows_of(cx, head, v, k, cx->work), true, 0,
                                logits + v, vocab);
        }
        LAUNCH(ce_rows, (unsigned)n, (unsigned)gpu_threads(vocab, CE_THREADS), 0, cx->stream,
               logits, vocab, target + i, weight ? weight + i : weight, loss ? loss + i : loss,
               best ? best + i : best, dx || dw);
        for (int32_t v = 0; v < vocab && dx; v += some) {
            int32_t k = vocab - v < some ? vocab - v : some;
            gpu_multiply_weight(cx, n, cols, k, {logits + v, vocab},
                                gpu_rows_of(cx, head, v, k, cx->work), false, v > 0,
                                act_out(dx) + i * lddx, lddx);
        }
        if (dw)
            gpu_multiply(cx, vocab, cols, n, 1, out, true, in, false, 1, dw, cols);
    }
}
