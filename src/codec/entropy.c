#include "codec/entropy.h"

#include "base/fmath.h"
#include "base/pool.h"
#include "codec/bits.h"
#include "codec/coding.h"
#include "kernels/stages.h"

// Long runs are cut into chunks that threads code side by side; the cut does not depend on their
// number.
#define CHUNK      ((size_t)1 << 20)
#define LOG_2      0.69314718055994531
#define EVEN_KINDS (2 * ENTROPY_MIDDLE + 1)

enum { ENTROPY_CONSTANT, ENTROPY_RANS, ENTROPY_FIXED };

static size_t chunks_of(size_t n)
{
    return (n + CHUNK - 1) / CHUNK;
}

static size_t chunk_len(size_t n, size_t k)
{
    return n - k * CHUNK < CHUNK ? n - k * CHUNK : CHUNK;
}

// The most bytes of one chunk's stream, and the distance of chunks in scratch.
static size_t chunk_room(size_t n)
{
    return rans_bound(n < CHUNK ? n : CHUNK);
}

unsigned entropy_width(unsigned kinds)
{
    return kinds <= 2 ? 1 : bits_log2(kinds - 1) + 1;
}

size_t entropy_bound(size_t n, unsigned kinds)
{
    return n ? 1 + pack_bytes(n, entropy_width(kinds)) : 0;
}

size_t entropy_get_scratch(size_t n)
{
    return SCRATCH_ROUND(chunks_of(n) * sizeof(size_t));
}

size_t entropy_scratch(size_t n)
{
    return entropy_get_scratch(n) + chunks_of(n) * chunk_room(n);
}

// Frequencies as gamma codes of freq + 1: a code that does not occur costs one bit.
static size_t write_table(const uint16_t freq[256], unsigned kinds, uint8_t *out, size_t cap)
{
    struct bits_out b;
    bits_out_init(&b, out, cap);
    for (unsigned s = 0; s < kinds; s++)
        gamma_put(&b, freq[s] + 1u);
    return bits_out_end(&b);
}

#define TABLE_MAX (256 * 25 / 8 + 8)

// Of magnitudes, half of what all have together being ENTROPY_MIDDLE's share and each sign's: how
// far they go, then each but 0's.
static size_t write_even_table(const uint16_t freq[256], uint8_t *out, size_t cap)
{
    struct bits_out b;
    unsigned top = ENTROPY_MIDDLE;
    while (top > 0 && !freq[ENTROPY_MIDDLE + top])
        top--;
    bits_out_init(&b, out, cap);
    gamma_put(&b, top + 1);
    for (unsigned m = 1; m <= top; m++)
        gamma_put(&b, freq[ENTROPY_MIDDLE + m] + 1u);
    return bits_out_end(&b);
}

void entropy_even(const uint64_t count[256], uint16_t freq[256])
{
    const int half = 1 << (RANS_PROB_BITS - 1);
    uint64_t folded[256] = {count[ENTROPY_MIDDLE]};
    uint16_t share[256];
    for (int m = 1; m <= ENTROPY_MIDDLE; m++)
        folded[m] = count[ENTROPY_MIDDLE - m] + count[ENTROPY_MIDDLE + m];
    rans_frequencies(folded, share);
    int sum = 0, most = 1, room = half - (folded[0] > 0);
    for (int m = 1; m <= ENTROPY_MIDDLE; m++) {
        share[m] = (uint16_t)(share[m] > 1 ? share[m] / 2 : share[m]);
        sum += share[m];
        most = share[m] > share[most] ? m : most;
    }
    if (sum > room || !folded[0]) { // by the most frequent one, which is worth many
        share[most] = (uint16_t)(share[most] + room - sum);
        sum = room;
    }
    memset(freq, 0, 256 * sizeof *freq);
    freq[ENTROPY_MIDDLE] = (uint16_t)(2 * (half - sum));
    for (int m = 1; m <= ENTROPY_MIDDLE; m++)
        freq[ENTROPY_MIDDLE - m] = freq[ENTROPY_MIDDLE + m] = share[m];
}

