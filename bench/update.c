#include "bench/update.h"

#include "base/bytes.h"
#include "base/fmath.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/update_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const update_dists[] = {"normal", "laplace", "student3", "file", NULL};

// Linear modules of a transformer: width, width of keys and values, width inside the MLP.
struct model_row {
    const char *name;
    uint32_t dim, kv, hidden, layers;
};

static const struct model_row models[] = {
    {"llama2-7b", 4096, 4096, 11008, 32}, {"llama3-8b", 4096, 1024, 14336, 32},
    {"tinyllama", 2048, 256, 5632, 22},   {"qwen2.5-0.5b", 896, 128, 4864, 24},
    {"embedded", 96, 48, 192, 3},
};

enum { MODULE_Q = 1, MODULE_K = 2, MODULE_V = 4, MODULE_O = 8, MODULE_MLP = 16 };
struct target_row {
    const char *name;
    unsigned modules;
};

static const struct target_row targets[] = {
    {"qv", MODULE_Q | MODULE_V},
    {"qkvo", MODULE_Q | MODULE_K | MODULE_V | MODULE_O},
    {"all", MODULE_Q | MODULE_K | MODULE_V | MODULE_O | MODULE_MLP},
};

static void add_pair(struct shape *s, uint32_t layer, const char *module, uint32_t rank,
                     uint32_t in, uint32_t out)
{
    char name[48];
    snprintf(name, sizeof name, "l%u.%s.A", layer, module);
    shape_add(s, name, rank, in, SHAPE_LORA_A);
    snprintf(name, sizeof name, "l%u.%s.B", layer, module);
    shape_add(s, name, out, rank, SHAPE_LORA_B);
}

static void add_model(struct shape *s, const struct model_row *m, uint32_t rank, unsigned modules)
{
    for (uint32_t l = 0; l < m->layers; l++) {
        if (modules & MODULE_Q)
            add_pair(s, l, "q", rank, m->dim, m->dim);
        if (modules & MODULE_K)
            add_pair(s, l, "k", rank, m->dim, m->kv);
        if (modules & MODULE_V)
            add_pair(s, l, "v", rank, m->dim, m->kv);
        if (modules & MODULE_O)
            add_pair(s, l, "o", rank, m->dim, m->dim);
        if (modules & MODULE_MLP) {
            add_pair(s, l, "gate", rank, m->dim, m->hidden);
            add_pair(s, l, "up", rank, m->dim, m->hidden);
            add_pair(s, l, "down", rank, m->hidden, m->dim);
        }
    }
}

void update_names(char *out, size_t out_size)
{
    size_t at = 0;
    for (size_t i = 0; i < ARRAY_LEN(models) && at < out_size; i++)
        at += (size_t)snprintf(out + at, out_size - at, "%s%s-rN[-qv|-qkvo|-all]", i ? ", " : "",
                               models[i].name);
}

// "MODEL-rN[-TARGETS]"; -1: not of this form.
static int by_name(const char *text, struct shape *s)
{
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        size_t len = strlen(models[i].name);
        if (strncmp(text, models[i].name, len) != 0 || strncmp(text + len, "-r", 2) != 0)
            continue;
        char *end;
        unsigned long rank = strtoul(text + len + 2, &end, 10);
        const char *target = *end == '-' ? end + 1 : *end ? "" : "all";
        for (size_t k = 0; k < ARRAY_LEN(targets); k++)
            if (rank >= 1 && rank <= 4096 && strcmp(target, targets[k].name) == 0) {
                add_model(s, &models[i], (uint32_t)rank, targets[k].modules);
                return 0;
            }
    }
    return -1;
}

