// The best paths of trellis-coded quantisation (Viterbi): blocks of values, each a lane, so that
// states never leave their lanes and every machine adds and compares the same numbers.
#ifdef SIMD_LANES // read for each instruction set

#include "simd_turn.h"

#define branches SIMD_NAME(trellis_branches)
#define CAME     (2 * SIMD_LANES) // words of a step: of eight states a byte each

// Of each quantiser the best code of either parity, and what it costs.
struct branches {
    simd_f cost[2][2];
    simd_i code[2][2];
};

SIMD_INLINE void SIMD_NAME(pick)(simd_f *a, const simd_f *b, const simd_i *take)
{
    *a = (simd_f)(((simd_i)*a & ~*take) | ((simd_i)*b & *take));
}

SIMD_INLINE void SIMD_NAME(pick_code)(simd_i *a, const simd_i *b, const simd_i *take)
{
    *a = (*a & ~*take) | (*b & *take);
}

// few: all k are below SIMD_LANES.
SIMD_INLINE void SIMD_NAME(look_up)(simd_f *v, const float *table, const simd_i *k, bool few)
{
#if SIMD_LANES == 16
    if (few) {
        *v = (simd_f)_mm512_permutexvar_ps((__m512i)*k, _mm512_loadu_ps(table));
        return;
    }
#elif SIMD_LANES == 8
    if (few) {
        *v = (simd_f)_mm256_permutevar8x32_ps(_mm256_loadu_ps(table), (__m256i)*k);
        return;
    }
#endif
    (void)few;
    int32_t at[SIMD_LANES];
    float found[SIMD_LANES];
    memcpy(at, k, sizeof at);
    for (int l = 0; l < SIMD_LANES; l++)
        found[l] = table[at[l]];
    memcpy(v, found, sizeof found);
}

SIMD_INLINE bool SIMD_NAME(are_few)(const simd_i *k)
{
#if SIMD_LANES == 16
    return !_mm512_cmpgt_epi32_mask((__m512i)*k, _mm512_set1_epi32(SIMD_LANES - 2));
#elif SIMD_LANES == 8
    const simd_i many = *k > SIMD_LANES - 2;
    return _mm256_testz_si256((__m256i)many, (__m256i)many);
#else
    (void)k;
    return false;
#endif
}

// (a - worth)^2 + cost, worth being 0 or 2 k - which and what lies beyond it.
SIMD_INLINE void SIMD_NAME(cost_of)(simd_f *cost, const struct trellis *t, int which,
                                    const simd_f *a, const simd_i *k, bool few)
{
    const simd_f rest = (simd_f){0} + t->beyond[2];
    const simd_f one = (simd_f){0} + t->beyond[which ? 0 : 1];
    const simd_i first = *k == 1, any = *k > 0;
    simd_f more = rest;
    SIMD_NAME(pick)(&more, &one, &first);
    simd_f worth = __builtin_convertvector(*k + *k - which, simd_f) + more;
    worth = (simd_f)((simd_i)worth & any);
    SIMD_NAME(look_up)(cost, t->cost[which], k, few);
    const simd_f d = *a - worth;
    *cost = d * d + *cost;
}

// The codes on either side of a, of which one is even, and 0.
SIMD_INLINE void SIMD_NAME(branch)(const struct trellis *t, int which, const simd_f *a,
                                   struct branches *b)
{
    const simd_f most = (simd_f){0} + (float)(TRELLIS_MOST - 1);
    simd_f at = (*a + (float)which) * 0.5f, low, high, zero = *a * *a + t->cost[which][0];
    simd_min(&at, &most);
    const simd_i k = __builtin_convertvector(at, simd_i), up = k + 1, odd = -(k & 1);
    const bool few = SIMD_NAME(are_few)(&k);
    simd_f even_cost, odd_cost;
    simd_i even_code = k, odd_code = up;
    SIMD_NAME(cost_of)(&low, t, which, a, &k, few);
    SIMD_NAME(cost_of)(&high, t, which, a, &up, few);
    even_cost = low;
    odd_cost = high;
    SIMD_NAME(pick)(&even_cost, &high, &odd);
    SIMD_NAME(pick)(&odd_cost, &low, &odd);
    SIMD_NAME(pick_code)(&even_code, &up, &odd);
    SIMD_NAME(pick_code)(&odd_code, &k, &odd);
    const simd_i none = zero < even_cost;
    SIMD_NAME(pick)(&even_cost, &zero, &none);
    b->cost[which][0] = even_cost;
    b->cost[which][1] = odd_cost;
    b->code[which][0] = even_code & ~none;
    b->code[which][1] = odd_code;
}

