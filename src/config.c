#include "config.h"

#include "dev/dev.h"

#include "base/fsio.h"
#include "base/mem.h"
#include "fed/backbones.h"
#include "fed/method.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

static const char *const slots_modes[] = {"strict", "lose", NULL}; // RUN_SLOTS_*

static const struct opt run_options[] = {
    OPT(struct run_params, seed, "run.seed", "1", 0, 9007199254740992.0, "",
        "every random choice of a run follows from it"),
    OPT_STRING(struct run_params, dir, "run.dir", "",
               "for checkpoints, client state and the run's lock; empty = no checkpoints"),
    OPT(struct run_params, resume, "run.resume", "off", 0, 0, "",
        "continue from the newest sound checkpoint in run.dir"),
    OPT_ENUM(struct run_params, slots, "run.slots", "strict", slots_modes,
             "a resumed run that misses the state of clients: strict ends it, lose begins these "
             "clients anew and says so in the verdict"),
};
static const int run_option_count = ARRAY_LEN(run_options);

// auto, then the rows of dev_table.
static const char *dev_kind_name(int32_t i)
{
    return i == 0 ? "auto" : dev_table[i - 1] ? dev_table[i - 1]->name : NULL;
}

static const struct opt dev_options[] = {
    OPT_ROW(struct dev_params_cfg, kind, "dev.kind", "auto", dev_kind_name,
            "who computes; auto takes a GPU where the build and the machine have one, ref is the "
            "plain reference, slow"),
    OPT(struct dev_params_cfg, threads, "dev.threads", "0", 0, 1024, "",
        "threads per rank; 0 = cores / ranks that compute on the node"),
    OPT_ENUM(
        struct dev_params_cfg, math, "dev.math", "fp32", dev_math_names,
        "products with weights; bf16 rounds both sides and sums in fp32, faster with AVX-512 "
        "BF16; on GPUs activations are bf16, or fp16, too; fp16, tf32: GPUs alone; int8: fstq "
        "infer and score alone, by weights held as blocks (NF4 to 127ths); sums, losses, adapters "
        "and on the CPU all else stay in fp32"),
    OPT_ENUM(struct dev_params_cfg, buffers, "dev.buffers", "device", dev_buffer_names,
             "where arrays lie that host and GPU look at: the GPU's memory, with pinned memory for "
             "copies; or, where a GPU shares the CPU's, mapped or managed, without copies"),
    OPT(struct dev_params_cfg, clients, "dev.clients", "0", 0, 1024, "",
        "clients that a rank trains at once; 0 = as many as 256 MiB or a quarter of the free "
        "memory hold"),
};
static const int dev_option_count = ARRAY_LEN(dev_options);

const struct config_section config_sections[] = {
    {"task", task_options, &task_option_count, offsetof(struct config, task)},
    {"model", model_options, &model_option_count, offsetof(struct config, model)},
    {"optim", optim_options, &optim_option_count, offsetof(struct config, optim)},
    {"fed", fed_options, &fed_option_count, offsetof(struct config, fed)},
    {"fisher", fisher_options, &fisher_option_count, offsetof(struct config, fisher)},
    {"client", client_options, &client_option_count, offsetof(struct config, client)},
    {"net", net_options, &net_option_count, offsetof(struct config, net)},
    {"dev", dev_options, &dev_option_count, offsetof(struct config, dev)},
    {"pretrain", pretrain_options, &pretrain_option_count, offsetof(struct config, pretrain)},
    {"infer", infer_options, &infer_option_count, offsetof(struct config, infer)},
    {"trace", trace_options, &trace_option_count, offsetof(struct config, trace)},
    {"run", run_options, &run_option_count, offsetof(struct config, run)},
};
const int config_section_count = ARRAY_LEN(config_sections);

// auto takes a GPU where the build has the column and the machine has one.
int32_t config_dev_kind(const struct config *c)
{
    struct err err;
    if (c->dev.kind > 0 && dev_usable(c->dev.kind - 1, &err))
        die(STATUS_ENV, "%s", err.text);
    if (c->dev.kind > 0)
        return c->dev.kind - 1;
    for (int32_t i = 0; dev_table[i]; i++)
        if (!dev_table[i]->host && dev_usable(i, &err) == 0)
            return i;
    return 0;
}

bool config_is_mouthpiece(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *rank = getenv(names[i]);
        if (rank)
            return atoi(rank) == 0;
    }
    return true;
}

const struct opt *config_find(const char *name, const struct config_section **section)
{
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        const struct opt *row = opt_find(s->rows, *s->n, name);
        if (row) {
            if (section)
                *section = s;
            return row;
        }
    }
    return NULL;
}

