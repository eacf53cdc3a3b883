// [compare] of a config: methods, seeds, what is searched.
#include "base/mem.h"
#include "compare/compare.h"
#include "fed/method.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const search_modes[] = {"grid", "coordinate", "halving", NULL};
static const char *const betters[] = {"auto", "higher", "lower", NULL};
static const char *const traffics[] = {"up", "both", NULL};

#define P struct compare_params
const struct opt compare_options[] = {
    OPT_STRING(P, dir, "dir", "", "where the runs are kept; empty = runs/NAME of the config"),
    OPT_STRING(P, base, "base", "", "the method that others are compared with; empty = the first"),
    OPT_STRING(P, only, "only", "",
               "names of the methods to run, the base among them; empty = all"),
    OPT_STRING(P, seeds, "seeds", "1 2 3 4 5", "seeds of the result"),
    OPT_STRING(P, search_seeds, "search_seeds", "101",
               "seeds of the search, other than those of the result"),
    OPT_ENUM(
        P, search_mode, "search_mode", "grid", search_modes,
        "grid: every combination; coordinate: one line after the other, the others at their best; "
        "halving: every combination on one seed, the better half on two, and so on"),
    OPT(P, search_widen, "search_widen", "on", 0, 0, "",
        "once, where the best value is the first or the last of three or more: one more beyond it, "
        "as far again by ratio"),
    OPT(P, search_rounds, "search_rounds", "0", 0, 1e7, "",
        "rounds per run of the search; 0 = fed.rounds"),
    OPT(P, budget_rounds, "budget_rounds", "2", 1, 1000, "",
        "rounds per run that measures message sizes for a budget"),
    OPT(P, jobs, "jobs", "0", 0, 1024, "", "runs at a time, one thread each; 0 = cores"),
    OPT_STRING(P, score, "score", "score",
               "what counts: score (the task's own), or exact, f1, rouge_l, loss, error, ...; "
               "exact@zh: of one set"),
    OPT_ENUM(P, better, "better", "auto", betters,
             "which score is better; auto: lower for loss and error"),
    OPT(P, last, "last", "5", 1, 1000, "",
        "the final score is the mean of this many last evaluations"),
    OPT(P, trailing, "trailing", "3", 1, 1000, "",
        "a target is reached by the mean of this many evaluations in a row"),
    OPT_STRING(P, targets, "targets", "0.6 0.9",
               "targets, as parts of the base's final score with the same seed"),
    OPT_ENUM(P, traffic, "traffic", "up", traffics,
             "what targets and bytes_at count: up, the uplink, or both, with the downlink"),
    OPT_STRING(P, bytes_at, "bytes_at", "", "also show the score after so many bytes"),
};
#undef P
const int compare_option_count = ARRAY_LEN(compare_options);

struct loader {
    struct compare *c;
    struct mistakes mistakes;
};

