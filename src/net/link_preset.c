// Links whose rate does not change: one for all clients, one drawn for each, and a mixture of
// other rows.
#include "base/fmath.h"
#include "base/mem.h"
#include "net/link_rows.h"

#include <string.h>

// One for all.

struct constant_opt {
    double up_mbps, down_mbps, latency_ms, jitter_ms;
};

#define CONSTANT_OPTIONS(name, up, down, latency, jitter)                                          \
    static const struct opt name[] = {                                                             \
        LINK_MBPS_OPT(struct constant_opt, up_mbps, "up", up, "from client to server"),            \
        LINK_MBPS_OPT(struct constant_opt, down_mbps, "down", down, "from server to client"),      \
        LINK_MS_OPT(struct constant_opt, latency_ms, "latency", latency, "one way"),               \
        LINK_MS_OPT(struct constant_opt, jitter_ms, "jitter", jitter, "on top of it, at most"),    \
    }

// 941 is what TCP leaves of a gigabit.
CONSTANT_OPTIONS(ethernet_options, "941", "941", "0.1", "0.05");
CONSTANT_OPTIONS(lte_20_options, "20", "20", "25", "0");
CONSTANT_OPTIONS(satellite_options, "3", "25", "300", "20");

static struct link_piece constant_piece(const struct link_model *m, const struct link_transfer *x,
                                        int64_t t_ns)
{
    (void)t_ns;
    const struct constant_opt *o = m->opt;
    return (struct link_piece){(x->up ? o->up_mbps : o->down_mbps) * 1e6, INT64_MAX};
}

static struct link_delay constant_delay(const struct link_model *m, uint32_t client, bool up)
{
    (void)client, (void)up;
    const struct constant_opt *o = m->opt;
    return link_delay_of_ms(o->latency_ms, o->jitter_ms);
}

#define CONSTANT_ROW(options_)                                                                     \
    .options = options_, .n_options = (int)ARRAY_LEN(options_),                                    \
    .option_bytes = sizeof(struct constant_opt), .piece = constant_piece, .delay = constant_delay

const struct link_row link_ethernet_1g = {
    .name = "ethernet-1g",
    .help = "a switched gigabit: what TCP leaves of it",
    CONSTANT_ROW(ethernet_options),
};

const struct link_row link_lte_20 = {
    .name = "lte-20",
    .help = "the paper's controlled LTE: 20 Mbit/s for every client, equation (8); latency is ours",
    CONSTANT_ROW(lte_20_options),
};

const struct link_row link_satellite = {
    .name = "satellite",
    .help = "a geostationary satellite: slow up, and far",
    CONSTANT_ROW(satellite_options),
};

// One each.

struct hetero_opt {
    double median_mbps, sigma, slow, slow_min_mbps, slow_max_mbps, down_ratio;
    double latency_ms, jitter_ms;
};

static const struct opt hetero_options[] = {
    LINK_MBPS_OPT(struct hetero_opt, median_mbps, "median", "10", "uplink of the usual client"),
    OPT(struct hetero_opt, sigma, "sigma", "0.5", 0, 5, "",
        "spread of the logarithm of usual clients' rates"),
    OPT(struct hetero_opt, slow, "slow", "0.2", 0, 1, "", "share of clients with a slow uplink"),
    LINK_MBPS_OPT(struct hetero_opt, slow_min_mbps, "slow_min", "0.5", "the slowest of these"),
    LINK_MBPS_OPT(struct hetero_opt, slow_max_mbps, "slow_max", "2", "the fastest of these"),
    OPT(struct hetero_opt, down_ratio, "down_ratio", "2", 1e-3, 1e3, "",
        "downlink as a multiple of the uplink"),
    LINK_MS_OPT(struct hetero_opt, latency_ms, "latency", "40", "one way"),
    LINK_MS_OPT(struct hetero_opt, jitter_ms, "jitter", "20", "on top of it, at most"),
};

static int hetero_open(struct link_model *m, struct err *err)
{
    const struct hetero_opt *o = m->opt;
    if (o->slow_min_mbps > o->slow_max_mbps)
        return err_set(err, "net.link = %.80s: slow_min = %g exceeds slow_max = %g",
                       m->params->link, o->slow_min_mbps, o->slow_max_mbps);
    return 0;
}

