#ifdef SIMD_LANES // read for each instruction set

#define simd_u       SIMD_NAME(simd_u)
#define round_bf16   SIMD_NAME(round_bf16)
#define round_rows   SIMD_NAME(round_rows)
#define tile_product SIMD_NAME(tile_product)
#define tile_rows    SIMD_NAME(tile_rows)
#define tile_edge    SIMD_NAME(tile_edge)

typedef uint32_t simd_u __attribute__((vector_size(4 * SIMD_LANES), aligned(4), may_alias));

// To the nearest bf16, ties to even, as VCVTNEPS2BF16 does it; it stays a float.
SIMD_INLINE void round_bf16(simd_f *v)
{
    simd_u u = (simd_u)*v, near = u + 0x7fff + (u >> 16 & 1);
    simd_u nan = (simd_u)((simd_i)(u & 0x7fffffff) > 0x7f800000);
    *v = (simd_f)(((near & ~nan) | ((u | 0x400000) & nan)) & 0xffff0000);
}

// A panel (k, width), k even, of bf16. With SIMD_DOT two rows go into one, the second as the upper
// halves of its elements.
SIMD_KERNEL void SIMD_NAME(round_panel)(float *x, int32_t k, ptrdiff_t width)
{
    for (int32_t i = 0; i < k; i += 2)
        for (ptrdiff_t j = 0; j < width; j += SIMD_LANES) {
            simd_f a = *simd_of(x + i * width + j), b = *simd_of(x + (i + 1) * width + j);
            round_bf16(&a);
            round_bf16(&b);
#ifdef SIMD_DOT
            *simd_at(x + i / 2 * width + j) = (simd_f)((simd_u)a >> 16 | (simd_u)b);
#else
            *simd_at(x + i * width + j) = a;
            *simd_at(x + (i + 1) * width + j) = b;
#endif
        }
}

// mr rows of k values, a row every GEMM_KC floats; zeros behind them up to the next whole pair.
// With SIMD_DOT two values are one element, the second its upper half.
SIMD_INLINE void round_rows(int mr, int32_t k, const float *a, ptrdiff_t rsa, float *to)
{
    for (int i = 0; i < mr; i++)
        for (int32_t j = 0; j < k; j += SIMD_LANES) {
            simd_f v;
            if (k - j >= SIMD_LANES)
                v = *simd_of(a + i * rsa + j);
            else
                simd_load_part(&v, a + i * rsa + j, k - j, 0.0f);
            round_bf16(&v);
#ifdef SIMD_DOT
            _mm256_storeu_si256((__m256i *)(void *)(to + i * GEMM_KC + j / 2),
                                _mm512_cvtepi32_epi16((__m512i)((simd_u)v >> 16)));
#else
            *simd_at(to + i * GEMM_KC + j) = v;
#endif
        }
}

#ifndef SIMD_DOT

#include "simd_turn.h"

// Stored rows (n, ld) become a panel: out[k * width + j] = w[j * ld + k].
SIMD_KERNEL void SIMD_NAME(pack_rows)(const float *w, ptrdiff_t ld, int32_t k, int32_t n,
                                      ptrdiff_t width, float *out)
{
    for (ptrdiff_t j0 = 0; j0 < width; j0 += SIMD_LANES) {
        int32_t k0 = 0;
        for (; k0 + SIMD_LANES <= k && j0 + SIMD_LANES <= n; k0 += SIMD_LANES) {
            simd_f r[SIMD_LANES];
            for (int j = 0; j < SIMD_LANES; j++)
                r[j] = *simd_of(w + (j0 + j) * ld + k0);
            simd_transpose(r);
            for (int i = 0; i < SIMD_LANES; i++)
                *simd_at(out + (k0 + i) * width + j0) = r[i];
        }
        for (; k0 < k; k0++)
            for (ptrdiff_t j = j0; j < j0 + SIMD_LANES; j++)
                out[k0 * width + j] = j < n ? w[j * ld + k0] : 0.0f;
    }
}

// out[k * width + j] = w[k * ld + j].
SIMD_KERNEL void SIMD_NAME(pack_columns)(const float *w, ptrdiff_t ld, int32_t k, int32_t n,
                                         ptrdiff_t width, float *out)
{
    for (ptrdiff_t j = 0; j < width; j += SIMD_LANES) {
        if (n - j >= SIMD_LANES) {
            for (int32_t i = 0; i < k; i++)
                *simd_at(out + i * width + j) = *simd_of(w + i * ld + j);
        } else {
            for (int32_t i = 0; i < k; i++) {
                simd_f v;
                simd_load_part(&v, w + i * ld + j, n - j, 0.0f);
                *simd_at(out + i * width + j) = v;
            }
        }
    }
}

