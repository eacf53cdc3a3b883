// Interleaved range ANS, order 0. Every lane is a coder of its own; the lanes share one sequence of
// words, read in lane order, so that 16 of them advance with one vector instruction. The encoder
// goes backwards.
#include "kernels_codec.h"
#include "lanes.h"

#include <string.h>

#define WORD_MAX_STEP RANS_LANES_MAX // most words one step of all lanes reads

// Tables.

// Rounds down but never to zero, then moves the difference to where it costs least per code: up
// where the rest is largest, down where the share of one step is smallest.
void rans_frequencies(const uint64_t count[256], uint16_t freq[256])
{
    uint64_t total = 0;
    for (int s = 0; s < 256; s++)
        total += count[s];
    double unit = (double)RANS_PROB_ONE / (double)total;
    int sum = 0;
    for (int s = 0; s < 256; s++) {
        double share = (double)count[s] * unit;
        freq[s] = (uint16_t)(count[s] && share < 1       ? 1
                             : share > RANS_PROB_ONE - 1 ? RANS_PROB_ONE - 1
                                                         : share);
        sum += freq[s];
    }
    for (; sum != (int)RANS_PROB_ONE; sum += sum < (int)RANS_PROB_ONE ? 1 : -1) {
        int best = -1;
        double best_gain = 0;
        for (int s = 0; s < 256; s++) {
            double f = freq[s], p = (double)count[s];
            if (!count[s] || (sum > (int)RANS_PROB_ONE && freq[s] < 2))
                continue;
            // First-order gain in bits of one step more, or loss of one step less.
            double gain = sum < (int)RANS_PROB_ONE ? p / (f + 0.5) : -p / (f - 0.5);
            if (best < 0 || gain > best_gain) {
                best = s;
                best_gain = gain;
            }
        }
        freq[best] = (uint16_t)(freq[best] + (sum < (int)RANS_PROB_ONE ? 1 : -1));
    }
}

// x / freq as a high product and a shift (Alverson 1991), exact for x < 2^31; freq 1 through x - 1.
void rans_encoder_init(struct rans_encoder *e, const uint16_t freq[256])
{
    uint32_t start = 0;
    unsigned end = 0;
    e->first = 256;
    for (unsigned s = 0; s < 256; s++) {
        uint32_t f = freq[s], shift = 0, bias = start;
        e->first = f && s < e->first ? s : e->first;
        end = f ? s + 1 : end;
        e->reciprocal[s] = UINT32_MAX;
        if (f >= 2) {
            while (f > 1u << shift)
                shift++;
            e->reciprocal[s] = (uint32_t)(((UINT64_C(1) << (shift + 31)) + f - 1) / f);
            shift--;
        } else {
            bias = start + RANS_PROB_ONE - 1;
        }
        e->step[s] = (RANS_PROB_ONE - f) | bias << 13 | shift << 26;
        start += f;
    }
    e->kinds = end - e->first;
}

int rans_decoder_init(struct rans_decoder *d, const uint16_t freq[256])
{
    uint32_t start = 0;
    d->first = 256;
    d->kinds = 0;
    memset(d->freq, 0, sizeof d->freq);
    for (uint32_t s = 0; s < 256; s++) {
        uint32_t f = freq[s];
        if (f >= RANS_PROB_ONE || f > RANS_PROB_ONE - start)
            return -1;
        for (uint32_t k = 0; k < f; k++)
            d->slot[start + k] = s | f << 8 | k << 20;
        if (f) {
            d->first = s < d->first ? s : d->first;
            d->kinds = s + 1 - d->first;
            if (d->kinds <= RANS_FEW)
                d->freq[d->kinds - 1] = (uint16_t)f;
        }
        start += f;
    }
    for (unsigned k = 0, at = 0; k < RANS_FEW; at += d->freq[k++])
        d->start[k] = (uint16_t)at;
    return start == RANS_PROB_ONE ? 0 : -1;
}

unsigned rans_lanes(size_t n)
{
    return n >= 1u << 18 ? RANS_LANES_MAX : n >= 1u << 14 ? 4 : 1;
}

// A code costs at most 12 bits, for its frequency is at least 1, plus what the last word leaves
// open.
size_t rans_bound(size_t n)
{
    return 6 * rans_lanes(n) + n + n / 2 + n / 1024 + 4;
}

// Encoding.