static struct link_piece hetero_piece(const struct link_model *m, const struct link_transfer *x,
                                      int64_t t_ns)
{
    (void)t_ns;
    const struct hetero_opt *o = m->opt;
    struct rng r = link_stream(m, x->client, LINK_DRAW_CLASS);
    double mbps;
    if (rng_unit(&r) < o->slow)
        mbps = o->slow_min_mbps + (o->slow_max_mbps - o->slow_min_mbps) * rng_unit(&r);
    else
        mbps = o->median_mbps * fmath_exp(o->sigma * rng_normal(&r));
    return (struct link_piece){mbps * 1e6 * (x->up ? 1 : o->down_ratio), INT64_MAX};
}

static struct link_delay hetero_delay(const struct link_model *m, uint32_t client, bool up)
{
    (void)client, (void)up;
    const struct hetero_opt *o = m->opt;
    return link_delay_of_ms(o->latency_ms, o->jitter_ms);
}

const struct link_row link_lte_hetero = {
    .name = "lte-hetero",
    .help = "the paper's heterogeneous LTE with a straggler tail: a constant rate drawn per client",
    .options = hetero_options,
    .n_options = (int)ARRAY_LEN(hetero_options),
    .option_bytes = sizeof(struct hetero_opt),
    .open = hetero_open,
    .piece = hetero_piece,
    .delay = hetero_delay,
};

// A mixture.

struct mixed_opt {
    double share[4];
};
static const char *const mixed_links[4] = {"ethernet-1g", "wifi", "lte-hetero:slow=0",
                                           "lte-hetero:slow=1"};

static const struct opt mixed_options[] = {
    OPT(struct mixed_opt, share[0], "ethernet", "0.1", 0, 1, "", "share of clients at ethernet-1g"),
    OPT(struct mixed_opt, share[1], "wifi", "0.4", 0, 1, "", "of clients at wifi"),
    OPT(struct mixed_opt, share[2], "lte", "0.35", 0, 1, "", "of clients at lte-hetero:slow=0"),
    OPT(struct mixed_opt, share[3], "slow", "0.15", 0, 1, "", "of clients at lte-hetero:slow=1"),
};

struct mixed {
    struct link_params params[4]; // as the rows would have been asked for
    struct link_model link[4];
};

static void mixed_close(struct link_model *m)
{
    struct mixed *x = m->state;
    for (int i = 0; x && i < 4; i++)
        link_close(&x->link[i]);
    mem_free(x);
}

static int mixed_open(struct link_model *m, struct err *err)
{
    const struct mixed_opt *o = m->opt;
    double sum = o->share[0] + o->share[1] + o->share[2] + o->share[3];
    if (!(sum > 0.999 && sum < 1.001))
        return err_set(err,
                       "net.link = %.80s: the shares add up to %g; they are of all clients, "
                       "so that has to be 1",
                       m->params->link, sum);
    struct mixed *x = m->state = mem_alloc(MEM_NET, sizeof *x);
    for (int i = 0; i < 4; i++) {
        x->params[i] = *m->params;
        x->params[i].trace[0] = x->params[i].loss[0] = '\0'; // link_carry sees to loss
        strcpy(x->params[i].link, mixed_links[i]);
        if (link_open(&x->link[i], &x->params[i], m->seed, err))
            return -1;
    }
    return 0;
}

static const struct link_model *mixed_of(const struct link_model *m, uint32_t client)
{
    const struct mixed_opt *o = m->opt;
    const struct mixed *x = m->state;
    struct rng r = link_stream(m, client, LINK_DRAW_DEAL);
    double u = rng_unit(&r);
    int i = 0;
    for (; i < 3 && u >= o->share[i]; i++)
        u -= o->share[i];
    return &x->link[i];
}

static struct link_piece mixed_piece(const struct link_model *m, const struct link_transfer *x,
                                     int64_t t_ns)
{
    const struct link_model *own = mixed_of(m, x->client);
    return own->row->piece(own, x, t_ns);
}

static struct link_delay mixed_delay(const struct link_model *m, uint32_t client, bool up)
{
    const struct link_model *own = mixed_of(m, client);
    return own->row->delay(own, client, up);
}

const struct link_row link_edge_mixed = {
    .name = "edge-mixed",
    .help = "each client at one of ethernet-1g, wifi and two kinds of LTE",
    .options = mixed_options,
    .n_options = (int)ARRAY_LEN(mixed_options),
    .option_bytes = sizeof(struct mixed_opt),
    .varies = true,
    .open = mixed_open,
    .close = mixed_close,
    .piece = mixed_piece,
    .delay = mixed_delay,
};
