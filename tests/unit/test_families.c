// Families of models against transformers: tiny ones whose weights are a formula, with losses in
// double precision (tests/golden/arch.json says how), and each against itself: gradients against
// differences of the loss, generation against evaluation, saved and loaded again.
#include "base/bytes.h"
#include "base/gguf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "fed/lm.h"
#include "model/family.h"
#include "scratch.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { ROWS = 24, BYTES = 1 << 19 };

static json_t *golden;

// The tensors of the formula as a safetensors file; cut > 0: tensors from there on go to another.
static void write_weights(const char *path, const json_t *tensors, bool plus, size_t from,
                          size_t end)
{
    static uint8_t file[BYTES];
    size_t n = json_object_size(tensors), data = 0, t = 0, head;
    json_t *header = json_object(), *shape;
    const char *name;
    static float x[BYTES / 4];
    json_object_foreach((json_t *)tensors, name, shape) // in the order of the file: sorted
    {
        size_t values = 1;
        for (size_t i = 0; i < json_array_size(shape); i++)
            values *= (size_t)json_integer_value(json_array_get(shape, i));
        bool norm = json_array_size(shape) == 1 && strstr(name, "norm.weight") && plus;
        if (t >= from && t < end) {
            for (size_t k = 0; k < values; k++)
                x[data / 4 + k] = (float)(0.2 * sin(0.37 * (double)k + (double)t) + norm);
            json_object_set_new(header, name,
                                json_pack("{s:s, s:O, s:[I, I]}", "dtype", "F32", "shape", shape,
                                          "data_offsets", (json_int_t)data,
                                          (json_int_t)(data + 4 * values)));
            data += 4 * values;
        }
        t++;
    }
    assert_int_equal(t, n);
    char *text = json_dumps(header, JSON_COMPACT);
    head = (strlen(text) + 7) / 8 * 8;
    assert_true(8 + head + data < BYTES);
    put_u64(file, head);
    memset(file + 8, ' ', head);
    memcpy(file + 8, text, strlen(text));
    memcpy(file + 8 + head, x, data);
    free(text);
    json_decref(header);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file, 1, 8 + head + data, f), 8 + head + data);
    fclose(f);
}

struct tiny {
    struct dev dev;
    struct model *m;
    float *adapter;
    size_t n;
};

static void write_config(const json_t *config)
{
    char path[400];
    snprintf(path, sizeof path, "%s/config.json", scratch_dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
}

static void write_model(const char *kind)
{
    const json_t *row = json_object_get(json_object_get(golden, "models"), kind);
    char path[400];
    snprintf(path, sizeof path, "%s/model.safetensors", scratch_dir);
    write_config(json_object_get(row, "config"));
    write_weights(path, json_object_get(row, "tensors"), strcmp(kind, "gemma3") != 0, 0, SIZE_MAX);
}

static void tiny_open(struct tiny *t, const char *path, int32_t kind, int32_t recompute)
{
    struct err err = {""};
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    snprintf(p.path, sizeof p.path, "%s", path);
    p.lora_rank = 2;
    p.lora_alpha = 4;
    p.recompute = recompute;
    assert_int_equal(dev_open(&t->dev, kind, 1, &err), 0);
    t->m = model_open(&t->dev, &p, &err);
    if (!t->m)
        fail_msg("%s", err.text);
    t->n = model_shape(t->m)->n_values;
    t->adapter = mem_alloc(MEM_ADAPTER, (t->n + KERNEL_SLACK) * sizeof *t->adapter);
    for (size_t i = 0; i < t->n; i++)
        t->adapter[i] = (float)(0.1 * sin(1.7 * (double)i));
}

static void tiny_close(struct tiny *t)
{
    model_close(t->m);
    dev_close(&t->dev);
    mem_free(t->adapter);
}

static int32_t tokens[ROWS], targets[ROWS], start[2] = {0, ROWS};
static const struct model_batch batch = {
    .n_seqs = 1, .start = start, .tokens = tokens, .targets = targets};

static double loss_of(struct tiny *t, const float *adapter, float *token_loss)
{
    struct model_job job = {.batch = &batch, .adapter = adapter, .token_loss = token_loss};
    model_evaluate(t->m, &job, 1);
    return job.loss;
}

// Rows of dev_table: the CPU's, the reference, and the GPU's kernels, emulated.
static int32_t emulated(void)
{
    int32_t i = 0;
    while (strcmp(dev_table[i]->name, "emu") != 0)
        i++;
    return i;
}

static void losses_are_those_of_transformers(void **state)
{
    (void)state;
    const char *kind;
    json_t *row;
    int seen = 0;
    json_object_foreach(json_object_get(golden, "models"), kind, row)
    {
        const json_t *want = json_object_get(row, "loss_f64");
        write_model(kind);
        const int32_t devs[] = {0, 1, emulated()};
        for (size_t k = 0; k < ARRAY_LEN(devs); k++) {
            struct tiny t;
            float loss[ROWS];
            tiny_open(&t, scratch_dir, devs[k], MODEL_KEEP_ALL);
            loss_of(&t, NULL, loss);
            for (size_t i = 0; i + 1 < ROWS; i++) {
                double w = json_number_value(json_array_get(want, i));
                if (!(fabs((double)loss[i] - w) <= 1e-5))
                    fail_msg("%s on %s: token %zu has loss %.7f, expected %.7f", kind,
                             dev_table[devs[k]]->name, i + 1, (double)loss[i], w);
            }
            tiny_close(&t);
        }
        seen++;
    }
    assert_int_equal(seen, 5);
}

// The same weights as a GGUF file: keys, names, Llama's order of rows of queries and keys, and
// norms with the one that Gemma's files in Hugging Face's format leave out.
static uint8_t file[BYTES];
static size_t used;

static void put_text(const char *text)
{
    put_u64(file + used, strlen(text));
    memcpy(file + used + 8, text, strlen(text));
    used += 8 + strlen(text);
}

static void put_number(const char *arch, const char *name, const json_t *v)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    put_text(key);
    put_u32(file + used, json_is_integer(v) ? GGUF_U32 : GGUF_F32);
    if (json_is_integer(v))
        put_u32(file + used + 4, (uint32_t)json_integer_value(v));
    else
        put_f32(file + used + 4, (float)json_real_value(v));
    used += 8;
}