#endif

// Tiles whose accumulators fit the register file: 24 of 32 or 12 of 16.
#define TILE_COLS (SIMD_LANES == 16 ? GEMM_PANEL : 16)
#define TILE_ROWS (SIMD_REGISTERS * 3 / 4 * SIMD_LANES / TILE_COLS)

// Pairs of bf16: of each the second product is added first, as VDPBF16PS does it. A product of two
// bf16 is exact in fp32, so with or without fused multiply-adds these are the same bits.
#undef PAIR_PRODUCT
#ifdef SIMD_DOT
#define PAIR_PRODUCT                                                                               \
    for (int32_t k = chain[q].k; k > 0; k -= 2, a++, b += ldb) {                                   \
        __m512bh bk[4];                                                                            \
        for (int j = 0; j < nv; j++)                                                               \
            bk[j] = (__m512bh)*simd_of(b + SIMD_LANES * j);                                        \
        for (int i = 0; i < mr; i++) {                                                             \
            int32_t x;                                                                             \
            memcpy(&x, a + i * rsa, sizeof x);                                                     \
            for (int j = 0; j < nv; j++)                                                           \
                r[i][j] = (simd_f)_mm512_dpbf16_ps((__m512)r[i][j],                                \
                                                   (__m512bh)_mm512_set1_epi32(x), bk[j]);         \
        }                                                                                          \
    }
#else
#define PAIR_PRODUCT                                                                               \
    for (int32_t k = chain[q].k; k > 0; k -= 2, a += 2, b += 2 * ldb)                              \
        for (int h = 1; h >= 0; h--) {                                                             \
            simd_f bk[4];                                                                          \
            for (int j = 0; j < nv; j++)                                                           \
                bk[j] = *simd_of(b + h * ldb + SIMD_LANES * j);                                    \
            for (int i = 0; i < mr; i++) {                                                         \
                float x = a[i * rsa + h];                                                          \
                for (int j = 0; j < nv; j++)                                                       \
                    r[i][j] += x * bk[j];                                                          \
            }                                                                                      \
        }
#endif

// mr rows times nv vectors of C in registers; mr and nv are constants where this is inlined.
SIMD_INLINE void tile_product(const int mr, const int nv, const struct chain *chain, int n_chains,
                              const float *c0, ptrdiff_t ldc0, float *c, ptrdiff_t ldc, float alpha)
{
    simd_f r[12][4];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nv; j++)
            r[i][j] = c0 ? *simd_of(c0 + i * ldc0 + SIMD_LANES * j) : (simd_f){0};
    for (int q = 0; q < n_chains; q++) {
        const float *a = chain[q].a, *b = chain[q].b;
        ptrdiff_t rsa = chain[q].rsa, csa = chain[q].csa, ldb = chain[q].ldb;
        if (chain[q].pairs) {
            PAIR_PRODUCT
            continue;
        }
        for (int32_t k = chain[q].k; k > 0; k--, a += csa, b += ldb) {
            simd_f bk[4];
            for (int j = 0; j < nv; j++)
                bk[j] = *simd_of(b + SIMD_LANES * j);
            for (int i = 0; i < mr; i++) {
                float x = a[i * rsa];
                for (int j = 0; j < nv; j++)
                    r[i][j] += x * bk[j];
            }
        }
    }
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nv; j++)
            *simd_at(c + i * ldc + SIMD_LANES * j) = r[i][j] * alpha;
}

#define TILE_CASE(rows)                                                                            \
    case rows:                                                                                     \
        tile_product(rows, cols / SIMD_LANES, chain, n_chains, c0, ldc0, c, ldc, alpha);           \
        break;

