// Readers: what they take from each format, what they say about malformed input, and the shared
// real files where they are.
#include "task/prompt.h"
#include "task/reader.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int read_text(struct corpus *c, const struct reader *r, const char *path, const char *text,
                     struct err *err)
{
    corpus_open(c);
    return r->read(c, path, (const uint8_t *)text, strlen(text), err);
}

static void check_field(const struct record *r, const char *name, const char *want)
{
    const char *got = record_field(r, name);
    assert_non_null(got);
    assert_string_equal(got, want);
}

// The message must name the file and each of the parts.
static void check_error(const struct reader *r, const char *text, const char *a, const char *b)
{
    struct corpus c;
    struct err err = {0};
    int status = read_text(&c, r, "dir/bad.json", text, &err);
    if (status != -1 || !strstr(err.text, "dir/bad.json") || !strstr(err.text, a) ||
        !strstr(err.text, b))
        fail_msg("%s: status %d, \"%s\" should name %s and %s", text, status, err.text, a, b);
    corpus_close(&c);
}

static void squad(void **state)
{
    (void)state;
    // The offset counts code points: three before "été".
    static const char text[] =
        "{\"data\": [{\"title\": \"T\", \"paragraphs\": [{\"context\": \"\xc3\xa7"
        "a \xc3\xa9t\xc3\xa9 fini\", \"qas\": ["
        "{\"id\": \"q1\", \"question\": \"Quand?\", \"answers\": [{\"text\": "
        "\"\xc3\xa9t\xc3\xa9\", \"answer_start\": 3}, {\"text\": \"x\", \"answer_start\": 0}]},"
        "{\"id\": \"q2\", \"question\": \"Rien?\", \"answers\": []},"
        "{\"id\": \"q3\", \"question\": \"O\xc3\xb9?\", \"answers\": [{\"text\": \"fini\", "
        "\"answer_start\": 99}]}]}]}]}";
    struct corpus c;
    struct err err = {0};
    assert_int_equal(read_text(&c, &reader_squad, "a/xquad.fr.json", text, &err), 0);
    assert_int_equal(c.n, 2);
    assert_int_equal(c.left_out, 1);
    check_field(&c.records[0], "language", "fr");
    check_field(&c.records[0], "question", "Quand?");
    check_field(&c.records[0], "title", "T");
    assert_string_equal(c.records[0].answer, "\xc3\xa9t\xc3\xa9");
    assert_string_equal(c.records[0].id, "q1");
    assert_int_equal(c.records[0].answer_at, 4);  // bytes: ç is two
    assert_int_equal(c.records[1].answer_at, -1); // beyond the context: only a hint, so dropped
    assert_ptr_equal(record_field(&c.records[0], "context"),
                     record_field(&c.records[1], "context"));
    corpus_close(&c);

    check_error(&reader_squad, "{\"data\": [", ":1:", "");
    check_error(&reader_squad, "[]", "the file", "not an object");
    check_error(&reader_squad, "{\"dat\": []}", "'data'", "missing");
    check_error(&reader_squad, "{\"data\": [{\"paragraphs\": [{\"context\": 3}]}]}",
                "data[0].paragraphs[0]", "'context' is not a text");
    check_error(&reader_squad,
                "{\"data\": [{\"paragraphs\": [{\"context\": \"c\", \"qas\": [{\"question\": "
                "\"q\", \"id\": \"i\", \"answers\": [{\"text\": \"t\"}]}]}]}]}",
                "data[0].paragraphs[0].qas[0].answers[0]", "'answer_start' is missing");
}

static void pubmedqa(void **state)
{
    (void)state;
    static const char text[] = "{\"123\": {\"QUESTION\": \"Does it?\", \"CONTEXTS\": [\"One.\", "
                               "\"Two.\"], \"final_decision\": \"maybe\", \"YEAR\": null}}";
    struct corpus c;
    struct err err = {0};
    assert_int_equal(read_text(&c, &reader_pubmedqa, "p.json", text, &err), 0);
    assert_int_equal(c.n, 1);
    check_field(&c.records[0], "context", "One. Two.");
    assert_string_equal(c.records[0].answer, "maybe");
    assert_string_equal(c.records[0].id, "123");
    corpus_close(&c);

    check_error(&reader_pubmedqa, "[1]", "not an object", "");
    check_error(&reader_pubmedqa, "{\"7\": {\"QUESTION\": \"q\"}}", "\"7\"", "'CONTEXTS'");
    check_error(&reader_pubmedqa, "{\"7\": {\"QUESTION\": \"q\", \"CONTEXTS\": [\"a\", 1]}}",
                "\"7\"", "CONTEXTS[1]");
    check_error(&reader_pubmedqa,
                "{\"7\": {\"QUESTION\": \"q\", \"CONTEXTS\": [], \"final_decision\": \"No\"}}",
                "\"7\"", "\"No\"");
}