static inline __attribute__((always_inline)) void store_word(uint8_t *p, uint32_t w)
{
    uint8_t b[2] = {(uint8_t)w, (uint8_t)(w >> 8)};
    memcpy(p, b, sizeof b);
}

static inline __attribute__((always_inline)) uint8_t *
encode_one(const struct rans_encoder *e, uint8_t code, uint32_t *state, uint8_t *p)
{
    uint32_t x = *state, step = e->step[code];
    const unsigned shed = x >= RANS_STEP_FREQ(step) << RANS_FULL_SHIFT;
    store_word(p - 2,
               x & 0xffff); // written over where no word is shed: a branch would often be wrong
    p -= 2 * shed;
    x = shed ? x >> 16 : x;
    uint32_t q = (uint32_t)((uint64_t)x * e->reciprocal[code] >> 32) >> RANS_STEP_SHIFT(step);
    *state = x + RANS_STEP_START(step) + q * (step & 0x1fffu);
    return p;
}

// Constant lanes keep their states in registers.
static inline __attribute__((always_inline)) uint8_t *
encode_lanes(const struct rans_encoder *e, const uint8_t *code, size_t steps, const unsigned lanes,
             uint32_t *state, uint8_t *p)
{
    uint32_t x[RANS_LANES_MAX];
    memcpy(x, state, lanes * sizeof *x);
    for (size_t t = steps; t-- > 0;)
        for (unsigned l = lanes; l-- > 0;)
            p = encode_one(e, code[t * lanes + l], &x[l], p);
    memcpy(state, x, lanes * sizeof *x);
    return p;
}

static inline __attribute__((always_inline)) uint8_t *encode_steps(const struct rans_encoder *e,
                                                                   const uint8_t *code,
                                                                   size_t steps, unsigned lanes,
                                                                   uint32_t *state, uint8_t *p)
{
    return lanes == 1   ? encode_lanes(e, code, steps, 1, state, p)
           : lanes == 4 ? encode_lanes(e, code, steps, 4, state, p)
                        : encode_lanes(e, code, steps, lanes, state, p);
}

// The first steps of all lanes, last to first; buf is where the output's room begins.
static uint8_t *encode_steps_base(const struct rans_encoder *e, const uint8_t *code, size_t steps,
                                  unsigned lanes, uint32_t *state, uint8_t *p, const uint8_t *buf)
{
    (void)buf;
    return encode_steps(e, code, steps, lanes, state, p);
}

#if SIMD_X86
TARGET_AVX512 static inline __attribute__((always_inline)) __m512i mul_hi(__m512i a, __m512i b)
{
    __m512i even = _mm512_srli_epi64(_mm512_mul_epu32(a, b), 32);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32));
    return _mm512_mask_blend_epi32(0xaaaa, even, odd);
}

// Entries of a table where codes that occur find them by their last bits, being few neighbours.
static void rotate_entries(const struct rans_encoder *e, const uint32_t table[256], unsigned few,
                           uint32_t *out)
{
    for (unsigned k = 0; k < few; k++) {
        unsigned code = e->first + ((k - e->first) & (few - 1));
        out[k] = table[code < 256 ? code : 255];
    }
}

// Of up to 16 kinds of codes, up to 32, or any.
struct entries_512 {
    __m512i low, high;
};

TARGET_AVX512 static inline __attribute__((always_inline)) __m512i
entry_16(const uint32_t table[256], const struct entries_512 *t, __m512i code, const unsigned kinds)
{
    return kinds == 16   ? _mm512_permutexvar_epi32(code, t->low)
           : kinds == 32 ? _mm512_permutex2var_epi32(t->low, code, t->high)
                         : _mm512_i32gather_epi32(code, table, 4);
}

TARGET_AVX512 static inline __attribute__((always_inline)) __m512i
encode_16(const struct rans_encoder *e, const uint8_t *code, const struct entries_512 t[2],
          const unsigned kinds, __m512i x, uint8_t **p)
{
    __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)code));
    __m512i step = entry_16(e->step, &t[0], s, kinds);
    __m512i rcp = entry_16(e->reciprocal, &t[1], s, kinds);
    __m512i rest = _mm512_and_si512(step, _mm512_set1_epi32(0x1fff)); // 4096 - freq
    __m512i full = _mm512_slli_epi32(_mm512_sub_epi32(_mm512_set1_epi32((int)RANS_PROB_ONE), rest),
                                     RANS_FULL_SHIFT);
    __mmask16 shed = _mm512_cmpge_epu32_mask(x, full);
    unsigned words = (unsigned)__builtin_popcount(shed);
    __m256i w = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(shed, x));
    *p -= 2 * words;
    _mm256_mask_storeu_epi16(*p, (__mmask16)((1u << words) - 1), w);
    x = _mm512_mask_srli_epi32(x, shed, x, 16);
    __m512i q = _mm512_srlv_epi32(mul_hi(x, rcp), _mm512_srli_epi32(step, 26));
    __m512i start = _mm512_and_si512(_mm512_srli_epi32(step, 13), _mm512_set1_epi32(0x1fff));
    return _mm512_add_epi32(_mm512_add_epi32(x, start), _mm512_mullo_epi32(q, rest));
}

