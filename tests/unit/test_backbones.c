// Federations whose clients hold several backbones: who holds which, what each sends, what the one
// network or the many learn, and what is refused.
#include "federation.h"
#include "scratch.h"

#include "base/fsio.h"
#include "fed/backbones.h"
#include "fed/side_plan.h"
#include "model/family.h"
#include "task/synth.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { CLIENTS = 6, KEYS = 32 };

static struct federation fed;
static char others[640], vocab_less[300];

// A backbone of so many layers and columns, untrained.
static void make_model(const char *name, const char *family, int32_t layers, int32_t dim,
                       int32_t vocab)
{
    struct dev d;
    struct err err = {""};
    struct model_params p = {.lora_targets = "all"};
    struct model_config c;
    int32_t f = 0;
    while (strcmp(model_families[f].name, family) != 0)
        f++;
    family_begin(&c, f);
    c.dim = dim;
    c.hidden = 2 * dim;
    c.layers = layers;
    c.heads = 2;
    c.kv_heads = 1;
    c.head_dim = dim / 2;
    c.vocab = vocab;
    c.max_positions = 256;
    c.rope_style = KERNEL_ROPE_HALF;
    c.tied = true;
    c.rope_theta = 1000;
    c.norm_eps = 1e-5;
    assert_int_equal(dev_open(&d, 0, 1, &err), 0);
    struct model *m = model_create(&d, &p, &c, (uint64_t)layers, &err);
    if (!m || model_save(m, scratch_path(name), KERNEL_F16, NULL, &err))
        fail_msg("%s", err.text);
    model_close(m);
    dev_close(&d);
}

static int open_all(const char *method, int n, const char *const *more, struct err *err)
{
    char name[160];
    const char *keys[KEYS] = {"task.name=synth-medical",
                              "task.client_min=4",
                              "task.client_max=7",
                              "task.test=7",
                              "fed.clients=6",
                              "fed.eval_every=0",
                              "fed.clients_per_round=3",
                              "fed.local_steps=2",
                              "fed.batch=2",
                              "fed.rounds=12",
                              "client.step_ns=1e6",
                              "net.link=lte-hetero",
                              name};
    int common = 0;
    snprintf(name, sizeof name, "fed.method=%s", method);
    while (keys[common])
        common++;
    for (int i = 0; i < n; i++)
        keys[common + i] = more[i];
    return federation_open(&fed, common + n, keys, err);
}

struct outcome {
    uint64_t hash;
    int64_t values, last_down;
    double score, first, loss;
};

// The network once to each client: what all share, and its own backbone's projections.
static int64_t parcels(void)
{
    const struct side_plan *p = fed.method.form;
    const struct side_config net = {
        .layers = p->layers, .width = p->width, .rank = 16, .classes = p->kind[0].form.classes};
    int64_t sum = 0;
    for (int32_t c = 0; c < CLIENTS; c++)
        sum += 64 + 4 * ((int64_t)side_values(&net, 0) +
                         p->layers * p->width * p->kind[p->of[c]].form.dim);
    return sum;
}

static struct outcome run(const char *method, int n, const char *const *more)
{
    struct err err = {""};
    struct outcome o = {0};
    if (open_all(method, n, more, &err))
        fail_msg("%s: %s", method, err.text);
    federation_run(&fed);
    o.hash = global_hash(&fed.loop.server->global);
    for (int i = 0; i < fed.n_messages; i++)
        o.values += fed.message[i].values_bytes > 0 ? fed.message[i].values_bytes : 0;
    for (int i = 0; i < fed.n_rounds; i++)
        o.last_down = fed.round[i].downlink_bytes;
    if (fed.env.fed->deliver)
        o.last_down -= parcels();
    o.score = fed.round[fed.n_rounds - 1].score;
    o.loss = fed.round[fed.n_rounds - 1].eval_loss;
    o.first = fed.round[0].eval_loss;
    federation_close(&fed);
    return o;
}

static struct outcome run_others(const char *method)
{
    return run(method, 1, (const char *const[]){others});
}