static void medmcqa(void **state)
{
    (void)state;
    static const char text[] =
        "{\"question\": \"Which?\", \"opa\": \"1\", \"opb\": \"2\", \"opc\": \"3\", \"opd\": "
        "\"4\", \"cop\": 3, \"subject_name\": \"Anatomy\", \"id\": \"x\"}\n\n"
        "{\"question\": \"What?\", \"opa\": \"1\", \"opb\": \"2\", \"opc\": \"3\", \"opd\": "
        "\"4\", \"cop\": 1, \"subject_name\": null}";
    struct corpus c;
    struct err err = {0};
    assert_int_equal(read_text(&c, &reader_medmcqa, "m.json", text, &err), 0);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.records[0].answer, "C");
    check_field(&c.records[0], "subject_name", "Anatomy");
    check_field(&c.records[1], "subject_name", "unknown");
    assert_string_equal(c.records[1].id, "What?");
    char *prompt = prompt_fill(reader_medmcqa.prompt, &c.records[0], NULL);
    assert_string_equal(prompt, "Question: Which?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:");
    mem_free(prompt);
    corpus_close(&c);

    check_error(&reader_medmcqa, "{\"question\": \"q\"}\n", ":1:", "'opa'");
    check_error(&reader_medmcqa, "\n\n{\"question\" \"q\"}\n", ":3:", "");
    check_error(
        &reader_medmcqa,
        "{\"question\":\"q\",\"opa\":\"\",\"opb\":\"\",\"opc\":\"\",\"opd\":\"\",\"cop\":0}",
        "'cop' is 0", "1 to 4");
}

static void json_lines(void **state)
{
    (void)state;
    static const char text[] =
        "{\"instruction\": \"Add\", \"input\": \"\", \"output\": \"3\"}\r\n"
        "{\"instruction\": \"Add\", \"input\": \"1 2\", \"output\": \"3\", \"id\": 5}\n"
        "{\"question\": \"Why?\", \"answer\": \"So.\", \"collection\": \"X\", \"tags\": [1]}\n"
        "{\"text\": \"good\", \"label\": 1}";
    struct corpus c;
    struct err err = {0};
    assert_int_equal(read_text(&c, &reader_jsonl, "l.jsonl", text, &err), 0);
    assert_int_equal(c.n, 4);
    assert_string_equal(c.records[0].answer, "3");
    assert_string_equal(c.records[0].id, "Add"); // what is asked stands in for an id
    assert_string_equal(c.records[1].id, "5");
    check_field(&c.records[2], "collection", "X");
    assert_string_equal(c.records[3].answer, "1");
    assert_int_equal(c.classes, 1);
    static const char *const want[] = {
        "### Instruction:\nAdd\n\nAnswer:", "### Instruction:\nAdd\n\n### Input:\n1 2\n\nAnswer:",
        "Question: Why?\nAnswer:", "good\nAnswer:"};
    for (int i = 0; i < 4; i++) {
        char *prompt = prompt_fill(reader_jsonl.prompt, &c.records[i], NULL);
        assert_string_equal(prompt, want[i]);
        mem_free(prompt);
    }
    corpus_close(&c);

    check_error(&reader_jsonl, "{\"text\": \"a\", \"label\": \"b\"}\n[1]\n", ":2:", "object");
    check_error(&reader_jsonl, "{\"a\": \"b\"}\n", ":1:", "none of the keys instruction");
    check_error(&reader_jsonl, "{\"text\": \"b\"}\n", ":1:", "none of the keys output");
}

