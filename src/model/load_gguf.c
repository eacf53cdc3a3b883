// Weights from a GGUF file, mapped into memory: blocks are decoded as they are read. Every key that
// changes results is known or refused.
#include "base/fsio.h"
#include "base/gguf.h"
#include "base/mem.h"
#include "dev/dev.h"
#include "model/family.h"
#include "model/inner.h"
#include "model/load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// The config.

static int key_int(const struct gguf *g, const char *name, int32_t dflt, int32_t *out,
                   struct err *err)
{
    const struct gguf_key *k = gguf_find(g, name);
    int64_t v = dflt;
    if (k ? gguf_int(k, &v) : dflt < 0)
        return err_set(err, "key %s is %s", name, k ? "no whole number" : "missing");
    if (v < 0 || v > INT32_MAX)
        return err_set(err, "key %s = %lld is out of range", name, (long long)v);
    *out = (int32_t)v;
    return 0;
}

static int key_num(const struct gguf *g, const char *name, double dflt, double *out,
                   struct err *err)
{
    const struct gguf_key *k = gguf_find(g, name);
    *out = dflt;
    return k && gguf_num(k, out) ? err_set(err, "key %s is no finite number", name) : 0;
}

static const struct gguf_key *arch_key(const struct gguf *g, const char *arch, const char *name)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    return gguf_find(g, key);
}

// Keys of the architecture; what is not among them may change results.
static int refuse_keys(const struct gguf *g, const char *arch, struct err *err)
{
    static const char *const known[] = {"block_count",
                                        "context_length",
                                        "embedding_length",
                                        "feed_forward_length",
                                        "attention.head_count",
                                        "attention.head_count_kv",
                                        "attention.key_length",
                                        "attention.value_length",
                                        "attention.layer_norm_rms_epsilon",
                                        "attention.sliding_window",
                                        "attention.sliding_window_pattern",
                                        "rope.freq_base",
                                        "rope.freq_base_swa",
                                        "rope.dimension_count",
                                        "rope.scaling.type",
                                        "rope.scaling.factor",
                                        "vocab_size"};
    size_t len = strlen(arch);
    for (int32_t i = 0; i < g->n_keys; i++) {
        struct gguf_text name = g->key[i].name;
        bool ours = name.n <= len + 1 || memcmp(name.p, arch, len) != 0 || name.p[len] != '.';
        for (size_t k = 0; k < ARRAY_LEN(known) && !ours; k++)
            ours = gguf_is((struct gguf_text){name.p + len + 1, name.n - len - 1}, known[k]);
        if (!ours)
            return err_set(err, "key %.*s is not known here, and may change results", (int)name.n,
                           name.p);
    }
    return 0;
}

static int find_family(const struct gguf *g, int32_t *family, struct err *err)
{
    const struct gguf_key *arch = gguf_find(g, "general.architecture");
    size_t at = 0;
    struct gguf_text name =
        arch && arch->type == GGUF_STRING ? gguf_next(arch, &at) : (struct gguf_text){"none", 4};
    for (*family = 0; model_families[*family].name; ++*family)
        if (model_families[*family].gguf && gguf_is(name, model_families[*family].gguf))
            return 0;
    return err_set(err,
                   "general.architecture is %.*s: only llama, qwen2, qwen3 and gemma3 are known "
                   "here",
                   (int)(name.n < 60 ? name.n : 60), name.p);
}

