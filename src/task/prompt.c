#include "task/prompt.h"

#include "base/mem.h"

#include <string.h>

enum { NAME_BYTES = 64 };

struct output {
    char *text;
    size_t n, cap;
};

static void put(struct output *o, const char *s, size_t n)
{
    if (o->n + n >= o->cap) {
        size_t cap = 2 * (o->n + n + 128);
        char *more = mem_alloc(MEM_DATA, cap);
        if (o->n)
            memcpy(more, o->text, o->n);
        mem_free(o->text);
        o->text = more;
        o->cap = cap;
    }
    memcpy(o->text + o->n, s, n);
    o->n += n;
}

// Copies the name in the "{name}" at p (checked to be short enough); returns what follows it.
static const char *name_at(const char *p, char name[NAME_BYTES])
{
    size_t n = strcspn(p + 1, "}");
    memcpy(name, p + 1, n);
    name[n] = 0;
    return p + n + 2;
}

// Fills the template from *at to stop ('\0' or ']'); false if a field was missing or empty.
static bool fill(struct output *o, const char **at, char stop, const struct record *r,
                 const char *context)
{
    bool whole = true;
    const char *p = *at;
    while (*p != stop) {
        if (p[0] == '\\' && p[1] == 'n') {
            put(o, "\n", 1);
            p += 2;
        } else if (*p == '{') {
            char name[NAME_BYTES];
            p = name_at(p, name);
            const char *value = record_field(r, name);
            if (context && strcmp(name, "context") == 0)
                value = context;
            if (value)
                put(o, value, strlen(value));
            whole = whole && value && *value;
        } else if (*p == '[') {
            size_t before = o->n;
            p++;
            if (!fill(o, &p, ']', r, context))
                o->n = before;
            p++;
        } else {
            put(o, p++, 1);
        }
    }
    *at = p;
    return whole;
}

char *prompt_fill(const char *prompt_template, const struct record *r, const char *context)
{
    struct output o = {0};
    const char *p = prompt_template;
    fill(&o, &p, 0, r, context);
    put(&o, "", 1);
    return o.text;
}

static int unknown_field(const char *name, const struct record *r, struct err *err)
{
    char known[256] = "";
    size_t n = 0;
    for (int32_t i = 0; i < r->n_fields && n + NAME_BYTES < sizeof known; i++) {
        const char *f = r->fields[i].name;
        size_t len = strlen(f) < NAME_BYTES - 2 ? strlen(f) : NAME_BYTES - 3;
        if (i) {
            memcpy(known + n, ", ", 2);
            n += 2;
        }
        memcpy(known + n, f, len);
        n += len;
    }
    return err_set(err, "task.prompt: the data has no field {%s}; it has %s", name, known);
}

int prompt_check(const char *prompt_template, const struct record *r, struct err *err)
{
    bool bracket = false;
    for (const char *p = prompt_template; *p;) {
        if (*p == '[' || *p == ']') {
            if (bracket == (*p == '['))
                return err_set(err, "task.prompt: '%c' without its partner at \"%.20s\"", *p, p);
            bracket = !bracket;
            p++;
        } else if (*p == '{') {
            char name[NAME_BYTES];
            size_t n = strcspn(p + 1, "}");
            if (!p[n + 1] || n == 0 || n >= NAME_BYTES)
                return err_set(err, "task.prompt: no field's name in braces at \"%.20s\"", p);
            p = name_at(p, name);
            if (!bracket && !record_field(r, name))
                return unknown_field(name, r, err);
        } else {
            p++;
        }
    }
    return bracket ? err_set(err, "task.prompt: '[' is not closed") : 0;
}