static void gguf_name_of(const char *hf, bool gemma, char *out, size_t size)
{
    static const char *const part[][2] = {{"input_layernorm", "attn_norm"},
                                          {"self_attn.q_proj", "attn_q"},
                                          {"self_attn.k_proj", "attn_k"},
                                          {"self_attn.v_proj", "attn_v"},
                                          {"self_attn.q_norm", "attn_q_norm"},
                                          {"self_attn.k_norm", "attn_k_norm"},
                                          {"self_attn.o_proj", "attn_output"},
                                          {"mlp.gate_proj", "ffn_gate"},
                                          {"mlp.up_proj", "ffn_up"},
                                          {"mlp.down_proj", "ffn_down"},
                                          {"pre_feedforward_layernorm", "ffn_norm"},
                                          {"post_feedforward_layernorm", "post_ffw_norm"},
                                          {"post_attention_layernorm", NULL}};
    const char *to = NULL, *end = strrchr(hf, '.');
    for (size_t i = 0; i < ARRAY_LEN(part) && !to; i++)
        if (strstr(hf, part[i][0]))
            to = part[i][1] ? part[i][1] : gemma ? "post_attention_norm" : "ffn_norm";
    if (to)
        snprintf(out, size, "blk.%c.%s%s", hf[strlen("model.layers.")], to, end);
    else
        snprintf(out, size, "%s",
                 strstr(hf, "embed_tokens") ? "token_embd.weight"
                 : strstr(hf, "lm_head")    ? "output.weight"
                                            : "output_norm.weight");
}

