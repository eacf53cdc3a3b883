// Causal attention with grouped queries in fp32. A block takes a tile of rows of one head and goes
// over the other side tile by tile; nothing of length x length is kept. Softmax is made as the keys
// come (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention). Backward are two kernels, by
// keys and by queries, so that no sum depends on the order of blocks.
//
// D is the head's width rounded up, zeros beyond it. A warp owns W rows of the block's tile; its
// lanes are the 32 rows of the other side while scores are made, and every 32nd column while values
// are added.
#include "gpu_act.h"

#include <assert.h>

enum { ATT_WARPS = 4, ATT_THREADS = 32 * ATT_WARPS, ATT_TILE = 32 };
// Blocks an SM is to hold, which bounds the registers; the wide ones are held by shared memory.
#define ATT_BLOCKS(D) ((D) <= 64 ? 3 : 1)

template <class T> struct att_args {
    const int32_t *start;
    const float *log_size;
    float scale;
    int heads, kv_heads, group, dim, total, window;
    const T *qkv;
    ptrdiff_t ldq;
};

// A query sees the keys up to its own place, with a window as many of them.
template <class T>
static __device__ __forceinline__ bool sees(const struct att_args<T> &a, int query, int key)
{
    return key <= query && (a.window == 0 || key > query - a.window);
}
template <class T>
static __device__ __forceinline__ int first_key(const struct att_args<T> &a, int query)
{
    return a.window > 0 && query >= a.window ? query - a.window + 1 : 0;
}
template <class T>
static __device__ __forceinline__ int queries_end(const struct att_args<T> &a, int last_key,
                                                  int len)
{
    return a.window > 0 ? min(len, last_key + a.window) : len;
}
static __device__ __forceinline__ int tile_from(int row)
{
    return row / ATT_TILE * ATT_TILE;
}

// Of one sequence and head.
template <class T> struct att_head {
    const T *q, *k, *v;
    int row, len;
};

template <class T>
static __device__ __forceinline__ struct att_head<T> head_of(const struct att_args<T> &a, int seq,
                                                             int head)
{
    int row = a.start[seq];
    const T *at = a.qkv + row * a.ldq, *k = at + (a.heads + head / a.group) * a.dim;
    return {at + head * a.dim, k, k + a.kv_heads * a.dim, row, a.start[seq + 1] - row};
}

// Rows [from, from + rows) of len into shared memory; what is not there is zero.
template <int D, int LD, class T>
static __device__ __forceinline__ void load(float (*to)[LD], int rows, const T *x, ptrdiff_t ld,
                                            int from, int len, int dim)
{
    for (int i = (int)threadIdx.x; i < rows * D; i += ATT_THREADS) {
        int r = i / D, c = i % D;
        to[r][c] = from + r < len && c < dim ? x[(from + r) * ld + c] : 0.0f;
    }
}

// Lane j's row of `other` times each of the warp's own rows.
template <int D, int W, int LD>
static __device__ __forceinline__ void multiply(float (*own)[D], const float (*other)[LD],
                                                float out[W])
{
    int lane = (int)(threadIdx.x % 32);
    for (int i = 0; i < W; i++)
        out[i] = 0;
    GPU_UNROLL(8)
    for (int c = 0; c < D; c++) {
        float x = other[lane][c];
        for (int i = 0; i < W; i++)
            out[i] += own[i][c] * x;
    }
}

// acc += p (W, 32) times other (32, D)
template <int D, int W, int LD>
static __device__ __forceinline__ void add_weighted(float (*p)[ATT_TILE], const float (*other)[LD],
                                                    float acc[W][D / 32])
{
    int lane = (int)(threadIdx.x % 32);
    for (int j = 0; j < ATT_TILE; j++)
        for (int c = 0; c < D / 32; c++) {
            float x = other[j][lane + 32 * c];
            for (int i = 0; i < W; i++)
                acc[i][c] += p[i][j] * x;
        }
}

