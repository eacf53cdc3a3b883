#include "fed/method.h"

#include "base/mem.h"
#include "base/opt.h"

#include <stdio.h>
#include <string.h>

const struct method_alias method_aliases[] = {
    {"fedavg", "fedavg/fp32", "the dense reference"},
    {"noop", "noop/raw", "the floor: no training, no compression"},
    {"fstq", "fedavg/fstq", "Fed-FSTQ, the best measured: the codec's defaults"},
    {"fstq-paper",
     "fedavg~fisher:keep=0.5,every=10,rho=0.9,key=position,gate=on,loss=sum/fstq-paper",
     "Fed-FSTQ as it is written, token mask and all"},
    {"fedpaq", "fedavg/fedpaq", "QSGD after several local steps"},
    {"ffa-lora", "fedavg/B@fp32", "A frozen: half the bytes, and means are exact"},
    {"fed-sb", "fedavg/R@fp32",
     "rank x rank values per matrix, means are exact; A and B are random"},
    {"rolora", "fedavg/alt@fp32", "B and A by turns, so that means are exact"},
    {"ssf", "scaffold:control=replace/sub@fp32",
     "Subspace-SCAFFOLD with random coordinates: a fifth of the rows or columns per round; with "
     "fed.downlink = fp32 who sat out is sent the subspaces' changes since"},
    {"diloco", "fedavgm:nesterov=on/fp32", "its outer optimiser; it takes fed.server_lr = 0.7"},
    {"sparseloco",
     "fedavgm:nesterov=on/cocktail:sample=1,ratio=0.02,chunk=4096,bits=2+ef:decay=0.95",
     "2 % of every 4096 values in 2 bits, a decaying residual, Nesterov outside; chunks are 4096 "
     "values in a row, the paper's are squares of 64"},
    {"flasc", "fedadam/topk:ratio=0.25",
     "sparse both ways; it takes fed.downlink = topk:ratio=0.25 and fed.downlink_of = version"},
    {"fedsa-lora", "fedsa/A@fp32",
     "B stays with its client, who has a model of its own: it takes fed.evaluate = personal"},
    {"haflq", "haflq/fstq:upload_s=1",
     "clients of small rank train the terms that matter most, in as many bits as their link "
     "carries in upload_s; it takes fed.ranks, and fed.ranks_rest = frozen"},
    {"fedsub", "scaffold:control=incr,backfill=off/sub:parts=5,stay=5@fp32",
     "FedSub as far as subspaces of one drawing go, which have nothing in common: its dual "
     "variables do not outlive one"},
    {"streaming-diloco", NULL,
     "overlaps outer steps with training: rounds here end before the next begins"},
    {"fedkseed", NULL,
     "steps of zeroth order, whose seeds travel: fwdllm takes such steps, and sends updates"},
    {"ecolora", "fedavg/seg@ecolora",
     "one segment per client and round, shares by the training loss"},
    // Fed-ToMe is one sentence in Fed-FSTQ's list of baselines: "attention-driven token
    // merging/pruning adapted to federated PEFT".
    {"tome-as-reported", "fedavg/fp16",
     "Fed-ToMe by its reported half of the dense bytes: not derivable, fp16 has as many"},
    {"tome-prune", "fedavg~attention:keep=0.5/fp32",
     "Fed-ToMe's pruning: half the tokens by attention received shape the loss; bytes as fedavg"},
    {"tome-train", "fedavg~tome/fp32",
     "Fed-ToMe's merging in local training: prompts get shorter, bytes are fedavg's"},
    {"tome-act", "split~tome/fp16",
     "Fed-ToMe's merged activations instead of updates: split learning, labels leave the client"},
    {NULL, NULL, NULL},
};

// Copies the piece of text before any of the stop characters; returns what follows it.
static const char *piece(const char *text, const char *stops, char *out, size_t size,
                         struct err *err)
{
    size_t n = strcspn(text, stops);
    if (n >= size) {
        err_set(err, "method: '%.40s...' is too long", text);
        return NULL;
    }
    memcpy(out, text, n);
    out[n] = '\0';
    return text + n;
}

