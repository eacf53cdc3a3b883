// The rows of view_table: which ranges of the adapter a part is made of.
#include "base/mem.h"
#include "base/rng.h"
#include "fed/middle.h"
#include "fed/turn.h"
#include "fed/view.h"

#include <stdio.h>
#include <string.h>

static void add_range(struct view_part *p, size_t from, size_t to)
{
    if (p->n_ranges && p->range[p->n_ranges - 1].to == from) {
        p->range[p->n_ranges - 1].to = to;
        return;
    }
    if ((p->n_ranges & (p->n_ranges - 1)) == 0) { // full: twice as many
        size_t cap = p->n_ranges ? 2 * (size_t)p->n_ranges : 1;
        struct shape_range *more = mem_alloc(MEM_OTHER, cap * sizeof *more);
        if (p->n_ranges)
            memcpy(more, p->range, (size_t)p->n_ranges * sizeof *more);
        mem_free(p->range);
        p->range = more;
    }
    p->range[p->n_ranges++] = (struct shape_range){from, to};
}

// Rows [row, row + rows) of columns [col, col + cols); one of both is whole.
static void add_piece(struct view_part *p, const struct shape_tensor *t, size_t from, uint32_t rows,
                      uint32_t cols)
{
    shape_add(&p->shape, t->name, rows, cols, (enum shape_kind)t->kind);
    add_range(p, from, from + (size_t)rows * cols);
}

static uint32_t one_part(const void *opt)
{
    (void)opt;
    return 1;
}

static uint32_t two_parts(const void *opt)
{
    (void)opt;
    return 2;
}

static void ranges_whole(const void *opt, const struct shape *shape, uint32_t p,
                         struct view_part *part)
{
    (void)opt;
    (void)p;
    for (uint32_t i = 0; i < shape->n_tensors; i++)
        add_piece(part, &shape->tensors[i], shape->tensors[i].offset, shape->tensors[i].rows,
                  shape->tensors[i].cols);
}

static void cut_kind(const struct shape *shape, enum shape_kind kind, struct view_part *part)
{
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *t = &shape->tensors[i];
        if (t->kind == (uint32_t)kind)
            add_piece(part, t, t->offset, t->rows, t->cols);
    }
}

static void ranges_b(const void *opt, const struct shape *shape, uint32_t p, struct view_part *part)
{
    (void)opt;
    (void)p;
    cut_kind(shape, SHAPE_LORA_B, part);
}

// B is first, because B = 0 at the start leaves A without a gradient.
static void ranges_phase(const void *opt, const struct shape *shape, uint32_t p,
                         struct view_part *part)
{
    (void)opt;
    cut_kind(shape, p == 0 ? SHAPE_LORA_B : SHAPE_LORA_A, part);
}

struct low_opt {
    int32_t layers;
};

static const struct opt low_options[] = {
    OPT(struct low_opt, layers, "layers", "1", 1, 4096, "", "as many of the lowest"),
};

// What belongs to no layer is below them all.
static void ranges_low(const void *opt, const struct shape *shape, uint32_t p,
                       struct view_part *part)
{
    (void)p;
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *t = &shape->tensors[i];
        int layer = 0;
        if (sscanf(t->name, "layers.%d.", &layer) < 1 ||
            layer < ((const struct low_opt *)opt)->layers)
            add_piece(part, t, t->offset, t->rows, t->cols);
    }
}

static const struct view view_low = {
    .name = "low",
    .help = "the lowest layers alone are trained and travel, both ways",
    .source = "what clients hold of a split model; of one that is not, the layers above stay",
    .options = low_options,
    .n_options = ARRAY_LEN(low_options),
    .option_bytes = sizeof(struct low_opt),
    .frozen = true,
    .only = true,
    .parts = one_part,
    .ranges = ranges_low,
};

struct seg_opt {
    int32_t parts;
};

static const struct opt seg_options[] = {
    OPT(struct seg_opt, parts, "parts", "4", 2, 1024, "",
        "client k sends part (k + round) mod this"),
};

static uint32_t seg_parts(const void *opt)
{
    return (uint32_t)((const struct seg_opt *)opt)->parts;
}

