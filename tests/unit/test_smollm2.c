// SmolLM2-135M-Instruct itself, where its GGUF file is: FSTQ_SMOLLM2 names it, or the cache that
// scripts/get-model.sh fills has it. The numbers are those of transformers in double precision
// (losses) and fp32 (greedy answers, one backward through an adapter given by a formula).
#include "base/mem.h"
#include "model/model.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define DIR "tests/golden/smollm2"

enum { LONGEST = 256 };

struct real {
    struct dev dev;
    struct model *m;
};

// False: there is no such file here.
static bool real_open(struct real *r, int32_t rank, double alpha)
{
    const char *named = getenv("FSTQ_SMOLLM2");
    char path[MODEL_PATH];
    struct err err = {""};
    struct model_params p;
    model_place(named && *named ? named : "smollm2-135m", path, sizeof path);
    if (access(path, R_OK)) {
        print_message("no SmolLM2 here: scripts/get-model.sh fetches it\n");
        return false;
    }
    opt_defaults(model_options, model_option_count, &p);
    snprintf(p.path, sizeof p.path, "%.230s", path);
    p.lora_rank = rank;
    p.lora_alpha = alpha;
    assert_int_equal(dev_open(&r->dev, 0, 2, &err), 0);
    r->m = model_open(&r->dev, &p, &err);
    if (!r->m)
        fail_msg("%s", err.text);
    return true;
}

static void real_close(struct real *r)
{
    model_close(r->m);
    dev_close(&r->dev);
}

static json_t *golden(const char *name)
{
    json_error_t why;
    char path[80];
    snprintf(path, sizeof path, DIR "/%s", name);
    json_t *root = json_load_file(path, 0, &why);
    if (!root)
        fail_msg("%s: %s", path, why.text);
    return root;
}

static int32_t ids_of(const json_t *list, int32_t *ids)
{
    size_t n = json_array_size(list);
    assert_true(n > 0 && n <= LONGEST);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (int32_t)n;
}

// Every token but the last predicts the next one.
struct text {
    int32_t start[2], ids[LONGEST], targets[LONGEST];
    struct model_batch batch;
};

static void text_of(struct text *t, const json_t *ids)
{
    int32_t n = ids_of(ids, t->ids);
    t->start[0] = 0;
    t->start[1] = n;
    for (int32_t i = 0; i < n; i++)
        t->targets[i] = i + 1 < n ? t->ids[i + 1] : -1;
    t->batch = (struct model_batch){
        .n_seqs = 1, .start = t->start, .tokens = t->ids, .targets = t->targets};
}

static void losses_are_those_of_transformers(void **state)
{
    (void)state;
    struct real r;
    if (!real_open(&r, 8, 16))
        skip();
    json_t *root = golden("losses.json"), *row;
    const char *name;
    int texts = 0;
    json_object_foreach(json_object_get(root, "texts"), name, row)
    {
        const json_t *want = json_object_get(row, "loss_f64");
        struct text t;
        float loss[LONGEST];
        text_of(&t, json_object_get(row, "ids"));
        struct model_job job = {.batch = &t.batch, .token_loss = loss};
        model_evaluate(r.m, &job, 1);
        assert_int_equal(json_array_size(want), t.start[1] - 1);
        for (int32_t i = 0; i + 1 < t.start[1]; i++) {
            double w = json_number_value(json_array_get(want, (size_t)i));
            if (!(fabs((double)loss[i] - w) <= 1e-3))
                fail_msg("%s: token %d has loss %.6f, expected %.6f", name, i + 1, (double)loss[i],
                         w);
        }
        texts++;
    }
    assert_int_equal(texts, 3);
    json_decref(root);
    real_close(&r);
}

// Products in bf16 move single tokens, and the mean by less than a hundredth.
static void losses_in_bf16_are_near(void **state)
{
    (void)state;
    struct real r;
    struct err err;
    if (!real_open(&r, 8, 16))
        skip();
    json_t *root = golden("losses.json"), *row;
    const char *name;
    assert_int_equal(dev_math(&r.dev, KERNEL_MATH_BF16, &err), 0);
    json_object_foreach(json_object_get(root, "texts"), name, row)
    {
        const json_t *want = json_object_get(row, "loss_f64"), *v;
        struct text t;
        size_t i;
        double sum = 0;
        text_of(&t, json_object_get(row, "ids"));
        struct model_job job = {.batch = &t.batch};
        model_evaluate(r.m, &job, 1);
        json_array_foreach(want, i, v) sum += json_number_value(v);
        double mean = sum / (double)i;
        if (!(fabs(job.loss - mean) <= 0.01 * mean) || fabs(job.loss - mean) < 1e-7)
            fail_msg("%s: mean loss %.6f in bf16, %.6f in double", name, job.loss, mean);
    }
    json_decref(root);
    real_close(&r);
}

// A choice that wins by little may go the other way elsewhere; what comes after it, too.
static int32_t sure(const json_t *margins)
{
    size_t n = 0;
    while (n < json_array_size(margins) && json_number_value(json_array_get(margins, n)) > 0.05)
        n++;
    return (int32_t)n;
}