TARGET_AVX512 static inline __attribute__((always_inline)) uint8_t *
encode_512(const struct rans_encoder *e, const uint8_t *code, size_t steps, const unsigned kinds,
           uint32_t *state, uint8_t *p)
{
    struct entries_512 t[2];
    for (int k = 0; k < 2 && kinds <= 32; k++) {
        uint32_t entry[32];
        rotate_entries(e, k ? e->reciprocal : e->step, kinds, entry);
        t[k].low = _mm512_loadu_si512(entry);
        t[k].high = kinds == 32 ? _mm512_loadu_si512(entry + 16) : t[k].low;
    }
    __m512i low = _mm512_loadu_si512(state), high = _mm512_loadu_si512(state + 16);
    for (size_t i = steps; i-- > 0;) {
        high = encode_16(e, code + i * 32 + 16, t, kinds, high, &p);
        low = encode_16(e, code + i * 32, t, kinds, low, &p);
    }
    _mm512_storeu_si512(state, low);
    _mm512_storeu_si512(state + 16, high);
    return p;
}

TARGET_AVX512 static uint8_t *encode_steps_avx512(const struct rans_encoder *e, const uint8_t *code,
                                                  size_t steps, unsigned lanes, uint32_t *state,
                                                  uint8_t *p, const uint8_t *buf)
{
    (void)buf;
    if (lanes != 32) // with this instruction set's shifts
        return encode_steps(e, code, steps, lanes, state, p);
    return e->kinds <= 16   ? encode_512(e, code, steps, 16, state, p)
           : e->kinds <= 32 ? encode_512(e, code, steps, 32, state, p)
                            : encode_512(e, code, steps, 256, state, p);
}

// The same; few are picked from registers: many machines load lanes from eight places one after the
// other.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
entries_8(const uint32_t *table, __m256i code, const unsigned kinds)
{
    if (kinds > 16)
        return _mm256_i32gather_epi32((const int *)(const void *)table, code, 4);
    const __m256i *row = (const __m256i *)(const void *)table;
    __m256i low = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(row), code);
    if (kinds <= 8)
        return low;
    __m256i high = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(row + 1), code);
    __m256i upper = _mm256_slli_epi32(code, 28); // bit 3 to the sign
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high),
                                                _mm256_castsi256_ps(upper)));
}

// Stores eight words, of which those that are shed come last: the next ones take the place of the
// others.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
encode_8(const uint32_t *const entry[2], const uint8_t *code, const unsigned kinds, __m256i x,
         uint8_t **p)
{
    __m256i s = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)code));
    __m256i step = entries_8(entry[0], s, kinds), rcp = entries_8(entry[1], s, kinds);
    __m256i rest = _mm256_and_si256(step, _mm256_set1_epi32(0x1fff)); // 4096 - freq
    __m256i full = _mm256_add_epi32(_mm256_srli_epi32(x, RANS_FULL_SHIFT), rest);
    __m256i shed = _mm256_cmpgt_epi32(full, _mm256_set1_epi32(RANS_PROB_ONE - 1));
    unsigned m = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(shed));
    unsigned words = (unsigned)__builtin_popcount(m);
    __m256i w = _mm256_and_si256(lanes_close_up(x, m, words), _mm256_set1_epi32(0xffff));
    __m128i out = _mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i *)(void *)(*p - 16), out);
    *p -= 2 * words;
    x = _mm256_srlv_epi32(x, _mm256_and_si256(shed, _mm256_set1_epi32(16)));
    __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(x, rcp), 32);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(rcp, 32));
    __m256i q = _mm256_srlv_epi32(_mm256_blend_epi32(even, odd, 0xaa), _mm256_srli_epi32(step, 26));
    __m256i start = _mm256_and_si256(_mm256_srli_epi32(step, 13), _mm256_set1_epi32(0x1fff));
    return _mm256_add_epi32(_mm256_add_epi32(x, start), _mm256_mullo_epi32(q, rest));
}

