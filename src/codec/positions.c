#include "codec/positions.h"

#include "base/fmath.h"
#include "base/pool.h"
#include "codec/bits.h"
#include "kernels/kernels_codec.h"

#include <assert.h>

const char *const positions_choices[] = {
    [POSITIONS_AUTO] = "auto", [POSITIONS_RICE] = "rice",   [POSITIONS_BITMAP] = "bitmap",
    [POSITIONS_LOG2] = "log2", [POSITIONS_RAW32] = "raw32", NULL};

// So many positions are worth waking threads for; then they are coded in pieces.
#define PIECES 64

static unsigned index_width(size_t n)
{
    return n <= 2 ? 1 : bits_log2(n - 1) + 1;
}

struct gaps {
    const uint32_t *at;
    unsigned k;
    _Atomic uint64_t bits; // of gaps, above their low k bits
};

static void add_gaps(void *arg, size_t from, size_t to)
{
    struct gaps *g = arg;
    uint64_t bits = 0;
    for (size_t i = from > 0 ? from : 1; i < to; i++)
        bits += (g->at[i] - g->at[i - 1] - 1) >> g->k;
    g->bits += bits;
}

// A gap is what lies between a position and the one before.
static uint64_t rice_cost(const uint32_t *at, size_t count, size_t base, unsigned k)
{
    struct gaps g = {.at = at, .k = k};
    if (count == 0)
        return 0;
    pool_spans(count, 1 << 16, add_gaps, &g);
    return (uint64_t)count * (1 + k) + ((at[0] - base) >> k) + g.bits;
}

// Golomb 1966, Gallager and van Voorhis 1975: for a geometric gap of density p the best parameter
// is 1 + floor(log2(log(phi - 1) / log(1 - p))); the true gaps decide between it and its
// neighbours.
static unsigned rice_start(double p)
{
    const double log_phi_1 = -0.48121182505960347; // log((sqrt 5 - 1) / 2)
    if (p >= 1)
        return 0;
    double m = log_phi_1 / fmath_log(1 - p);
    unsigned k = 0;
    for (; m >= 1 && k < RICE_K_MAX; m /= 2)
        k++;
    return k;
}

unsigned rice_search(size_t count, uint64_t span, rice_cost_fn *cost_of, const void *arg,
                     uint64_t *bits)
{
    if (count == 0) {
        *bits = 0;
        return 0;
    }
    unsigned k = rice_start((double)count / (double)span);
    *bits = cost_of(arg, k);
    for (int step = -1; step <= 1; step += 2)
        for (;;) {
            unsigned next = k + (unsigned)step;
            if (next > RICE_K_MAX) // also below zero
                break;
            uint64_t cost = cost_of(arg, next);
            if (cost >= *bits)
                break;
            *bits = cost;
            k = next;
        }
    return k;
}

struct list {
    const uint32_t *at;
    size_t count, base;
};

static uint64_t list_cost(const void *arg, unsigned k)
{
    const struct list *l = arg;
    return rice_cost(l->at, l->count, l->base, k);
}

unsigned rice_best(const uint32_t *at, size_t count, size_t base, uint64_t *bits)
{
    const uint64_t span = count ? at[count - 1] - base + 1 : 0;
    return rice_search(count, span, list_cost, &(struct list){at, count, base}, bits);
}

static size_t fixed_cost(size_t count, size_t n, enum positions_code code)
{
    if (code == POSITIONS_BITMAP)
        return (n + 7) / 8;
    if (code == POSITIONS_LOG2) // 64-bit: count is at most 2^32, width at most 32
        return (size_t)(((uint64_t)count * index_width(n) + 7) / 8);
    return 4 * count;
}

size_t positions_bound(size_t most, size_t n, enum positions_code code)
{
    if (most == 0)
        return 0;
    // Automatic is never above the bitmap. Rice with the best parameter: at most 2 bits a gap more
    // than log2 of the mean gap, and never more than its k = 0 cost, n bits and one.
    if (code == POSITIONS_AUTO || code == POSITIONS_BITMAP)
        return 1 + (n + 7) / 8;
    if (code == POSITIONS_RICE)
        return 2 + (n + 15) / 8;
    return 1 + fixed_cost(most, n, code);
}