void config_defaults(struct config *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        opt_defaults(s->rows, *s->n, (char *)c + s->offset);
    }
}

// What to say about a name that is not there.

static const struct config_section *find_section(const char *name)
{
    for (int i = 0; i < config_section_count; i++)
        if (!strcmp(config_sections[i].name, name))
            return &config_sections[i];
    return NULL;
}

static const char *nearest_section(const char *name)
{
    struct opt_guess guess = {.text = name};
    for (int i = 0; i < config_section_count; i++)
        opt_guess(&guess, config_sections[i].name);
    return guess.name;
}

// The name one edit away, else that whose key is right, in the nearest section, else the nearest
// one.
static const char *nearest_key(const char *name)
{
    const char *dot = strchr(name, '.'), *key = dot ? dot + 1 : name, *elsewhere = NULL;
    char section[32];
    int best = 0;
    snprintf(section, sizeof section, "%.*s", (int)(dot ? dot - name : 0), name);
    struct opt_guess guess = {.text = name};
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        for (int k = 0; k < *s->n; k++) {
            const char *full = s->rows[k].name;
            opt_guess(&guess, full);
            if (strcmp(strchr(full, '.') + 1, key) != 0)
                continue;
            int distance = opt_distance(section, s->name);
            if (!elsewhere || distance < best) {
                elsewhere = full;
                best = distance;
            }
        }
    }
    return elsewhere && !(guess.name && guess.distance <= 1) ? elsewhere : guess.name;
}

static int set_by_name(struct config *c, const char *name, const char *value, struct err *err)
{
    const struct config_section *section;
    const struct opt *row = config_find(name, &section);
    if (row)
        return opt_set(row, (char *)c + section->offset, value, err);
    if (strncmp(name, "compare.", 8) == 0)
        return err_set(err, "%.80s: only fstq compare takes the keys of [compare]", name);
    const char *near = nearest_key(name);
    if (near)
        return err_set(err, "%.80s: unknown key; did you mean %s?", name, near);
    return err_set(err, "%.80s: unknown key; 'fstq list options' prints them all", name);
}

enum { MISTAKES_SAID = 20 };

void mistakes_add(struct mistakes *m, const char *path, int where, const char *fmt, va_list args)
{
    if (++m->n > MISTAKES_SAID || !m->loud)
        return;
    if (where > 0)
        fprintf(stderr, "%s:%d: ", path, where);
    else if (where < 0)
        fprintf(stderr, "%s: argument %d: ", path ? path : "fstq", -where);
    else
        fprintf(stderr, "%s: ", path ? path : "fstq");
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
}

int mistakes_end(const struct mistakes *m)
{
    if (m->loud && m->n > MISTAKES_SAID)
        fprintf(stderr, "fstq: and %d more mistakes; mend these first\n", m->n - MISTAKES_SAID);
    return m->n;
}

// The file.

enum { CONFIG_MAX_BYTES = 1 << 20, CONFIG_MAX_KEYS = 512, SECTION_MAX = 32 };

struct source {
    struct config *c;
    const char *path, *text; // NUL-terminated
    size_t pos;
    int line; // -n = argument n
    struct mistakes mistakes;
    bool pending; // the line was handed to inih and has not come back as key = value
    char section[SECTION_MAX];
    bool section_known;
    const struct config_extra *extra; // a section of somebody else's, or NULL
    int where[CONFIG_MAX_KEYS]; // a key's line, or -n for argument n; by its place in the tables
};