template <int D, int W> struct att_forward {
    float q[ATT_WARPS * W][D], k[ATT_TILE][D + 1], v[ATT_TILE][D], p[ATT_WARPS * W][ATT_TILE];
};

template <class T, int D, int W>
static __global__ void __launch_bounds__(ATT_THREADS, ATT_BLOCKS(D))
    attend(struct att_args<T> a, T *__restrict__ out, ptrdiff_t ldo, float *__restrict__ lse)
{
    typedef struct att_forward<D, W> tiles;
    SHARED_DYNAMIC(tiles, s);
    struct att_head<T> h = head_of(a, (int)blockIdx.z, (int)blockIdx.y);
    int q0 = (int)blockIdx.x * ATT_WARPS * W, lane = (int)(threadIdx.x % 32);
    int own = (int)(threadIdx.x / 32) * W;
    if (q0 >= h.len)
        return;
    load<D, D>(s->q, ATT_WARPS * W, h.q, a.ldq, q0, h.len, a.dim);
    float top[W], sum[W], acc[W][D / 32], score[W];
    for (int i = 0; i < W; i++) {
        top[i] = -INFINITY;
        sum[i] = 0;
        for (int c = 0; c < D / 32; c++)
            acc[i][c] = 0;
    }
    for (int k0 = tile_from(first_key(a, q0)); k0 < min(h.len, q0 + ATT_WARPS * W);
         k0 += ATT_TILE) {
        __syncthreads();
        load<D, D + 1>(s->k, ATT_TILE, h.k, a.ldq, k0, h.len, a.dim);
        load<D, D>(s->v, ATT_TILE, h.v, a.ldq, k0, h.len, a.dim);
        __syncthreads();
        multiply<D, W, D + 1>(s->q + own, s->k, score);
        float size = a.log_size && k0 + lane < h.len ? a.log_size[h.row + k0 + lane] : 0.0f;
        for (int i = 0; i < W; i++) {
            bool seen = sees(a, q0 + own + i, k0 + lane) && k0 + lane < h.len;
            float x = seen ? score[i] * a.scale + size : -INFINITY;
            float most = fmaxf(top[i], warp_max(x)), shrink = 1, p = seen ? expf(x - most) : 0.0f;
            if (top[i] != most)
                shrink = expf(top[i] - most);
            top[i] = most;
            sum[i] = sum[i] * shrink + warp_sum(p);
            for (int c = 0; c < D / 32; c++)
                acc[i][c] *= shrink;
            s->p[own + i][lane] = p;
        }
        __syncwarp();
        add_weighted<D, W, D>(s->p + own, s->v, acc);
    }
    for (int i = 0; i < W; i++) {
        int row = h.row + q0 + own + i;
        if (q0 + own + i >= h.len)
            break;
        for (int c = 0; c < D / 32; c++)
            if (lane + 32 * c < a.dim)
                out[row * ldo + (int)blockIdx.y * a.dim + lane + 32 * c] = acc[i][c] / sum[i];
        if (lane == 0)
            lse[(ptrdiff_t)blockIdx.y * a.total + row] = top[i] + logf(sum[i]);
    }
}