size_t positions_estimate(size_t count, size_t n, enum positions_code code)
{
    if (count == 0)
        return 0;
    double p = (double)count / (double)n, q = 1 - p;
    unsigned k = rice_start(p);
    double stay = 1; // (1 - p)^(2^k)
    if (q > 0)
        stay = fmath_exp(fmath_log(q) * (double)(UINT64_C(1) << k));
    double rice = q > 0 ? (double)count * (k + 1 / (1 - stay)) / 8 : (double)count / 8;
    size_t best = (size_t)rice + 3;
    if (code == POSITIONS_RICE)
        return best;
    if (code != POSITIONS_AUTO)
        return 1 + fixed_cost(count, n, code);
    for (int c = POSITIONS_BITMAP; c <= POSITIONS_RAW32; c++) {
        size_t cost = 1 + fixed_cost(count, n, (enum positions_code)c);
        best = cost < best ? cost : best;
    }
    return best;
}

// What comes after the whole bytes of a piece.
struct piece {
    uint8_t *last;
    uint8_t rest; // fewer than eight bits
};

// Codes from bit `bit` of out on; positions lie above next - 1. Whole bytes up to the end of the
// piece are written, none beyond it.
static struct piece put_piece(const uint32_t *at, size_t count, uint64_t next, unsigned k,
                              uint8_t *out, uint64_t bit, uint64_t end)
{
    struct bits_out b;
    bits_out_init(&b, out + bit / 8, (size_t)(end / 8 - bit / 8));
    b.n = bit % 8;
    for (size_t i = 0; i < count; i++) {
        rice_put(&b, at[i] - next, k);
        next = (uint64_t)at[i] + 1;
    }
    return (struct piece){b.p, (uint8_t)b.acc};
}

struct rice_job {
    const uint32_t *at;
    size_t count, pieces, base;
    unsigned k;
    uint8_t *to;
    uint64_t begin[PIECES + 1];
    struct piece end[PIECES];
};

static void rice_item(void *arg, uint32_t i)
{
    struct rice_job *j = arg;
    size_t from = i * j->count / j->pieces, to = (i + 1) * j->count / j->pieces;
    j->end[i] = put_piece(j->at + from, to - from, from ? (uint64_t)j->at[from - 1] + 1 : j->base,
                          j->k, j->to, j->begin[i], j->begin[i + 1]);
}

// The coding's byte: code in the low three bits, Rice's parameter above.
uint8_t *rice_room(struct msg_out *o, unsigned k, uint64_t bits)
{
    uint8_t *p = msg_take(o, PART_INDICES, 1 + (size_t)((bits + 7) / 8));
    if (!p)
        return NULL;
    *p = (uint8_t)(POSITIONS_RICE | k << 3);
    return p + 1;
}

// Pieces begin where the one before ends, in the middle of a byte; what that leaves of its last
// byte is added when all are done.
static int put_rice(struct msg_out *o, const uint32_t *at, size_t count, size_t base, unsigned k,
                    uint64_t bits)
{
    size_t len = (size_t)((bits + 7) / 8), pieces = count >= POOL_LEAST_VALUES ? PIECES : 1;
    uint8_t *p = rice_room(o, k, bits);
    struct rice_job j = {at, count, pieces, base, k, p, {0}, {{0}}};
    if (!p)
        return -1;
    for (size_t i = 0; i < pieces; i++) {
        size_t from = i * count / pieces, to = (i + 1) * count / pieces;
        size_t first = from ? (size_t)at[from - 1] + 1 : base;
        j.begin[i + 1] = j.begin[i] + rice_cost(at + from, to - from, first, k);
    }
    assert(j.begin[pieces] == bits);
    pool_each(count, (uint32_t)pieces, rice_item, &j);
    if (bits % 8)
        p[len - 1] = 0;
    for (size_t i = 0; i < pieces; i++)
        if (j.begin[i + 1] % 8)
            *j.end[i].last |= j.end[i].rest;
    return 0;
}

static int put_fixed(struct msg_out *o, const uint32_t *at, size_t count, size_t base, size_t n,
                     enum positions_code code)
{
    size_t len = fixed_cost(count, n, code);
    uint8_t *p = msg_take(o, PART_INDICES, len);
    if (!p)
        return -1;
    if (code == POSITIONS_BITMAP) {
        memset(p, 0, len);
        for (size_t i = 0; i < count; i++)
            p[(at[i] - base) >> 3] |= (uint8_t)(1u << ((at[i] - base) & 7));
        return 0;
    }
    struct bits_out b;
    bits_out_init(&b, p, len);
    for (size_t i = 0; i < count; i++)
        bits_put(&b, at[i] - base, code == POSITIONS_LOG2 ? index_width(n) : 32);
    bits_out_end(&b);
    return 0;
}

