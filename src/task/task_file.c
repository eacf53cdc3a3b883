// Tasks on real files: read, set test records apart, deal the rest to clients, turn text into
// examples when a client asks.
#include "base/fsio.h"
#include "base/mem.h"
#include "task/chat.h"
#include "task/partition.h"
#include "task/prompt.h"
#include "task/reader.h"
#include "task/task.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct file_state {
    const struct reader *reader;
    struct corpus corpus;
    char *prompt, *system;
    struct chat chat;
    int32_t *group;      // (corpus.n) of each record
    const char **names;  // (groups)
    const char **labels; // answers that are classes, NULL = the reader's
    int32_t *test;       // (n_test) records
    int32_t n_test;
    int32_t *train; // (n_train) records by client, client by client
    int32_t *first; // (clients + 1) into train
    struct dataset **clients, *test_set;
};

// groups: the distinct values of one field, in the order of their bytes.

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// The field named, else the first of the reader's that the first record has, else NULL.
static const char *group_field(const struct file_state *s, const struct partition *q)
{
    if (q->field[0])
        return q->field;
    for (const char *const *f = s->reader->groups; *f; f++)
        if (record_field(&s->corpus.records[0], *f))
            return *f;
    return NULL;
}

// The distinct texts of v, sorted; v itself is left alone. Returns how many.
static int32_t distinct(const char *const *v, int32_t n, const char **out)
{
    int32_t k = 0;
    memcpy(out, v, (size_t)n * sizeof *out);
    qsort(out, (size_t)n, sizeof *out, by_text);
    for (int32_t i = 0; i < n; i++)
        if (k == 0 || strcmp(out[k - 1], out[i]) != 0)
            out[k++] = out[i];
    return k;
}

static int assign_groups(struct file_state *s, struct task *t, const char *field, struct err *err)
{
    struct corpus *c = &s->corpus;
    const char **value = mem_alloc(MEM_DATA, (size_t)c->n * sizeof *value);
    for (int32_t i = 0; i < c->n; i++) {
        value[i] = field ? record_field(&c->records[i], field) : "all";
        if (!value[i]) {
            mem_free(value);
            return err_set(err, "task.partition: record %d (\"%.60s\") has no field '%s'", i + 1,
                           c->records[i].id, field);
        }
    }
    s->names = mem_alloc(MEM_DATA, (size_t)c->n * sizeof *s->names);
    t->n_groups = distinct(value, c->n, s->names);
    t->groups = s->names;
    s->group = mem_alloc(MEM_DATA, (size_t)c->n * sizeof *s->group);
    for (int32_t i = 0; i < c->n; i++) {
        const char **at =
            bsearch(&value[i], s->names, (size_t)t->n_groups, sizeof *s->names, by_text);
        s->group[i] = (int32_t)(at - s->names);
    }
    mem_free(value);
    return 0;
}

struct sized {
    int32_t group, records;
};

static int by_size(const void *a, const void *b)
{
    const struct sized *x = a, *y = b;
    return x->records != y->records ? y->records - x->records : x->group - y->group;
}

// With fewer clients than values of their field, those with most records are the clients; the
// others' records are in neither set.
static void keep_largest(struct file_state *s, struct task *t, const struct partition *q)
{
    struct corpus *c = &s->corpus;
    int32_t all = t->n_groups, before = c->n, n = 0;
    if (q->kind != PARTITION_FIELD || all <= t->clients)
        return;
    struct sized *size = mem_alloc(MEM_DATA, (size_t)all * sizeof *size);
    int32_t *kept = mem_alloc(MEM_DATA, (size_t)all * sizeof *kept); // number from 1, 0 = left out
    for (int32_t g = 0; g < all; g++)
        size[g].group = g;
    for (int32_t i = 0; i < c->n; i++)
        size[s->group[i]].records++;
    qsort(size, (size_t)all, sizeof *size, by_size);
    for (int32_t k = 0; k < t->clients; k++)
        kept[size[k].group] = 1;
    for (int32_t g = 0; g < all; g++)
        if (kept[g]) {
            s->names[n] = s->names[g];
            kept[g] = ++n;
        }
    t->n_groups = n;
    c->n = 0;
    for (int32_t i = 0; i < before; i++)
        if (kept[s->group[i]]) {
            s->group[c->n] = kept[s->group[i]] - 1;
            c->records[c->n++] = c->records[i];
        }
    note("task.partition = field:%s: the %d of %d values with most records are the clients, with "
         "%d of %d records",
         q->field, t->clients, all, c->n, before);
    mem_free(size);
    mem_free(kept);
}

