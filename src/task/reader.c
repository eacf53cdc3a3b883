#include "task/reader.h"

#include "base/fsio.h"
#include "base/mem.h"
#include "task/reader_json.h"

#include <dirent.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const size_t FILE_MAX_BYTES = (size_t)1 << 30;

// SQuAD: data[].paragraphs[].qas[].

// "xquad.ar.json" is in "ar"; "und" (undetermined, BCP 47) where the name does not say.
static const char *language_of(struct corpus *c, const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    const char *end = strrchr(base, '.');
    const char *start = end;
    while (start && start > base && start[-1] != '.')
        start--;
    if (!start || start == base || end - start < 2 || end - start > 3)
        return "und";
    for (const char *p = start; p < end; p++)
        if (*p < 'a' || *p > 'z')
            return "und";
    return dataset_text(c->texts, start, (size_t)(end - start));
}

// The byte at which code point number at stands, or -1 where the answer does not stand there.
static int32_t byte_of(const char *context, json_int_t at, const char *answer)
{
    const char *p = context;
    for (json_int_t i = 0; i < at && *p; i++)
        do
            p++;
        while (((uint8_t)*p & 0xc0) == 0x80);
    size_t n = strlen(answer);
    return at >= 0 && strncmp(p, answer, n) == 0 ? (int32_t)(p - context) : -1;
}

struct squad {
    struct corpus *corpus;
    const char *language, *title, *context;
};

static int squad_question(const struct squad *s, json_t *q, const char *where, struct err *err)
{
    const char *question = reader_text(q, "question", where, err);
    const char *id = question ? reader_text(q, "id", where, err) : NULL;
    json_t *answers = id ? reader_need(q, "answers", JSON_ARRAY, where, err) : NULL;
    if (!answers)
        return -1;
    if (json_array_size(answers) == 0) { // SQuAD 2.0 asks what has no answer
        s->corpus->left_out++;
        return 0;
    }
    json_t *first = json_array_get(answers, 0);
    char inner[WHERE];
    snprintf(inner, sizeof inner, "%.100s.answers[0]", where);
    const char *text = reader_text(first, "text", inner, err);
    json_t *start = text ? reader_need(first, "answer_start", JSON_INTEGER, inner, err) : NULL;
    if (!start)
        return -1;
    struct corpus *c = s->corpus;
    struct field fields[] = {{"context", s->context},
                             {"question", corpus_keep(c, question)},
                             {"language", s->language},
                             {"title", s->title}};
    struct record r = {.id = corpus_keep(c, id), .answer = corpus_keep(c, text)};
    r.answer_at = byte_of(s->context, json_integer_value(start), text);
    corpus_add(c, fields, ARRAY_LEN(fields), r);
    return 0;
}

static int squad_paragraph(struct squad *s, json_t *paragraph, const char *where, struct err *err)
{
    const char *context = reader_text(paragraph, "context", where, err);
    json_t *qas = context ? reader_need(paragraph, "qas", JSON_ARRAY, where, err) : NULL, *q;
    size_t i;
    if (!qas)
        return -1;
    s->context = corpus_keep(s->corpus, context);
    json_array_foreach(qas, i, q)
    {
        char inner[WHERE];
        snprintf(inner, sizeof inner, "%.90s.qas[%zu]", where, i);
        if (squad_question(s, q, inner, err))
            return -1;
    }
    return 0;
}

static int squad_articles(struct corpus *c, const char *path, json_t *root, struct err *err)
{
    struct squad s = {.corpus = c, .language = language_of(c, path)};
    json_t *data = reader_need(root, "data", JSON_ARRAY, "the file", err), *article, *paragraph;
    size_t a, p;
    if (!data)
        return -1;
    json_array_foreach(data, a, article)
    {
        char where[WHERE];
        snprintf(where, sizeof where, "data[%zu]", a);
        json_t *paragraphs = reader_need(article, "paragraphs", JSON_ARRAY, where, err);
        json_t *title = json_object_get(article, "title");
        if (!paragraphs)
            return -1;
        s.title = json_is_string(title) ? corpus_keep(c, json_string_value(title)) : "";
        json_array_foreach(paragraphs, p, paragraph)
        {
            snprintf(where, sizeof where, "data[%zu].paragraphs[%zu]", a, p);
            if (squad_paragraph(&s, paragraph, where, err))
                return -1;
        }
    }
    return 0;
}