static int put_fixed(struct msg_out *o, enum part part, const struct codec_device *on,
                     const uint8_t *code, size_t n, unsigned kinds)
{
    unsigned w = entropy_width(kinds);
    uint8_t *p = msg_take(o, part, 1 + pack_bytes(n, w));
    if (!p)
        return -1;
    *p = ENTROPY_FIXED;
    if (on)
        codec_column(on)->entropy->pack(codec_context(on), code, n, w, p + 1);
    else
        pack_u8(code, n, w, p + 1);
    return 0;
}

struct encode_job {
    const struct rans_encoder *enc;
    const uint8_t *code;
    size_t n;
    uint8_t *streams;
    size_t *len; // of each chunk's stream
};

static void encode_chunk(void *arg, uint32_t k)
{
    const struct encode_job *j = arg;
    size_t m = chunk_len(j->n, k);
    // The stream ends where the chunk's place ends.
    uint8_t *place = j->streams + (k + 1) * chunk_room(j->n) - rans_bound(m);
    j->len[k] = rans_encode(j->enc, j->code + k * CHUNK, m, place);
}

static void encode(const struct encode_job *j, const struct codec_device *on)
{
    if (on)
        codec_column(on)->entropy->rans(codec_context(on), j->enc, j->code, j->n, CHUNK, j->streams,
                                        chunk_room(j->n), j->len);
    else
        pool_each(j->n, (uint32_t)chunks_of(j->n), encode_chunk, (void *)(uintptr_t)j);
}

static int put_rans(struct msg_out *o, enum part part, const uint8_t *table, size_t table_len,
                    const uint8_t *streams, size_t room, const size_t *len, size_t chunks)
{
    uint8_t *p = msg_take(o, part, 1 + table_len);
    if (!p)
        return -1;
    *p = ENTROPY_RANS;
    memcpy(p + 1, table, table_len);
    for (size_t k = 0; k < chunks; k++)
        if (msg_put_varint(o, PART_DIRECTORY, len[k]))
            return -1;
    for (size_t k = 0; k < chunks; k++) {
        p = msg_take(o, part, len[k]);
        if (!p)
            return -1;
        memcpy(p, streams + (k + 1) * room - len[k], len[k]);
    }
    return 0;
}

int entropy_put(struct msg_out *o, enum part part, const uint8_t *code, size_t n, unsigned kinds,
                void *scratch)
{
    uint64_t count[256];
    pack_count_u8(code, n, count);
    return entropy_put_counted(o, part, NULL, code, n, kinds, count, scratch);
}

// Bytes that a lane costs: 4 of its last state, which holds 0 to 16 bits more than the first one.
#define LANE_COST 3.0

// The kind that all of n codes are of, or -1.
static int only_kind(const uint64_t count[256], size_t n)
{
    for (int s = 0; s < 256; s++)
        if (count[s] == n)
            return s;
    return -1;
}

// Without the table.
static double rans_estimate(const uint64_t count[256], const uint16_t freq[256], size_t n)
{
    double bits = 0;
    for (unsigned s = 0; s < 256; s++)
        if (count[s] > 0)
            bits -= (double)count[s] * fmath_log((double)freq[s] / (1 << RANS_PROB_BITS));
    size_t chunks = chunks_of(n), each = (size_t)(bits / LOG_2 / 8 / (double)chunks) + 1;
    double chunk = LANE_COST * rans_lanes(n < CHUNK ? n : CHUNK) + bits_log2(each) / 7 + 1;
    return 1 + bits / LOG_2 / 8 + (double)chunks * chunk;
}

double entropy_estimate(const uint64_t count[256], size_t n, unsigned kinds)
{
    uint16_t freq[256];
    uint8_t table[TABLE_MAX];
    double fixed = 1 + (double)pack_bytes(n, entropy_width(kinds));
    if (n == 0)
        return 0;
    if (only_kind(count, n) >= 0)
        return 2;
    rans_frequencies(count, freq);
    double rans =
        (double)write_table(freq, kinds, table, sizeof table) + rans_estimate(count, freq, n);
    return rans < fixed ? rans : fixed;
}

double entropy_estimate_even(const uint64_t count[256], size_t n)
{
    uint16_t freq[256];
    uint8_t table[TABLE_MAX];
    if (n == 0)
        return 0;
    if (only_kind(count, n) >= 0)
        return 2;
    entropy_even(count, freq);
    double rans =
        (double)write_even_table(freq, table, sizeof table) + rans_estimate(count, freq, n);
    return rans < (double)(1 + n) ? rans : (double)(1 + n);
}

