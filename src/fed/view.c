#include "fed/view.h"

#include "base/mem.h"
#include "fed/protocol.h"

#include <stdio.h>
#include <string.h>

// Opening.

static const char *row_name(int32_t i)
{
    return view_table[i] ? view_table[i]->name : NULL;
}

static const struct view *find(const char *name, struct err *err)
{
    char tail[256];
    for (int i = 0; view_table[i]; i++)
        if (strcmp(view_table[i]->name, name) == 0)
            return view_table[i];
    err_set(err, "fed.method: no view '%.40s'%s", name,
            opt_choices(name, row_name, tail, sizeof tail));
    return NULL;
}

static int parse(struct view_inst *v, const char *text, struct err *err)
{
    char name[64];
    size_t n = strcspn(text, ":");
    v->row = view_table[0];
    if (!*text)
        return 0;
    if (n >= sizeof name)
        return err_set(err, "fed.method: view '%.40s...' is too long", text);
    memcpy(name, text, n);
    name[n] = '\0';
    v->row = find(name, err);
    if (!v->row)
        return -1;
    if (text[n] == ':' && v->row->n_options == 0)
        return err_set(err, "fed.method: view '%s' takes no options, but '%.40s' follows it", name,
                       text + n);
    v->opt = v->row->option_bytes ? mem_alloc(MEM_OTHER, v->row->option_bytes) : NULL;
    opt_defaults(v->row->options, v->row->n_options, v->opt);
    if (text[n] == ':' &&
        opt_set_list(v->row->options, v->row->n_options, v->opt, text + n + 1, err))
        return -1;
    size_t at = (size_t)snprintf(v->text, sizeof v->text, "%s", name);
    for (int i = 0; i < v->row->n_options; i++) {
        char value[32];
        opt_format(&v->row->options[i], v->opt, value, sizeof value);
        at += (size_t)snprintf(v->text + at, sizeof v->text - at, "%c%s=%s", i ? ',' : ':',
                               v->row->options[i].name, value);
    }
    return 0;
}

static int open_part(struct view_inst *v, uint32_t p, const char *const *codec, struct err *err)
{
    struct view_part *part = &v->part[p];
    size_t state = v->row->nested ? 0 : v->n_state;
    shape_init(&part->shape);
    v->row->ranges(v->opt, v->shape, p, part);
    shape_seal(&part->shape);
    if (part->shape.n_values == 0)
        return err_set(err,
                       "fed.method: view '%s' has nothing to send of this adapter in part %u of "
                       "%u; choose another view",
                       v->row->name, p + 1, v->n_parts);
    if (p > 0)
        part->at = v->part[p - 1].at + v->part[p - 1].shape.n_values;
    for (int k = 0; k < v->n_vectors; k++) {
        struct view_vector *vector = &part->vector[k];
        vector->codec = codec_open(codec[k], v->whole ? v->shape : &part->shape, err);
        if (!vector->codec)
            return -1;
        vector->state_at = state;
        state += codec_state_floats(vector->codec);
    }
    v->n_state = state > v->n_state ? state : v->n_state;
    v->n_sum += part->shape.n_values;
    return 0;
}

static int open_parts(struct view_inst *v, const char *const *codec, struct err *err)
{
    v->whole = v->row == view_table[0];
    v->n_parts = v->row->parts(v->opt);
    v->stay = v->row->stay ? v->row->stay(v->opt) : 1;
    v->part = mem_alloc(MEM_OTHER, v->n_parts * sizeof *v->part);
    for (uint32_t p = 0; p < v->n_parts; p++)
        if (open_part(v, p, codec, err)) {
            view_close(v);
            return -1;
        }
    return 0;
}

int view_open(struct view_inst *v, const char *text, const char *const *codec, int n_vectors,
              const struct shape *shape, struct err *err)
{
    memset(v, 0, sizeof *v);
    v->shape = shape;
    v->n_vectors = n_vectors;
    if (parse(v, text, err)) {
        view_close(v);
        return -1;
    }
    return open_parts(v, codec, err);
}

int view_open_ranks(struct view_inst *v, const struct ranks *ranks, uint8_t *own, bool cut,
                    const char *const *codec, int n_vectors, const struct shape *shape,
                    struct err *err)
{
    *v = (struct view_inst){.row = &view_rank,
                            .shape = shape,
                            .own = own,
                            .cut = cut,
                            .n_vectors = n_vectors,
                            .text = "rank"};
    v->opt = mem_alloc(MEM_OTHER, sizeof *ranks);
    memcpy(v->opt, ranks, sizeof *ranks);
    return open_parts(v, codec, err);
}