// State s is reached from states o0 and o1 of a quantiser by codes of parities p0 and p1.
#define REACH(s, which, o0, p0, o1, p1)                                                            \
    do {                                                                                           \
        simd_f first_ = sum[o0] + b.cost[which][p0];                                               \
        const simd_f second_ = sum[o1] + b.cost[which][p1];                                        \
        const simd_i take_ = second_ < first_, two_ = b.code[which][p1] | SECOND;                  \
        simd_i one_ = b.code[which][p0];                                                           \
        SIMD_NAME(pick)(&first_, &second_, &take_);                                                \
        SIMD_NAME(pick_code)(&one_, &two_, &take_);                                                \
        next[s] = first_;                                                                          \
        came[s] = one_;                                                                            \
    } while (0)

// A value of each lane; what it came from into to (CAME).
SIMD_INLINE void SIMD_NAME(step)(const struct trellis *t, const simd_f *a, simd_f *sum,
                                 uint32_t *to)
{
    simd_f next[TRELLIS_STATES];
    simd_i came[TRELLIS_STATES];
    struct branches b;
    SIMD_NAME(branch)(t, 0, a, &b);
    SIMD_NAME(branch)(t, 1, a, &b);
    REACH(0, 0, 0, 0, 4, 1);
    REACH(1, 0, 2, 0, 6, 1);
    REACH(2, 0, 0, 1, 4, 0);
    REACH(3, 0, 2, 1, 6, 0);
    REACH(4, 1, 3, 1, 7, 0);
    REACH(5, 1, 1, 1, 5, 0);
    REACH(6, 1, 3, 0, 7, 1);
    REACH(7, 1, 1, 0, 5, 1);
    for (int s = 0; s < TRELLIS_STATES; s++)
        sum[s] = next[s];
    for (int h = 0; h < 2; h++) {
        const simd_i *c = came + 4 * h;
        const simd_i word = c[0] | c[1] << 8 | c[2] << 16 | c[3] << 24;
        memcpy(to + h * SIMD_LANES, &word, sizeof word);
    }
}

// The sums of lanes whose block has ended.
SIMD_INLINE void SIMD_NAME(keep)(const struct trellis_block *block, size_t blocks, size_t at,
                                 const simd_f *sum, float last[TRELLIS_STATES][SIMD_LANES])
{
    float lane[SIMD_LANES];
    for (int s = 0; s < TRELLIS_STATES; s++) {
        memcpy(lane, &sum[s], sizeof lane);
        for (size_t l = 0; l < blocks; l++)
            last[s][l] = block[l].n == at ? lane[l] : last[s][l];
    }
}

// Back to the first state that leads here, or the second.
SIMD_INLINE void SIMD_NAME(go_back)(simd_i *at, const simd_i *second)
{
    simd_i both;
#if SIMD_LANES == 16
    both = (simd_i)_mm512_permutexvar_epi32((__m512i)*at, _mm512_loadu_si512(origins));
#elif SIMD_LANES == 8
    const __m256i table = _mm256_loadu_si256((const __m256i *)(const void *)origins);
    both = (simd_i)_mm256_permutevar8x32_epi32(table, (__m256i)*at);
#else
    int32_t lane[SIMD_LANES];
    memcpy(lane, at, sizeof lane);
    for (int l = 0; l < SIMD_LANES; l++)
        lane[l] = origins[lane[l]];
    memcpy(&both, lane, sizeof lane);
#endif
    *at = both >> (*second << 2) & 7;
}