SIMD_INLINE void tile_rows(const int cols, int mr, const struct chain *chain, int n_chains,
                           const float *c0, ptrdiff_t ldc0, float *c, ptrdiff_t ldc, float alpha)
{
    switch (mr) {
        TILE_CASE(1)
        TILE_CASE(2)
        TILE_CASE(3)
    default:
        if (TILE_ROWS <= 3)
            break;
        switch (mr) {
            TILE_CASE(4)
            TILE_CASE(5)
            TILE_CASE(6)
        default:
            if (TILE_ROWS <= 6)
                break;
            switch (mr) {
                TILE_CASE(7)
                TILE_CASE(8)
                TILE_CASE(9)
                TILE_CASE(10)
                TILE_CASE(11)
                TILE_CASE(12)
            default:
                break;
            }
        }
    }
}

// One tile of mr rows and up to 32 columns. A ragged right edge goes through a buffer.
SIMD_INLINE void tile_edge(int mr, int32_t n, struct chain *chain, int n_chains, const float *c0,
                           ptrdiff_t ldc0, float *c, ptrdiff_t ldc, float alpha)
{
    float edge[12 * GEMM_PANEL];
    float *to = c;
    ptrdiff_t ldto = ldc;
    if (n % 16) {
        for (int i = 0; i < mr && c0; i++)
            for (int32_t j = 0; j < n; j++)
                edge[i * GEMM_PANEL + j] = c0[i * ldc0 + j];
        c0 = c0 ? edge : NULL;
        ldc0 = GEMM_PANEL;
        to = edge;
        ldto = GEMM_PANEL;
    }
    if (n > 16 && TILE_COLS == GEMM_PANEL) {
        tile_rows(GEMM_PANEL, mr, chain, n_chains, c0, ldc0, to, ldto, alpha);
    } else {
        for (int32_t j = 0; j < n; j += 16) {
            tile_rows(16, mr, chain, n_chains, c0 ? c0 + j : NULL, ldc0, to + j, ldto, alpha);
            for (int q = 0; q < n_chains; q++)
                chain[q].b += 16;
        }
    }
    if (n % 16)
        for (int i = 0; i < mr; i++)
            memcpy(c + i * ldc, edge + i * GEMM_PANEL, (size_t)n * sizeof *c);
}

SIMD_KERNEL void SIMD_NAME(block_product)(const struct block *g)
{
    float rounded[12 * GEMM_KC];
    int32_t panels = gemm_panels(g->n);
    for (int32_t m = 0; m < g->m; m += TILE_ROWS) {
        int mr = g->m - m < TILE_ROWS ? g->m - m : TILE_ROWS;
        if (g->bf16)
            round_rows(mr, g->k, g->a + m * g->rsa, g->rsa, rounded);
        for (int32_t p = 0; p < panels; p++) {
            int32_t n = g->n - p * GEMM_PANEL;
            ptrdiff_t ldb = p == panels - 1 ? g->ldb_last : g->ldb;
            struct chain chain[2] = {{.a = g->bf16 ? rounded : g->a + m * g->rsa,
                                      .b = g->b + p * g->panel + g->k0 * ldb,
                                      .rsa = g->bf16 ? GEMM_KC : g->rsa,
                                      .csa = g->csa,
                                      .ldb = ldb,
                                      .k = g->k,
                                      .pairs = g->bf16}};
            int n_chains = 1;
            if (g->e && g->range[p].n > 0) {
                chain[1] = (struct chain){.a = g->u + m * g->ldu + g->range[p].lo,
                                          .b = g->e + g->range[p].at,
                                          .rsa = g->ldu,
                                          .csa = 1,
                                          .ldb = g->lde    ? g->lde
                                                 : n <= 16 ? 16
                                                           : GEMM_PANEL,
                                          .k = g->range[p].n};
                n_chains = 2;
            }
            tile_edge(mr, n < GEMM_PANEL ? n : GEMM_PANEL, chain, n_chains,
                      g->c0 ? g->c0 + m * g->ldc0 + p * GEMM_PANEL : NULL, g->ldc0,
                      g->c + m * g->ldc + p * GEMM_PANEL, g->ldc, g->alpha);
        }
    }
}

#else

#include "gemm.h"

#include "simd.h"

#include <assert.h>

// A group of panels and a block of k. Row k of panel p lies at b + p * panel + (k0 + k) * ldb.
struct block {
    int32_t m, n, k, k0;
    const float *a;
    ptrdiff_t rsa, csa;
    const float *b;
    ptrdiff_t panel, ldb, ldb_last;
    const float *u, *e;
    ptrdiff_t ldu, lde;
    const struct gemm_range *range;
    const float *c0;
    ptrdiff_t ldc0;
    float *c;
    ptrdiff_t ldc;
    float alpha;
    bool bf16;
};

