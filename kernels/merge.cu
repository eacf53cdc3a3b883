// Token merging. A sequence's rows find their likest partner, then keep it if few have a better
// one.
#include "gpu_act.h"

#include <assert.h>

enum { MERGE_THREADS = 128 };
#define MERGE_STEPS 65536.0 // likeness is told apart in steps of this

// Likeness of two rows: the cosine of their keys, summed over heads.
template <class T>
static __device__ double likeness(struct kernel_merge g, const T *__restrict__ a,
                                  const T *__restrict__ b)
{
    double ab = 0, aa = 0, bb = 0;
    for (int c = 0; c < g.head_dim; c++) {
        double x = 0, y = 0;
        GPU_UNROLL(1) // a double each: more of them spill
        for (int h = 0; h < g.kv_heads; h++) {
            x += (float)a[h * g.head_dim + c];
            y += (float)b[h * g.head_dim + c];
        }
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    return aa > 0 && bb > 0 ? rint(ab / sqrt(aa) / sqrt(bb) * MERGE_STEPS) : 0.0;
}

// A thread a row. score: -inf for who has no partner; wish: the partner, within the sequence.
template <class T>
static __global__ void __launch_bounds__(MERGE_THREADS)
    find_partner(struct kernel_merge g, const int32_t *__restrict__ start,
                 const int32_t *__restrict__ free, const T *__restrict__ key, ptrdiff_t ldk,
                 float *__restrict__ score, int32_t *__restrict__ wish)
{
    int row = start[blockIdx.y], len = start[blockIdx.y + 1] - row, m = free[blockIdx.y];
    int a = (int)(blockIdx.x * blockDim.x + threadIdx.x), best = a;
    double top = -INFINITY;
    if (a >= len)
        return;
    key += row * ldk;
    for (int b = a + 1; a % 2 == 0 && a >= 2 && b < m && b - a <= g.window; b += 2) {
        double s = likeness(g, key + a * ldk, key + b * ldk);
        if (s > top) {
            top = s;
            best = b;
        }
    }
    score[row + a] = (float)top;
    wish[row + a] = best;
}

static __global__ void __launch_bounds__(MERGE_THREADS)
    keep_partner(double ratio, const int32_t *__restrict__ start, const int32_t *__restrict__ free,
                 const float *__restrict__ score, const int32_t *__restrict__ wish,
                 int32_t *__restrict__ partner)
{
    int row = start[blockIdx.y], len = start[blockIdx.y + 1] - row, m = free[blockIdx.y];
    int a = (int)(blockIdx.x * blockDim.x + threadIdx.x), before = 0, most = (int)(ratio * m);
    if (a >= len)
        return;
    float mine = score[row + a];
    for (int i = 2; i < m && mine > -INFINITY; i += 2) {
        float other = score[row + i];
        before += other > mine || (other == mine && i < a);
    }
    partner[row + a] = row + (mine > -INFINITY && before < most ? wish[row + a] : a);
}

// A thread a column, rows in their order.
template <class T>
static __global__ void merge_columns(const T *__restrict__ x, ptrdiff_t ldx,
                                     const int32_t *__restrict__ into,
                                     const float *__restrict__ share, int m, int cols,
                                     T *__restrict__ y, ptrdiff_t ldy, int rows)
{
    int j = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = 0; i < rows && j < cols; i++)
        y[i * ldy + j] = 0;
    for (int i = 0; i < m && j < cols; i++)
        y[into[i] * ldy + j] += share[i] * x[i * ldx + j];
}

template <class T>
static __global__ void __launch_bounds__(MERGE_THREADS)
    share_rows(const T *__restrict__ dy, ptrdiff_t lddy, const int32_t *__restrict__ into,
               const float *__restrict__ share, int cols, T *__restrict__ dx, ptrdiff_t lddx)
{
    for (int j = (int)threadIdx.x; j < cols; j += (int)blockDim.x)
        dx[blockIdx.x * lddx + j] = share[blockIdx.x] * dy[into[blockIdx.x] * lddy + j];
}

extern "C" void GPU_OP(merge_match)(const struct kernel_ctx *cx, const struct kernel_merge *g,
                                    const struct kernel_seqs *seqs, const int32_t *free,
                                    const kernel_act *key, ptrdiff_t ldk, int32_t *partner)
{
    dim3 grid(gpu_blocks((size_t)seqs->longest, MERGE_THREADS), (unsigned)seqs->n);
    float *score = cx->work;
    int32_t *wish = reinterpret_cast<int32_t *>(cx->work + seqs->rows);
    assert(2 * (size_t)seqs->rows <= cx->work_floats);
    if (seqs->rows <= 0)
        return;
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        LAUNCH((find_partner<T>), grid, MERGE_THREADS, 0, cx->stream, *g, seqs->start, free,
               act_as<T>(key), ldk, score, wish);
    });
    LAUNCH(keep_partner, grid, MERGE_THREADS, 0, cx->stream, g->ratio, seqs->start, free, score,
           wish, partner);
}

extern "C" void GPU_OP(merge_rows)(const struct kernel_ctx *cx, const kernel_act *x, ptrdiff_t ldx,
                                   const int32_t *into, const float *share, int32_t m, int32_t cols,
                                   kernel_act *y, ptrdiff_t ldy, int32_t rows)
{
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        LAUNCH((merge_columns<T>), gpu_blocks((size_t)cols, 32), 32, 0, cx->stream, act_as<T>(x),
               ldx, into, share, m, cols, act_as<T>(y), ldy, rows);
    });
}

extern "C" void GPU_OP(merge_rows_bwd)(const struct kernel_ctx *cx, const kernel_act *dy,
                                       ptrdiff_t lddy, const int32_t *into, const float *share,
                                       int32_t m, int32_t cols, kernel_act *dx, ptrdiff_t lddx)
{
    if (m > 0)
        gpu_by_act(cx, [&](auto type) {
            typedef decltype(type) T;
            LAUNCH((share_rows<T>), (unsigned)m, (unsigned)gpu_threads(cols, MERGE_THREADS), 0,
                   cx->stream, act_as<T>(dy), lddy, into, share, cols, act_as<T>(dx), lddx);
        });
}
