#include "base/jsonw.h"

#include <assert.h>
#include <string.h>

static void newline(const struct jsonw *j)
{
    if (!j->compact)
        fprintf(j->out, "\n%*s", 2 * j->depth, "");
}

// What stands before a value or a key: a comma, a line break, or nothing after a key.
static void before(struct jsonw *j)
{
    if (j->after_key) {
        j->after_key = false;
        return;
    }
    if (j->depth == 0)
        return;
    if (!j->first[j->depth])
        fputs(j->compact ? ", " : ",", j->out);
    j->first[j->depth] = false;
    newline(j);
}

static void open_level(struct jsonw *j, char open, char close)
{
    before(j);
    fputc(open, j->out);
    j->depth++;
    assert(j->depth < (int)(sizeof j->close));
    j->first[j->depth] = true;
    j->close[j->depth] = close;
}

void jsonw_begin(struct jsonw *j, FILE *out)
{
    *j = (struct jsonw){.out = out};
}

void jsonw_object(struct jsonw *j)
{
    open_level(j, '{', '}');
}

void jsonw_array(struct jsonw *j)
{
    open_level(j, '[', ']');
}

void jsonw_end(struct jsonw *j)
{
    assert(j->depth > 0 && !j->after_key);
    bool empty = j->first[j->depth];
    char close = j->close[j->depth];
    j->depth--;
    if (!empty)
        newline(j);
    fputc(close, j->out);
    if (j->depth == 0)
        fputc('\n', j->out);
}

// Bytes of the UTF-8 sequence at s, 0 = not one (overlong, surrogate, out of range, cut off).
static int sequence(const unsigned char *s)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : s[0] >= 0xc0 ? 2 : 0;
    if (n <= 1)
        return n;
    uint32_t code = s[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xc0u) != 0x80)
            return 0;
        code = code << 6 | (s[i] & 0x3fu);
    }
    bool bad =
        code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) || s[0] > 0xf7;
    return bad ? 0 : n;
}

static void quoted(FILE *out, const char *text)
{
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const unsigned char *s = (const unsigned char *)text;
    fputc('"', out);
    while (*s) {
        const char *hit = strchr(plain, *s);
        int n = sequence(s);
        if (hit)
            fprintf(out, "\\%c", letter[hit - plain]);
        else if (*s < 0x20)
            fprintf(out, "\\u%04x", *s);
        else if (n == 0)
            fputs("\\ufffd", out);
        else
            fwrite(s, 1, (size_t)n, out);
        s += n ? n : 1;
    }
    fputc('"', out);
}

void jsonw_key(struct jsonw *j, const char *key)
{
    assert(j->depth > 0 && j->close[j->depth] == '}' && !j->after_key);
    before(j);
    quoted(j->out, key);
    fputs(": ", j->out);
    j->after_key = true;
}

void jsonw_text(struct jsonw *j, const char *s)
{
    before(j);
    if (s)
        quoted(j->out, s);
    else
        fputs("null", j->out);
}

void jsonw_int(struct jsonw *j, int64_t v)
{
    before(j);
    fprintf(j->out, "%lld", (long long)v);
}

void jsonw_num(struct jsonw *j, double v)
{
    before(j);
    if (v - v != 0) // NaN or infinite: JSON has no word for it
        fputs("null", j->out);
    else
        fprintf(j->out, "%.17g", v);
}

void jsonw_bool(struct jsonw *j, bool v)
{
    before(j);
    fputs(v ? "true" : "false", j->out);
}

void jsonw_raw(struct jsonw *j, const char *json)
{
    before(j);
    fputs(json, j->out);
}

void jsonw_key_text(struct jsonw *j, const char *key, const char *s)
{
    jsonw_key(j, key);
    jsonw_text(j, s);
}

void jsonw_key_int(struct jsonw *j, const char *key, int64_t v)
{
    jsonw_key(j, key);
    jsonw_int(j, v);
}

void jsonw_key_num(struct jsonw *j, const char *key, double v)
{
    jsonw_key(j, key);
    jsonw_num(j, v);
}