// Runs one of the functions over a whole file's tree and names the file in what it says.
static int with_tree(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                     int (*take)(struct corpus *, const char *, json_t *, struct err *),
                     struct err *err)
{
    json_t *root = reader_parse(path, bytes, n, err);
    struct err why = {0};
    if (!root)
        return -1;
    int r = take(c, path, root, &why);
    json_decref(root);
    return r ? err_set(err, "%s: %.400s", path, why.text) : 0;
}

static int squad_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                      struct err *err)
{
    return with_tree(c, path, bytes, n, squad_articles, err);
}

const struct reader reader_squad = {
    .name = "squad",
    .help = "SQuAD JSON (XQuAD too: the language is in the file's name, xquad.ar.json)",
    .prompt = "{context}\nQuestion: {question}\nAnswer:",
    .groups = (const char *const[]){"language", NULL},
    .read = squad_read,
};

// PubMedQA: id -> {QUESTION, CONTEXTS[], final_decision}.

static const char *join(struct corpus *c, json_t *texts, const char *where, struct err *err)
{
    size_t i, n = 1;
    json_t *t;
    json_array_foreach(texts, i, t)
    {
        if (!json_is_string(t)) {
            err_set(err, "%s: CONTEXTS[%zu] is not a text", where, i);
            return NULL;
        }
        n += json_string_length(t) + 1;
    }
    char *out = dataset_take(c->texts, n), *p = out;
    *p = 0;
    json_array_foreach(texts, i, t)
    {
        if (i)
            *p++ = ' ';
        memcpy(p, json_string_value(t), json_string_length(t) + 1);
        p += json_string_length(t);
    }
    return out;
}

static int pubmedqa_entries(struct corpus *c, const char *path, json_t *root, struct err *err)
{
    (void)path;
    const char *id;
    json_t *entry;
    if (!json_is_object(root))
        return err_set(err, "is not an object of questions by id");
    json_object_foreach(root, id, entry)
    {
        char where[WHERE];
        snprintf(where, sizeof where, "\"%.64s\"", id);
        const char *question = reader_text(entry, "QUESTION", where, err);
        json_t *contexts = question ? reader_need(entry, "CONTEXTS", JSON_ARRAY, where, err) : NULL;
        const char *context = contexts ? join(c, contexts, where, err) : NULL;
        const char *answer = context ? reader_text(entry, "final_decision", where, err) : NULL;
        if (!answer)
            return -1;
        if (strcmp(answer, "yes") != 0 && strcmp(answer, "no") != 0 && strcmp(answer, "maybe") != 0)
            return err_set(err, "%s: 'final_decision' is \"%.40s\", not yes, no or maybe", where,
                           answer);
        answer = corpus_keep(c, answer);
        struct field fields[] = {
            {"context", context}, {"question", corpus_keep(c, question)}, {"answer", answer}};
        struct record r = {.answer_at = -1, .id = corpus_keep(c, id), .answer = answer};
        corpus_add(c, fields, ARRAY_LEN(fields), r);
    }
    return 0;
}

static int pubmedqa_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                         struct err *err)
{
    return with_tree(c, path, bytes, n, pubmedqa_entries, err);
}

const struct reader reader_pubmedqa = {
    .name = "pubmedqa",
    .help = "PubMedQA JSON (ori_pqal.json): yes, no or maybe from an abstract",
    .prompt = "{context}\nQuestion: {question}\nAnswer yes, no or maybe:",
    .labels = (const char *const[]){"yes", "no", "maybe", NULL},
    .groups = (const char *const[]){"answer", NULL},
    .read = pubmedqa_read,
};

