#include "base/fmath.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/inner.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

const char *const model_recomputes[] = {
    [MODEL_KEEP_ALL] = "none", [MODEL_KEEP_LAYER] = "layer", NULL};
const char *const model_dtypes[] = {
    [MODEL_DTYPE_AUTO] = "auto", [MODEL_DTYPE_F32] = "fp32",      [MODEL_DTYPE_BF16] = "bf16",
    [MODEL_DTYPE_F16] = "fp16",  [MODEL_DTYPE_Q8] = "q8",         [MODEL_DTYPE_Q4] = "q4",
    [MODEL_DTYPE_NF4] = "nf4",   [MODEL_DTYPE_STORED] = "stored", NULL};
static const char *const optim_names[] = {[OPTIM_ADAMW] = "adamw", [OPTIM_SGD] = "sgd", NULL};

const struct opt model_options[] = {
    OPT_STRING(
        struct model_params, path, "model.path", MODEL_BUILTIN,
        "weights: a llama2.c .bin, a .gguf, a Hugging Face directory, our own .safetensors, or the "
        "base model inside the program"),
    OPT_STRING(struct model_params, others, "model.others", "",
               "clients with other backbones, SHARE:PATH,..., as in "
               "0.3:small.safetensors,0.2:large.safetensors; the rest of them have model.path"),
    OPT(struct model_params, lora_rank, "model.lora_rank", "8", 0, 1024, "", "rank of the adapter"),
    OPT(struct model_params, lora_alpha, "model.lora_alpha", "16", 0, 1e6, "",
        "the adapter adds alpha / rank * B A x"),
    OPT_STRING(struct model_params, lora_targets, "model.lora_targets", "all",
               "projections with an adapter: all, or some of q,k,v,o,gate,up,down"),
    OPT_ENUM(struct model_params, recompute, "model.recompute", "none", model_recomputes,
             "layer: keep only the input of each layer and compute the rest again in backward"),
    OPT_ENUM(
        struct model_params, dtype, "model.dtype", "auto", model_dtypes,
        "how weights are held: auto: small models fp32, others as stored (a GGUF file's blocks "
        "on the CPU); q8, q4, nf4: quantised at load; arithmetic is as dev.math says"),
};
const int model_option_count = ARRAY_LEN(model_options);

const struct opt optim_options[] = {
    OPT_ENUM(struct optim_params, kind, "optim.kind", "adamw", optim_names, "local optimizer"),
    OPT(struct optim_params, lr, "optim.lr", "0.004", 0, 1e3, "", "local learning rate"),
    OPT(struct optim_params, beta1, "optim.beta1", "0.9", 0, 0.999999, "",
        "adamw: decay of the mean"),
    OPT(struct optim_params, beta2, "optim.beta2", "0.999", 0, 0.999999, "",
        "adamw: decay of the square"),
    OPT(struct optim_params, eps, "optim.eps", "1e-8", 1e-20, 1, "", "adamw: added to the root"),
    OPT(struct optim_params, weight_decay, "optim.weight_decay", "0", 0, 10, "",
        "decoupled for adamw, L2 for sgd"),
    OPT(struct optim_params, momentum, "optim.momentum", "0", 0, 0.9999, "", "sgd: momentum"),
    OPT(struct optim_params, clip, "optim.clip", "0", 0, 1e6, "",
        "largest norm of the gradient, 0 = no limit"),
};
const int optim_option_count = ARRAY_LEN(optim_options);

// Models up to this many values keep every W^T packed, in fp32.
#define SMALL_VALUES ((size_t)2 << 20)

static const struct {
    const char *name;
    int32_t lin;
} target[] = {{"q", LIN_QKV},   {"k", LIN_QKV}, {"v", LIN_QKV},    {"o", LIN_O},
              {"gate", LIN_GU}, {"up", LIN_GU}, {"down", LIN_DOWN}};
enum { TARGETS = ARRAY_LEN(target) };

static int first_target(int lin)
{
    int t = 0;
    while (target[t].lin != lin)
        t++;
    return t;
}

// Of model.part.
static int32_t part_of(int32_t layer, int t)
{
    return 1 + TARGETS * layer + t;
}

