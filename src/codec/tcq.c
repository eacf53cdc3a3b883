// tcq: trellis-coded quantisation. Two quantisers lie between each other - one has the even
// multiples of half a step, the other 0 and the odd ones - and the parity of each code says, by
// eight states, which of them the next value gets. The receiver follows the states; the sender
// searches the path of least squared error and bits (Viterbi). Each value has the rate of a coarse
// step and a choice among the points of a fine one.
//
// Message: header; of each class (A, B, others) that has values its half step (bf16) and three
// centres (centre.h: of levels 1, 2 and more, in half steps); how many codes are the first
// quantiser's; these, then the other's.
#include "base/fmath.h"
#include "base/half.h"
#include "base/pool.h"
#include "codec/centre.h"
#include "codec/entropy.h"
#include "codec/message.h"
#include "codec/rows.h"
#include "kernels/kernels_codec.h"

#include <math.h>
#include <string.h>

#define STATES  TRELLIS_STATES
#define CLASSES 3
#define MOST    TRELLIS_MOST
#define BLOCK   TRELLIS_BLOCK // values of a path; the next one begins in state 0 again
#define SAMPLE  64            // blocks that costs and centres are fitted to, about
#define ROUNDS  3             // of the fit
#define GROUP   16            // blocks of a thread

struct tcq_opt {
    double step, rdoq;
};

static const struct opt tcq_options[] = {
    OPT(struct tcq_opt, step, "step", "2", 1e-3, 1e3, "rms",
        "width of a step of either quantiser, of a class of matrices"),
    OPT(struct tcq_opt, rdoq, "rdoq", "0.1", 0, 1, "step^2",
        "squared error that a bit is worth when a path is chosen"),
};

// Where an even code leads, and an odd one. States whose number is odd have the second quantiser.
static const uint8_t next_state[STATES][2] = {{0, 2}, {7, 5}, {1, 3}, {6, 4},
                                              {2, 0}, {5, 7}, {3, 1}, {4, 6}};

// A path as both sides follow it.
struct path {
    unsigned state;
    size_t left; // values of the block
};

static unsigned path_which(struct path *p)
{
    if (p->left == 0)
        *p = (struct path){0, BLOCK};
    return p->state & 1;
}

static void path_go(struct path *p, unsigned magnitude)
{
    p->state = next_state[p->state][magnitude & 1];
    p->left--;
}

// In half steps.
static int level_of(unsigned which, int magnitude)
{
    return magnitude ? 2 * magnitude - (int)which : 0;
}

struct plan {
    const struct codec_inst *c;
    const struct tcq_opt *o;
    const float *x;
    float half[CLASSES]; // half a step
    uint8_t centre[CLASSES][3];
    float worth[CLASSES][2][MOST + 2]; // of magnitudes, in half steps
    float cost[2][MOST + 2];           // in squares of half a step
    struct trellis_block *block;       // what is coded, class by class
    size_t begin[CLASSES + 1];         // of each class in it
    uint8_t *codes;                    // (n) ENTROPY_MIDDLE plus or minus a magnitude
    uint8_t *which;                    // (n) of which quantiser
    uint8_t *sorted;                   // (n) the first quantiser's, then the other's
    size_t firsts;                     // of the first
    void *rest;                        // scratch left over
};
_Static_assert(TRELLIS_ZERO == ENTROPY_MIDDLE, "codes are written as they are made");

static size_t values_of(const struct shape_tensor *t)
{
    return (size_t)t->rows * t->cols;
}

static bool class_present(const struct codec_inst *c, unsigned k)
{
    for (uint32_t t = 0; t < c->shape->n_tensors; t++)
        if (c->shape->tensors[t].kind == k && values_of(&c->shape->tensors[t]))
            return true;
    return false;
}

static void set_worth(struct plan *p, unsigned class)
{
    for (unsigned which = 0; which < 2; which++)
        for (int k = 0; k < MOST + 2; k++) {
            int level = level_of(which, k);
            float more = level ? centre_worth(p->centre[class][level < 3 ? level - 1 : 2]) : 0;
            p->worth[class][which][k] = (float)level + more;
        }
}

// Choosing.

static size_t blocks_of(const struct shape *s)
{
    size_t n = 0;
    for (uint32_t t = 0; t < s->n_tensors; t++)
        n += (values_of(&s->tensors[t]) + BLOCK - 1) / BLOCK;
    return n;
}