// Every option by name, after the text so far.
static void expand_options(struct method *m, const struct opt *rows, int n, const void *values)
{
    size_t at = strlen(m->text);
    for (int i = 0; i < n && at < sizeof m->text; i++) {
        char value[64];
        opt_format(&rows[i], values, value, sizeof value);
        at += (size_t)snprintf(m->text + at, sizeof m->text - at, "%c%s=%s", i ? ',' : ':',
                               rows[i].name, value);
    }
}

static const char *scheme_name(int32_t i)
{
    return scheme_table[i] ? scheme_table[i]->name : NULL;
}

static const char *token_name(int32_t i)
{
    return token_table[i] ? token_table[i]->name : NULL;
}

static int parse_scheme(struct method *m, const char *spec, struct err *err)
{
    char name[64], tail[512];
    const char *opts = piece(spec, ":", name, sizeof name, err);
    if (!opts)
        return -1;
    m->scheme = scheme_find(name);
    if (!m->scheme) {
        return err_set(err, "fed.method: no scheme '%s'%s", name,
                       opt_choices(name, scheme_name, tail, sizeof tail));
    }
    const struct scheme *s = m->scheme;
    snprintf(m->text, sizeof m->text, "%s", s->name);
    m->form = s->form_bytes ? mem_alloc(MEM_OTHER, s->form_bytes) : NULL;
    if (*opts == ':' && s->n_options == 0)
        return err_set(err, "fed.method: scheme '%s' takes no options, but '%s' follows it",
                       s->name, opts);
    if (s->option_bytes) {
        m->scheme_opt = mem_alloc(MEM_SERVER, s->option_bytes);
        opt_defaults(s->options, s->n_options, m->scheme_opt);
        if (*opts == ':' && opt_set_list(s->options, s->n_options, m->scheme_opt, opts + 1, err))
            return -1;
        expand_options(m, s->options, s->n_options, m->scheme_opt);
    }
    return 0;
}

static int parse_tokens(struct method *m, const char *spec, struct err *err)
{
    char name[64], tail[400];
    opt_defaults(token_options, token_option_count, &m->token_opt);
    m->tokens = token_table[0];
    if (!*spec)
        return 0;
    const char *opts = piece(spec, ":", name, sizeof name, err);
    if (!opts)
        return -1;
    m->tokens = token_find(name);
    if (m->tokens && *opts == ':' && m->tokens->n_options == 0)
        return err_set(err, "fed.method: token source '%s' takes no options, but '%s' follows it",
                       name, opts);
    if (m->tokens)
        return *opts != ':' ? 0
                            : opt_set_list(m->tokens->options, m->tokens->n_options, &m->token_opt,
                                           opts + 1, err);
    return err_set(err, "fed.method: no token source '%s'%s", name,
                   opt_choices(name, token_name, tail, sizeof tail));
}

enum { CODECS = FED_VECTORS + 2 };

// The codecs of a frame's vectors and of what is said, one after another; those that are not named
// are fp32.
static int split_codecs(const struct scheme *s, char *text, const char **codec, struct err *err)
{
    int n = scheme_vectors(s) + (s->talk ? 2 : 0), given = 0;
    for (int k = 0; k < CODECS; k++)
        codec[k] = "fp32";
    for (char *next = text; next; given++) {
        char *end = strchr(next, ';');
        if (given == n)
            return err_set(err,
                           "fed.method: scheme '%s' sends %d vector%s, so '%.40s' is one codec "
                           "too many",
                           s->name, n, n > 1 ? "s" : "", next);
        codec[given] = next;
        next = end ? end + 1 : NULL;
        if (end)
            *end = '\0';
    }
    return 0;
}

// Written out, as they would be for rows of some width.
static int expand_said(struct method *m, const char *const *codec, struct err *err)
{
    struct shape rows;
    int rc = 0;
    shape_init(&rows);
    shape_add(&rows, "rows", 64, 64, SHAPE_OTHER);
    shape_seal(&rows);
    for (int k = 0; k < 2 && m->scheme->talk && rc == 0; k++) {
        struct codec_inst *c = codec_open(codec[k], &rows, err);
        rc = c ? 0 : -1;
        if (c)
            snprintf(m->said[k], sizeof m->said[k], "%s", c->text);
        codec_close(c);
    }
    shape_free(&rows);
    return rc;
}