TARGET_AVX2 static inline __attribute__((always_inline)) uint8_t *
encode_256(const struct rans_encoder *e, const uint8_t *code, size_t steps, const unsigned kinds,
           uint32_t *state, uint8_t *p, const uint8_t *buf)
{
    __m256i x[4], *at = (__m256i *)(void *)state;
    const uint32_t *entry[2] = {e->step, e->reciprocal};
    uint32_t few[2][16];
    size_t t = steps;
    for (int k = 0; k < 2 && kinds <= 16; k++) {
        rotate_entries(e, entry[k], kinds, few[k]);
        entry[k] = few[k];
    }
    for (int k = 0; k < 4; k++)
        x[k] = _mm256_loadu_si256(at + k);
    for (; t > 0 && p - buf >= 2 * (WORD_MAX_STEP + 8); t--)
        for (int k = 3; k >= 0; k--)
            x[k] = encode_8(entry, code + 32 * (t - 1) + 8 * k, kinds, x[k], &p);
    for (int k = 0; k < 4; k++)
        _mm256_storeu_si256(at + k, x[k]);
    return encode_steps_base(e, code, t, 32, state, p, buf);
}

TARGET_AVX2 static uint8_t *encode_steps_avx2(const struct rans_encoder *e, const uint8_t *code,
                                              size_t steps, unsigned lanes, uint32_t *state,
                                              uint8_t *p, const uint8_t *buf)
{
    if (lanes != 32) // with this instruction set's shifts
        return encode_steps(e, code, steps, lanes, state, p);
    return e->kinds <= 8    ? encode_256(e, code, steps, 8, state, p, buf)
           : e->kinds <= 16 ? encode_256(e, code, steps, 16, state, p, buf)
                            : encode_256(e, code, steps, 256, state, p, buf);
}
#endif

size_t rans_encode(const struct rans_encoder *e, const uint8_t *code, size_t n, uint8_t *buf)
{
    unsigned lanes = rans_lanes(n);
    uint32_t state[RANS_LANES_MAX];
    for (unsigned l = 0; l < lanes; l++)
        state[l] = RANS_STATE_LOW;
    uint8_t *end = buf + rans_bound(n), *p = end;
    size_t steps = n / lanes;
    for (size_t i = n; i-- > steps * lanes;)
        p = encode_one(e, code[i], &state[i % lanes], p);
    p = SIMD_PICK(encode_steps, (e, code, steps, lanes, state, p, buf));
    for (unsigned l = lanes; l-- > 0;) {
        p -= 4;
        store_word(p, state[l] & 0xffff);
        store_word(p + 2, state[l] >> 16);
    }
    return (size_t)(end - p);
}

// Decoding.

static inline __attribute__((always_inline)) uint32_t load_word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

// Returns the code; past the end of the words it takes zeros and counts on the check of the final
// states.
static inline __attribute__((always_inline)) uint8_t
decode_one(const struct rans_decoder *d, uint32_t *state, const uint8_t **p, const uint8_t *end)
{
    uint32_t slot = d->slot[*state & (RANS_PROB_ONE - 1)];
    uint32_t x = (slot >> 8 & 0xfffu) * (*state >> RANS_PROB_BITS) + (slot >> 20);
    if (x < RANS_STATE_LOW) {
        bool more = end - *p >= 2;
        x = more ? x << 16 | load_word(*p) : 0;
        *p += more ? 2 : 0;
    }
    *state = x;
    return (uint8_t)slot;
}

static const uint8_t *decode_steps_base(const struct rans_decoder *d, const uint8_t *p,
                                        const uint8_t *end, uint8_t *code, size_t steps,
                                        unsigned lanes, uint32_t *state)
{
    for (size_t t = 0; t < steps; t++)
        for (unsigned l = 0; l < lanes; l++)
            code[t * lanes + l] = decode_one(d, &state[l], &p, end);
    return p;
}

