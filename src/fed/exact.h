// Sums of weighted updates that do not depend on the order or the grouping of what is added: every
// addend is the float product weight x value, as in the ordinary sum, and they are added as
// integers of 128 bits with the point behind bit EXACT_POINT. So partial sums of partial sums come
// to the same, to the bit. Below 2^-48 an addend loses bits, always the same ones.
#ifndef FSTQ_FED_EXACT_H
#define FSTQ_FED_EXACT_H

#include "base/check.h"

#include <stddef.h>
#include <stdint.h>

__extension__ typedef __int128 exact_int;
__extension__ typedef unsigned __int128 exact_bits;

#define EXACT_POINT 72
#define EXACT_MAX   0x1p34f // of an addend: 2^20 of them fit

// sum (n) += weight x; -1, and nothing is added, where an addend is not below EXACT_MAX.
int exact_add(exact_int *sum, const float *x, size_t n, float weight, struct err *err);
// sum / weight, rounded twice: to double and to float.
void exact_mean(const exact_int *sum, double weight, size_t n, float *mean);

// A sum as bytes: runs of 256, each with the bits that end all of its numbers in zeros u8 and the
// width of what is left u8, then the numbers, low bits first.
#define EXACT_RUN 256
size_t exact_bound(size_t n); // bytes
size_t exact_put(const exact_int *sum, size_t n, uint8_t *out);
// The length of a sum of n numbers at the beginning of these bytes, or -1: they are none.
int64_t exact_check(const uint8_t *in, size_t len, size_t n, struct err *err);
void exact_get_add(const uint8_t *in, size_t n, exact_int *sum); // of bytes that were checked

#endif
