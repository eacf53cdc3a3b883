#include "task/reader.h"

#include "base/fsio.h"
#include "base/mem.h"

#include <dirent.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FIELDS_MAX = 24, WHERE = 128 };
static const size_t FILE_MAX_BYTES = (size_t)1 << 30;

void corpus_open(struct corpus *c)
{
    *c = (struct corpus){.texts = dataset_open(0)};
}

void corpus_close(struct corpus *c)
{
    mem_free(c->records);
    dataset_close(c->texts);
    *c = (struct corpus){0};
}

const char *record_field(const struct record *r, const char *name)
{
    for (int32_t i = 0; i < r->n_fields; i++)
        if (strcmp(r->fields[i].name, name) == 0)
            return r->fields[i].value;
    return NULL;
}

static const char *keep(struct corpus *c, const char *text)
{
    return dataset_text(c->texts, text, strlen(text));
}

// Fields and texts must live in the corpus already, or as long as the program.
static void add_record(struct corpus *c, const struct field *fields, int32_t n, struct record r)
{
    if (c->n == c->cap) {
        int32_t cap = c->cap ? 2 * c->cap : 256;
        struct record *more = mem_alloc(MEM_DATA, (size_t)cap * sizeof *more);
        if (c->n)
            memcpy(more, c->records, (size_t)c->n * sizeof *more);
        mem_free(c->records);
        c->records = more;
        c->cap = cap;
    }
    struct field *own = dataset_take(c->texts, (size_t)n * sizeof *own);
    memcpy(own, fields, (size_t)n * sizeof *own);
    r.fields = own;
    r.n_fields = n;
    c->records[c->n++] = r;
}

// JSON with a place for every complaint.

// The value of a key, which must be of the type; "where: 'key' ..." otherwise.
static json_t *need(json_t *object, const char *key, json_type type, const char *where,
                    struct err *err)
{
    static const char *const names[] = {"an object", "an array", "a text", "a whole number"};
    if (!json_is_object(object)) {
        err_set(err, "%s: is not an object", where);
        return NULL;
    }
    json_t *v = json_object_get(object, key);
    if (!v)
        err_set(err, "%s: '%s' is missing", where, key);
    else if (json_typeof(v) != type)
        err_set(err, "%s: '%s' is not %s", where, key, names[type]);
    return v && json_typeof(v) == type ? v : NULL;
}

static const char *need_text(json_t *object, const char *key, const char *where, struct err *err)
{
    json_t *v = need(object, key, JSON_STRING, where, err);
    return v ? json_string_value(v) : NULL;
}

static json_t *parse(const char *path, const uint8_t *bytes, size_t n, struct err *err)
{
    json_error_t e;
    json_t *root = json_loadb((const char *)bytes, n, 0, &e);
    if (!root)
        err_set(err, "%s:%d: %s", path, e.line, e.text);
    return root;
}

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
    const char *question = need_text(q, "question", where, err);
    const char *id = question ? need_text(q, "id", where, err) : NULL;
    json_t *answers = id ? need(q, "answers", JSON_ARRAY, where, err) : NULL;
    if (!answers)
        return -1;
    if (json_array_size(answers) == 0) { // SQuAD 2.0 asks what has no answer
        s->corpus->left_out++;
        return 0;
    }
    json_t *first = json_array_get(answers, 0);
    char inner[WHERE];
    snprintf(inner, sizeof inner, "%.100s.answers[0]", where);
    const char *text = need_text(first, "text", inner, err);
    json_t *start = text ? need(first, "answer_start", JSON_INTEGER, inner, err) : NULL;
    if (!start)
        return -1;
    struct corpus *c = s->corpus;
    struct field fields[] = {{"context", s->context},
                             {"question", keep(c, question)},
                             {"language", s->language},
                             {"title", s->title}};
    struct record r = {.id = keep(c, id), .answer = keep(c, text)};
    r.answer_at = byte_of(s->context, json_integer_value(start), text);
    add_record(c, fields, ARRAY_LEN(fields), r);
    return 0;
}