// The blocks of tensor t whose number, the first having *number, is a multiple of every.
static void lay_tensor(struct plan *p, uint32_t t, size_t every, size_t *number, size_t *at)
{
    const struct shape_tensor *one = &p->c->shape->tensors[t];
    const size_t end = one->offset + values_of(one);
    for (size_t i = one->offset; i < end; i += BLOCK)
        if ((*number)++ % every == 0)
            p->block[(*at)++] = (struct trellis_block){.x = p->x + i,
                                                       .n = end - i < BLOCK ? end - i : BLOCK,
                                                       .code = p->codes + i,
                                                       .which = p->which + i};
}

static void lay_blocks(struct plan *p, size_t every)
{
    const struct shape *s = p->c->shape;
    size_t at = 0;
    for (unsigned class = 0; class < CLASSES; class ++) {
        size_t number = 0;
        p->begin[class] = at;
        for (uint32_t t = 0; t < s->n_tensors; t++)
            if (s->tensors[t].kind == class)
                lay_tensor(p, t, every, &number, &at);
            else
                number += (values_of(&s->tensors[t]) + BLOCK - 1) / BLOCK;
    }
    p->begin[CLASSES] = at;
}

static float inverse(const struct plan *p, unsigned class)
{
    return p->half[class] > 0 ? 1 / p->half[class] : 0;
}

static size_t groups_of(const struct plan *p, unsigned class)
{
    return (p->begin[class + 1] - p->begin[class] + GROUP - 1) / GROUP;
}

static void code_group(void *arg, uint32_t group)
{
    const struct plan *p = arg;
    unsigned class = 0;
    for (; group >= groups_of(p, class); class ++)
        group -= (uint32_t)groups_of(p, class);
    const size_t from = p->begin[class] + (size_t)group * GROUP, left = p->begin[class + 1] - from;
    struct trellis t = {.inv = inverse(p, class)};
    for (int k = 0; k < 3; k++)
        t.beyond[k] = centre_worth(p->centre[class][k]);
    memcpy(t.cost, p->cost, sizeof t.cost);
    trellis_code(&t, p->block + from, left < GROUP ? left : GROUP);
}

static void code_blocks(struct plan *p)
{
    size_t groups = 0;
    for (unsigned class = 0; class < CLASSES; class ++)
        groups += groups_of(p, class);
    pool_each(p->c->shape->n_values, (uint32_t)groups, code_group, p);
}

static int magnitude(uint8_t code)
{
    int k = (int)code - ENTROPY_MIDDLE;
    return k < 0 ? -k : k;
}

// Fitting.

static void add_blocks(struct plan *p, struct trellis_sums s[CLASSES])
{
    for (unsigned class = 0; class < CLASSES; class ++)
        for (size_t i = p->begin[class]; i < p->begin[class + 1]; i++)
            trellis_add(&p->block[i], inverse(p, class), &s[class]);
}

static void set_centres(struct plan *p, const struct trellis_sums s[CLASSES])
{
    for (unsigned class = 0; class < CLASSES; class ++) {
        for (int k = 0; k < 3; k++)
            p->centre[class][k] = centre_code(s[class].value[k], s[class].n[k], s[class].levels[k]);
        set_worth(p, class);
    }
}

// Bits of each magnitude with its sign, by the codes that there were; one of each besides.
static void set_costs(struct plan *p, uint64_t count[2][256])
{
    const double square = 4 * p->o->rdoq;
    for (unsigned which = 0; which < 2; which++) {
        double n = MOST + 2;
        for (int k = 0; k < 256; k++)
            n += (double)count[which][k];
        for (int k = 0; k < MOST + 2; k++) {
            double of = 1 + (double)count[which][ENTROPY_MIDDLE + k];
            of += k ? (double)count[which][ENTROPY_MIDDLE - k] : 0;
            double bits = fmath_log(n / of) / 0.69314718055994530942 + (k > 0);
            p->cost[which][k] = (float)(square * bits);
        }
    }
}

// Half steps of the classes, as they will be sent.
static void set_steps(struct plan *p)
{
    const struct shape *s = p->c->shape;
    struct quant_stats sum[CLASSES] = {{0}};
    double n[CLASSES] = {0};
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        const struct shape_tensor *one = &s->tensors[t];
        quant_stats(p->x + one->offset, values_of(one), QUANT_SQ, &sum[one->kind]);
        n[one->kind] += (double)values_of(one);
    }
    for (unsigned k = 0; k < CLASSES; k++) {
        double half = n[k] > 0 ? p->o->step / 2 * sqrt(sum[k].sq / n[k]) : 0;
        double least = (double)f32_from_bits(sum[k].max_bits) / (2 * (MOST - 1));
        half = half > least ? half : least;
        p->half[k] = half >= 0x1p-100 ? bf16_to_f32(bf16_from_f32((float)half)) : 0;
        set_worth(p, k);
    }
}