static int32_t target_rows(const struct model_config *c, int t)
{
    const int32_t rows[TARGETS] = {
        model_q_cols(c), model_kv_cols(c), model_kv_cols(c), c->dim, c->hidden, c->hidden, c->dim};
    return rows[t];
}

static int32_t lin_rows(const struct model_config *c, int lin)
{
    const int32_t rows[LINS] = {model_qkv_cols(c), c->dim, 2 * c->hidden, c->dim};
    return rows[lin];
}

static int32_t lin_cols(const struct model_config *c, int lin)
{
    const int32_t cols[LINS] = {c->dim, model_q_cols(c), c->dim, c->hidden};
    return cols[lin];
}

// "all" or a list; sets bit t for target t.
static int parse_targets(const char *text, unsigned *mask, struct err *err)
{
    *mask = (1u << TARGETS) - 1;
    if (!strcmp(text, "all"))
        return 0;
    *mask = 0;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ",+ ");
        unsigned bit = 0;
        for (int t = 0; t < TARGETS; t++)
            if (strlen(target[t].name) == n && !memcmp(target[t].name, p, n))
                bit = 1u << t;
        if (!bit)
            return err_set(err,
                           "model.lora_targets = %s: '%.*s' is none of q,k,v,o,gate,up,down, all",
                           text, (int)n, p);
        *mask |= bit;
        p += n;
        p += strspn(p, ",+ ");
    }
    return *mask ? 0 : err_set(err, "model.lora_targets is empty: name a target or say all");
}

// What other families have beside a Llama.
static int check_traits(const struct model_config *c, struct err *err)
{
    const struct model_rope *r = &c->rope;
    if ((r->kind == MODEL_ROPE_LINEAR || r->kind == MODEL_ROPE_LLAMA3) &&
        !(r->factor >= 1 && r->factor <= 1e6))
        return err_set(err, "rope factor %g is not within 1 and 1e6", r->factor);
    if (r->kind == MODEL_ROPE_LLAMA3 &&
        !(r->low > 0 && r->high > r->low && r->high < 1e6 && r->original >= 1))
        return err_set(err, "rope factors from %g to %g for %g positions make no sense", r->low,
                       r->high, r->original);
    for (int32_t i = 0; i < r->n_divisors; i++)
        if (!(r->divisor[i] >= 1e-6f && r->divisor[i] <= 1e6f))
            return err_set(err, "divisor %d of positions is %g", i, (double)r->divisor[i]);
    if (r->kind == MODEL_ROPE_DIVISORS && r->n_divisors != c->head_dim / 2)
        return err_set(err, "%d divisors of positions for %d pairs", r->n_divisors,
                       c->head_dim / 2);
    if (c->window < 0 || (c->window > 0 && !(c->window_theta >= 1 && c->window_theta <= 1e12)))
        return err_set(err, "a window of %d tokens with rope_theta %g makes no sense", c->window,
                       c->window_theta);
    if (!(c->attn_scale >= 0 && c->attn_scale <= 1e6))
        return err_set(err, "scores times %g make no sense", c->attn_scale);
    return 0;
}

int model_config_check(const struct model_config *c, struct err *err)
{
    const struct {
        const char *name;
        int32_t value, most;
    } field[] = {{"dim", c->dim, 1 << 16},
                 {"hidden", c->hidden, 1 << 18},
                 {"layers", c->layers, MODEL_LAYERS_MAX},
                 {"heads", c->heads, 1024},
                 {"kv_heads", c->kv_heads, 1024},
                 {"head_dim", c->head_dim, 1024},
                 {"vocab", c->vocab, 1 << 24},
                 {"max_positions", c->max_positions, 1 << 24}};
    for (size_t i = 0; i < ARRAY_LEN(field); i++)
        if (field[i].value < 1 || field[i].value > field[i].most)
            return err_set(err, "%s is %d, not within 1 and %d", field[i].name, field[i].value,
                           field[i].most);
    if (c->heads % c->kv_heads)
        return err_set(err, "%d heads cannot share %d key-value heads evenly", c->heads,
                       c->kv_heads);
    if (c->head_dim % 2)
        return err_set(err, "head_dim %d is odd: rotary positions turn pairs", c->head_dim);
    if (!(c->rope_theta >= 1 && c->rope_theta <= 1e12))
        return err_set(err, "rope_theta %g is not within 1 and 1e12", c->rope_theta);
    if (check_traits(c, err))
        return -1;
    if (!(c->norm_eps > 0 && c->norm_eps < 1))
        return err_set(err, "norm epsilon %g is not within 0 and 1", c->norm_eps);
    return 0;
}