static int put_constant(struct msg_out *o, enum part part, uint8_t code)
{
    uint8_t *p = msg_take(o, part, 2);
    if (!p)
        return -1;
    p[0] = ENTROPY_CONSTANT;
    p[1] = code;
    return 0;
}

static int put_by(struct msg_out *o, enum part part, const struct codec_device *on,
                  const uint8_t *code, size_t n, unsigned kinds, const uint16_t freq[256],
                  const uint8_t *table, size_t table_len, void *scratch)
{
    struct rans_encoder enc;
    rans_encoder_init(&enc, freq);
    size_t chunks = chunks_of(n), total = table_len;
    size_t *len = scratch_take(&scratch, chunks * sizeof *len);
    uint8_t *streams = scratch;
    encode(&(struct encode_job){&enc, code, n, streams, len}, on);
    for (size_t k = 0; k < chunks; k++)
        total += len[k] + bits_log2(len[k]) / 7 + 1;
    if (total >= pack_bytes(n, entropy_width(kinds)))
        return put_fixed(o, part, on, code, n, kinds);
    return put_rans(o, part, table, table_len, streams, chunk_room(n), len, chunks);
}

int entropy_put_counted(struct msg_out *o, enum part part, const struct codec_device *on,
                        const uint8_t *code, size_t n, unsigned kinds, const uint64_t count[256],
                        void *scratch)
{
    uint16_t freq[256];
    uint8_t table[TABLE_MAX];
    const int only = only_kind(count, n);
    if (n == 0)
        return 0;
    if (only >= 0)
        return put_constant(o, part, (uint8_t)only);
    rans_frequencies(count, freq);
    size_t len = write_table(freq, kinds, table, sizeof table);
    return put_by(o, part, on, code, n, kinds, freq, table, len, scratch);
}

int entropy_put_even(struct msg_out *o, enum part part, const uint8_t *code, size_t n,
                     const uint64_t count[256], void *scratch)
{
    uint16_t freq[256];
    uint8_t table[TABLE_MAX];
    if (n == 0)
        return 0;
    if (only_kind(count, n) >= 0)
        return put_constant(o, part, code[0]);
    entropy_even(count, freq);
    size_t len = write_even_table(freq, table, sizeof table);
    return put_by(o, part, NULL, code, n, EVEN_KINDS, freq, table, len, scratch);
}

static int get_fixed(struct msg_in *m, uint8_t *code, size_t n, unsigned kinds, struct err *err)
{
    unsigned w = entropy_width(kinds);
    const uint8_t *p = msg_need(m, pack_bytes(n, w));
    if (!p)
        return msg_short("codes", err);
    unpack_u8(p, n, w, code);
    return 0;
}

struct decode_job {
    const struct rans_decoder *dec;
    const uint8_t *streams;
    const size_t *at; // of each chunk's stream
    size_t total;
    uint8_t *code;
    size_t n, chunks, each; // of an item
    _Atomic bool bad;
};

static struct rans_stream chunk_stream(const struct decode_job *j, size_t k)
{
    const size_t end = k + 1 < j->chunks ? j->at[k + 1] : j->total;
    return (struct rans_stream){j->streams + j->at[k], end - j->at[k], j->code + k * CHUNK,
                                chunk_len(j->n, k)};
}

static void decode_chunks(void *arg, uint32_t item)
{
    struct decode_job *j = arg;
    const size_t k = item * j->each;
    const struct rans_stream one = chunk_stream(j, k);
    if (j->each == 2 && k + 1 < j->chunks) {
        const struct rans_stream two = chunk_stream(j, k + 1);
        if (rans_decode_two(j->dec, &one, &two))
            j->bad = true;
    } else if (rans_decode(j->dec, one.in, one.len, one.code, one.n)) {
        j->bad = true;
    }
}

// Number v in the table, which is less than most.
static bool get_table(struct bits_in *b, uint64_t most, uint64_t *v, size_t *bits)
{
    *v = gamma_get(b) - 1;
    if (b->bad || *v >= most)
        return false;
    *bits += gamma_bits(*v + 1);
    return true;
}

