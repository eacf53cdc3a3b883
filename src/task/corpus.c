#include "task/corpus.h"

#include "base/mem.h"

#include <string.h>

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

const char *corpus_keep(struct corpus *c, const char *text)
{
    return dataset_text(c->texts, text, strlen(text));
}

void corpus_add(struct corpus *c, const struct field *fields, int32_t n, struct record r)
{
    c->records =
        mem_grow(MEM_DATA, c->records, (size_t)c->n, (size_t)c->n + 1, &c->cap, sizeof *c->records);
    struct field *own = dataset_take(c->texts, (size_t)n * sizeof *own);
    memcpy(own, fields, (size_t)n * sizeof *own);
    r.fields = own;
    r.n_fields = n;
    c->records[c->n++] = r;
}