// received += the columns of P, over all heads: a warp's own rows are keys, the other side queries.
template <class T, int D, int W>
static __global__ void __launch_bounds__(ATT_THREADS, ATT_BLOCKS(D))
    count_received(struct att_args<T> a, const float *__restrict__ lse,
                   float *__restrict__ received)
{
    typedef struct att_forward<D, W> tiles;
    SHARED_DYNAMIC(tiles, s);
    int seq = (int)blockIdx.z, lane = (int)(threadIdx.x % 32), own = (int)(threadIdx.x / 32) * W;
    int row = a.start[seq], len = a.start[seq + 1] - row, k0 = (int)blockIdx.x * ATT_WARPS * W;
    int end = queries_end(a, k0 + ATT_WARPS * W - 1, len);
    float got[W], score[W];
    if (k0 >= len)
        return;
    for (int i = 0; i < W; i++)
        got[i] = 0;
    for (int head = 0; head < a.heads; head++) {
        struct att_head<T> h = head_of(a, seq, head);
        for (int q0 = tile_from(k0); q0 < end; q0 += ATT_TILE) {
            __syncthreads();
            load<D, D>(s->q, ATT_WARPS * W, h.k, a.ldq, k0, len, a.dim);
            load<D, D + 1>(s->k, ATT_TILE, h.q, a.ldq, q0, len, a.dim);
            __syncthreads();
            multiply<D, W, D + 1>(s->q + own, s->k, score);
            for (int i = 0; i < W; i++) {
                int key = k0 + own + i, query = q0 + lane;
                if (!sees(a, query, key) || query >= len)
                    continue;
                float size = a.log_size ? a.log_size[row + key] : 0.0f;
                got[i] +=
                    expf(score[i] * a.scale + size - lse[(ptrdiff_t)head * a.total + row + query]);
            }
        }
    }
    for (int i = 0; i < W; i++) {
        float all = warp_sum(got[i]);
        if (lane == 0 && k0 + own + i < len)
            received[row + k0 + own + i] += all;
    }
}

// pull (heads, total) = dout_i out_i: a warp a row of a head.
template <class T>
static __global__ void __launch_bounds__(ATT_THREADS)
    dot_outputs(struct att_args<T> a, const T *__restrict__ out, const T *__restrict__ dout,
                ptrdiff_t ldo, float *__restrict__ pull)
{
    int row = (int)(blockIdx.x * ATT_WARPS + threadIdx.x / 32);
    ptrdiff_t at = row * ldo + (int)blockIdx.y * a.dim;
    float sum = 0;
    if (row >= a.total)
        return;
    for (int c = (int)(threadIdx.x % 32); c < a.dim; c += 32)
        sum += out[at + c] * dout[at + c];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        pull[(ptrdiff_t)blockIdx.y * a.total + row] = sum;
}

template <class T> struct att_back {
    const T *dout;
    const float *lse, *pull;
    ptrdiff_t ldo;
    T *dqkv;
};

// P and dS of a query and a key.
template <class T>
static __device__ __forceinline__ void score_back(const struct att_args<T> &a,
                                                  const struct att_back<T> &b, int head, int row,
                                                  int len, int query, int key, float qk, float dv,
                                                  float *p, float *ds)
{
    *p = *ds = 0;
    if (!sees(a, query, key) || query >= len)
        return;
    ptrdiff_t at = (ptrdiff_t)head * a.total + row + query;
    float size = a.log_size ? a.log_size[row + key] : 0.0f;
    *p = expf(qk * a.scale + size - b.lse[at]);
    *ds = *p * (dv - b.pull[at]) * a.scale;
}

template <int D, int W> struct att_by_key {
    float k[ATT_WARPS * W][D], v[ATT_WARPS * W][D], q[ATT_TILE][D + 1], d[ATT_TILE][D + 1];
    float p[ATT_WARPS * W][ATT_TILE], ds[ATT_WARPS * W][ATT_TILE];
};