struct chain { // C += A B over k
    const float *a, *b;
    ptrdiff_t rsa, csa, ldb;
    int32_t k;
    bool pairs; // of bf16
};

#define SIMD_FILE "gemm.c"
#include "simd_each.h"

// Once more for what multiplies pairs of bf16 in one instruction.
#if SIMD_X86
#include <immintrin.h>
#define SIMD_DOT
#define SIMD_ISA       avx512bf16
#define SIMD_LANES     16
#define SIMD_REGISTERS 32
#define SIMD_TARGET    TARGET_AVX512BF16
#include "simd_vec.h"
#include SIMD_FILE
#undef SIMD_ISA
#undef SIMD_LANES
#undef SIMD_REGISTERS
#undef SIMD_TARGET
#define PICK_BF16(name, args)                                                                      \
    do {                                                                                           \
        if (simd_bf16())                                                                           \
            name##_avx512bf16 args;                                                                \
        else                                                                                       \
            SIMD_PICK(name, args);                                                                 \
    } while (0)
#else
#define PICK_BF16(name, args) SIMD_PICK(name, args)
#endif

// The same of a B that is held as blocks. A panel of W^T takes 32 rows, 256 columns at a time; of W
// a row's columns go to all panels.
static void pack_blocks(const struct gemm_mat *b, int32_t k0, int32_t k, int32_t n0, int32_t n,
                        float *out)
{
    enum { COLS = BLOCK_VALUES };
    float tile[GEMM_PANEL * COLS];
    for (int32_t i = 0; i < k && !b->trans; i++)
        for (int32_t j = 0; j < n; j += COLS) {
            int32_t cols = n - j < COLS ? n - j : COLS;
            block_columns(b->blocks, b->row0 + k0 + i, n0 + j, cols, tile);
            for (int32_t c = 0; c < cols; c += GEMM_PANEL) {
                int32_t p = (j + c) / GEMM_PANEL, left = n - j - c;
                ptrdiff_t width = gemm_width(n, p);
                SIMD_PICK(pack_columns, (tile + c, 0, 1, left < GEMM_PANEL ? left : GEMM_PANEL,
                                         width, out + (ptrdiff_t)p * k * GEMM_PANEL + i * width));
            }
        }
    for (int32_t p = 0; p < gemm_panels(n) && b->trans; p++, out += (ptrdiff_t)k * GEMM_PANEL) {
        int32_t j = n0 + p * GEMM_PANEL, left = n - p * GEMM_PANEL;
        int32_t take = left < GEMM_PANEL ? left : GEMM_PANEL;
        ptrdiff_t width = gemm_width(n, p);
        for (int32_t i = 0; i < k; i += COLS) {
            int32_t cols = k - i < COLS ? k - i : COLS;
            for (int32_t r = 0; r < take; r++)
                block_columns(b->blocks, b->row0 + j + r, k0 + i, cols, tile + r * COLS);
            SIMD_PICK(pack_rows, (tile, COLS, cols, take, width, out + i * width));
        }
    }
}

void gemm_pack(const struct gemm_mat *b, int32_t k0, int32_t k, int32_t n0, int32_t n, float *out)
{
    if (b->blocks) {
        pack_blocks(b, k0, k, n0, n, out);
        return;
    }
    enum { ROWS = 32, COLS = 64 };
    float tile[ROWS * COLS];
    size_t size = kernel_dtype_bytes(b->dtype);
    for (int32_t p = 0; p < gemm_panels(n); p++, out += (ptrdiff_t)k * GEMM_PANEL) {
        int32_t j = n0 + p * GEMM_PANEL, left = n - p * GEMM_PANEL;
        int32_t take = left < GEMM_PANEL ? left : GEMM_PANEL;
        ptrdiff_t width = gemm_width(n, p);
        const char *w =
            (const char *)b->w + (size_t)(b->trans ? j * b->ld + k0 : k0 * b->ld + j) * size;
        if (b->dtype == KERNEL_F32) {
            if (b->trans)
                SIMD_PICK(pack_rows, ((const float *)(const void *)w, b->ld, k, take, width, out));
            else
                SIMD_PICK(pack_columns,
                          ((const float *)(const void *)w, b->ld, k, take, width, out));
            continue;
        }
        if (!b->trans) {
            for (int32_t i = 0; i < k; i++) {
                kernel_to_f32(b->dtype, w + (size_t)(i * b->ld) * size, (size_t)take, tile);
                SIMD_PICK(pack_columns, (tile, 0, 1, take, width, out + i * width));
            }
            continue;
        }
        for (int32_t i = 0; i < k; i += COLS) {
            int32_t cols = k - i < COLS ? k - i : COLS;
            for (int32_t r = 0; r < take; r++)
                kernel_to_f32(b->dtype, w + (size_t)(r * b->ld + i) * size, (size_t)cols,
                              tile + r * COLS);
            SIMD_PICK(pack_rows, (tile, COLS, cols, take, width, out + i * width));
        }
    }
}