#if SIMD_X86
TARGET_AVX512 static inline __attribute__((always_inline)) __m512i
decode_16(const struct rans_decoder *d, __m512i x, const uint8_t **p, uint8_t *code)
{
    __m512i slot = _mm512_i32gather_epi32(_mm512_and_si512(x, _mm512_set1_epi32(RANS_PROB_ONE - 1)),
                                          d->slot, 4);
    _mm_storeu_si128((__m128i *)(void *)code, _mm512_cvtepi32_epi8(slot));
    __m512i freq = _mm512_and_si512(_mm512_srli_epi32(slot, 8), _mm512_set1_epi32(0xfff));
    x = _mm512_add_epi32(_mm512_mullo_epi32(freq, _mm512_srli_epi32(x, RANS_PROB_BITS)),
                         _mm512_srli_epi32(slot, 20));
    __mmask16 need = _mm512_cmplt_epu32_mask(x, _mm512_set1_epi32((int)RANS_STATE_LOW));
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)*p));
    *p += 2 * __builtin_popcount(need);
    return _mm512_mask_or_epi32(x, need, _mm512_slli_epi32(x, 16),
                                _mm512_maskz_expand_epi32(need, words));
}

TARGET_AVX512 static const uint8_t *decode_steps_avx512(const struct rans_decoder *d,
                                                        const uint8_t *p, const uint8_t *end,
                                                        uint8_t *code, size_t steps, unsigned lanes,
                                                        uint32_t *state)
{
    if (lanes != 32)
        return decode_steps_base(d, p, end, code, steps, lanes, state);
    __m512i low = _mm512_loadu_si512(state), high = _mm512_loadu_si512(state + 16);
    size_t t = 0;
    for (; t < steps && end - p >= 2 * (WORD_MAX_STEP + 16); t++) {
        low = decode_16(d, low, &p, code + 32 * t);
        high = decode_16(d, high, &p, code + 32 * t + 16);
    }
    _mm512_storeu_si512(state, low);
    _mm512_storeu_si512(state + 16, high);
    return decode_steps_base(d, p, end, code + 32 * t, steps - t, lanes, state);
}

// Eight states take what their slots say, and words where they have become small. Frequencies and
// states have 31 bits at most, so signed comparisons do.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
advance_8(__m256i x, __m256i freq, __m256i above, const uint8_t **p)
{
    x = _mm256_add_epi32(_mm256_mullo_epi32(freq, _mm256_srli_epi32(x, RANS_PROB_BITS)), above);
    __m256i need = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)RANS_STATE_LOW), x);
    unsigned m = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(need));
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)*p));
    __m256i more = _mm256_or_si256(_mm256_slli_epi32(x, 16), lanes_spread(words, m));
    *p += 2 * __builtin_popcount(m);
    return _mm256_blendv_epi8(x, more, need);
}

// Any codes.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
decode_8(const struct rans_decoder *d, __m256i x, const uint8_t **p, __m256i *slot)
{
    const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(RANS_PROB_ONE - 1));
    *slot = _mm256_i32gather_epi32((const int *)(const void *)d->slot, low, 4);
    const __m256i freq = _mm256_and_si256(_mm256_srli_epi32(*slot, 8), _mm256_set1_epi32(0xfff));
    return advance_8(x, freq, _mm256_srli_epi32(*slot, 20), p);
}

// The low bytes of 32 lanes, in order.
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i low_bytes(const __m256i s[4])
{
    const __m256i low = _mm256_set1_epi32(0xff);
    __m256i a = _mm256_packus_epi32(_mm256_and_si256(s[0], low), _mm256_and_si256(s[1], low));
    __m256i b = _mm256_packus_epi32(_mm256_and_si256(s[2], low), _mm256_and_si256(s[3], low));
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b),
                                       _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Few neighbouring codes: the one that a slot belongs to begins last of those that begin at or
// below it, and comparing finds it in sixteen states at once.
struct few_256 {
    __m256i before[RANS_FEW - 1]; // the slot before a code's first
    __m256i start[2], freq[2];    // low bytes, high bytes
};

TARGET_AVX2 static inline __attribute__((always_inline)) struct few_256
few_of(const struct rans_decoder *d)
{
    struct few_256 few;
    uint8_t byte[4][16];
    for (int k = 0; k < RANS_FEW; k++) {
        byte[0][k] = (uint8_t)d->start[k];
        byte[1][k] = (uint8_t)(d->start[k] >> 8);
        byte[2][k] = (uint8_t)d->freq[k];
        byte[3][k] = (uint8_t)(d->freq[k] >> 8);
        if (k > 0)
            few.before[k - 1] = _mm256_set1_epi16((short)(d->start[k] - 1));
    }
    for (int k = 0; k < 2; k++) {
        const __m128i *row = (const __m128i *)(const void *)byte[k];
        few.start[k] = _mm256_broadcastsi128_si256(_mm_loadu_si128(row));
        few.freq[k] = _mm256_broadcastsi128_si256(_mm_loadu_si128(row + 2));
    }
    return few;
}

