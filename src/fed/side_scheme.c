// Server-assisted side-tuning: what a run's clients and server agree on, the clients' half, and the
// rows. side_server.c is the other half.
#include "base/mem.h"
#include "base/rng.h"
#include "fed/policy.h"
#include "fed/side_server.h"

#include <string.h>

static const char *const class_names[] = {"vocab", "answers", "labels", NULL};
static const char *const networks[] = {"global", "single", NULL};
static const char *const reads[] = {"interval", "all", NULL};
static const char *const wides[] = {"median", "max", NULL};

// clang-format off
#define SIDE_OPTIONS(PIVOT, LABELS, CACHE)                                                         \
    OPT(struct side_opt, pivot, "pivot", PIVOT, 0, 0, "",                                          \
        "of each example only the rows that have a loss travel; off = all rows"),                  \
    OPT(struct side_opt, labels, "labels", LABELS, 0, 0, "",                                       \
        "labels travel, and the server learns by cross-entropy; off = prediction differences "     \
        "travel, 1 at the label less what the frozen model says, learned by squares"),             \
    OPT(struct side_opt, cache_bytes, "cache_bytes", CACHE, 0, 1e15, "bytes",                      \
        "the server keeps what has come up to so many, and asks for an example once; 0 = off"),    \
    OPT(struct side_opt, every, "every", "1", 1, MODEL_LAYERS_MAX, "layers",                       \
        "the last of every so many layers is read, the model's last among them"),                  \
    OPT_ENUM(struct side_opt, classes, "classes", "vocab", class_names,                            \
             "what is told apart: all tokens, those that the task's answers are made of, or the "  \
             "labels of a classification, each at once by the prompt's last row"),                 \
    OPT(struct side_opt, flight, "flight", "-1", -1, 1e6, "batches",                               \
        "a batch leaves when it is ready, and with so many under way the next is not begun; 0 = "  \
        "each is waited for; -1 = all of a round leave together"),                                 \
    OPT(struct side_opt, merge, "merge", "0", 0, 0.5, "",                                          \
        "part of the rows without a loss that merge into the most alike before they are sent"),    \
    OPT(struct side_opt, norm, "norm", "off", 0, 0, "",                                            \
        "the network divides what it reads by the root of each row's mean square"),                \
    OPT(struct side_opt, rank, "rank", "16", 1, 65536, "", "of the side network's adapters"),      \
    OPT(struct side_opt, lr, "lr", "1e-3", 0, 1e3, "",                                             \
        "of the server's AdamW; the rest of it is [optim]'s")
// clang-format on

static const struct opt mobillm_options[] = {SIDE_OPTIONS("off", "on", "0")};
static const struct opt fed_options_of_side[] = {
    SIDE_OPTIONS("on", "off", "1e8"),
    OPT(struct side_opt, layers, "layers", "0", 0, MODEL_LAYERS_MAX, "",
        "that are read, at even distances; 0 = as every says"),
    OPT(struct side_opt, width, "width", "0", 0, 65536, "",
        "of the side network, to which activations are projected; 0 = the backbone's, as they are; "
        "of several backbones as wide says"),
    OPT_ENUM(struct side_opt, wide, "wide", "median", wides,
             "of several backbones: the side network is as wide as the middle one, of two the "
             "larger, or as the widest"),
    OPT_ENUM(
        struct side_opt, read, "read", "interval", reads,
        "of several backbones, where layers = 0: as many layers as the shallowest has, at even "
        "distances, or all, those of a shallower one more than once"),
    OPT_ENUM(struct side_opt, network, "network", "global", networks,
             "that all clients share, or a single one for each; then each answers its part of the "
             "test set"),
    OPT(struct side_opt, replay, "replay", "4", 0, 1e6, "",
        "steps that the server takes after each upload on examples of before; 0 = one pass is all"),
    OPT(struct side_opt, cap, "cap", "8", 0, 1e6, "", "times that an example is replayed, at most"),
};
static const struct opt pae_options[] = {SIDE_OPTIONS("on", "off", "1e8")};

int32_t side_chunk(const struct side_plan *p, uint32_t held, uint32_t from)
{
    uint32_t left = held - from % held, most = (uint32_t)p->kind[0].form.examples;
    return (int32_t)(left < most ? left : most);
}

