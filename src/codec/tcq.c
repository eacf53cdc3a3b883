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

#define STATES  8
#define CLASSES 3
#define MOST    126  // magnitude of a code
#define BLOCK   4096 // values of a path; the next one begins in state 0 again
#define SAMPLE  64   // blocks that costs and centres are fitted to, about
#define ROUNDS  3    // of the fit

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

// The same seen from where they lead: the two states, both of one quantiser, and the parities.
static const uint8_t origin[STATES][2] = {{0, 4}, {2, 6}, {0, 4}, {2, 6},
                                          {3, 7}, {1, 5}, {3, 7}, {1, 5}};
static const uint8_t parity[STATES][2] = {{0, 1}, {0, 1}, {1, 0}, {1, 0},
                                          {1, 0}, {1, 0}, {0, 1}, {0, 1}};

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

struct sums { // of what has a level of 1, of 2, and of 3 and more
    double value[3], n[3], levels[3];
};

struct plan {
    const struct codec_inst *c;
    const struct tcq_opt *o;
    const float *x;
    float half[CLASSES]; // half a step
    uint8_t centre[CLASSES][3];
    float worth[CLASSES][2][MOST + 2]; // of magnitudes, in half steps
    float cost[2][MOST + 2];           // in squares of half a step
    uint8_t *codes;                    // (n) ENTROPY_MIDDLE plus or minus a magnitude
    uint8_t *sorted;                   // (n) the first quantiser's, then the other's
    size_t firsts;                     // of the first
    void *rest;                        // scratch left over
};

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

// Of each quantiser the best code of either parity, and what it costs.
struct branches {
    float cost[2][2];
    uint8_t code[2][2];
};

static inline float cost_of(const struct plan *p, unsigned class, unsigned which, int k, float a)
{
    float d = a - p->worth[class][which][k];
    return d * d + p->cost[which][k];
}

// The codes on either side of a, of which one is even, and 0.
static inline void branch(const struct plan *p, unsigned class, float a, struct branches *b)
{
    for (unsigned which = 0; which < 2; which++) {
        float at = (a + (float)which) * 0.5f;
        int k = at < MOST - 1 ? (int)at : MOST - 1;
        float low = cost_of(p, class, which, k, a), high = cost_of(p, class, which, k + 1, a);
        int odd = k & 1;
        b->cost[which][odd] = low;
        b->code[which][odd] = (uint8_t)k;
        b->cost[which][!odd] = high;
        b->code[which][!odd] = (uint8_t)(k + 1);
        float zero = cost_of(p, class, which, 0, a);
        if (zero < b->cost[which][0]) {
            b->cost[which][0] = zero;
            b->code[which][0] = 0;
        }
    }
}

// The best path through n <= BLOCK values from state 0 on.
static void code_block(const struct plan *p, unsigned class, const float *x, size_t n,
                       uint8_t *code)
{
    enum { SECOND = 128 }; // came from the second origin
    uint8_t came[BLOCK][STATES];
    float sum[STATES], next[STATES];
    const float inv = p->half[class] > 0 ? 1 / p->half[class] : 0;
    for (unsigned s = 0; s < STATES; s++)
        sum[s] = s ? 0x1p100f : 0;
    for (size_t i = 0; i < n; i++) {
        struct branches b;
        branch(p, class, fabsf(x[i]) * inv, &b);
        for (unsigned s = 0; s < STATES; s++) {
            const unsigned which = origin[s][0] & 1u;
            const unsigned p0 = parity[s][0], p1 = parity[s][1];
            const float first = sum[origin[s][0]] + b.cost[which][p0];
            const float second = sum[origin[s][1]] + b.cost[which][p1];
            const unsigned one = b.code[which][p0], two = SECOND | b.code[which][p1];
            const unsigned other = 0u - (second < first); // a mask: it would be guessed wrongly
            next[s] = second < first ? second : first;
            came[i][s] = (uint8_t)(one ^ ((one ^ two) & other));
        }
        memcpy(sum, next, sizeof sum);
    }
    unsigned s = 0;
    for (unsigned k = 1; k < STATES; k++)
        s = sum[k] < sum[s] ? k : s;
    for (size_t i = n; i-- > 0;) {
        int k = came[i][s] & (SECOND - 1);
        code[i] = (uint8_t)(ENTROPY_MIDDLE + (x[i] < 0 ? -k : k));
        s = origin[s][came[i][s] / SECOND];
    }
}

