// Tasks as a federation sees them: clients, test sets, partitions, scores; synthetic and from
// files.
#include "base/opt.h"
#include "task/synth.h"
#include "task/task.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

// Opens a task by "key=value" settings of [task]; fails the test when a setting is wrong.
static struct task *open_task(uint64_t seed, int32_t clients, const char *const *set,
                              struct err *err)
{
    struct task_params p;
    memset(&p, 0, sizeof p);
    opt_defaults(task_options, task_option_count, &p);
    for (; *set; set++) {
        char name[64];
        size_t n = strcspn(*set, "=");
        snprintf(name, sizeof name, "task.%.*s", (int)n, *set);
        const struct opt *row = opt_find(task_options, task_option_count, name);
        assert_non_null(row);
        assert_int_equal(opt_set(row, &p, *set + n + 1, err), 0);
    }
    return task_open(&p, seed, clients, err);
}

#define OPEN(seed, clients, ...)                                                                   \
    open_task(seed, clients, (const char *const[]){__VA_ARGS__, NULL}, &error)
static struct err error;

static void check_sets_equal(const struct examples *a, const struct examples *b)
{
    assert_int_equal(a->n, b->n);
    for (int32_t i = 0; i < a->n; i++) {
        assert_int_equal(a->v[i].n, b->v[i].n);
        assert_memory_equal(a->v[i].tokens, b->v[i].tokens, (size_t)a->v[i].n * sizeof(int32_t));
        assert_string_equal(a->v[i].reference, b->v[i].reference);
    }
}

// What task.h promises of every text task.
static void check_promises(struct task *t)
{
    int32_t *split = calloc((size_t)t->n_groups, sizeof *split);
    for (int32_t k = 0; k < t->clients; k++) {
        const struct examples *e = task_client(t, k);
        assert_int_equal(e->n, t->client_sizes[k]);
        memset(split, 0, (size_t)t->n_groups * sizeof *split);
        for (int32_t i = 0; i < e->n; i++) {
            const struct example *x = &e->v[i];
            assert_true(0 < x->answer && x->answer < x->n && x->n <= t->max_tokens);
            assert_true(x->n - x->answer <= t->max_answer);
            assert_int_equal(x->tokens[x->n - 1], t->tokenizer->eos);
            assert_in_range(x->group, 0, t->n_groups - 1);
            assert_true(x->label >= -1 && x->label < t->n_labels);
            for (int32_t j = 0; j < x->n; j++)
                assert_in_range(x->tokens[j], 0, t->tokenizer->vocab - 1);
            split[x->group]++;
        }
        assert_memory_equal(split, t->held + (size_t)k * (size_t)t->n_groups,
                            (size_t)t->n_groups * sizeof *split);
        task_forget(t, k);
        assert_int_equal(task_client(t, k)->n, t->client_sizes[k]);
    }
    free(split);
}

static void numeric(void **state)
{
    (void)state;
    struct task *t = OPEN(1, 7, "name=quadratic", "features=5", "outputs=2", "samples=9");
    assert_non_null(t);
    assert_true(t->row->numeric);
    assert_int_equal(quadratic_dim(t->quadratic), 10);
    assert_int_equal(t->client_sizes[6], 9);
    task_close(t);
}

static void synthetic(void **state)
{
    (void)state;
    static const char *const names[] = {"name=synth-qa", "name=synth-medical", "name=synth-long"};
    for (size_t i = 0; i < 3; i++) {
        struct task *t = OPEN(5, 6, names[i]), *same = OPEN(5, 9, names[i]);
        struct task *other = OPEN(6, 6, names[i]);
        assert_non_null(t);
        check_promises(t);
        check_sets_equal(task_test(t), task_test(same)); // whatever the number of clients
        check_sets_equal(task_client(t, 3), task_client(same, 3));
        const struct example *a = &task_test(t)->v[0], *b = &task_test(other)->v[0];
        assert_memory_not_equal(a->tokens, b->tokens, (size_t)a->n * sizeof(int32_t));
        int32_t per_group[8] = {0}; // the test set is balanced
        for (int32_t k = 0; k < task_test(t)->n; k++)
            per_group[task_test(t)->v[k].group]++;
        for (int32_t g = 0; g < t->n_groups; g++)
            assert_in_range(per_group[g], 256 / t->n_groups, 256 / t->n_groups + 1);
        task_close(t);
        task_close(same);
        task_close(other);
    }
}

