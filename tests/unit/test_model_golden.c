// The model against others: PyTorch's numbers for a small Llama
// (tests/golden/make_llama_fixture.py), a real llama2.c checkpoint, and what the loaders say about
// files that are not what they should be.
#include "base/bytes.h"
#include "base/fsio.h"
#include "model/family.h"
#include "model/safetensors.h"
#include "task/tokenizer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define DIR "tests/golden/llama"

struct fixture {
    uint8_t *bytes;
    struct safetensors st;
    struct dev dev;
    struct model *m;
    int32_t rows, start[16], tokens[256], targets[256];
    float weights[256];
    struct model_batch batch;
    float *adapter;
    size_t n;
};

static const float *values(const struct fixture *f, const char *name, size_t n)
{
    const struct safetensor *t = safetensors_find(&f->st, name);
    if (!t || t->n != n)
        fail_msg("fixture has no %s of %zu values", name, n);
    return (const float *)(const void *)(f->bytes + t->at); // the file's data is aligned to 8
}

static float *adapter_part(const struct fixture *f, const char *prefix, float *out)
{
    const struct shape *s = model_shape(f->m);
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        char name[80];
        size_t n = (size_t)s->tensors[i].rows * s->tensors[i].cols;
        snprintf(name, sizeof name, "%s.%s", prefix, s->tensors[i].name);
        memcpy(out + s->tensors[i].offset, values(f, name, n), n * sizeof *out);
    }
    return out;
}

static float *adapter_alloc(const struct fixture *f)
{
    return mem_alloc(MEM_ADAPTER, (f->n + KERNEL_SLACK) * sizeof(float));
}

static void open_weights(struct fixture *f, const char *weights, int32_t dev_kind,
                         int32_t recompute, int32_t dtype)
{
    struct err err = {""};
    size_t n;
    *f = (struct fixture){0};
    assert_int_equal(fsio_read(DIR "/fixture.safetensors", 1 << 20, MEM_OTHER, &f->bytes, &n, &err),
                     0);
    assert_int_equal(safetensors_parse(f->bytes, n, n, &f->st, &err), 0);
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    snprintf(p.path, sizeof p.path, "%s", weights);
    p.lora_rank = (int32_t)values(f, "lora", 2)[0];
    p.lora_alpha = (double)values(f, "lora", 2)[1];
    p.recompute = recompute;
    p.dtype = dtype;
    assert_int_equal(dev_open(&f->dev, dev_kind, 1, &err), 0);
    f->m = model_open(&f->dev, &p, &err);
    if (!f->m)
        fail_msg("%s", err.text);
    const float *start = values(f, "starts", 5);
    for (int i = 0; i < 5; i++)
        f->start[i] = (int32_t)start[i];
    f->rows = f->start[4];
    size_t rows = (size_t)f->rows;
    for (size_t i = 0; i < rows; i++) {
        f->tokens[i] = (int32_t)values(f, "tokens", rows)[i];
        f->targets[i] = (int32_t)values(f, "targets", rows)[i];
        f->weights[i] = values(f, "weights", rows)[i];
    }
    f->batch = (struct model_batch){.n_seqs = 4,
                                    .start = f->start,
                                    .tokens = f->tokens,
                                    .targets = f->targets,
                                    .weights = f->weights};
    f->n = model_shape(f->m)->n_values;
    f->adapter = adapter_part(f, "adapter", adapter_alloc(f));
}

static void open_fixture(struct fixture *f, int32_t dev_kind, int32_t recompute)
{
    open_weights(f, DIR, dev_kind, recompute, MODEL_DTYPE_AUTO);
}

static void close_fixture(struct fixture *f)
{
    model_close(f->m);
    dev_close(&f->dev);
    safetensors_free(&f->st);
    mem_free(f->bytes);
    mem_free(f->adapter);
}

// The largest difference relative to the largest value is at most 1e-4.
#define CLOSE(what, a, b, n)                                                                       \
    do {                                                                                           \
        double most = 1e-12, apart = 0;                                                            \
        for (size_t i_ = 0; i_ < (size_t)(n); i_++) {                                              \
            double d_ = fabs((double)(a)[i_] - (double)(b)[i_]);                                   \
            most = fmax(most, fabs((double)(b)[i_]));                                              \
            apart = d_ > apart || d_ != d_ ? d_ : apart; /* a NaN stays, which fmax would drop */  \
        }                                                                                          \
        if (!(apart <= 1e-4 * most))                                                               \
            fail_msg("%s is %g away from PyTorch", what, apart / most);                            \
    } while (0)

