#include "trace/trace_file.h"

#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const trace_meta_names[] = {"command_line", "config",  "environment", "build",
                                        "hwloc_xml",    "machine", NULL};

int trace_errno_set(struct err *err, const char *path, const char *what)
{
    return err_set(err, "%s: cannot %s: %s", path, what, strerror(errno));
}

void trace_fact_add(struct trace_file *f, enum trace_place place, const char *name,
                    const char *text, size_t len)
{
    f->facts = mem_grow(MEM_TRACE, f->facts, (size_t)f->n_facts, (size_t)f->n_facts + 1,
                        &f->cap_facts, sizeof *f->facts);
    struct trace_fact *fact = &f->facts[f->n_facts++];
    fact->place = place;
    snprintf(fact->name, sizeof fact->name, "%s", name);
    fact->text = mem_alloc(MEM_TRACE, len + 1);
    if (len)
        memcpy(fact->text, text, len);
    fact->text[len] = 0;
    fact->len = strlen(fact->text);
}

const char *trace_fact_get(const struct trace_file *f, enum trace_place place, const char *name)
{
    for (int i = 0; i < f->n_facts; i++)
        if (f->facts[i].place == place && strcmp(f->facts[i].name, name) == 0)
            return f->facts[i].text;
    return NULL;
}

size_t trace_field_bytes(const struct record_field *f)
{
    static const size_t bytes[] = {
        [FIELD_I32] = 4, [FIELD_I64] = 8,  [FIELD_U64] = 8,   [FIELD_F64] = 8,
        [FIELD_U8] = 1,  [FIELD_TEXT] = 1, [FIELD_STAGE] = 1, [FIELD_STATUS] = 4};
    return bytes[f->type] * (f->count ? f->count : 1);
}

int trace_field_columns(const struct record_field *f)
{
    return f->type == FIELD_TEXT || f->count <= 1 ? 1 : f->count;
}

void trace_column_name(const struct record_field *f, int k, char *out, size_t size)
{
    if (trace_field_columns(f) == 1)
        snprintf(out, size, "%s", f->name);
    else if (strcmp(f->name, "kept") == 0 && f->count == RECORD_WIDTHS)
        snprintf(out, size, "%s_%dbit", f->name, record_width_bits[k]);
    else if (strcmp(f->name, "mem_peak_bytes") == 0 && f->count == MEM_PURPOSES)
        snprintf(out, size, "%s_%s", f->name, mem_purpose_name[k]);
    else
        snprintf(out, size, "%s_%d", f->name, k);
}

int trace_field_find(enum record_id id, const char *name)
{
    const struct record_field *fields = record_tables[id].fields;
    for (int i = 0; fields[i].name; i++)
        if (strcmp(fields[i].name, name) == 0)
            return i;
    return -1;
}

void trace_rows_clean(enum record_id id, void *rows, size_t n)
{
    size_t row_bytes = record_tables[id].row_bytes;
    for (const struct record_field *f = record_tables[id].fields; f->name; f++) {
        if (f->type != FIELD_TEXT)
            continue;
        for (size_t i = 0; i < n; i++) {
            char *s = (char *)rows + i * row_bytes + f->offset;
            size_t len = strnlen(s, f->count - 1u);
            memset(s + len, 0, f->count - len);
        }
    }
}

// Ids that index tables elsewhere.
static bool row_sound(enum record_id id, const char *row)
{
    for (const struct record_field *f = record_tables[id].fields; f->name; f++) {
        int32_t status;
        if (f->type == FIELD_STAGE && (uint8_t)row[f->offset] >= STAGE_COUNT)
            return false;
        if (f->type != FIELD_STATUS)
            continue;
        memcpy(&status, row + f->offset, sizeof status);
        if (status < 0 || status >= MESSAGE_STATUS_COUNT)
            return false;
    }
    return true;
}