int positions_put(struct msg_out *o, const uint32_t *at, size_t count, size_t base, size_t n,
                  enum positions_code code)
{
    if (count == 0)
        return 0;
    uint64_t rice_bits = 0;
    unsigned k = 0;
    if (code == POSITIONS_AUTO || code == POSITIONS_RICE)
        k = rice_best(at, count, base, &rice_bits);
    if (code == POSITIONS_AUTO) {
        uint64_t best = (rice_bits + 7) / 8;
        code = POSITIONS_RICE;
        for (int c = POSITIONS_BITMAP; c <= POSITIONS_RAW32; c++)
            if (fixed_cost(count, n, (enum positions_code)c) < best) {
                best = fixed_cost(count, n, (enum positions_code)c);
                code = (enum positions_code)c;
            }
    }
    if (code == POSITIONS_RICE)
        return put_rice(o, at, count, base, k, rice_bits);
    uint8_t *p = msg_take(o, PART_INDICES, 1);
    if (!p)
        return -1;
    *p = (uint8_t)code;
    return put_fixed(o, at, count, base, n, code);
}

// Into at, or as 1s into mark.
static inline __attribute__((always_inline)) int read_rice(struct msg_in *m, uint32_t *at,
                                                           uint8_t *mark, size_t count, size_t base,
                                                           size_t n, unsigned k, struct err *err)
{
    struct bits_in b;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    uint64_t next = 0, bits = 0;
    for (size_t i = 0; i < count; i++) {
        if (next >= n)
            return msg_bad("indices", "more positions than coordinates", err);
        uint64_t gap = rice_get(&b, k, n - 1 - next);
        if (b.bad)
            return msg_bad("indices", "cut off, or a position is out of range", err);
        bits += (gap >> k) + 1 + k;
        if (at)
            at[i] = (uint32_t)(base + next + gap);
        else
            mark[next + gap] = 1;
        next += gap + 1;
    }
    return msg_need(m, (size_t)((bits + 7) / 8)) ? 0 : msg_short("indices", err);
}

static int get_rice(struct msg_in *m, uint32_t *at, size_t count, size_t base, size_t n, unsigned k,
                    struct err *err)
{
    return read_rice(m, at, NULL, count, base, n, k, err);
}

int positions_mark(struct msg_in *m, uint8_t *mark, size_t count, size_t n, struct err *err)
{
    if (count == 0)
        return 0;
    const uint8_t *how = msg_need(m, 1);
    if (!how)
        return msg_short("indices", err);
    if ((*how & 7u) != POSITIONS_RICE)
        return msg_bad("indices", "they are not Rice-coded", err);
    return read_rice(m, NULL, mark, count, 0, n, *how >> 3, err);
}

static int get_bitmap(const uint8_t *p, uint32_t *at, size_t count, size_t base, size_t n,
                      struct err *err)
{
    size_t found = 0;
    for (size_t i = 0; i < (n + 7) / 8; i++)
        for (unsigned v = p[i]; v; v &= v - 1) {
            size_t pos = 8 * i + (unsigned)__builtin_ctz(v);
            if (pos >= n || found == count)
                return msg_bad("indices", "the bitmap has too many positions", err);
            at[found++] = (uint32_t)(base + pos);
        }
    return found == count ? 0 : msg_bad("indices", "the bitmap has too few positions", err);
}

int positions_get(struct msg_in *m, uint32_t *at, size_t count, size_t base, size_t n,
                  struct err *err)
{
    if (count == 0)
        return 0;
    if (count > n)
        return msg_bad("indices", "more positions than coordinates", err);
    const uint8_t *how = msg_need(m, 1);
    if (!how)
        return msg_short("indices", err);
    unsigned code = *how & 7u, k = *how >> 3;
    if (code == POSITIONS_RICE)
        return get_rice(m, at, count, base, n, k, err);
    if (code < POSITIONS_BITMAP || code > POSITIONS_RAW32 || k)
        return msg_bad("indices", "unknown coding", err);
    size_t len = fixed_cost(count, n, (enum positions_code)code);
    const uint8_t *p = msg_need(m, len);
    if (!p)
        return msg_short("indices", err);
    if (code == POSITIONS_BITMAP)
        return get_bitmap(p, at, count, base, n, err);
    struct bits_in b;
    bits_in_init(&b, p, len);
    for (size_t i = 0; i < count; i++) {
        uint64_t v = bits_get(&b, code == POSITIONS_LOG2 ? index_width(n) : 32);
        if (v >= n || (i && base + v <= at[i - 1]))
            return msg_bad("indices", "positions are not ascending below n", err);
        at[i] = (uint32_t)(base + v);
    }
    return 0;
}