// The classes that answers are: the reader's, or those of the data where every answer is one.
static void assign_labels(struct file_state *s, struct task *t)
{
    struct corpus *c = &s->corpus;
    t->labels = s->reader->labels;
    for (const char *const *l = t->labels; l && *l; l++)
        t->n_labels++;
    if (t->labels || c->classes < c->n)
        return;
    const char **answer = mem_alloc(MEM_DATA, (size_t)c->n * sizeof *answer);
    s->labels = mem_alloc(MEM_DATA, (size_t)c->n * sizeof *s->labels);
    for (int32_t i = 0; i < c->n; i++)
        answer[i] = c->records[i].answer;
    t->n_labels = distinct(answer, c->n, s->labels);
    t->labels = s->labels;
    t->metric = TASK_ACCURACY;
    mem_free(answer);
}

// the test set: the records whose ids hash lowest, so that it follows from the data alone.

struct ranked {
    uint64_t hash;
    int32_t record;
};

static int by_hash(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    return x->record - y->record;
}

static uint64_t hash_id(const char *id)
{
    uint64_t h = 14695981039346656037u; // FNV-1a, then mixed
    for (; *id; id++)
        h = (h ^ (uint8_t)*id) * 1099511628211u;
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
    return h ^ (h >> 33);
}

// Records of one id (a question in several languages) go to the same side.
static void test_by_hash(struct file_state *s, int32_t n_test, uint8_t *is_test)
{
    int32_t n = s->corpus.n;
    struct ranked *r = mem_alloc(MEM_DATA, (size_t)n * sizeof *r);
    for (int32_t i = 0; i < n; i++)
        r[i] = (struct ranked){hash_id(s->corpus.records[i].id), i};
    qsort(r, (size_t)n, sizeof *r, by_hash);
    for (int32_t i = 0; i < n; i++) {
        bool more =
            s->n_test < n_test || (i > 0 && r[i].hash == r[i - 1].hash && is_test[r[i - 1].record]);
        if (!more)
            break;
        is_test[r[i].record] = 1;
        s->n_test++;
    }
    mem_free(r);
}

static int test_by_ids(struct file_state *s, const char *path, uint8_t *is_test, struct err *err)
{
    const char *const *ids = NULL;
    int32_t n = 0;
    if (corpus_read_ids(&s->corpus, path, &ids, &n, err))
        return -1;
    const char **sorted = mem_alloc(MEM_DATA, (size_t)n * sizeof *sorted);
    uint8_t *found = mem_alloc(MEM_DATA, (size_t)n);
    memcpy(sorted, ids, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_text);
    for (int32_t i = 0; i < s->corpus.n; i++) {
        const char **at =
            bsearch(&s->corpus.records[i].id, sorted, (size_t)n, sizeof *sorted, by_text);
        if (!at)
            continue;
        found[at - sorted] = 1;
        is_test[i] = 1;
        s->n_test++;
    }
    int status = 0;
    for (int32_t i = 0; i < n && !status; i++)
        if (!found[i] && (i == 0 || strcmp(sorted[i], sorted[i - 1]) != 0))
            status =
                err_set(err, "%s: id \"%.80s\" is not in the data of task.path", path, sorted[i]);
    mem_free(sorted);
    mem_free(found);
    return status;
}

