// Kernels of the codecs: C types only, no allocation, no failure. Every path (portable, AVX2,
// AVX-512) gives the same bits; the fastest one that this machine has is taken at the first call.
#ifndef FSTQ_KERNELS_CODEC_H
#define FSTQ_KERNELS_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// --- Vector width
// -----------------------------------------------------------------------------------
enum codec_isa { CODEC_ISA_PORTABLE, CODEC_ISA_AVX2, CODEC_ISA_AVX512, CODEC_ISA_COUNT };
extern const char *const codec_isa_name[CODEC_ISA_COUNT];
enum codec_isa codec_isa(void);               // in use: the best of this machine, or the limit
void codec_isa_limit(enum codec_isa at_most); // for tests and benches; not while kernels run

// --- Where decoded values go
// ----------------------------------------------------------------------------
struct quant_sink {
    float *to;
    float weight;
    bool add; // to += weight * value, else to = value
};
static inline struct quant_sink quant_sink_at(struct quant_sink s, size_t offset)
{
    s.to += offset;
    return s;
}

// --- quant.c: floats to codes and back
// -------------------------------------------------------------- Messages have no alignment: bytes
// in and out are uint8_t, little-endian.

// The largest |x| as bits of a float. At least 0x7f800000 if and only if a value is not finite.
uint32_t quant_absmax_bits(const float *x, size_t n);
uint32_t quant_absmax_bits_le(const uint8_t *x, size_t n);
uint32_t quant_absmax_bits_f16(const uint8_t *x,
                               size_t n); // of the halves: >= 0x7c00 is not finite
uint32_t quant_absmax_bits_bf16(const uint8_t *x, size_t n); // >= 0x7f80 is not finite

// Sums in double over 1024-value blocks: 16 lanes, a fixed tree, blocks in order. The same on every
// machine.
double quant_sum_abs(const float *x, size_t n);
double quant_sum_sq(const float *x, size_t n);
double quant_sum_sq_diff(const float *x, const float *y, size_t n); // sum of (x - y)^2

void quant_f32_to_le(const float *x, size_t n, uint8_t *out);
void quant_f32_from_le(const uint8_t *in, size_t n, struct quant_sink to);
void quant_f16_to_le(const float *x, size_t n, float scale, uint8_t *out); // clamped to +-65504
void quant_f16_from_le(const uint8_t *in, size_t n, float scale, struct quant_sink to);
void quant_bf16_to_le(const float *x, size_t n, uint8_t *out);
void quant_bf16_from_le(const uint8_t *in, size_t n, struct quant_sink to);

#ifdef __cplusplus
}
#endif
#endif
