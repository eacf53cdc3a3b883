#include "base/opt.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const switch_words[][2] = {
    {"off", "on"}, {"false", "true"}, {"no", "yes"}, {"0", "1"}};

static int parse_bool(const char *text)
{
    for (size_t i = 0; i < ARRAY_LEN(switch_words); i++)
        for (int value = 0; value < 2; value++)
            if (!strcmp(text, switch_words[i][value]))
                return value;
    return -1;
}

// strtod also takes white space, hexadecimal and "nan(...)": none of them is a number here.
static int parse_f64(const char *text, double *v)
{
    const char *digits = text + (*text == '-' || *text == '+');
    if (strcmp(digits, "inf") && (!*digits || strspn(digits, "0123456789.eE+-") != strlen(digits)))
        return -1;
    char *end;
    errno = 0;
    *v = strtod(text, &end);
    bool overflow = errno == ERANGE && isinf(*v);
    return *end || end == text || overflow || isnan(*v) ? -1 : 0;
}

enum { INTEGER_OK, INTEGER_JUNK, INTEGER_FRACTION, INTEGER_HUGE };

static bool times_ten_plus(uint64_t *v, uint64_t digit)
{
    return !__builtin_mul_overflow(*v, (uint64_t)10, v) && !__builtin_add_overflow(*v, digit, v);
}

// 7, 1e6, 1.5e3: digits times a power of ten, in integers all the way: a double would round from
// 2^53 on.
static int parse_i64(const char *text, int64_t *v)
{
    const char *p = text + (*text == '-' || *text == '+');
    uint64_t n = 0, limit = INT64_MAX + (uint64_t)(*text == '-');
    long power = 0;
    bool any = false, point = false, fits = true;
    for (; isdigit((unsigned char)*p) || (*p == '.' && !point); p++) {
        point |= *p == '.';
        if (*p == '.')
            continue;
        any = true;
        power -= point;
        fits = fits && times_ten_plus(&n, (uint64_t)(*p - '0'));
    }
    if (any && (*p == 'e' || *p == 'E') && !isspace((unsigned char)p[1])) {
        char *end;
        long e = strtol(p + 1, &end, 10);
        if (end > p + 1)
            p = end;
        power += e < -9999 ? -9999 : e > 9999 ? 9999 : e;
    }
    if (!any || *p)
        return INTEGER_JUNK;
    for (; fits && n > 0 && power < 0 && n % 10 == 0; power++)
        n /= 10;
    if (fits && n > 0 && power < 0)
        return INTEGER_FRACTION;
    for (; fits && n > 0 && power > 0; power--)
        fits = times_ten_plus(&n, 0);
    if (!fits || n > limit)
        return INTEGER_HUGE;
    *v = *text == '-' ? (int64_t)(0 - n) : (int64_t)n;
    return INTEGER_OK;
}

// The shortest text that reads back as v, with "1e6" for printf's "1e+06".
static void number_text(double v, char out[32])
{
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, v);
        if (strtod(out, NULL) == v)
            break;
    }
    char *exponent = strchr(out, 'e');
    if (!exponent)
        return;
    char *to = exponent + 1, *from = to + (*to == '+');
    to += *from == '-';
    from += *from == '-';
    from += strspn(from, "0");
    memmove(to, from, strlen(from) + 1);
}

const char *opt_choice(const struct opt *row, int32_t i)
{
    return row->choice ? row->choice(i) : row->choices[i];
}

void opt_range(const struct opt *row, char *out, size_t out_size)
{
    const char *unit = row->unit ? row->unit : "";
    size_t n = 0;
    char lo[32], hi[32];
    const char *name;
    switch (row->type) {
    case OPT_BOOL:
        snprintf(out, out_size, "on, off");
        return;
    case OPT_TEXT:
        snprintf(out, out_size, "text of at most %zu bytes", row->size - 1);
        return;
    case OPT_CHOICE:
        for (int32_t i = 0; (name = opt_choice(row, i)) && n < out_size; i++)
            n += (size_t)snprintf(out + n, out_size - n, "%s%s", i ? ", " : "", name);
        return;
    case OPT_I32:
    case OPT_I64:
    case OPT_F64:
        number_text(row->min, lo);
        number_text(row->max, hi);
        if (row->min < row->max)
            snprintf(out, out_size, "%s to %s%s%s", lo, hi, *unit ? " " : "", unit);
        else
            snprintf(out, out_size, "any number%s%s", *unit ? " of " : "", unit);
        return;
    }
    assert(0 && "a type that opt.h does not know");
}

void opt_list(FILE *out, const char *prefix, const struct opt *rows, int n)
{
    for (int k = 0; k < n; k++) {
        char range[256], value[320];
        opt_range(&rows[k], range, sizeof range);
        snprintf(value, sizeof value, "%s%s = %s", prefix, rows[k].name, rows[k].dflt);
        fprintf(out, "  %-36s %s (%s)\n", value, rows[k].help, range);
    }
}