static int read_sizes(const struct gguf *g, const char *a, struct model_config *c, struct err *err)
{
    int32_t rope_dims = 0, value_dims = 0;
    const struct {
        const char *name;
        int32_t *to;
    } size[] = {{"embedding_length", &c->dim},
                {"feed_forward_length", &c->hidden},
                {"block_count", &c->layers},
                {"attention.head_count", &c->heads},
                {"context_length", &c->max_positions}};
    char key[96];
    for (size_t i = 0; i < ARRAY_LEN(size); i++) {
        snprintf(key, sizeof key, "%s.%s", a, size[i].name);
        if (key_int(g, key, -1, size[i].to, err))
            return -1;
    }
    const struct {
        const char *name;
        int32_t *to, *dflt;
    } more[] = {{"attention.head_count_kv", &c->kv_heads, &c->heads},
                {"attention.key_length", &c->head_dim, &c->head_dim},
                {"attention.value_length", &value_dims, &c->head_dim},
                {"rope.dimension_count", &rope_dims, &c->head_dim}};
    c->head_dim = c->heads > 0 ? c->dim / c->heads : 0;
    for (size_t i = 0; i < ARRAY_LEN(more); i++) {
        snprintf(key, sizeof key, "%s.%s", a, more[i].name);
        if (key_int(g, key, *more[i].dflt, more[i].to, err))
            return -1;
    }
    if (value_dims != c->head_dim || rope_dims != c->head_dim)
        return err_set(err,
                       "heads of %d values whose positions turn %d, and %d per value: not "
                       "supported",
                       c->head_dim, rope_dims, value_dims);
    return 0;
}

// Frequencies are scaled by a factor, or have a divisor each.
static int read_scaling(const struct gguf *g, const uint8_t *bytes, size_t n, const char *a,
                        struct model_config *c, struct err *err)
{
    const struct gguf_key *type = arch_key(g, a, "rope.scaling.type");
    const struct gguf_tensor *t = gguf_tensor_find(g, "rope_freqs.weight");
    size_t at = 0;
    struct gguf_text name =
        type && type->type == GGUF_STRING ? gguf_next(type, &at) : (struct gguf_text){"none", 4};
    char key[96];
    snprintf(key, sizeof key, "%s.rope.scaling.factor", a);
    if (gguf_is(name, "linear")) {
        c->rope.kind = MODEL_ROPE_LINEAR;
        if (key_num(g, key, 1.0, &c->rope.factor, err))
            return -1;
    } else if (!gguf_is(name, "none")) {
        return err_set(err, "%s.rope.scaling.type is %.*s: only none and linear are known here", a,
                       (int)(name.n < 60 ? name.n : 60), name.p);
    }
    if (!t)
        return 0;
    if (strcmp(t->type->name, "F32") != 0 || t->n > MODEL_DIVISORS || c->rope.kind ||
        t->at + t->bytes > n)
        return err_set(err, "tensor rope_freqs.weight is not a list of at most %d F32",
                       MODEL_DIVISORS);
    c->rope.kind = MODEL_ROPE_DIVISORS;
    c->rope.n_divisors = (int32_t)t->n;
    memcpy(c->rope.divisor, bytes + t->at, (size_t)t->bytes);
    return 0;
}

static int read_window(const struct gguf *g, const char *a, struct model_config *c, struct err *err)
{
    bool pattern = model_families[c->family].windows == FAMILY_WINDOW_PATTERN;
    int32_t every = 6;
    char key[96];
    snprintf(key, sizeof key, "%s.attention.sliding_window", a);
    if (key_int(g, key, 0, &c->window, err))
        return -1;
    snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", a);
    if (key_int(g, key, 6, &every, err))
        return -1;
    snprintf(key, sizeof key, "%s.rope.freq_base_swa", a);
    if (key_num(g, key, 10000.0, &c->window_theta, err))
        return -1;
    if (c->window > 0 && !pattern)
        return err_set(err, "key %s.attention.sliding_window: only gemma3's is known here", a);
    if (pattern && c->layers == 62) // Gemma 3 27B: its scores have another scale, without a key
        return err_set(err, "gemma3 of 62 layers: the scale of its scores is not in the file");
    for (int32_t l = 0; l < c->layers && l < MODEL_LAYERS_MAX && c->window > 0; l++)
        if (every < 1 || (l + 1) % every != 0)
            family_window(c, l);
    return 0;
}

