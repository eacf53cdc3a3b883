#include "codec/codec.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

const struct codec_alias codec_alias_table[] = {
    {"int8", "int:bits=8", "8-bit blocks scaled by their largest value"},
    {"int4", "int:bits=4", "4-bit blocks scaled by their largest value"},
    {"int2", "int:bits=2", "2-bit (ternary) blocks scaled by their largest value"},
    {"natdither", "natural:levels=8,norm=l2,bucket=512",
     "natural dithering: powers of two below a bucket's norm"},
    {"3lc", "threelc+ef", "3LC as it is used, with error feedback"},
    {"drive", "eden:bits=1", "one rotated bit per value"},
    {"efsign", "sign:group=tensor+ef", "EF-signSGD: signs, mean magnitudes, error feedback"},
    {"fstq-paper",
     "fstq:policy=percentile,budget=0.15,shares=0.005/0.04/0.08,importance=fisher,gamma=1,"
     "norm=none,group=tensor,scale=group,format=fp32,tags=bitmap,values=packed",
     "Fed-FSTQ as it is written: F D^2 by percentiles, one scale per matrix, a mask and 2-bit "
     "tags"},
    {"fedpaq", "qsgd:norm=l2",
     "QSGD as FedPAQ uses it: several local steps; its mean is that of fed.weights=equal"},
    {NULL, NULL, NULL},
};

// Names.

static const struct codec *find_in(const struct codec *const *table, const char *name)
{
    for (; *table; table++)
        if (strcmp((*table)->name, name) == 0)
            return *table;
    return NULL;
}

const struct codec *codec_find(const char *name)
{
    const struct codec *row = find_in(codec_table, name);
    return row ? row : find_in(wrapper_table, name);
}

static const struct codec_alias *find_alias(const char *name)
{
    for (const struct codec_alias *a = codec_alias_table; a->name; a++)
        if (strcmp(a->name, name) == 0)
            return a;
    return NULL;
}

static int unknown(const char *what, const char *name, const struct codec *const *table,
                   bool aliases, struct err *err)
{
    struct opt_guess guess = {.text = name};
    for (; *table; table++)
        opt_guess(&guess, (*table)->name);
    for (const struct codec_alias *a = codec_alias_table; aliases && a->name; a++)
        opt_guess(&guess, a->name);
    return err_set(err, "unknown %s '%s'%s%s%s 'fstq list codecs' shows all", what, name,
                   guess.name ? "; did you mean " : ";", guess.name ? guess.name : "",
                   guess.name ? "?" : "");
}

// Opening.

#define TEXT_MAX sizeof(((struct codec_inst *)0)->text)

// The '+' before the next wrapper, or the end. The one in 1e+3 is followed by a digit.
static const char *piece_end(const char *s)
{
    for (; *s; s++)
        if (*s == '+' && !(s[1] >= '0' && s[1] <= '9'))
            return s;
    return s;
}

// Cuts the first piece off *rest and writes its name and its options ("" when there are none).
static void next_piece(const char **rest, char name[TEXT_MAX], char opts[TEXT_MAX])
{
    const char *end = piece_end(*rest);
    size_t len = (size_t)(end - *rest);
    memcpy(name, *rest, len);
    name[len] = '\0';
    char *colon = strchr(name, ':');
    opts[0] = '\0';
    if (colon) {
        strcpy(opts, colon + 1);
        *colon = '\0';
    }
    *rest = *end ? end + 1 : end;
}

static bool gives(const char *opts, const char *key, size_t len)
{
    for (const char *s = opts; *s; s += strcspn(s, ","), s += *s == ',')
        if (strncmp(s, key, len) == 0 && s[len] == '=')
            return true;
    return false;
}

// Options of a short name, [from, end), that are not given anew, then those that are given.
static void join_options(const char *from, const char *end, const char *opts, char out[TEXT_MAX])
{
    size_t at = 0;
    for (const char *s = from; s < end;) {
        size_t len = strcspn(s, ","), key = strcspn(s, "=");
        len = len < (size_t)(end - s) ? len : (size_t)(end - s);
        if (!gives(opts, s, key))
            at += (size_t)snprintf(out + at, TEXT_MAX - at, "%c%.*s", at ? ',' : ':', (int)len, s);
        s += len + 1;
    }
    if (*opts)
        snprintf(out + at, TEXT_MAX - at, "%c%s", at ? ',' : ':', opts);
}

// Puts a short name's text in place of it: its codec takes the options given, its wrappers come
// first.
static int expand_alias(const char *text, char out[TEXT_MAX], struct err *err)
{
    char name[TEXT_MAX], opts[TEXT_MAX], joined[TEXT_MAX] = "";
    if (strlen(text) >= TEXT_MAX)
        return err_set(err, "codec text is longer than %zu characters", TEXT_MAX - 1);
    const char *rest = text;
    next_piece(&rest, name, opts);
    const struct codec_alias *a = find_alias(name);
    if (!a) {
        strcpy(out, text);
        return 0;
    }
    const char *mid = piece_end(a->text);
    const char *colon = memchr(a->text, ':', (size_t)(mid - a->text));
    const char *codec_end = colon ? colon : mid;
    int n = -1;
    if (strlen(a->text) + strlen(opts) + 2 < TEXT_MAX) {
        join_options(colon ? colon + 1 : mid, mid, opts, joined);
        n = snprintf(out, TEXT_MAX, "%.*s%s%s%s%s", (int)(codec_end - a->text), a->text, joined,
                     mid, *rest ? "+" : "", rest);
    }
    if (n < 0 || (size_t)n >= TEXT_MAX)
        return err_set(err, "codec text '%s' is longer than %zu characters when written out", text,
                       TEXT_MAX - 1);
    return 0;
}

