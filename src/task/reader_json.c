#include "task/reader_json.h"

#include <stdio.h>
#include <string.h>

json_t *reader_need(json_t *object, const char *key, json_type type, const char *where,
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

const char *reader_text(json_t *object, const char *key, const char *where, struct err *err)
{
    json_t *v = reader_need(object, key, JSON_STRING, where, err);
    return v ? json_string_value(v) : NULL;
}

json_t *reader_parse(const char *path, const uint8_t *bytes, size_t n, struct err *err)
{
    json_error_t e;
    json_t *root = json_loadb((const char *)bytes, n, 0, &e);
    if (!root)
        err_set(err, "%s:%d: %s", path, e.line, e.text);
    return root;
}

int reader_lines(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
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

const char *reader_scalar(struct corpus *c, json_t *v)
{
    char digits[32];
    if (json_is_string(v))
        return corpus_keep(c, json_string_value(v));
    if (!json_is_integer(v))
        return NULL;
    snprintf(digits, sizeof digits, "%lld", (long long)json_integer_value(v));
    return corpus_keep(c, digits);
}