static void mistake(struct loader *l, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void mistake(struct loader *l, int line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    mistakes_add(&l->mistakes, l->c->path, line, fmt, args);
    va_end(args);
}

// The next word of a list, cut at blanks and the other characters; NULL at the end. Longer words
// than fit are an error of whoever reads them: they come back cut.
static const char *word(const char *p, const char *stops, char *out, size_t size)
{
    p += strspn(p, stops);
    if (!*p)
        return NULL;
    size_t n = strcspn(p, stops);
    snprintf(out, size, "%.*s", (int)n, p);
    return p + n;
}

static void trim(char *s)
{
    size_t n = strlen(s), lead = strspn(s, " \t");
    while (n > lead && isspace((unsigned char)s[n - 1]))
        n--;
    memmove(s, s + lead, n - lead);
    s[n - lead] = '\0';
}

static bool number(const char *text, double *v)
{
    char *end;
    *v = strtod(text, &end);
    return *text && !*end && isfinite(*v);
}

// search = KEY[,KEY]: VALUE VALUE[/VALUE] ...; ...

static int add_values(struct search_dim *d, const char *list, struct err *err)
{
    char item[160];
    for (const char *p = list; (p = word(p, " \t", item, sizeof item));) {
        if (d->n_values == COMPARE_VALUES)
            return err_set(err, "search: more than %d values of %s", COMPARE_VALUES, d->key[0]);
        int k = 0;
        char value[32];
        for (const char *q = item; (q = word(q, "/", value, sizeof value)); k++)
            if (k < COMPARE_KEYS)
                strcpy(d->value[d->n_values][k], value);
        if (k != d->n_keys)
            return err_set(err, "search: '%.60s' holds %d values for %d options (%s, ...)", item, k,
                           d->n_keys, d->key[0]);
        d->n_values++;
    }
    if (d->n_values < 1)
        return err_set(err, "search: no values for %s", d->key[0]);
    return 0;
}

static int add_dim(struct compare *c, int line, const char *text, struct err *err)
{
    char names[256];
    const char *colon = strchr(text, ':');
    if (!colon)
        return err_set(err, "search: '%.60s' is not 'section.key: value value ...'", text);
    if (c->n_dims == COMPARE_DIMS)
        return err_set(err, "search: more than %d lines of values", COMPARE_DIMS);
    struct search_dim *d = &c->dim[c->n_dims];
    *d = (struct search_dim){.line = line};
    snprintf(names, sizeof names, "%.*s", (int)(colon - text), text);
    for (const char *p = names; (p = word(p, ", \t", d->key[d->n_keys], sizeof d->key[0]));) {
        const char *key = d->key[d->n_keys];
        if (!config_find(key, NULL))
            return err_set(err, "search: %.64s: unknown key; 'fstq list options' prints them all",
                           key);
        if (!strcmp(key, "run.seed") || !strcmp(key, "fed.method") || !strncmp(key, "trace.", 6))
            return err_set(err, "search: %s is not for a search", key);
        if (++d->n_keys == COMPARE_KEYS)
            break;
    }
    if (d->n_keys == 0)
        return err_set(err, "search: no option before the ':'");
    c->n_dims++;
    return add_values(d, colon + 1, err);
}

static int add_search(struct compare *c, int line, const char *value, struct err *err)
{
    char part[512];
    for (const char *p = value; (p = word(p, ";", part, sizeof part));) {
        trim(part);
        if (*part && add_dim(c, line, part, err))
            return -1;
    }
    return 0;
}

// method = NAME | METHOD [| key=value ...] [| bytes=N]

static int set_budget(struct compare_method *m, const char *item, struct err *err)
{
    static const struct {
        const char *key;
        enum budget_kind kind;
    } kinds[] = {{"bytes=", BUDGET_BYTES},
                 {"bits=", BUDGET_BITS},
                 {"fraction=", BUDGET_FRACTION},
                 {"same=", BUDGET_SAME}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t n = strlen(kinds[i].key);
        if (strncmp(item, kinds[i].key, n))
            continue;
        if (m->budget)
            return err_set(err, "method %s: two budgets; give one", m->name);
        m->budget = kinds[i].kind;
        if (m->budget == BUDGET_SAME)
            snprintf(m->same, sizeof m->same, "%s", item + n);
        else if (!number(item + n, &m->amount) || m->amount <= 0)
            return err_set(err, "method %s: %.60s: not a number above 0", m->name, item);
        return 0;
    }
    return err_set(err,
                   "method %s: '%.60s' is neither section.key=value nor a budget: bytes=N, bits=B "
                   "(a value), fraction=F (of dense fp16), same=NAME",
                   m->name, item);
}

// METHOD with a parameter in braces: {lo..hi}.
static int split_braces(struct compare_method *m, struct err *err)
{
    char range[64], *dots;
    const char *open = strchr(m->text, '{'), *close = open ? strchr(open, '}') : NULL;
    if (!open) {
        if (m->budget)
            return err_set(err,
                           "method %s: a budget, but no parameter in braces to search, as in "
                           "fedavg/topk:ratio={0.001..0.5}",
                           m->name);
        return 0;
    }
    if (!close || strchr(open + 1, '{') || (size_t)(close - open) >= sizeof range)
        return err_set(err, "method %s: one pair of braces, as in ratio={0.001..0.5}", m->name);
    if (!m->budget)
        return err_set(err,
                       "method %s: braces, but no budget: add '| bytes=N' or bits=, "
                       "fraction=, same=NAME",
                       m->name);
    snprintf(m->head, sizeof m->head, "%.*s", (int)(open - m->text), m->text);
    snprintf(m->tail, sizeof m->tail, "%s", close + 1);
    snprintf(range, sizeof range, "%.*s", (int)(close - open - 1), open + 1);
    dots = strstr(range, "..");
    if (dots)
        *dots = '\0';
    if (!dots || !number(range, &m->lo) || !number(dots + 2, &m->hi) || m->lo >= m->hi)
        return err_set(err, "method %s: {%.40s}: not two rising numbers, as in {0.001..0.5}",
                       m->name, open + 1);
    m->whole = !strpbrk(range, ".eE") && !strpbrk(dots + 2, ".eE");
    return 0;
}

static int add_method(struct compare *c, int line, const char *value, struct err *err)
{
    char part[512];
    if (c->n_methods == COMPARE_METHODS)
        return err_set(err, "more than %d methods", COMPARE_METHODS);
    struct compare_method *m = &c->method[c->n_methods];
    memset(m, 0, sizeof *m);
    m->line = line;
    const char *p = word(value, "|", part, sizeof part);
    trim(part);
    if (!p || !*part || strlen(part) >= sizeof m->name || strpbrk(part, " \t,\""))
        return err_set(err,
                       "method = %.60s: begins with a name of at most %d letters, without "
                       "blanks: NAME | METHOD",
                       value, COMPARE_NAME - 1);
    strcpy(m->name, part);
    for (int i = 0; i < c->n_methods; i++)
        if (!strcmp(c->method[i].name, m->name))
            return err_set(err, "method %s is there twice", m->name);
    p = word(p, "|", part, sizeof part);
    trim(part);
    if (!p || !*part || strlen(part) >= sizeof m->text)
        return err_set(err, "method %s: no method after the name: NAME | METHOD", m->name);
    strcpy(m->text, part);
    // Options wait until the whole config is known.
    size_t used = 0;
    for (; (p = word(p, "|", part, sizeof part));) {
        char item[320];
        for (const char *q = part; (q = word(q, " \t", item, sizeof item));) {
            const char *dot = strchr(item, '.'), *equals = strchr(item, '=');
            if (!equals || !dot || dot > equals) {
                if (set_budget(m, item, err))
                    return -1;
                continue;
            }
            int n = snprintf(m->options + used, sizeof m->options - used, "%s%s", used ? " " : "",
                             item);
            if (n < 0 || used + (size_t)n >= sizeof m->options)
                return err_set(err, "method %s: too many options", m->name);
            used += (size_t)n;
        }
    }
    if (split_braces(m, err))
        return -1;
    c->n_methods++;
    return 0;
}

static int on_key(void *arg, int line, const char *name, const char *value, struct err *err)
{
    struct compare *c = arg;
    if (!strcmp(name, "method"))
        return add_method(c, line, value, err);
    if (!strcmp(name, "search"))
        return add_search(c, line, value, err);
    const struct opt *row = opt_find(compare_options, compare_option_count, name);
    if (!row) {
        struct opt_guess guess = {.text = name};
        opt_guess(&guess, "method");
        opt_guess(&guess, "search");
        for (int i = 0; i < compare_option_count; i++)
            opt_guess(&guess, compare_options[i].name);
        return err_set(err, "compare.%.60s: unknown key; %s%s%s", name,
                       guess.name ? "did you mean compare." : "'fstq compare --help' names them",
                       guess.name ? guess.name : "", guess.name ? "?" : "");
    }
    int *where = &c->line[row - compare_options];
    if (*where > 0 && line > 0)
        return err_set(err, "compare.%s is given twice, first in line %d; keep one", name, *where);
    *where = line;
    struct err why = {""};
    if (opt_set(row, &c->p, value, &why))
        return err_set(err, "compare.%s", why.text);
    return 0;
}

static int where(const struct compare *c, const char *name)
{
    return c->line[opt_find(compare_options, compare_option_count, name) - compare_options];
}

// Lists of numbers.

static int take_seeds(struct loader *l, const char *key, const char *list, int64_t *out)
{
    char item[32];
    int n = 0;
    for (const char *p = list; (p = word(p, " \t,", item, sizeof item));) {
        char *end;
        long long v = strtoll(item, &end, 10);
        bool twice = false;
        for (int i = 0; i < n; i++)
            twice |= out[i] == v;
        if (*end || v < 0 || v > 9007199254740992 || twice || n == COMPARE_SEEDS) {
            mistake(l, where(l->c, key), "compare.%s: '%s' %s", key, item,
                    twice                ? "is there twice"
                    : n == COMPARE_SEEDS ? "is one too many"
                                         : "is not a seed: a whole number from 0 on");
            return n;
        }
        out[n++] = v;
    }
    return n;
}

static int take_numbers(struct loader *l, const char *key, const char *list, double *out, int most)
{
    char item[32];
    int n = 0;
    for (const char *p = list; (p = word(p, " \t,", item, sizeof item));) {
        double v;
        if (!number(item, &v) || v <= 0 || n == most) {
            mistake(l, where(l->c, key), "compare.%s: '%s' %s", key, item,
                    n == most ? "is one too many" : "is not a number above 0");
            return n;
        }
        out[n++] = v;
    }
    return n;
}

static void check_seeds(struct loader *l)
{
    struct compare *c = l->c;
    c->n_seeds = take_seeds(l, "seeds", c->p.seeds, c->seed);
    c->n_search_seeds = take_seeds(l, "search_seeds", c->p.search_seeds, c->search_seed);
    if (c->n_seeds == 0)
        mistake(l, where(c, "seeds"), "compare.seeds: none; give at least one");
    if (c->n_dims && c->n_search_seeds == 0)
        mistake(l, where(c, "search_seeds"), "compare.search_seeds: none, but there is a search");
    for (int i = 0; i < c->n_search_seeds && c->n_dims; i++)
        for (int k = 0; k < c->n_seeds; k++)
            if (c->seed[k] == c->search_seed[i])
                mistake(l, where(c, "search_seeds"),
                        "compare.search_seeds: %lld is one of compare.seeds; what is tuned on a "
                        "seed is not tested on it",
                        (long long)c->seed[k]);
}

// Methods.

static int index_of(const struct compare *c, const char *name)
{
    for (int i = 0; i < c->n_methods; i++)
        if (!strcmp(c->method[i].name, name))
            return i;
    return -1;
}

static void unknown_method(struct loader *l, int line, const char *what, const char *name)
{
    struct opt_guess guess = {.text = name};
    for (int i = 0; i < l->c->n_methods; i++)
        opt_guess(&guess, l->c->method[i].name);
    mistake(l, line, "%s: there is no method named '%.60s'%s%s%s", what, name,
            guess.name ? "; did you mean " : "", guess.name ? guess.name : "",
            guess.name ? "?" : "");
}

static bool is_searched(const struct compare *c, const char *key)
{
    for (int i = 0; i < c->n_dims; i++)
        for (int k = 0; k < c->dim[i].n_keys; k++)
            if (!strcmp(c->dim[i].key[k], key))
                return true;
    return false;
}

// The options of a method over those of the config, its string with the lower end of its braces.
static void set_method(struct loader *l, struct compare_method *m)
{
    struct err err = {""};
    char item[320], text[600];
    m->cfg = l->c->cfg;
    for (const char *p = m->options; (p = word(p, " ", item, sizeof item));) {
        char *value = strchr(item, '=');
        *value++ = '\0';
        if (is_searched(l->c, item))
            mistake(l, m->line, "method %s: %s is searched for every method alike; remove it",
                    m->name, item);
        else if (!strcmp(item, "run.seed") || !strcmp(item, "fed.method"))
            mistake(l, m->line, "method %s: %s is not an option of a method here", m->name, item);
        else if (config_set(&m->cfg, item, value, &err))
            mistake(l, m->line, "method %s: %s", m->name, err.text);
    }
    if (m->budget)
        snprintf(text, sizeof text, "%s%.*g%s", m->head, m->whole ? 17 : 4, m->lo, m->tail);
    else
        snprintf(text, sizeof text, "%s", m->text);
    if (config_set(&m->cfg, "fed.method", text, &err) || config_check(&m->cfg, &err))
        mistake(l, m->line, "method %s: %s", m->name, err.text);
    m->tuned = m->cfg;
}

static void check_same(struct loader *l)
{
    struct compare *c = l->c;
    for (int i = 0; i < c->n_methods; i++) {
        const struct compare_method *m = &c->method[i];
        int steps = 0, at = i;
        while (at >= 0 && c->method[at].budget == BUDGET_SAME && steps++ <= c->n_methods)
            at = index_of(c, c->method[at].same);
        if (at < 0 && index_of(c, m->same) < 0)
            unknown_method(l, m->line, m->name, m->same);
        else if (steps > c->n_methods)
            mistake(l, m->line, "method %s: same=%s comes back to itself", m->name, m->same);
    }
}

static void check_dims(struct loader *l)
{
    struct compare *c = l->c;
    for (int i = 0; i < c->n_dims; i++)
        for (int v = 0; v < c->dim[i].n_values; v++) {
            struct config cfg = c->cfg;
            struct err err = {""};
            for (int k = 0; k < c->dim[i].n_keys; k++)
                if (config_set(&cfg, c->dim[i].key[k], c->dim[i].value[v][k], &err))
                    mistake(l, c->dim[i].line, "search: %s", err.text);
        }
}

// Leaves the methods of compare.only, the base, and those whose bytes are somebody's measure.
static void keep_only(struct loader *l)
{
    struct compare *c = l->c;
    char item[64];
    bool keep[COMPARE_METHODS] = {false};
    if (!*c->p.only)
        return;
    keep[c->base] = true;
    for (const char *p = c->p.only; (p = word(p, " \t,", item, sizeof item));) {
        int i = index_of(c, item);
        if (i < 0)
            unknown_method(l, where(c, "only"), "compare.only", item);
        else
            keep[i] = true;
        for (int steps = 0; i >= 0 && *c->method[i].same && steps < c->n_methods; steps++) {
            i = index_of(c, c->method[i].same);
            if (i >= 0)
                keep[i] = true;
        }
    }
    int n = 0, base = 0;
    for (int i = 0; i < c->n_methods; i++) {
        if (!keep[i])
            continue;
        if (i == c->base)
            base = n;
        if (n != i)
            c->method[n] = c->method[i];
        n++;
    }
    c->n_methods = n;
    c->base = base;
}

static void default_dir(struct compare *c)
{
    const char *slash = strrchr(c->path, '/'), *name = slash ? slash + 1 : c->path;
    size_t n = strcspn(name, ".");
    snprintf(c->p.dir, sizeof c->p.dir, "runs/%.*s", (int)(n < 160 ? n : 160), name);
}

int compare_load(struct compare *c, const char *path, int n_overrides, char *const *overrides)
{
    memset(c, 0, sizeof *c);
    c->path = path;
    c->method = mem_alloc(MEM_OTHER, COMPARE_METHODS * sizeof *c->method);
    opt_defaults(compare_options, compare_option_count, &c->p);
    struct loader l = {.c = c, .mistakes.loud = config_is_mouthpiece()};
    struct config_extra extra = {on_key, c};
    int mistakes = config_load_extra(&c->cfg, path, n_overrides, overrides, &extra);
    if (mistakes)
        return mistakes;
    if (!c->n_methods)
        mistake(&l, 0, "[compare] names no methods: method = NAME | METHOD");
    check_seeds(&l);
    c->n_targets = take_numbers(&l, "targets", c->p.targets, c->target, COMPARE_TARGETS);
    c->n_at = take_numbers(&l, "bytes_at", c->p.bytes_at, c->at_bytes, COMPARE_AT);
    c->base = *c->p.base ? index_of(c, c->p.base) : 0;
    if (c->base < 0) {
        unknown_method(&l, where(c, "base"), "compare.base", c->p.base);
        c->base = 0;
    }
    check_dims(&l);
    check_same(&l);
    for (int i = 0; i < c->n_methods; i++)
        set_method(&l, &c->method[i]);
    keep_only(&l);
    bool down =
        !strcmp(c->p.score, "loss") || !strcmp(c->p.score, "error") ||
        (!strcmp(c->p.score, "score") && !strcmp(task_table[c->cfg.task.name]->name, "quadratic"));
    c->higher = c->p.better == BETTER_AUTO ? !down : c->p.better == BETTER_HIGHER;
    if (!*c->p.dir)
        default_dir(c);
    return mistakes_end(&l.mistakes);
}

void compare_free(struct compare *c)
{
    for (int i = 0; i < c->n_methods; i++)
        mem_free(c->method[i].tried);
    mem_free(c->method);
}