// A matrix that a segment cuts stays one as far as its whole rows go.
static void ranges_segment(const void *opt, const struct shape *shape, uint32_t p,
                           struct view_part *part)
{
    struct shape_range r = shape_segment(shape->n_values, seg_parts(opt), p);
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *t = &shape->tensors[i];
        size_t end = t->offset + (size_t)t->rows * t->cols;
        size_t from = t->offset > r.from ? t->offset : r.from, to = end < r.to ? end : r.to;
        if (from >= to)
            continue;
        size_t head = (t->cols - (from - t->offset) % t->cols) % t->cols;
        head = head < to - from ? head : to - from;
        if (head)
            add_piece(part, t, from, 1, (uint32_t)head);
        from += head;
        uint32_t rows = (uint32_t)((to - from) / t->cols);
        if (rows)
            add_piece(part, t, from, rows, t->cols);
        from += (size_t)rows * t->cols;
        if (from < to)
            add_piece(part, t, from, 1, (uint32_t)(to - from));
    }
}

static const struct view view_ab = {
    .name = "AB",
    .help = "the whole adapter",
    .source = "",
    .parts = one_part,
    .ranges = ranges_whole,
};

static const struct view view_b = {
    .name = "B",
    .help = "A stays as it was drawn; only B is trained and travels, both ways",
    .source = "FFA-LoRA, ICLR 2024",
    .frozen = true,
    .only = true,
    .parts = one_part,
    .ranges = ranges_b,
};

static void ranges_shared(const void *opt, const struct shape *shape, uint32_t p,
                          struct view_part *part)
{
    (void)opt;
    (void)p;
    for (uint32_t i = 0; i < shape->n_tensors; i++)
        if (shape->tensors[i].kind != SHAPE_LORA_B)
            add_piece(part, &shape->tensors[i], shape->tensors[i].offset, shape->tensors[i].rows,
                      shape->tensors[i].cols);
}

static const struct view view_a = {
    .name = "A",
    .help = "all is trained, B stays with its client: the rest travels, both ways; for fedsa",
    .source = "FedSA-LoRA, ICLR 2025",
    .only = true,
    .kept = true,
    .parts = one_part,
    .ranges = ranges_shared,
};

// R stands at the head of B's place.
static void ranges_middle(const void *opt, const struct shape *shape, uint32_t p,
                          struct view_part *part)
{
    (void)opt;
    (void)p;
    bool fits = true;
    for (uint32_t i = 0; i < shape->n_tensors; i++)
        fits &= shape->tensors[i].kind != SHAPE_LORA_B ||
                shape->tensors[i].rows >= shape->tensors[i].cols;
    for (uint32_t i = 0; fits && i < shape->n_tensors; i++) {
        const struct shape_tensor *t = &shape->tensors[i];
        if (t->kind != SHAPE_LORA_B)
            continue;
        shape_add(&part->shape, t->name, t->cols, t->cols, SHAPE_OTHER);
        add_range(part, t->offset, t->offset + (size_t)t->cols * t->cols);
    }
}

static const struct view view_r = {
    .name = "R",
    .help = "B R A with A and B frozen as drawn; only the square R is trained and travels",
    .source = "Fed-SB 2025; A and B are random, not from the first gradient's singular vectors",
    .frozen = true,
    .only = true,
    .local = &middle_rule,
    .parts = one_part,
    .ranges = ranges_middle,
};

static const struct view view_alt = {
    .name = "alt",
    .help = "B in odd rounds, A in even ones; the other is frozen",
    .source = "LoRA-A^2, its alternation without its rank mask",
    .frozen = true,
    .parts = two_parts,
    .ranges = ranges_phase,
};

static const struct view view_seg = {
    .name = "seg",
    .help = "all is trained, one segment travels, round robin; its mean is over who sent it",
    .source = "EcoLoRA, EMNLP 2025",
    .options = seg_options,
    .n_options = ARRAY_LEN(seg_options),
    .option_bytes = sizeof(struct seg_opt),
    .mixed = true,
    .parts = seg_parts,
    .ranges = ranges_segment,
};

static const struct opt sub_options[] = {
    OPT(struct sub_opt, parts, "parts", "5", 1, 4096, "",
        "a round has one of so many random sets, all of a size: r = d / parts"),
    OPT(struct sub_opt, stay, "stay", "1", 1, 1e6, "rounds", "before the next set has its turn"),
    OPT(struct sub_opt, draw, "draw", "1", 0, 1e9, "", "number of the drawing"),
};

static uint32_t sub_parts(const void *opt)
{
    return (uint32_t)((const struct sub_opt *)opt)->parts;
}

static uint32_t sub_stay(const void *opt)
{
    return (uint32_t)((const struct sub_opt *)opt)->stay;
}