static void mistake(struct source *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void mistake(struct source *s, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    mistakes_add(&s->mistakes, s->path, s->line, fmt, args);
    va_end(args);
}

// inih neither names unknown sections without keys nor minds what follows the bracket.
static void enter_section(struct source *s, const char *line)
{
    const char *end = strchr(line, ']');
    s->section_known = false; // its keys are not worth a mistake each
    strcpy(s->section, "?");
    if (!end) {
        mistake(s, "'%.40s': a section without its closing bracket", line);
        return;
    }
    size_t n = (size_t)(end - line - 1);
    if (n >= sizeof s->section) {
        mistake(s, "[%.31s...]: unknown section", line + 1);
        return;
    }
    memcpy(s->section, line + 1, n);
    s->section[n] = '\0';
    if (!strcmp(s->section, CONFIG_COMPARE)) {
        s->section_known = true;
        return;
    }
    const char *rest = end + 1 + strspn(end + 1, " \t");
    if (*rest && *rest != ';' && *rest != '#')
        mistake(s, "[%s] is followed by '%.40s'; put that on a line of its own", s->section, rest);
    s->section_known = find_section(s->section) != NULL;
    if (s->section_known)
        return;
    const char *near = nearest_section(s->section);
    if (near)
        mistake(s, "[%s]: unknown section; did you mean [%s]?", s->section, near);
    else
        mistake(s, "[%s]: unknown section; 'fstq list options' prints them all", s->section);
}

static void finish_line(struct source *s, const char *line)
{
    if (s->pending)
        mistake(s, "'%.60s': not 'key = value'; a value takes one line, a comment begins with #",
                line);
    s->pending = false;
}

// A key of [compare]: its lines are longer than inih takes, and some of its keys come often.
static void extra_line(struct source *s, char *line)
{
    struct err err = {""};
    char *value = strchr(line, '=');
    if (!*line || *line == '#' || *line == ';' || !s->extra)
        return;
    if (!value || value == line) {
        mistake(s, "'%.60s': not 'key = value'; a value takes one line, a comment begins with #",
                line);
        return;
    }
    char *end = value++;
    while (end > line && isspace((unsigned char)end[-1]))
        end--;
    *end = '\0';
    value += strspn(value, " \t");
    if (s->extra->key(s->extra->arg, s->line, line, value, &err))
        mistake(s, "%s", err.text);
}

// inih's reader. It counts lines, which inih does not tell its handler, and refuses a line that
// inih would cut in two. Indentation is dropped: inih takes an indented line for more of the value
// above, and no parameter takes a value of several lines.
static char *read_line(char *out, int size, void *arg)
{
    struct source *s = arg;
    const char *line = s->text + s->pos;
    if (s->line) {
        const char *last = line - 1; // back to the start of the line that was handed out before
        while (last > s->text && last[-1] != '\n')
            last--;
        char shown[64];
        snprintf(shown, sizeof shown, "%.*s", (int)strcspn(last, "\r\n"), last);
        finish_line(s, shown + strspn(shown, " \t"));
    }
    if (!*line)
        return NULL;
    size_t n = strcspn(line, "\n");
    s->pos += n + (line[n] == '\n');
    s->line++;
    while (n && isspace((unsigned char)line[n - 1]))
        n--;
    while (n && isspace((unsigned char)*line)) {
        line++;
        n--;
    }
    if (*line != '[' && !strcmp(s->section, CONFIG_COMPARE)) {
        char *copy = mem_alloc(MEM_OTHER, n + 1);
        memcpy(copy, line, n);
        extra_line(s, copy);
        mem_free(copy);
        n = 0;
    }
    if (n + 2 > (size_t)size) {
        mistake(s, "%zu characters in one line; at most %d", n, size - 2);
        n = 0;
    }
    memcpy(out, line, n);
    out[n] = '\0';
    if (*out == '[') {
        enter_section(s, out);
        n = 0;
    }
    s->pending = n && *out != '#' && *out != ';';
    memcpy(out + n, "\n", 2);
    return out;
}

static int place_of(const struct opt *row)
{
    int place = 0;
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        if (row >= s->rows && row < s->rows + *s->n)
            return place + (int)(row - s->rows);
        place += *s->n;
    }
    return place;
}

static int on_key(void *arg, const char *inih_section, const char *name, const char *value)
{
    (void)inih_section; // cut at 50 letters; ours is whole
    struct source *s = arg;
    s->pending = false;
    if (s->section[0] && !s->section_known)
        return 1; // said once, at its head
    char full[256];
    snprintf(full, sizeof full, "%s%s%s", s->section, s->section[0] ? "." : "", name);

    const struct opt *row = config_find(full, NULL);
    if (row) {
        int place = place_of(row);
        assert(place < CONFIG_MAX_KEYS);
        if (s->where[place]) {
            mistake(s, "%s is given twice, first in line %d; keep one", full, s->where[place]);
            return 1;
        }
        s->where[place] = s->line;
    }
    size_t n = strlen(value);
    struct err err = {""};
    if (strstr(value, " #") || strstr(value, "\t#"))
        mistake(s, "%s = %.80s: a comment behind a value begins with ' ;'", full, value);
    else if (n > 1 && (value[0] == '"' || value[0] == '\'') && value[n - 1] == value[0])
        mistake(s, "%s = %.80s: values are written without quotes", full, value);
    else if (set_by_name(s->c, full, value, &err))
        mistake(s, "%s", err.text);
    return 1;
}

