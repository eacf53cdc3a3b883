// Matrix products for everything in this directory: C (m, n) = alpha * (C0 + A B [+ U E]).
//
// Why not the BLAS of the distribution: OpenBLAS 0.3.21 does not know recent CPUs by number and
// then runs its SSE3 kernels, five times slower than this file (see `fstq bench gemm`); it packs a
// frozen weight again on every call; and it has no place to add a low-rank product while a tile is
// still in registers.
//
// Each element of C is one chain of multiply-adds in the order of k, whatever the sizes, tiles or
// blocks: a row of C depends on its row of A alone, so results are the same however rows are cut
// into batches.
#ifndef FSTQ_KERNELS_GEMM_H
#define FSTQ_KERNELS_GEMM_H

#include "kernels.h"

#include <stdbool.h>

#define GEMM_PANEL 32  // columns of a panel of B
#define GEMM_KC    256 // rows of B in use at a time: a panel of them lies in L1; whole blocks
#define GEMM_GROUP 8   // panels packed together, in L2
#define GEMM_WORK  ((size_t)GEMM_PANEL * GEMM_KC * GEMM_GROUP)

// B (k, n): trans false: w[k * ld + n], true: w[n * ld + k]. packed: all of B as panels, or NULL.
// blocks: the rows that w would have, from row0 on, or NULL. readable: rows may be read up to the
// next multiple of 16 columns, so that B can be used where it lies.
struct gemm_mat {
    const void *w;
    const float *packed;
    const struct block_rows *blocks;
    ptrdiff_t ld;
    int32_t dtype, row0;
    bool trans, readable;
};

// W^T (trans), or W.
static inline struct gemm_mat gemm_stored(const struct kernel_weight *w, bool trans)
{
    return (struct gemm_mat){.w = w->w,
                             .packed = trans ? w->packed : NULL,
                             .blocks = w->blocks,
                             .ld = w->ld,
                             .dtype = w->dtype,
                             .row0 = w->row0,
                             .trans = trans};
}

// E for one panel of C: n rows of E, the first at e + at, times columns [lo, lo + n) of U.
struct gemm_range {
    int32_t lo, n;
    size_t at;
};

struct gemm {
    int32_t m, n, k;
    const float *a; // a[i * rsa + k * csa]
    ptrdiff_t rsa, csa;
    struct gemm_mat b;
    const float *u, *e;             // U (m, .) with row stride ldu; e NULL = none
    ptrdiff_t ldu, lde;             // lde 0: rows of E are as wide as the panel
    const struct gemm_range *range; // one a panel
    const float *c0;                // NULL = 0; may be c
    ptrdiff_t ldc0;
    float *c;
    ptrdiff_t ldc;
    float alpha;
    bool bf16; // A (csa 1) and B are rounded to bf16 first; of each two k the second comes first
    bool int8; // A is rounded to int8 first, where B is blocks that gemm_dots takes
    const struct kernel_team *team; // that its columns are shared out to, or NULL
};

// Calls fn on [n0, n0 + n) for all columns of C, in whole panels; what it works in is work for the
// lane that calls, and another's own.
typedef void gemm_columns_fn(void *arg, int32_t n0, int32_t n, float *work);
void gemm_share(const struct gemm *g, gemm_columns_fn *fn, void *arg, float *work);

// work: GEMM_WORK floats, used where B is neither packed nor readable as it lies, and for bf16.
void gemm(const struct gemm *g, float *work);

// The same where A has few rows and B is blocks of a type and size that it takes: gemm asks it
// first. False: it has done nothing.
bool gemm_few(const struct gemm *g);

// And where B is bf16 or fp16.
bool gemm_few_halves(const struct gemm *g);

// The same in whole numbers, for int8 (dots.c).
bool gemm_dots(const struct gemm *g, float *work);
bool gemm_dots_takes(int32_t block_id);

static inline int32_t gemm_panels(int32_t n)
{
    return (n + GEMM_PANEL - 1) / GEMM_PANEL;
}

// Width of the panel that begins at column 32 p: 16 where the rest fits.
static inline ptrdiff_t gemm_width(int32_t n, int32_t p)
{
    return n - p * GEMM_PANEL <= 16 ? 16 : GEMM_PANEL;
}

static inline size_t gemm_packed_floats(int32_t k, int32_t n)
{
    return n <= 0 ? 0
                  : ((size_t)(gemm_panels(n) - 1) * GEMM_PANEL +
                     (size_t)gemm_width(n, gemm_panels(n) - 1)) *
                        (size_t)k;
}

// Columns [n0, n0 + n) and rows [k0, k0 + k) of B as panels of (k, 32 or 16).
void gemm_pack(const struct gemm_mat *b, int32_t k0, int32_t k, int32_t n0, int32_t n, float *out);

#endif