static int set_apart(struct file_state *s, const struct task_params *p, struct err *err)
{
    int32_t n = s->corpus.n, at = 0;
    uint8_t *is_test = mem_alloc(MEM_DATA, (size_t)n);
    int status = 0;
    if (p->test_ids[0])
        status = test_by_ids(s, p->test_ids, is_test, err);
    else
        test_by_hash(s, p->test, is_test);
    s->test = mem_alloc(MEM_DATA, ((size_t)s->n_test + 1) * sizeof *s->test);
    s->train = mem_alloc(MEM_DATA, (size_t)n * sizeof *s->train);
    for (int32_t i = 0, k = 0; i < n; i++) {
        if (is_test[i])
            s->test[k++] = i;
        else
            s->train[at++] = i;
    }
    mem_free(is_test);
    if (!status && s->n_test == 0)
        status = err_set(err, "%s: holds none of the data's ids", p->test_ids);
    return status;
}

// Orders s->train client by client and fills sizes and who holds what.
static int deal(struct file_state *s, struct task *t, const struct partition *q, struct err *err)
{
    int32_t n = s->corpus.n - s->n_test;
    size_t clients = (size_t)t->clients, groups = (size_t)t->n_groups;
    int32_t *label = mem_alloc(MEM_DATA, ((size_t)n + 1) * sizeof *label);
    int32_t *owner = mem_alloc(MEM_DATA, ((size_t)n + 1) * sizeof *owner);
    int32_t *order = mem_alloc(MEM_DATA, ((size_t)n + 1) * sizeof *order);
    for (int32_t i = 0; i < n; i++)
        label[i] = s->group[s->train[i]];
    int status = partition_assign(q, label, n, t->n_groups, owner, err);
    int32_t *sizes = mem_alloc(MEM_DATA, clients * sizeof *sizes);
    int32_t *held = mem_alloc(MEM_DATA, clients * groups * sizeof *held);
    s->first = mem_alloc(MEM_DATA, (clients + 1) * sizeof *s->first);
    t->client_sizes = sizes;
    t->held = held;
    int32_t at = 0;
    for (int32_t i = 0; i < n && !status; i++) {
        sizes[owner[i]]++;
        held[(size_t)owner[i] * groups + (size_t)label[i]]++;
    }
    for (size_t k = 0; k < clients; k++) {
        s->first[k] = at;
        at += sizes[k];
    }
    s->first[clients] = at;
    for (size_t k = 0; k < clients && !status; k++)
        if (sizes[k] == 0)
            status = err_set(err,
                             "task.partition = field:%s: all records of \"%.60s\" are test data; "
                             "lower task.test or fed.clients",
                             q->field, t->groups[k]);
    int32_t *next = mem_alloc(MEM_DATA, clients * sizeof *next);
    memcpy(next, s->first, clients * sizeof *next);
    for (int32_t i = 0; i < n && !status; i++)
        order[next[owner[i]]++] = s->train[i];
    memcpy(s->train, order, (size_t)n * sizeof *order);
    mem_free(next);
    mem_free(label);
    mem_free(owner);
    mem_free(order);
    return status;
}

// from text to tokens.

static bool continues(const char *s, size_t at) // a byte inside a UTF-8 sequence
{
    return ((uint8_t)s[at] & 0xc0) == 0x80;
}

// A window of about bytes of the context around the answer (its beginning where that is not
// known), cut between words where there are any.
static char *window(const char *context, int32_t answer_at, size_t answer_bytes, size_t bytes)
{
    size_t n = strlen(context), start = 0;
    bytes = bytes < n ? bytes : n;
    if (answer_at >= 0) {
        size_t middle = (size_t)answer_at + answer_bytes / 2;
        start = middle > bytes / 2 ? middle - bytes / 2 : 0;
        start = start + bytes > n ? n - bytes : start;
    }
    size_t end = start + bytes, limit = bytes / 4;
    for (size_t i = 0; i < limit && start > 0 && context[start - 1] != ' '; i++)
        start++;
    for (size_t i = 0; i < limit && end < n && context[end] != ' '; i++)
        end--;
    while (start < end && continues(context, start))
        start++;
    while (end > start && end < n && continues(context, end))
        end--;
    char *out = mem_alloc(MEM_DATA, end - start + 1);
    memcpy(out, context + start, end - start);
    return out;
}

static int32_t encode(const struct task *t, const char *prompt, int32_t *out, int32_t cap)
{
    const struct file_state *s = t->state;
    return chat_encode(&s->chat, t->tokenizer, prompt, out, cap);
}