static void put_tensors(const json_t *tensors, bool gemma, int64_t head_dim)
{
    size_t at = 0, t = 0;
    const char *name;
    json_t *shape;
    json_object_foreach((json_t *)tensors, name, shape)
    {
        char to[96];
        size_t dims = json_array_size(shape), values = 1;
        gguf_name_of(name, gemma, to, sizeof to);
        put_text(to);
        put_u32(file + used, (uint32_t)dims);
        for (size_t i = 0; i < dims; i++) { // columns first
            size_t n = (size_t)json_integer_value(json_array_get(shape, dims - 1 - i));
            put_u64(file + used + 4 + 8 * i, n);
            values *= n;
        }
        put_u32(file + used + 4 + 8 * dims, 0);
        put_u64(file + used + 8 + 8 * dims, at);
        used += 16 + 8 * dims;
        at += (4 * values + 31) / 32 * 32;
    }
    used = (used + 31) / 32 * 32;
    json_object_foreach((json_t *)tensors, name, shape)
    {
        size_t rows = (size_t)json_integer_value(json_array_get(shape, 0));
        size_t cols = (size_t)json_integer_value(json_array_get(shape, 1)), d = (size_t)head_dim;
        bool turned = d && (strstr(name, "q_proj.weight") || strstr(name, "k_proj.weight"));
        cols = cols ? cols : 1;
        for (size_t r = 0; r < rows; r++) {
            size_t h = turned ? r / d * d + r % d % 2 * (d / 2) + r % d / 2 : r;
            for (size_t c = 0; c < cols; c++)
                put_f32(file + used + 4 * (r * cols + c),
                        (float)(0.2 * sin(0.37 * (double)(h * cols + c) + (double)t) +
                                (cols == 1 && strstr(name, "norm.weight"))));
        }
        used += (4 * rows * cols + 31) / 32 * 32;
        t++;
    }
}

static void write_gguf(const char *path, const char *kind, const json_t *row)
{
    static const char *const number[][2] = {{"hidden_size", "embedding_length"},
                                            {"intermediate_size", "feed_forward_length"},
                                            {"num_hidden_layers", "block_count"},
                                            {"num_attention_heads", "attention.head_count"},
                                            {"num_key_value_heads", "attention.head_count_kv"},
                                            {"head_dim", "attention.key_length"},
                                            {"head_dim", "attention.value_length"},
                                            {"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
                                            {"sliding_window", "attention.sliding_window"}};
    const json_t *config = json_object_get(row, "config");
    bool gemma = !strcmp(kind, "gemma3"), llama = !strcmp(kind, "llama");
    json_t *more = json_pack("{s:i, s:f, s:i}", "context_length", 64, "rope.freq_base",
                             gemma ? 1e6 : 1e4, "attention.sliding_window_pattern", 2),
           *v;
    const char *name;
    uint64_t keys = 1;
    memset(file, 0, sizeof file);
    memcpy(file, "GGUF", 4);
    put_u32(file + 4, 3);
    put_u64(file + 8, json_object_size(json_object_get(row, "tensors")));
    used = 24;
    put_text("general.architecture");
    put_u32(file + used, GGUF_STRING);
    used += 4;
    put_text(kind);
    for (size_t i = 0; i < ARRAY_LEN(number); i++)
        if (json_is_number(json_object_get(config, number[i][0]))) {
            put_number(kind, number[i][1], json_object_get(config, number[i][0]));
            keys++;
        }
    json_object_foreach(more, name, v)
    {
        put_number(kind, name, v);
        keys++;
    }
    put_u64(file + 16, keys);
    put_tensors(json_object_get(row, "tensors"), gemma, llama ? 8 : 0);
    json_decref(more);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(file, 1, used, f), used);
    fclose(f);
}

static void gguf_losses_are_those_of_transformers(void **state)
{
    (void)state;
    static const char *const kind[] = {"llama", "qwen2", "qwen3", "gemma3"};
    for (size_t k = 0; k < ARRAY_LEN(kind); k++) {
        const json_t *row = json_object_get(json_object_get(golden, "models"), kind[k]);
        const json_t *want = json_object_get(row, "loss_f64");
        char path[400];
        struct tiny t;
        float loss[ROWS];
        snprintf(path, sizeof path, "%s/model.gguf", scratch_dir);
        write_gguf(path, kind[k], row);
        tiny_open(&t, path, 0, MODEL_KEEP_ALL);
        loss_of(&t, NULL, loss);
        for (size_t i = 0; i + 1 < ROWS; i++) {
            double w = json_number_value(json_array_get(want, i));
            if (!(fabs((double)loss[i] - w) <= 1e-5))
                fail_msg("%s: token %zu has loss %.7f, expected %.7f", kind[k], i + 1,
                         (double)loss[i], w);
        }
        tiny_close(&t);
    }
}

// The gradient on a device; to be freed.
static float *grad_of(struct tiny *t, int32_t dev, int32_t recompute)
{
    tiny_open(t, scratch_dir, dev, recompute);
    float *grad = mem_alloc(MEM_OTHER, (t->n + KERNEL_SLACK) * sizeof *grad);
    struct model_job job = {.batch = &batch, .adapter = t->adapter, .grad = grad};
    model_backward(t->m, &job, 1, NULL);
    return grad;
}

