// Families of models, and how the numbers of one stand in a config.json. Every key of it is read,
// is known to change nothing, or is refused by name: a model that computes something else than its
// author meant would give wrong results without a word.
#include "model/family.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct family model_families[] = {
    {.name = "llama", .gguf = "llama"},
    {.name = "mistral", .windows = FAMILY_WINDOW_ALL},
    {.name = "qwen2",
     .gguf = "qwen2",
     .traits = {.qkv_bias = true},
     .windows = FAMILY_WINDOW_ABOVE},
    {.name = "qwen3",
     .gguf = "qwen3",
     .traits = {.head_norm = true},
     .windows = FAMILY_WINDOW_ABOVE},
    {.name = "gemma3_text",
     .gguf = "gemma3",
     .traits = {.head_norm = true,
                .out_norm = true,
                .gelu = true,
                .scaled_embed = true,
                .norm_plus = true},
     .windows = FAMILY_WINDOW_PATTERN,
     .tied = true,
     .theta = 1e6},
    {.name = NULL},
};

void family_begin(struct model_config *c, int32_t family)
{
    const struct family *f = &model_families[family];
    *c = (struct model_config){.family = family,
                               .traits = f->traits,
                               .tied = f->tied,
                               .rope_theta = f->theta > 0 ? f->theta : 10000.0};
}

void family_window(struct model_config *c, int32_t layer)
{
    c->windowed[layer / 64] |= (uint64_t)1 << layer % 64;
}

// Values.

static int get_int(const json_t *root, const char *key, int32_t dflt, int32_t *out, struct err *err)
{
    const json_t *v = json_object_get(root, key);
    if (!v || json_is_null(v)) {
        *out = dflt;
        return dflt < 0 ? err_set(err, "%s is missing", key) : 0;
    }
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
        return err_set(err, "%s is not a whole number within 0 and 2^31", key);
    *out = (int32_t)json_integer_value(v);
    return 0;
}

static int get_num(const json_t *root, const char *key, double dflt, double *out, struct err *err)
{
    const json_t *v = json_object_get(root, key);
    if (v && !json_is_null(v) && !json_is_number(v))
        return err_set(err, "%s is not a number", key);
    *out = v && !json_is_null(v) ? json_number_value(v) : dflt;
    return 0;
}

static bool get_bool(const json_t *root, const char *key, bool dflt)
{
    const json_t *v = json_object_get(root, key);
    return v && !json_is_null(v) ? json_is_true(v) : dflt;
}

static bool one_of(const char *key, const char *const *list)
{
    while (*list && strcmp(*list, key) != 0)
        list++;
    return *list != NULL;
}

// Keys that are read, those that say nothing about results, and those that must be off.
static const char *const read_keys[] = {"model_type",
                                        "hidden_act",
                                        "hidden_activation",
                                        "hidden_size",
                                        "intermediate_size",
                                        "num_hidden_layers",
                                        "num_attention_heads",
                                        "num_key_value_heads",
                                        "head_dim",
                                        "vocab_size",
                                        "rms_norm_eps",
                                        "max_position_embeddings",
                                        "tie_word_embeddings",
                                        "rope_interleaved",
                                        "rope_theta",
                                        "rope_scaling",
                                        "rope_parameters",
                                        "rope_local_base_freq",
                                        "sliding_window",
                                        "use_sliding_window",
                                        "layer_types",
                                        "max_window_layers",
                                        "query_pre_attn_scalar",
                                        "sliding_window_pattern",
                                        "_sliding_window_pattern",
                                        NULL};
static const char *const idle_keys[] = {"architectures",
                                        "bos_token_id",
                                        "eos_token_id",
                                        "pad_token_id",
                                        "torch_dtype",
                                        "dtype",
                                        "use_cache",
                                        "transformers_version",
                                        "initializer_range",
                                        "attention_dropout",
                                        "_name_or_path",
                                        "pretraining_tp",
                                        "is_llama_config",
                                        "cache_implementation",
                                        "rope_type",
                                        "transformers.js_config",
                                        "auto_map",
                                        "return_dict",
                                        "output_attentions",
                                        "output_hidden_states",
                                        "torchscript",
                                        "id2label",
                                        "label2id",
                                        "problem_type",
                                        "tokenizer_class",
                                        "hidden_dropout",
                                        "unk_token_id",
                                        "use_return_dict",
                                        "unsloth_fixed",
                                        "unsloth_version",
                                        NULL};