// sum over clients of rows (M d_b + C) w, exactly, whoever computes it and in what order it comes.
static void test_bytes(void **state)
{
    (void)state;
    const char *const one[] = {others, "net.sim_workers=1", "fed.deliver=on"},
                      *const three[] = {others, "net.sim_workers=3"};
    struct outcome a = run("fedmobillm/fp16", 3, one), b = run("fedmobillm/fp16", 2, three);
    struct err err = {""};
    assert_true(a.hash == b.hash && a.values == b.values);
    assert_true(a.last_down >= 0 && a.last_down <= 3 * 64 && isfinite(a.score) && isfinite(a.loss));
    assert_int_equal(open_all("fedmobillm/fp16", 1, one, &err), 0);
    const struct side_plan *p = fed.method.form;
    struct config cfg = fed.cfg;
    struct task *t = task_open(&cfg.task, (uint64_t)cfg.run.seed, CLIENTS, &err);
    int32_t held[SIDE_TYPES] = {0};
    int64_t values = 0;
    assert_int_equal(p->layers, 2);
    assert_int_equal(p->width, 40);
    for (int32_t k = 0; k < CLIENTS; k++) {
        const struct side_form *f = &side_kind_of(p, (uint32_t)k)->form;
        int64_t rows = 0;
        held[p->of[k]]++;
        for (int32_t i = 0; i < task_client(t, k)->n; i++)
            rows += task_client(t, k)->v[i].n - task_client(t, k)->v[i].answer;
        values += rows * ((int64_t)2 * f->dim + f->classes) * 2;
    }
    for (int32_t k = 0; k < 3; k++)
        assert_int_equal(held[k], 2);
    task_close(t);
    federation_close(&fed);
    assert_int_equal(a.values, values);
}

// Each way is another network, and learns.
static void test_ways(void **state)
{
    static const char *const ways[] = {"fedmobillm/fp16",          "fedmobillm:network=single/fp16",
                                       "fedmobillm:read=all/fp16", "fedmobillm:wide=max/fp16",
                                       "fedmobillm-barrier/fp16",  "fedmobillm:layers=1/fp16"};
    uint64_t hash[ARRAY_LEN(ways)];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        struct outcome o = run_others(ways[i]);
        hash[i] = o.hash;
        for (size_t k = 0; k < i; k++)
            assert_true(hash[k] != hash[i]);
        if (!(o.loss < o.first))
            fail_msg("%s: loss %g at first, %g at last", ways[i], o.first, o.loss);
    }
}

// Rounds that wait, without replay and with one backbone, are those of pae.
static void test_one_backbone(void **state)
{
    (void)state;
    struct outcome a = run("pae/fp16", 0, NULL),
                   b = run("fedmobillm-barrier:replay=0/fp16", 0, NULL);
    assert_true(a.hash == b.hash && a.values == b.values);
}

// Another part of the test set for each client's network, all of it for all of them together: where
// they have learned nothing yet, that is what the backbones say.
static void test_single_start(void **state)
{
    const char *const short_run[] = {others, "fed.rounds=1"};
    (void)state;
    struct outcome a = run("fedmobillm:network=single/fp16", 2, short_run);
    assert_true(isfinite(a.first) && isfinite(a.score));
}

static void test_resume(void **state)
{
    static const char *const ways[] = {"fedmobillm/fp16", "fedmobillm:network=single/fp16",
                                       "fedmobillm-barrier/nf4"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        char key[320];
        struct err err = {""};
        struct outcome whole = run_others(ways[i]);
        snprintf(key, sizeof key, "run.dir=%s/r%zu", scratch_dir, i);
        assert_int_equal(mkdir(key + 8, 0700), 0);
        const char *const more[] = {others, key, "run.resume=on"};
        assert_int_equal(open_all(ways[i], 2, more, &err), 0);
        fed.stop_after = 5;
        federation_run(&fed);
        federation_close(&fed);
        struct outcome rest = run(ways[i], 3, more);
        assert_true(rest.hash == whole.hash);
    }
}

static void test_lost(void **state)
{
    const char *const more[] = {others, "net.sim_corrupt=0.1", "net.sim_duplicate=0.3",
                                "net.sim_reorder=0.5", "net.timeout_s=1"};
    (void)state;
    struct outcome o = run("fedmobillm/fp16", 5, more);
    assert_true(isfinite(o.score) && o.loss < o.first);
}

