#include "isa.h"

#include "base/half.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#if KERNEL_X86
#include <immintrin.h>
#endif

const char *const codec_isa_name[CODEC_ISA_COUNT] = {"portable", "avx2", "avx512"};

static atomic_int isa_now = -1;

static enum codec_isa isa_of_machine(void)
{
#if KERNEL_X86
    __builtin_cpu_init();
    bool v2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
              __builtin_cpu_supports("popcnt");
    if (v2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return CODEC_ISA_AVX512;
    if (v2)
        return CODEC_ISA_AVX2;
#endif
    return CODEC_ISA_PORTABLE;
}

enum codec_isa codec_isa(void)
{
    int isa = atomic_load_explicit(&isa_now, memory_order_relaxed);
    if (isa < 0) {
        isa = (int)isa_of_machine();
        atomic_store_explicit(&isa_now, isa, memory_order_relaxed);
    }
    return (enum codec_isa)isa;
}

void codec_isa_limit(enum codec_isa at_most)
{
    enum codec_isa best = isa_of_machine();
    atomic_store_explicit(&isa_now, (int)(at_most < best ? at_most : best), memory_order_relaxed);
}

KERNEL_BODY uint16_t load_u16(const uint8_t *p)
{
    uint16_t u;
    memcpy(&u, p, sizeof u);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap16(u);
#endif
    return u;
}
KERNEL_BODY void store_u16(uint8_t *p, uint16_t u)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap16(u);
#endif
    memcpy(p, &u, sizeof u);
}
KERNEL_BODY uint32_t load_u32(const uint8_t *p)
{
    uint32_t u;
    memcpy(&u, p, sizeof u);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap32(u);
#endif
    return u;
}
KERNEL_BODY void store_u32(uint8_t *p, uint32_t u)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    u = __builtin_bswap32(u);
#endif
    memcpy(p, &u, sizeof u);
}

// --- Largest magnitude
// ------------------------------------------------------------------------------ Bits of |x| order
// as the values do, Inf above every finite one and NaN above Inf: one integer maximum finds the
// scale and tells whether the input is finite.

KERNEL_BODY uint32_t quant_absmax_bits_body(const float *x, size_t n)
{
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = f32_bits(x[i]) & 0x7fffffffu;
        max = a > max ? a : max;
    }
    return max;
}
KERNEL_VARIANTS(uint32_t, quant_absmax_bits, (const float *x, size_t n), (x, n))

KERNEL_BODY uint32_t quant_absmax_bits_le_body(const uint8_t *x, size_t n)
{
    uint32_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = load_u32(x + 4 * i) & 0x7fffffffu;
        max = a > max ? a : max;
    }
    return max;
}
KERNEL_VARIANTS(uint32_t, quant_absmax_bits_le, (const uint8_t *x, size_t n), (x, n))

KERNEL_BODY uint32_t quant_absmax_bits_f16_body(const uint8_t *x, size_t n)
{
    uint16_t max = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t a = load_u16(x + 2 * i) & 0x7fffu;
        max = a > max ? a : max;
    }
    return max;
}
KERNEL_VARIANTS(uint32_t, quant_absmax_bits_f16, (const uint8_t *x, size_t n), (x, n))

uint32_t quant_absmax_bits_bf16(const uint8_t *x, size_t n)
{
    return quant_absmax_bits_f16(x, n); // both keep the sign in the top bit
}

// --- Sums
// -------------------------------------------------------------------------------------------
// Squares of floats neither overflow nor vanish in double.

#define SUM_LANES 16
#define SUM_BLOCK 1024

KERNEL_BODY double lanes_tree(double lane[SUM_LANES])
{
    for (int half = SUM_LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++)
            lane[l] += lane[l + half];
    return lane[0];
}

// The sum of TERM, which says what value i adds.
#define SUM_BODY(n, TERM)                                                                          \
    double total = 0;                                                                              \
    for (size_t begin = 0; begin < (n); begin += SUM_BLOCK) {                                      \
        size_t end = begin + SUM_BLOCK < (n) ? begin + SUM_BLOCK : (n);                            \
        double lane[SUM_LANES] = {0};                                                              \
        size_t i = begin;                                                                          \
        for (; i + SUM_LANES <= end; i += SUM_LANES)                                               \
            for (size_t l = 0; l < SUM_LANES; l++)                                                 \
                lane[l] += TERM(i + l);                                                            \
        for (size_t l = 0; i + l < end; l++)                                                       \
            lane[l] += TERM(i + l);                                                                \
        total += lanes_tree(lane);                                                                 \
    }                                                                                              \
    return total

KERNEL_BODY double quant_sum_abs_body(const float *x, size_t n)
{
#define TERM(i) (double)f32_from_bits(f32_bits(x[i]) & 0x7fffffffu)
    SUM_BODY(n, TERM);
#undef TERM
}
KERNEL_VARIANTS(double, quant_sum_abs, (const float *x, size_t n), (x, n))

KERNEL_BODY double quant_sum_sq_body(const float *x, size_t n)
{
#define TERM(i) (double)x[i] * (double)x[i]
    SUM_BODY(n, TERM);
#undef TERM
}
KERNEL_VARIANTS(double, quant_sum_sq, (const float *x, size_t n), (x, n))

KERNEL_BODY double quant_sum_sq_diff_body(const float *x, const float *y, size_t n)
{
#define TERM(i) ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i])
    SUM_BODY(n, TERM);
#undef TERM
}
KERNEL_VARIANTS(double, quant_sum_sq_diff, (const float *x, const float *y, size_t n), (x, y, n))