template <class T, int D, int W>
static __global__ void __launch_bounds__(ATT_THREADS, ATT_BLOCKS(D))
    attend_back_keys(struct att_args<T> a, struct att_back<T> b)
{
    typedef struct att_by_key<D, W> tiles;
    SHARED_DYNAMIC(tiles, s);
    int kv = (int)blockIdx.y, lane = (int)(threadIdx.x % 32), own = (int)(threadIdx.x / 32) * W;
    struct att_head<T> h = head_of(a, (int)blockIdx.z, kv * a.group);
    int k0 = (int)blockIdx.x * ATT_WARPS * W, end = queries_end(a, k0 + ATT_WARPS * W - 1, h.len);
    if (k0 >= h.len)
        return;
    load<D, D>(s->k, ATT_WARPS * W, h.k, a.ldq, k0, h.len, a.dim);
    load<D, D>(s->v, ATT_WARPS * W, h.v, a.ldq, k0, h.len, a.dim);
    float dk[W][D / 32], dv[W][D / 32], qk[W], dvv[W];
    for (int i = 0; i < W; i++)
        for (int c = 0; c < D / 32; c++)
            dk[i][c] = dv[i][c] = 0;
    for (int head = kv * a.group; head < (kv + 1) * a.group; head++)
        for (int q0 = tile_from(k0); q0 < end; q0 += ATT_TILE) {
            const T *dout = b.dout + h.row * b.ldo + head * a.dim;
            __syncthreads();
            load<D, D + 1>(s->q, ATT_TILE, a.qkv + h.row * a.ldq + head * a.dim, a.ldq, q0, h.len,
                           a.dim);
            load<D, D + 1>(s->d, ATT_TILE, dout, b.ldo, q0, h.len, a.dim);
            __syncthreads();
            multiply<D, W, D + 1>(s->k + own, s->q, qk);
            multiply<D, W, D + 1>(s->v + own, s->d, dvv);
            for (int i = 0; i < W; i++)
                score_back(a, b, head, h.row, h.len, q0 + lane, k0 + own + i, qk[i], dvv[i],
                           &s->p[own + i][lane], &s->ds[own + i][lane]);
            __syncwarp();
            add_weighted<D, W, D + 1>(s->p + own, s->d, dv);
            add_weighted<D, W, D + 1>(s->ds + own, s->q, dk);
        }
    for (int i = 0; i < W; i++) {
        T *at = b.dqkv + (h.row + k0 + own + i) * a.ldq + (a.heads + kv) * a.dim + lane;
        for (int c = 0; c < D / 32; c++)
            if (k0 + own + i < h.len && lane + 32 * c < a.dim) {
                at[32 * c] = dk[i][c];
                at[a.kv_heads * a.dim + 32 * c] = dv[i][c];
            }
    }
}

template <int D, int W> struct att_by_query {
    float q[ATT_WARPS * W][D], d[ATT_WARPS * W][D], k[ATT_TILE][D + 1], v[ATT_TILE][D + 1];
    float ds[ATT_WARPS * W][ATT_TILE];
};

template <class T, int D, int W>
static __global__ void __launch_bounds__(ATT_THREADS, ATT_BLOCKS(D))
    attend_back_queries(struct att_args<T> a, struct att_back<T> b)
{
    typedef struct att_by_query<D, W> tiles;
    SHARED_DYNAMIC(tiles, s);
    int head = (int)blockIdx.y, lane = (int)(threadIdx.x % 32), own = (int)(threadIdx.x / 32) * W;
    struct att_head<T> h = head_of(a, (int)blockIdx.z, head);
    int q0 = (int)blockIdx.x * ATT_WARPS * W;
    if (q0 >= h.len)
        return;
    load<D, D>(s->q, ATT_WARPS * W, h.q, a.ldq, q0, h.len, a.dim);
    load<D, D>(s->d, ATT_WARPS * W, b.dout + h.row * b.ldo + head * a.dim, b.ldo, q0, h.len, a.dim);
    float dq[W][D / 32], qk[W], dv[W];
    for (int i = 0; i < W; i++)
        for (int c = 0; c < D / 32; c++)
            dq[i][c] = 0;
    for (int k0 = tile_from(first_key(a, q0)); k0 < min(h.len, q0 + ATT_WARPS * W);
         k0 += ATT_TILE) {
        __syncthreads();
        load<D, D + 1>(s->k, ATT_TILE, h.k, a.ldq, k0, h.len, a.dim);
        load<D, D + 1>(s->v, ATT_TILE, h.v, a.ldq, k0, h.len, a.dim);
        __syncthreads();
        multiply<D, W, D + 1>(s->q + own, s->k, qk);
        multiply<D, W, D + 1>(s->d + own, s->v, dv);
        for (int i = 0; i < W; i++) {
            float p;
            score_back(a, b, head, h.row, h.len, q0 + own + i, k0 + lane, qk[i], dv[i], &p,
                       &s->ds[own + i][lane]);
        }
        __syncwarp();
        add_weighted<D, W, D + 1>(s->ds + own, s->k, dq);
    }
    for (int i = 0; i < W; i++) {
        T *at = b.dqkv + (h.row + q0 + own + i) * a.ldq + head * a.dim + lane;
        for (int c = 0; c < D / 32; c++)
            if (q0 + own + i < h.len && lane + 32 * c < a.dim)
                at[32 * c] = dq[i][c];
    }
}

