// Blocks of Fed-FSTQ's messages: tags, codes and scales of a run of coordinates, coded anew.
#include "codec/blocks.h"
#include "codec/fstq.h"
#include "kernels/kernels_codec.h"

static void *open_message(const struct codec_inst *c, const struct codec_key *key,
                          const uint8_t *in, size_t len, void **scratch, struct err *err)
{
    (void)key;
    struct fstq_work *w = scratch_take(scratch, sizeof *w);
    const size_t n = c->shape->n_values;
    if (fstq_lay(c, w, n, *scratch, err))
        return NULL;
    *scratch = (uint8_t *)*scratch + fstq_lay_bytes(c, n) + fstq_read_scratch(c);
    return fstq_read(w, in, len, err) ? NULL : w;
}

static size_t open_bytes(const struct codec_inst *c)
{
    return SCRATCH_ROUND(sizeof(struct fstq_work)) + fstq_lay_bytes(c, c->shape->n_values) +
           fstq_read_scratch(c);
}

// Values of width k in the message before `skip` values of tensor t.
static size_t values_before(const struct fstq_work *w, uint32_t t, size_t skip, int k)
{
    uint32_t low = 0, high = w->pieces; // the piece that holds it: places ascend
    const size_t place = w->place[t] + skip;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (w->piece[mid].place <= place)
            low = mid;
        else
            high = mid;
    }
    const size_t bytes = alloc_code_bytes(w->a.bits[k]);
    size_t n = (w->start[low][k] - fstq_first_code(w, k)) / bytes;
    for (size_t at = w->piece[low].place; at < place; at++)
        n += w->tag[at] == k;
    return n;
}

// n codes of width k from the at-th on, as an encoder has them.
static void copy_codes(const struct fstq_work *w, int k, size_t at, size_t n, uint8_t *to)
{
    enum { STEP = 4096 };
    const int bits = w->a.bits[k];
    uint8_t some[STEP + 8];
    if (bits == 16 || fstq_entropy_coded(w->opt, bits)) {
        const size_t bytes = alloc_code_bytes(bits);
        memcpy(to, w->from[k] + at * bytes, n * bytes);
        return;
    }
    for (size_t done = 0; done < n; done += STEP) {
        const size_t m = n - done < STEP ? n - done : STEP, over = (at + done) % 8;
        unpack_u8(w->from[k] + (at + done) / 8 * (size_t)bits, m + over, (unsigned)bits, some);
        memcpy(to + done, some + over, m);
    }
}

static void copy_tags(const struct fstq_work *w, const struct block *b, struct fstq_work *to)
{
    for (uint32_t t = 0; t < b->shape.n_tensors; t++)
        memcpy(to->tag + to->place[t], w->tag + w->place[b->tensor[t]] + b->skip[t],
               fstq_tensor_values(to, t));
}

// Piece after piece, for codes of a width lie in the order of places.
static void gather_codes(const struct fstq_work *w, const struct block *b, struct fstq_encoder *e)
{
    struct fstq_work *to = &e->w;
    for (uint32_t i = 0; i < to->pieces; i++) {
        const struct alloc_run *p = &to->piece[i];
        for (int k = 1; k < to->a.count; k++) {
            size_t n = (size_t)to->count[i][k];
            if (n == 0)
                continue;
            uint8_t *code = to->code + to->start[i][k];
            size_t skip = b->skip[p->tensor] + p->first;
            copy_codes(w, k, values_before(w, b->tensor[p->tensor], skip, k), n, code);
            if (fstq_entropy_coded(to->opt, to->a.bits[k]))
                fstq_count_codes(code, n, to->a.bits[k], e->hist[k]);
        }
    }
}

static int put_block(const struct codec_inst *c, const void *open, const struct block *b,
                     struct msg_out *o, void *scratch)
{
    (void)c;
    const struct fstq_work *w = open;
    const struct codec_input none = {0};
    struct fstq_encoder e = {.in = &none};
    struct err err;
    if (fstq_lay(&b->part, &e.w, 2 * b->shape.n_values, scratch, &err))
        return -1;
    copy_tags(w, b, &e.w);
    fstq_count_read(&e.w);
    fstq_sum_counts(&e.w);
    gather_codes(w, b, &e);
    for (uint32_t t = 0; t < b->shape.n_tensors; t++)
        memcpy(e.w.scale[e.w.group[t]], w->scale[w->group[b->tensor[t]]], sizeof *e.w.scale);
    return fstq_write(&e, o, e.w.rest);
}

static size_t put_bytes(const struct codec_inst *c)
{
    return fstq_lay_bytes(c, 2 * c->shape->n_values) + fstq_message_scratch(c);
}

// A coefficient is of a whole column.
static bool can_cut(const struct codec_inst *c)
{
    const struct fstq_opt *o = c->opt;
    return o->transform == TRANSFORM_NONE;
}

const struct codec_blocks blocks_fstq = {
    .can = can_cut,
    .open = open_message,
    .put = put_block,
    .open_bytes = open_bytes,
    .put_bytes = put_bytes,
};