static void load_file(struct source *s)
{
    struct stat st;
    struct err err = {""};
    if (strlen(s->path) >= sizeof s->c->path) {
        mistake(s, "a path of %zu bytes; at most %zu", strlen(s->path), sizeof s->c->path - 1);
        return;
    }
    strcpy(s->c->path, s->path);
    if (stat(s->path, &st)) {
        if (!s->mistakes.loud && errno == ENOENT)
            return; // a host without the file: rank 0 sends what it has read
        bool flag = s->path[0] == '-';
        mistake(s, "%s%s",
                flag ? "no such option (see --help); parameters are written section.key=value"
                     : strerror(errno),
                !flag && strchr(s->path, '=') ? "; overrides come after the config file" : "");
        return;
    }
    if (!S_ISREG(st.st_mode)) {
        mistake(s, "%s; a config is a text file",
                S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
        return;
    }
    uint8_t *bytes;
    size_t n;
    if (fsio_read(s->path, CONFIG_MAX_BYTES, MEM_OTHER, &bytes, &n, &err)) {
        mistake(s, "%s", err.text);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        s->line += i == 0 || bytes[i - 1] == '\n';
        if (iscntrl(bytes[i]) && !isspace(bytes[i])) {
            mistake(s, "not a text file: byte %zu has code %d", i + 1, bytes[i]);
            mem_free(bytes);
            return;
        }
    }
    s->line = 0;
    size_t bom = n >= 3 && !memcmp(bytes, "\xef\xbb\xbf", 3) ? 3 : 0;
    s->text = (const char *)bytes + bom;
    ini_parse_stream(read_line, s, on_key, s);
    s->line = 0;
    mem_free(bytes);
}

static void load_override(struct source *s, int n, const char *text)
{
    char name[128];
    const char *equals = strchr(text, '=');
    struct err err = {""};
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof name) {
        mistake(s, "argument %d (%.80s): not section.key=value%s", n, text,
                !equals && !s->c->path[0] ? "; a config file comes first" : "");
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    size_t prefix = strlen(CONFIG_COMPARE);
    if (s->extra && !strncmp(name, CONFIG_COMPARE, prefix) && name[prefix] == '.') {
        if (s->extra->key(s->extra->arg, -n, name + prefix + 1, equals + 1, &err))
            mistake(s, "argument %d (%.80s): %s", n, text, err.text);
        return;
    }
    const struct opt *row = config_find(name, NULL);
    if (row)
        s->where[place_of(row)] = -n;
    if (set_by_name(s->c, name, equals + 1, &err))
        mistake(s, "argument %d (%.80s): %s", n, text, err.text);
}

static int check_fed(const struct config *c, struct err *err)
{
    return fed_check(&c->fed, err) || client_check(&c->client, err) ? -1 : 0;
}

static int check_model(const struct config *c, struct err *err)
{
    struct backbones b;
    return backbones_parse(&c->model, &b, err);
}

static int check_method(const struct config *c, struct err *err)
{
    struct err why = {""};
    if (!method_check(c->fed.method, &why))
        return 0;
    if (!strncmp(why.text, "fed.method", 10))
        return err_set(err, "%s", why.text);
    return err_set(err, "fed.method = %.120s: %.380s", c->fed.method, why.text);
}

static int check_net(const struct config *c, struct err *err)
{
    return net_check(&c->net, err);
}

// A device that is not there is no mistake in a file: config_dev_kind says what is missing.
static int check_dev(const struct config *c, struct err *err)
{
    const struct task_row *task = task_table[c->task.name];
    const struct dev_row *dev = c->dev.kind > 0 ? dev_table[c->dev.kind - 1] : NULL;
    if (!dev || dev->host || !task->numeric || dev_usable(c->dev.kind - 1, NULL))
        return 0;
    return err_set(err,
                   "dev.kind = %s: task.name = %s has no kernels and computes on the CPU; use "
                   "dev.kind = auto or cpu",
                   dev->name, task->name);
}

static int check_run(const struct config *c, struct err *err)
{
    if (!c->run.resume || *c->run.dir)
        return 0;
    return err_set(err,
                   "run.resume = on: run.dir is empty; name the directory of the run that is to "
                   "go on");
}

static int (*const checks[])(const struct config *, struct err *) = {
    check_fed, check_model, check_method, check_net, check_dev, check_run};

int config_check(const struct config *c, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(checks); i++)
        if (checks[i](c, err))
            return -1;
    return 0;
}

int config_set(struct config *c, const char *name, const char *value, struct err *err)
{
    return set_by_name(c, name, value, err);
}

// Values that are right one by one and wrong together. What is wrong begins with the name of a
// parameter, which tells where it was set.
static void check_together(struct source *s)
{
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        struct err err = {""};
        char name[128];
        if (!checks[i](s->c, &err))
            continue;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(err.text, " :"), err.text);
        const struct opt *row = config_find(name, NULL);
        int where = row ? s->where[place_of(row)] : 0;
        s->line = where;
        mistake(s, "%s", err.text);
    }
}