// Generation. A row's key and value go to the end of its sequence's cache.

struct att_cache {
    kernel_act *const *k, *const *v;
    float *const *log_size;
    const int32_t *n;
    size_t skip;
};

template <class T>
static __device__ __forceinline__ T *cached(kernel_act *const *list, size_t skip, int i)
{
    return reinterpret_cast<T *>(list[i]) + skip;
}

template <class T>
static __global__ void __launch_bounds__(ATT_THREADS)
    keep_rows(struct att_args<T> a, struct att_cache cache)
{
    int seq = (int)blockIdx.y, i = (int)blockIdx.x, row = a.start[seq] + i;
    int width = a.kv_heads * a.dim;
    const T *key = a.qkv + row * a.ldq + a.heads * a.dim;
    for (int c = (int)threadIdx.x; c < width && row < a.start[seq + 1]; c += ATT_THREADS) {
        cached<T>(cache.k, cache.skip, seq)[(ptrdiff_t)i * width + c] = key[c];
        cached<T>(cache.v, cache.skip, seq)[(ptrdiff_t)i * width + c] = key[width + c];
    }
}

template <class T>
static __global__ void __launch_bounds__(ATT_THREADS)
    append_rows(struct att_args<T> a, struct att_cache cache)
{
    int i = (int)blockIdx.x, width = a.kv_heads * a.dim;
    const T *key = a.qkv + i * a.ldq + a.heads * a.dim;
    ptrdiff_t at = (ptrdiff_t)cache.n[i] * width;
    for (int c = (int)threadIdx.x; c < width; c += ATT_THREADS) {
        cached<T>(cache.k, cache.skip, i)[at + c] = key[c];
        cached<T>(cache.v, cache.skip, i)[at + c] = key[width + c];
    }
}

// One query: each warp takes every fourth key, then the four are put together.
template <class T, int D>
static __global__ void __launch_bounds__(ATT_THREADS)
    attend_one(struct att_args<T> a, struct att_cache cache, T *__restrict__ out, ptrdiff_t ldo)
{
    SHARED(float, tops, [ATT_WARPS]);
    SHARED(float, sums, [ATT_WARPS]);
    SHARED(float, parts, [ATT_WARPS][D]);
    int i = (int)blockIdx.x, head = (int)blockIdx.y, lane = (int)(threadIdx.x % 32);
    int warp = (int)(threadIdx.x / 32), n = cache.n[i] + 1, width = a.kv_heads * a.dim;
    const T *k = cached<T>(cache.k, cache.skip, i) + head / a.group * a.dim;
    const T *v = cached<T>(cache.v, cache.skip, i) + head / a.group * a.dim;
    float q[D / 32], acc[D / 32], top = -INFINITY, sum = 0;
    for (int c = 0; c < D / 32; c++) {
        int at = lane + 32 * c;
        q[c] = at < a.dim ? a.qkv[i * a.ldq + head * a.dim + at] : 0.0f;
        acc[c] = 0;
    }
    for (ptrdiff_t j = first_key(a, n - 1) + warp; j < n; j += ATT_WARPS) {
        float x = 0;
        for (int c = 0; c < D / 32; c++)
            x += lane + 32 * c < a.dim ? q[c] * k[j * width + lane + 32 * c] : 0.0f;
        x = warp_sum(x) * a.scale;
        if (cache.log_size)
            x += cache.log_size[i][j];
        float most = fmaxf(top, x), shrink = top == most ? 1.0f : expf(top - most);
        float p = expf(x - most);
        top = most;
        sum = sum * shrink + p;
        for (int c = 0; c < D / 32; c++)
            acc[c] =
                acc[c] * shrink + (lane + 32 * c < a.dim ? p * v[j * width + lane + 32 * c] : 0.0f);
    }
    if (lane == 0) {
        tops[warp] = top;
        sums[warp] = sum;
    }
    for (int c = 0; c < D / 32; c++)
        parts[warp][lane + 32 * c] = acc[c];
    __syncthreads();
    for (int c = (int)threadIdx.x; c < a.dim; c += ATT_THREADS) {
        float most = -INFINITY, total = 0, o = 0;
        for (int w = 0; w < ATT_WARPS; w++)
            most = fmaxf(most, tops[w]);
        for (int w = 0; w < ATT_WARPS; w++) { // a warp without a key adds nothing
            float by = tops[w] > -INFINITY ? expf(tops[w] - most) : 0.0f;
            total += by * sums[w];
            o += by * parts[w][c];
        }
        out[i * ldo + head * a.dim + c] = o / total;
    }
}