// MedMCQA.

static int medmcqa_line(struct corpus *c, json_t *root, const char *where, struct err *err)
{
    static const char *const letters[] = {"A", "B", "C", "D"};
    static const char *const keys[] = {"question", "opa", "opb", "opc", "opd"};
    struct field fields[8];
    int32_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *text = reader_text(root, keys[i], where, err);
        if (!text)
            return -1;
        fields[n++] = (struct field){keys[i], corpus_keep(c, text)};
    }
    json_t *cop = reader_need(root, "cop", JSON_INTEGER, where, err);
    if (!cop)
        return -1;
    json_int_t right = json_integer_value(cop);
    if (right < 1 || right > 4)
        return err_set(err, "'cop' is %lld; options count from 1 to 4", (long long)right);
    json_t *subject = json_object_get(root, "subject_name"), *id = json_object_get(root, "id");
    const char *name = json_is_string(subject) ? json_string_value(subject) : "unknown";
    const char *answer = letters[right - 1];
    fields[n++] = (struct field){"subject_name", corpus_keep(c, name)};
    fields[n++] = (struct field){"answer", answer};
    struct record r = {.answer_at = -1, .answer = answer};
    r.id = json_is_string(id) ? corpus_keep(c, json_string_value(id)) : fields[0].value;
    corpus_add(c, fields, n, r);
    return 0;
}

static int medmcqa_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                        struct err *err)
{
    return reader_lines(c, path, bytes, n, medmcqa_line, err);
}

const struct reader reader_medmcqa = {
    .name = "medmcqa",
    .help = "MedMCQA JSON lines: four options, cop = 1 to 4",
    .prompt = "Question: {question}\nA. {opa}\nB. {opb}\nC. {opc}\nD. {opd}\nAnswer:",
    .labels = (const char *const[]){"A", "B", "C", "D", NULL},
    .groups = (const char *const[]){"subject_name", "answer", NULL},
    .read = medmcqa_read,
};

// JSON lines. What is asked and what is answered is found by name: the first of each list that is
// there.
static int jsonl_line(struct corpus *c, json_t *root, const char *where, struct err *err)
{
    static const char *const asks[] = {"instruction", "question", "prompt", "text"};
    static const char *const answers[] = {"output", "answer", "response", "reference", "label"};
    struct field fields[FIELDS_MAX];
    int32_t n = 0;
    const char *key;
    json_t *value;
    if (!json_is_object(root))
        return err_set(err, "%s: is not an object", where);
    json_object_foreach(root, key, value)
    {
        const char *text = reader_scalar(c, value);
        if (text && n < FIELDS_MAX)
            fields[n++] = (struct field){corpus_keep(c, key), text};
    }
    struct record all = {.fields = fields, .n_fields = n, .answer_at = -1};
    for (size_t i = 0; i < ARRAY_LEN(asks) && !all.id; i++)
        all.id = record_field(&all, asks[i]);
    for (size_t i = 0; i < ARRAY_LEN(answers) && !all.answer; i++)
        all.answer = record_field(&all, answers[i]);
    if (!all.id)
        return err_set(err, "none of the keys instruction, question, prompt, text");
    if (!all.answer)
        return err_set(err, "none of the keys output, answer, response, reference, label");
    const char *id = record_field(&all, "id");
    if (id)
        all.id = id;
    c->classes += all.answer == record_field(&all, "label");
    corpus_add(c, fields, n, all);
    return 0;
}

static int jsonl_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                      struct err *err)
{
    return reader_lines(c, path, bytes, n, jsonl_line, err);
}

const struct reader reader_jsonl = {
    .name = "jsonl",
    .help = "JSON lines: instruction[, input], output; question, answer; text, label",
    .prompt = "[### Instruction:\n{instruction}\n\n][### Input:\n{input}\n\n]"
              "[Context: {context}\n][Question: {question}\n][{prompt}\n][{text}\n]Answer:",
    .groups = (const char *const[]){"language", "collection", "source", "category", "label", NULL},
    .read = jsonl_read,
};