// Along one direction that touches every value of the adapter; kept or computed again, the gradient
// is the same to the bit, and on the GPU's kernels but for rounding.
static void gradients_match_differences(void **state)
{
    (void)state;
    const char *kind;
    json_t *row;
    json_object_foreach(json_object_get(golden, "models"), kind, row)
    {
        struct tiny t[3];
        float *grad[3], *moved;
        double far = 0, all = 0;
        write_model(kind);
        grad[0] = grad_of(&t[0], 0, MODEL_KEEP_ALL);
        grad[1] = grad_of(&t[1], 0, MODEL_KEEP_LAYER);
        grad[2] = grad_of(&t[2], emulated(), MODEL_KEEP_ALL);
        size_t n = t[0].n;
        assert_memory_equal(grad[0], grad[1], n * sizeof(float));
        for (size_t i = 0; i < n; i++) {
            double apart = (double)grad[2][i] - (double)grad[0][i];
            far += apart * apart;
            all += (double)grad[0][i] * (double)grad[0][i];
        }
        if (!(far <= 1e-10 * all))
            fail_msg("%s: the GPU's gradient is %g of it apart", kind, sqrt(far / all));
        moved = mem_alloc(MEM_OTHER, (n + KERNEL_SLACK) * sizeof *moved);
        for (uint32_t k = 0; k < model_shape(t[0].m)->n_tensors; k++) {
            const struct shape_tensor *s = &model_shape(t[0].m)->tensors[k];
            const double step = 2e-3;
            double slope = 0, apart[2], size = 0;
            for (int way = 0; way < 2; way++) {
                memcpy(moved, t[0].adapter, n * sizeof *moved);
                for (size_t i = 0; i < (size_t)s->rows * s->cols; i++)
                    moved[s->offset + i] += (float)((way ? -step : step) * cos((double)i));
                apart[way] = loss_of(&t[0], moved, NULL);
            }
            for (size_t i = 0; i < (size_t)s->rows * s->cols; i++) {
                slope += (double)grad[0][s->offset + i] * cos((double)i);
                size += fabs((double)grad[0][s->offset + i]);
            }
            double measured = (apart[0] - apart[1]) / (2 * step);
            if (!(fabs(measured - slope) <= 1e-3 * size + 5e-4))
                fail_msg("%s: %s has slope %g, measured %g", kind, s->name, slope, measured);
        }
        for (int i = 0; i < 3; i++) {
            mem_free(grad[i]);
            tiny_close(&t[i]);
        }
        mem_free(moved);
    }
}

static void check_generation(int32_t dev)
{
    enum { NEW = 8, PROMPT = 10 };
    struct tiny t;
    int32_t out[NEW], len, seq[PROMPT + NEW], want[PROMPT + NEW], best[PROMPT + NEW];
    tiny_open(&t, scratch_dir, dev, MODEL_KEEP_ALL);
    struct model_gen g = {.adapter = t.adapter,
                          .n_seqs = 1,
                          .start = (const int32_t[]){0, PROMPT},
                          .tokens = tokens,
                          .max_new = NEW,
                          .end = -1,
                          .out = out,
                          .out_len = &len};
    model_generate(t.m, &g);
    assert_int_equal(len, NEW);
    memcpy(seq, tokens, PROMPT * sizeof *seq);
    memcpy(seq + PROMPT, out, sizeof out);
    for (int i = 0; i < PROMPT + NEW; i++)
        want[i] = i < PROMPT + NEW - 1 ? seq[i + 1] : -1;
    struct model_batch b = {
        .n_seqs = 1, .start = (const int32_t[]){0, PROMPT + NEW}, .tokens = seq, .targets = want};
    struct model_job job = {.batch = &b, .adapter = t.adapter, .best = best};
    model_evaluate(t.m, &job, 1);
    assert_memory_equal(best + PROMPT - 1, out, sizeof out);
    tiny_close(&t);
}

// Through the cache, a token at a time, as all at once.
static void generation_matches_evaluation(void **state)
{
    (void)state;
    const char *kind;
    json_t *row;
    json_object_foreach(json_object_get(golden, "models"), kind, row)
    {
        write_model(kind);
        check_generation(0);
        check_generation(emulated());
    }
}