static void synthetic_partitions(void **state)
{
    (void)state;
    struct task *t = OPEN(1, 8, "name=synth-qa", "partition=field:language");
    assert_non_null(t);
    for (int32_t k = 0; k < 8; k++)
        assert_int_equal(t->held[k * 8 + k], t->client_sizes[k]);
    task_close(t);
    t = OPEN(1, 1, "name=synth-qa", "partition=iid", "client_min=4000", "client_max=4000");
    assert_non_null(t);
    for (int32_t g = 0; g < 8; g++)
        assert_in_range(t->held[g], 420, 580);
    task_close(t);
    assert_null(OPEN(1, 5, "name=synth-qa", "partition=field:language"));
    assert_non_null(strstr(error.text, "fed.clients = 8"));
    assert_null(OPEN(1, 5, "name=synth-qa", "partition=dirichlet:topic"));
    assert_non_null(strstr(error.text, "language"));
    assert_null(OPEN(1, 5, "name=synth-qa", "client_min=9", "client_max=8"));
    assert_non_null(strstr(error.text, "task.client_min"));
    assert_null(OPEN(1, 5, "name=synth-qa", "tokenizer=bytes"));
    assert_non_null(strstr(error.text, "task.tokenizer"));
}

static void scores(void **state)
{
    (void)state;
    struct task *t = OPEN(1, 2, "name=synth-medical", "test=60");
    const struct examples *test = task_test(t);
    struct prediction p[60];
    struct score all, group[6];
    for (int32_t i = 0; i < 60; i++) {
        const struct example *e = &test->v[i];
        p[i] = (struct prediction){e->tokens + e->answer, e->n - e->answer - 1, true};
    }
    task_score(t, test, p, &all, group);
    assert_true(all.n == 60 && all.exact == 1 && all.f1 == 1 && all.rouge_l == 1);
    assert_true(all.accuracy == 1 && group[5].n == 10 && task_main_score(t, &all) == 1);
    p[0].ended = false; // right, but it rambled on: no exact match
    p[1].n = 1;         // the class without the outcome
    p[2].tokens = test->v[2].tokens + test->v[2].answer + 1; // the outcome without the class
    p[2].n = 1;
    p[3].n = 0; // nothing
    task_score(t, test, p, &all, group);
    assert_true(fabs(all.exact - 56.0 / 60) < 1e-12);
    assert_true(fabs(all.accuracy - 58.0 / 60) < 1e-12);
    assert_true(fabs(all.rouge_l - (57 + 2 * 2.0 / 3) / 60) < 1e-12);
    assert_true(fabs(group[0].exact - 9.0 / 10) < 1e-12);
    task_close(t);
}

static char data_path[64];