static int by_list(const char *text, struct shape *s)
{
    for (const char *p = text;; p++) {
        char *end;
        unsigned long rows = strtoul(p, &end, 10), cols, times = 1;
        if (end == p || *end != 'x')
            return -1;
        p = end + 1;
        cols = strtoul(p, &end, 10);
        if (end == p)
            return -1;
        if (*end == 'x') {
            p = end + 1;
            times = strtoul(p, &end, 10);
            if (end == p)
                return -1;
        }
        if (rows > 1 << 26 || cols > 1 << 26 || times > 1 << 16 || (*end && *end != ','))
            return -1;
        for (unsigned long k = 0; k < times; k++) {
            char name[48];
            snprintf(name, sizeof name, "m%u", s->n_tensors);
            shape_add(s, name, (uint32_t)rows, (uint32_t)cols,
                      rows > cols ? SHAPE_LORA_B : SHAPE_LORA_A);
        }
        if (!*end)
            return 0;
        p = end;
    }
}

int update_shape(const char *text, size_t at_least, struct shape *s, struct err *err)
{
    shape_init(s);
    do {
        if (by_name(text, s) && by_list(text, s)) {
            char names[256];
            update_names(names, sizeof names);
            shape_free(s);
            return err_set(err, "shape '%s' is neither a list like 16x4096,4096x16 nor one of %s",
                           text, names);
        }
    } while (s->n_values && s->n_values < at_least);
    shape_seal(s);
    return 0;
}

static double laplace(struct rng *r)
{
    double u = rng_unit(r) - 0.5, a = -fmath_log(1 - 2 * fabs(u));
    return u < 0 ? -a : a;
}

static double student3(struct rng *r)
{
    double z = rng_normal(r), sq = 0;
    for (int k = 0; k < 3; k++) {
        double v = rng_normal(r);
        sq += v * v;
    }
    return z / sqrt(sq / 3);
}

static int from_file(const char *path, float *x, size_t n, struct err *err)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, "cannot open %s: %s", path, strerror(errno));
    uint8_t bytes[4];
    size_t have = 0;
    while (have < n && fread(bytes, 1, 4, f) == 4)
        x[have++] = get_f32(bytes);
    fclose(f);
    if (have == 0)
        return err_set(err, "%s holds no float", path);
    for (size_t i = have; i < n; i++)
        x[i] = x[i - have];
    return 0;
}

bool update_has_shape(const char *path)
{
    static const char end[] = ".safetensors";
    size_t len = strlen(path);
    return len > sizeof end - 1 && strcmp(path + len - (sizeof end - 1), end) == 0;
}

int update_read(const char *path, size_t at_least, struct shape *s, float **x, struct err *err)
{
    struct shape one;
    float *own;
    if (update_file_read(path, &one, &own, err))
        return -1;
    size_t n = one.n_values, times = at_least > n ? (at_least + n - 1) / n : 1;
    shape_init(s);
    *x = mem_alloc(MEM_DATA, (times * n + 1) * sizeof **x);
    for (size_t k = 0; k < times; k++) {
        for (uint32_t t = 0; t < one.n_tensors; t++) {
            const struct shape_tensor *row = &one.tensors[t];
            shape_add(s, row->name, row->rows, row->cols, (enum shape_kind)row->kind);
        }
        memcpy(*x + k * n, own, n * sizeof **x);
    }
    shape_seal(s);
    shape_free(&one);
    mem_free(own);
    return 0;
}

int update_fill(enum update_dist dist, const char *path, float *x, size_t n, struct err *err)
{
    if (dist == UPDATE_FILE)
        return from_file(path, x, n, err);
    // A million draws, then the same ones again in another order: drawing 40 million takes longer
    // than all that is measured with them.
    size_t own = n < 1 << 20 ? n : 1 << 20;
    struct rng r = rng_stream(1, RNG_TEST, (uint32_t)dist, 0, 0);
    for (size_t i = 0; i < own; i++)
        x[i] = (float)(1e-3 * (dist == UPDATE_NORMAL    ? rng_normal(&r)
                               : dist == UPDATE_LAPLACE ? laplace(&r)
                                                        : student3(&r)));
    for (size_t i = own; i < n; i++)
        x[i] = x[i % own ^ (i / own * 7919 & (own - 1))];
    return 0;
}