// Floats that a layer's traits add: bias, norms of heads, of outputs.
static int32_t extra_floats(const struct model_config *c)
{
    const struct model_traits *t = &c->traits;
    return (t->qkv_bias ? model_qkv_cols(c) : 0) + (t->head_norm ? 2 * c->head_dim : 0) +
           (t->out_norm ? 2 * c->dim : 0);
}

uint64_t model_config_values(const struct model_config *c)
{
    // No product exceeds 2^62: model_config_check bounds the factors.
    uint64_t dim = (uint64_t)c->dim, hidden = (uint64_t)c->hidden, head = (uint64_t)c->vocab * dim;
    uint64_t q = (uint64_t)model_q_cols(c), kv = (uint64_t)model_kv_cols(c);
    uint64_t layer = 2 * dim + 2 * dim * q + 2 * dim * kv + 3 * dim * hidden;
    layer += (uint64_t)extra_floats(c);
    return head * (c->tied ? 1 : 2) + (uint64_t)c->layers * layer + dim;
}

// Gives every matrix and norm its place; returns the number of matrix values.
static size_t lay_out(struct model *m)
{
    const struct model_config *c = &m->cfg;
    size_t at = 0;
    m->embed_at = at;
    at += (size_t)c->vocab * (size_t)c->dim;
    for (int32_t l = 0; l < c->layers; l++)
        for (int i = 0; i < LINS; i++) {
            m->layer[l].at[i] = at;
            at += (size_t)lin_rows(c, i) * (size_t)lin_cols(c, i);
        }
    m->head_at = c->tied ? m->embed_at : at;
    return at + (c->tied ? 0 : (size_t)c->vocab * (size_t)c->dim);
}

static struct kernel_weight weight_at(const struct model *m, size_t at, int32_t part, int32_t rows,
                                      int32_t cols)
{
    if (m->part)
        return (struct kernel_weight){
            .blocks = m->part + part, .rows = rows, .cols = cols, .ld = cols};
    return (struct kernel_weight){.w = (char *)m->weights + at * kernel_dtype_bytes(m->dtype),
                                  .dtype = m->dtype,
                                  .rows = rows,
                                  .cols = cols,
                                  .ld = cols};
}

// Adapter tensors: in each group of projections with one input all A, then all B, so that the A of
// a group are one matrix.
static void lay_out_adapter(struct model *m, unsigned mask)
{
    uint32_t rank = (uint32_t)m->params.lora_rank;
    shape_init(&m->shape);
    for (int32_t l = 0; l < m->cfg.layers; l++)
        for (int lin = 0; lin < LINS; lin++) {
            struct kernel_linear *k = &m->layer[l].lin[lin];
            int32_t row0 = 0;
            k->scale = rank ? (float)(m->params.lora_alpha / rank) : 0.0f;
            for (int t = 0; t < TARGETS; t++) {
                if (target[t].lin != lin)
                    continue;
                int32_t rows = target_rows(&m->cfg, t);
                if (rank && mask >> t & 1)
                    k->lora[k->n_lora++] = (struct kernel_lora){
                        .row0 = row0, .rows = rows, .rank = (int32_t)rank, .b = (size_t)t};
                row0 += rows;
            }
            k->ranks = k->n_lora * (int32_t)rank;
            k->a = m->shape.n_values;
            char text[48];
            for (int i = 0; i < k->n_lora; i++) {
                snprintf(text, sizeof text, "layers.%d.%s.A", l, target[k->lora[i].b].name);
                shape_add(&m->shape, text, rank, (uint32_t)lin_cols(&m->cfg, lin), SHAPE_LORA_A);
            }
            for (int i = 0; i < k->n_lora; i++) {
                snprintf(text, sizeof text, "layers.%d.%s.B", l, target[k->lora[i].b].name);
                k->lora[i].b = m->shape.n_values;
                shape_add(&m->shape, text, (uint32_t)k->lora[i].rows, rank, SHAPE_LORA_B);
            }
        }
    shape_seal(&m->shape);
}