static int bad_number(const struct opt *row, const char *text, const char *what, struct err *err)
{
    char range[128];
    opt_range(row, range, sizeof range);
    const char *kind = row->type == OPT_F64 ? "a number" : "a whole number";
    bool any = !(row->min < row->max);
    return err_set(err, "%s = %.80s: %s; give %s%s%s", row->name, text, what, kind,
                   any ? "" : " from ", any ? "" : range);
}

// Exact, though the bounds are doubles and an integer near 2^63 is none.
static bool in_range(const struct opt *row, int64_t i, double d)
{
    if (!(row->min < row->max))
        return true;
    if (row->type == OPT_F64)
        return d >= row->min && d <= row->max;
    bool low = row->min >= -0x1p63 && (row->min >= 0x1p63 || i < (int64_t)ceil(row->min));
    bool high = row->max < 0x1p63 && (row->max < -0x1p63 || i > (int64_t)floor(row->max));
    return !low && !high;
}

static int set_number(const struct opt *row, void *field, const char *text, struct err *err)
{
    int64_t i = 0;
    double d = 0;
    if (row->type == OPT_F64) {
        if (parse_f64(text, &d))
            return bad_number(row, text, "not a number", err);
    } else {
        static const char *const why[] = {[INTEGER_JUNK] = "not a whole number",
                                          [INTEGER_FRACTION] = "has a fraction",
                                          [INTEGER_HUGE] = "too large"};
        int got = parse_i64(text, &i);
        if (got != INTEGER_OK)
            return bad_number(row, text, why[got], err);
    }
    if (!in_range(row, i, d))
        return bad_number(row, text, "out of range", err);
    if (row->type == OPT_I32 && (i < INT32_MIN || i > INT32_MAX))
        return bad_number(row, text, "does not fit 32 bits", err);

    if (row->type == OPT_F64)
        memcpy(field, &d, sizeof d);
    else if (row->type == OPT_I64)
        memcpy(field, &i, sizeof i);
    else
        memcpy(field, &(int32_t){(int32_t)i}, sizeof(int32_t));
    return 0;
}

static int set_choice(const struct opt *row, void *field, const char *text, struct err *err)
{
    char list[256];
    struct opt_guess guess = {.text = text};
    const char *name;
    for (int32_t i = 0; (name = opt_choice(row, i)); i++) {
        if (!strcmp(name, text)) {
            memcpy(field, &i, sizeof i);
            return 0;
        }
        opt_guess(&guess, name);
    }
    opt_range(row, list, sizeof list);
    if (guess.name)
        return err_set(err, "%s = %.80s: unknown; did you mean %s? The choices are %s", row->name,
                       text, guess.name, list);
    return err_set(err, "%s = %.80s: unknown; the choices are %s", row->name, text, list);
}

static int set_text(const struct opt *row, char *field, const char *text, struct err *err)
{
    size_t n = strlen(text);
    if (n >= row->size)
        return err_set(err, "%s = %.40s...: %zu bytes are too long; at most %zu", row->name, text,
                       n, row->size - 1);
    for (size_t i = 0; i < n; i++)
        if (iscntrl((unsigned char)text[i]))
            return err_set(err, "%s: a control character (code %d) at byte %zu; remove it",
                           row->name, text[i], i + 1);
    memset(field, 0, row->size); // the whole field, so that structs compare and hash
    memcpy(field, text, n);
    return 0;
}

int opt_set(const struct opt *row, void *base, const char *text, struct err *err)
{
    void *field = (char *)base + row->offset;
    if (!*text && row->type != OPT_TEXT)
        return err_set(err, "%s has no value; its default is %s", row->name, row->dflt);
    switch (row->type) {
    case OPT_BOOL: {
        int value = parse_bool(text);
        if (value < 0)
            return err_set(err, "%s = %.80s: not a switch; give on or off", row->name, text);
        memcpy(field, &(bool){value}, sizeof(bool));
        return 0;
    }
    case OPT_I32:
    case OPT_I64:
    case OPT_F64:
        return set_number(row, field, text, err);
    case OPT_TEXT:
        return set_text(row, field, text, err);
    case OPT_CHOICE:
        return set_choice(row, field, text, err);
    }
    assert(0 && "a type that opt.h does not know");
    return -1;
}

void opt_defaults(const struct opt *rows, int n, void *base)
{
    for (int i = 0; i < n; i++) {
        struct err err = {""};
        if (opt_set(&rows[i], base, rows[i].dflt, &err))
            die(STATUS_CHECK, "the default of %s is wrong in its table: %s", rows[i].name,
                err.text);
    }
}

const struct opt *opt_find(const struct opt *rows, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(rows[i].name, name))
            return &rows[i];
    return NULL;
}

static int unknown_in_list(const struct opt *rows, int n, const char *name, struct err *err)
{
    if (!n)
        return err_set(err, "%.80s: there are no options here; remove it", name);
    const char *near = opt_nearest(rows, n, name);
    if (near)
        return err_set(err, "%.80s: unknown option; did you mean %s?", name, near);
    char list[256] = "";
    for (int i = 0; i < n; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", rows[i].name);
    }
    return err_set(err, "%.80s: unknown option; there are %s", name, list);
}

