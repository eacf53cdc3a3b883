// Weights from files. Each kind of file is a row of loader_table; what they share is here.
#include "model/load.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/mem.h"
#include "model/family.h"
#include "model/inner.h"
#include "model/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const struct loader *const loader_table[] = {&loader_llama2c, &loader_hf, &loader_own, &loader_gguf,
                                             NULL};

enum { CHUNK = 1 << 15 }; // values read at a time

struct file {
    const char *path;
    int fd;             // -1: in memory
    const uint8_t *mem; // the base model that the program carries
    uint64_t bytes;
};

static int file_open(struct file *f, const char *path, struct err *err)
{
    struct stat s;
    *f = (struct file){.path = path, .fd = -1};
    if (strcmp(path, MODEL_BUILTIN) == 0) {
        f->mem = base_model_begin;
        f->bytes = (uint64_t)(base_model_end - base_model_begin);
        return 0;
    }
    f->fd = fsio_open(path, err);
    if (f->fd < 0)
        return -1;
    if (fstat(f->fd, &s)) {
        close(f->fd);
        return err_set(err, "%s: %s", path, strerror(errno));
    }
    f->bytes = (uint64_t)s.st_size;
    return 0;
}

static void file_close(struct file *f)
{
    if (f->fd >= 0)
        close(f->fd);
}

static int file_read(const struct file *f, uint64_t at, void *to, size_t n, struct err *err)
{
    if (f->mem) {
        if (at > f->bytes || n > f->bytes - at)
            return err_set(err, "%s: ends early", f->path);
        memcpy(to, f->mem + at, n);
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(f->fd, (char *)to + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return err_set(err, "%s: %s at byte %llu", f->path,
                           got < 0 ? strerror(errno) : "ends early",
                           (unsigned long long)(at + done));
        done += (size_t)got;
    }
    return 0;
}

// n values of a stored type at a byte of the file become a tensor of the model.
static int read_slot(struct model *m, const struct slot *s, const struct file *f, uint64_t at,
                     int32_t dtype, struct err *err)
{
    static _Thread_local float raw[CHUNK], x[CHUNK];
    size_t n = (size_t)(s->rows ? s->rows : 1) * (size_t)s->cols, size = kernel_dtype_bytes(dtype);
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t some = n - i < CHUNK ? n - i : CHUNK;
        if (file_read(f, at + i * size, raw, some * size, err))
            return -1;
        kernel_to_f32(dtype, raw, some, x);
        size_t bad = model_nonfinite(x, some);
        if (bad < some)
            return err_set(err, "%s: %s: value %zu is not finite", f->path, s->name, i + bad);
        for (size_t j = 0; j < some && s->plus; j++)
            x[j] += 1.0f;
        model_slot_put(m, s, i, some, x);
    }
    return 0;
}