// The view, which may be the scheme's to name.
static int name_view(const struct method *m, char *name, size_t size, struct err *err)
{
    char own[96];
    if (!m->scheme->view)
        return 0;
    m->scheme->view(m->scheme_opt, own, sizeof own);
    if (*name && strcmp(name, own) != 0)
        return err_set(err,
                       "fed.method: with these options the view of scheme %s is %s; leave "
                       "'%.40s@' out",
                       m->scheme->name, own, name);
    snprintf(name, size, "%s", own);
    return 0;
}

// "[VIEW[:opts]@]CODEC[;CODEC...]": a codec's text has neither '@' nor ';'.
static int parse_view(struct method *m, const char *spec, const struct shape *shape,
                      struct err *err)
{
    char name[96] = "", codecs[1024];
    const char *at = strchr(spec, '@'), *codec[CODECS];
    const int n = scheme_vectors(m->scheme);
    if (at && !piece(spec, "@", name, sizeof name, err))
        return -1;
    snprintf(codecs, sizeof codecs, "%s", at ? at + 1 : spec);
    if (split_codecs(m->scheme, codecs, codec, err) || name_view(m, name, sizeof name, err) ||
        view_open(&m->view, name, codec, n, shape, err) || expand_said(m, codec + n, err))
        return -1;
    m->codec = m->view.part[0].vector[0].codec;
    for (int k = 1; k < m->view.n_vectors; k++) {
        const struct codec_inst *c = m->view.part[0].vector[k].codec;
        if (codec_needs(c) & CODEC_OWN_AGG || codec_upload_s(c) > 0)
            return err_set(err,
                           "fed.method: %s of scheme %s is no update: take a codec without an "
                           "aggregation of its own and without upload_s",
                           m->scheme->up[k - 1].name, m->scheme->name);
    }
    return 0;
}

// The alias that a text begins with, before any options and wrappers.
static const struct method_alias *find_alias(const char *text)
{
    size_t n = strcspn(text, ":+;");
    for (const struct method_alias *a = method_aliases; a->name; a++)
        if (strlen(a->name) == n && strncmp(a->name, text, n) == 0)
            return a;
    return NULL;
}

static int no_slash(const char *text, struct err *err)
{
    struct opt_guess guess = {.text = text};
    for (const struct method_alias *a = method_aliases; a->name; a++)
        opt_guess(&guess, a->name);
    return err_set(err,
                   "fed.method = '%s': no '/'; a method is SCHEME/CODEC, as in fedavg/fp32, or a "
                   "short name%s%s",
                   text, guess.name ? "; did you mean " : "", guess.name ? guess.name : "");
}

// Puts a short name's expansion in place of it. Alone it is a method, to which options and wrappers
// of the codec can be added; after a scheme it is the codec, and brings its tokens where none are
// named.
static int expand(const char *text, char *out, size_t size, struct err *err)
{
    const struct method_alias *a = find_alias(text);
    const char *slash = strchr(text, '/'), *tokens = "";
    int n, tokens_len = 0;
    if (a && !a->expansion)
        return err_set(err, "fed.method = %s does not run: %s", a->name, a->help);
    if (a && (!text[strlen(a->name)] || !scheme_find(a->name))) { // fedavg:... begins with a scheme
        n = snprintf(out, size, "%s%s", a->expansion, text + strlen(a->name));
    } else if (!slash) {
        return no_slash(text, err);
    } else {
        const char *view = strchr(slash, '@');
        a = find_alias(view ? view + 1 : slash + 1);
        if (a && a->expansion && !memchr(text, '~', (size_t)(slash - text))) {
            tokens = a->expansion + strcspn(a->expansion, "~/");
            tokens_len = (int)strcspn(tokens, "/");
        }
        n = snprintf(out, size, "%.*s%.*s%s", (int)(slash - text), text, tokens_len, tokens, slash);
    }
    if (n < 0 || (size_t)n >= size)
        return err_set(err, "fed.method: '%.40s...' is too long", text);
    return 0;
}