static int32_t choose_dtype(const struct model *m, int32_t stored)
{
    switch (m->params.dtype) {
    case MODEL_DTYPE_F32:
        return KERNEL_F32;
    case MODEL_DTYPE_BF16:
        return KERNEL_BF16;
    case MODEL_DTYPE_F16:
        return KERNEL_F16;
    case MODEL_DTYPE_Q8:
    case MODEL_DTYPE_Q4:
    case MODEL_DTYPE_NF4:
        return MODEL_BLOCKS;
    default: {
        bool few = m->params.dtype == MODEL_DTYPE_AUTO && m->n_matrix <= SMALL_VALUES;
        return few || (stored == MODEL_BLOCKS && !m->dev->row->host) ? KERNEL_F32 : stored;
    }
    }
}

// The type of block that weights are quantised to, or NULL: they stay as they are.
static const struct block_row *quantised(const struct model *m)
{
    return m->params.dtype == MODEL_DTYPE_Q8    ? block_find(BLOCK_Q8_0)
           : m->params.dtype == MODEL_DTYPE_Q4  ? block_find(BLOCK_Q4_1)
           : m->params.dtype == MODEL_DTYPE_NF4 ? block_find(BLOCK_NF4)
                                                : NULL;
}

static int check_quantised(const struct model *m, struct err *err)
{
    const struct block_row *type = quantised(m);
    const int32_t cols[] = {m->cfg.dim, m->cfg.hidden, model_q_cols(&m->cfg)};
    if (type && !m->dev->row->host)
        return err_set(err,
                       "model.dtype = %s: blocks are held on the CPU only, not with dev.kind "
                       "= %s",
                       model_dtypes[m->params.dtype], m->dev->row->name);
    for (size_t i = 0; type && i < ARRAY_LEN(cols); i++)
        if (cols[i] % type->values)
            return err_set(err, "model.dtype = %s: %d columns are no whole blocks of %d",
                           model_dtypes[m->params.dtype], cols[i], type->values);
    return 0;
}

// Rows and columns of every matrix that is held as blocks. Those that are quantised here lie one
// after another; returns their bytes.
static size_t lay_out_parts(struct model *m)
{
    const struct block_row *type = quantised(m);
    size_t bytes = 0;
    m->part = mem_alloc(MEM_OTHER, (size_t)model_slots(m) * sizeof *m->part);
    for (int32_t i = 0; i < model_slots(m); i++) {
        struct slot s = model_slot(m, i);
        if (s.norm)
            continue;
        struct block_rows *p = &m->part[s.part];
        *p = (struct block_rows){.type = type, .rows = s.rows, .cols = s.cols};
        bytes += type ? (size_t)s.rows * block_row_bytes(p) : 0;
    }
    return bytes;
}

static void place_parts(struct model *m)
{
    const uint8_t *at = m->weights;
    for (int32_t i = 0; i < model_slots(m) && quantised(m); i++) {
        struct slot s = model_slot(m, i);
        if (s.norm)
            continue;
        m->part[s.part].at = at;
        at += (size_t)s.rows * block_row_bytes(&m->part[s.part]);
    }
}

// Where a layer's matrices and vectors lie.
static void lay_out_layer(struct model *m, int32_t l)
{
    const struct model_config *c = &m->cfg;
    struct layer *y = &m->layer[l];
    float *extra = m->norms + (ptrdiff_t)(2 * c->layers + 1) * c->dim;
    extra += (ptrdiff_t)l * extra_floats(c);
    for (int i = 0; i < LINS; i++)
        y->lin[i].w =
            weight_at(m, y->at[i], part_of(l, first_target(i)), lin_rows(c, i), lin_cols(c, i));
    y->norm_att = m->norms + (ptrdiff_t)(2 * l) * c->dim;
    y->norm_mlp = y->norm_att + c->dim;
    y->windowed = model_windowed(c, l);
    if (c->traits.qkv_bias) {
        y->bias = extra;
        extra += model_qkv_cols(c);
    }
    if (c->traits.head_norm) {
        y->norm_heads = extra;
        extra += 2 * c->head_dim;
    }
    if (c->traits.out_norm) {
        y->norm_att_out = extra;
        y->norm_mlp_out = extra + c->dim;
    }
}