// Of n rows or columns those in set p, ascending; matrices of one size share them. Returns how
// many.
static uint32_t draw_set(const struct sub_opt *o, uint32_t n, uint32_t p, uint32_t *set)
{
    struct rng r = rng_stream((uint64_t)o->draw, RNG_VIEW, n, 0, 0);
    uint32_t *order = mem_alloc(MEM_OTHER, 2 * (size_t)n * sizeof *order), *in = order + n;
    uint32_t parts = sub_parts(o), found = 0;
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    rng_shuffle(&r, order, n);
    for (uint32_t i = 0; i < n; i++)
        in[order[i]] = i % parts == p;
    for (uint32_t i = 0; i < n; i++)
        if (in[i])
            set[found++] = i;
    mem_free(order);
    return found;
}

// Of the longer side, which for A is what goes into it.
static void ranges_sub(const void *opt, const struct shape *shape, uint32_t p,
                       struct view_part *part)
{
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *t = &shape->tensors[i];
        bool by_row = t->rows >= t->cols;
        uint32_t n = by_row ? t->rows : t->cols;
        uint32_t *set = mem_alloc(MEM_OTHER, n * sizeof *set), found = draw_set(opt, n, p, set);
        if (found)
            shape_add(&part->shape, t->name, by_row ? found : t->rows, by_row ? t->cols : found,
                      (enum shape_kind)t->kind);
        for (uint32_t row = 0; row < (by_row ? 1 : t->rows); row++)
            for (uint32_t k = 0; k < found; k++) {
                size_t each = by_row ? t->cols : 1;
                size_t from = t->offset + (size_t)row * t->cols + set[k] * each;
                add_range(part, from, from + each);
            }
        mem_free(set);
    }
}

static const struct view view_sub = {
    .name = "sub",
    .help = "a random set of each matrix's rows or columns, of its longer side, is trained and "
            "travels, another one each round; scaffold/sub@fp32 is SSF",
    .source = "Zhu et al. 2026 (Subspace-SCAFFOLD), with coordinates for the subspace",
    .options = sub_options,
    .n_options = ARRAY_LEN(sub_options),
    .option_bytes = sizeof(struct sub_opt),
    .frozen = true,
    .parts = sub_parts,
    .stay = sub_stay,
    .ranges = ranges_sub,
};

static const struct view view_gauss = {
    .name = "gauss",
    .help = "as sub, in a basis drawn at random for each length of side; scaffold/gauss@fp32 is "
            "SSF with its Gaussian projector",
    .source = "Zhu et al. 2026 (Subspace-SCAFFOLD); its projectors of one drawing complete each "
              "other",
    .options = sub_options,
    .n_options = ARRAY_LEN(sub_options),
    .option_bytes = sizeof(struct sub_opt),
    .frozen = true,
    .turned = true,
    .local = &turn_rule,
    .parts = sub_parts,
    .stay = sub_stay,
    .ranges = ranges_sub,
};

static uint32_t rank_parts(const void *opt)
{
    return ((const struct ranks *)opt)->n;
}

static void ranges_rank(const void *opt, const struct shape *shape, uint32_t p,
                        struct view_part *part)
{
    const uint32_t rank = ((const struct ranks *)opt)->rank[p];
    for (uint32_t i = 0; i < shape->n_tensors; i++) {
        const struct shape_tensor *t = &shape->tensors[i];
        bool a = t->kind == SHAPE_LORA_A, b = t->kind == SHAPE_LORA_B;
        uint32_t rows = a && rank < t->rows ? rank : t->rows;
        uint32_t cols = b && rank < t->cols ? rank : t->cols;
        shape_add(&part->shape, t->name, rows, cols, (enum shape_kind)t->kind);
        for (uint32_t row = 0; row < rows; row++) {
            size_t from = t->offset + (size_t)row * t->cols;
            add_range(part, from, from + cols);
        }
    }
}

// Not by name: fed.ranks says what its parts are.
const struct view view_rank = {
    .name = "rank",
    .help = "as much of the adapter as a client's rank",
    .source = "",
    .frozen = true,
    .mixed = true,
    .nested = true,
    .parts = rank_parts,
    .ranges = ranges_rank,
};

const struct view *const view_table[] = {&view_ab,  &view_b,   &view_a,   &view_r,     &view_low,
                                         &view_alt, &view_seg, &view_sub, &view_gauss, NULL};