// Four steps back from step i + 3: codes and which quantiser's they are, of each lane four bytes.
SIMD_INLINE void SIMD_NAME(walk_four)(const uint32_t *came, size_t i, const simd_i *ends,
                                      simd_i *at, simd_i *code, simd_i *which)
{
    *code = *which = (simd_i){0};
    for (int j = 3; j >= 0; j--) {
        simd_i low, high;
        memcpy(&low, came + (i + (size_t)j) * CAME, sizeof low);
        memcpy(&high, came + (i + (size_t)j) * CAME + SIMD_LANES, sizeof high);
        const simd_i upper = *at > 3, inside = (int32_t)(i + (size_t)j) < *ends;
        simd_i word = low, from = *at;
        SIMD_NAME(pick_code)(&word, &high, &upper);
        const simd_i c = word >> ((*at & 3) << 3), second = c >> 7 & 1;
        SIMD_NAME(go_back)(&from, &second);
        SIMD_NAME(pick_code)(at, &from, &inside);
        *code = *code << 8 | (c & (SECOND - 1));
        *which = *which << 8 | (*at & 1);
    }
}

// Backwards along the best path of each block, from its end.
SIMD_INLINE void SIMD_NAME(walk)(const struct trellis_block *block, size_t blocks, size_t longest,
                                 float last[TRELLIS_STATES][SIMD_LANES], const uint32_t *came)
{
    int32_t end[SIMD_LANES] = {0}, state[SIMD_LANES] = {0};
    uint32_t codes[SIMD_LANES], quantisers[SIMD_LANES];
    simd_i ends, at, code, which;
    for (size_t l = 0; l < blocks; l++) {
        end[l] = (int32_t)block[l].n;
        for (int s = 1; s < TRELLIS_STATES; s++)
            state[l] = last[s][l] < last[state[l]][l] ? s : state[l];
    }
    memcpy(&ends, end, sizeof ends);
    memcpy(&at, state, sizeof at);
    for (size_t i = (longest + 3) & ~(size_t)3; i > 0;) {
        i -= 4;
        SIMD_NAME(walk_four)(came, i, &ends, &at, &code, &which);
        memcpy(codes, &code, sizeof codes);
        memcpy(quantisers, &which, sizeof quantisers);
        for (size_t l = 0; l < blocks; l++) {
            const ptrdiff_t left = end[l] - (ptrdiff_t)i;
            store_bytes(block[l].code + i, codes[l], left);
            store_bytes(block[l].which + i, quantisers[l], left);
        }
    }
}

SIMD_INLINE void SIMD_NAME(sign)(const float *restrict x, size_t n, uint8_t *restrict code)
{
    for (size_t i = 0; i < n; i++) {
        const int k = code[i], flip = -(x[i] < 0);
        code[i] = (uint8_t)(TRELLIS_ZERO + ((k ^ flip) - flip));
    }
}

// As many blocks as there are lanes, or fewer.
SIMD_KERNEL void SIMD_NAME(trellis_lanes)(const struct trellis *t,
                                          const struct trellis_block *block, size_t blocks)
{
    _Alignas(64) uint32_t came[TRELLIS_BLOCK * CAME];
    float last[TRELLIS_STATES][SIMD_LANES] = {{0}};
    simd_f sum[TRELLIS_STATES], a[SIMD_LANES];
    size_t longest = 0;
    for (size_t l = 0; l < blocks; l++)
        longest = block[l].n > longest ? block[l].n : longest;
    for (int s = 0; s < TRELLIS_STATES; s++)
        sum[s] = (simd_f){0} + (s ? 0x1p100f : 0);
    for (size_t i = 0; i < longest; i += SIMD_LANES) {
        bool ends = false;
        for (size_t l = 0; l < SIMD_LANES; l++) {
            const ptrdiff_t left = l < blocks ? (ptrdiff_t)block[l].n - (ptrdiff_t)i : 0;
            ends |= left >= 0 && left < SIMD_LANES;
            if (left >= SIMD_LANES)
                a[l] = *simd_of(block[l].x + i);
            else
                simd_load_part(&a[l], left > 0 ? block[l].x + i : NULL, left, 0);
            a[l] = (simd_f)((simd_i)a[l] & INT32_MAX) * t->inv;
        }
        simd_transpose(a);
        for (size_t j = 0; j < SIMD_LANES && i + j < longest; j++) {
            if (ends)
                SIMD_NAME(keep)(block, blocks, i + j, sum, last);
            SIMD_NAME(step)(t, &a[j], sum, came + (i + j) * CAME);
        }
    }
    SIMD_NAME(keep)(block, blocks, longest, sum, last);
    SIMD_NAME(walk)(block, blocks, longest, last, came);
    for (size_t l = 0; l < blocks; l++)
        SIMD_NAME(sign)(block[l].x, block[l].n, block[l].code);
}