void trace_rows_add(struct trace_file *f, enum record_id id, const void *rows, size_t n)
{
    size_t row_bytes = record_tables[id].row_bytes;
    if (n == 0)
        return;
    f->rows[id] = mem_grow(MEM_TRACE, f->rows[id], f->n[id], f->n[id] + n, &f->cap[id], row_bytes);
    size_t first = f->n[id];
    for (size_t i = 0; i < n; i++) {
        const char *row = (const char *)rows + i * row_bytes;
        if (record_is_pad(id, row))
            continue;
        if (row_sound(id, row))
            memcpy(f->rows[id] + f->n[id]++ * row_bytes, row, row_bytes);
        else
            f->damaged++;
    }
    trace_rows_clean(id, f->rows[id] + first * row_bytes, f->n[id] - first);
}

static bool same_rows(enum record_id id, const char *a, const char *b, size_t n)
{
    size_t row_bytes = record_tables[id].row_bytes;
    for (const struct record_field *f = record_tables[id].fields; f->name; f++)
        for (size_t i = 0; i < n;
             i++) // not the row as a whole: what lies between fields is nothing
            if (memcmp(a + i * row_bytes + f->offset, b + i * row_bytes + f->offset,
                       trace_field_bytes(f)) != 0)
                return false;
    return true;
}

bool trace_file_holds(const struct trace_file *a, const struct trace_file *b)
{
    for (int id = 0; id < REC_COUNT; id++)
        if (a->n[id] < b->n[id] ||
            !same_rows((enum record_id)id, a->rows[id], b->rows[id], b->n[id]))
            return false;
    for (int i = 0; i < b->n_facts; i++) {
        const struct trace_fact *f = &b->facts[i];
        const char *text = trace_fact_get(a, f->place, f->name);
        if (!text || strncmp(text, f->text, f->len) != 0)
            return false;
    }
    return true;
}

// Attempts. A resumed run may do a round again: then only the newest rows of that round count.

struct attempt_key {
    int32_t run, version, attempt;
};

static int attempt_order(const void *a, const void *b)
{
    const struct attempt_key *x = a, *y = b;
    if (x->run != y->run)
        return x->run < y->run ? -1 : 1;
    if (x->version != y->version)
        return x->version < y->version ? -1 : 1;
    return x->attempt > y->attempt ? -1 : x->attempt < y->attempt;
}

static int same_round(const void *a, const void *b)
{
    const struct attempt_key *x = a, *y = b;
    if (x->run != y->run)
        return x->run < y->run ? -1 : 1;
    return x->version < y->version ? -1 : x->version > y->version;
}

struct attempt_map {
    struct attempt_key *keys;
    size_t n, cap;
};

static void attempt_note(struct attempt_map *m, struct attempt_key k)
{
    if (m->n && memcmp(&m->keys[m->n - 1], &k, sizeof k) == 0)
        return;
    m->keys = mem_grow(MEM_TRACE, m->keys, m->n, m->n + 1, &m->cap, sizeof k);
    m->keys[m->n++] = k;
}

// Sorts and keeps the highest attempt of each round.
static void attempt_seal(struct attempt_map *m)
{
    if (!m->n)
        return;
    qsort(m->keys, m->n, sizeof *m->keys, attempt_order);
    size_t kept = 1;
    for (size_t i = 1; i < m->n; i++)
        if (same_round(&m->keys[i], &m->keys[kept - 1]) != 0)
            m->keys[kept++] = m->keys[i];
    m->n = kept;
}

static const struct attempt_key *attempt_best(const struct attempt_map *m, struct attempt_key k)
{
    return m->n ? bsearch(&k, m->keys, m->n, sizeof k, same_round) : NULL;
}

static bool attempt_of(enum record_id id, const char *row, struct attempt_key *k)
{
    static const char *const names[] = {"run", "version", "attempt"};
    int32_t *const out[] = {&k->run, &k->version, &k->attempt};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int field = trace_field_find(id, names[i]);
        if (field < 0)
            return false;
        memcpy(out[i], row + record_tables[id].fields[field].offset, sizeof *out[i]);
    }
    return true;
}