const struct reader *const reader_table[] = {&reader_squad, &reader_pubmedqa, &reader_medmcqa,
                                             &reader_jsonl, &reader_instruct, &reader_speech,
                                             NULL};

// files.

static int read_file(struct corpus *c, const struct reader *r, const char *path, struct err *err)
{
    uint8_t *bytes;
    size_t n;
    if (fsio_read(path, FILE_MAX_BYTES, MEM_DATA, &bytes, &n, err))
        return -1;
    int status = r->read(c, path, bytes, n, err);
    mem_free(bytes);
    return status;
}

static int visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static bool is_named(const char *name, const char *const *ends)
{
    size_t n = strlen(name);
    for (; *ends; ends++)
        if (n > strlen(*ends) && strcmp(name + n - strlen(*ends), *ends) == 0)
            return true;
    return false;
}

static int read_folder(struct corpus *c, const struct reader *r, const char *path, struct err *err)
{
    static const char *const json[] = {".json", ".jsonl", NULL}, *const plain[] = {".txt", NULL};
    struct dirent **list = NULL;
    int n = scandir(path, &list, visible, NULL), status = 0, files = 0;
    if (n < 0)
        return err_set(err, "%s: cannot be listed", path);
    // By bytes of the name, whatever the locale.
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && strcmp(list[j - 1]->d_name, list[j]->d_name) > 0; j--) {
            struct dirent *t = list[j];
            list[j] = list[j - 1];
            list[j - 1] = t;
        }
    for (int i = 0; i < n; i++) {
        char file[PATH_MAX + NAME_MAX + 2];
        bool ours = is_named(list[i]->d_name, r->plain ? plain : json);
        snprintf(file, sizeof file, "%.*s/%s", PATH_MAX, path, list[i]->d_name);
        free(list[i]);
        if (status || !ours)
            continue;
        files++;
        status = read_file(c, r, file, err);
    }
    free(list);
    return status ? -1
           : files
               ? 0
               : err_set(err, "%s: no %s file in it", path, r->plain ? ".txt" : ".json or .jsonl");
}

int corpus_read(struct corpus *c, const struct reader *r, const char *paths, struct err *err)
{
    if (!*paths)
        return err_set(err, "task.path is empty: name the data's file or folder");
    while (*paths) {
        size_t n = strcspn(paths, ",");
        char path[PATH_MAX];
        struct stat st;
        snprintf(path, sizeof path, "%.*s", (int)(n < PATH_MAX ? n : PATH_MAX - 1), paths);
        paths += n + (paths[n] == ',');
        bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
        if (folder ? read_folder(c, r, path, err) : read_file(c, r, path, err))
            return -1;
    }
    return c->n ? 0 : err_set(err, "no question with an answer in the data of task.path");
}

int corpus_read_ids(struct corpus *c, const char *path, const char *const **ids, int32_t *n,
                    struct err *err)
{
    uint8_t *bytes;
    size_t size;
    if (fsio_read(path, FILE_MAX_BYTES, MEM_DATA, &bytes, &size, err))
        return -1;
    json_t *root = reader_parse(path, bytes, size, err), *value;
    mem_free(bytes);
    if (!root)
        return -1;
    size_t count = json_is_object(root) ? json_object_size(root) : json_array_size(root), i = 0;
    const char **list = dataset_take(c->texts, (count + 1) * sizeof *list), *key;
    int status = count && count < INT32_MAX ? 0 : err_set(err, "%s: holds no ids", path);
    if (json_is_object(root)) {
        json_object_foreach(root, key, value) list[i++] = corpus_keep(c, key);
    } else {
        json_array_foreach(root, i, value)
        {
            const char *text = status ? NULL : reader_scalar(c, value);
            if (!text)
                status = err_set(err, "%s: item %zu is no id", path, i);
            list[i] = text;
        }
    }
    json_decref(root);
    *ids = list;
    *n = (int32_t)count;
    return status;
}