// Our own checkpoint keeps the family, and what it says is read back.
static void saved_and_loaded(void **state)
{
    (void)state;
    const char *kind;
    json_t *row;
    json_object_foreach(json_object_get(golden, "models"), kind, row)
    {
        struct tiny a, b;
        struct err err = {""};
        const char *path = scratch_path("saved.safetensors");
        write_model(kind);
        tiny_open(&a, scratch_dir, 0, MODEL_KEEP_ALL);
        if (model_save(a.m, path, KERNEL_F32, NULL, &err))
            fail_msg("%s", err.text);
        tiny_open(&b, path, 0, MODEL_KEEP_ALL);
        assert_true(fabs(loss_of(&a, NULL, NULL) - loss_of(&b, NULL, NULL)) < 1e-6);
        assert_memory_equal(model_config(a.m)->windowed, model_config(b.m)->windowed,
                            sizeof model_config(a.m)->windowed);
        tiny_close(&a);
        tiny_close(&b);
    }
}

// Weights in two files with an index; one that is not there, and one outside of the folder.
// An index cut short or with bytes changed opens whole, or is refused with a word.
static void damaged_index(struct dev *d, const json_t *index)
{
    char *good = json_dumps(index, 0);
    size_t n = strlen(good);
    struct rng r = rng_stream(11, RNG_TEST, 0, 0, 0);
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    snprintf(p.path, sizeof p.path, "%.230s", scratch_dir);
    for (int round = 0; round < 200; round++) {
        struct err err = {""};
        char *bad = malloc(n);
        memcpy(bad, good, n);
        size_t cut = round % 4 ? n : rng_below(&r, (uint32_t)n);
        for (int k = 0; k < round % 5; k++)
            bad[rng_below(&r, (uint32_t)n)] =
                k % 2 ? (char)rng_below(&r, 256) : "\"{}[]:,/."[rng_below(&r, 9)];
        FILE *f = fopen(scratch_path("model.safetensors.index.json"), "wb");
        assert_non_null(f);
        fwrite(bad, 1, cut, f);
        fclose(f);
        free(bad);
        struct model *m = model_open(d, &p, &err);
        assert_true(m || err.text[0]);
        model_close(m);
    }
    free(good);
}

static void weights_in_several_files(void **state)
{
    (void)state;
    const json_t *row = json_object_get(json_object_get(golden, "models"), "qwen3"), *shape;
    const json_t *tensors = json_object_get(row, "tensors");
    static const char *const name[2] = {"a.safetensors", "b.safetensors"};
    static const char *const bad[] = {"c.safetensors", "../a.safetensors"};
    json_t *map = json_object(), *index = json_pack("{s:O}", "weight_map", map);
    const char *tensor;
    float one[ROWS], several[ROWS];
    struct tiny t;
    write_model("qwen3");
    tiny_open(&t, scratch_dir, 0, MODEL_KEEP_ALL);
    loss_of(&t, NULL, one);
    tiny_close(&t);
    size_t n = 0;
    json_object_foreach((json_t *)tensors, tensor, shape)
    {
        json_object_set_new(map, tensor, json_string(name[n >= 11]));
        n++;
    }
    write_weights(scratch_path(name[0]), tensors, true, 0, 11);
    write_weights(scratch_path(name[1]), tensors, true, 11, n);
    remove(scratch_path("model.safetensors"));
    json_dump_file(index, scratch_path("model.safetensors.index.json"), 0);
    tiny_open(&t, scratch_dir, 0, MODEL_KEEP_ALL);
    loss_of(&t, NULL, several);
    assert_memory_equal(one, several, sizeof one);
    for (size_t i = 0; i < 2; i++) {
        struct err err = {""};
        struct model_params p;
        opt_defaults(model_options, model_option_count, &p);
        snprintf(p.path, sizeof p.path, "%.230s", scratch_dir);
        json_object_set_new(map, "model.norm.weight", json_string(bad[i]));
        json_dump_file(index, scratch_path("model.safetensors.index.json"), 0);
        assert_null(model_open(&t.dev, &p, &err));
        if (!strstr(err.text, i ? "no file of this folder" : bad[i]))
            fail_msg("said \"%s\"", err.text);
    }
    json_object_set_new(map, "model.norm.weight", json_string(name[0]));
    damaged_index(&t.dev, index);
    tiny_close(&t);
    remove(scratch_path("model.safetensors.index.json"));
    json_decref(index);
    json_decref(map);
}