// A round that was done again has a row in /rounds with a higher attempt: that one decides. Rows of
// a later attempt without a round of its own (its set-up) supersede nothing there.
static void drop_superseded(struct trace_file *f)
{
    struct attempt_map rounds = {0}, others = {0};
    struct attempt_key k = {0};
    for (enum record_id id = REC_RUNS; id < REC_COUNT; id++)
        for (size_t i = 0; i < f->n[id]; i++) {
            if (!attempt_of((enum record_id)id, f->rows[id] + i * record_tables[id].row_bytes, &k))
                break;
            attempt_note(id == REC_ROUNDS ? &rounds : &others, k);
        }
    attempt_seal(&rounds);
    attempt_seal(&others);
    for (enum record_id id = REC_RUNS; id < REC_COUNT; id++) {
        size_t row_bytes = record_tables[id].row_bytes, kept = 0;
        for (size_t i = 0; i < f->n[id]; i++) {
            char *row = f->rows[id] + i * row_bytes;
            if (attempt_of((enum record_id)id, row, &k)) {
                const struct attempt_key *best = attempt_best(&rounds, k);
                if (!best)
                    best = attempt_best(&others, k);
                if (best && k.attempt < best->attempt)
                    continue;
            }
            memmove(f->rows[id] + kept++ * row_bytes, row, row_bytes);
        }
        f->n[id] = kept;
    }
    mem_free(rounds.keys);
    mem_free(others.keys);
}

// Tables that say something once (a run, a rank, a figure): the last word counts.
static void keep_last(struct trace_file *f, enum record_id id, const char *const *names)
{
    const struct record_table *t = &record_tables[id];
    size_t kept = 0;
    for (size_t i = 0; i < f->n[id]; i++) {
        const char *row = f->rows[id] + i * t->row_bytes;
        size_t at = 0;
        for (; at < kept; at++) {
            bool same = true;
            for (int k = 0; same && names[k]; k++) {
                const struct record_field *field = &t->fields[trace_field_find(id, names[k])];
                same = memcmp(row + field->offset, f->rows[id] + at * t->row_bytes + field->offset,
                              trace_field_bytes(field)) == 0;
            }
            if (same)
                break;
        }
        memmove(f->rows[id] + at * t->row_bytes, row, t->row_bytes);
        kept += at == kept;
    }
    f->n[id] = kept;
}

static void facts_settle(struct trace_file *f)
{
    f->config = mem_alloc(MEM_TRACE, ((size_t)f->n_facts + 1) * sizeof *f->config);
    for (int i = 0; i < f->n_facts; i++) {
        if (f->facts[i].place != TRACE_CONFIG)
            continue;
        struct trace_setting *s = &f->config[f->n_config++];
        snprintf(s->name, sizeof s->name, "%s", f->facts[i].name);
        snprintf(s->text, sizeof s->text, "%s", f->facts[i].text);
    }
    const struct {
        const char *name;
        char *out;
        size_t size;
    } root[] = {{"suite_version", f->suite_version, sizeof f->suite_version},
                {"git_rev", f->git_rev, sizeof f->git_rev},
                {"created_utc", f->created_utc, sizeof f->created_utc}};
    for (size_t i = 0; i < ARRAY_LEN(root); i++) {
        const char *text = trace_fact_get(f, TRACE_ROOT, root[i].name);
        snprintf(root[i].out, root[i].size, "%s", text ? text : "");
    }
    const struct {
        const char *name;
        const char **out;
    } meta[] = {{"config", &f->config_text},  {"command_line", &f->command_line},
                {"hwloc_xml", &f->hwloc_xml}, {"environment", &f->environment},
                {"build", &f->build},         {"machine", &f->machine}};
    for (size_t i = 0; i < ARRAY_LEN(meta); i++) {
        const char *text = trace_fact_get(f, TRACE_META, meta[i].name);
        *meta[i].out = text ? text : "";
    }
}

void trace_file_settle(struct trace_file *f)
{
    drop_superseded(f);
    keep_last(f, REC_RUNS, (const char *const[]){"run", NULL});
    keep_last(f, REC_SUMMARY, (const char *const[]){"run", "key", NULL});
    keep_last(f, REC_RANKS, (const char *const[]){"rank", NULL});
    facts_settle(f);
}

void trace_file_free(struct trace_file *f)
{
    for (int id = 0; id < REC_COUNT; id++)
        mem_free(f->rows[id]);
    for (int i = 0; i < f->n_facts; i++)
        mem_free(f->facts[i].text);
    mem_free(f->facts);
    mem_free(f->config);
    memset(f, 0, sizeof *f);
}