// Writes the prompt's tokens (at most cap); the context is narrowed until it fits, and what is
// still too long loses its beginning.
static int32_t fit_prompt(const struct task *t, const struct record *r, int32_t *out, int32_t cap)
{
    const struct file_state *s = t->state;
    const char *context = record_field(r, "context");
    size_t bytes = context ? strlen(context) : 0, answer = strlen(r->answer);
    char *cut = NULL, *text = prompt_fill(s->prompt, r, NULL);
    int32_t n = encode(t, text, out, cap);
    while (n > cap && bytes > 0) {
        size_t scaled = (size_t)((double)bytes * cap / n);
        bytes = scaled < bytes - bytes / 16 ? scaled : bytes - bytes / 16 - 1;
        mem_free(cut);
        mem_free(text);
        cut = window(context, r->answer_at, answer, bytes);
        text = prompt_fill(s->prompt, r, cut);
        n = encode(t, text, out, cap);
    }
    if (n > cap) {
        int32_t *all = mem_alloc(MEM_DATA, (size_t)n * sizeof *all);
        encode(t, text, all, n);
        memcpy(out, all + (n - cap), (size_t)cap * sizeof *out);
        mem_free(all);
        n = cap;
    }
    mem_free(cut);
    mem_free(text);
    return n;
}

static int32_t label_of(const struct task *t, const char *answer)
{
    for (int32_t i = 0; i < t->n_labels; i++)
        if (strcmp(t->labels[i], answer) == 0)
            return i;
    return -1;
}

// BOS where the vocabulary has one, prompt, answer, its end. An answer beyond task.max_answer is
// cut, and scored as cut.
static void add_example(struct task *t, struct dataset *d, int32_t record)
{
    const struct file_state *s = t->state;
    const struct record *r = &s->corpus.records[record];
    const struct tokenizer *k = t->tokenizer;
    size_t room = (size_t)t->max_tokens;
    int32_t *tokens = mem_alloc(MEM_DATA, room * sizeof *tokens);
    int32_t *answer = mem_alloc(MEM_DATA, room * sizeof *answer);
    size_t len = strlen(r->answer);
    char *spaced = mem_alloc(MEM_DATA, len + 2), *reference = NULL;
    memcpy(spaced, " ", 1);
    memcpy(spaced + 1, r->answer, len);
    int32_t cap = t->max_answer - 1, n = 0;
    const char *begin = spaced + (k->space_first || !s->chat.row->spaced);
    int32_t n_answer = tokenizer_encode(k, begin, strlen(begin), answer, cap);
    if (n_answer > cap) {
        n_answer = cap;
        reference = mem_alloc(MEM_DATA, len + 2);
        tokenizer_decode(k, answer, n_answer, reference, len + 2);
    }
    if (k->bos >= 0)
        tokens[n++] = k->bos;
    n += fit_prompt(t, r, tokens + n, t->max_tokens - n - n_answer - 1);
    struct example e = {.tokens = tokens,
                        .answer = n,
                        .group = s->group[record],
                        .label = label_of(t, r->answer),
                        .reference = reference ? reference + (reference[0] == ' ') : r->answer};
    memcpy(tokens + n, answer, (size_t)n_answer * sizeof *answer);
    n += n_answer;
    tokens[n++] = k->eos;
    e.n = n;
    dataset_add(d, &e);
    mem_free(tokens);
    mem_free(answer);
    mem_free(spaced);
    mem_free(reference);
}

static struct dataset *make_set(struct task *t, const int32_t *records, int32_t n)
{
    struct dataset *d = dataset_open(n);
    for (int32_t i = 0; i < n; i++)
        add_example(t, d, records[i]);
    return d;
}

static const struct examples *file_client(struct task *t, int32_t client)
{
    struct file_state *s = t->state;
    if (!s->clients[client])
        s->clients[client] =
            make_set(t, s->train + s->first[client], s->first[client + 1] - s->first[client]);
    return &s->clients[client]->examples;
}

static const struct examples *file_test(struct task *t)
{
    struct file_state *s = t->state;
    if (!s->test_set)
        s->test_set = make_set(t, s->test, s->n_test);
    return &s->test_set->examples;
}