// code: 16 bits each, in the order in which two vectors are packed; the upper byte is not theirs.
TARGET_AVX2 static inline __attribute__((always_inline)) void
decode_few_16(const struct few_256 *few, const unsigned kinds, __m256i x[2], const uint8_t **p,
              __m256i *code)
{
    const __m256i one = _mm256_set1_epi32(RANS_PROB_ONE - 1), none = _mm256_setzero_si256();
    const __m256i low =
        _mm256_packs_epi32(_mm256_and_si256(x[0], one), _mm256_and_si256(x[1], one));
    __m256i even = _mm256_set1_epi16((short)0x8000), odd = none;
    for (unsigned k = 0; k + 1 < kinds; k += 2) {
        even = _mm256_sub_epi16(even, _mm256_cmpgt_epi16(low, few->before[k]));
        if (k + 2 < kinds)
            odd = _mm256_add_epi16(odd, _mm256_cmpgt_epi16(low, few->before[k + 1]));
    }
    // Bytes whose upper bit is set find a zero in a table.
    const __m256i at_low = _mm256_sub_epi16(even, odd);
    const __m256i at_high = _mm256_or_si256(_mm256_slli_epi16(at_low, 8), _mm256_set1_epi16(0x80));
    const __m256i start = _mm256_or_si256(_mm256_shuffle_epi8(few->start[0], at_low),
                                          _mm256_shuffle_epi8(few->start[1], at_high));
    const __m256i freq = _mm256_or_si256(_mm256_shuffle_epi8(few->freq[0], at_low),
                                         _mm256_shuffle_epi8(few->freq[1], at_high));
    const __m256i above = _mm256_sub_epi16(low, start);
    x[0] =
        advance_8(x[0], _mm256_unpacklo_epi16(freq, none), _mm256_unpacklo_epi16(above, none), p);
    x[1] =
        advance_8(x[1], _mm256_unpackhi_epi16(freq, none), _mm256_unpackhi_epi16(above, none), p);
    *code = at_low;
}

TARGET_AVX2 static inline __attribute__((always_inline)) const uint8_t *
decode_256(const struct rans_decoder *d, const unsigned kinds, const uint8_t *p, const uint8_t *end,
           uint8_t *code, size_t steps, uint32_t *state)
{
    const struct few_256 few = few_of(d);
    const __m256i byte = _mm256_set1_epi16(0xff), first = _mm256_set1_epi8((char)d->first);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i x[4], s[4], c[2], *at = (__m256i *)(void *)state;
    size_t t = 0;
    for (int k = 0; k < 4; k++)
        x[k] = _mm256_loadu_si256(at + k);
    for (; t < steps && end - p >= 2 * (WORD_MAX_STEP + 8); t++) {
        __m256i *to = (__m256i *)(void *)(code + 32 * t);
        if (kinds > RANS_FEW) {
            for (int k = 0; k < 4; k++)
                x[k] = decode_8(d, x[k], &p, &s[k]);
            _mm256_storeu_si256(to, low_bytes(s));
            continue;
        }
        decode_few_16(&few, kinds, x, &p, &c[0]);
        decode_few_16(&few, kinds, x + 2, &p, &c[1]);
        s[0] = _mm256_packus_epi16(_mm256_and_si256(c[0], byte), _mm256_and_si256(c[1], byte));
        _mm256_storeu_si256(to, _mm256_add_epi8(_mm256_permutevar8x32_epi32(s[0], order), first));
    }
    for (int k = 0; k < 4; k++)
        _mm256_storeu_si256(at + k, x[k]);
    return decode_steps_base(d, p, end, code + 32 * t, steps - t, 32, state);
}

