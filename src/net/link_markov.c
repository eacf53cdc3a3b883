// Links whose rate jumps between states: a Markov chain that forgets. In every slot of time it is
// drawn anew with one probability, evenly among all states, else it stays: so the state at any time
// is that of the last draw before it, which is found by looking back, without walking from the
// start of the run.
#include "base/mem.h"
#include "net/link_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATES_MAX = 16, SLOTS_A_STAY = 8 };

struct markov_opt {
    char up[120], down[120];
    double stay_s, latency_ms, jitter_ms;
};

struct markov {
    int n;
    double up_bps[STATES_MAX], down_bps[STATES_MAX];
    int64_t slot_ns;
};

#define MARKOV_OPTIONS(name, ups, downs, stay, latency, jitter)                                    \
    static const struct opt name[] = {                                                             \
        OPT_STRING(struct markov_opt, up, "up", ups,                                               \
                   "Mbit/s from client to server in each state, as A/B/C; one that is more often " \
                   "true is written more often"),                                                  \
        OPT_STRING(struct markov_opt, down, "down", downs, "the same from server to client"),      \
        OPT(struct markov_opt, stay_s, "stay", stay, 0.01, 1e6, "s",                               \
            "mean time from one draw of the state to the next"),                                   \
        LINK_MS_OPT(struct markov_opt, latency_ms, "latency", latency, "one way"),                 \
        LINK_MS_OPT(struct markov_opt, jitter_ms, "jitter", jitter, "on top of it, at most"),      \
    }

MARKOV_OPTIONS(markov_options, "1/4/10/16", "2/8/20/32", "5", "30", "10");
MARKOV_OPTIONS(wifi_options, "5/40/90/150", "5/50/120/200", "2", "3", "5");
MARKOV_OPTIONS(g5_options, "5/30/60/90", "20/200/400/800", "3", "12", "6");

// The number of rates, -1: something else is there.
static int rates_of(const char *text, double *bps)
{
    int n = 0;
    for (const char *p = text;; p++) {
        char *end;
        double mbps = strtod(p, &end);
        if (n == STATES_MAX || end == p || !(mbps >= 1e-6 && mbps <= 1e7))
            return -1;
        bps[n++] = mbps * 1e6;
        p = end;
        if (*p == '\0')
            return n;
        if (*p != '/')
            return -1;
    }
}

static void markov_close(struct link_model *m)
{
    mem_free(m->state);
}

static int markov_open(struct link_model *m, struct err *err)
{
    const struct markov_opt *o = m->opt;
    struct markov *s = m->state = mem_alloc(MEM_NET, sizeof *s);
    s->n = rates_of(o->up, s->up_bps);
    if (s->n < 0 || rates_of(o->down, s->down_bps) != s->n)
        return err_set(err,
                       "net.link = %.80s: up = %.60s, down = %.60s: they are as many rates each, "
                       "A/B/C in Mbit/s from 1e-6 to 1e7, at most %d",
                       m->params->link, o->up, o->down, STATES_MAX);
    s->slot_ns = (int64_t)(o->stay_s * 1e9 / SLOTS_A_STAY + 0.5);
    return 0;
}

static int state_at(const struct markov *s, const struct rng *stream, int64_t slot)
{
    // Two words per slot: is the state drawn here, and which. The stream has room for 2^33 slots.
    uint64_t k = (uint64_t)slot & UINT32_MAX;
    while (k > 0 && rng_at(stream, 2 * k) >= UINT32_MAX / SLOTS_A_STAY)
        k--;
    return (int)((uint64_t)rng_at(stream, 2 * k + 1) * (uint64_t)s->n >> 32);
}

static struct link_piece markov_piece(const struct link_model *m, const struct link_transfer *x,
                                      int64_t t_ns)
{
    const struct markov *s = m->state;
    struct rng stream = link_stream(m, x->client, LINK_DRAW_STATES);
    int64_t slot = t_ns / s->slot_ns;
    int i = state_at(s, &stream, slot);
    return (struct link_piece){x->up ? s->up_bps[i] : s->down_bps[i],
                               link_add_ns(slot * s->slot_ns, s->slot_ns)};
}

// Slot by slot; a transfer of a million slots and more goes on at the mean rate.
static int64_t markov_leave(const struct link_model *m, const struct link_transfer *x, int64_t t_ns,
                            int64_t bytes)
{
    const struct markov *s = m->state;
    double left = (double)bytes * 8, mean = 0;
    for (int i = 0; i < 1 << 20; i++) {
        struct link_piece p = markov_piece(m, x, t_ns);
        double can = p.bps * ((double)(p.until_ns - t_ns) * 1e-9);
        if (left <= can)
            return t_ns + (int64_t)(left / p.bps * 1e9 + 0.5);
        left -= can;
        t_ns = p.until_ns;
    }
    for (int i = 0; i < s->n; i++)
        mean += (x->up ? s->up_bps[i] : s->down_bps[i]) / s->n;
    double ns = left / mean * 1e9;
    return ns < 0x1p62 ? link_add_ns(t_ns, (int64_t)ns) : INT64_MAX;
}

static struct link_delay markov_delay(const struct link_model *m, uint32_t client, bool up)
{
    (void)client, (void)up;
    const struct markov_opt *o = m->opt;
    return link_delay_of_ms(o->latency_ms, o->jitter_ms);
}

#define MARKOV_ROW(options_)                                                                       \
    .options = options_, .n_options = (int)ARRAY_LEN(options_),                                    \
    .option_bytes = sizeof(struct markov_opt), .varies = true, .open = markov_open,                \
    .close = markov_close, .piece = markov_piece, .leave = markov_leave, .delay = markov_delay

const struct link_row link_markov = {
    .name = "markov",
    .help = "a rate that jumps between states, each client on its own",
    MARKOV_ROW(markov_options),
};

const struct link_row link_wifi = {
    .name = "wifi",
    .help = "markov with the rates of a shared access point",
    MARKOV_ROW(wifi_options),
};

const struct link_row link_5g = {
    .name = "5g",
    .help = "markov with the rates of mid-band 5G, from the edge of a cell to its middle",
    MARKOV_ROW(g5_options),
};