static const char *const off_keys[] = {"attention_bias",          "mlp_bias",
                                       "attention_multiplier",    "embedding_multiplier",
                                       "residual_multiplier",     "logits_scaling",
                                       "final_logit_softcapping", "attn_logit_softcapping",
                                       "num_local_experts",       "use_bidirectional_attention",
                                       "quantization_config",     NULL};

static int refuse_others(const json_t *root, struct err *err)
{
    const char *key;
    const json_t *v;
    json_object_foreach((json_t *)root, key, v)
    {
        if (one_of(key, off_keys)) {
            if (!json_is_null(v) && !json_is_false(v))
                return err_set(err, "%s is set: not supported", key);
        } else if (!one_of(key, read_keys) && !one_of(key, idle_keys)) {
            return err_set(err, "key %.60s is not known here, and may change results", key);
        }
    }
    return 0;
}

static int find_family(const json_t *root, int32_t *family, struct err *err)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    *family = 0;
    while (type && model_families[*family].name && strcmp(model_families[*family].name, type) != 0)
        ++*family;
    const struct family *f = &model_families[*family];
    if (!f->name)
        return err_set(err,
                       "model_type is %.60s: llama, mistral, qwen2, qwen3 and gemma3_text are "
                       "known here",
                       type);
    const char *want = f->traits.gelu ? "gelu_pytorch_tanh" : "silu";
    static const char *const key[] = {"hidden_act", "hidden_activation"};
    for (size_t i = 0; i < ARRAY_LEN(key); i++) {
        const char *act = json_string_value(json_object_get(root, key[i]));
        if (act && strcmp(act, want) != 0)
            return err_set(err, "%s is %.60s: a %s has %s", key[i], act, f->name, want);
    }
    return 0;
}

// Positions.

static const char *const rope_keys[] = {"rope_type",
                                        "type",
                                        "rope_theta",
                                        "factor",
                                        "low_freq_factor",
                                        "high_freq_factor",
                                        "original_max_position_embeddings",
                                        "partial_rotary_factor",
                                        "divisors",
                                        NULL};

static const char *const rope_names[MODEL_ROPES] = {[MODEL_ROPE_PLAIN] = "default",
                                                    [MODEL_ROPE_LINEAR] = "linear",
                                                    [MODEL_ROPE_LLAMA3] = "llama3",
                                                    [MODEL_ROPE_DIVISORS] = "divisors"};

