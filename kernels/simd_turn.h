// Transposes as many vectors as there are lanes: for files that simd_each.h reads, once in each
// reading.
#ifndef FSTQ_KERNELS_SIMD_TURN_H
#define FSTQ_KERNELS_SIMD_TURN_H

#define simd_transpose SIMD_NAME(simd_transpose)

// GCC knows clang's name for it since version 12.
#if defined(__clang__) || __GNUC__ >= 12
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, (simd_i){__VA_ARGS__})
#endif
#define LANES(...) __VA_ARGS__

// Swaps off-diagonal blocks of size rows; upper and lower say which lanes of a pair of rows a, b
// make the new a and the new b.
#define SWAP_BLOCKS(size, upper, lower)                                                            \
    for (int j = 0; j < SIMD_LANES / 2; j++) {                                                     \
        int i = (j & ((size)-1)) | (j & ~((size)-1)) << 1;                                         \
        simd_f a = r[i], b = r[i + (size)];                                                        \
        r[i] = MIX(a, b, upper);                                                                   \
        r[i + (size)] = MIX(a, b, lower);                                                          \
    }

#endif

// Transpose of as many rows as there are lanes: rounds that swap blocks of 8, 4, 2 and 1.
SIMD_INLINE void simd_transpose(simd_f *r)
{
#if SIMD_LANES == 16
    SWAP_BLOCKS(8, LANES(0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23),
                LANES(8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
    SWAP_BLOCKS(4, LANES(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27),
                LANES(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31))
    SWAP_BLOCKS(2, LANES(0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29),
                LANES(2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31))
    SWAP_BLOCKS(1, LANES(0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30),
                LANES(1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31))
#elif SIMD_LANES == 8
    SWAP_BLOCKS(4, LANES(0, 1, 2, 3, 8, 9, 10, 11), LANES(4, 5, 6, 7, 12, 13, 14, 15))
    SWAP_BLOCKS(2, LANES(0, 1, 8, 9, 4, 5, 12, 13), LANES(2, 3, 10, 11, 6, 7, 14, 15))
    SWAP_BLOCKS(1, LANES(0, 8, 2, 10, 4, 12, 6, 14), LANES(1, 9, 3, 11, 5, 13, 7, 15))
#else
    SWAP_BLOCKS(2, LANES(0, 1, 4, 5), LANES(2, 3, 6, 7))
    SWAP_BLOCKS(1, LANES(0, 4, 2, 6), LANES(1, 5, 3, 7))
#endif
}
