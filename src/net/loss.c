#include "net/loss.h"

#include "base/opt.h"

#include <string.h>

struct random_opt {
    double p;
};
struct gemodel_opt {
    double p, r, one_h, one_k;
};

static const struct opt random_options[] = {
    OPT(struct random_opt, p, "p", "0.01", 0, 1, "", "probability that a segment is lost"),
};

static const struct opt gemodel_options[] = {
    OPT(struct gemodel_opt, p, "p", "0.01", 0, 1, "", "from the good state to the bad one"),
    OPT(struct gemodel_opt, r, "r", "-1", -1, 1, "", "back again; -1 = 1-p"),
    OPT(struct gemodel_opt, one_h, "1-h", "1", 0, 1, "", "loss in the bad state"),
    OPT(struct gemodel_opt, one_k, "1-k", "0", 0, 1, "", "loss in the good state"),
};

static int parse_random(struct loss_model *m, const char *opts, struct err *err)
{
    struct random_opt o;
    opt_defaults(random_options, (int)ARRAY_LEN(random_options), &o);
    if (opt_set_list(random_options, (int)ARRAY_LEN(random_options), &o, opts, err))
        return -1;
    *m = (struct loss_model){.on = o.p > 0, .loss_good = o.p};
    return 0;
}

static int parse_gemodel(struct loss_model *m, const char *opts, struct err *err)
{
    struct gemodel_opt o;
    opt_defaults(gemodel_options, (int)ARRAY_LEN(gemodel_options), &o);
    if (opt_set_list(gemodel_options, (int)ARRAY_LEN(gemodel_options), &o, opts, err))
        return -1;
    if (o.r < 0 && o.r != -1)
        return err_set(err, "r = %g: it is a probability, or -1", o.r);
    double r = o.r < 0 ? 1 - o.p : o.r;
    *m = (struct loss_model){
        .good_bad = o.p, .bad_good = r, .loss_good = o.one_k, .loss_bad = o.one_h};
    m->on = loss_mean(m) > 0;
    return 0;
}

int loss_parse(struct loss_model *m, const char *text, struct err *err)
{
    static const struct {
        const char *name;
        int (*parse)(struct loss_model *m, const char *opts, struct err *err);
    } kinds[] = {{"random", parse_random}, {"gemodel", parse_gemodel}};
    size_t n = strcspn(text, ":");
    struct err why = {""};
    *m = (struct loss_model){0};
    if (strcmp(text, "none") == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strlen(kinds[i].name) != n || strncmp(text, kinds[i].name, n) != 0)
            continue;
        if (kinds[i].parse(m, text[n] ? text + n + 1 : "", &why))
            return err_set(err, "net.loss = %.80s: %.300s", text, why.text);
        return 0;
    }
    char name[96];
    snprintf(name, sizeof name, "%.*s", (int)n, text);
    struct opt_guess guess = {.text = name};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        opt_guess(&guess, kinds[i].name);
    return err_set(err,
                   "net.loss = %.80s: unknown%s%s; it is none, random:p=P or "
                   "gemodel:p=P,r=R,1-h=L,1-k=L",
                   text, guess.name ? "; did you mean " : "", guess.name ? guess.name : "");
}

static double share_bad(const struct loss_model *m)
{
    double both = m->good_bad + m->bad_good;
    return both > 0 ? m->good_bad / both : 0;
}

double loss_mean(const struct loss_model *m)
{
    double bad = share_bad(m);
    return bad * m->loss_bad + (1 - bad) * m->loss_good;
}

static bool happens(struct loss_chain *c, double p)
{
    return p > 0 && (double)rng_u32(&c->rng) < p * 0x1p32;
}

void loss_begin(struct loss_chain *c, const struct loss_model *m, struct rng stream)
{
    *c = (struct loss_chain){.model = m, .rng = stream};
    c->bad = happens(c, share_bad(m));
}

// As netem has it: the state moves on first, and the segment is judged by the state it found.
bool loss_next(struct loss_chain *c)
{
    const struct loss_model *m = c->model;
    bool bad = c->bad;
    if (happens(c, bad ? m->bad_good : m->good_bad))
        c->bad = !bad;
    return happens(c, bad ? m->loss_bad : m->loss_good);
}

enum { RTO_MIN_NS = 200 * 1000 * 1000 };
static const int64_t RTO_MAX_NS = 120000000000;         // as Linux has it
static const int64_t WAIT_MAX_NS = 1000000000000000000; // 31 years: for ever

// One lost segment is sent until it arrives: every copy that is lost, too, costs a timeout, which
// doubles.
static void send_again(struct loss_chain *c, int64_t bytes, int64_t rtt_ns, struct loss_cost *cost)
{
    int64_t rto = 2 * rtt_ns > RTO_MIN_NS ? 2 * rtt_ns : RTO_MIN_NS;
    for (int i = 0; i < LOSS_RETRIES; i++) {
        cost->again_bytes += bytes;
        if (!loss_next(c))
            return;
        cost->wait_ns += rto;
        rto = 2 * rto < RTO_MAX_NS ? 2 * rto : RTO_MAX_NS;
    }
    cost->given_up = true;
}

// A run of losses is noticed together and costs one round trip, then its segments are sent again.
struct loss_cost loss_reliable(struct loss_chain *c, int64_t bytes, int64_t rtt_ns)
{
    struct loss_cost cost = {.segments = loss_segments(bytes)};
    int64_t tail = bytes - (cost.segments - 1) * LOSS_SEGMENT_BYTES, run = 0;
    for (int64_t i = 0; i <= cost.segments && !cost.given_up; i++) {
        bool lost = i < cost.segments && loss_next(c);
        run += lost;
        cost.lost += lost;
        if (lost || run == 0)
            continue;
        cost.wait_ns += rtt_ns;
        cost.given_up = cost.wait_ns > WAIT_MAX_NS;
        for (; run > 0 && !cost.given_up; run--) // the message's last segment is the run's last one
            send_again(c, run == 1 && i == cost.segments ? tail : LOSS_SEGMENT_BYTES, rtt_ns,
                       &cost);
    }
    return cost;
}

struct loss_cost loss_datagram(struct loss_chain *c, int64_t bytes, uint8_t *map)
{
    struct loss_cost cost = {.segments = loss_segments(bytes)};
    for (int64_t i = 0; i < cost.segments; i++) {
        bool lost = loss_next(c);
        cost.lost += lost;
        if (map)
            map[i / 8] = (uint8_t)((map[i / 8] & ~(1u << i % 8)) | (unsigned)!lost << i % 8);
    }
    return cost;
}
