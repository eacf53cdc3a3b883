#include "fed/worth.h"

#include "base/bytes.h"
#include "base/half.h"
#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LEB_BYTES = 5, TAIL_BYTES = 4 };

size_t worth_bound(int32_t vocab)
{
    return vocab ? (size_t)vocab * (2 * LEB_BYTES + 2 * SCORES) + TAIL_BYTES : 0;
}

size_t worth_floats(int32_t vocab)
{
    return (SCORES + 1) * (size_t)vocab;
}

static size_t put_leb(uint8_t *out, uint32_t v)
{
    size_t n = 0;
    for (; v > 127; v >>= 7)
        out[n++] = (uint8_t)(v | 128);
    out[n++] = (uint8_t)v;
    return n;
}

// Shortest forms alone, so that a number has one. False: none of 32 bits stands at *at.
static bool get_leb(const uint8_t *in, size_t len, size_t *at, uint32_t *v)
{
    uint64_t all = 0;
    for (int n = 0; n < LEB_BYTES && *at < len; n++) {
        uint8_t b = in[(*at)++];
        all |= (uint64_t)(b & 127) << 7 * n;
        if (b < 128) {
            *v = (uint32_t)all;
            return all <= UINT32_MAX && (b > 0 || n == 0);
        }
    }
    return false;
}

size_t worth_put(const struct token_scores *s, uint8_t *out)
{
    size_t n = 0;
    int32_t next = 0;
    for (int32_t v = 0; v < s->vocab; v++) {
        if (s->seen[v] == 0)
            continue;
        n += put_leb(out + n, (uint32_t)(v - next));
        n += put_leb(out + n, (uint32_t)(s->seen[v] - 1));
        for (int k = 0; k < SCORES; k++, n += 2)
            put_u16(out + n, bf16_from_f32(s->table[k][v]));
        next = v + 1;
    }
    put_u32(out + n, (uint32_t)n);
    return n + TAIL_BYTES;
}

struct worth_entry {
    int32_t id;
    uint32_t seen;
    float score[SCORES];
};

// The entry at *at, which moves behind it; id, in: where ids go on. False: it is no such thing.
static bool next_entry(int32_t vocab, const uint8_t *in, size_t len, size_t *at,
                       struct worth_entry *e)
{
    uint32_t gap;
    if (!get_leb(in, len, at, &gap) || gap >= (uint32_t)(vocab - e->id) ||
        !get_leb(in, len, at, &e->seen) || e->seen == UINT32_MAX || len - *at < 2 * SCORES)
        return false;
    e->id += (int32_t)gap;
    e->seen++;
    for (int k = 0; k < SCORES; k++, *at += 2) {
        e->score[k] = bf16_to_f32(get_u16(in + *at));
        if (signbit(e->score[k]) || !isfinite(e->score[k]))
            return false;
    }
    return true;
}

int64_t worth_before(int32_t vocab, const uint8_t *payload, size_t len, struct err *err)
{
    uint32_t bytes = len >= TAIL_BYTES ? get_u32(payload + len - TAIL_BYTES) : 0;
    if (len < TAIL_BYTES || bytes > len - TAIL_BYTES)
        return err_set(err, "it does not end in scores of the vocabulary");
    const size_t before = len - TAIL_BYTES - bytes;
    struct worth_entry e = {.id = 0};
    for (size_t at = 0; at < bytes; e.id++)
        if (!next_entry(vocab, payload + before, bytes, &at, &e))
            return err_set(err, "its scores of the vocabulary are damaged at byte %zu", at);
    return (int64_t)before;
}

void worth_open(struct worth *w, int32_t vocab, float *state)
{
    size_t n = (size_t)vocab;
    *w = (struct worth){.vocab = vocab};
    for (int k = 0; k < SCORES && n; k++) {
        w->table[k] = state + (size_t)k * n;
        w->sum[k] = mem_alloc(MEM_SERVER, n * sizeof *w->sum[k]);
    }
    w->seen = n ? state + SCORES * n : NULL;
    w->count = n ? mem_alloc(MEM_SERVER, n * sizeof *w->count) : NULL;
}

void worth_close(struct worth *w)
{
    for (int k = 0; k < SCORES; k++)
        mem_free(w->sum[k]);
    mem_free(w->count);
}

void worth_begin(struct worth *w)
{
    size_t n = (size_t)w->vocab;
    for (int k = 0; k < SCORES && n; k++)
        memset(w->sum[k], 0, n * sizeof *w->sum[k]);
    if (n)
        memset(w->count, 0, n * sizeof *w->count);
}

void worth_add(struct worth *w, const uint8_t *payload, size_t before, size_t len)
{
    struct worth_entry e = {.id = 0};
    const size_t bytes = len - before - TAIL_BYTES;
    for (size_t at = 0; at < bytes; e.id++) {
        bool good = next_entry(w->vocab, payload + before, bytes, &at, &e);
        assert(good);
        w->count[e.id] += e.seen;
        for (int k = 0; k < SCORES; k++)
            w->sum[k][e.id] += e.seen * (double)e.score[k];
    }
}

// An average begins with the first mean, as a client's own does.
void worth_commit(struct worth *w, double rho, uint32_t version)
{
    for (int32_t v = 0; v < w->vocab; v++) {
        if (w->count[v] <= 0)
            continue;
        for (int k = 0; k < SCORES; k++) {
            double mean = w->sum[k][v] / w->count[v], was = (double)w->table[k][v];
            w->table[k][v] = (float)(w->seen[v] > 0 ? rho * was + (1 - rho) * mean : mean);
        }
        w->seen[v] += 1;
        w->fresh = version;
    }
}

int worth_save(struct worth *w, const char *dir, struct err *err)
{
    struct token_scores s;
    char path[1024];
    if (w->fresh == w->saved)
        return 0;
    token_scores_open(&s, w->vocab);
    for (int32_t v = 0; v < w->vocab; v++) {
        s.seen[v] = w->seen[v] > 0;
        for (int k = 0; k < SCORES; k++)
            s.table[k][v] = w->table[k][v];
    }
    token_scores_finish(&s);
    snprintf(path, sizeof path, "%s/%s", dir, TOKEN_SCORES_FILE);
    int bad = token_scores_write(&s, path, err);
    token_scores_close(&s);
    if (!bad)
        w->saved = w->fresh;
    return bad;
}