static void loss_and_gradients_are_pytorchs(void **state)
{
    (void)state;
    for (int way = 0; way < 3; way++) { // cpu, cpu with recompute, reference
        struct fixture f;
        open_fixture(&f, way == 2, way == 1);
        int32_t dim = model_config(f.m)->dim;
        float *grad = adapter_alloc(&f), *want = adapter_part(&f, "grad", adapter_alloc(&f));
        float *embed = mem_alloc(MEM_OTHER, (size_t)(f.rows * dim) * sizeof *embed);
        float *sq = mem_alloc(MEM_OTHER, (size_t)f.rows * sizeof *sq);
        struct model_job job = {.batch = &f.batch,
                                .adapter = f.adapter,
                                .grad = grad,
                                .embed_grad = embed,
                                .token_sq = sq};
        model_backward(f.m, &job, 1, NULL);
        float loss = (float)job.loss;
        CLOSE("the loss", &loss, values(&f, "loss", 1), 1);
        const float *torch = values(&f, "embed_grad", (size_t)(f.rows * dim));
        CLOSE("the gradient of the embeddings", embed, torch, f.rows * dim);
        for (int32_t i = 0; i < f.rows; i++) {
            float sum = 0;
            for (int32_t j = 0; j < dim; j++)
                sum += torch[i * dim + j] * torch[i * dim + j];
            if (f.batch.targets[i] < 0)
                sum = 0; // the prompt's are not told
            assert_true(fabsf(sq[i] - sum) <= 2e-4f * sum + 1e-9f);
        }
        for (uint32_t i = 0; i < model_shape(f.m)->n_tensors; i++) {
            const struct shape_tensor *t = &model_shape(f.m)->tensors[i];
            CLOSE(t->name, grad + t->offset, want + t->offset, (size_t)t->rows * t->cols);
        }
        mem_free(grad);
        mem_free(want);
        mem_free(embed);
        mem_free(sq);
        close_fixture(&f);
    }
}

// Logits are never stored; the loss of every possible target gives their log-softmax.
static void logits_are_pytorchs(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, 0, 0);
    int32_t vocab = model_config(f.m)->vocab, best[256];
    const float *want = values(&f, "log_softmax", (size_t)(f.rows * vocab));
    float *got = mem_alloc(MEM_OTHER, (size_t)(f.rows * vocab) * sizeof *got), loss[256];
    struct model_job job = {
        .batch = &f.batch, .adapter = f.adapter, .token_loss = loss, .best = best};
    for (int32_t v = 0; v < vocab; v++) {
        for (int32_t i = 0; i < f.rows; i++)
            f.targets[i] = v;
        model_evaluate(f.m, &job, 1);
        for (int32_t i = 0; i < f.rows; i++)
            got[i * vocab + v] = -loss[i];
    }
    CLOSE("log-softmax", got, want, f.rows * vocab);
    for (int32_t i = 0; i < f.rows; i++)
        for (int32_t v = 0; v < vocab; v++)
            assert_true(want[i * vocab + best[i]] >= want[i * vocab + v]);
    mem_free(got);
    close_fixture(&f);
}

static void ten_steps_are_pytorchs(void **state)
{
    (void)state;
    struct fixture f;
    open_fixture(&f, 0, 0);
    const float *h = values(&f, "adamw", 6), *curve = values(&f, "curve", 10);
    struct optim_params o = {.kind = OPTIM_ADAMW,
                             .lr = (double)h[0],
                             .beta1 = (double)h[1],
                             .beta2 = (double)h[2],
                             .eps = (double)h[3],
                             .weight_decay = (double)h[4],
                             .clip = (double)h[5]};
    struct model_client s = {.adapter = f.adapter,
                             .moments = mem_alloc(MEM_OPTIMIZER, 2 * f.n * sizeof *s.moments),
                             .n_moments = 2 * f.n};
    struct model_job job = {.batch = &f.batch, .client = &s};
    model_load(f.m, &s, 0);
    for (int step = 0; step < 10; step++) {
        model_train_step(f.m, &job, 1, &o, NULL);
        float loss = (float)job.loss;
        CLOSE("the loss curve", &loss, curve + step, 1);
    }
    model_store(f.m, &s);
    float *want = adapter_part(&f, "final", adapter_alloc(&f));
    CLOSE("the trained adapter", f.adapter, want, f.n);
    mem_free(want);
    mem_free(s.moments);
    close_fixture(&f);
}

// stories260K.

