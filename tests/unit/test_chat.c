// Chat formats, what files beside a tokenizer.json say of it, and examples made of both. The ids of
// SmolLM2's own template (tests/golden/smollm2/chat.json, by the package tokenizers) are tried
// where its GGUF file is.
#include "base/fsio.h"
#include "base/mem.h"
#include "child.h"
#include "model/model.h"
#include "scratch.h"
#include "task/chat.h"
#include "task/task.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char path[3][400]; // of tokenizer.json and the two files beside it

static void write_tokenizer(const char *kind)
{
    char golden[80];
    snprintf(golden, sizeof golden, "tests/golden/bpe-%s.json", kind);
    json_t *root = json_load_file(golden, 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_dump_file(json_object_get(root, "tokenizer"), path[0], 0), 0);
    json_decref(root);
    unlink(path[1]);
    unlink(path[2]);
}

static struct tokenizer *open_here(void)
{
    struct err err = {""};
    struct tokenizer *t = tokenizer_open("hf", path[0], &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

static const struct chat_row *row_of(const char *name)
{
    for (int i = 0; chat_table[i]; i++)
        if (!strcmp(chat_table[i]->name, name))
            return chat_table[i];
    fail_msg("no template %s", name);
    return NULL;
}

// Ids: the control tokens by number, the text between them as one.
static void turns_are_as_they_should(void **state)
{
    (void)state;
    static const char *const text[] = {"system\nBe <|im_end|> brief.", "\n", "user\nWhat is 7?",
                                       "\n", "assistant\n"};
    static const int32_t before[] = {1, 2, 1, 2, 1}; // <|im_start|> and <|im_end|>
    struct chat c;
    struct err err = {""};
    write_tokenizer("smollm");
    struct tokenizer *t = open_here();
    t->eos = 0;
    assert_int_equal(chat_open(&c, row_of("chatml"), "Be <|im_end|> brief.", t, &err), 0);
    assert_int_equal(t->eos, 2);
    int32_t want[256], got[256], few[256], n = 0;
    for (size_t i = 0; i < ARRAY_LEN(text); i++) {
        want[n++] = before[i];
        n += tokenizer_encode(t, text[i], strlen(text[i]), want + n, 256 - n);
    }
    assert_int_equal(chat_encode(&c, t, "What is 7?", got, 256), n);
    assert_memory_equal(got, want, (size_t)n * sizeof *got);
    assert_int_equal(chat_encode(&c, t, "What is 7?", few, n / 2), n);
    assert_memory_equal(few, want, (size_t)(n / 2) * sizeof *few);
    assert_int_equal(chat_open(&c, row_of("plain"), "", t, &err), 0);
    n = tokenizer_encode(t, "What is 7?", 10, want, 256);
    assert_int_equal(chat_encode(&c, t, "What is 7?", got, 256), n);
    assert_memory_equal(got, want, (size_t)n * sizeof *got);
    // What the vocabulary or the template has not is named.
    assert_int_equal(chat_open(&c, row_of("llama3"), "", t, &err), -1);
    assert_non_null(strstr(err.text, "<|start_header_id|>"));
    assert_int_equal(chat_open(&c, row_of("llama2"), "Be brief.", t, &err), -1);
    assert_non_null(strstr(err.text, "task.system"));
    tokenizer_close(t);
    t = tokenizer_open("bytes", "", &err);
    assert_int_equal(chat_open(&c, row_of("chatml"), "", t, &err), -1);
    tokenizer_close(t);
}

static void files_beside_are_heard(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *config, *generation;
        int32_t bos, eos;
        const char *why;
    } row[] = {
        {"smollm", NULL, NULL, -1, 2, NULL},
        {"smollm", "{\"eos_token\": \"<|endoftext|>\"}", "{\"eos_token_id\": 1}", -1, 0, NULL},
        {"smollm", "{\"eos_token\": {\"content\": \"<|im_start|>\"}}", NULL, -1, 1, NULL},
        {"smollm", NULL, "{\"eos_token_id\": [1, 2], \"do_sample\": true}", -1, 1, NULL},
        {"smollm", "{\"bos_token\": \"<|im_start|>\"}", NULL, -1, 2, NULL},
        {"smollm", "{\"bos_token\": \"<|im_start|>\", \"add_bos_token\": true}", NULL, 1, 2, NULL},
        {"llama2", NULL, NULL, 1, 2, NULL},
        {"llama2", "{\"add_bos_token\": false}", NULL, -1, 2, NULL},
        {"llama2", "{\"add_prefix_space\": true}", NULL, 1, 2, NULL},
        {"smollm", "{\"eos_token\": \"<eos>\"}", NULL, 0, 0, "eos_token is <eos>"},
        {"smollm", "{\"add_bos_token\": true}", NULL, 0, 0, "without a bos_token"},
        {"smollm", "{\"add_prefix_space\": true}", NULL, 0, 0, "add_prefix_space"},
        {"llama2", "{\"add_prefix_space\": false}", NULL, 0, 0, "add_prefix_space"},
        {"smollm", "{\"do_lower_case\": true}", NULL, 0, 0, "do_lower_case"},
        {"smollm", "{\n\"a\": }", NULL, 0, 0, "tokenizer_config.json: line 2"},
        {"smollm", NULL, "{\"eos_token_id\": 421}", 0, 0, "eos_token_id"},
        {"smollm", NULL, "[", 0, 0, "generation_config.json: line 1"},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct err err = {""};
        write_tokenizer(row[i].kind);
        if (row[i].config)
            scratch_write("tokenizer_config.json", row[i].config);
        if (row[i].generation)
            scratch_write("generation_config.json", row[i].generation);
        struct tokenizer *t = tokenizer_open("hf", path[0], &err);
        if (!row[i].why) {
            if (!t || t->bos != row[i].bos || t->eos != row[i].eos)
                fail_msg("row %zu: bos %d, eos %d %s", i, t ? t->bos : -9, t ? t->eos : -9,
                         err.text);
            tokenizer_close(t);
        } else if (t || !strstr(err.text, row[i].why)) {
            fail_msg("row %zu: '%s' does not say '%s'", i, err.text, row[i].why);
        }
    }
}

static void open_beside(void *arg)
{
    (void)arg;
    struct err err = {""};
    tokenizer_close(tokenizer_open("hf", path[0], &err));
}

// A key that would change answers elsewhere, and does not here, is named.
static void other_keys_are_named(void **state)
{
    (void)state;
    write_tokenizer("smollm");
    scratch_write("tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\", \"legacy\": true, "
                                           "\"clean_up_tokenization_spaces\": true, "
                                           "\"fix_mistral_regex\": false}");
    scratch_write("generation_config.json",
                  "{\"temperature\": 0.7, \"repetition_penalty\": 1.05, \"eos_token_id\": 999}");
    struct child c = run_child(open_beside, NULL);
    assert_int_equal(c.status, 0);
    assert_non_null(strstr(c.text, "tokenizer_config.json: clean_up_tokenization_spaces is not"));
    assert_non_null(strstr(c.text, "generation_config.json: repetition_penalty is not known here"));
    assert_null(strstr(c.text, "temperature"));
    assert_null(strstr(c.text, "fix_mistral_regex"));
    assert_null(strstr(c.text, "legacy"));
}

// A chat ends with its header, the answer follows without a space, and its end is the turn's.
static void examples_are_chats(void **state)
{
    (void)state;
    char data[400], text[512];
    struct err err = {""};
    struct task_params p;
    snprintf(data, sizeof data, "%s/data.jsonl", scratch_dir);
    scratch_write("data.jsonl",
                  "{\"id\": \"1\", \"question\": \"chart 72?\", \"answer\": \"over\"}\n"
                  "{\"id\": \"2\", \"question\": \"shift?\", \"answer\": \"told\"}\n");
    write_tokenizer("smollm");
    opt_defaults(task_options, task_option_count, &p);
    for (int32_t i = 0; task_table[i]; i++)
        if (task_table[i] == &task_jsonl)
            p.name = i;
    snprintf(p.path, sizeof p.path, "%.230s", data);
    snprintf(p.vocab, sizeof p.vocab, "%.230s", path[0]);
    snprintf(p.partition, sizeof p.partition, "iid");
    snprintf(p.prompt, sizeof p.prompt, "{question}");
    snprintf(p.system, sizeof p.system, "Re-read.");
    p.test = 1;
    while (chat_table[p.chat] != row_of("chatml"))
        p.chat++;
    struct task *t = task_open(&p, 1, 1, &err);
    if (!t)
        fail_msg("%s", err.text);
    const struct example *e = &task_test(t)->v[0];
    bool first = strcmp(e->reference, "over") == 0;
    assert_true(e->tokens[0] == 1 && e->tokens[e->n - 1] == 2);
    tokenizer_decode(t->tokenizer, e->tokens, e->answer, text, sizeof text);
    assert_string_equal(text, first ? "system\nRe-read.\nuser\nchart 72?\nassistant\n"
                                    : "system\nRe-read.\nuser\nshift?\nassistant\n");
    tokenizer_decode(t->tokenizer, e->tokens + e->answer, e->n - e->answer, text, sizeof text);
    assert_string_equal(text, first ? "over" : "told");
    task_close(t);
    unlink(data);
}

static void smollm2_itself(void **state)
{
    (void)state;
    const char *named = getenv("FSTQ_SMOLLM2");
    char model[MODEL_PATH];
    struct err err = {""};
    struct chat c;
    model_place(named && *named ? named : "smollm2-135m", model, sizeof model);
    if (access(model, R_OK))
        skip();
    struct tokenizer *t = tokenizer_open("gguf", model, &err);
    json_t *root = json_load_file("tests/golden/smollm2/chat.json", 0, NULL), *row;
    const char *system = json_string_value(json_object_get(root, "system"));
    size_t i;
    assert_true(t && system);
    assert_int_equal(chat_open(&c, row_of("chatml"), system, t, &err), 0);
    assert_int_equal(t->eos, 2);
    json_array_foreach(json_object_get(root, "prompts"), i, row)
    {
        const json_t *want = json_array_get(row, 1);
        int32_t ids[256];
        int32_t n =
            chat_encode(&c, t, json_string_value(json_array_get(row, 0)), ids, ARRAY_LEN(ids));
        assert_int_equal(n, json_array_size(want));
        for (int32_t k = 0; k < n; k++)
            assert_int_equal(ids[k], json_integer_value(json_array_get(want, (size_t)k)));
    }
    assert_int_equal(i, 2);
    json_decref(root);
    tokenizer_close(t);
}

static int open_scratch(void **state)
{
    static const char *const name[] = {"tokenizer.json", "tokenizer_config.json",
                                       "generation_config.json"};
    (void)state;
    if (scratch_make())
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(name); i++)
        snprintf(path[i], sizeof path[i], "%s/%s", scratch_dir, name[i]);
    return 0;
}

static int close_scratch(void **state)
{
    (void)state;
    return scratch_drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_are_as_they_should), cmocka_unit_test(files_beside_are_heard),
        cmocka_unit_test(other_keys_are_named),     cmocka_unit_test(examples_are_chats),
        cmocka_unit_test(smollm2_itself),
    };
    return cmocka_run_group_tests_name("chat", tests, open_scratch, close_scratch);
}