static int read_divisors(const json_t *list, struct model_rope *rope, const char *place,
                         struct err *err)
{
    rope->n_divisors = (int32_t)json_array_size(list);
    if (rope->n_divisors < 1 || rope->n_divisors > MODEL_DIVISORS)
        return err_set(err, "%s: divisors is no list of 1 to %d numbers", place, MODEL_DIVISORS);
    for (int32_t i = 0; i < rope->n_divisors; i++)
        rope->divisor[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    return 0;
}

// One way to turn positions. rope NULL: only the plain one is known there.
static int read_rope(const json_t *o, const char *place, double *theta, struct model_rope *rope,
                     struct err *err)
{
    const char *key, *name = "default";
    const json_t *v;
    int32_t kind = 0;
    if (!json_is_object(o))
        return err_set(err, "%s is not an object", place);
    json_object_foreach((json_t *)o, key, v)
    {
        if (!one_of(key, rope_keys))
            return err_set(err, "%s: key %.60s is not known here, and may change results", place,
                           key);
        if (strcmp(key, "rope_type") == 0 || strcmp(key, "type") == 0)
            name = json_string_value(v) ? json_string_value(v) : "no text";
    }
    while (kind < MODEL_ROPES && strcmp(rope_names[kind], name) != 0)
        kind++;
    if (kind == MODEL_ROPES || (kind && !rope))
        return err_set(err, "%s: rope_type is %.60s: default, linear and llama3 are known here",
                       place, name);
    const json_t *part = json_object_get(o, "partial_rotary_factor");
    if (part && json_number_value(part) != 1.0)
        return err_set(err, "%s: partial_rotary_factor is set: not supported", place);
    if (get_num(o, "rope_theta", *theta, theta, err))
        return -1;
    if (!kind)
        return 0;
    *rope = (struct model_rope){.kind = kind, .factor = 1};
    if (kind == MODEL_ROPE_DIVISORS)
        return read_divisors(json_object_get(o, "divisors"), rope, place, err);
    if (!json_object_get(o, "factor") ||
        (kind == MODEL_ROPE_LLAMA3 &&
         (!json_object_get(o, "low_freq_factor") || !json_object_get(o, "high_freq_factor") ||
          !json_object_get(o, "original_max_position_embeddings"))))
        return err_set(err, "%s: a number of %s is missing", place, name);
    return get_num(o, "factor", 1, &rope->factor, err) ||
                   get_num(o, "low_freq_factor", 0, &rope->low, err) ||
                   get_num(o, "high_freq_factor", 0, &rope->high, err) ||
                   get_num(o, "original_max_position_embeddings", 0, &rope->original, err)
               ? -1
               : 0;
}

// rope_theta by itself, with rope_scaling, or, as transformers 5 writes it, rope_parameters, where
// layers with a window may have their own.
static int read_positions(const json_t *root, struct model_config *c, struct err *err)
{
    const json_t *scaling = json_object_get(root, "rope_scaling");
    const json_t *all = json_object_get(root, "rope_parameters");
    const json_t *full = json_object_get(all, "full_attention");
    const json_t *near = json_object_get(all, "sliding_attention");
    if (get_num(root, "rope_theta", c->rope_theta, &c->rope_theta, err) ||
        (scaling && !json_is_null(scaling) &&
         read_rope(scaling, "rope_scaling", &c->rope_theta, &c->rope, err)))
        return -1;
    if (all && !json_is_null(all) && !full && !near &&
        read_rope(all, "rope_parameters", &c->rope_theta, &c->rope, err))
        return -1;
    if (full && read_rope(full, "rope_parameters: full_attention", &c->rope_theta, &c->rope, err))
        return -1;
    bool own = model_families[c->family].windows == FAMILY_WINDOW_PATTERN;
    if (get_num(root, "rope_local_base_freq", own ? 10000.0 : c->rope_theta, &c->window_theta, err))
        return -1;
    return near ? read_rope(near, "rope_parameters: sliding_attention", &c->window_theta, NULL, err)
                : 0;
}

// Which layers have a window: named one by one, or by their family's rule.
static int read_window(const json_t *root, struct model_config *c, struct err *err)
{
    enum family_windows rule = model_families[c->family].windows;
    const json_t *types = json_object_get(root, "layer_types");
    bool used = rule == FAMILY_WINDOW_ABOVE ? get_bool(root, "use_sliding_window", false)
                                            : get_bool(root, "use_sliding_window", true);
    int32_t every = 6, from = 0;
    if (get_int(root, "sliding_window", 0, &c->window, err) ||
        get_int(root, "_sliding_window_pattern", 6, &every, err) ||
        get_int(root, "sliding_window_pattern", every, &every, err) ||
        get_int(root, "max_window_layers", 0, &from, err))
        return -1;
    if (!used)
        c->window = 0;
    if (c->window > 0 && rule == FAMILY_WINDOW_NONE)
        return err_set(err, "sliding_window is set: a %s has none", model_families[c->family].name);
    if (types && !json_is_null(types) && json_array_size(types) != (size_t)c->layers)
        return err_set(err, "layer_types names %zu of %d layers", json_array_size(types),
                       c->layers);
    for (int32_t l = 0; l < c->layers && l < MODEL_LAYERS_MAX; l++) {
        const char *type = json_string_value(json_array_get(types, (size_t)l));
        bool near = type                            ? strcmp(type, "sliding_attention") == 0
                    : rule == FAMILY_WINDOW_ABOVE   ? l >= from
                    : rule == FAMILY_WINDOW_PATTERN ? every < 1 || (l + 1) % every != 0
                                                    : true;
        if (type && !near && strcmp(type, "full_attention") != 0)
            return err_set(err, "layer_types: %.60s is not known here", type);
        if (type && near && c->window < 1)
            return err_set(err, "layer_types: %s without a sliding_window", type);
        if (near && c->window > 0)
            family_window(c, l);
    }
    return 0;
}

static int read_config(const json_t *root, struct model_config *c, struct err *err)
{
    int32_t family;
    double scalar = 0;
    if (find_family(root, &family, err))
        return -1;
    family_begin(c, family);
    if (get_int(root, "hidden_size", -1, &c->dim, err) ||
        get_int(root, "intermediate_size", -1, &c->hidden, err) ||
        get_int(root, "num_hidden_layers", -1, &c->layers, err) ||
        get_int(root, "num_attention_heads", -1, &c->heads, err) ||
        get_int(root, "num_key_value_heads", c->heads, &c->kv_heads, err) ||
        get_int(root, "vocab_size", -1, &c->vocab, err) ||
        get_int(root, "max_position_embeddings", 2048, &c->max_positions, err) ||
        get_int(root, "head_dim", c->heads > 0 ? c->dim / c->heads : 0, &c->head_dim, err) ||
        get_num(root, "rms_norm_eps", 1e-6, &c->norm_eps, err) ||
        get_num(root, "query_pre_attn_scalar", 0, &scalar, err))
        return -1;
    if (scalar < 0 || (scalar > 0 && !c->traits.out_norm))
        return err_set(err, "query_pre_attn_scalar is %g: a %s has none", scalar,
                       model_families[family].name);
    c->attn_scale = scalar > 0 ? 1.0 / sqrt(scalar) : 0;
    c->tied = get_bool(root, "tie_word_embeddings", c->tied);
    c->rope_style = get_bool(root, "rope_interleaved", false) ? KERNEL_ROPE_PAIR : KERNEL_ROPE_HALF;
    return read_positions(root, c, err) || read_window(root, c, err) ? -1 : 0;
}

int model_config_json(const char *text, size_t n, struct model_config *c, struct err *err)
{
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return err_set(err, "line %d: %s", why.line, why.text);
    *c = (struct model_config){0};
    int bad =
        json_is_object(root) ? read_config(root, c, err) : err_set(err, "the config is no object");
    bad = bad || model_config_check(c, err) || refuse_others(root, err);
    json_decref(root);
    return bad ? -1 : 0;
}

// And back.

static json_t *rope_json(const struct model_config *c)
{
    const struct model_rope *r = &c->rope;
    json_t *o =
        json_pack("{s:s, s:f}", "rope_type", rope_names[r->kind], "rope_theta", c->rope_theta);
    if (r->kind == MODEL_ROPE_LINEAR || r->kind == MODEL_ROPE_LLAMA3)
        json_object_set_new(o, "factor", json_real(r->factor));
    if (r->kind == MODEL_ROPE_LLAMA3) {
        json_object_set_new(o, "low_freq_factor", json_real(r->low));
        json_object_set_new(o, "high_freq_factor", json_real(r->high));
        json_object_set_new(o, "original_max_position_embeddings", json_real(r->original));
    }
    if (r->kind == MODEL_ROPE_DIVISORS) {
        json_t *list = json_array();
        for (int32_t i = 0; i < r->n_divisors; i++)
            json_array_append_new(list, json_real((double)r->divisor[i]));
        json_object_set_new(o, "divisors", list);
    }
    return o;
}

static void put_window(json_t *root, const struct model_config *c)
{
    json_t *types = json_array();
    for (int32_t l = 0; l < c->layers; l++)
        json_array_append_new(types,
                              json_string(c->windowed[l / 64] >> l % 64 & 1 ? "sliding_attention"
                                                                            : "full_attention"));
    json_object_set_new(root, "sliding_window", json_integer(c->window));
    json_object_set_new(root, "use_sliding_window", json_true());
    json_object_set_new(root, "layer_types", types);
    json_object_set_new(root, "rope_local_base_freq", json_real(c->window_theta));
}

char *model_config_text(const struct model_config *c)
{
    const struct family *f = &model_families[c->family];
    json_t *root = json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:b}", "model_type", f->name,
        "hidden_size", c->dim, "intermediate_size", c->hidden, "num_hidden_layers", c->layers,
        "num_attention_heads", c->heads, "num_key_value_heads", c->kv_heads, "head_dim",
        c->head_dim, "vocab_size", c->vocab, "max_position_embeddings", c->max_positions,
        "rope_theta", c->rope_theta, "rms_norm_eps", c->norm_eps, "tie_word_embeddings",
        (int)c->tied, "rope_interleaved", (int)(c->rope_style == KERNEL_ROPE_PAIR));
    if (c->rope.kind != MODEL_ROPE_PLAIN)
        json_object_set_new(root, "rope_scaling", rope_json(c));
    if (c->window > 0)
        put_window(root, c);
    if (c->attn_scale > 0)
        json_object_set_new(root, "query_pre_attn_scalar",
                            json_real(1.0 / (c->attn_scale * c->attn_scale)));
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(root);
    return text;
}