static const char story[] =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high.\n"
    "Lily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to do. She "
    "said, \"I want to play with your ball, but I can't find it.\"\n"
    "Lily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to "
    "do.\"\n"
    "Lily didn't want to help her mom, so she said, \"I'm sorry, mom. I didn't know what to do.\" "
    "Her mom said, \"Don't worry, Lily. We can help you.";

static void stories260k_tells_its_story(void **state)
{
    (void)state;
    enum { N = 256 };
    const char *shared = getenv("FSTQ_SHARED");
    char path[512];
    snprintf(path, sizeof path, "%s/models/stories260K/stories260K.bin",
             shared ? shared : "../shared");
    if (access(path, R_OK) != 0) {
        print_message("no %s\n", path);
        skip();
    }
    struct err err = {""};
    struct dev dev;
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    snprintf(p.path, sizeof p.path, "%.200s", path);
    assert_int_equal(dev_open(&dev, 0, 1, &err), 0);
    struct model *m = model_open(&dev, &p, &err);
    if (!m)
        fail_msg("%s", err.text);
    snprintf(path, sizeof path, "%s/models/stories260K/tok512.bin", shared ? shared : "../shared");
    struct tokenizer *t = tokenizer_open("llama2c", path, &err);
    assert_non_null(t);
    int32_t tokens[N + 1] = {1}, targets[N + 1], out[N], len;
    int32_t n = tokenizer_encode(t, story, strlen(story), tokens + 1, N);
    assert_int_equal(n, N);
    // What llama2.c prints with -t 0 is in the checkpoint's description, and it is this story.
    struct model_gen g = {.n_seqs = 1,
                          .start = (const int32_t[]){0, 1},
                          .tokens = tokens,
                          .max_new = N,
                          .end = 1,
                          .out = out,
                          .out_len = &len};
    model_generate(m, &g);
    char text[2048];
    tokenizer_decode(t, out, len, text, sizeof text);
    assert_string_equal(text, story);
    assert_memory_equal(out, tokens + 1, sizeof out);
    // 0.45735 nats a token in an independent forward pass in double precision (NumPy).
    memcpy(targets, tokens + 1, N * sizeof *targets);
    targets[N] = -1;
    struct model_batch b = {
        .n_seqs = 1, .start = (const int32_t[]){0, N + 1}, .tokens = tokens, .targets = targets};
    struct model_job job = {.batch = &b};
    model_evaluate(m, &job, 1);
    assert_true(fabs(job.loss - 0.45735) < 2e-4);
    tokenizer_close(t);
    model_close(m);
    dev_close(&dev);
}

// Files that are not what they should be.