// Costs and centres, by turns with the paths of a sample: at first a bit for every magnitude.
static void fit(struct plan *p)
{
    const struct shape *s = p->c->shape;
    const size_t every = blocks_of(s) / SAMPLE + 1;
    for (unsigned which = 0; which < 2; which++)
        for (int k = 0; k < MOST + 2; k++)
            p->cost[which][k] = (float)(4 * p->o->rdoq * (k ? 2 + k : 1));
    lay_blocks(p, every);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t count[2][256] = {{0}};
        struct trellis_sums sums[CLASSES] = {{{0}, {0}, {0}}};
        code_blocks(p);
        add_blocks(p, sums);
        for (size_t k = 0; k < p->begin[CLASSES]; k++)
            for (size_t i = 0; i < p->block[k].n; i++)
                count[p->block[k].which[i]][p->block[k].code[i]]++;
        set_centres(p, sums);
        set_costs(p, count);
    }
}

// Writing.

// The centres of all codes, and each quantiser's together.
static void sort_codes(struct plan *p, uint64_t count[2][256])
{
    const struct shape *s = p->c->shape;
    struct trellis_sums sums[CLASSES] = {{{0}, {0}, {0}}};
    add_blocks(p, sums);
    set_centres(p, sums);
    const size_t n = s->n_values;
    const uint8_t *restrict which = p->which, *restrict code = p->codes;
    uint8_t *restrict sorted = p->sorted;
    size_t others = 0;
    for (size_t i = 0; i < n; i++)
        others += which[i];
    p->firsts = n - others;
    size_t first = 0, second = p->firsts;
    for (size_t i = 0; i < n; i++) { // without a branch, which would often be wrong
        const size_t other = which[i];
        sorted[first ^ ((first ^ second) & (0 - other))] = code[i];
        first += 1 - other;
        second += other;
    }
    pack_count_u8(p->sorted, p->firsts, count[0]);
    pack_count_u8(p->sorted + p->firsts, others, count[1]);
}

static int put_scales(const struct plan *p, struct msg_out *o)
{
    for (unsigned k = 0; k < CLASSES; k++) {
        uint8_t *at = class_present(p->c, k) ? msg_take(o, PART_SCALES, 5) : NULL;
        if (!at && class_present(p->c, k))
            return -1;
        if (!at)
            continue;
        put_u16(at, bf16_from_f32(p->half[k]));
        memcpy(at + 2, p->centre[k], 3);
    }
    return 0;
}

static void lay_plan(struct plan *p, const struct codec_inst *c, void *scratch)
{
    *p = (struct plan){.c = c, .o = c->opt};
    p->block = scratch_take(&scratch, blocks_of(c->shape) * sizeof *p->block);
    p->codes = scratch_take(&scratch, c->shape->n_values);
    p->which = scratch_take(&scratch, c->shape->n_values);
    p->sorted = scratch_take(&scratch, c->shape->n_values);
    p->rest = scratch;
}

static size_t tcq_scratch(const struct codec_inst *c)
{
    const size_t n = c->shape->n_values;
    return SCRATCH_ROUND(sizeof(struct plan)) +
           SCRATCH_ROUND(blocks_of(c->shape) * sizeof(struct trellis_block)) +
           3 * SCRATCH_ROUND(n) + entropy_scratch(n);
}

static size_t tcq_bound(const struct codec_inst *c)
{
    return 1 + CLASSES * 5 + MSG_VARINT_MAX + 2 * entropy_bound(c->shape->n_values, 256);
}

static int64_t tcq_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                          size_t cap, void *scratch, struct codec_report *report, struct err *err)
{
    const size_t n = c->shape->n_values;
    struct plan *p = scratch_take(&scratch, sizeof *p);
    uint64_t count[2][256] = {{0}};
    struct msg_out o;
    lay_plan(p, c, scratch);
    p->x = in->x;
    set_steps(p);
    fit(p);
    lay_blocks(p, 1);
    code_blocks(p);
    sort_codes(p, count);
    lap(in->laps, STAGE_QUANTISE);
    msg_init(&o, out, cap, report);
    if (msg_put_header(&o, 0) || put_scales(p, &o) ||
        msg_put_varint(&o, PART_DIRECTORY, p->firsts) ||
        entropy_put_even(&o, PART_VALUES, p->sorted, p->firsts, count[0], p->rest) ||
        entropy_put_even(&o, PART_VALUES, p->sorted + p->firsts, n - p->firsts, count[1], p->rest))
        return msg_full(&o, err);
    lap(in->laps, STAGE_ENTROPY);
    report->kept[record_width_of[8]] = (int64_t)n;
    return msg_len(&o);
}