// One change to a config that is right otherwise.
static void others_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *key, *json, *word;
    } edit[] = {
        {"llama", "model_type", "\"phi3\"", "phi3"},
        {"llama", "hidden_act", "\"gelu\"", "hidden_act"},
        {"llama", "sliding_window", "16", "sliding_window"},
        {"llama", "query_pre_attn_scalar", "16", "query_pre_attn_scalar"},
        {"llama", "partial_rotary", "0.5", "partial_rotary is not known"},
        {"llama", "quantization_config", "{\"bits\": 4}", "quantization_config"},
        {"llama3-rope", "rope_parameters", "{\"rope_type\": \"llama3\", \"factor\": 8}", "llama3"},
        {"llama3-rope", "rope_parameters", "{\"rope_type\": \"yarn\"}", "yarn"},
        {"llama3-rope", "rope_parameters", "{\"attention_factor\": 2}", "attention_factor"},
        {"qwen2", "layer_types", "[\"full_attention\"]", "names 1 of 3"},
        {"qwen3", "attention_bias", "true", "attention_bias"},
        {"gemma3", "layer_types", "[\"a\", \"a\", \"a\"]", "layer_types"},
        {"gemma3", "attn_logit_softcapping", "50.0", "attn_logit_softcapping"},
        {"gemma3", "sliding_window", "null", "sliding_window"},
    };
    for (size_t i = 0; i < sizeof edit / sizeof *edit; i++) {
        const json_t *row = json_object_get(json_object_get(golden, "models"), edit[i].kind);
        json_t *config = json_deep_copy(json_object_get(row, "config"));
        json_object_set_new(config, edit[i].key, json_loads(edit[i].json, JSON_DECODE_ANY, NULL));
        char *text = json_dumps(config, 0);
        struct model_config c;
        struct err err = {""};
        assert_int_equal(model_config_json(text, strlen(text), &c, &err), -1);
        if (!strstr(err.text, edit[i].word))
            fail_msg("%s, %s = %s: said \"%s\"", edit[i].kind, edit[i].key, edit[i].json, err.text);
        free(text);
        json_decref(config);
    }
}

static int open_golden(void **state)
{
    (void)state;
    golden = json_load_file("tests/golden/arch.json", 0, NULL);
    const json_t *ids = json_object_get(golden, "ids");
    if (scratch_make() || json_array_size(ids) != ROWS)
        return -1;
    for (size_t i = 0; i < ROWS; i++)
        tokens[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    for (size_t i = 0; i < ROWS; i++)
        targets[i] = i + 1 < ROWS ? tokens[i + 1] : -1;
    return 0;
}

static int close_golden(void **state)
{
    (void)state;
    json_decref(golden);
    return scratch_drop();
}

// A window counts rows; where tokens merge they are no positions any more.
static void merging_is_refused_with_a_window(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *tokens;
        bool fits;
    } row[] = {{"gemma3", "tome", false}, {"gemma3", "fisher", true}, {"qwen3", "tome", true}};
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct tiny t;
        struct err err = {""};
        write_model(row[i].kind);
        tiny_open(&t, scratch_dir, 0, MODEL_KEEP_ALL);
        struct lm lm = {.model = t.m};
        struct workload w = {.row = &work_lm, .state = &lm};
        int bad = w.row->tokens(&w, token_find(row[i].tokens), &err);
        assert_int_equal(bad, row[i].fits ? 0 : -1);
        assert_true(row[i].fits ||
                    (strstr(err.text, "tome") && strstr(err.text, "sliding_window")));
        tiny_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_those_of_transformers),
        cmocka_unit_test(gguf_losses_are_those_of_transformers),
        cmocka_unit_test(gradients_match_differences),
        cmocka_unit_test(generation_matches_evaluation),
        cmocka_unit_test(saved_and_loaded),
        cmocka_unit_test(weights_in_several_files),
        cmocka_unit_test(others_are_refused_by_name),
        cmocka_unit_test(merging_is_refused_with_a_window),
    };
    return cmocka_run_group_tests_name("families", tests, open_golden, close_golden);
}