int opt_set_list(const struct opt *rows, int n, void *base, const char *text, struct err *err)
{
    const char *start = text ? text : "";
    for (const char *p = start; *p;) {
        size_t len = strcspn(p, ",");
        char item[320];
        if (len >= sizeof item)
            return err_set(err, "%.40s...: option too long", p);
        memcpy(item, p, len);
        item[len] = '\0';
        char *value = strchr(item, '=');
        if (!value || value == item)
            return err_set(err, "'%.80s': not key=value", item);
        *value++ = '\0';

        const struct opt *row = opt_find(rows, n, item);
        if (!row)
            return unknown_in_list(rows, n, item, err);
        size_t key = strlen(item) + 1; // with its '='
        for (const char *q = start; q < p; q += strcspn(q, ",") + 1)
            if (!strncmp(q, p, key))
                return err_set(err, "%s is given twice in '%.120s'", item, start);
        if (opt_set(row, base, value, err))
            return -1;
        p += len;
        if (*p == ',' && !*++p)
            return err_set(err, "'%.120s' ends in a comma", start);
    }
    return 0;
}

void opt_format(const struct opt *row, const void *base, char *out, size_t out_size)
{
    const void *field = (const char *)base + row->offset;
    switch (row->type) {
    case OPT_BOOL:
        snprintf(out, out_size, "%s", *(const bool *)field ? "on" : "off");
        return;
    case OPT_I32:
        snprintf(out, out_size, "%d", *(const int32_t *)field);
        return;
    case OPT_I64:
        snprintf(out, out_size, "%lld", (long long)*(const int64_t *)field);
        return;
    case OPT_F64: {
        char number[32];
        number_text(*(const double *)field, number);
        snprintf(out, out_size, "%s", number);
        return;
    }
    case OPT_TEXT:
        snprintf(out, out_size, "%s", (const char *)field);
        return;
    case OPT_CHOICE:
        snprintf(out, out_size, "%s", opt_choice(row, *(const int32_t *)field));
        return;
    }
    assert(0 && "a type that opt.h does not know");
}

bool opt_is_default(const struct opt *row, const char *formatted)
{
    // The default as it is written in the table may differ: "20e6" for "2e7".
    _Alignas(8) char field[2048];
    char dflt[2048];
    struct opt alone = *row;
    struct err err;
    alone.offset = 0;
    assert(row->size <= sizeof field);
    if (opt_set(&alone, field, row->dflt, &err))
        return false;
    opt_format(&alone, field, dflt, sizeof dflt);
    return !strcmp(dflt, formatted);
}

int opt_distance(const char *a, const char *b)
{
    enum { LONGEST = 63 };
    size_t na = strlen(a), nb = strlen(b);
    if (na > LONGEST || nb > LONGEST)
        return 99;
    // of[i % 3][j]: distance of the first i letters of a to the first j of b
    int of[3][LONGEST + 1];
    for (size_t j = 0; j <= nb; j++)
        of[0][j] = (int)j;
    for (size_t i = 1; i <= na; i++) {
        int *row = of[i % 3], *above = of[(i + 2) % 3], *higher = of[(i + 1) % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= nb; j++) {
            int change = above[j - 1] + (a[i - 1] != b[j - 1]);
            int drop = (above[j] < row[j - 1] ? above[j] : row[j - 1]) + 1;
            row[j] = change < drop ? change : drop;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                higher[j - 2] + 1 < row[j])
                row[j] = higher[j - 2] + 1;
        }
    }
    return of[na % 3][nb];
}

void opt_guess(struct opt_guess *g, const char *name)
{
    size_t letters = strlen(g->text);
    int distance = opt_distance(name, g->text);
    if (letters >= 2 && !strncmp(name, g->text, letters))
        distance = distance > 0; // the beginning of a word is nearer than another word
    // Words that share no letter are not near, however short they are.
    if (distance > 3 || distance >= (int)strlen(name))
        return;
    if (!g->name || distance < g->distance) {
        g->name = name;
        g->distance = distance;
    }
}

char *opt_choices(const char *text, const char *(*name)(int32_t i), char *out, size_t size)
{
    struct opt_guess guess = {.text = text};
    for (int32_t i = 0; name(i); i++)
        opt_guess(&guess, name(i));
    size_t at = guess.name ? (size_t)snprintf(out, size, "; did you mean %s? There are", guess.name)
                           : (size_t)snprintf(out, size, "; there are");
    for (int32_t i = 0; name(i) && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s %s", i ? "," : "", name(i));
    return out;
}

const char *opt_nearest(const struct opt *rows, int n, const char *text)
{
    struct opt_guess g = {.text = text};
    for (int i = 0; i < n; i++)
        opt_guess(&g, rows[i].name);
    return g.name;
}