static void file_forget(struct task *t, int32_t client)
{
    struct file_state *s = t->state;
    dataset_close(s->clients[client]);
    s->clients[client] = NULL;
}

// opening.

static void file_close(struct task *t)
{
    struct file_state *s = t->state;
    for (int32_t k = 0; s->clients && k < t->clients; k++)
        dataset_close(s->clients[k]);
    dataset_close(s->test_set);
    corpus_close(&s->corpus);
    mem_free(s->clients);
    mem_free(s->group);
    mem_free((void *)s->names);
    mem_free((void *)s->labels);
    mem_free(s->prompt);
    mem_free(s->system);
    mem_free(s->test);
    mem_free(s->train);
    mem_free(s->first);
    mem_free(s);
}

static int file_open(struct task *t, const struct task_params *p, const struct reader *reader,
                     struct err *err)
{
    struct partition q = {.alpha = p->alpha, .seed = t->seed, .clients = t->clients};
    struct file_state *s = mem_alloc(MEM_DATA, sizeof *s);
    t->state = s;
    s->reader = reader;
    const char *prompt = p->prompt[0] ? p->prompt : reader->prompt;
    s->prompt = mem_alloc(MEM_DATA, strlen(prompt) + 1);
    memcpy(s->prompt, prompt, strlen(prompt));
    s->system = mem_alloc(MEM_DATA, strlen(p->system) + 1);
    memcpy(s->system, p->system, strlen(p->system));
    corpus_open(&s->corpus);
    t->max_tokens = p->max_tokens;
    t->max_answer = p->max_answer;
    if (p->max_answer > p->max_tokens / 2)
        return err_set(err, "task.max_answer = %d is more than half of task.max_tokens = %d",
                       p->max_answer, p->max_tokens);
    if (partition_parse(&q, p->partition, err) || corpus_read(&s->corpus, reader, p->path, err) ||
        prompt_check(s->prompt, &s->corpus.records[0], err) ||
        assign_groups(s, t, group_field(s, &q), err))
        return -1;
    keep_largest(s, t, &q);
    if (set_apart(s, p, err) || deal(s, t, &q, err))
        return -1;
    assign_labels(s, t);
    const char *name = tokenizer_name(p->tokenizer);
    if (strcmp(name, "auto") == 0)
        name = tokenizer_auto(p->vocab);
    t->tokenizer = tokenizer_open(name, p->vocab, err);
    if (!t->tokenizer || chat_open(&s->chat, chat_table[p->chat], s->system, t->tokenizer, err))
        return -1;
    if (t->tokenizer->eos < 0)
        return err_set(err, "task.vocab = %s: no token that ends a text is known in it", p->vocab);
    s->clients = mem_alloc(MEM_DATA, (size_t)t->clients * sizeof *s->clients);
    return 0;
}

#define FILE_TASK(id, text, m)                                                                     \
    static int open_##id(struct task *t, const struct task_params *p, struct err *err)             \
    {                                                                                              \
        return file_open(t, p, &reader_##id, err);                                                 \
    }                                                                                              \
    const struct task_row task_##id = {.name = #id,                                                \
                                       .help = text,                                               \
                                       .metric = m,                                                \
                                       .open = open_##id,                                          \
                                       .close = file_close,                                        \
                                       .client = file_client,                                      \
                                       .test = file_test,                                          \
                                       .forget = file_forget}
FILE_TASK(squad, "SQuAD or XQuAD JSON in task.path: answers found in a context", TASK_F1);
FILE_TASK(pubmedqa, "PubMedQA JSON in task.path: yes, no or maybe", TASK_ACCURACY);
FILE_TASK(medmcqa, "MedMCQA JSON lines in task.path: A, B, C or D", TASK_ACCURACY);
FILE_TASK(jsonl, "JSON lines in task.path: instructions, questions or texts and answers",
          TASK_ROUGE_L);
FILE_TASK(instruct, "instruction files in task.path (JSON arrays or lines): clients by task",
          TASK_ROUGE_L);
FILE_TASK(speech, "plays as plain text in task.path: what a speaker answers; clients by speaker",
          TASK_ROUGE_L);