size_t kernel_packed_floats(int32_t rows, int32_t cols)
{
    return gemm_packed_floats(cols, rows);
}

void kernel_pack_weight(const struct kernel_weight *w, float *packed)
{
    struct gemm_mat b = gemm_stored(w, true);
    gemm_pack(&b, 0, w->cols, 0, w->rows, packed);
}

// A group of panels in bf16, in work: each a whole number of pairs of rows.
static void block_round(const struct gemm *g, struct block *b, int32_t p0, int32_t k0, float *work)
{
    int32_t even = b->k + (b->k & 1);
    b->panel = (ptrdiff_t)GEMM_PANEL * even;
    b->b = work;
    b->k0 = 0;
    if (!g->b.packed && even == b->k)
        gemm_pack(&g->b, k0, b->k, p0 * GEMM_PANEL, b->n, work);
    for (int32_t p = 0; p < gemm_panels(b->n); p++, work += b->panel) {
        int32_t n = b->n - p * GEMM_PANEL;
        ptrdiff_t width = gemm_width(n, 0);
        size_t row = (size_t)width * sizeof *work;
        if (g->b.packed)
            memcpy(work, g->b.packed + (ptrdiff_t)(p0 + p) * GEMM_PANEL * g->k + k0 * width,
                   (size_t)b->k * row);
        else if (even > b->k)
            gemm_pack(&g->b, k0, b->k, (p0 + p) * GEMM_PANEL, n < GEMM_PANEL ? n : GEMM_PANEL,
                      work);
        if (even > b->k)
            memset(work + b->k * width, 0, row);
        PICK_BF16(round_panel, (work, even, width));
    }
}

// Sets where panel p0's group of B is to be read, packing it into work if it must be.
static void block_place(const struct gemm *g, struct block *b, int32_t p0, int32_t k0, float *work)
{
    const struct gemm_mat *w = &g->b;
    bool last = p0 * GEMM_PANEL + b->n == g->n;
    ptrdiff_t narrow = last ? gemm_width(g->n, gemm_panels(g->n) - 1) : GEMM_PANEL;
    b->k0 = k0;
    b->ldb = GEMM_PANEL;
    b->ldb_last = narrow;
    if (g->bf16) {
        block_round(g, b, p0, k0, work);
    } else if (w->packed) {
        b->panel = (ptrdiff_t)GEMM_PANEL * g->k;
        b->b = w->packed + p0 * b->panel;
    } else if (w->readable && !w->trans && !w->blocks && w->dtype == KERNEL_F32) {
        b->panel = GEMM_PANEL;
        b->b = (const float *)w->w + p0 * GEMM_PANEL;
        b->ldb = b->ldb_last = w->ld;
    } else {
        b->panel = (ptrdiff_t)GEMM_PANEL * b->k;
        b->b = work;
        b->k0 = 0;
        gemm_pack(w, k0, b->k, p0 * GEMM_PANEL, b->n, work);
    }
}

struct shared {
    const struct gemm *g;
    gemm_columns_fn *fn;
    void *arg;
    float *work;
    int32_t columns;
};

static void shared_part(void *arg, int32_t part, float *work)
{
    const struct shared *s = arg;
    int32_t n0 = part * s->columns, left = s->g->n - n0;
    s->fn(s->arg, n0, left < s->columns ? left : s->columns, work ? work : s->work);
}

// Few parts a lane, so that one which comes late has less to do, of at most a group.
void gemm_share(const struct gemm *g, gemm_columns_fn *fn, void *arg, float *work)
{
    if (!g->team) {
        fn(arg, 0, g->n, work);
        return;
    }
    int32_t panels = gemm_panels(g->n), each = panels / (4 * g->team->lanes);
    each = each < 1 ? 1 : each > GEMM_GROUP ? GEMM_GROUP : each;
    struct shared s = {g, fn, arg, work, each * GEMM_PANEL};
    g->team->each(g->team, (size_t)g->m * (size_t)g->n * (size_t)g->k, (panels + each - 1) / each,
                  shared_part, &s);
}