int config_load(struct config *c, const char *path, int n_overrides, char *const *overrides)
{
    return config_load_extra(c, path, n_overrides, overrides, NULL);
}

int config_load_extra(struct config *c, const char *path, int n_overrides, char *const *overrides,
                      const struct config_extra *extra)
{
    config_defaults(c);
    struct source s = {.c = c, .path = path, .extra = extra};
    s.mistakes.loud = config_is_mouthpiece();
    if (path)
        load_file(&s);
    s.path = NULL;
    for (int i = 0; i < n_overrides; i++)
        load_override(&s, i + 1, overrides[i]);
    s.path = path;
    check_together(&s);
    return mistakes_end(&s.mistakes);
}

void config_each(const struct config *c,
                 void (*fn)(void *arg, const struct opt *row, const char *value), void *arg)
{
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        for (int k = 0; k < *s->n; k++) {
            char value[1024];
            opt_format(&s->rows[k], (const char *)c + s->offset, value, sizeof value);
            fn(arg, &s->rows[k], value);
        }
    }
}

struct text {
    char *bytes;
    size_t cap, used;
    const char *section; // of the line before
    size_t section_len;
};

static void add_line(void *arg, const struct opt *row, const char *value)
{
    struct text *t = arg;
    const char *dot = strchr(row->name, '.');
    size_t n = (size_t)(dot - row->name);
    size_t most = strlen(row->name) + strlen(value) + n + 16;
    if (t->used + most > t->cap) {
        size_t cap = 2 * (t->cap + most);
        char *bytes = mem_alloc(MEM_OTHER, cap);
        if (t->bytes)
            memcpy(bytes, t->bytes, t->used);
        mem_free(t->bytes);
        t->bytes = bytes;
        t->cap = cap;
    }
    char *out = t->bytes + t->used;
    if (!t->section || t->section_len != n || memcmp(t->section, row->name, n))
        out += sprintf(out, "%s[%.*s]\n", t->section ? "\n" : "", (int)n, row->name);
    out += sprintf(out, "%s =%s%s\n", dot + 1, *value ? " " : "", value);
    t->section = row->name;
    t->section_len = n;
    t->used = (size_t)(out - t->bytes);
}

char *config_text(const struct config *c)
{
    struct text t = {0};
    config_each(c, add_line, &t);
    return t.bytes;
}

// Reads what config_text wrote, nothing looser: inih's limit on lines does not hold here.
int config_apply_text(struct config *c, const char *text, struct err *err)
{
    char section[SECTION_MAX] = "", line[1200], name[1200 + SECTION_MAX + 1];
    config_defaults(c);
    for (const char *p = text; *p; p += *p == '\n') {
        size_t n = strcspn(p, "\n");
        if (n >= sizeof line)
            return err_set(err, "config text: a line of %zu bytes", n);
        memcpy(line, p, n);
        line[n] = '\0';
        p += n;
        if (!n)
            continue;
        if (line[0] == '[' && line[n - 1] == ']' && n - 2 < sizeof section) {
            line[n - 1] = '\0';
            strcpy(section, line + 1);
            continue;
        }
        char *value = strstr(line, " =");
        if (!value)
            return err_set(err, "config text: '%.60s' is not 'key = value'", line);
        *value = '\0';
        value += 2 + (value[2] == ' ');
        snprintf(name, sizeof name, "%s.%s", section, line);
        if (set_by_name(c, name, value, err))
            return -1;
    }
    return 0;
}

static bool decides_result(const char *name)
{
    static const char *const not_these[] = {"run.dir", "run.resume", "run.slots", "dev.threads",
                                            "dev.clients"};
    for (size_t i = 0; i < ARRAY_LEN(not_these); i++)
        if (!strcmp(name, not_these[i]))
            return false;
    return strncmp(name, "trace.", 6) != 0 && strncmp(name, "infer.", 6) != 0;
}

static void hash_line(void *arg, const struct opt *row, const char *value)
{
    if (!decides_result(row->name))
        return;
    // With their NULs, so that no two lists of names and values look alike.
    XXH3_64bits_update(arg, row->name, strlen(row->name) + 1);
    XXH3_64bits_update(arg, value, strlen(value) + 1);
}

uint64_t config_hash(const struct config *c)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        die(STATUS_ENV, "no memory for a hash");
    XXH3_64bits_reset(state);
    config_each(c, hash_line, state);
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}