static void refuses(const char *path, const char *word)
{
    struct err err = {""};
    struct dev dev;
    struct model_params p;
    opt_defaults(model_options, model_option_count, &p);
    snprintf(p.path, sizeof p.path, "%s", path);
    assert_int_equal(dev_open(&dev, 0, 1, &err), 0);
    struct model *m = model_open(&dev, &p, &err);
    assert_null(m);
    if (!strstr(err.text, word) || (path[0] && !strstr(err.text, path)))
        fail_msg("%s: said \"%s\", expected the path and \"%s\"", path, err.text, word);
    dev_close(&dev);
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void broken_llama2c_says_what_is_wrong(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_model_XXXXXX", path[300];
    assert_non_null(mkdtemp(dir));
    refuses("", "model.path is empty");
    refuses("/nowhere/model.xyz", "no such file");
    snprintf(path, sizeof path, "%s/none.bin", dir);
    refuses(path, "No such file");
    uint8_t header[28 + 4] = {0};
    write_file(path, header, 10);
    refuses(path, "header");
    static const uint32_t field[] = {8, 8, 1, 2, 1, 5, 4}; // dim, hidden, layers, heads, ...
    for (size_t i = 0; i < ARRAY_LEN(field); i++)
        put_u32(header + 4 * i, field[i]);
    write_file(path, header, sizeof header);
    refuses(path, "asks for");
    put_u32(header + 12, 3);
    write_file(path, header, sizeof header);
    refuses(path, "3 heads");
    unlink(path);
    rmdir(dir);
}

// A Hugging Face directory, for files that are broken in one place at a time.
struct hf {
    char dir[24], config[48], weights[48];
    uint8_t *good, *text;
    size_t n, n_text;
};

static void hf_open(struct hf *h)
{
    struct err err;
    *h = (struct hf){.dir = "/tmp/test_model_XXXXXX"};
    assert_non_null(mkdtemp(h->dir));
    snprintf(h->config, sizeof h->config, "%s/config.json", h->dir);
    snprintf(h->weights, sizeof h->weights, "%s/model.safetensors", h->dir);
    assert_int_equal(fsio_read(DIR "/model.safetensors", 1 << 20, MEM_OTHER, &h->good, &h->n, &err),
                     0);
    assert_int_equal(fsio_read(DIR "/config.json", 1 << 20, MEM_OTHER, &h->text, &h->n_text, &err),
                     0);
}

static void hf_close(struct hf *h)
{
    unlink(h->config);
    unlink(h->weights);
    rmdir(h->dir);
    mem_free(h->good);
    mem_free(h->text);
}

static void broken_weights_say_what_is_wrong(void **state)
{
    (void)state;
    struct hf h;
    hf_open(&h);
    refuses(h.dir, "config.json");
    write_file(h.config, h.text, h.n_text);
    refuses(h.dir, "model.safetensors");
    write_file(h.weights, h.good, h.n - 4);
    refuses(h.dir, "cut short");
    write_file(h.weights, h.good, 5);
    refuses(h.dir, "first 8");
    uint8_t *bytes = mem_alloc(MEM_OTHER, h.n);
    memcpy(bytes, h.good, h.n);
    put_u64(bytes, UINT64_MAX);
    write_file(h.weights, bytes, h.n);
    refuses(h.dir, "no safetensors file");
    memcpy(bytes, h.good, h.n);
    char *name = memmem(bytes, h.n, "layers.1.mlp.up_proj", 20);
    name[19] = 'x';
    write_file(h.weights, bytes, h.n);
    refuses(h.dir, "layers.1.mlp.up_proj.weight is missing");
    memcpy(bytes, h.good, h.n);
    put_f32(bytes + h.n - 400, NAN);
    write_file(h.weights, bytes, h.n);
    refuses(h.dir, "not finite");
    write_file(h.weights, h.good, h.n);
    refuses(h.weights, "fstq_config"); // a foreign safetensors file without its directory
    mem_free(bytes);
    hf_close(&h);
}

static void broken_configs_say_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *word;
    } edit[] = {{"\"intermediate_size\": 56", "\"intermediate_size\": 55", "of the config"},
                {"\"hidden_size\": 32", "\"hidden_size\": 31", "head_dim 7 is odd"},
                {"\"hidden_size\": 32", "\"hidden_size\": -2", "hidden_size"},
                {"\"hidden_size\": 32", "\"hidden_xize\": 32", "hidden_size is missing"},
                {"\"vocab_size\": 61", "\"vocab_size\": 99", "the file holds"},
                {"\"model_type\": \"llama\"", "\"model_type\": \"gpt_2\"", "model_type"},
                {"\"attention_bias\": false", "\"attention_bias\":  true", "attention_bias"},
                {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "3 key-value heads"}};
    struct hf h;
    hf_open(&h);
    write_file(h.weights, h.good, h.n);
    for (size_t i = 0; i < ARRAY_LEN(edit); i++) {
        char *other = mem_alloc(MEM_OTHER, h.n_text + 1);
        memcpy(other, h.text, h.n_text);
        char *at = strstr(other, edit[i].from);
        assert_non_null(at);
        assert_int_equal(strlen(edit[i].from), strlen(edit[i].to));
        memcpy(at, edit[i].to, strlen(edit[i].to));
        write_file(h.config, other, h.n_text);
        refuses(h.dir, edit[i].word);
        mem_free(other);
    }
    hf_close(&h);
}