static void columns(void *arg, int32_t first, int32_t n_columns, float *work)
{
    const struct gemm *g = arg;
    int32_t p_end = gemm_panels(first + n_columns);
    int32_t blocks = g->k > 0 ? (g->k + GEMM_KC - 1) / GEMM_KC : 1;
    for (int32_t kb = 0; kb < blocks; kb++) {
        int32_t k0 = kb * GEMM_KC;
        bool last = kb == blocks - 1;
        for (int32_t p0 = first / GEMM_PANEL; p0 < p_end; p0 += GEMM_GROUP) {
            int32_t n0 = p0 * GEMM_PANEL, n = first + n_columns - n0;
            struct block b = {.m = g->m,
                              .n = n < GEMM_GROUP * GEMM_PANEL ? n : GEMM_GROUP * GEMM_PANEL,
                              .k = last ? g->k - k0 : GEMM_KC,
                              .a = g->a + k0 * g->csa,
                              .rsa = g->rsa,
                              .csa = g->csa,
                              .u = g->u,
                              .ldu = g->ldu,
                              .lde = g->lde,
                              .e = last ? g->e : NULL,
                              .range = g->range ? g->range + p0 : NULL,
                              .c0 = kb == 0 ? g->c0 : g->c,
                              .ldc0 = kb == 0 ? g->ldc0 : g->ldc,
                              .c = g->c + n0,
                              .ldc = g->ldc,
                              .alpha = last ? g->alpha : 1.0f,
                              .bf16 = g->bf16};
            if (b.c0)
                b.c0 += n0;
            block_place(g, &b, p0, k0, work);
            if (g->bf16)
                PICK_BF16(block_product, (&b));
            else
                SIMD_PICK(block_product, (&b));
        }
    }
}

void gemm(const struct gemm *g, float *work)
{
    assert(g->m >= 0 && g->n >= 0 && g->k >= 0 && (!g->bf16 || (work && g->csa == 1)));
    if ((g->int8 && gemm_dots(g, work)) || gemm_few(g) || gemm_few_halves(g))
        return;
    struct gemm whole = *g;
    gemm_share(g, columns, &whole, work);
}

void kernel_gemm(const struct kernel_ctx *cx, int32_t m, const float *a, ptrdiff_t lda,
                 const struct kernel_weight *w, float *c, ptrdiff_t ldc)
{
    struct gemm g = {.m = m,
                     .n = w->rows,
                     .k = w->cols,
                     .a = a,
                     .rsa = lda,
                     .csa = 1,
                     .b = gemm_stored(w, true),
                     .c = c,
                     .ldc = ldc,
                     .alpha = 1.0f,
                     .team = cx->team,
                     .bf16 = cx->math == KERNEL_MATH_BF16,
                     .int8 = cx->math == KERNEL_MATH_INT8};
    assert(cx->work_floats >= GEMM_WORK);
    gemm(&g, cx->work);
}

bool kernel_bf16_fast(void)
{
    return simd_bf16();
}

void kernel_weight_row(const struct kernel_weight *w, int32_t row, float *y)
{
    size_t at = (size_t)row * (size_t)w->ld;
    if (w->blocks)
        block_columns(w->blocks, w->row0 + row, 0, w->cols, y);
    else
        kernel_to_f32(w->dtype, (const char *)w->w + at * kernel_dtype_bytes(w->dtype),
                      (size_t)w->cols, y);
}

float kernel_weight_value(const struct kernel_weight *w, int32_t row, int32_t col)
{
    float y[BLOCK_VALUES];
    size_t at = (size_t)row * (size_t)w->ld + (size_t)col;
    if (!w->blocks) {
        kernel_to_f32(w->dtype, (const char *)w->w + at * kernel_dtype_bytes(w->dtype), 1, y);
        return y[0];
    }
    const struct block_rows *part = w->blocks;
    int32_t n = w->row0 + row;
    for (; n >= part->rows; part++)
        n -= part->rows;
    int32_t first = col - col % part->type->values;
    block_columns(part, n, first, part->type->values, y);
    return y[col - first];
}

#endif