int gguf_config(const struct gguf *g, const uint8_t *bytes, size_t n, struct model_config *c,
                struct err *err)
{
    const struct gguf_tensor *embed = gguf_tensor_find(g, "token_embd.weight");
    int32_t family;
    char key[96];
    if (find_family(g, &family, err))
        return -1;
    const char *a = model_families[family].gguf;
    if (!embed || embed->dims != 2)
        return err_set(err, "tensor token_embd.weight is missing, or no matrix");
    family_begin(c, family);
    c->vocab = (int32_t)embed->dim[1];
    c->tied = !gguf_tensor_find(g, "output.weight");
    c->traits.norm_plus = false; // files hold the sum
    // Rows of q and k are ordered for pairs in architecture llama alone.
    c->rope_style = family == 0 ? KERNEL_ROPE_PAIR : KERNEL_ROPE_HALF;
    if (refuse_keys(g, a, err) || read_sizes(g, a, c, err))
        return -1;
    snprintf(key, sizeof key, "%s.rope.freq_base", a);
    if (key_num(g, key, c->rope_theta, &c->rope_theta, err))
        return -1;
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", a);
    if (key_num(g, key, 1e-5, &c->norm_eps, err) || read_scaling(g, bytes, n, a, c, err) ||
        read_window(g, a, c, err))
        return -1;
    return model_config_check(c, err);
}

// Tensors.

// The name that a slot has in GGUF files. plain: of families without norms of outputs, whose norm
// before the MLP has the name that elsewhere attention's output has.
static void gguf_name(const char *slot, bool plain, char *out, size_t size)
{
    static const char *const part[][2] = {{"self_attn.q_proj", "attn_q"},
                                          {"self_attn.k_proj", "attn_k"},
                                          {"self_attn.v_proj", "attn_v"},
                                          {"self_attn.o_proj", "attn_output"},
                                          {"self_attn.q_norm", "attn_q_norm"},
                                          {"self_attn.k_norm", "attn_k_norm"},
                                          {"input_layernorm", "attn_norm"},
                                          {"pre_feedforward_layernorm", "ffn_norm"},
                                          {"post_attention_layernorm", "post_attention_norm"},
                                          {"post_feedforward_layernorm", "post_ffw_norm"},
                                          {"mlp.gate_proj", "ffn_gate"},
                                          {"mlp.up_proj", "ffn_up"},
                                          {"mlp.down_proj", "ffn_down"}};
    const char *layer = strstr(slot, "layers."), *kind = strstr(slot, ".bias");
    snprintf(out, size, "%s",
             strstr(slot, "embed_tokens") ? "token_embd.weight"
             : strstr(slot, "lm_head")    ? "output.weight"
                                          : "output_norm.weight");
    for (size_t i = 0; i < ARRAY_LEN(part) && layer; i++)
        if (strstr(slot, part[i][0]))
            snprintf(out, size, "blk.%ld.%s%s", strtol(layer + 7, NULL, 10),
                     plain && strcmp(part[i][1], "post_attention_norm") == 0 ? "ffn_norm"
                                                                             : part[i][1],
                     kind ? kind : ".weight");
}

// The tensor of a slot, if it has the slot's shape.
static const struct gguf_tensor *slot_tensor(const struct model *m, const struct slot *s,
                                             const struct gguf *g, struct err *err)
{
    char name[96];
    gguf_name(s->name, !m->cfg.traits.out_norm, name, sizeof name);
    const struct gguf_tensor *t = gguf_tensor_find(g, name);
    if (!t)
        err_set(err, "tensor %s is missing", name);
    else if (t->dim[0] != s->cols ||
             (uint64_t)s->cols * (uint64_t)(s->rows ? s->rows : 1) != t->n) {
        err_set(err, "tensor %s has not the shape %d x %d of the keys", name, s->rows ? s->rows : 1,
                s->cols);
        return NULL;
    }
    return t;
}

