// Adapters as the folders that PEFT loads: adapter_config.json and adapter_model.safetensors, with
// a tensor lora_A (rank, in) and lora_B (out, rank) for each projection, by the names of Hugging
// Face's models.
#include "base/bytes.h"
#include "base/fsio.h"
#include "base/half.h"
#include "base/mem.h"
#include "model/model.h"
#include "model/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 512, NAME = 96 };

static const char *const module[][2] = {{"q", "self_attn.q_proj"}, {"k", "self_attn.k_proj"},
                                        {"v", "self_attn.v_proj"}, {"o", "self_attn.o_proj"},
                                        {"gate", "mlp.gate_proj"}, {"up", "mlp.up_proj"},
                                        {"down", "mlp.down_proj"}};

// Takes "layers.3.q.A" apart; returns the row of module.
static size_t parse(const char *ours, int *layer, char *ab)
{
    char target[8] = "";
    size_t i = 0;
    sscanf(ours, "layers.%d.%7[a-z].%c", layer, target, ab);
    while (strcmp(module[i][0], target) != 0)
        i++;
    return i;
}

static void peft_name(const char *ours, char *out)
{
    int layer = 0;
    char ab = 'A';
    size_t i = parse(ours, &layer, &ab);
    snprintf(out, NAME, "base_model.model.model.layers.%d.%s.lora_%c.weight", layer, module[i][1],
             ab);
}

// Row r of B as Hugging Face orders it: where pairs lie side by side here, rows of queries' and
// keys' heads are their first halves, then their second ones.
static size_t hf_row(const struct model_config *c, const char *ours, size_t r)
{
    int layer = 0;
    char ab = 'A';
    size_t dim = (size_t)c->head_dim, at = r % dim;
    if (c->rope_style != KERNEL_ROPE_PAIR || parse(ours, &layer, &ab) > 1 || ab != 'B')
        return r;
    return r - at + at % 2 * (dim / 2) + at / 2;
}

static json_t *targets_json(const struct shape *s)
{
    json_t *list = json_array();
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        int layer = 0;
        char ab = 'A';
        size_t i = parse(s->tensors[t].name, &layer, &ab);
        if (layer == 0 && ab == 'A')
            json_array_append_new(list, json_string(strrchr(module[i][1], '.') + 1));
    }
    return list;
}

static int write_config(const struct model *m, const struct model_params *p, const char *dir,
                        struct err *err)
{
    char path[PATH];
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:i, s:f, s:o, s:s, s:f, s:b, s:b}", "peft_type", "LORA",
                  "task_type", "CAUSAL_LM", "base_model_name_or_path", p->path, "r", p->lora_rank,
                  "lora_alpha", p->lora_alpha, "target_modules", targets_json(model_shape(m)),
                  "bias", "none", "lora_dropout", 0.0, "inference_mode", 1, "fan_in_fan_out", 0);
    char *text = json_dumps(root, JSON_INDENT(2));
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    int bad = fsio_replace(path, text, strlen(text), err);
    free(text);
    json_decref(root);
    return bad;
}

static char *weights_header(const struct shape *s)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        const struct shape_tensor *x = &s->tensors[t];
        char name[NAME];
        peft_name(x->name, name);
        json_int_t from = (json_int_t)(4 * x->offset);
        json_object_set_new(root, name,
                            json_pack("{s:s, s:[i, i], s:[I, I]}", "dtype", "F32", "shape",
                                      (int)x->rows, (int)x->cols, "data_offsets", from,
                                      from + 4 * (json_int_t)x->rows * (json_int_t)x->cols));
    }
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

int model_peft_check(const char *dir, struct err *err)
{
    static const char *const file[] = {"adapter_config.json", "adapter_model.safetensors",
                                       "adapter_model.bin"};
    char path[PATH];
    struct stat st;
    if (strlen(dir) > PATH - 40)
        return err_set(err, "%.80s...: is too long a path", dir);
    for (size_t i = 0; i < ARRAY_LEN(file); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, file[i]);
        if (lstat(path, &st) == 0)
            return err_set(err, "%s: is there, an adapter of %s: name another folder, or remove it",
                           path, dir);
    }
    return lstat(dir, &st)     ? 0
           : access(dir, W_OK) ? err_set(err, "%s: cannot write: %s", dir, strerror(errno))
                               : 0;
}

int model_peft_write(const struct model *m, const struct model_params *p, const char *dir,
                     const float *adapter, struct err *err)
{
    const struct shape *s = model_shape(m);
    char path[PATH];
    if (model_peft_check(dir, err) || fsio_mkdirs(dir, err))
        return -1;
    char *text = weights_header(s);
    size_t head = (strlen(text) + 7) / 8 * 8, bytes = 8 + head + 4 * s->n_values;
    uint8_t *file = mem_alloc(MEM_OTHER, bytes);
    put_u64(file, head);
    memset(file + 8, ' ', head);
    memcpy(file + 8, text, strlen(text));
    free(text);
    for (uint32_t t = 0; t < s->n_tensors; t++) {
        const struct shape_tensor *x = &s->tensors[t];
        for (size_t r = 0; r < x->rows; r++)
            for (size_t c = 0; c < x->cols; c++)
                put_f32(file + 8 + head +
                            4 * (x->offset + hf_row(model_config(m), x->name, r) * x->cols + c),
                        adapter[x->offset + r * x->cols + c]);
    }
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    int bad = fsio_replace(path, file, bytes, err);
    mem_free(file);
    return bad ? bad : write_config(m, p, dir, err);
}

