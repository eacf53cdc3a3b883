// Weights from a GGUF file, mapped into memory: blocks are decoded as they are read. Every key that
// changes results is known or refused.
#include "base/fsio.h"
#include "base/gguf.h"
#include "base/mem.h"
#include "dev/dev.h"
#include "model/inner.h"
#include "model/load.h"

#include <errno.h>
#include <math.h>
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

// Keys of the architecture; what is not among them may change results.
static int refuse_keys(const struct gguf *g, struct err *err)
{
    static const char *const known[] = {
        "block_count",          "context_length",         "embedding_length",
        "feed_forward_length",  "attention.head_count",   "attention.head_count_kv",
        "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
        "rope.freq_base",       "rope.dimension_count",   "vocab_size"};
    for (int32_t i = 0; i < g->n_keys; i++) {
        struct gguf_text name = g->key[i].name;
        bool ours = name.n <= 6 || memcmp(name.p, "llama.", 6) != 0;
        for (size_t k = 0; k < ARRAY_LEN(known) && !ours; k++)
            ours = gguf_is((struct gguf_text){name.p + 6, name.n - 6}, known[k]);
        if (!ours)
            return err_set(err, "key %.*s is not known here, and may change results", (int)name.n,
                           name.p);
    }
    return 0;
}

int gguf_config(const struct gguf *g, struct model_config *c, struct err *err)
{
    const struct gguf_key *arch = gguf_find(g, "general.architecture");
    const struct gguf_tensor *embed = gguf_tensor_find(g, "token_embd.weight");
    size_t at = 0;
    struct gguf_text name =
        arch && arch->type == GGUF_STRING ? gguf_next(arch, &at) : (struct gguf_text){"none", 4};
    int32_t rope_dims = 0, value_dims = 0;
    if (!gguf_is(name, "llama"))
        return err_set(err, "general.architecture is %.*s: only llama is known here",
                       (int)(name.n < 60 ? name.n : 60), name.p);
    if (!embed || embed->dims != 2)
        return err_set(err, "tensor token_embd.weight is missing, or no matrix");
    *c = (struct model_config){.vocab = (int32_t)embed->dim[1],
                               .tied = !gguf_tensor_find(g, "output.weight"),
                               .rope_style = KERNEL_ROPE_PAIR}; // rows of q and k are so ordered
    if (refuse_keys(g, err) || key_int(g, "llama.embedding_length", -1, &c->dim, err) ||
        key_int(g, "llama.feed_forward_length", -1, &c->hidden, err) ||
        key_int(g, "llama.block_count", -1, &c->layers, err) ||
        key_int(g, "llama.attention.head_count", -1, &c->heads, err) ||
        key_int(g, "llama.attention.head_count_kv", c->heads, &c->kv_heads, err) ||
        key_int(g, "llama.context_length", -1, &c->max_positions, err))
        return -1;
    int32_t even = c->heads > 0 ? c->dim / c->heads : 0;
    if (key_int(g, "llama.attention.key_length", even, &c->head_dim, err) ||
        key_int(g, "llama.attention.value_length", c->head_dim, &value_dims, err) ||
        key_int(g, "llama.rope.dimension_count", c->head_dim, &rope_dims, err) ||
        key_num(g, "llama.rope.freq_base", 10000.0, &c->rope_theta, err) ||
        key_num(g, "llama.attention.layer_norm_rms_epsilon", 1e-5, &c->norm_eps, err))
        return -1;
    if (value_dims != c->head_dim || rope_dims != c->head_dim)
        return err_set(err,
                       "heads of %d values whose positions turn %d, and %d a value: not "
                       "supported",
                       c->head_dim, rope_dims, value_dims);
    if (gguf_tensor_find(g, "rope_freqs.weight"))
        return err_set(err, "tensor rope_freqs.weight scales positions: not supported");
    return model_config_check(c, err);
}

// Tensors.

// The name that a slot has in GGUF files.
static void gguf_name(const char *slot, char *out, size_t size)
{
    static const char *const part[][2] = {
        {"self_attn.q_proj", "attn_q"},   {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},
        {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
        {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"}};
    const char *layer = strstr(slot, "layers.");
    snprintf(out, size, "%s",
             strstr(slot, "embed_tokens") ? "token_embd.weight"
             : strstr(slot, "lm_head")    ? "output.weight"
                                          : "output_norm.weight");
    for (size_t i = 0; i < ARRAY_LEN(part) && layer; i++)
        if (strstr(slot, part[i][0]))
            snprintf(out, size, "blk.%ld.%s.weight", strtol(layer + 7, NULL, 10), part[i][1]);
}

// The tensor of a slot, if it has the slot's shape.
static const struct gguf_tensor *slot_tensor(const struct slot *s, const struct gguf *g,
                                             struct err *err)
{
    char name[96];
    gguf_name(s->name, name, sizeof name);
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
static int read_slot(struct model *m, const struct slot *s, const struct gguf *g,
                     const uint8_t *bytes, struct err *err)
{
    enum { CHUNK = 1 << 14 }; // values; a whole number of every block
    static _Thread_local float x[CHUNK];
    const struct gguf_tensor *t = slot_tensor(s, g, err);
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
        float sum = 0; // is finite only where all are
        for (size_t j = 0; j < n; j++)
            sum += x[j] - x[j];
        for (size_t j = 0; j < n && sum != 0; j++)
            if (!isfinite(x[j]))
                return err_set(err, "tensor %.*s: value %llu is not finite", (int)t->name.n,
                               t->name.p, (unsigned long long)i + j);
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
    int bad = gguf_config(&g, &c, err);
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
        bad = read_slot(m, &s, &g, bytes, err);
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

static struct model *gguf_load(struct dev *dev, const struct model_params *p, struct err *err)
{
    struct stat s;
    struct err why = {""};
    int fd = fsio_open(p->path, err);
    if (fd < 0)
        return NULL;
    size_t n = fstat(fd, &s) == 0 ? (size_t)s.st_size : 0;
    void *bytes = n ? mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    int failed = errno;
    close(fd);
    if (bytes == MAP_FAILED) {
        err_set(err, "%s: %s", p->path, n ? strerror(failed) : "is empty");
        return NULL;
    }
    struct model *m = load_mapped(dev, p, bytes, n, &why);
    if (!m || !m->map)
        munmap(bytes, n);
    if (!m)
        err_set(err, "%s: %s", p->path, why.text);
    return m;
}

const struct loader loader_gguf = {
    .name = "gguf",
    .help = "a GGUF file of architecture llama",
    .takes = gguf_takes,
    .load = gguf_load,
};
