// Instruction files: an array, or lines, of {instruction, input, output[, answer]}, as Stanford
// Alpaca (Taori et al. 2023) and LLM-Adapters (Hu et al. 2023) have them. Clients by task: the name
// of a file, or of its folder where the file is only a part of a task (train, test).
#include "task/reader.h"
#include "task/reader_json.h"

#include <string.h>

static const char *task_of(struct corpus *c, const char *path)
{
    static const char *const parts[] = {"train", "test", "dev", "valid", "validation", "eval"};
    for (int up = 0; up < 2; up++) {
        size_t n = strlen(path), from = n;
        while (from > 0 && path[from - 1] != '/')
            from--;
        size_t end = from + strcspn(path + from, ".");
        bool part = end == from;
        for (size_t i = 0; i < ARRAY_LEN(parts); i++)
            part |=
                strlen(parts[i]) == end - from && memcmp(parts[i], path + from, end - from) == 0;
        if (!part)
            return dataset_text(c->texts, path + from, end - from);
        if (from < 2)
            break;
        path = dataset_text(c->texts, path, from - 1);
    }
    return "unknown";
}

static int instruct_item(struct corpus *c, json_t *root, const char *where, struct err *err)
{
    static const char *const keys[] = {"instruction", "input", "output", "answer"};
    enum { INSTRUCTION, INPUT, OUTPUT, ANSWER };
    struct field fields[ARRAY_LEN(keys) + 1];
    const char *text[ARRAY_LEN(keys)];
    int32_t n = 0;
    if (!json_is_object(root))
        return err_set(err, "%s: is not an object", where);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        json_t *v = json_object_get(root, keys[i]);
        text[i] = v ? reader_scalar(c, v) : NULL;
        if (v && !text[i])
            return err_set(err, "%s: '%s' is neither a text nor a whole number", where, keys[i]);
        if (text[i])
            fields[n++] = (struct field){keys[i], text[i]};
    }
    if (!text[INSTRUCTION])
        return err_set(err, "%s: 'instruction' is missing", where);
    if (!text[OUTPUT] && !text[ANSWER])
        return err_set(err, "%s: 'output' and 'answer' are missing", where);
    fields[n++] = (struct field){"task", c->task};
    struct record r = {.answer_at = -1, .answer = text[ANSWER] ? text[ANSWER] : text[OUTPUT]};
    r.id = text[INPUT] && *text[INPUT] ? text[INPUT] : text[INSTRUCTION];
    c->classes += text[ANSWER] != NULL;
    corpus_add(c, fields, n, r);
    return 0;
}

static int instruct_array(struct corpus *c, const char *path, json_t *root, struct err *err)
{
    size_t i;
    json_t *item;
    if (!json_is_array(root))
        return err_set(err, "%s: is not an array of instructions", path);
    json_array_foreach(root, i, item)
    {
        struct err why = {0};
        char where[WHERE];
        snprintf(where, sizeof where, "[%zu]", i);
        if (instruct_item(c, item, where, &why))
            return err_set(err, "%s: %.400s", path, why.text);
    }
    return 0;
}

static int instruct_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                         struct err *err)
{
    size_t at = 0;
    while (at < n && strchr(" \t\r\n", bytes[at]) && bytes[at])
        at++;
    c->task = task_of(c, path);
    if (at < n && bytes[at] == '{')
        return reader_lines(c, path, bytes, n, instruct_item, err);
    json_t *root = reader_parse(path, bytes, n, err);
    int status = root ? instruct_array(c, path, root, err) : -1;
    json_decref(root);
    return status;
}

const struct reader reader_instruct = {
    .name = "instruct",
    .help = "JSON array or lines of instruction[, input], output[, answer]: where all have an "
            "answer, answers are classes; task = the name of the file or folder",
    .prompt = "### Instruction:\n{instruction}\n\n[### Input:\n{input}\n\n]### Response:",
    .groups = (const char *const[]){"task", NULL},
    .read = instruct_read,
};
