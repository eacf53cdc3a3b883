// Fixed-width codes, low bits first: value i is bits [i w, (i + 1) w). Eight codes of w bits are w
// bytes.
#ifdef SIMD_LANES // read for each instruction set

SIMD_KERNEL void SIMD_NAME(pack16)(const uint16_t *code, size_t n, unsigned w,
                                   uint8_t *out){EACH_WIDE(pack16_w, code, n, out)}

SIMD_KERNEL void SIMD_NAME(unpack16)(const uint8_t *in, size_t n, unsigned w,
                                     uint16_t *code){EACH_WIDE(unpack16_w, in, n, code)}

SIMD_KERNEL uint8_t SIMD_NAME(pack_max_u8)(const uint8_t *code, size_t n)
{
    uint8_t max = 0;
    for (size_t i = 0; i < n; i++)
        max = code[i] > max ? code[i] : max;
    return max;
}

#else

#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

size_t pack_bytes(size_t n, unsigned width)
{
    return (n / 8) * width + ((n % 8) * width + 7) / 8;
}

// Codes that do not fill eight: into up to sixteen bytes.
static void pack_tail(const uint16_t code[8], size_t n, unsigned width, uint8_t *out)
{
    uint32_t acc = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < n; i++) {
        acc |= (uint32_t)code[i] << bits;
        for (bits += width; bits >= 8; bits -= 8) {
            *out++ = (uint8_t)acc;
            acc >>= 8;
        }
    }
    if (bits)
        *out = (uint8_t)acc;
}

static void unpack_tail(const uint8_t *in, size_t n, unsigned width, uint16_t code[8])
{
    uint32_t acc = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < n; i++) {
        for (; bits < width; bits += 8)
            acc |= (uint32_t)*in++ << bits;
        code[i] = (uint16_t)(acc & ((1u << width) - 1));
        acc >>= width;
        bits -= width;
    }
}