static void write_data(const char *text)
{
    snprintf(data_path, sizeof data_path, "/tmp/fstq-task-XXXXXX");
    int fd = mkstemp(data_path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

// 90 questions, each in three languages under one id, with contexts of 60 words that hold the
// answer.
static void write_parallel(void)
{
    static char text[400000];
    size_t n = 0;
    for (int q = 0; q < 90; q++) {
        for (int l = 0; l < 3; l++) {
            n += (size_t)snprintf(text + n, sizeof text - n,
                                  "{\"id\": \"q%d\", \"language\": \"l%d\", \"question\": "
                                  "\"where %d?\", \"answer\": \"place%d\", \"context\": \"",
                                  q, l, q, q);
            for (int w = 0; w < 60; w++)
                n += (size_t)snprintf(text + n, sizeof text - n, w == q % 60 ? "place%d " : "w%d ",
                                      w == q % 60 ? q : w);
            n += (size_t)snprintf(text + n, sizeof text - n, "\"}\n");
        }
    }
    write_data(text);
}

static void files(void **state)
{
    (void)state;
    char path[96];
    write_parallel();
    snprintf(path, sizeof path, "path=%s", data_path);
    struct task *t = OPEN(1, 10, "name=jsonl", path, "test=30", "max_tokens=128");
    struct task *other = OPEN(2, 4, "name=jsonl", path, "test=30", "max_tokens=128");
    if (!t || !other)
        fail_msg("%s", error.text);
    check_promises(t);
    check_sets_equal(task_test(t), task_test(other)); // from the data alone
    assert_int_equal(t->n_groups, 3);
    assert_string_equal(t->groups[1], "l1");
    assert_int_equal(task_test(t)->n, 30);
    int32_t total = 0, per_language[3] = {0};
    for (int32_t k = 0; k < 10; k++)
        total += t->client_sizes[k];
    assert_int_equal(total, 240);
    // A question's languages are on one side: ten of each in the test set, none in training.
    for (int32_t i = 0; i < 30; i++) {
        const struct example *e = &task_test(t)->v[i];
        per_language[e->group]++;
        for (int32_t k = 0; k < 10; k++)
            for (int32_t j = 0; j < task_client(t, k)->n; j++)
                assert_string_not_equal(e->reference, task_client(t, k)->v[j].reference);
    }
    assert_int_equal(per_language[0], 10);
    assert_int_equal(per_language[2], 10);
    task_close(other);
    task_close(t);

    t = OPEN(1, 3, "name=jsonl", path, "partition=field:language", "max_answer=4");
    assert_non_null(t);
    const struct example *e = &task_client(t, 2)->v[0];
    assert_string_equal(e->reference, "pl"); // " pl" and the end: the answer is cut, and so scored
    task_close(t);
    assert_null(OPEN(1, 3, "name=jsonl", path, "partition=field:country"));
    assert_non_null(strstr(error.text, "country"));
    assert_null(OPEN(1, 3, "name=jsonl", path, "prompt={x}"));
    assert_non_null(strstr(error.text, "task.prompt"));
    assert_null(OPEN(1, 3, "name=jsonl", path, "max_tokens=16", "max_answer=9"));
    assert_non_null(strstr(error.text, "task.max_answer"));
    assert_null(OPEN(1, 300, "name=jsonl", path));
    assert_non_null(strstr(error.text, "fed.clients = 300"));
    unlink(data_path);
}

// Fewer clients than values of the field: those with most records, the first of equals.
static void largest_values_are_clients(void **state)
{
    (void)state;
    char text[2048], path[96];
    static const char owner[] = "abbbbccddddeeee"; // a 1, b 4, c 2, d 4, e 4
    size_t n = 0;
    for (int i = 0; owner[i]; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "{\"question\":\"q%d\",\"answer\":\"%c%d\",\"who\":\"%c\"}\n", i,
                              owner[i], i, owner[i]);
    write_data(text);
    snprintf(path, sizeof path, "path=%s", data_path);
    struct task *t = OPEN(1, 2, "name=jsonl", path, "test=1", "partition=field:who");
    if (!t)
        fail_msg("%s", error.text);
    assert_int_equal(t->n_groups, 2);
    assert_string_equal(t->groups[0], "b");
    assert_string_equal(t->groups[1], "d");
    assert_int_equal(t->client_sizes[0] + t->client_sizes[1] + task_test(t)->n, 8);
    for (int32_t k = 0; k < 2; k++)
        for (int32_t i = 0; i < t->client_sizes[k]; i++)
            assert_int_equal(task_client(t, k)->v[i].reference[0], k ? 'd' : 'b');
    task_close(t);
    assert_null(OPEN(1, 5, "name=jsonl", path, "test=10", "partition=field:who"));
    assert_non_null(strstr(error.text, "are test data"));
    unlink(data_path);
}

static void contexts_keep_their_answer(void **state)
{
    (void)state;
    static char text[8192];
    size_t n = (size_t)snprintf(text, sizeof text, "{\"data\":[{\"paragraphs\":[");
    for (int q = 0; q < 12; q++) { // the answer stands at another place each time
        n += (size_t)snprintf(text + n, sizeof text - n, "%s{\"context\":\"", q ? "," : "");
        for (int w = 0; w < 60; w++)
            n += (size_t)snprintf(text + n, sizeof text - n,
                                  w == 5 * q ? "na\xc3\xafve%02d " : "w\xc3\xb6rt%02d ", w);
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "\",\"qas\":[{\"id\":\"%d\",\"question\":\"?\",\"answers\":"
                              "[{\"text\":\"na\xc3\xafve%02d\",\"answer_start\":%d}]}]}",
                              q, 5 * q, 7 * 5 * q);
    }
    snprintf(text + n, sizeof text - n, "]}]}");
    write_data(text);
    char path[96], decoded[512];
    snprintf(path, sizeof path, "path=%s", data_path);
    struct task *t = OPEN(1, 1, "name=squad", path, "test=2", "max_tokens=96", "partition=iid");
    if (!t)
        fail_msg("%s", error.text);
    check_promises(t);
    const struct examples *e = task_client(t, 0);
    for (int32_t i = 0; i < e->n; i++) {
        const struct example *x = &e->v[i];
        tokenizer_decode(t->tokenizer, x->tokens, x->answer, decoded, sizeof decoded);
        assert_non_null(strstr(decoded, x->reference)); // in the prompt, not only as the answer
        assert_non_null(strstr(decoded, "Question: ?\nAnswer:"));
        assert_null(strstr(decoded, "\xef\xbf\xbd")); // no letter was cut in two
        assert_true(x->answer > 60);                  // and the room was used
    }
    task_close(t);
    unlink(data_path);
}

static void labels_from_data(void **state)
{
    (void)state;
    write_data("{\"text\":\"a\",\"label\":\"pos\"}\n{\"text\":\"b\",\"label\":\"neg\"}\n"
               "{\"text\":\"c\",\"label\":\"pos\"}\n{\"text\":\"d\",\"label\":\"neutral\"}\n");
    char path[96];
    snprintf(path, sizeof path, "path=%s", data_path);
    struct task *t = OPEN(1, 2, "name=jsonl", path, "test=1", "partition=iid");
    if (!t)
        fail_msg("%s", error.text);
    assert_int_equal(t->n_labels, 3);
    assert_string_equal(t->labels[0], "neg");
    assert_int_equal(t->metric, TASK_ACCURACY);
    assert_true(task_test(t)->v[0].label >= 0);
    task_close(t);
    unlink(data_path);
}

static void official_test_ids(void **state)
{
    (void)state;
    write_data("{\"1\":{\"QUESTION\":\"q\",\"CONTEXTS\":[],\"final_decision\":\"yes\"},"
               "\"2\":{\"QUESTION\":\"r\",\"CONTEXTS\":[],\"final_decision\":\"no\"},"
               "\"3\":{\"QUESTION\":\"s\",\"CONTEXTS\":[],\"final_decision\":\"no\"}}");
    char data[64], path[96], ids[96];
    snprintf(data, sizeof data, "%s", data_path);
    snprintf(path, sizeof path, "path=%s", data);
    write_data("{\"3\": \"no\", \"1\": \"yes\"}");
    snprintf(ids, sizeof ids, "test_ids=%s", data_path);
    struct task *t = OPEN(1, 1, "name=pubmedqa", path, ids);
    if (!t)
        fail_msg("%s", error.text);
    assert_int_equal(task_test(t)->n, 2);
    assert_int_equal(task_client(t, 0)->n, 1);
    assert_string_equal(task_client(t, 0)->v[0].reference, "no");
    task_close(t);
    unlink(data_path);
    write_data("[\"4\"]");
    snprintf(ids, sizeof ids, "test_ids=%s", data_path);
    assert_null(OPEN(1, 1, "name=pubmedqa", path, ids));
    assert_non_null(strstr(error.text, "\"4\""));
    unlink(data_path);
    unlink(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numeric),
        cmocka_unit_test(synthetic),
        cmocka_unit_test(synthetic_partitions),
        cmocka_unit_test(scores),
        cmocka_unit_test(files),
        cmocka_unit_test(largest_values_are_clients),
        cmocka_unit_test(contexts_keep_their_answer),
        cmocka_unit_test(labels_from_data),
        cmocka_unit_test(official_test_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