// "name:key=value,..." with every option, after the inner codec's text.
static int write_text(struct codec_inst *c, struct err *err)
{
    const struct codec *row = c->row;
    size_t at = 0;
    int n = c->inner ? snprintf(c->text, TEXT_MAX, "%s+%s", c->inner->text, row->name)
                     : snprintf(c->text, TEXT_MAX, "%s", row->name);
    for (int i = 0; n >= 0; i++) {
        at += (size_t)n;
        if (at >= TEXT_MAX)
            return err_set(err, "codec '%s' is longer than %zu characters when written out",
                           row->name, TEXT_MAX - 1);
        if (i == row->n_options)
            return 0;
        char value[128];
        opt_format(&row->options[i], c->opt, value, sizeof value);
        n = snprintf(c->text + at, TEXT_MAX - at, "%c%s=%s", i ? ',' : ':', row->options[i].name,
                     value);
    }
    return err_set(err, "codec '%s' cannot be written out", row->name);
}

static struct codec_inst *open_piece(const char *name, const char *opts,
                                     const struct codec_inst *inner, const struct shape *shape,
                                     struct err *err)
{
    const struct codec *row = find_in(inner ? wrapper_table : codec_table, name);
    if (!row) {
        if (inner && find_in(codec_table, name))
            err_set(err, "'%s' is a codec, not a wrapper: it cannot stand after a '+'", name);
        else if (!inner && find_in(wrapper_table, name))
            err_set(err, "'%s' is a wrapper: it stands after a codec, as in topk+%s", name, name);
        else
            unknown(inner ? "wrapper" : "codec", name, inner ? wrapper_table : codec_table, !inner,
                    err);
        return NULL;
    }
    struct codec_inst *c = mem_alloc(MEM_CODEC, sizeof *c);
    c->row = row;
    c->shape = shape;
    c->inner = inner;
    c->opt = row->option_bytes ? mem_alloc(MEM_CODEC, row->option_bytes) : NULL;
    opt_defaults(row->options, row->n_options, c->opt);
    struct err why = {""};
    if ((opts[0] && row->n_options == 0 && err_set(&why, "it has no options, got '%s'", opts)) ||
        (opts[0] && opt_set_list(row->options, row->n_options, c->opt, opts, &why)) ||
        (row->check && row->check(c, &why)) || write_text(c, &why)) {
        err_set(err, "codec %s: %s", row->name, why.text);
        mem_free(c->opt);
        mem_free(c);
        return NULL;
    }
    return c;
}

struct codec_inst *codec_open(const char *text, const struct shape *shape, struct err *err)
{
    char full[TEXT_MAX], name[TEXT_MAX], opts[TEXT_MAX];
    if (expand_alias(text, full, err))
        return NULL;
    struct codec_inst *c = NULL;
    const char *rest = full;
    size_t len = strlen(full);
    if (len && full[len - 1] == '+') {
        err_set(err, "codec text '%s' ends in '+': a wrapper is missing", text);
        return NULL;
    }
    do {
        next_piece(&rest, name, opts);
        struct codec_inst *outer = open_piece(name, opts, c, shape, err);
        if (!outer) {
            codec_close(c);
            return NULL;
        }
        c = outer;
    } while (*rest);
    return c;
}

void codec_close(struct codec_inst *c)
{
    while (c) {
        // Instances are made here, so the inner one is ours to free although users see it const.
        struct codec_inst *inner = (struct codec_inst *)(uintptr_t)c->inner;
        mem_free(c->opt);
        mem_free(c);
        c = inner;
    }
}

void codec_reshape(struct codec_inst *c, const struct shape *shape)
{
    for (; c; c = (struct codec_inst *)(uintptr_t)c->inner)
        c->shape = shape;
}

// Facts.

size_t codec_state_floats(const struct codec_inst *c)
{
    return c->row->state_floats ? c->row->state_floats(c) : 0;
}

size_t codec_scratch_bytes(const struct codec_inst *c)
{
    return c->row->scratch_bytes ? c->row->scratch_bytes(c) : 0;
}

size_t codec_decode_scratch(const struct codec_inst *c)
{
    return c->row->decode_scratch ? c->row->decode_scratch(c) : codec_scratch_bytes(c);
}

size_t codec_bound(const struct codec_inst *c)
{
    return c->row->bound(c);
}

unsigned codec_needs(const struct codec_inst *c)
{
    unsigned own = c->row->needs | (codec_state_floats(c) ? CODEC_STATE : 0u);
    own |= c->row->needs_of ? c->row->needs_of(c) : 0u;
    return own | (c->inner ? codec_needs(c->inner) : 0);
}

unsigned codec_flags(const struct codec_inst *c)
{
    return c->row->flags_of ? c->row->flags_of(c) : c->row->flags;
}

double codec_upload_s(const struct codec_inst *c)
{
    if (c->inner)
        return codec_upload_s(c->inner);
    return c->row->upload_s ? c->row->upload_s(c) : 0;
}

bool codec_budgets(const struct codec_inst *c)
{
    while (c->inner)
        c = c->inner;
    return c->row->flags & CODEC_BUDGET;
}

const char *codec_diverges(const struct codec_inst *c)
{
    for (; c->inner; c = c->inner)
        if (c->row->feeds_back && (codec_flags(c->inner) & CODEC_NO_EF))
            return c->inner->text;
    return NULL;
}