// Answers that are classes; the task is the file's name, or its folder's.
static void instructions(void **state)
{
    (void)state;
    static const char array[] =
        " [{\"instruction\": \"Is it?\", \"input\": \"\", \"output\": \"it is true\", "
        "\"answer\": \"true\"},\n{\"instruction\": \"Add\", \"input\": \"1 2\", "
        "\"output\": 3, \"extra\": []}]";
    static const struct {
        const char *path, *task;
    } where[] = {{"d/boolq/train.json", "boolq"}, {"d/arc.json", "arc"},
                 {"d/arc.part.json", "arc"},      {"test.json", "unknown"},
                 {"/dev.json", "unknown"},        {"train/test.json", "unknown"}};
    for (size_t i = 0; i < sizeof where / sizeof *where; i++) {
        struct corpus c;
        struct err err = {0};
        assert_int_equal(read_text(&c, &reader_instruct, where[i].path, array, &err), 0);
        assert_int_equal(c.n, 2);
        assert_string_equal(c.records[0].answer, "true");
        assert_string_equal(c.records[0].id, "Is it?");
        assert_string_equal(c.records[1].answer, "3");
        assert_string_equal(c.records[1].id, "1 2");
        assert_int_equal(c.classes, 1);
        check_field(&c.records[1], "task", where[i].task);
        char *prompt = prompt_fill(reader_instruct.prompt, &c.records[1], NULL);
        assert_string_equal(prompt, "### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:");
        mem_free(prompt);
        corpus_close(&c);
    }
    struct corpus c;
    struct err err = {0};
    static const char lines[] = "\n{\"instruction\": \"a\", \"output\": \"b\"}\n"
                                "{\"instruction\": \"c\", \"output\": \"d\"}\n";
    assert_int_equal(read_text(&c, &reader_instruct, "x.jsonl", lines, &err), 0);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.records[1].answer, "d");
    corpus_close(&c);

    check_error(&reader_instruct, "[{\"instruction\": \"a\"}]", "[0]", "'output' and 'answer'");
    check_error(&reader_instruct, "[{\"output\": \"a\"}]", "[0]", "'instruction' is missing");
    check_error(&reader_instruct, "[{\"instruction\": \"a\", \"output\": {}}]", "'output'",
                "neither");
    check_error(&reader_instruct, "[1]", "[0]", "not an object");
    check_error(&reader_instruct, "\"x\"", "", "");
    check_error(&reader_instruct, "[{", ":1:", "");
    check_error(&reader_instruct, "{\"output\": \"a\"}", ":1:", "'instruction' is missing");
}

static void speeches(void **state)
{
    (void)state;
    static const char text[] = "\n\nFirst Citizen:\nSpeak,\r\nspeak. \n\nAll:\n\n\nKING "
                               "\xc3\x89:\n  Who: me?";
    struct corpus c;
    struct err err = {0};
    assert_int_equal(read_text(&c, &reader_speech, "play.txt", text, &err), 0);
    assert_int_equal(c.n, 2);
    assert_int_equal(c.left_out, 1); // All says nothing
    check_field(&c.records[0], "speaker", "First Citizen");
    check_field(&c.records[0], "before", "");
    assert_string_equal(c.records[0].answer, "Speak,\r\nspeak.");
    check_field(&c.records[1], "speaker", "KING \xc3\x89");
    check_field(&c.records[1], "before", "All:");
    assert_string_equal(c.records[1].answer, "  Who: me?");
    char *prompt = prompt_fill(reader_speech.prompt, &c.records[1], NULL);
    assert_string_equal(prompt, "All:\n\nKING \xc3\x89:");
    mem_free(prompt);
    corpus_close(&c);

    check_error(&reader_speech, "A:\nb\n\nC\n", ":4:", "\"C\" begins a speech");
    check_error(&reader_speech, ":\nb\n", ":1:", "names no speaker");
    check_error(&reader_speech, "A:\nb\xff\n", ":2:", "byte 2 is not text");
}