// The frequency of positions stands where the writer's version puts it, and other ways to turn them
// are not taken for the plain one.
static void rope_is_read_wherever_it_stands(void **state)
{
    (void)state;
    static const struct {
        const char *rope;
        double theta;     // 0 = refused
        const char *word; // which names it
    } cases[] = {
        {"", 10000, ""},
        {"\"rope_theta\": 500000.0, \"rope_scaling\": null,", 500000, ""},
        {"\"rope_parameters\": {\"rope_theta\": 100000.0, \"rope_type\": \"default\"},", 100000,
         ""},
        {"\"rope_theta\": 5.0, \"rope_scaling\": {\"type\": \"default\"},", 5, ""},
        {"\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0},", 0, "llama3"},
        {"\"rope_parameters\": {\"rope_theta\": 1e5, \"rope_type\": \"yarn\"},", 0, "yarn"},
        {"\"rope_parameters\": {\"rope_theta\": \"x\"},", 0, "rope_theta"},
        {"\"rope_parameters\": 7,", 0, "rope_parameters"},
        {"\"rope_parameters\": {\"partial_rotary_factor\": 0.5},", 0, "partial_rotary_factor"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char text[500];
        struct model_config c;
        struct err err = {""};
        int n =
            snprintf(text, sizeof text,
                     "{%s \"hidden_size\": 32, \"intermediate_size\": 56, "
                     "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"vocab_size\": 61}",
                     cases[i].rope);
        int bad = model_config_json(text, (size_t)n, &c, &err);
        assert_int_equal(bad, cases[i].theta > 0 ? 0 : -1);
        if (bad && !strstr(err.text, cases[i].word))
            fail_msg("'%s' does not name %s", err.text, cases[i].word);
        if (!bad)
            assert_true(c.rope_theta == cases[i].theta);
    }
}

// Two tensors on the same bytes: a small file that would make a large model.
static void tensors_share_no_bytes(void **state)
{
    (void)state;
    uint8_t *bytes;
    size_t n;
    struct safetensors st;
    struct err err = {""};
    assert_int_equal(fsio_read(DIR "/model.safetensors", 1 << 20, MEM_OTHER, &bytes, &n, &err), 0);
    char *k = strstr(memmem(bytes, n, "layers.0.self_attn.k_proj", 25), "data_offsets");
    char *v = strstr(memmem(bytes, n, "layers.0.self_attn.v_proj", 25), "data_offsets");
    char *end = strchr(k, ']');
    assert_int_equal(strchr(v, ']') - v, end - k);
    memcpy(v, k, (size_t)(end - k));
    assert_int_equal(safetensors_parse(bytes, n, n, &st, &err), -1);
    assert_non_null(strstr(err.text, "overlap"));
    mem_free(bytes);
}

// The same weights as a GGUF file (tests/golden/make_gguf.py), whose rows of q and k stand in
// another order: B's rows of an adapter go with them, so the base alone is compared.
static void gguf_weights_are_the_same(void **state)
{
    (void)state;
    struct fixture f[3];
    float loss[3][256];
    open_weights(&f[0], DIR, 0, MODEL_KEEP_ALL, MODEL_DTYPE_AUTO);
    open_weights(&f[1], DIR "/model.gguf", 0, MODEL_KEEP_ALL, MODEL_DTYPE_AUTO);
    open_weights(&f[2], DIR "/model.gguf", 0, MODEL_KEEP_ALL, MODEL_DTYPE_STORED); // where they lie
    for (int i = 0; i < 3; i++) {
        memset(f[i].adapter, 0, f[i].n * sizeof(float));
        struct model_job job = {
            .batch = &f[i].batch, .adapter = f[i].adapter, .token_loss = loss[i]};
        model_evaluate(f[i].m, &job, 1);
    }
    CLOSE("the loss of each token", loss[1], loss[0], f[0].rows);
    assert_memory_equal(loss[1], loss[2], (size_t)f[0].rows * sizeof(float));
    for (int i = 0; i < 3; i++)
        close_fixture(&f[i]);
}

// Every key and tensor that is missing or odd is named.
// Through the files of PEFT an adapter goes from one order of rows to the other and gives the same
// losses; what does not fit is refused by name.
static void an_adapter_travels_as_peft(void **state)
{
    (void)state;
    struct fixture f[2];
    struct err err = {""};
    float loss[2][256];
    char dir[] = "/tmp/test_peft_XXXXXX", path[60];
    assert_non_null(mkdtemp(dir));
    open_weights(&f[0], DIR, 0, MODEL_KEEP_ALL, MODEL_DTYPE_AUTO);
    open_weights(&f[1], DIR "/model.gguf", 0, MODEL_KEEP_ALL, MODEL_DTYPE_AUTO);
    struct model_params p = {.path = "base"};
    p.lora_rank = (int32_t)values(&f[0], "lora", 2)[0];
    p.lora_alpha = (double)values(&f[0], "lora", 2)[1];
    if (model_peft_write(f[0].m, &p, dir, f[0].adapter, &err))
        fail_msg("%s", err.text);
    // One that is there stays, also where only its config or weights of another format are left.
    assert_int_equal(model_peft_write(f[0].m, &p, dir, f[0].adapter, &err), -1);
    assert_non_null(strstr(err.text, "adapter_config.json: is there"));
    memset(f[1].adapter, 0, f[1].n * sizeof(float));
    if (model_peft_read(f[1].m, &p, dir, f[1].adapter, &err))
        fail_msg("%s", err.text);
    for (int i = 0; i < 2; i++) {
        struct model_job job = {
            .batch = &f[i].batch, .adapter = f[i].adapter, .token_loss = loss[i]};
        model_evaluate(f[i].m, &job, 1);
    }
    CLOSE("the loss of each token", loss[1], loss[0], f[0].rows);
    float *back = adapter_alloc(&f[0]);
    assert_int_equal(model_peft_read(f[0].m, &p, dir, back, &err), 0);
    assert_memory_equal(back, f[0].adapter, f[0].n * sizeof(float));
    p.lora_alpha *= 2;
    assert_int_equal(model_peft_read(f[0].m, &p, dir, back, &err), -1);
    assert_non_null(strstr(err.text, "lora_alpha"));
    p.lora_alpha /= 2;
    uint8_t *bytes;
    size_t n;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    assert_int_equal(fsio_read(path, 1 << 20, MEM_OTHER, &bytes, &n, &err), 0);
    char *name = memmem(bytes, n, "layers.1.mlp.up_proj.lora_B", 27);
    assert_non_null(name);
    name[19] = 'x';
    write_file(path, bytes, n);
    assert_int_equal(model_peft_read(f[0].m, &p, dir, back, &err), -1);
    assert_non_null(strstr(err.text, "layers.1.mlp.up_proj.lora_B.weight is missing"));
    write_file(path, bytes, 100);
    assert_int_equal(model_peft_read(f[0].m, &p, dir, back, &err), -1);
    mem_free(bytes);
    mem_free(back);
    unlink(path);
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    unlink(path);
    assert_int_equal(model_peft_check(dir, &err), 0);
    snprintf(path, sizeof path, "%s/adapter_model.bin", dir);
    write_file(path, (const uint8_t *)"torch", 5);
    assert_int_equal(model_peft_check(dir, &err), -1);
    assert_non_null(strstr(err.text, "adapter_model.bin"));
    unlink(path);
    rmdir(dir);
    close_fixture(&f[0]);
    close_fixture(&f[1]);
}

static void broken_gguf_says_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *word;
    } edit[] = {
        {"general.architecture", "general.xrchitecture", "general.architecture is none"},
        {"llama.block_count", "llama.block_cxunt", "llama.block_cxunt is not known"},
        {"llama.rope.freq_base", "llama.rope.freq_bxse", "llama.rope.freq_bxse is not known"},
        {"blk.1.ffn_up.weight", "blk.1.ffn_xp.weight", "blk.1.ffn_up.weight is missing"},
        {"token_embd.weight", "token_embx.weight", "token_embd.weight is missing"},
    };
    char path[] = "/tmp/test_model_XXXXXX.gguf";
    uint8_t *good;
    size_t n;
    struct err err;
    assert_int_equal(fsio_read(DIR "/model.gguf", 1 << 20, MEM_OTHER, &good, &n, &err), 0);
    refuses("/nowhere/model.gguf", "No such file");
    int fd = mkstemps(path, 5);
    assert_true(fd >= 0);
    close(fd);
    for (size_t i = 0; i < ARRAY_LEN(edit); i++) {
        uint8_t *at = memmem(good, n, edit[i].from, strlen(edit[i].from));
        assert_non_null(at);
        memcpy(at, edit[i].to, strlen(edit[i].to));
        write_file(path, good, n);
        refuses(path, edit[i].word);
        memcpy(at, edit[i].from, strlen(edit[i].from));
    }
    put_f32(good + n - 64, NAN);
    write_file(path, good, n);
    refuses(path, "not finite");
    write_file(path, good, n - 1000);
    refuses(path, "do not lie in the file");
    write_file(path, good, 0);
    refuses(path, "is empty");
    unlink(path);
    mem_free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_weights_are_the_same),
        cmocka_unit_test(an_adapter_travels_as_peft),
        cmocka_unit_test(broken_gguf_says_what_is_wrong),
        cmocka_unit_test(rope_is_read_wherever_it_stands),
        cmocka_unit_test(loss_and_gradients_are_pytorchs),
        cmocka_unit_test(logits_are_pytorchs),
        cmocka_unit_test(ten_steps_are_pytorchs),
        cmocka_unit_test(stories260k_tells_its_story),
        cmocka_unit_test(broken_llama2c_says_what_is_wrong),
        cmocka_unit_test(broken_weights_say_what_is_wrong),
        cmocka_unit_test(broken_configs_say_what_is_wrong),
        cmocka_unit_test(tensors_share_no_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