// Reading.

static int get_scales(struct plan *p, struct msg_in *m, struct err *err)
{
    for (unsigned k = 0; k < CLASSES; k++) {
        const uint8_t *at = class_present(p->c, k) ? msg_need(m, 5) : NULL;
        if (!at && class_present(p->c, k))
            return msg_short("scales", err);
        if (!at)
            continue;
        p->half[k] = bf16_to_f32(get_u16(at));
        if (!(p->half[k] >= 0 && p->half[k] < CODEC_LIMIT))
            return msg_bad("scales", "a step is below 0, not finite, or too large", err);
        memcpy(p->centre[k], at + 2, 3);
        set_worth(p, k);
    }
    return 0;
}

// Codes back to the places of their values, by following the paths.
static int place_codes(struct plan *p, struct err *err)
{
    const struct shape *s = p->c->shape;
    size_t from[2] = {0, p->firsts}, end[2] = {p->firsts, s->n_values};
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        struct path path = {0, 0};
        uint8_t *code = p->codes + s->tensors[t].offset;
        for (size_t i = 0, n = values_of(&s->tensors[t]); i < n; i++) {
            unsigned which = path_which(&path);
            if (from[which] == end[which])
                return msg_bad("codes", "a quantiser has too few", err);
            code[i] = p->sorted[from[which]++];
            if (magnitude(code[i]) > MOST)
                return msg_bad("codes", "one is too large", err);
            path_go(&path, (unsigned)magnitude(code[i]));
        }
    }
    return 0;
}

struct give_job {
    const struct plan *p;
    struct quant_sink to;
};

static void give_tensor(void *arg, uint32_t t)
{
    const struct give_job *j = arg;
    const struct plan *p = j->p;
    const struct shape_tensor *one = &p->c->shape->tensors[t];
    const struct quant_sink to = quant_sink_at(j->to, one->offset);
    const uint8_t *code = p->codes + one->offset;
    struct path path = {0, 0};
    for (size_t i = 0, n = values_of(one); i < n; i++) {
        int k = magnitude(code[i]);
        float v = p->half[one->kind] * p->worth[one->kind][path_which(&path)][k];
        v = code[i] < ENTROPY_MIDDLE ? -v : v;
        to.to[i] = to.add ? to.to[i] + to.weight * v : v;
        path_go(&path, (unsigned)k);
    }
}

static int tcq_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                      size_t len, struct codec_output to, void *scratch, struct err *err)
{
    const size_t n = c->shape->n_values;
    struct plan *p = scratch_take(&scratch, sizeof *p);
    struct msg_in m;
    uint64_t firsts;
    (void)key;
    lay_plan(p, c, scratch);
    if (msg_open_plain(&m, in, len, err) || get_scales(p, &m, err))
        return -1;
    if (msg_get_varint(&m, &firsts) || firsts > n)
        return msg_bad("directory", "more codes than values", err);
    p->firsts = (size_t)firsts;
    if (entropy_get_even(&m, p->sorted, p->firsts, p->rest, err) ||
        entropy_get_even(&m, p->sorted + p->firsts, n - p->firsts, p->rest, err) ||
        msg_end(&m, err) || place_codes(p, err))
        return -1;
    struct give_job j = {p, to.sink};
    pool_each(n, c->shape->n_tensors, give_tensor, &j);
    return 0;
}

const struct codec codec_tcq = {
    .name = "tcq",
    .help = "trellis-coded quantisation of eight states: uniform's steps with a choice between two "
            "grids, entropy-coded",
    .source = "Marcellin and Fischer 1990; Schwarz et al. 2019 (dependent quantisation)",
    .options = tcq_options,
    .n_options = ARRAY_LEN(tcq_options),
    .option_bytes = sizeof(struct tcq_opt),
    .scratch_bytes = tcq_scratch,
    .bound = tcq_bound,
    .encode = tcq_encode,
    .decode = tcq_decode,
};
