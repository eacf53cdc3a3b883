// Embeddings and moves of rows: a block a row.
#include "gpu_act.h"

enum { ROW_THREADS = 256 };

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    look_up(const void *__restrict__ table, int dtype, ptrdiff_t ld,
            const int32_t *__restrict__ tokens, int cols, T *__restrict__ x, ptrdiff_t ldx)
{
    ptrdiff_t from = tokens[blockIdx.x] * ld;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        x[blockIdx.x * ldx + j] = stored_value(table, dtype, from + j);
}

template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    row_squares(const T *__restrict__ dx, ptrdiff_t lddx, float by, int cols,
                float *__restrict__ sq)
{
    SHARED(float, part, [32]);
    dx += blockIdx.x * lddx;
    float sum = 0;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        sum += dx[j] * by * (dx[j] * by);
    sum = block_sum(sum, part);
    if (threadIdx.x == 0)
        sq[blockIdx.x] = sum;
}

// A thread a column, rows in their order: a token may be there more than once.
template <class T>
static __global__ void add_to_table(const T *__restrict__ dx, ptrdiff_t lddx, float by,
                                    const int32_t *__restrict__ tokens, int m, int cols,
                                    float *__restrict__ dtable)
{
    int j = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = 0; i < m && j < cols; i++)
        dtable[(ptrdiff_t)tokens[i] * cols + j] += dx[i * lddx + j] * by;
}

// y_i = x[row_i], or x_i without a list.
template <class X, class Y>
static __global__ void __launch_bounds__(ROW_THREADS)
    take_rows(const X *__restrict__ x, ptrdiff_t ldx, const int32_t *__restrict__ row, int cols,
              Y *__restrict__ y, ptrdiff_t ldy)
{
    x += (row ? row[blockIdx.x] : (ptrdiff_t)blockIdx.x) * ldx;
    y += blockIdx.x * ldy;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        y[j] = x[j];
}

// A block a row of x, which looks for itself in the list.
template <class T>
static __global__ void __launch_bounds__(ROW_THREADS)
    give_rows(const T *__restrict__ y, ptrdiff_t ldy, const int32_t *__restrict__ row, int n,
              int cols, T *__restrict__ x, ptrdiff_t ldx)
{
    int low = 0, high = n, mine = (int)blockIdx.x;
    while (low < high) {
        int middle = (low + high) / 2;
        if (row[middle] < mine)
            low = middle + 1;
        else
            high = middle;
    }
    bool given = low < n && row[low] == mine;
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        x[mine * ldx + j] = given ? y[low * ldy + j] : 0.0f;
}

extern "C" void GPU_OP(embed_fwd)(const struct kernel_ctx *cx, const struct kernel_weight *table,
                                  const int32_t *tokens, int32_t m, kernel_act *x, ptrdiff_t ldx)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((look_up<T>), (unsigned)m, (unsigned)gpu_threads(table->cols, ROW_THREADS), 0,
                   cx->stream, table->w, table->dtype, table->ld, tokens, table->cols, act_as<T>(x),
                   ldx);
        });
}

extern "C" void GPU_OP(embed_bwd)(const struct kernel_ctx *cx, const kernel_act *dx, ptrdiff_t lddx,
                                  const int32_t *tokens, int32_t m, int32_t cols, float *token_sq,
                                  float *dtable)
{
    if (m <= 0)
        return;
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        if (token_sq)
            LAUNCH((row_squares<T>), (unsigned)m, (unsigned)gpu_threads(cols, ROW_THREADS), 0,
                   cx->stream, act_as<T>(dx), lddx, 1 / cx->grad_scale, cols, token_sq);
        if (dtable)
            LAUNCH((add_to_table<T>), gpu_blocks((size_t)cols, 64), 64, 0, cx->stream,
                   act_as<T>(dx), lddx, 1 / cx->grad_scale, tokens, m, cols, dtable);
    });
}

template <class X, class Y>
static void take(const struct kernel_ctx *cx, const X *x, ptrdiff_t ldx, const int32_t *row,
                 int32_t m, int32_t cols, Y *y, ptrdiff_t ldy)
{
    if (m > 0)
        LAUNCH((take_rows<X, Y>), (unsigned)m, (unsigned)gpu_threads(cols, ROW_THREADS), 0,
               cx->stream, x, ldx, row, cols, y, ldy);
}

extern "C" void GPU_OP(gather_rows)(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                                    const int32_t *row, int32_t n, int32_t cols, kernel_act *y,
                                    ptrdiff_t ldy)
{
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        take(cx, act_as<T>(x), ldx, row, n, cols, act_as<T>(y), ldy);
    });
}

extern "C" void GPU_OP(scatter_rows)(const struct kernel_ctx *cx, const kernel_act *y,
                                     ptrdiff_t ldy, const int32_t *row, int32_t n, int32_t cols,
                                     kernel_act *x, ptrdiff_t ldx, int32_t m)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((give_rows<T>), (unsigned)m, (unsigned)gpu_threads(cols, ROW_THREADS), 0,
                   cx->stream, act_as<T>(y), ldy, row, n, cols, act_as<T>(x), ldx);
        });
}

extern "C" void GPU_OP(widen_rows)(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                                   int32_t m, int32_t cols, float *y)
{
    gpu_by_act(cx, [&](auto type) {
        take(cx, act_as<decltype(type)>(x), ldx, nullptr, m, cols, y, cols);
    });
}

extern "C" void GPU_OP(narrow_rows)(const struct kernel_ctx *cx, const float *x, int32_t m,
                                    int32_t cols, kernel_act *y, ptrdiff_t ldy)
{
    gpu_by_act(cx, [&](auto type) {
        take(cx, x, cols, nullptr, m, cols, act_as<decltype(type)>(y), ldy);
    });
}