// Launchers.

template <class T>
static struct att_args<T> args_of(const struct kernel_attn *a, const int32_t *start, int32_t total,
                                  const kernel_act *qkv, ptrdiff_t ldq)
{
    return {start,        a->log_size,              a->scale,    a->heads,
            a->kv_heads,  a->heads / a->kv_heads,   a->head_dim, total,
            a->window,    act_as<T>(qkv),           ldq};
}

static dim3 grid_of(const struct kernel_seqs *seqs, int rows, int heads)
{
    return dim3(gpu_blocks((size_t)seqs->longest, rows), (unsigned)heads, (unsigned)seqs->n);
}

template <int D, int W, class T>
static void forward_as(void *stream, const struct att_args<T> &a, const struct kernel_seqs *seqs,
                       T *out, ptrdiff_t ldo, float *lse, float *received)
{
    size_t bytes = sizeof(struct att_forward<D, W>);
    SHARED_LIMIT((attend<T, D, W>), bytes);
    LAUNCH((attend<T, D, W>), grid_of(seqs, ATT_WARPS * W, a.heads), ATT_THREADS, bytes, stream, a,
           out, ldo, lse);
    if (!received)
        return;
    SHARED_LIMIT((count_received<T, D, W>), bytes);
    LAUNCH((count_received<T, D, W>), grid_of(seqs, ATT_WARPS * W, 1), ATT_THREADS, bytes, stream,
           a, lse, received);
}

template <int D, int W, class T>
static void backward_as(void *stream, const struct att_args<T> &a, const struct kernel_seqs *seqs,
                        const struct att_back<T> &b)
{
    size_t keys = sizeof(struct att_by_key<D, W>), queries = sizeof(struct att_by_query<D, W>);
    SHARED_LIMIT((attend_back_keys<T, D, W>), keys);
    SHARED_LIMIT((attend_back_queries<T, D, W>), queries);
    LAUNCH((attend_back_keys<T, D, W>), grid_of(seqs, ATT_WARPS * W, a.kv_heads), ATT_THREADS, keys,
           stream, a, b);
    LAUNCH((attend_back_queries<T, D, W>), grid_of(seqs, ATT_WARPS * W, a.heads), ATT_THREADS,
           queries, stream, a, b);
}

// By the head's width: wider ones take fewer rows a block, for the shared memory.
#define BY_WIDTH(dim, call)                                                                        \
    do {                                                                                           \
        assert((dim) <= 256);                                                                      \
        if ((dim) <= 32)                                                                           \
            call(32, 8);                                                                           \
        else if ((dim) <= 64)                                                                      \
            call(64, 8);                                                                           \
        else if ((dim) <= 128)                                                                     \
            call(128, 8);                                                                          \
        else                                                                                       \
            call(256, 2);                                                                          \
    } while (0)