static int magnitude(uint8_t code)
{
    int k = (int)code - ENTROPY_MIDDLE;
    return k < 0 ? -k : k;
}

// Fitting.

// Adds the codes of n <= BLOCK values, a path of their own.
static void add_block(const struct plan *p, unsigned class, const float *x, const uint8_t *code,
                      size_t n, uint64_t count[2][256], struct sums *s)
{
    const float inv = p->half[class] > 0 ? 1 / p->half[class] : 0;
    struct path path = {0, BLOCK};
    for (size_t i = 0; i < n; i++) {
        unsigned which = path_which(&path);
        int k = magnitude(code[i]), level = level_of(which, k), at = level < 3 ? level - 1 : 2;
        count[which][code[i]]++;
        if (level) {
            s->value[at] += (double)(fabsf(x[i]) * inv);
            s->levels[at] += level;
            s->n[at]++;
        }
        path_go(&path, (unsigned)k);
    }
}

static void set_centres(struct plan *p, const struct sums s[CLASSES])
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

static size_t blocks_of(const struct shape *s)
{
    size_t n = 0;
    for (uint32_t t = 0; t < s->n_tensors; t++)
        n += (values_of(&s->tensors[t]) + BLOCK - 1) / BLOCK;
    return n;
}

// Costs and centres, by turns with the paths of a sample: at first a bit for every magnitude.
static void fit(struct plan *p)
{
    const struct shape *s = p->c->shape;
    const size_t every = blocks_of(s) / SAMPLE + 1;
    for (unsigned which = 0; which < 2; which++)
        for (int k = 0; k < MOST + 2; k++)
            p->cost[which][k] = (float)(4 * p->o->rdoq * (k ? 2 + k : 1));
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t count[2][256] = {{0}};
        struct sums sums[CLASSES] = {{{0}, {0}, {0}}};
        size_t block = 0;
        for (uint32_t t = 0; t < s->n_tensors; t++) {
            const struct shape_tensor *one = &s->tensors[t];
            for (size_t at = 0, n = values_of(one); at < n; at += BLOCK) {
                const size_t m = n - at < BLOCK ? n - at : BLOCK, from = one->offset + at;
                if (block++ % every)
                    continue;
                code_block(p, one->kind, p->x + from, m, p->codes + from);
                add_block(p, one->kind, p->x + from, p->codes + from, m, count, &sums[one->kind]);
            }
        }
        set_centres(p, sums);
        set_costs(p, count);
    }
}

// Writing.

static void code_tensor(void *arg, uint32_t t)
{
    const struct plan *p = arg;
    const struct shape_tensor *one = &p->c->shape->tensors[t];
    for (size_t at = 0, n = values_of(one); at < n; at += BLOCK)
        code_block(p, one->kind, p->x + one->offset + at, n - at < BLOCK ? n - at : BLOCK,
                   p->codes + one->offset + at);
}

// The centres of all codes, and each quantiser's together.
static void sort_codes(struct plan *p, uint64_t count[2][256])
{
    const struct shape *s = p->c->shape;
    struct sums sums[CLASSES] = {{{0}, {0}, {0}}};
    size_t to[2] = {0, 0};
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        const struct shape_tensor *one = &s->tensors[t];
        for (size_t at = 0, n = values_of(one); at < n; at += BLOCK)
            add_block(p, one->kind, p->x + one->offset + at, p->codes + one->offset + at,
                      n - at < BLOCK ? n - at : BLOCK, count, &sums[one->kind]);
    }
    set_centres(p, sums);
    p->firsts = 0;
    for (int k = 0; k < 256; k++)
        p->firsts += count[0][k];
    to[1] = p->firsts;
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        struct path path = {0, 0};
        const uint8_t *code = p->codes + s->tensors[t].offset;
        for (size_t i = 0, n = values_of(&s->tensors[t]); i < n; i++) {
            p->sorted[to[path_which(&path)]++] = code[i];
            path_go(&path, (unsigned)magnitude(code[i]));
        }
    }
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
    p->codes = scratch_take(&scratch, c->shape->n_values);
    p->sorted = scratch_take(&scratch, c->shape->n_values);
    p->rest = scratch;
}

static size_t tcq_scratch(const struct codec_inst *c)
{
    const size_t n = c->shape->n_values;
    return SCRATCH_ROUND(sizeof(struct plan)) + 2 * SCRATCH_ROUND(n) + entropy_scratch(n);
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
    pool_each(n, c->shape->n_tensors, code_tensor, p);
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