void side_order(uint64_t seed, uint32_t client, uint32_t epoch, uint32_t held, uint32_t *order)
{
    struct rng r = rng_stream(seed, RNG_SIDE, client, epoch, 0);
    for (uint32_t i = 0; i < held; i++)
        order[i] = i;
    rng_shuffle(&r, order, held);
}

// Before a run.

static int check_plain(const struct fed_env *env, struct err *err)
{
    const struct method *m = env->method;
    const struct side_opt *opt = m->scheme_opt;
    const struct fed_wrong wrong[] = {
        {!env->work->row->side, "this task has no layers to read"},
        {m->tokens != token_table[0], "the client computes no loss to choose tokens by; leave "
                                      "tokens out"},
        {fed_state_floats(env) > 0, "clients keep no state; take fed.opt_state = reset and "
                                    "fisher.persist = reset"},
        {env->fed->average != FED_AVERAGE_NONE, "nothing of the adapter moves; take fed.average = "
                                                "none"},
        {env->fed->relays > 0, "relays add up updates, and clients send none; set fed.relays to 0"},
        {fed_down_coded(env), "nothing travels down; leave fed.downlink empty"},
        {opt->merge > 0 && opt->pivot, "with pivot = on only rows that have a loss are sent, and "
                                       "those do not merge: set merge to "
                                       "0"},
        {opt->cache_bytes > 0 && !policy_waits(env->fed),
         "a round with a cache waits for all whom it asks: leave out fed.deadline_s, fed.quorum, "
         "fed.overcommit and fed.min_completion, or set cache_bytes to 0"},
    };
    return fed_refuse_updates(env, err) ? -1 : fed_refuse(wrong, ARRAY_LEN(wrong), err);
}

// Layer j of M takes the last of the j-th of M blocks of about as many of a backbone's layers, I(j)
// = round(j L / M). Where there are more than it has, one stands for several, and travels once.
static void take_blocks(struct side_kind *k, int32_t layers, int32_t depth)
{
    k->form.layers = 0;
    for (int32_t j = 1; j <= layers; j++) {
        int32_t l = (2 * j * depth + layers) / (2 * layers) - 1;
        l = l < 0 ? 0 : l;
        if (k->form.layers == 0 || k->layer[k->form.layers - 1] != l)
            k->layer[k->form.layers++] = l;
        k->from[j - 1] = k->form.layers - 1;
    }
}

// The last layer of every `every`, counted from the top.
static void take_every(struct side_kind *k, int32_t every, int32_t depth)
{
    k->form.layers = 0;
    for (int32_t l = (depth - 1) % every; l < depth; l += every) {
        k->from[k->form.layers] = k->form.layers;
        k->layer[k->form.layers++] = l;
    }
}

static int choose_layers(struct side_plan *p, const struct side_opt *opt, struct err *err)
{
    const struct backbones *b = &p->backbones;
    int32_t least = 0, most = 0;
    for (int32_t k = 1; k < b->n; k++) {
        least = b->config[k].layers < b->config[least].layers ? k : least;
        most = b->config[k].layers > b->config[most].layers ? k : most;
    }
    int32_t few = opt->read == SIDE_READ_ALL ? most : least, depth = b->config[few].layers;
    if (opt->layers > depth)
        return err_set(err, "layers = %d, but %.200s has %d layers", opt->layers, b->path[few],
                       depth);
    if (opt->every > depth)
        return err_set(err, "every = %d, but the model has %d layers", opt->every, depth);
    if (opt->every > 1 && (b->n > 1 || opt->layers > 0))
        return err_set(err,
                       "every = %d counts layers of one backbone: leave it 1, and give layers "
                       "alone",
                       opt->every);
    p->layers = opt->layers > 0 ? opt->layers : depth;
    for (int32_t k = 0; k < b->n; k++)
        if (b->n == 1 && opt->layers == 0)
            take_every(&p->kind[k], opt->every, depth);
        else
            take_blocks(&p->kind[k], p->layers, b->config[k].layers);
    p->layers = b->n == 1 ? p->kind[0].form.layers : p->layers;
    return 0;
}

// Of as many kinds wider as narrower; of an even number the upper one.
static int32_t middle_width(const struct backbones *b)
{
    for (int32_t k = 0; k < b->n; k++) {
        int32_t below = 0, same = 0;
        for (int32_t i = 0; i < b->n; i++) {
            below += b->config[i].dim < b->config[k].dim;
            same += b->config[i].dim == b->config[k].dim;
        }
        if (below <= b->n / 2 && b->n / 2 < below + same)
            return b->config[k].dim;
    }
    return b->config[0].dim;
}