SIMD_PART void store_bytes(uint8_t *p, uint64_t v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}
SIMD_PART uint64_t load_bytes(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

// Bytes of 1 to 8 bits.

// Gathers the low w bits of eight bytes: neighbours move together, three times.
SIMD_PART uint64_t squeeze8(uint64_t v, unsigned w)
{
    const uint64_t one = ((UINT64_C(1) << w) - 1) * UINT64_C(0x0001000100010001);
    const uint64_t two = ((UINT64_C(1) << (2 * w)) - 1) * UINT64_C(0x0000000100000001);
    const uint64_t four = (UINT64_C(1) << (4 * w)) - 1;
    v = (v & one) | (v >> 8 & one) << w;
    v = (v & two) | (v >> 16 & two) << (2 * w);
    return (v & four) | (v >> 32 & four) << (4 * w);
}
SIMD_PART uint64_t spread8(uint64_t v, unsigned w)
{
    const uint64_t one = ((UINT64_C(1) << w) - 1) * UINT64_C(0x0001000100010001);
    const uint64_t two = ((UINT64_C(1) << (2 * w)) - 1) * UINT64_C(0x0000000100000001);
    const uint64_t four = (UINT64_C(1) << (4 * w)) - 1;
    v = (v & four) | (v >> (4 * w) & four) << 32;
    v = (v & two) | (v >> (2 * w) & two) << 16;
    return (v & one) | (v >> w & one) << 8;
}

SIMD_PART uint64_t load8(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}
SIMD_PART void store8(uint8_t *p, uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    memcpy(p, &v, 8);
}

// Whole groups of eight codes; SQUEEZE makes 8 w bits of eight bytes. Stores eight bytes at a time
// while the output has room for them, for the next group overwrites what is too much.
#define PACK8_BODY(SQUEEZE)                                                                        \
    size_t groups = n / 8, g = 0;                                                                  \
    for (; (groups - g) * w >= 8; g++)                                                             \
        store8(out + g * w, SQUEEZE(load8(code + 8 * g)));                                         \
    for (; g < groups; g++)                                                                        \
    store_bytes(out + g * w, SQUEEZE(load8(code + 8 * g)), w)
#define UNPACK8_BODY(SPREAD)                                                                       \
    size_t groups = n / 8, g = 0;                                                                  \
    for (; (groups - g) * w >= 8; g++)                                                             \
        store8(code + 8 * g, SPREAD(load8(in + g * w)));                                           \
    for (; g < groups; g++)                                                                        \
    store8(code + 8 * g, SPREAD(load_bytes(in + g * w, w)))

SIMD_PART void pack8_base_w(const uint8_t *code, size_t n, unsigned w, uint8_t *out)
{
#define SQUEEZE(v) squeeze8(v, w)
    PACK8_BODY(SQUEEZE);
#undef SQUEEZE
}
SIMD_PART void unpack8_base_w(const uint8_t *in, size_t n, unsigned w, uint8_t *code)
{
#define SPREAD(v) spread8(v, w)
    UNPACK8_BODY(SPREAD);
#undef SPREAD
}

// One copy of the loop a width, so that shifts and masks are constants.
#define EACH_WIDTH(fn, a, b, c)                                                                    \
    switch (w) {                                                                                   \
    case 1:                                                                                        \
        fn(a, b, 1, c);                                                                            \
        break;                                                                                     \
    case 2:                                                                                        \
        fn(a, b, 2, c);                                                                            \
        break;                                                                                     \
    case 3:                                                                                        \
        fn(a, b, 3, c);                                                                            \
        break;                                                                                     \
    case 4:                                                                                        \
        fn(a, b, 4, c);                                                                            \
        break;                                                                                     \
    case 5:                                                                                        \
        fn(a, b, 5, c);                                                                            \
        break;                                                                                     \
    case 6:                                                                                        \
        fn(a, b, 6, c);                                                                            \
        break;                                                                                     \
    case 7:                                                                                        \
        fn(a, b, 7, c);                                                                            \
        break;                                                                                     \
    default:                                                                                       \
        memcpy(c, a, b);                                                                           \
        break;                                                                                     \
    }

static void pack8_base(const uint8_t *code, size_t n, unsigned w, uint8_t *out)
{
    EACH_WIDTH(pack8_base_w, code, n, out)
}
static void unpack8_base(const uint8_t *in, size_t n, unsigned w,
                         uint8_t *code){EACH_WIDTH(unpack8_base_w, in, n, code)}

#if SIMD_X86
TARGET_AVX2 static void pack8_avx2(const uint8_t *code, size_t n, unsigned w, uint8_t *out)
{
    const uint64_t mask = ((UINT64_C(1) << w) - 1) * UINT64_C(0x0101010101010101);
    if (w == 8) {
        memcpy(out, code, n);
        return;
    }
    for (; w == 1 && n >= 32; code += 32, out += 4, n -= 32) {
        const __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)code);
        const int bits = _mm256_movemask_epi8(_mm256_slli_epi16(v, 7));
        memcpy(out, &bits, sizeof bits);
    }
#define SQUEEZE(v) _pext_u64(v, mask)
    PACK8_BODY(SQUEEZE);
#undef SQUEEZE
}
TARGET_AVX2 static void unpack8_avx2(const uint8_t *in, size_t n, unsigned w, uint8_t *code)
{
    const uint64_t mask = ((UINT64_C(1) << w) - 1) * UINT64_C(0x0101010101010101);
    if (w == 8) {
        memcpy(code, in, n);
        return;
    }
#define SPREAD(v) _pdep_u64(v, mask)
    UNPACK8_BODY(SPREAD);
#undef SPREAD
}
TARGET_AVX512 static void pack8_avx512(const uint8_t *code, size_t n, unsigned w, uint8_t *out)
{
    if (w != 1) {
        pack8_avx2(code, n, w, out);
        return;
    }
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512i v = _mm512_loadu_si512(code + i);
        store8(out + i / 8, _mm512_test_epi8_mask(v, _mm512_set1_epi8(1)));
    }
    pack8_avx2(code + i, n - i, 1, out + i / 8);
}
TARGET_AVX512 static void unpack8_avx512(const uint8_t *in, size_t n, unsigned w, uint8_t *code)
{
    if (w != 1) {
        unpack8_avx2(in, n, w, code);
        return;
    }
    size_t i = 0;
    for (; i + 64 <= n; i += 64)
        _mm512_storeu_si512(code + i, _mm512_maskz_set1_epi8(load8(in + i / 8), 1));
    unpack8_avx2(in + i / 8, n - i, 1, code + i);
}
#endif