static void templates(void **state)
{
    (void)state;
    const struct field fields[] = {{"a", "1"}, {"b", ""}, {"context", "long"}};
    const struct record r = {.fields = fields, .n_fields = 3};
    static const struct {
        const char *text, *want, *error; // error: part of the message, or NULL
    } row[] = {
        {"{a}-{a}\\n", "1-1\n", NULL},
        {"x[ b={b}]y[ a={a}]", "xy a=1", NULL},
        {"[{missing}]{context}", "short", NULL},
        {"{b}", "", NULL},
        {"{missing}", NULL, "no field {missing}; it has a, b, context"},
        {"{a", NULL, "in braces"},
        {"{}", NULL, "in braces"},
        {"[{a}", NULL, "not closed"},
        {"a]", NULL, "partner"},
        {"[[{a}]]", NULL, "partner"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct err err = {0};
        int status = prompt_check(row[i].text, &r, &err);
        if (row[i].error) {
            if (status != -1 || !strstr(err.text, row[i].error))
                fail_msg("%s: %d \"%s\"", row[i].text, status, err.text);
            continue;
        }
        assert_int_equal(status, 0);
        char *got = prompt_fill(row[i].text, &r, "short");
        assert_string_equal(got, row[i].want);
        mem_free(got);
    }
}

static void missing_files(void **state)
{
    (void)state;
    struct corpus c;
    struct err err = {0};
    corpus_open(&c);
    assert_int_equal(corpus_read(&c, &reader_squad, "", &err), -1);
    assert_non_null(strstr(err.text, "task.path"));
    assert_int_equal(corpus_read(&c, &reader_squad, "no/such.json", &err), -1);
    assert_non_null(strstr(err.text, "no/such.json"));
    corpus_close(&c);
}

// Reads a real file or folder; skips the test where it is not here.
static int read_shared(struct corpus *c, const struct reader *r, const char *name)
{
    const char *shared = getenv("FSTQ_SHARED");
    char path[512];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/data/%s", shared ? shared : "../shared", name);
    corpus_open(c);
    if (access(path, R_OK) != 0) {
        print_message("no %s\n", path);
        corpus_close(c);
        return 0;
    }
    if (corpus_read(c, r, path, &err))
        fail_msg("%s", err.text);
    return 1;
}

static int32_t count_field(const struct corpus *c, const char *name, const char *value)
{
    int32_t n = 0;
    for (int32_t i = 0; i < c->n; i++)
        n += strcmp(record_field(&c->records[i], name), value) == 0;
    return n;
}

static void real_xquad(void **state)
{
    (void)state;
    struct corpus c;
    if (!read_shared(&c, &reader_squad, "xquad"))
        skip();
    assert_int_equal(c.n, 12 * 1190);
    assert_int_equal(count_field(&c, "language", "th"), 1190);
    for (int32_t i = 0; i < c.n; i++) { // every offset is right, in bytes
        const struct record *r = &c.records[i];
        assert_true(r->answer_at >= 0);
        assert_memory_equal(record_field(r, "context") + r->answer_at, r->answer,
                            strlen(r->answer));
    }
    corpus_close(&c);
}

static void real_pubmedqa(void **state)
{
    (void)state;
    struct corpus c;
    if (!read_shared(&c, &reader_pubmedqa, "pubmedqa/ori_pqal.json"))
        skip();
    assert_int_equal(c.n, 1000);
    assert_int_equal(count_field(&c, "answer", "yes"), 552);
    assert_int_equal(count_field(&c, "answer", "no"), 338);
    assert_int_equal(count_field(&c, "answer", "maybe"), 110);
    corpus_close(&c);
}

static void real_medmcqa(void **state)
{
    (void)state;
    struct corpus c;
    if (!read_shared(&c, &reader_medmcqa, "medmcqa/dev.json"))
        skip();
    assert_int_equal(c.n, 4183);
    corpus_close(&c);
}

static void real_instructions(void **state)
{
    (void)state;
    struct corpus c;
    if (!read_shared(&c, &reader_instruct, "tasks/boolq"))
        skip();
    assert_int_equal(c.n, 9427 + 3270);
    assert_int_equal(c.classes, c.n);
    assert_int_equal(count_field(&c, "task", "boolq"), c.n);
    assert_int_equal(count_field(&c, "answer", "true") + count_field(&c, "answer", "false"), c.n);
    corpus_close(&c);
}

static void real_speeches(void **state)
{
    (void)state;
    struct corpus c;
    if (!read_shared(&c, &reader_speech, "shakespeare"))
        skip();
    assert_int_equal(c.n + c.left_out, 7222);
    assert_int_equal(c.left_out, 125);
    corpus_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(squad),         cmocka_unit_test(pubmedqa),
        cmocka_unit_test(medmcqa),       cmocka_unit_test(json_lines),
        cmocka_unit_test(templates),     cmocka_unit_test(missing_files),
        cmocka_unit_test(real_xquad),    cmocka_unit_test(real_pubmedqa),
        cmocka_unit_test(real_medmcqa),  cmocka_unit_test(instructions),
        cmocka_unit_test(speeches),      cmocka_unit_test(real_instructions),
        cmocka_unit_test(real_speeches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