static void test_refused(void **state)
{
    char deep[300], none[300];
    snprintf(deep, sizeof deep, "model.others=0.5:%s", scratch_path("one.safetensors"));
    snprintf(none, sizeof none, "model.others=0.01:%s", scratch_path("one.safetensors"));
    const struct {
        const char *key, *method, *says;
    } bad[] = {
        {"model.others=0.5:/nowhere/x.safetensors", "fedmobillm/fp16", "/nowhere/x.safetensors"},
        {"model.others=half", "fedmobillm/fp16", "SHARE:PATH"},
        {"model.others=1.5:a", "fedmobillm/fp16", "between 0 and 1"},
        {"model.others=0.5:a 0.5:b", "fedmobillm/fp16", "leave no client"},
        {deep, "fedmobillm:layers=2/fp16", "one.safetensors has 1 layers"},
        {deep, "fedmobillm:every=2/fp16", "every = 2"},
        {vocab_less, "fedmobillm/fp16", "embeds 300 tokens"},
        {none, "fedmobillm/fp16", "nobody holds"},
        {others, "pae/fp16", "take fedmobillm"},
        {others, "fedavg/fp16", "take fedmobillm"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = {""};
        if (open_all(bad[i].method, 1, &bad[i].key, &err) == 0)
            fail_msg("%s with %s is taken", bad[i].method, bad[i].key);
        if (!strstr(err.text, bad[i].says))
            fail_msg("%s with %s: %s", bad[i].method, bad[i].key, err.text);
        federation_close(&fed);
    }
}

enum { TEXT_VOCAB = 421 }; // of the tokenizers of tests/golden

// A directory as Hugging Face has them, with one of those tokenizers.
static void make_dir(const char *name, const char *family, const char *tokenizer, int32_t layers,
                     int32_t dim)
{
    char path[600], config[600];
    struct err err = {""};
    snprintf(path, sizeof path, "tests/golden/bpe-%s.json", tokenizer);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    assert_int_equal(mkdir(scratch_path(name), 0700), 0);
    snprintf(path, sizeof path, "%s/tokenizer.json", scratch_path(name));
    assert_int_equal(json_dump_file(json_object_get(root, "tokenizer"), path, 0), 0);
    json_decref(root);
    snprintf(config, sizeof config,
             "{\"model_type\": \"%s\", \"hidden_size\": %d, \"intermediate_size\": %d,"
             " \"num_hidden_layers\": %d, \"num_attention_heads\": 2, \"num_key_value_heads\": 1,"
             " \"head_dim\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 256,"
             " \"rope_theta\": 1000.0, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true,"
             " \"hidden_act\": \"silu\"}",
             family, dim, 2 * dim, layers, dim / 2, TEXT_VOCAB);
    snprintf(path, sizeof path, "%s/config.json", scratch_path(name));
    assert_int_equal(fsio_replace(path, (const uint8_t *)config, strlen(config), &err), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", name);
    make_model(path, family, layers, dim, TEXT_VOCAB);
}

// Forty questions of two kinds; the key that names them.
static const char *make_questions(void)
{
    static char key[300], text[40 * 80];
    struct err err = {""};
    int n = 0;
    snprintf(key, sizeof key, "task.path=%s", scratch_path("x.jsonl"));
    for (int i = 0; i < 40; i++)
        n += snprintf(text + n, sizeof text - (size_t)n,
                      "{\"id\": \"%d\", \"text\": \"%s and one?\", \"label\": \"%s\"}\n", i,
                      i % 2 ? "one" : "two", i % 2 ? "two" : "three");
    assert_int_equal(fsio_replace(key + 10, (const uint8_t *)text, (size_t)n, &err), 0);
    return key;
}

static int open_questions(const char *method, const char *other, struct err *err)
{
    char model[300], key[160];
    snprintf(model, sizeof model, "model.path=%s", scratch_path("llama"));
    snprintf(key, sizeof key, "fed.method=%s", method);
    const char *keys[] = {"task.name=jsonl",
                          "task.partition=iid",
                          make_questions(),
                          model,
                          other,
                          key,
                          "task.test=8",
                          "task.max_tokens=48",
                          "task.max_answer=8",
                          "fed.clients=6",
                          "fed.clients_per_round=3",
                          "fed.local_steps=2",
                          "fed.batch=2",
                          "fed.rounds=12",
                          "fed.eval_every=0",
                          "client.step_ns=1e6",
                          "net.arena_bytes=1e9"};
    return federation_open(&fed, ARRAY_LEN(keys), keys, err);
}

// Models of one vocabulary go together, whatever their names; those of two do not, where classes
// are tokens.
static void test_vocabularies(void **state)
{
    char same[300], other[300];
    struct err err = {""};
    (void)state;
    snprintf(same, sizeof same, "model.others=0.5:%s", scratch_path("again"));
    snprintf(other, sizeof other, "model.others=0.5:%s", scratch_path("qwen2"));
    if (open_questions("fedmobillm/fp16", same, &err))
        fail_msg("%s", err.text);
    federation_close(&fed);
    assert_int_equal(open_questions("fedmobillm/fp16", other, &err), -1);
    if (!strstr(err.text, "another vocabulary") || !strstr(err.text, "classes = labels"))
        fail_msg("%s", err.text);
    federation_close(&fed);
}

// Three families, each with a vocabulary of its own, are told the same labels: one row of each
// layer and a difference of each label travel, and all of them come to answer.
static void test_families(void **state)
{
    char three[640];
    struct err err = {""};
    int64_t values = 0, want = 0;
    (void)state;
    snprintf(three, sizeof three, "model.others=0.3334:%s,0.3333:%s", scratch_path("qwen2"),
             scratch_path("qwen3"));
    if (open_questions("fedmobillm:classes=labels,norm=on,lr=1e-2,replay=30,cap=99/fp16", three,
                       &err))
        fail_msg("%s", err.text);
    federation_run(&fed);
    const struct side_plan *p = fed.method.form;
    struct task *t = task_open(&fed.cfg.task, (uint64_t)fed.cfg.run.seed, 6, &err);
    for (int32_t k = 0; k < 6; k++)
        want +=
            (int64_t)task_client(t, k)->n * (2 * side_kind_of(p, (uint32_t)k)->form.dim + 2) * 2;
    for (int i = 0; i < fed.n_messages; i++)
        values += fed.message[i].values_bytes > 0 ? fed.message[i].values_bytes : 0;
    assert_int_equal(p->kinds, 3);
    assert_int_equal(values, want);
    if (fed.round[fed.n_rounds - 1].score < 1)
        fail_msg("a score of %g", fed.round[fed.n_rounds - 1].score);
    assert_true(fed.round[0].score < 1);
    task_close(t);
    federation_close(&fed);
    assert_int_equal(open_all("pae:classes=labels/fp16", 0, NULL, &err), -1);
    assert_non_null(strstr(err.text, "classes = answers"));
    federation_close(&fed);
}

static int make(void **state)
{
    (void)state;
    if (scratch_make())
        return -1;
    make_model("small.safetensors", "llama", 2, 32, SYNTH_VOCAB);
    make_model("wide.safetensors", "llama", 5, 40, SYNTH_VOCAB);
    make_model("one.safetensors", "llama", 1, 32, SYNTH_VOCAB);
    make_model("few.safetensors", "llama", 2, 32, 300);
    make_dir("llama", "llama", "smollm", 2, 16);
    make_dir("again", "qwen3", "smollm", 2, 16);
    make_dir("qwen2", "qwen2", "qwen2", 3, 32);
    make_dir("qwen3", "qwen3", "gpt2", 4, 24);
    snprintf(others, sizeof others, "model.others=0.3334:%s,0.3333:%s",
             scratch_path("small.safetensors"), scratch_path("wide.safetensors"));
    snprintf(vocab_less, sizeof vocab_less, "model.others=0.5:%s", scratch_path("few.safetensors"));
    return 0;
}

static int drop(void **state)
{
    (void)state;
    return scratch_drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_one_backbone), cmocka_unit_test(test_single_start),
        cmocka_unit_test(test_resume),       cmocka_unit_test(test_lost),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_vocabularies),
        cmocka_unit_test(test_families),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