// Whatever changes what an adapter computes must be what it is here.
static int check_config(const json_t *root, const struct model_params *p, struct err *err)
{
    static const char *const off[] = {"use_dora",
                                      "use_rslora",
                                      "fan_in_fan_out",
                                      "rank_pattern",
                                      "alpha_pattern",
                                      "modules_to_save",
                                      "layer_replication",
                                      "lora_bias",
                                      "exclude_modules",
                                      "layers_to_transform",
                                      "alora_invocation_tokens",
                                      "use_qalora",
                                      "trainable_token_indices",
                                      "target_parameters"};
    const char *type = json_string_value(json_object_get(root, "peft_type"));
    const char *bias = json_string_value(json_object_get(root, "bias"));
    double rank = json_number_value(json_object_get(root, "r"));
    double alpha = json_number_value(json_object_get(root, "lora_alpha"));
    if (!type || strcmp(type, "LORA") != 0)
        return err_set(err, "peft_type is %.60s: only LORA is known here", type ? type : "missing");
    if (bias && strcmp(bias, "none") != 0)
        return err_set(err, "bias is %.60s: only none is known here", bias);
    for (size_t i = 0; i < ARRAY_LEN(off); i++) {
        const json_t *v = json_object_get(root, off[i]);
        bool empty = json_is_object(v) ? json_object_size(v) == 0
                                       : json_is_array(v) && json_array_size(v) == 0;
        if (v && !json_is_null(v) && !json_is_false(v) && !empty)
            return err_set(err, "%s is set: not supported", off[i]);
    }
    if (rank != p->lora_rank || !(fabs(alpha - p->lora_alpha) < 1e-9))
        return err_set(err,
                       "r = %g and lora_alpha = %g: set model.lora_rank and model.lora_alpha "
                       "to them",
                       rank, alpha);
    return 0;
}

static int read_config(const struct model_params *p, const char *dir, struct err *err)
{
    char path[PATH];
    uint8_t *text;
    size_t n;
    json_error_t why;
    struct err what = {""};
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    if (fsio_read(path, 1 << 20, MEM_OTHER, &text, &n, err))
        return -1;
    json_t *root = json_loadb((const char *)text, n, JSON_REJECT_DUPLICATES, &why);
    mem_free(text);
    if (!root)
        return err_set(err, "%s: line %d: %s", path, why.line, why.text);
    int bad = check_config(root, p, &what);
    json_decref(root);
    return bad ? err_set(err, "%s: %s", path, what.text) : 0;
}

static float value_at(const uint8_t *p, int32_t dtype, size_t i)
{
    return dtype == KERNEL_F32    ? get_f32(p + 4 * i)
           : dtype == KERNEL_BF16 ? bf16_to_f32(get_u16(p + 2 * i))
                                  : f16_to_f32(get_u16(p + 2 * i));
}

static int take_tensor(const struct model *m, const struct shape_tensor *x,
                       const struct safetensors *st, const uint8_t *bytes, float *adapter,
                       struct err *err)
{
    char name[NAME];
    peft_name(x->name, name);
    const struct safetensor *t = safetensors_find(st, name);
    if (!t)
        return err_set(err, "tensor %s is missing: model.lora_targets names it", name);
    if (t->dtype < 0 || t->dims != 2 || t->dim[0] != x->rows || t->dim[1] != x->cols)
        return err_set(err, "tensor %s is not %u x %u of F32, BF16 or F16", name, x->rows, x->cols);
    for (size_t r = 0; r < x->rows; r++)
        for (size_t c = 0; c < x->cols; c++) {
            size_t from = hf_row(model_config(m), x->name, r) * x->cols + c;
            float v = value_at(bytes + t->at, t->dtype, from);
            if (!isfinite(v))
                return err_set(err, "tensor %s: value %zu is not finite", name, from);
            adapter[x->offset + r * x->cols + c] = v;
        }
    return 0;
}

int model_peft_read(const struct model *m, const struct model_params *p, const char *dir,
                    float *adapter, struct err *err)
{
    const struct shape *s = model_shape(m);
    struct safetensors st;
    struct err why = {""};
    uint8_t *bytes;
    size_t n;
    char path[PATH];
    if (strlen(dir) > PATH - 40)
        return err_set(err, "%.80s...: is too long a path", dir);
    if (read_config(p, dir, err))
        return -1;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    if (fsio_read(path, (size_t)4 << 30, MEM_OTHER, &bytes, &n, err))
        return -1;
    int bad = safetensors_parse(bytes, n, n, &st, &why);
    if (!bad) {
        for (uint32_t t = 0; t < s->n_tensors && !bad; t++)
            bad = take_tensor(m, &s->tensors[t], &st, bytes, adapter, &why);
        if (!bad && st.n != (int32_t)s->n_tensors)
            bad = err_set(&why,
                          "it has %d tensors, the adapter %u: set model.lora_targets to its "
                          "target_modules",
                          st.n, s->n_tensors);
        safetensors_free(&st);
    }
    mem_free(bytes);
    return bad ? err_set(err, "%s: %s", path, why.text) : 0;
}