struct model *model_shell(struct dev *dev, const struct model_params *p,
                          const struct model_config *c, int32_t stored, struct err *err)
{
    unsigned mask;
    if (parse_targets(p->lora_targets, &mask, err) || model_config_check(c, err))
        return NULL;
    struct model *m = mem_alloc(MEM_OTHER, sizeof *m);
    m->dev = dev;
    m->params = *p;
    m->cfg = *c;
    m->layer = mem_alloc(MEM_OTHER, (size_t)c->layers * sizeof *m->layer);
    m->n_matrix = lay_out(m);
    m->n_norm =
        ((size_t)c->layers * 2 + 1) * (size_t)c->dim + (size_t)c->layers * (size_t)extra_floats(c);
    m->dtype = choose_dtype(m, stored);
    if (check_quantised(m, err)) {
        mem_free(m->layer);
        mem_free(m);
        return NULL;
    }
    size_t matrix_bytes =
        m->dtype == MODEL_BLOCKS ? lay_out_parts(m) : m->n_matrix * kernel_dtype_bytes(m->dtype);
    matrix_bytes = (matrix_bytes + 3) / 4 * 4;
    m->weights = dev->row->alloc(dev, MEM_WEIGHTS,
                                 matrix_bytes + (m->n_norm + KERNEL_SLACK) * sizeof(float));
    m->norms = (float *)(void *)((char *)m->weights + matrix_bytes);
    if (m->part)
        place_parts(m);
    m->embed = weight_at(m, m->embed_at, 0, c->vocab, c->dim);
    m->head = weight_at(m, m->head_at, c->tied ? 0 : 1 + TARGETS * c->layers, c->vocab, c->dim);
    for (int32_t l = 0; l < c->layers; l++)
        lay_out_layer(m, l);
    m->norm_final = m->norms + (ptrdiff_t)(2 * c->layers) * c->dim;
    lay_out_adapter(m, mask);
    lanes_open(m);
    return m;
}

// Packed copies: the projections in order, then the head.
void model_ready(struct model *m)
{
    const struct model_config *c = &m->cfg;
    if (!m->dev->row->host || m->n_matrix > SMALL_VALUES || m->part)
        return;
    size_t n = kernel_packed_floats(c->vocab, c->dim), at = 0;
    for (int i = 0; i < LINS; i++)
        n += (size_t)c->layers * kernel_packed_floats(lin_rows(c, i), lin_cols(c, i));
    if (!m->packed)
        m->packed = mem_alloc(MEM_WEIGHTS, n * sizeof *m->packed);
    for (int32_t l = 0; l < c->layers; l++)
        for (int i = 0; i < LINS; i++) {
            struct kernel_weight *w = &m->layer[l].lin[i].w;
            kernel_pack_weight(w, m->packed + at);
            w->packed = m->packed + at;
            at += kernel_packed_floats(w->rows, w->cols);
        }
    kernel_pack_weight(&m->head, m->packed + at);
    m->head.packed = m->packed + at;
}

// Where the file lies, and who reads it; NULL with err: nobody does.
static const struct loader *find_loader(const char *path, char *place, size_t size, struct err *err)
{
    char full[MODEL_PATH];
    if (!path[0]) {
        err_set(err, "model.path is empty: name a llama2.c .bin, a .gguf, a Hugging Face "
                     "directory or a .safetensors of ours");
        return NULL;
    }
    model_place(path, full, sizeof full);
    if (strlen(full) >= size) {
        err_set(err, "model.path = %s: %s is too long a path", path, full);
        return NULL;
    }
    if (strcmp(full, path) != 0 && access(full, R_OK)) {
        err_set(err,
                "model.path = %s: neither a file nor %s; fetch it with scripts/get-model.sh %s",
                path, full, path);
        return NULL;
    }
    memcpy(place, full, strlen(full) + 1);
    for (int i = 0; loader_table[i]; i++)
        if (loader_table[i]->takes(place))
            return loader_table[i];
    err_set(err, "model.path = %s: there is no such file, or it is no kind of model known here",
            path);
    return NULL;
}