void pack_u8(const uint8_t *code, size_t n, unsigned w, uint8_t *out)
{
    size_t whole = n & ~(size_t)7;
    SIMD_PICK(pack8, (code, whole, w, out));
    uint16_t tail[8] = {0};
    for (size_t i = whole; i < n; i++)
        tail[i - whole] = (uint16_t)(code[i] & ((1u << w) - 1));
    pack_tail(tail, n - whole, w, out + whole / 8 * w);
}

void unpack_u8(const uint8_t *in, size_t n, unsigned w, uint8_t *code)
{
    size_t whole = n & ~(size_t)7;
    SIMD_PICK(unpack8, (in, whole, w, code));
    uint16_t tail[8] = {0};
    unpack_tail(in + whole / 8 * w, n - whole, w, tail);
    for (size_t i = whole; i < n; i++)
        code[i] = (uint8_t)tail[i - whole];
}

// Words of 9 to 16 bits. Four codes make 4 w bits, at most 64; two such halves are w whole bytes.

SIMD_PART uint64_t squeeze4(const uint16_t *c, unsigned w)
{
    const uint64_t m = (UINT64_C(1) << w) - 1;
    return (c[0] & m) | (c[1] & m) << w | (c[2] & m) << (2 * w) | (c[3] & m) << (3 * w);
}

SIMD_PART void pack16_w(const uint16_t *code, size_t n, unsigned w, uint8_t *out)
{
    for (size_t g = 0; g < n / 8; g++) {
        uint64_t low = squeeze4(code + 8 * g, w), high = squeeze4(code + 8 * g + 4, w);
        uint8_t *p = out + g * w;
        store8(p, low | (4 * w < 64 ? high << (4 * w % 64) : 0));
        store_bytes(p + 8, 4 * w < 64 ? high >> (64 - 4 * w) : high, w - 8);
    }
}

SIMD_PART void unpack16_w(const uint8_t *in, size_t n, unsigned w, uint16_t *code)
{
    const uint64_t m = (UINT64_C(1) << w) - 1;
    for (size_t g = 0; g < n / 8; g++) {
        const uint8_t *p = in + g * w;
        uint64_t low = load8(p), high = load_bytes(p + 8, w - 8);
        if (4 * w < 64)
            high = low >> (4 * w % 64) | high << (64 - 4 * w);
        for (unsigned i = 0; i < 4; i++) {
            code[8 * g + i] = (uint16_t)(low >> (i * w) & m);
            code[8 * g + 4 + i] = (uint16_t)(high >> (i * w) & m);
        }
    }
}

#define EACH_WIDE(fn, a, b, c)                                                                     \
    switch (w) {                                                                                   \
    case 9:                                                                                        \
        fn(a, b, 9, c);                                                                            \
        break;                                                                                     \
    case 10:                                                                                       \
        fn(a, b, 10, c);                                                                           \
        break;                                                                                     \
    case 11:                                                                                       \
        fn(a, b, 11, c);                                                                           \
        break;                                                                                     \
    case 12:                                                                                       \
        fn(a, b, 12, c);                                                                           \
        break;                                                                                     \
    case 13:                                                                                       \
        fn(a, b, 13, c);                                                                           \
        break;                                                                                     \
    case 14:                                                                                       \
        fn(a, b, 14, c);                                                                           \
        break;                                                                                     \
    case 15:                                                                                       \
        fn(a, b, 15, c);                                                                           \
        break;                                                                                     \
    default:                                                                                       \
        fn(a, b, 16, c);                                                                           \
        break;                                                                                     \
    }

#define SIMD_FILE "pack.c"
#include "simd_each.h"

void pack_u16(const uint16_t *code, size_t n, unsigned w, uint8_t *out)
{
    size_t whole = n & ~(size_t)7;
    uint16_t tail[8] = {0};
    SIMD_PICK(pack16, (code, whole, w, out));
    for (size_t i = whole; i < n; i++)
        tail[i - whole] = (uint16_t)(code[i] & ((UINT32_C(1) << w) - 1));
    pack_tail(tail, n - whole, w, out + whole / 8 * w);
}

void unpack_u16(const uint8_t *in, size_t n, unsigned w, uint16_t *code)
{
    size_t whole = n & ~(size_t)7;
    uint16_t tail[8] = {0};
    SIMD_PICK(unpack16, (in, whole, w, code));
    unpack_tail(in + whole / 8 * w, n - whole, w, tail);
    for (size_t i = whole; i < n; i++)
        code[i] = tail[i - whole];
}