// Looks at every value; they become the slot's unless that is where they lie.
static int take_blocks(struct model *m, const struct slot *s, const struct gguf *g,
                       const uint8_t *bytes, struct err *err)
{
    enum { CHUNK = 1 << 14 }; // values; a whole number of every block
    static _Thread_local float x[CHUNK];
    const struct gguf_tensor *t = slot_tensor(m, s, g, err);
    if (!t)
        return -1;
    const struct block_row *row = block_find(t->type->id);
    bool here = m->map && !s->norm;
    if (here) {
        m->part[s->part].type = row;
        m->part[s->part].at = bytes + t->at;
    }
    for (uint64_t i = 0; i < t->n; i += CHUNK) {
        size_t n = t->n - i < CHUNK ? (size_t)(t->n - i) : CHUNK;
        size_t blocks = n / (size_t)row->values;
        block_decode(row, bytes + t->at + i / (uint64_t)row->values * (uint64_t)row->bytes, blocks,
                     x);
        size_t bad = model_nonfinite(x, n);
        if (bad < n)
            return err_set(err, "tensor %.*s: value %llu is not finite", (int)t->name.n, t->name.p,
                           (unsigned long long)i + bad);
        if (!here)
            model_slot_put(m, s, (size_t)i, n, x);
    }
    return 0;
}

// Blocks are used where they lie, in the mapped file, which all processes of a machine share.
static struct model *load_mapped(struct dev *dev, const struct model_params *p,
                                 const uint8_t *bytes, size_t n, struct err *err)
{
    struct gguf g;
    struct model_config c;
    struct model *m = NULL;
    if (gguf_parse(bytes, n, n, &g, err))
        return NULL;
    int bad = gguf_config(&g, bytes, n, &c, err);
    uint64_t held = 0, asked = bad ? 0 : model_config_values(&c);
    for (int32_t i = 0; i < g.n_tensors; i++)
        held += g.tensor[i].n;
    // Before anything as large as the keys say is allocated: the file must hold it.
    if (!bad && asked > held)
        bad = err_set(err, "its keys ask for %llu values, it holds %llu", (unsigned long long)asked,
                      (unsigned long long)held);
    if (!bad)
        m = model_shell(dev, p, &c, MODEL_BLOCKS, err);
    if (m && m->part && !m->part[0].type) {
        m->map = bytes;
        m->map_bytes = n;
    }
    for (int32_t i = 0; m && !bad && i < model_slots(m); i++) {
        struct slot s = model_slot(m, i);
        bad = take_blocks(m, &s, &g, bytes, err);
    }
    gguf_free(&g);
    if (bad && m) {
        m->map = NULL; // the caller's again
        model_close(m);
        m = NULL;
    }
    if (m)
        model_ready(m);
    return m;
}

static bool gguf_takes(const char *path)
{
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
}

// The file's n bytes, or NULL.
static void *map_file(const char *path, size_t *n, struct err *err)
{
    struct stat s;
    int fd = fsio_open(path, err);
    if (fd < 0)
        return NULL;
    *n = fstat(fd, &s) == 0 ? (size_t)s.st_size : 0;
    void *bytes = *n ? mmap(NULL, *n, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    int failed = errno;
    close(fd);
    if (bytes != MAP_FAILED)
        return bytes;
    err_set(err, "%s: %s", path, *n ? strerror(failed) : "is empty");
    return NULL;
}

static int gguf_read(const char *path, struct model_config *c, struct err *err)
{
    struct gguf g;
    struct err why = {""};
    size_t n;
    void *bytes = map_file(path, &n, err);
    if (!bytes)
        return -1;
    int bad = gguf_parse(bytes, n, n, &g, &why);
    if (!bad) {
        bad = gguf_config(&g, bytes, n, c, &why);
        gguf_free(&g);
    }
    munmap(bytes, n);
    return bad ? err_set(err, "%.240s: %.250s", path, why.text) : 0;
}

static struct model *gguf_load(struct dev *dev, const struct model_params *p, struct err *err)
{
    struct err why = {""};
    size_t n;
    void *bytes = map_file(p->path, &n, err);
    if (!bytes)
        return NULL;
    struct model *m = load_mapped(dev, p, bytes, n, &why);
    if (!m || !m->map)
        munmap(bytes, n);
    if (!m)
        err_set(err, "%s: %s", p->path, why.text);
    return m;
}

const struct loader loader_gguf = {
    .name = "gguf",
    .help = "a GGUF file of architecture llama, qwen2, qwen3 or gemma3",
    .takes = gguf_takes,
    .load = gguf_load,
    .config = gguf_read,
};