struct model *model_open(struct dev *dev, const struct model_params *p, struct err *err)
{
    struct model_params here = *p;
    const struct loader *l = find_loader(p->path, here.path, sizeof here.path, err);
    return l ? l->load(dev, &here, err) : NULL;
}

int model_read_config(const char *path, struct model_config *c, struct err *err)
{
    char place[sizeof(((struct model_params *)0)->path)];
    const struct loader *l = find_loader(path, place, sizeof place, err);
    return l ? l->config(place, c, err) : -1;
}

static void fill_normal(struct model *m, const struct slot *s, uint64_t seed, uint32_t id,
                        double sigma)
{
    struct rng r = rng_stream(seed, RNG_INIT, id, 1, 0);
    float row[256];
    size_t n = (size_t)s->rows * (size_t)s->cols;
    for (size_t i = 0; i < n; i += ARRAY_LEN(row)) {
        size_t some = n - i < ARRAY_LEN(row) ? n - i : ARRAY_LEN(row);
        for (size_t j = 0; j < some; j++)
            row[j] = (float)(sigma * rng_normal(&r));
        model_slot_put(m, s, i, some, row);
    }
}

struct model *model_create(struct dev *dev, const struct model_params *p,
                           const struct model_config *c, uint64_t seed, struct err *err)
{
    struct model *m = model_shell(dev, p, c, KERNEL_F32, err);
    if (!m)
        return NULL;
    for (int32_t i = 0; i < model_slots(m); i++) {
        struct slot s = model_slot(m, i);
        bool out = strstr(s.name, "o_proj") || strstr(s.name, "down_proj");
        double sigma = strstr(s.name, "embed") || strstr(s.name, "lm_head")
                           ? 0.05
                           : 0.7 / sqrt((double)s.cols) / (out ? sqrt(2.0 * c->layers) : 1.0);
        const float one = 1.0f, none = 0.0f;
        if (!s.norm)
            fill_normal(m, &s, seed, (uint32_t)i, sigma);
        for (int32_t j = 0; j < s.cols && s.norm; j++)
            model_slot_put(m, &s, (size_t)j, 1, strstr(s.name, ".bias") ? &none : &one);
    }
    model_ready(m);
    return m;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    lanes_free(m);
    places_free(m);
    for (int32_t j = 0; j < m->jobs_cap; j++)
        loan_free(m, &m->job[j].loan);
    loan_free(m, &m->sum_loan);
    loan_free(m, &m->gen_loan);
    if (m->room)
        m->dev->row->unstage(m->dev, m->room);
    void *blocks[] = {m->weights, m->cosine[0], m->sine[0],  m->cosine[1],
                      m->sine[1], m->grads,     m->full_grad};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        if (blocks[i])
            m->dev->row->free(m->dev, blocks[i]);
    void *all[] = {m->start, m->packed, m->slice, m->layer, m->job, m->part};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        mem_free(all[i]);
    if (m->map)
        munmap((void *)m->map, m->map_bytes);
    shape_free(&m->shape);
    mem_free(m);
}

const struct model_config *model_config(const struct model *m)
{
    return &m->cfg;
}

const struct shape *model_shape(const struct model *m)
{
    return &m->shape;
}

size_t model_weight_count(const struct model *m)
{
    return m->n_matrix + m->n_norm;
}

struct shape_range model_layers_from(const struct model *m, int32_t layer)
{
    return (struct shape_range){m->layer[layer].lin[0].a, m->shape.n_values};
}

void model_init_adapter(const struct model *m, uint64_t seed, float *adapter)
{
    for (uint32_t i = 0; i < m->shape.n_tensors; i++) {
        const struct shape_tensor *t = &m->shape.tensors[i];
        struct rng r = rng_stream(seed, RNG_INIT, i, 0, 0);
        size_t n = (size_t)t->rows * t->cols;
        double sigma = 1.0 / sqrt((double)t->cols);
        for (size_t j = 0; j < n; j++)
            adapter[t->offset + j] =
                t->kind == SHAPE_LORA_A ? (float)(sigma * rng_normal(&r)) : 0.0f;
    }
}

// Tensors by name.

// What a slot of a layer is: rows of a projection, or a vector among the norms.
enum vector { MATRIX, NORM_ATT, NORM_MLP, BIAS, NORM_HEADS, NORM_ATT_OUT, NORM_MLP_OUT };