static void answers_are_those_of_transformers(void **state)
{
    (void)state;
    struct real r;
    if (!real_open(&r, 8, 16))
        skip();
    json_t *root = golden("greedy.json"), *row;
    const char *name;
    json_object_foreach(root, name, row)
    {
        int32_t prompt[LONGEST], want[LONGEST], out[64], len;
        bool ended;
        int32_t start[2] = {0, ids_of(json_object_get(row, "prompt_ids"), prompt)};
        int32_t n = ids_of(json_object_get(row, "new_ids"), want);
        struct model_gen g = {.n_seqs = 1,
                              .start = start,
                              .tokens = prompt,
                              .max_new = 64,
                              .end = 2,
                              .out = out,
                              .out_len = &len,
                              .ended = &ended};
        int32_t same = sure(json_object_get(row, "margins"));
        model_generate(r.m, &g);
        out[len] = 2; // what ended it
        assert_true(same >= 8);
        for (int32_t i = 0; i < same; i++)
            if (out[i] != want[i])
                fail_msg("%s: token %d is %d, expected %d", name, i, out[i], want[i]);
        if (same == n)
            assert_true(ended && len == n - 1);
    }
    json_decref(root);
    real_close(&r);
}

// The row of a head's projection in the order that transformers has, where the file's is another.
static int32_t hf_row(const struct model_config *c, const char *target, int32_t row)
{
    int32_t half = c->head_dim / 2, at = row % c->head_dim;
    if (c->rope_style != KERNEL_ROPE_PAIR || (strcmp(target, "q") != 0 && strcmp(target, "k") != 0))
        return row;
    return row - at + at % 2 * half + at / 2;
}

static void formula_adapter(const struct model *m, float *adapter)
{
    static const char *const names[] = {"q", "k", "v", "o", "gate", "up", "down"};
    const struct shape *s = model_shape(m);
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        const struct shape_tensor *t = &s->tensors[i];
        char target[8], kind;
        int layer, j = 0;
        assert_int_equal(sscanf(t->name, "layers.%d.%7[a-z].%c", &layer, target, &kind), 3);
        while (strcmp(names[j], target) != 0)
            j++;
        for (uint32_t n = 0; n < t->rows * t->cols; n++) {
            uint32_t row = n / t->cols, hf = n;
            if (kind == 'B')
                hf =
                    (uint32_t)hf_row(model_config(m), target, (int32_t)row) * t->cols + n % t->cols;
            double k = (double)hf + 1000.0 * layer + 100.0 * j;
            adapter[t->offset + n] =
                (float)(kind == 'A' ? 0.05 * sin(0.7 * k) : 0.01 * cos(1.3 * k));
        }
    }
}

static void near(const char *what, double got, double want, double most)
{
    if (!(fabs(got - want) <= most * fabs(want)))
        fail_msg("%s: %.7f, expected %.7f", what, got, want);
}

static double norm_of(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static void a_gradient_is_that_of_pytorch(void **state)
{
    (void)state;
    static const struct {
        const char *hf, *ours;
    } part[] = {{"self_attn.q_proj", "q"}, {"self_attn.k_proj", "k"}, {"self_attn.v_proj", "v"},
                {"self_attn.o_proj", "o"}, {"mlp.gate_proj", "gate"}, {"mlp.up_proj", "up"},
                {"mlp.down_proj", "down"}};
    json_t *root = golden("lora.json"), *texts = golden("losses.json"), *row;
    const char *name;
    struct real r;
    struct text t;
    if (!real_open(&r, (int32_t)json_integer_value(json_object_get(root, "rank")),
                   json_number_value(json_object_get(root, "alpha"))))
        skip();
    const struct shape *s = model_shape(r.m);
    float *adapter = mem_alloc(MEM_ADAPTER, (s->n_values + KERNEL_SLACK) * sizeof *adapter);
    float *grad = mem_alloc(MEM_ADAPTER, (s->n_values + KERNEL_SLACK) * sizeof *grad);
    formula_adapter(r.m, adapter);
    text_of(&t, json_object_get(json_object_get(json_object_get(texts, "texts"), "en"), "ids"));
    struct model_job job = {.batch = &t.batch, .adapter = adapter, .grad = grad};
    model_backward(r.m, &job, 1, NULL);
    near("loss", job.loss, json_number_value(json_object_get(root, "mean_loss")), 1e-4);
    near("norm of the gradient", norm_of(grad, s->n_values),
         json_number_value(json_object_get(root, "gradient_norm")), 1e-4);
    // The formula's B all but cancels in A's gradient: our double-precision reference is up to
    // 2.2e-4 away from PyTorch's fp32 there.
    json_object_foreach(json_object_get(root, "norms_of_A_and_B_gradients"), name, row)
    {
        const char *dot = strchr(name, '.');
        size_t p = 0;
        while (strcmp(part[p].hf, dot + 1) != 0)
            p++;
        for (size_t ab = 0; ab < 2; ab++) {
            char ours[48];
            uint32_t i = 0;
            snprintf(ours, sizeof ours, "layers.%.*s.%s.%c", (int)(dot - name), name, part[p].ours,
                     "AB"[ab]);
            while (strcmp(s->tensors[i].name, ours) != 0)
                i++;
            near(ours,
                 norm_of(grad + s->tensors[i].offset,
                         (size_t)s->tensors[i].rows * s->tensors[i].cols),
                 json_number_value(json_array_get(row, ab)), 1e-3);
        }
    }
    json_decref(root);
    json_decref(texts);
    mem_free(adapter);
    mem_free(grad);
    real_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_are_those_of_transformers),
        cmocka_unit_test(losses_in_bf16_are_near),
        cmocka_unit_test(answers_are_those_of_transformers),
        cmocka_unit_test(a_gradient_is_that_of_pytorch),
    };
    return cmocka_run_group_tests_name("smollm2", tests, NULL, NULL);
}