extern "C" void GPU_OP(attention_fwd)(const struct kernel_ctx *cx, const struct kernel_attn *a,
                                      const struct kernel_seqs *seqs, const kernel_act *qkv,
                                      ptrdiff_t ldq, kernel_act *out, ptrdiff_t ldo, float *lse,
                                      float *received)
{
    if (seqs->rows <= 0)
        return;
#define FORWARD(D, W) forward_as<D, W>(cx->stream, g, seqs, act_as<T>(out), ldo, lse, received)
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        const struct att_args<T> g = args_of<T>(a, seqs->start, seqs->rows, qkv, ldq);
        BY_WIDTH(a->head_dim, FORWARD);
    });
}

extern "C" void GPU_OP(attention_bwd)(const struct kernel_ctx *cx, const struct kernel_attn *a,
                                      const struct kernel_seqs *seqs, const kernel_act *qkv,
                                      ptrdiff_t ldq, const kernel_act *out, const kernel_act *dout,
                                      ptrdiff_t ldo, const float *lse, kernel_act *dqkv)
{
    assert((size_t)a->heads * (size_t)seqs->rows <= cx->work_floats);
    if (seqs->rows <= 0)
        return;
#define BACKWARD(D, W) backward_as<D, W>(cx->stream, g, seqs, b)
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        const struct att_args<T> g = args_of<T>(a, seqs->start, seqs->rows, qkv, ldq);
        const struct att_back<T> b = {act_as<T>(dout), lse, cx->work, ldo, act_as<T>(dqkv)};
        LAUNCH((dot_outputs<T>),
               dim3(gpu_blocks((size_t)seqs->rows, ATT_WARPS), (unsigned)a->heads), ATT_THREADS, 0,
               cx->stream, g, act_as<T>(out), act_as<T>(dout), ldo, cx->work);
        BY_WIDTH(a->head_dim, BACKWARD);
    });
}

static struct att_cache cache_of(const struct kernel_cache *cache)
{
    return {cache->k, cache->v, cache->log_size, cache->n, cache->skip};
}

extern "C" void GPU_OP(cache_rows)(const struct kernel_ctx *cx, const struct kernel_attn *a,
                                   const struct kernel_seqs *seqs, const kernel_act *qkv,
                                   ptrdiff_t ldq, const struct kernel_cache *cache)
{
    if (seqs->longest <= 0)
        return;
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        LAUNCH((keep_rows<T>), dim3((unsigned)seqs->longest, (unsigned)seqs->n), ATT_THREADS, 0,
               cx->stream, args_of<T>(a, seqs->start, seqs->rows, qkv, ldq), cache_of(cache));
    });
}

extern "C" void GPU_OP(attention_step)(const struct kernel_ctx *cx, const struct kernel_attn *a,
                                       const struct kernel_cache *cache, int32_t m,
                                       const kernel_act *qkv, ptrdiff_t ldq, kernel_act *out,
                                       ptrdiff_t ldo)
{
    if (m <= 0)
        return;
#define STEP(D, W)                                                                                 \
    LAUNCH((attend_one<T, D>), dim3((unsigned)m, (unsigned)a->heads), ATT_THREADS, 0, cx->stream,  \
           g, c, act_as<T>(out), ldo)
    gpu_by_act(cx, [&](auto type) {
        typedef decltype(type) T;
        const struct att_args<T> g = args_of<T>(a, nullptr, m, qkv, ldq);
        const struct att_cache c = cache_of(cache);
        LAUNCH((append_rows<T>), (unsigned)m, ATT_THREADS, 0, cx->stream, g, c);
        BY_WIDTH(a->head_dim, STEP);
    });
}