static void choose_width(struct side_plan *p, const struct side_opt *opt)
{
    const struct backbones *b = &p->backbones;
    p->project = opt->width > 0 || b->n > 1;
    p->width = opt->width > 0 ? opt->width : middle_width(b);
    for (int32_t k = 0; k < b->n && opt->width == 0 && opt->wide == SIDE_WIDE_MAX; k++)
        p->width = b->config[k].dim > p->width ? b->config[k].dim : p->width;
}

// Who has which backbone, and which of them this process runs: the server all, to have them answer.
static int deal_backbones(const struct fed_env *env, struct side_plan *p, bool *need,
                          struct err *err)
{
    const struct transport *t = env->transport;
    if (backbones_open(env->work->env.model, &p->backbones, err))
        return -1;
    p->kinds = p->backbones.n;
    p->of = backbones_deal(&p->backbones, (uint32_t)env->fed->clients, env->seed, err);
    for (int32_t k = 0; k < p->kinds; k++)
        need[k] = env->work->env.server;
    for (int32_t c = 0; p->of && c < env->fed->clients; c++) {
        p->kind[p->of[c]].weight += 1.0 / env->fed->clients;
        need[p->of[c]] |= !t || transport_hosts(t, fed_owner((uint32_t)c, t->n_endpoints - 1));
    }
    return p->of ? 0 : -1;
}

static void side_forget(void *form)
{
    struct side_plan *p = form;
    mem_free(p->of);
    p->of = NULL;
}

static int side_check_run(const struct fed_env *env, struct err *err)
{
    const struct side_opt *opt = env->method->scheme_opt;
    struct side_plan *p = env->method->form;
    bool need[SIDE_TYPES];
    if (check_plain(env, err))
        return -1;
    side_forget(p);
    *p = (struct side_plan){
        .batch = env->fed->batch, .merge = opt->merge, .classes = (enum side_classes)opt->classes};
    if (deal_backbones(env, p, need, err) || choose_layers(p, opt, err))
        return -1;
    choose_width(p, opt);
    for (int32_t k = 0; k < p->kinds; k++) {
        struct side_form *f = &p->kind[k].form;
        f->pivot = opt->pivot;
        f->labels = opt->labels;
        f->examples = env->fed->local_steps * env->fed->batch;
        f->type = k;
        f->types = p->kinds;
    }
    if (env->work->row->side->open(env->work, p, need, err))
        return -1;
    for (int32_t k = 0; k < p->kinds; k++)
        if (side_measure(&p->kind[k].form, env->method->codec->text, err))
            return -1;
    return 0;
}

static size_t scheme_bound(const struct fed_env *env)
{
    const struct side_plan *p = env->method->form;
    size_t most = 0;
    for (int32_t k = 0; k < p->kinds; k++) {
        size_t bound = side_bound(&p->kind[k].form);
        most = bound > most ? bound : most;
    }
    return most;
}

// The batches of a round, where each leaves as soon as it is ready.
static int32_t parts(const struct fed_env *env, int32_t *flight)
{
    const struct side_opt *opt = env->method->scheme_opt;
    *flight = opt->flight;
    return opt->flight < 0 ? 1 : env->fed->local_steps;
}

// What forward is of a step of LoRA of model.path, by the work in the client's own layers.
static double client_share(const struct fed_env *env, uint32_t client)
{
    const struct side_plan *p = env->method->form;
    const struct model_config *c = p->backbones.config;
    return p->of ? backbones_flops(&c[p->of[client]]) / backbones_flops(&c[0]) : 1;
}

// The client. Layers are run as they are packed.

static void train_nothing(struct workload *w, struct train_job *jobs, int n, struct recorder *rec)
{
    (void)w;
    (void)jobs;
    (void)n;
    (void)rec;
}

struct packing {
    struct side_coder coder;
    struct msg_out out;
    bool begun;
};

static int pack_example(void *arg, const struct side_head *h, const struct side_example *e,
                        const int32_t *label, struct err *err)
{
    struct packing *p = arg;
    if (!p->begun && side_put_head(&p->out, h, err))
        return -1;
    p->begun = true;
    return side_put(&p->out, &p->coder, e, label, err);
}

