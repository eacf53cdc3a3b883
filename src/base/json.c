#include "base/json.h"

#include <assert.h>
#include <string.h>

static void newline(const struct json *j)
{
    if (!j->compact)
        fprintf(j->out, "\n%*s", 2 * j->depth, "");
}

// What stands before a value or a key: a comma, a line break, or nothing after a key.
static void before(struct json *j)
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

static void open_level(struct json *j, char open, char close)
{
    before(j);
    fputc(open, j->out);
    j->depth++;
    assert(j->depth < (int)(sizeof j->close));
    j->first[j->depth] = true;
    j->close[j->depth] = close;
}

void json_begin(struct json *j, FILE *out)
{
    *j = (struct json){.out = out};
}

void json_object(struct json *j)
{
    open_level(j, '{', '}');
}

void json_array(struct json *j)
{
    open_level(j, '[', ']');
}

void json_end(struct json *j)
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

void json_key(struct json *j, const char *key)
{
    assert(j->depth > 0 && j->close[j->depth] == '}' && !j->after_key);
    before(j);
    quoted(j->out, key);
    fputs(": ", j->out);
    j->after_key = true;
}

void json_text(struct json *j, const char *s)
{
    before(j);
    if (s)
        quoted(j->out, s);
    else
        fputs("null", j->out);
}

void json_int(struct json *j, int64_t v)
{
    before(j);
    fprintf(j->out, "%lld", (long long)v);
}

void json_num(struct json *j, double v)
{
    before(j);
    if (v - v != 0) // NaN or infinite: JSON has no word for it
        fputs("null", j->out);
    else
        fprintf(j->out, "%.17g", v);
}

void json_bool(struct json *j, bool v)
{
    before(j);
    fputs(v ? "true" : "false", j->out);
}