void view_close(struct view_inst *v)
{
    for (uint32_t p = 0; v->part && p < v->n_parts; p++) {
        for (int k = 0; k < v->n_vectors; k++)
            codec_close(v->part[p].vector[k].codec);
        shape_free(&v->part[p].shape);
        mem_free(v->part[p].range);
    }
    mem_free(v->part);
    mem_free(v->opt);
    mem_free(v->own);
    memset(v, 0, sizeof *v);
}

// Using.

// Rounds count from 1, and so do turns of `stay` rounds.
static uint32_t turns(const struct view_inst *v, uint32_t round)
{
    return (round + v->stay - 1) / v->stay;
}

uint32_t view_turn(const struct view_inst *v, uint32_t client, uint32_t round)
{
    uint32_t turn = turns(v, round);
    if (v->own)
        return v->own[client];
    return v->row->mixed ? shape_turn(client, turn, v->n_parts)
                         : (turn + v->n_parts - 1) % v->n_parts;
}

bool view_stays(const struct view_inst *v, uint32_t client, uint32_t from, uint32_t to)
{
    uint32_t now = view_turn(v, client, to);
    for (uint32_t r = to; v->n_parts > 1 && r-- > from;)
        if (view_turn(v, client, r) != now)
            return false;
    return true;
}

struct codec_key view_key(const struct view_inst *v, uint64_t seed, uint32_t client, uint32_t round,
                          int vector)
{
    uint64_t stream = (uint64_t)vector << 56 | (uint64_t)view_turn(v, client, round) << 40;
    uint32_t earlier = turns(v, round) / (v->own ? 1 : v->n_parts) * v->stay;
    return (struct codec_key){.seed = seed ^ stream,
                              .client = client,
                              .version = earlier + (round + v->stay - 1) % v->stay};
}

const struct shape_range *view_trained(const struct view_inst *v, uint32_t client, uint32_t round,
                                       int *n_ranges)
{
    const struct view_part *p = &v->part[view_turn(v, client, round)];
    *n_ranges = v->row->frozen ? p->n_ranges : 0;
    return v->row->frozen ? p->range : NULL;
}

const struct view_part *view_own(const struct view_inst *v, uint32_t client)
{
    return v->cut ? &v->part[v->own[client]] : NULL;
}

void view_gather(const struct view_part *p, const float *full, float *part)
{
    for (int i = 0; i < p->n_ranges; i++) {
        size_t n = p->range[i].to - p->range[i].from;
        memcpy(part, full + p->range[i].from, n * sizeof *part);
        part += n;
    }
}

void view_scatter(const struct view_part *p, const float *part, float *full)
{
    for (int i = 0; i < p->n_ranges; i++) {
        size_t n = p->range[i].to - p->range[i].from;
        memcpy(full + p->range[i].from, part, n * sizeof *part);
        part += n;
    }
}

static size_t most_of(const struct view_inst *v, size_t (*of)(const struct codec_inst *c))
{
    size_t most = 0;
    for (uint32_t p = 0; p < v->n_parts; p++)
        for (int k = 0; k < v->n_vectors; k++) {
            size_t n = of(v->part[p].vector[k].codec);
            most = n > most ? n : most;
        }
    return most;
}

size_t view_scratch_bytes(const struct view_inst *v)
{
    return most_of(v, codec_scratch_bytes);
}

size_t view_decode_scratch(const struct view_inst *v)
{
    return most_of(v, codec_decode_scratch);
}

size_t view_bound(const struct view_inst *v)
{
    size_t most = 0;
    for (uint32_t p = 0; p < v->n_parts; p++) {
        size_t n = vectors_head_bytes(v->n_vectors);
        for (int k = 0; k < v->n_vectors; k++)
            n += codec_bound(v->part[p].vector[k].codec);
        most = n > most ? n : most;
    }
    return most;
}

unsigned view_needs(const struct view_inst *v)
{
    unsigned needs = 0;
    for (int k = 0; k < v->n_vectors; k++)
        needs |= codec_needs(v->part[0].vector[k].codec);
    return needs;
}

size_t view_down_floats(const struct view_inst *v)
{
    return v->row->only ? v->part[0].shape.n_values : v->shape->n_values;
}