// The spans are laid end to end: the layers' work, then what coding took.
static int64_t side_pack(const struct fed_env *env, struct train_job *job, uint8_t *out, size_t cap,
                         struct codec_report *report, struct err *err)
{
    const struct side_plan *plan = env->method->form;
    struct packing p = {.begun = false};
    if (side_coder_open(&p.coder, &side_kind_of(plan, job->client)->form, env->method->codec->text,
                        env->seed, err))
        return -1;
    int64_t t0 = clock_ns();
    msg_init(&p.out, out, cap, report);
    int rc = env->work->row->side->examples(env->work, plan, job,
                                            (struct side_end){pack_example, &p}, env->rec, err);
    recorder_put(env->rec, STAGE_ENCODE, (int32_t)job->client, t0 + job->dur_ns,
                 clock_ns() - t0 - job->dur_ns, -1, 0, msg_len(&p.out), 0);
    side_coder_close(&p.coder);
    return rc ? rc : msg_len(&p.out);
}

#define SIDE_SCHEME(NAME, OPTIONS)                                                                 \
    .name = NAME, .options = OPTIONS, .n_options = ARRAY_LEN(OPTIONS),                             \
    .option_bytes = sizeof(struct side_opt), .form_bytes = sizeof(struct side_plan),               \
    .forget = side_forget, .train = train_nothing, .pack = side_pack, .bound = scheme_bound,       \
    .silent = true, .forward = true, .step_share = FORWARD_SHARE, .client_share = client_share,    \
    .parts = parts, .parting = &side_parting, .open = side_server_open,                            \
    .close = side_server_close, .ask = side_ask, .add = side_add, .commit = scheme_mean,           \
    .figures = side_figures, .evaluate = side_score, .hash = side_hash,                            \
    .keep_words = side_keep_words, .keep = side_keep, .restore = side_restore

const struct scheme scheme_mobillm = {
    SIDE_SCHEME("mobillm", mobillm_options),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = side_check_run,
    .help =
        "clients send activations of a frozen backbone and labels, every epoch anew; the server "
        "trains a side network",
    .sees = "activations, labels, the model",
    .source = "MobiLLM (arXiv 2502.20421): one way, quantised, labels; network, loss, rank, "
              "optimizer and codec are inferred, and so are many clients in rounds",
};

static int32_t one_arrival(const void *opt)
{
    (void)opt;
    return 1;
}

// Nothing is stale: gradients are of the network as it is.
static double as_it_is(const void *opt, uint32_t lag)
{
    (void)opt;
    (void)lag;
    return 1;
}

static const struct async_rule arrivals = {.buffer = one_arrival, .scale = as_it_is};

static int fed_check_run(const struct fed_env *env, struct err *err)
{
    return side_check_run(env, err) ? -1 : async_check(env, err);
}

const struct scheme scheme_fedmobillm = {
    SIDE_SCHEME("fedmobillm", fed_options_of_side),
    .server = &server_async,
    .worker = &worker_async,
    .async = &arrivals,
    .check = fed_check_run,
    .replay = side_replay,
    .several = true,
    .sees = "pivot activations, differences, the model",
    .help =
        "pae without rounds: every upload makes a version at once, and the server goes over what "
        "came before; clients may have several backbones (model.others)",
    .source =
        "Fed MobiLLM (arXiv 2508.06765): a step an arrival, examples mixed and replayed, layers "
        "at even distances, a projection for each backbone; loss, rank, optimizer, codec, steps of "
        "replay and their cap are inferred",
};

const struct scheme scheme_fedmobillm_barrier = {
    SIDE_SCHEME("fedmobillm-barrier", fed_options_of_side),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = side_check_run,
    .after = side_replay_round,
    .several = true,
    .sees = "pivot activations, differences, the model",
    .help = "fedmobillm in rounds that wait for all whom they ask: what its arrivals save",
    .source = "Fed MobiLLM's baseline of a barrier (arXiv 2508.06765); inferred as fedmobillm is",
};

const struct scheme scheme_pae = {
    SIDE_SCHEME("pae", pae_options),
    .server = &server_sync,
    .worker = &worker_sync,
    .check = side_check_run,
    .help = "as mobillm with rows that have a loss alone, once, and prediction differences instead "
            "of labels: later epochs are the server's",
    .sees = "pivot activations, differences, the model",
    .source = "PAE MobiLLM (arXiv 2507.01216): pivots, cache, additive prediction; loss, rank, "
              "optimizer, codec, y_b as probabilities and what goes when the cache is full are "
              "inferred, and so are many clients in rounds",
};