struct layer_slot {
    const char *name;
    enum vector what;
    int32_t target; // of a matrix or a bias; of NORM_HEADS 0 for queries, 1 for keys
};

// Those that every family has, in the order of checkpoints that fstq writes, then what traits add.
static const struct layer_slot common_slots[] = {
    {"input_layernorm.weight", NORM_ATT, 0}, {"self_attn.q_proj.weight", MATRIX, 0},
    {"self_attn.k_proj.weight", MATRIX, 1},  {"self_attn.v_proj.weight", MATRIX, 2},
    {"self_attn.o_proj.weight", MATRIX, 3},  {"post_attention_layernorm.weight", NORM_MLP, 0},
    {"mlp.gate_proj.weight", MATRIX, 4},     {"mlp.up_proj.weight", MATRIX, 5},
    {"mlp.down_proj.weight", MATRIX, 6},
};
static const struct layer_slot bias_slots[] = {
    {"self_attn.q_proj.bias", BIAS, 0},
    {"self_attn.k_proj.bias", BIAS, 1},
    {"self_attn.v_proj.bias", BIAS, 2},
};
static const struct layer_slot head_norm_slots[] = {
    {"self_attn.q_norm.weight", NORM_HEADS, 0},
    {"self_attn.k_norm.weight", NORM_HEADS, 1},
};
// With these, the norm before the MLP has another name, and its own is that of attention's output.
static const char norm_before_mlp[] = "pre_feedforward_layernorm.weight";
static const struct layer_slot out_norm_slots[] = {
    {"post_attention_layernorm.weight", NORM_ATT_OUT, 0},
    {"post_feedforward_layernorm.weight", NORM_MLP_OUT, 0},
};

// Slot j of a layer, or NULL beyond the last.
static const struct layer_slot *layer_slot(const struct model_config *c, int32_t j)
{
    const struct {
        bool has;
        const struct layer_slot *slot;
        size_t n;
    } list[] = {{true, common_slots, ARRAY_LEN(common_slots)},
                {c->traits.qkv_bias, bias_slots, ARRAY_LEN(bias_slots)},
                {c->traits.head_norm, head_norm_slots, ARRAY_LEN(head_norm_slots)},
                {c->traits.out_norm, out_norm_slots, ARRAY_LEN(out_norm_slots)}};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        if (!list[i].has)
            continue;
        if (j < (int32_t)list[i].n)
            return &list[i].slot[j];
        j -= (int32_t)list[i].n;
    }
    return NULL;
}

static int32_t slots_per_layer(const struct model_config *c)
{
    int32_t n = 0;
    while (layer_slot(c, n))
        n++;
    return n;
}

int32_t model_slots(const struct model *m)
{
    return 2 + slots_per_layer(&m->cfg) * m->cfg.layers + (m->cfg.tied ? 0 : 1);
}

// A vector: its length and where it lies.
static void vector_slot(const struct model *m, int32_t l, const struct layer_slot *part,
                        struct slot *s)
{
    const struct model_config *c = &m->cfg;
    const struct layer *y = &m->layer[l];
    const float *const at[] = {[NORM_ATT] = y->norm_att,
                               [NORM_MLP] = y->norm_mlp,
                               [BIAS] = y->bias,
                               [NORM_HEADS] = y->norm_heads,
                               [NORM_ATT_OUT] = y->norm_att_out,
                               [NORM_MLP_OUT] = y->norm_mlp_out};
    s->norm = true;
    s->plus = c->traits.norm_plus && part->what != BIAS;
    s->rows = 0;
    s->cols = part->what == BIAS         ? target_rows(c, part->target)
              : part->what == NORM_HEADS ? c->head_dim
                                         : c->dim;
    s->at = (size_t)(at[part->what] - m->norms);
    for (int32_t t = 0; t < part->target; t++)
        s->at += (size_t)(part->what == BIAS ? target_rows(c, t) : c->head_dim);
}

static void matrix_slot(const struct model *m, int32_t l, const struct layer_slot *part,
                        struct slot *s)
{
    const struct model_config *c = &m->cfg;
    int32_t lin = target[part->target].lin;
    s->rows = target_rows(c, part->target);
    s->cols = lin_cols(c, lin);
    s->at = m->layer[l].at[lin];
    s->part = part_of(l, part->target);
    for (int t = 0; t < part->target; t++)
        if (target[t].lin == lin)
            s->at += (size_t)target_rows(c, t) * (size_t)s->cols;
}