// Four sums in turn for every value, of which it belongs to one: what it is comes from a table, for
// nobody guesses it.
SIMD_KERNEL void SIMD_NAME(trellis_add)(const struct trellis_block *block, float inv,
                                        struct trellis_sums *sums)
{
    double v[TILE];
    int level[TILE], part[TILE];
    quad total = {0, sums->value[0], sums->value[1], sums->value[2]};
    for (size_t at = 0; at < block->n; at += TILE) {
        const size_t m = block->n - at < TILE ? block->n - at : TILE;
        const float *x = block->x + at;
        const uint8_t *code = block->code + at, *which = block->which + at;
        int n[4] = {0}, levels = 0;
        for (size_t i = 0; i < m; i++)
            v[i] = (double)(f32_from_bits(f32_bits(x[i]) & INT32_MAX) * inv);
        for (size_t i = 0; i < m; i++) {
            const int k = (int)code[i] - TRELLIS_ZERO, size = k < 0 ? -k : k;
            const int half_steps = 2 * size - (int)which[i]; // -1: a 0 of the second quantiser
            level[i] = half_steps > 0 ? half_steps : 0;
            part[i] = level[i] < 3 ? level[i] : 3;
        }
        for (size_t i = 0; i < m; i++) {
            n[1] += part[i] == 1;
            n[2] += part[i] == 2;
            n[3] += part[i] == 3;
            levels += part[i] == 3 ? level[i] : 0;
        }
        for (size_t i = 0; i < m; i++) {
            const quad one = {v[i], v[i], v[i], v[i]};
            total += (quad)((quad_i)one & only[part[i]]);
        }
        for (int k = 0; k < 3; k++)
            sums->n[k] += n[k + 1];
        sums->levels[0] += n[1];
        sums->levels[1] += 2 * n[2];
        sums->levels[2] += levels;
    }
    for (int k = 0; k < 3; k++)
        sums->value[k] = total[k + 1];
}

#undef branches
#undef CAME
#undef REACH

#else

#include "kernels_codec.h"
#include "simd.h"

#include "base/half.h"

#include <string.h>
#if SIMD_X86
#include <immintrin.h>
#endif

#define TILE 256

enum { SECOND = 128 }; // came from the second origin

typedef double quad __attribute__((vector_size(32)));
typedef int64_t quad_i __attribute__((vector_size(32)));

static const quad_i only[4] = {{0}, {0, -1}, {0, 0, -1}, {0, 0, 0, -1}};

// Where states are reached from: two of one quantiser, the second one times 16. Twice, for as many
// lanes as there are.
static const int32_t origins[2 * TRELLIS_STATES] = {0x40, 0x62, 0x40, 0x62, 0x73, 0x51, 0x73, 0x51,
                                                    0x40, 0x62, 0x40, 0x62, 0x73, 0x51, 0x73, 0x51};

// The first of four bytes, of which left are wanted.
SIMD_PART void store_bytes(uint8_t *to, uint32_t bytes, ptrdiff_t left)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap32(bytes);
#endif
    if (left >= 4)
        memcpy(to, &bytes, 4);
    else if (left > 0)
        memcpy(to, &bytes, (size_t)left);
}

#define SIMD_FILE "trellis.c"
#include "simd_each.h"

void trellis_add(const struct trellis_block *block, float inv, struct trellis_sums *sums)
{
    SIMD_PICK(trellis_add, (block, inv, sums));
}

static size_t lanes(void)
{
    return simd_isa() == SIMD_AVX512 ? 16 : simd_isa() == SIMD_AVX2 ? 8 : 4;
}

void trellis_code(const struct trellis *t, const struct trellis_block *block, size_t blocks)
{
    for (size_t at = 0; at < blocks; at += lanes()) {
        const size_t m = blocks - at < lanes() ? blocks - at : lanes();
        SIMD_PICK(trellis_lanes, (t, block + at, m));
    }
}

#endif