static int read_table(struct msg_in *m, unsigned kinds, uint16_t freq[256], struct err *err)
{
    struct bits_in b;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    size_t bits = 0;
    for (unsigned s = 0; s < kinds; s++) {
        uint64_t f;
        if (!get_table(&b, 1u << RANS_PROB_BITS, &f, &bits))
            return msg_bad("entropy table", "a frequency is out of range", err);
        freq[s] = (uint16_t)f;
    }
    msg_need(m, (bits + 7) / 8);
    return 0;
}

static int read_even_table(struct msg_in *m, uint16_t freq[256], struct err *err)
{
    const uint64_t half = 1u << (RANS_PROB_BITS - 1);
    struct bits_in b;
    bits_in_init(&b, m->p, (size_t)(m->end - m->p));
    size_t bits = 0;
    uint64_t top, f, sum = 0;
    if (!get_table(&b, ENTROPY_MIDDLE + 1, &top, &bits))
        return msg_bad("entropy table", "a magnitude is out of range", err);
    for (unsigned s = 1; s <= top; s++) {
        if (!get_table(&b, half - sum + 1, &f, &bits))
            return msg_bad("entropy table", "a frequency is out of range", err);
        freq[ENTROPY_MIDDLE + s] = freq[ENTROPY_MIDDLE - s] = (uint16_t)f;
        sum += f;
    }
    freq[ENTROPY_MIDDLE] = (uint16_t)(2 * (half - sum));
    msg_need(m, (bits + 7) / 8);
    return 0;
}

static int get_rans(struct msg_in *m, uint8_t *code, size_t n, unsigned kinds, bool even,
                    void *scratch, struct err *err)
{
    uint16_t freq[256] = {0};
    struct rans_decoder dec;
    if (even ? read_even_table(m, freq, err) : read_table(m, kinds, freq, err))
        return -1;
    if (rans_decoder_init(&dec, freq))
        return msg_bad("entropy table", "its frequencies do not sum to one", err);

    size_t chunks = chunks_of(n);
    size_t *at = scratch_take(&scratch, chunks * sizeof *at), total = 0;
    for (size_t k = 0; k < chunks; k++) {
        uint64_t len;
        if (msg_get_varint(m, &len) || len > (size_t)(m->end - m->p))
            return msg_short("directory", err);
        at[k] = (size_t)len;
    }
    const uint8_t *streams = m->p;
    for (size_t k = 0; k < chunks; k++) {
        size_t len = at[k];
        at[k] = total;
        total += len;
        if (!msg_need(m, len))
            return msg_short("codes", err);
    }
    // Two at a time where that leaves enough for all threads.
    const size_t each = chunks >= 4 * (size_t)pool_threads() ? 2 : 1;
    struct decode_job job = {&dec, streams, at, total, code, n, chunks, each, false};
    pool_each(n, (uint32_t)((chunks + each - 1) / each), decode_chunks, &job);
    return job.bad ? msg_bad("codes", "not an entropy-coded stream", err) : 0;
}

static int get_any(struct msg_in *m, uint8_t *code, size_t n, unsigned kinds, bool even,
                   void *scratch, struct err *err)
{
    if (n == 0)
        return 0;
    const uint8_t *mode = msg_need(m, 1);
    if (!mode)
        return msg_short("codes", err);
    if (*mode == ENTROPY_CONSTANT) {
        const uint8_t *p = msg_need(m, 1);
        if (!p)
            return msg_short("codes", err);
        memset(code, *p, n);
    } else if (*mode == ENTROPY_RANS) {
        return get_rans(m, code, n, kinds, even, scratch, err); // its table has no other codes
    } else if (*mode == ENTROPY_FIXED) {
        if (get_fixed(m, code, n, kinds, err))
            return -1;
    } else {
        return msg_bad("codes", "unknown coding", err);
    }
    return pack_max_u8(code, n) >= kinds ? msg_bad("codes", "one is out of range", err) : 0;
}

int entropy_get(struct msg_in *m, uint8_t *code, size_t n, unsigned kinds, void *scratch,
                struct err *err)
{
    return get_any(m, code, n, kinds, false, scratch, err);
}

int entropy_get_even(struct msg_in *m, uint8_t *code, size_t n, void *scratch, struct err *err)
{
    return get_any(m, code, n, EVEN_KINDS, true, scratch, err);
}