static struct model *open_shell(struct dev *dev, const struct model_params *p,
                                const struct model_config *c, int32_t stored, struct err *err)
{
    char what[300];
    double bytes = (double)model_config_values(c) * (double)kernel_dtype_bytes(stored);
    snprintf(what, sizeof what, "model.path = %s", p->path);
    return mem_fits(bytes, what, err) ? NULL : model_shell(dev, p, c, stored, err);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

// Prefixes what went wrong with the file it went wrong in.
static int in_file(struct err *err, const char *path)
{
    if (err) {
        struct err was = *err;
        err_set(err, "%.250s: %.250s", path, was.text);
    }
    return -1;
}

// llama2.c.

int llama2c_config(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct model_config *c,
                   struct err *err)
{
    if (n < LLAMA2C_HEADER)
        return err_set(err, "%zu bytes are no llama2.c model: its header has %d", n,
                       LLAMA2C_HEADER);
    int32_t v[7];
    for (int i = 0; i < 7; i++)
        v[i] = (int32_t)get_u32(bytes + 4 * i);
    *c = (struct model_config){.dim = v[0],
                               .hidden = v[1],
                               .layers = v[2],
                               .heads = v[3],
                               .kv_heads = v[4],
                               .vocab = v[5] > 0            ? v[5]
                                        : v[5] > -INT32_MAX ? -v[5]
                                                            : 0,
                               .max_positions = v[6],
                               .rope_style = KERNEL_ROPE_PAIR,
                               .tied = v[5] > 0,
                               .rope_theta = 10000.0,
                               .norm_eps = 1e-5};
    if (c->heads < 1 || c->dim % c->heads)
        return err_set(err, "%d columns do not part into %d heads: no llama2.c v0 model", c->dim,
                       c->heads);
    c->head_dim = c->dim / c->heads;
    if (model_config_check(c, err))
        return -1;
    uint64_t want = model_config_values(c) + (uint64_t)c->max_positions * (uint64_t)c->head_dim;
    want = LLAMA2C_HEADER + 4 * want;
    if (want != file_bytes)
        return err_set(err, "%llu bytes, but its llama2.c v0 header asks for %llu",
                       (unsigned long long)file_bytes, (unsigned long long)want);
    return 0;
}

static bool llama2c_takes(const char *path)
{
    return ends_with(path, ".bin");
}

// Where a tensor begins, in values after the header: all layers of one kind lie together.
static uint64_t llama2c_place(const struct model_config *c, const char *name)
{
    uint64_t dim = (uint64_t)c->dim, kv = (uint64_t)model_kv_cols(c), hid = (uint64_t)c->hidden;
    const struct {
        const char *part;
        uint64_t each;
    } kind[] = {{"input_layernorm", dim}, {"q_proj", dim * dim},    {"k_proj", dim * kv},
                {"v_proj", dim * kv},     {"o_proj", dim * dim},    {"post_attention", dim},
                {"gate_proj", dim * hid}, {"down_proj", dim * hid}, {"up_proj", dim * hid}};
    uint64_t at = 0, layer = 0;
    if (strstr(name, "embed_tokens"))
        return at;
    const char *l = strstr(name, "layers.");
    if (l)
        layer = strtoull(l + 7, NULL, 10);
    at = (uint64_t)c->vocab * dim;
    for (size_t i = 0; i < ARRAY_LEN(kind); i++) {
        if (strstr(name, kind[i].part))
            return at + layer * kind[i].each;
        at += (uint64_t)c->layers * kind[i].each;
    }
    if (strstr(name, "lm_head"))
        at += dim + (uint64_t)c->max_positions * (uint64_t)c->head_dim;
    return at;
}

static int llama2c_header(const struct file *f, struct model_config *c, struct err *err)
{
    uint8_t header[LLAMA2C_HEADER] = {0};
    size_t n = f->bytes < sizeof header ? (size_t)f->bytes : sizeof header;
    if (file_read(f, 0, header, n, err))
        return -1;
    return llama2c_config(header, n, f->bytes, c, err) ? in_file(err, f->path) : 0;
}

static int llama2c_read(const char *path, struct model_config *c, struct err *err)
{
    struct file f;
    if (file_open(&f, path, err))
        return -1;
    int bad = llama2c_header(&f, c, err);
    file_close(&f);
    return bad;
}

static struct model *llama2c_load(struct dev *dev, const struct model_params *p, struct err *err)
{
    struct file f;
    struct model *m = NULL;
    struct model_config c;
    if (file_open(&f, p->path, err))
        return NULL;
    int bad = llama2c_header(&f, &c, err);
    if (!bad)
        m = open_shell(dev, p, &c, KERNEL_F32, err);
    for (int32_t i = 0; m && !bad && i < model_slots(m); i++) {
        struct slot s = model_slot(m, i);
        bad = read_slot(m, &s, &f, LLAMA2C_HEADER + 4 * llama2c_place(&c, s.name), KERNEL_F32, err);
    }
    file_close(&f);
    if (bad) {
        model_close(m);
        m = NULL;
    }
    if (m)
        model_ready(m);
    return m;
}

const struct loader loader_llama2c = {.name = "llama2c",
                                      .help = "llama2.c .bin, version 0",
                                      .takes = llama2c_takes,
                                      .load = llama2c_load,
                                      .config = llama2c_read};

void model_place(const char *path, char *out, size_t size)
{
    const char *cache = getenv("FSTQ_CACHE"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    snprintf(out, size, "%s", path);
    if (strpbrk(path, "/.") || strcmp(path, MODEL_BUILTIN) == 0 || access(path, F_OK) == 0)
        return;
    if (cache && *cache)
        snprintf(out, size, "%s/%s.gguf", cache, path);
    else if (xdg && *xdg)
        snprintf(out, size, "%s/fstq/%s.gguf", xdg, path);
    else if (home && *home)
        snprintf(out, size, "%s/.cache/fstq/%s.gguf", home, path);
}

void model_vocabulary(const char *name, char *out, size_t size)
{
    char path[MODEL_PATH];
    model_place(name, path, sizeof path);
    int n = snprintf(out, size, ends_with(path, ".gguf") ? "%s" : "%s/tokenizer.json", path);
    if (n >= (int)size || access(out, R_OK)) // what is not there is said when weights are read
        out[0] = '\0';
}

// safetensors.

static int open_safetensors(struct file *f, const char *path, struct safetensors *st,
                            struct err *err)
{
    uint8_t head[8] = {0};
    if (file_open(f, path, err))
        return -1;
    size_t n = f->bytes < 8 ? (size_t)f->bytes : 8;
    uint8_t *bytes = NULL;
    int bad = file_read(f, 0, head, n, err);
    if (!bad && n == 8) {
        uint64_t header = get_u64(head);
        uint64_t take = header > SAFETENSORS_HEADER_MAX || header > f->bytes - 8 ? 8 : 8 + header;
        n = (size_t)take;
        bytes = mem_alloc(MEM_OTHER, n);
        bad = file_read(f, 0, bytes, n, err);
    }
    if (!bad && safetensors_parse(bytes ? bytes : head, n, f->bytes, st, err))
        bad = in_file(err, path);
    mem_free(bytes);
    if (bad)
        file_close(f);
    return bad;
}

// Weights in one file, or in several.
struct shard {
    char path[560];
    struct file f;
    struct safetensors st;
};
struct shards {
    struct shard *v;
    int32_t n;
};

static int shards_add(struct shards *w, const char *path, struct err *err)
{
    if (w->n == SAFETENSORS_FILES)
        return err_set(err, "%s: more than %d files of weights", path, SAFETENSORS_FILES);
    struct shard *s = &w->v[w->n];
    snprintf(s->path, sizeof s->path, "%s", path);
    if (open_safetensors(&s->f, s->path, &s->st, err))
        return -1;
    w->n++;
    return 0;
}

static void shards_open(struct shards *w)
{
    *w = (struct shards){.v = mem_alloc(MEM_OTHER, SAFETENSORS_FILES * sizeof *w->v)};
}

static void shards_close(struct shards *w)
{
    for (int32_t i = 0; i < w->n; i++) {
        safetensors_free(&w->v[i].st);
        file_close(&w->v[i].f);
    }
    mem_free(w->v);
}

static const struct safetensor *shards_find(const struct shards *w, const char *name, int32_t *at)
{
    const struct safetensor *t = NULL;
    for (*at = 0; *at < w->n && !(t = safetensors_find(&w->v[*at].st, name)); ++*at)
        continue;
    *at = t ? *at : 0;
    return t;
}

static int read_tensors(struct model *m, const struct shards *w, struct err *err)
{
    for (int32_t i = 0; i < model_slots(m); i++) {
        struct slot s = model_slot(m, i);
        int32_t at;
        const struct safetensor *t = shards_find(w, s.name, &at);
        const struct file *f = &w->v[at].f;
        if (!t)
            return err_set(err, "%s: tensor %s is missing", f->path, s.name);
        bool fits = s.rows ? t->dims == 2 && t->dim[0] == s.rows && t->dim[1] == s.cols
                           : t->dims == 1 && t->dim[0] == s.cols;
        if (!fits)
            return err_set(err, "%s: tensor %s has not the shape %d x %d of the config", f->path,
                           s.name, s.rows ? s.rows : 1, s.cols);
        if (t->dtype < 0)
            return err_set(err, "%s: tensor %s is stored as none of F32, BF16, F16", f->path,
                           s.name);
        if (read_slot(m, &s, f, t->at, t->dtype, err))
            return -1;
    }
    return 0;
}

static struct model *load_tensors(struct dev *dev, const struct model_params *p,
                                  const struct model_config *c, const struct shards *w,
                                  struct err *err)
{
    // Before anything as large as the config says is allocated: the files must hold it.
    uint64_t held = 0, asked = model_config_values(c);
    for (int32_t k = 0; k < w->n; k++)
        for (int32_t i = 0; i < w->v[k].st.n; i++)
            held += w->v[k].st.tensor[i].dtype >= 0 ? w->v[k].st.tensor[i].n : 0;
    if (asked > held) {
        err_set(err, "%s: the config asks for %llu values, the file%s %llu", w->v[0].path,
                (unsigned long long)asked, w->n > 1 ? "s hold" : " holds",
                (unsigned long long)held);
        return NULL;
    }
    int32_t at;
    const struct safetensor *first = shards_find(w, "model.embed_tokens.weight", &at);
    struct model *m =
        open_shell(dev, p, c, first && first->dtype > 0 ? first->dtype : KERNEL_F32, err);
    if (m && read_tensors(m, w, err)) {
        model_close(m);
        m = NULL;
    }
    if (m)
        model_ready(m);
    return m;
}

static bool hf_takes(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static int open_weights(const char *dir, struct shards *w, struct err *err)
{
    char path[560];
    uint8_t *text;
    size_t n;
    struct safetensors_index x;
    struct err what = {""};
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    if (access(path, F_OK) != 0) {
        snprintf(path, sizeof path, "%s/model.safetensors", dir);
        return shards_add(w, path, err);
    }
    if (fsio_read(path, 64 << 20, MEM_OTHER, &text, &n, err))
        return -1;
    int bad = safetensors_index_parse(text, n, &x, &what);
    mem_free(text);
    if (bad)
        return err_set(err, "%.250s: %.250s", path, what.text);
    for (int32_t i = 0; i < x.n && !bad; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, x.file[i]);
        bad = shards_add(w, path, err);
    }
    safetensors_index_free(&x);
    return bad;
}

static int hf_config(const char *dir, struct model_config *c, struct err *err)
{
    char path[300];
    uint8_t *text;
    size_t n;
    snprintf(path, sizeof path, "%s/config.json", dir);
    if (fsio_read(path, 1 << 20, MEM_OTHER, &text, &n, err))
        return -1;
    int bad = model_config_json((const char *)text, n, c, err);
    mem_free(text);
    return bad ? in_file(err, path) : 0;
}

static struct model *hf_load(struct dev *dev, const struct model_params *p, struct err *err)
{
    struct model_config c;
    struct shards w;
    if (hf_config(p->path, &c, err))
        return NULL;
    shards_open(&w);
    struct model *m = open_weights(p->path, &w, err) ? NULL : load_tensors(dev, p, &c, &w, err);
    shards_close(&w);
    return m;
}

const struct loader loader_hf = {.name = "huggingface",
                                 .help = "a directory with config.json and model.safetensors, or "
                                         "several files with their index",
                                 .takes = hf_takes,
                                 .load = hf_load,
                                 .config = hf_config};

static bool own_takes(const char *path)
{
    return ends_with(path, ".safetensors") || strcmp(path, MODEL_BUILTIN) == 0;
}

// Of the one file in w.
static int own_metadata(struct shards *w, const char *path, struct model_config *c, struct err *err)
{
    if (shards_add(w, path, err))
        return -1;
    const char *config = w->v[0].st.config;
    if (!config)
        return err_set(err,
                       "%s: its metadata has no fstq_config; a checkpoint of another program is "
                       "loaded as a directory with its config.json",
                       path);
    return model_config_json(config, strlen(config), c, err) ? in_file(err, path) : 0;
}

static int own_config(const char *path, struct model_config *c, struct err *err)
{
    struct shards w;
    shards_open(&w);
    int bad = own_metadata(&w, path, c, err);
    shards_close(&w);
    return bad;
}

static struct model *own_load(struct dev *dev, const struct model_params *p, struct err *err)
{
    struct shards w;
    struct model_config c;
    shards_open(&w);
    struct model *m = own_metadata(&w, p->path, &c, err) ? NULL : load_tensors(dev, p, &c, &w, err);
    shards_close(&w);
    return m;
}

const struct loader loader_own = {
    .name = "fstq",
    .help = "a .safetensors of fstq pretrain, or 'builtin': the one inside",
    .takes = own_takes,
    .load = own_load,
    .config = own_config};

// Saving.

// Adds scale * B A of the target whose rows these are, to row n of it.
static void merge_row(const struct model *m, const struct slot *s, const float *adapter, int32_t n,
                      float *row)
{
    for (int32_t l = 0; l < m->cfg.layers && adapter && !s->norm; l++)
        for (int i = 0; i < LINS; i++) {
            const struct kernel_linear *k = &m->layer[l].lin[i];
            int32_t rank0 = 0;
            for (int t = 0; t < k->n_lora; rank0 += k->lora[t++].rank) {
                const struct kernel_lora *f = &k->lora[t];
                if (m->layer[l].at[i] + (size_t)f->row0 * (size_t)k->w.cols != s->at)
                    continue;
                for (int32_t r = 0; r < f->rank; r++) {
                    float b = k->scale * adapter[f->b + (size_t)n * (size_t)f->rank + (size_t)r];
                    const float *a = adapter + k->a + (size_t)(rank0 + r) * (size_t)s->cols;
                    for (int32_t c = 0; c < s->cols; c++)
                        row[c] += b * a[c];
                }
            }
        }
}

// The header, padded with spaces to a multiple of 8; *data: bytes of all tensors.
static char *save_header(const struct model *m, int32_t dtype, size_t *data)
{
    char *config = model_config_text(&m->cfg);
    json_t *root =
        json_pack("{s:{s:s, s:s}}", "__metadata__", "format", "pt", "fstq_config", config);
    free(config);
    *data = 0;
    for (int32_t i = 0; i < model_slots(m); i++) {
        struct slot s = model_slot(m, i);
        int32_t type = s.norm ? KERNEL_F32 : dtype;
        size_t n = (size_t)(s.norm ? 1 : s.rows) * (size_t)s.cols;
        size_t end = *data + n * kernel_dtype_bytes(type);
        json_t *shape = s.norm ? json_pack("[i]", s.cols) : json_pack("[i, i]", s.rows, s.cols);
        json_object_set_new(root, s.name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", kernel_dtype_name[type],
                                      "shape", shape, "data_offsets", (json_int_t)*data,
                                      (json_int_t)end));
        *data = end;
    }
    char *text = json_dumps(root, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(root);
    return text;
}

int model_save(const struct model *m, const char *path, int32_t dtype, const float *adapter,
               struct err *err)
{
    size_t data;
    char *header = save_header(m, dtype, &data);
    size_t len = strlen(header), padded = (len + 7) / 8 * 8;
    uint8_t *bytes = mem_alloc(MEM_OTHER, 8 + padded + data), *to = bytes + 8 + padded;
    float *row = mem_alloc(MEM_OTHER, (size_t)(m->cfg.dim + m->cfg.hidden + model_q_cols(&m->cfg)) *
                                          sizeof *row);
    put_u64(bytes, padded);
    memset(bytes + 8, ' ', padded);
    memcpy(bytes + 8, header, len);
    free(header);
    for (int32_t i = 0; i < model_slots(m); i++) {
        struct slot s = model_slot(m, i);
        int32_t type = s.norm ? KERNEL_F32 : dtype, rows = s.norm ? 1 : s.rows;
        for (int32_t n = 0; n < rows; n++) {
            model_slot_get(m, &s, (size_t)n * (size_t)s.cols, (size_t)s.cols, row);
            merge_row(m, &s, adapter, n, row);
            for (int32_t j = 0; j < s.cols && s.plus; j++)
                row[j] -= 1.0f;
            kernel_from_f32(type, row, (size_t)s.cols, to);
            to += (size_t)s.cols * kernel_dtype_bytes(type);
        }
    }
    int bad = fsio_replace(path, bytes, (size_t)(to - bytes), err);
    mem_free(row);
    mem_free(bytes);
    return bad;
}