// Base 3: five ternary codes per byte.

void pack_base3(const uint8_t *code, size_t n, uint8_t *out)
{
    size_t i = 0;
    for (; i + 5 <= n; i += 5)
        *out++ = (uint8_t)(code[i] + 3 * code[i + 1] + 9 * code[i + 2] + 27 * code[i + 3] +
                           81 * code[i + 4]);
    unsigned v = 0, power = 1;
    for (size_t k = i; k < n; k++, power *= 3)
        v += power * code[k];
    if (i < n)
        *out = (uint8_t)v;
}

// Digits of all bytes; values above 242 give a digit above 2 in the fifth place.
void unpack_base3(const uint8_t *in, size_t n, uint8_t *code)
{
    for (size_t i = 0; i < n; i += 5) {
        unsigned v = in[i / 5];
        for (size_t k = i; k < n && k < i + 5; k++, v /= 3)
            code[k] = (uint8_t)(k < i + 4 ? v % 3 : v);
    }
}

// Facts about codes.

uint8_t pack_max_u8(const uint8_t *code, size_t n)
{
    return SIMD_PICK(pack_max_u8, (code, n));
}

// Adds. By a table; four, so that equal neighbours do not wait for each other.
static void count_any(const uint8_t *code, size_t n, uint64_t count[256])
{
    uint32_t part[4][256];
    for (size_t begin = 0; begin < n; begin += UINT32_MAX) {
        size_t end = n - begin > UINT32_MAX ? begin + UINT32_MAX : n, i = begin;
        memset(part, 0, sizeof part);
        for (; i + 8 <= end; i += 8) {
            uint64_t v = load8(code + i);
            for (unsigned k = 0; k < 8; k++)
                part[k % 4][(v >> (8 * k)) & 0xff]++;
        }
        for (; i < end; i++)
            part[0][code[i]]++;
        for (int s = 0; s < 256; s++)
            count[s] += (uint64_t)part[0][s] + part[1][s] + part[2][s] + part[3][s];
    }
}

#define COUNT_FEW  16
#define COUNT_TILE 4096

// Adds. Kinds [low, low + COUNT_FEW) by comparing, the others, which are rare, one by one.
static void count_few(const uint8_t *code, size_t n, unsigned low, uint64_t count[256])
{
    uint8_t kind[COUNT_TILE];
    for (size_t at = 0; at < n; at += COUNT_TILE) {
        size_t m = n - at < COUNT_TILE ? n - at : COUNT_TILE;
        int64_t few[COUNT_FEW] = {0}, found = 0;
        for (size_t i = 0; i < m; i++)
            kind[i] = (uint8_t)(code[at + i] - low);
        alloc_count(kind, m, COUNT_FEW, few);
        for (int k = 0; k < COUNT_FEW; k++) {
            count[(low + (unsigned)k) & 0xff] += (uint64_t)few[k];
            found += few[k];
        }
        for (size_t i = 0; i < m && found < (int64_t)m; i++)
            if (kind[i] >= COUNT_FEW) {
                count[code[at + i]]++;
                found++;
            }
    }
}

// The first codes show whether nearly all are of a few neighbouring kinds.
void pack_count_u8(const uint8_t *code, size_t n, uint64_t count[256])
{
    size_t first = n < COUNT_TILE ? n : COUNT_TILE;
    uint64_t sum = 0, most = 0;
    unsigned low = 0, high = 0; // neighbours with most codes begin from low to high
    memset(count, 0, 256 * sizeof *count);
    count_any(code, first, count);
    for (unsigned k = 0; k < 256; k++) {
        sum += count[k] - (k < COUNT_FEW ? 0 : count[k - COUNT_FEW]);
        if (k >= COUNT_FEW - 1 && sum >= most) {
            high = k - (COUNT_FEW - 1);
            low = sum > most ? high : low;
            most = sum;
        }
    }
    if (simd_isa() == SIMD_BASE || most + COUNT_TILE / 256 < first)
        count_any(code + first, n - first, count);
    else
        count_few(code + first, n - first, low + (high - low) / 2, count);
}

#endif