struct slot model_slot(const struct model *m, int32_t i)
{
    const struct model_config *c = &m->cfg;
    int32_t each = slots_per_layer(c);
    struct slot s = {.rows = c->vocab, .cols = c->dim};
    if (i == 0) {
        snprintf(s.name, sizeof s.name, "model.embed_tokens.weight");
        s.at = m->embed_at;
        return s;
    }
    int32_t l = (i - 1) / each, j = (i - 1) % each;
    if (l == c->layers) {
        snprintf(s.name, sizeof s.name, j == 0 ? "model.norm.weight" : "lm_head.weight");
        s.norm = j == 0;
        s.plus = s.norm && c->traits.norm_plus;
        s.rows = s.norm ? 0 : c->vocab;
        s.at = s.norm ? (size_t)(2 * c->layers) * (size_t)c->dim : m->head_at;
        s.part = part_of(l, 0);
        return s;
    }
    const struct layer_slot *part = layer_slot(c, j);
    bool renamed = part->what == NORM_MLP && c->traits.out_norm;
    snprintf(s.name, sizeof s.name, "model.layers.%d.%s", l,
             renamed ? norm_before_mlp : part->name);
    if (part->what == MATRIX)
        matrix_slot(m, l, part, &s);
    else
        vector_slot(m, l, part, &s);
    return s;
}

enum { CHUNK = 4096 }; // values that go over at a time, where host code may not write them

// A slot's values from `at` on, whole blocks, among its blocks.
static uint8_t *block_place(const struct model *m, const struct slot *s, size_t at)
{
    const struct block_rows *p = &m->part[s->part];
    size_t values = (size_t)p->type->values;
    assert(at % values == 0);
    return (uint8_t *)p->at + at / values * (size_t)p->type->bytes;
}

static char *slot_place(const struct model *m, const struct slot *s, size_t at)
{
    return s->norm ? (char *)(m->norms + s->at + at)
                   : (char *)m->weights + (s->at + at) * kernel_dtype_bytes(m->dtype);
}

void model_slot_put(struct model *m, const struct slot *s, size_t from, size_t n, const float *x)
{
    int32_t dtype = s->norm ? KERNEL_F32 : m->dtype;
    float chunk[CHUNK];
    if (m->part && !s->norm) {
        const struct block_row *type = m->part[s->part].type;
        assert(!m->map && n % (size_t)type->values == 0);
        block_encode(type, x, n / (size_t)type->values, block_place(m, s, from));
        return;
    }
    if (m->dev->row->host) {
        kernel_from_f32(dtype, x, n, slot_place(m, s, from));
        return;
    }
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t some = n - i < CHUNK ? n - i : CHUNK;
        kernel_from_f32(dtype, x + i, some, chunk);
        dev_put(m->dev, slot_place(m, s, from + i), chunk, some * kernel_dtype_bytes(dtype));
    }
}

size_t model_nonfinite(const float *x, size_t n)
{
    float sum = 0; // is 0 only where all are finite
    size_t i = 0;
    for (size_t j = 0; j < n; j++)
        sum += x[j] - x[j];
    while (sum != 0 && i < n && isfinite(x[i]))
        i++;
    return sum == 0 ? n : i;
}

void model_slot_get(const struct model *m, const struct slot *s, size_t from, size_t n, float *x)
{
    int32_t dtype = s->norm ? KERNEL_F32 : m->dtype;
    float chunk[CHUNK];
    if (m->part && !s->norm) {
        const struct block_row *type = m->part[s->part].type;
        assert(n % (size_t)type->values == 0);
        block_decode(type, block_place(m, s, from), n / (size_t)type->values, x);
        return;
    }
    if (m->dev->row->host) {
        kernel_to_f32(dtype, slot_place(m, s, from), n, x);
        return;
    }
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t some = n - i < CHUNK ? n - i : CHUNK;
        dev_get(m->dev, chunk, slot_place(m, s, from + i), some * kernel_dtype_bytes(dtype));
        kernel_to_f32(dtype, chunk, some, x + i);
    }
}
