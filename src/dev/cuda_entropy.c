// Codes and tags, which lie on the GPU, as bytes of the host's message: what goes there and back is
// counts, lengths and these bytes.
#include "dev/cuda.h"

#include <string.h>

#define put_count   GPU(gpu_entropy_count)
#define put_rans    GPU(gpu_entropy_rans)
#define put_pack    GPU(gpu_entropy_pack)
#define put_measure GPU(gpu_entropy_measure)
#define put_strings GPU(gpu_entropy_put)

static void count(const struct kernel_ctx *cx, const uint8_t *code, size_t n, uint64_t sum[256])
{
    struct room r = room_of(cx);
    unsigned long long own[256];
    _Static_assert(sizeof *own == sizeof *sum, "counts of 64 bits");
    memcpy(own, sum, sizeof own);
    unsigned long long *there = room_put(&r, own, sizeof own);
    if (n)
        put_count(cx->stream, code, n, there);
    gpu_move(cx, own, there, sizeof own, false);
    gpu_settle(cx);
    memcpy(sum, own, sizeof own);
}

// As many chunks at a time as there is room for.
static void rans(const struct kernel_ctx *cx, const struct rans_encoder *e, const uint8_t *code,
                 size_t n, size_t chunk, uint8_t *streams, size_t room, size_t *len)
{
    enum { MOST = 64 };
    uint32_t own_len[MOST];
    const size_t each = (rans_bound(n < chunk ? n : chunk) + 15) / 16 * 16;
    for (size_t some; n; code += some, n -= some) {
        struct room r = room_of(cx);
        const struct rans_encoder *own = room_put(&r, e, sizeof *e);
        uint32_t *there = room_take(&r, sizeof own_len);
        size_t fit = room_left(&r) / each, chunks = (n + chunk - 1) / chunk;
        fit = fit < MOST ? fit : MOST;
        assert(fit > 0);
        chunks = chunks < fit ? chunks : fit;
        some = n < chunks * chunk ? n : chunks * chunk;
        put_rans(cx->stream, own, code, some, chunk, each, r.at, there);
        gpu_move(cx, own_len, there, chunks * sizeof *there, false);
        gpu_settle(cx);
        for (size_t k = 0; k < chunks; k++, streams += room) {
            *len++ = own_len[k];
            gpu_move(cx, streams + room - own_len[k], r.at + (k + 1) * each - own_len[k],
                     own_len[k], false);
        }
        gpu_settle(cx);
    }
}

static void pack_or_mark(const struct kernel_ctx *cx, const uint8_t *code, size_t n, unsigned width,
                         bool kept, uint8_t *out)
{
    for (size_t some; n; code += some, n -= some) {
        const struct room r = room_of(cx);
        size_t fit = room_left(&r) / 8 * 8; // at a byte each
        some = n < fit ? n : fit;
        put_pack(cx->stream, code, some, width, kept, r.at);
        gpu_move(cx, out, r.at, (some * width + 7) / 8, false);
        gpu_settle(cx);
        out += some / 8 * width;
    }
}

static void pack(const struct kernel_ctx *cx, const uint8_t *code, size_t n, unsigned width,
                 uint8_t *out)
{
    pack_or_mark(cx, code, n, width, false, out);
}

static void bitmap(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, uint8_t *out)
{
    pack_or_mark(cx, tag, n, 1, true, out);
}

// Where each tile's bits begin, by how many they are; the last kept tag's place, or what it was.
static uint64_t lay(struct gpu_tag_tile *tile, size_t tiles, uint64_t begin, uint32_t *last)
{
    for (size_t i = 0; i < tiles; i++) {
        const uint64_t bits = tile[i].bits;
        tile[i].bits = begin;
        begin += bits;
        *last = tile[i].last ? tile[i].last : *last;
    }
    return begin;
}

// Tags as bits, as many tiles at a time as there is room for, at a byte a tag; returns how many.
// out: or NULL.
static uint64_t strings(const struct kernel_ctx *cx, const uint8_t *tag, size_t n,
                        struct gpu_tag_code c, uint8_t *out)
{
    enum { TILES = 4096 };
    struct gpu_tag_tile tile[TILES];
    uint64_t at = 0;
    for (size_t some; n; tag += some, n -= some) {
        struct room r = room_of(cx);
        size_t tiles = (n + GPU_TAG_TILE - 1) / GPU_TAG_TILE;
        size_t fit = (room_left(&r) - 256) / (sizeof *tile + GPU_TAG_TILE);
        fit = fit < TILES ? fit : TILES;
        tiles = tiles < fit ? tiles : fit;
        some = n < tiles * GPU_TAG_TILE ? n : tiles * GPU_TAG_TILE;
        const size_t size = tiles * sizeof *tile;
        struct gpu_tag_tile *own = room_take(&r, size);
        uint32_t last = 0;
        put_measure(cx->stream, tag, some, &c, own);
        gpu_move(cx, tile, own, size, false);
        gpu_settle(cx);
        const uint64_t skip = at % 8, end = lay(tile, tiles, skip, &last);
        const size_t bytes = (size_t)((end + 7) / 8);
        if (out && end > skip) { // the first byte may be begun already
            const uint8_t begun = skip ? out[at / 8] : 0;
            uint32_t *word = room_take(&r, bytes + 2 * sizeof *word);
            gpu_move(cx, own, tile, size, true);
            gpu_clear(cx, word, bytes + 2 * sizeof *word);
            put_strings(cx->stream, tag, some, &c, own, word);
            gpu_move(cx, out + at / 8, word, bytes, false);
            gpu_settle(cx);
            out[at / 8] |= begun;
        }
        at += end - skip;
        c.skipped = last ? some - last : c.skipped + some;
    }
    return at;
}

static void kept(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, unsigned width,
                 uint8_t *out)
{
    strings(cx, tag, n, (struct gpu_tag_code){.k = width}, out);
}

static uint64_t rice(const struct kernel_ctx *cx, const uint8_t *tag, size_t n, unsigned k,
                     uint8_t *out)
{
    return strings(cx, tag, n, (struct gpu_tag_code){.rice = true, .k = k}, out);
}

const struct entropy_stages gpu_entropy_row = {count, rans, pack, bitmap, kept, rice};