static int squad_paragraph(struct squad *s, json_t *paragraph, const char *where, struct err *err)
{
    const char *context = need_text(paragraph, "context", where, err);
    json_t *qas = context ? need(paragraph, "qas", JSON_ARRAY, where, err) : NULL, *q;
    size_t i;
    if (!qas)
        return -1;
    s->context = keep(s->corpus, context);
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
    json_t *data = need(root, "data", JSON_ARRAY, "the file", err), *article, *paragraph;
    size_t a, p;
    if (!data)
        return -1;
    json_array_foreach(data, a, article)
    {
        char where[WHERE];
        snprintf(where, sizeof where, "data[%zu]", a);
        json_t *paragraphs = need(article, "paragraphs", JSON_ARRAY, where, err);
        json_t *title = json_object_get(article, "title");
        if (!paragraphs)
            return -1;
        s.title = json_is_string(title) ? keep(c, json_string_value(title)) : "";
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
    json_t *root = parse(path, bytes, n, err);
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
        const char *question = need_text(entry, "QUESTION", where, err);
        json_t *contexts = question ? need(entry, "CONTEXTS", JSON_ARRAY, where, err) : NULL;
        const char *context = contexts ? join(c, contexts, where, err) : NULL;
        const char *answer = context ? need_text(entry, "final_decision", where, err) : NULL;
        if (!answer)
            return -1;
        if (strcmp(answer, "yes") != 0 && strcmp(answer, "no") != 0 && strcmp(answer, "maybe") != 0)
            return err_set(err, "%s: 'final_decision' is \"%.40s\", not yes, no or maybe", where,
                           answer);
        answer = keep(c, answer);
        struct field fields[] = {
            {"context", context}, {"question", keep(c, question)}, {"answer", answer}};
        struct record r = {.answer_at = -1, .id = keep(c, id), .answer = answer};
        add_record(c, fields, ARRAY_LEN(fields), r);
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

// JSON lines.

static int with_lines(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                      int (*take)(struct corpus *, json_t *, const char *, struct err *),
                      struct err *err)
{
    int32_t line = 1;
    for (size_t at = 0; at < n; line++) {
        const uint8_t *newline = memchr(bytes + at, '\n', n - at);
        size_t end = newline ? (size_t)(newline - bytes) : n, from = at;
        at = end + 1;
        while (from < end && (bytes[from] == ' ' || bytes[from] == '\t' || bytes[from] == '\r'))
            from++;
        if (from == end)
            continue;
        json_error_t e;
        json_t *root = json_loadb((const char *)bytes + from, end - from, 0, &e);
        if (!root)
            return err_set(err, "%s:%d: %s", path, line, e.text);
        struct err why = {0};
        char where[WHERE];
        snprintf(where, sizeof where, "line %d", line);
        int r = take(c, root, where, &why);
        json_decref(root);
        if (r)
            return err_set(err, "%s:%d: %.400s", path, line, why.text);
    }
    return 0;
}

static int medmcqa_line(struct corpus *c, json_t *root, const char *where, struct err *err)
{
    static const char *const letters[] = {"A", "B", "C", "D"};
    static const char *const keys[] = {"question", "opa", "opb", "opc", "opd"};
    struct field fields[8];
    int32_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *text = need_text(root, keys[i], where, err);
        if (!text)
            return -1;
        fields[n++] = (struct field){keys[i], keep(c, text)};
    }
    json_t *cop = need(root, "cop", JSON_INTEGER, where, err);
    if (!cop)
        return -1;
    json_int_t right = json_integer_value(cop);
    if (right < 1 || right > 4)
        return err_set(err, "'cop' is %lld; options count from 1 to 4", (long long)right);
    json_t *subject = json_object_get(root, "subject_name"), *id = json_object_get(root, "id");
    const char *name = json_is_string(subject) ? json_string_value(subject) : "unknown";
    const char *answer = letters[right - 1];
    fields[n++] = (struct field){"subject_name", keep(c, name)};
    fields[n++] = (struct field){"answer", answer};
    struct record r = {.answer_at = -1, .answer = answer};
    r.id = json_is_string(id) ? keep(c, json_string_value(id)) : fields[0].value;
    add_record(c, fields, n, r);
    return 0;
}

static int medmcqa_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                        struct err *err)
{
    return with_lines(c, path, bytes, n, medmcqa_line, err);
}

const struct reader reader_medmcqa = {
    .name = "medmcqa",
    .help = "MedMCQA JSON lines: four options, cop = 1 to 4",
    .prompt = "Question: {question}\nA. {opa}\nB. {opb}\nC. {opc}\nD. {opd}\nAnswer:",
    .labels = (const char *const[]){"A", "B", "C", "D", NULL},
    .groups = (const char *const[]){"subject_name", "answer", NULL},
    .read = medmcqa_read,
};

// A text as it is, a whole number in digits; NULL for anything else.
static const char *scalar(struct corpus *c, json_t *v)
{
    char digits[32];
    if (json_is_string(v))
        return keep(c, json_string_value(v));
    if (!json_is_integer(v))
        return NULL;
    snprintf(digits, sizeof digits, "%lld", (long long)json_integer_value(v));
    return keep(c, digits);
}

// What is asked and what is answered is found by name: the first of each list that is there.
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
        const char *text = scalar(c, value);
        if (text && n < FIELDS_MAX)
            fields[n++] = (struct field){keep(c, key), text};
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
    add_record(c, fields, n, all);
    return 0;
}

static int jsonl_read(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                      struct err *err)
{
    return with_lines(c, path, bytes, n, jsonl_line, err);
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
                                             &reader_jsonl, NULL};

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

static int read_folder(struct corpus *c, const struct reader *r, const char *path, struct err *err)
{
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
        size_t len = strlen(list[i]->d_name);
        bool json = (len > 5 && strcmp(list[i]->d_name + len - 5, ".json") == 0) ||
                    (len > 6 && strcmp(list[i]->d_name + len - 6, ".jsonl") == 0);
        snprintf(file, sizeof file, "%.*s/%s", PATH_MAX, path, list[i]->d_name);
        free(list[i]);
        if (status || !json)
            continue;
        files++;
        status = read_file(c, r, file, err);
    }
    free(list);
    return status ? -1 : files ? 0 : err_set(err, "%s: no .json or .jsonl file in it", path);
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
    json_t *root = parse(path, bytes, size, err), *value;
    mem_free(bytes);
    if (!root)
        return -1;
    size_t count = json_is_object(root) ? json_object_size(root) : json_array_size(root), i = 0;
    const char **list = dataset_take(c->texts, (count + 1) * sizeof *list), *key;
    int status = count && count < INT32_MAX ? 0 : err_set(err, "%s: holds no ids", path);
    if (json_is_object(root)) {
        json_object_foreach(root, key, value) list[i++] = keep(c, key);
    } else {
        json_array_foreach(root, i, value)
        {
            const char *text = status ? NULL : scalar(c, value);
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