// --- Dense formats
// ----------------------------------------------------------------------------------

KERNEL_BODY void quant_f32_to_le_body(const float *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        store_u32(out + 4 * i, f32_bits(x[i]));
}
KERNEL_VARIANTS_VOID(quant_f32_to_le, (const float *x, size_t n, uint8_t *out), (x, n, out))

KERNEL_BODY void quant_f32_from_le_body(const uint8_t *in, size_t n, struct quant_sink to)
{
    if (to.add)
        for (size_t i = 0; i < n; i++)
            to.to[i] += to.weight * f32_from_bits(load_u32(in + 4 * i));
    else
        for (size_t i = 0; i < n; i++)
            to.to[i] = f32_from_bits(load_u32(in + 4 * i));
}
KERNEL_VARIANTS_VOID(quant_f32_from_le, (const uint8_t *in, size_t n, struct quant_sink to),
                     (in, n, to))

KERNEL_BODY void quant_bf16_to_le_body(const float *x, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u = f32_bits(x[i]);
        store_u16(out + 2 * i, (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16));
    }
}
KERNEL_VARIANTS_VOID(quant_bf16_to_le, (const float *x, size_t n, uint8_t *out), (x, n, out))

KERNEL_BODY void quant_bf16_from_le_body(const uint8_t *in, size_t n, struct quant_sink to)
{
    if (to.add)
        for (size_t i = 0; i < n; i++)
            to.to[i] += to.weight * bf16_to_f32(load_u16(in + 2 * i));
    else
        for (size_t i = 0; i < n; i++)
            to.to[i] = bf16_to_f32(load_u16(in + 2 * i));
}
KERNEL_VARIANTS_VOID(quant_bf16_from_le, (const uint8_t *in, size_t n, struct quant_sink to),
                     (in, n, to))

#define F16_MAX 65504.0f

static void f16_to_le_tail(const float *x, size_t begin, size_t end, float scale, uint8_t *out)
{
    for (size_t i = begin; i < end; i++) {
        float v = x[i] * scale;
        v = v > F16_MAX ? F16_MAX : v < -F16_MAX ? -F16_MAX : v;
        store_u16(out + 2 * i, f16_from_f32(v));
    }
}

static void f16_from_le_tail(const uint8_t *in, size_t begin, size_t end, float scale,
                             struct quant_sink to)
{
    for (size_t i = begin; i < end; i++) {
        float v = f16_to_f32(load_u16(in + 2 * i)) * scale;
        to.to[i] = to.add ? to.to[i] + to.weight * v : v;
    }
}

static void quant_f16_to_le_portable(const float *x, size_t n, float scale, uint8_t *out)
{
    f16_to_le_tail(x, 0, n, scale, out);
}
static void quant_f16_from_le_portable(const uint8_t *in, size_t n, float scale,
                                       struct quant_sink to)
{
    f16_from_le_tail(in, 0, n, scale, to);
}

#if KERNEL_X86
TARGET_AVX2 static void quant_f16_to_le_avx2(const float *x, size_t n, float scale, uint8_t *out)
{
    const __m256 s = _mm256_set1_ps(scale), hi = _mm256_set1_ps(F16_MAX),
                 lo = _mm256_set1_ps(-F16_MAX);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), s);
        v = _mm256_max_ps(_mm256_min_ps(v, hi), lo);
        __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * i), h);
    }
    f16_to_le_tail(x, i, n, scale, out);
}
TARGET_AVX2 static void quant_f16_from_le_avx2(const uint8_t *in, size_t n, float scale,
                                               struct quant_sink to)
{
    const __m256 s = _mm256_set1_ps(scale), w = _mm256_set1_ps(to.weight);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(in + 2 * i));
        __m256 v = _mm256_mul_ps(_mm256_cvtph_ps(h), s);
        if (to.add)
            v = _mm256_add_ps(_mm256_loadu_ps(to.to + i), _mm256_mul_ps(w, v));
        _mm256_storeu_ps(to.to + i, v);
    }
    f16_from_le_tail(in, i, n, scale, to);
}
TARGET_AVX512 static void quant_f16_to_le_avx512(const float *x, size_t n, float scale,
                                                 uint8_t *out)
{
    const __m512 s = _mm512_set1_ps(scale), hi = _mm512_set1_ps(F16_MAX),
                 lo = _mm512_set1_ps(-F16_MAX);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), s);
        v = _mm512_max_ps(_mm512_min_ps(v, hi), lo);
        __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_si256((__m256i *)(void *)(out + 2 * i), h);
    }
    f16_to_le_tail(x, i, n, scale, out);
}
TARGET_AVX512 static void quant_f16_from_le_avx512(const uint8_t *in, size_t n, float scale,
                                                   struct quant_sink to)
{
    const __m512 s = _mm512_set1_ps(scale), w = _mm512_set1_ps(to.weight);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(in + 2 * i));
        __m512 v = _mm512_mul_ps(_mm512_cvtph_ps(h), s);
        if (to.add)
            v = _mm512_add_ps(_mm512_loadu_ps(to.to + i), _mm512_mul_ps(w, v));
        _mm512_storeu_ps(to.to + i, v);
    }
    f16_from_le_tail(in, i, n, scale, to);
}
#endif

void quant_f16_to_le(const float *x, size_t n, float scale, uint8_t *out)
{
    KERNEL_PICK(quant_f16_to_le, (x, n, scale, out));
}
void quant_f16_from_le(const uint8_t *in, size_t n, float scale, struct quant_sink to)
{
    KERNEL_PICK(quant_f16_from_le, (in, n, scale, to));
}