// A sign with nothing to it is a slip: whatever was meant there is missing, not left to a default.
static int check_signs(const char *text, struct err *err)
{
    if (strstr(text, "~/"))
        return err_set(err, "fed.method = %.120s: '~' names no token source; remove it or add one",
                       text);
    if (strstr(text, "/@"))
        return err_set(err, "fed.method = %.120s: '@' has no view before it; remove it or add one",
                       text);
    for (const char *at = text; (at = strchr(at, ':'));)
        if (strchr("/~@+", *++at)) // or the end
            return err_set(err, "fed.method = %.120s: no options behind ':'; remove it or add some",
                           text);
    return 0;
}

int method_open(struct method *m, const char *text, const struct shape *shape, struct err *err)
{
    char full[1024], left[256], scheme[256], tokens[256];
    memset(m, 0, sizeof *m);
    if (expand(text, full, sizeof full, err) || check_signs(full, err))
        return -1;
    if (!piece(full, "/", left, sizeof left, err))
        return -1;
    const char *slash = strchr(full, '/');
    const char *tilde = piece(left, "~", scheme, sizeof scheme, err);
    if (!tilde)
        return -1;
    snprintf(tokens, sizeof tokens, "%s", *tilde ? tilde + 1 : "");
    if (parse_scheme(m, scheme, err) || parse_tokens(m, tokens, err) ||
        parse_view(m, slash + 1, shape, err)) {
        method_close(m);
        return -1;
    }
    size_t at = strlen(m->text);
    if (m->tokens != token_table[0]) {
        snprintf(m->text + at, sizeof m->text - at, "~%s", m->tokens->name);
        expand_options(m, m->tokens->options, m->tokens->n_options, &m->token_opt);
        at = strlen(m->text);
    }
    at += (size_t)snprintf(m->text + at, sizeof m->text - at, "/%s%s%s",
                           m->view.whole ? "" : m->view.text, m->view.whole ? "" : "@",
                           m->codec->text);
    for (int k = 1; k < m->view.n_vectors && at < sizeof m->text; k++)
        at += (size_t)snprintf(m->text + at, sizeof m->text - at, ";%s",
                               m->view.part[0].vector[k].codec->text);
    for (int k = 0; k < 2 && m->scheme->talk && at < sizeof m->text; k++)
        at += (size_t)snprintf(m->text + at, sizeof m->text - at, ";%s", m->said[k]);
    if (at >= sizeof m->text) {
        method_close(m);
        return err_set(err,
                       "fed.method = %.120s...: longer than %zu characters with every option "
                       "written out",
                       text, sizeof m->text - 1);
    }
    return 0;
}

int method_expand(const char *text, char *out, size_t size, struct err *err)
{
    struct shape shape;
    struct method m;
    shape_init(&shape);
    shape_add(&shape, "A", 8, 128, SHAPE_LORA_A);
    shape_add(&shape, "B", 128, 8, SHAPE_LORA_B);
    shape_seal(&shape);
    int rc = method_open(&m, text, &shape, err);
    if (rc == 0) {
        snprintf(out, size, "%s", m.text);
        method_close(&m);
    }
    shape_free(&shape);
    return rc;
}

int method_check(const char *text, struct err *err)
{
    char expanded[1];
    return method_expand(text, expanded, sizeof expanded, err);
}

const char *method_sees(const char *text)
{
    char full[1024], name[64];
    struct err err;
    if (expand(text, full, sizeof full, &err) || !piece(full, ":~/", name, sizeof name, &err))
        return "";
    const struct scheme *s = scheme_find(name);
    return s && s->sees ? s->sees : "updates";
}

void method_close(struct method *m)
{
    if (m->form && m->scheme->forget)
        m->scheme->forget(m->form);
    mem_free(m->scheme_opt);
    mem_free(m->form);
    view_close(&m->view);
    view_close(&m->down);
    memset(m, 0, sizeof *m);
}