TARGET_AVX2 static const uint8_t *decode_steps_avx2(const struct rans_decoder *d, const uint8_t *p,
                                                    const uint8_t *end, uint8_t *code, size_t steps,
                                                    unsigned lanes, uint32_t *state)
{
    if (lanes != 32)
        return decode_steps_base(d, p, end, code, steps, lanes, state);
    return d->kinds <= 4    ? decode_256(d, 4, p, end, code, steps, state)
           : d->kinds <= 8  ? decode_256(d, 8, p, end, code, steps, state)
           : d->kinds <= 12 ? decode_256(d, 12, p, end, code, steps, state)
           : d->kinds <= 16 ? decode_256(d, 16, p, end, code, steps, state)
                            : decode_256(d, 256, p, end, code, steps, state);
}
#endif

// A stream on its way.
struct decoding {
    const uint8_t *p, *end;
    uint8_t *code;
    unsigned lanes;
    size_t steps, tail; // of all lanes; codes after them
    uint32_t state[RANS_LANES_MAX];
};

static int decode_begin(struct decoding *s, const struct rans_stream *from)
{
    s->lanes = rans_lanes(from->n);
    if (from->len < 4 * (size_t)s->lanes)
        return -1;
    for (unsigned l = 0; l < s->lanes; l++) {
        const uint8_t *in = from->in + 4 * l;
        s->state[l] = load_word(in) | load_word(in + 2) << 16;
        if (s->state[l] < RANS_STATE_LOW || s->state[l] >= 1u << 31)
            return -1;
    }
    s->p = from->in + 4 * (size_t)s->lanes;
    s->end = from->in + from->len;
    s->code = from->code;
    s->steps = from->n / s->lanes;
    s->tail = from->n % s->lanes;
    return 0;
}

// What is left of it. -1: these were no such codes.
static int decode_end(const struct rans_decoder *d, struct decoding *s)
{
    const uint8_t *p = s->p, *end = s->end;
    p = SIMD_PICK(decode_steps, (d, p, end, s->code, s->steps, s->lanes, s->state));
    for (size_t i = 0; i < s->tail; i++)
        s->code[s->steps * s->lanes + i] = decode_one(d, &s->state[i], &p, end);
    for (unsigned l = 0; l < s->lanes; l++)
        if (s->state[l] != RANS_STATE_LOW)
            return -1;
    return p == end ? 0 : -1;
}

#if SIMD_X86
// As long as both go on, in turn: a step waits for the one before it in its own stream only.
TARGET_AVX512 static void decode_both_avx512(const struct rans_decoder *d, struct decoding s[2])
{
    enum { SPARE = 2 * (WORD_MAX_STEP + 16) };
    const size_t steps = s[0].steps < s[1].steps ? s[0].steps : s[1].steps;
    const uint8_t *p0 = s[0].p, *p1 = s[1].p;
    __m512i a = _mm512_loadu_si512(s[0].state), b = _mm512_loadu_si512(s[0].state + 16);
    __m512i e = _mm512_loadu_si512(s[1].state), f = _mm512_loadu_si512(s[1].state + 16);
    size_t t = 0;
    for (; t < steps && s[0].end - p0 >= SPARE && s[1].end - p1 >= SPARE; t++) {
        a = decode_16(d, a, &p0, s[0].code + 32 * t);
        e = decode_16(d, e, &p1, s[1].code + 32 * t);
        b = decode_16(d, b, &p0, s[0].code + 32 * t + 16);
        f = decode_16(d, f, &p1, s[1].code + 32 * t + 16);
    }
    _mm512_storeu_si512(s[0].state, a);
    _mm512_storeu_si512(s[0].state + 16, b);
    _mm512_storeu_si512(s[1].state, e);
    _mm512_storeu_si512(s[1].state + 16, f);
    for (int k = 0; k < 2; k++) {
        s[k].p = k ? p1 : p0;
        s[k].code += 32 * t;
        s[k].steps -= t;
    }
}
#endif

int rans_decode_two(const struct rans_decoder *d, const struct rans_stream *one,
                    const struct rans_stream *two)
{
    struct decoding s[2];
    if (decode_begin(&s[0], one) || decode_begin(&s[1], two))
        return -1;
#if SIMD_X86
    if (simd_isa() == SIMD_AVX512 && s[0].lanes == 32 && s[1].lanes == 32)
        decode_both_avx512(d, s);
#endif
    return decode_end(d, &s[0]) || decode_end(d, &s[1]) ? -1 : 0;
}

int rans_decode(const struct rans_decoder *d, const uint8_t *in, size_t len, uint8_t *code,
                size_t n)
{
    struct decoding s;
    return decode_begin(&s, &(struct rans_stream){in, len, code, n}) ? -1 : decode_end(d, &s);
}
