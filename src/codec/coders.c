#include "codec/coders.h"

#include "codec/bits.h"
#include "codec/entropy.h"
#include "kernels/kernels_codec.h"

#include <string.h>

const char *const coder_choices[] = {[CODER_FIXED] = "fixed", [CODER_RANS] = "rans",
                                     [CODER_GAMMA] = "gamma", [CODER_DELTA] = "delta",
                                     [CODER_OMEGA] = "omega", [CODER_BASE3] = "base3",
                                     [CODER_RUNS] = "runs",   NULL};

// Elias codes of sparse levels. As in QSGD's paper: for each value that is not zero the gap to it,
// its sign and its level.

static void elias_put(struct bits_out *b, enum coder coder, uint64_t v)
{
    if (coder == CODER_GAMMA)
        gamma_put(b, v);
    else if (coder == CODER_DELTA)
        delta_put(b, v);
    else
        omega_put(b, v);
}

static uint64_t elias_get(struct bits_in *b, enum coder coder)
{
    return coder == CODER_GAMMA ? gamma_get(b) : coder == CODER_DELTA ? delta_get(b) : omega_get(b);
}

static int put_elias(struct msg_out *o, enum coder coder, const uint8_t *code, size_t n, int zero)
{
    struct bits_out b;
    bits_out_init(&b, o->p, msg_room(o));
    size_t next = 0;
    for (size_t i = 0; i < n; i++) {
        if (code[i] == zero)
            continue;
        elias_put(&b, coder, i - next + 1);
        bits_put(&b, code[i] < zero, 1);
        elias_put(&b, coder, (uint64_t)(code[i] < zero ? zero - code[i] : code[i] - zero));
        next = i + 1;
    }
    elias_put(&b, coder, n - next + 1); // beyond the last: the end
    size_t len = bits_out_end(&b);
    return b.full || !msg_take(o, PART_VALUES, len) ? -1 : 0;
}

static int get_elias(struct msg_in *m, enum coder coder, uint8_t *code, size_t n, int zero,
                     struct err *err)
{
    struct bits_in b;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    memset(code, zero, n);
    for (size_t next = 0; next <= n;) {
        uint64_t gap = elias_get(&b, coder) - 1;
        if (b.bad || gap > n - next)
            return msg_bad("values", "a gap is cut off or out of range", err);
        next += (size_t)gap;
        if (next == n)
            break;
        bool negative = bits_get(&b, 1);
        uint64_t level = elias_get(&b, coder);
        if (b.bad || level > (uint64_t)zero)
            return msg_bad("values", "a level is cut off or out of range", err);
        code[next++] = (uint8_t)(negative ? zero - (int)level : zero + (int)level);
    }
    if (!bits_in_ended(&b))
        return msg_bad("values", "bits after the last value", err);
    m->p = m->end;
    return 0;
}

// 3LC's: five codes of 0 to 2 per byte, and 243 to 255 for 2 to 14 bytes of zeros (code 1) in a
// row.

#define QUINT_ZERO 121 // 1 + 3 + 9 + 27 + 81
#define RUN_MIN    2
#define RUN_MAX    14
#define RUN_FIRST  243

// Packs into quint (n + 4) / 5 bytes, then over itself; returns the bytes left.
static size_t shorten_runs(uint8_t *quint, size_t n)
{
    size_t out = 0;
    for (size_t i = 0; i < n;) {
        size_t run = 0;
        while (run < RUN_MAX && i + run < n && quint[i + run] == QUINT_ZERO)
            run++;
        quint[out++] = run >= RUN_MIN ? (uint8_t)(RUN_FIRST + run - RUN_MIN) : quint[i];
        i += run >= RUN_MIN ? run : 1;
    }
    return out;
}

static int put_runs(struct msg_out *o, const uint8_t *code, size_t n, uint8_t *quint)
{
    pack_base3(code, n, quint);
    size_t len = shorten_runs(quint, (n + 4) / 5);
    uint8_t *p = msg_take(o, PART_VALUES, len);
    if (!p)
        return -1;
    memcpy(p, quint, len);
    return 0;
}

static int get_runs(struct msg_in *m, uint8_t *code, size_t n, uint8_t *quint, struct err *err)
{
    size_t want = (n + 4) / 5, have = 0;
    while (have < want) {
        const uint8_t *p = msg_need(m, 1);
        if (!p)
            return msg_short("values", err);
        size_t run = *p >= RUN_FIRST ? (size_t)*p - RUN_FIRST + RUN_MIN : 1;
        if (run > want - have)
            return msg_bad("values", "a run of zeros beyond the last value", err);
        memset(quint + have, *p >= RUN_FIRST ? QUINT_ZERO : *p, run);
        have += run;
    }
    unpack_base3(quint, n, code);
    return 0;
}

// All of them.

static bool is_elias(enum coder coder)
{
    return coder == CODER_GAMMA || coder == CODER_DELTA || coder == CODER_OMEGA;
}

int coder_check(enum coder coder, unsigned kinds, struct err *err)
{
    if ((coder == CODER_BASE3 || coder == CODER_RUNS) && kinds != 3)
        return err_set(err, "code=%s is for three levels, here are %u", coder_choices[coder],
                       kinds);
    if (is_elias(coder) && kinds % 2 == 0)
        return err_set(err, "code=%s is for levels around zero", coder_choices[coder]);
    return 0;
}

size_t coder_bound(enum coder coder, size_t n, unsigned kinds)
{
    unsigned most = kinds / 2 ? kinds / 2 : 1;
    if (coder == CODER_RANS)
        return entropy_bound(n, kinds);
    if (coder == CODER_BASE3 || coder == CODER_RUNS)
        return (n + 4) / 5;
    // Gap 1 takes 1 bit, a level up to 127 at most 13; a longer gap skips more than it costs.
    if (is_elias(coder))
        return n * (most > 1 ? 15 : 4) / 8 + 16;
    return pack_bytes(n, entropy_width(kinds));
}

int coder_put(struct msg_out *o, enum coder coder, const uint8_t *code, size_t n, unsigned kinds,
              void *scratch)
{
    if (coder == CODER_RANS)
        return entropy_put(o, PART_VALUES, code, n, kinds, scratch);
    if (coder == CODER_RUNS)
        return put_runs(o, code, n, scratch);
    if (is_elias(coder))
        return put_elias(o, coder, code, n, (int)(kinds / 2));
    unsigned width = entropy_width(kinds);
    uint8_t *p = msg_take(o, PART_VALUES, coder_bound(coder, n, kinds));
    if (!p)
        return -1;
    if (coder == CODER_BASE3)
        pack_base3(code, n, p);
    else
        pack_u8(code, n, width, p);
    return 0;
}

int coder_get(struct msg_in *m, enum coder coder, uint8_t *code, size_t n, unsigned kinds,
              void *scratch, struct err *err)
{
    if (coder == CODER_RANS)
        return entropy_get(m, code, n, kinds, scratch, err);
    if (coder == CODER_RUNS)
        return get_runs(m, code, n, scratch, err);
    if (is_elias(coder))
        return get_elias(m, coder, code, n, (int)(kinds / 2), err);
    const uint8_t *p = msg_need(m, coder_bound(coder, n, kinds));
    if (!p)
        return msg_short("values", err);
    if (coder == CODER_FIXED) {
        unpack_u8(p, n, entropy_width(kinds), code);
        return 0;
    }
    unpack_base3(p, n, code);
    return pack_max_u8(code, n) > 2 ? msg_bad("values", "a byte above 242", err) : 0;
}
