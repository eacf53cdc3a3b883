#include "net/transport.h"

#include "base/clock.h"

#include <assert.h>
#include <string.h>

const struct transport_row *const transport_table[] = {&transport_mpi, &transport_sim, NULL};
static const char *const pace_names[] = {
    [NET_PACE_MODEL] = "model", [NET_PACE_REAL] = "real", [NET_PACE_NONE] = "none", NULL};

static const char *transport_name(int32_t i)
{
    return transport_table[i] ? transport_table[i]->name : NULL;
}

#define NET_OPT(f, n, d, lo, hi, u, h) OPT(struct net_params, f, n, d, lo, hi, u, h)
const struct opt net_options[] = {
    OPT_STRING(struct net_params, link.link, "net.link", "loopback",
               "model of every client's link, NAME[:key=value,...] of fstq list links"),
    NET_OPT(link.up_bps, "net.up_bps", "20e6", 1, 1e15, "bit/s",
            "net.link = fixed: rate from client to server"),
    NET_OPT(link.down_bps, "net.down_bps", "20e6", 1, 1e15, "bit/s",
            "net.link = fixed: rate from server to client"),
    NET_OPT(link.latency_ns, "net.latency_ns", "10000000", 0, 1e15, "ns",
            "net.link = fixed: one-way latency"),
    NET_OPT(link.jitter_ns, "net.jitter_ns", "0", 0, 1e15, "ns",
            "net.link = fixed: on top of the latency, at most; evenly drawn per message"),
    OPT_STRING(struct net_params, link.trace, "net.trace", "",
               "net.link = trace: a file of rates, or a folder with a file per client"),
    OPT_STRING(struct net_params, link.loss, "net.loss", "none",
               "of segments of 1448 bytes, as netem has it: none, random:p=P or "
               "gemodel:p=P,r=R,1-h=L,1-k=L"),
    OPT_ENUM(struct net_params, link.delivery, "net.delivery", "reliable", link_delivery_names,
             "reliable: lost segments are sent again; datagram: what clients send lacks them"),
    NET_OPT(
        link.blocks, "net.blocks", "on", 0, 1, "",
        "datagrams: updates whose codec can (fstq list codecs) are cut into blocks that decode "
        "alone, one a segment, and what arrives counts; off = one that lacks a segment is lost"),
    OPT_STRING(struct net_params, relay_link, "net.relay_link", "loopback",
               "fed.relays: model of the link between a relay and the server, as net.link"),
    NET_OPT(port_up_bps, "net.port_up_bps", "0", 0, 1e15, "bit/s",
            "the server's own port, from all clients together, an even share for each that is "
            "active; 0 = no limit"),
    NET_OPT(port_down_bps, "net.port_down_bps", "0", 0, 1e15, "bit/s", "the same to all clients"),
    OPT_ROW(struct net_params, transport, "net.transport", "mpi", transport_name,
            "mpi: real ranks; sim: every client in one process, in virtual time"),
    OPT_ENUM(
        struct net_params, pace, "net.pace", "model", pace_names,
        "model: full speed, time computed from the link; real: frames leave at the pace of the "
        "link; none: the network as it is"),
    NET_OPT(checksum, "net.checksum", "on", 0, 1, "", "XXH3 over every payload"),
    NET_OPT(
        timeout_s, "net.timeout_s", "60", 1e-3, 1e6, "s",
        "silence after which a worker is suspected lost; one in training speaks between its steps"),
    NET_OPT(arena_bytes, "net.arena_bytes", "67108864", 4096, 1e12, "B",
            "packed updates that may wait at the server for their turn"),
    NET_OPT(sim_workers, "net.sim_workers", "2", 1, 100000, "", "sim: workers to simulate"),
    NET_OPT(sim_drop, "net.sim_drop", "0", 0, 1, "", "sim: probability that a frame is lost"),
    NET_OPT(sim_corrupt, "net.sim_corrupt", "0", 0, 1, "",
            "sim: probability that a bit flips or the tail is cut off"),
    NET_OPT(sim_delay, "net.sim_delay", "0", 0, 1, "",
            "sim: probability of an extra delay of up to 2 x net.timeout_s"),
    NET_OPT(sim_duplicate, "net.sim_duplicate", "0", 0, 1, "",
            "sim: probability that a frame arrives twice"),
    NET_OPT(sim_reorder, "net.sim_reorder", "0", 0, 1, "",
            "sim: probability of an extra delay of up to 10 ms, so that later frames overtake"),
};
const int net_option_count = (int)ARRAY_LEN(net_options);

// Relays are wired: what they send is not lost.
static void relay_link_params(const struct net_params *p, struct link_params *to)
{
    *to = p->link;
    to->trace[0] = '\0';
    to->delivery = LINK_RELIABLE;
    memcpy(to->link, p->relay_link, sizeof to->link);
    memcpy(to->loss, "none", sizeof "none");
}

int net_check(const struct net_params *p, struct err *err)
{
    struct link_model link;
    bool sim = transport_table[p->transport] == &transport_sim;
    bool faults = p->sim_drop > 0 || p->sim_corrupt > 0 || p->sim_delay > 0 ||
                  p->sim_duplicate > 0 || p->sim_reorder > 0;
    struct link_params relay;
    struct err why;
    if (link_open(&link, &p->link, 0, err))
        return -1;
    link_close(&link);
    relay_link_params(p, &relay);
    if (link_open(&link, &relay, 0, &why))
        return err_set(err, "net.relay_link: %.400s", why.text);
    link_close(&link);
    if (sim && p->pace == NET_PACE_REAL)
        return err_set(err, "net.pace = real moves bytes, and net.transport = sim moves none: use "
                            "net.pace = model, or net.transport = mpi");
    if (p->pace == NET_PACE_REAL && (p->port_up_bps > 0 || p->port_down_bps > 0))
        return err_set(err, "net.pace = real paces the link of each client; net.port_up_bps and "
                            "net.port_down_bps, which they share, need net.pace = model");
    if (sim && p->pace == NET_PACE_NONE)
        return err_set(err, "net.pace = none measures a real network, and net.transport = sim has "
                            "none: use net.pace = model, or net.transport = mpi");
    if (!sim && faults)
        return err_set(err, "net.sim_drop, _corrupt, _delay, _duplicate and _reorder are faults of "
                            "the simulated transport: set net.transport = sim, or leave them at 0");
    return 0;
}

struct netbuf *transport_buf(struct transport *t, size_t payload_cap)
{
    return netbuf_get(&t->pool, payload_cap);
}

void transport_ref(struct netbuf *b)
{
    netbuf_ref(b);
}

void transport_unref(struct transport *t, struct netbuf *b)
{
    netbuf_unref(&t->pool, b);
}

// The buffer to send: b with its header written, or, where b is still on its way with another
// header, a copy. A model that goes to many workers is hashed once.
static struct netbuf *seal(struct transport *t, struct frame *f, struct netbuf *b)
{
    size_t n = (size_t)f->payload_bytes;
    bool shared = b->refs > 1 && b->sealed, checksum = (f->flags & FRAME_CHECKSUM) != 0;
    bool known = shared && b->hashed && b->len == FRAME_HEADER_BYTES + n;
    bool paced = (f->flags & FRAME_PACED) != 0; // then the pacer takes the hash
    bool due = checksum && !known && (paced || (n >= FRAME_LONG_BYTES && t->row->hashes_long));
    f->payload_xxh3 = 0;
    if (checksum && !due)
        f->payload_xxh3 = known ? b->payload_xxh3 : frame_hash(netbuf_payload(b), n);
    struct netbuf *out = b;
    if (shared) {
        uint8_t header[FRAME_HEADER_BYTES];
        frame_write(f, header);
        if (b->len == FRAME_HEADER_BYTES + n && memcmp(header, b->bytes, sizeof header) == 0) {
            transport_ref(b);
            return b;
        }
        out = transport_buf(t, n);
        memcpy(netbuf_payload(out), netbuf_payload(b), n);
    } else {
        transport_ref(b);
    }
    frame_write(f, out->bytes);
    out->len = FRAME_HEADER_BYTES + n;
    out->sealed = true;
    out->hashed = checksum && !due;
    out->hash_due = due;
    out->payload_xxh3 = f->payload_xxh3;
    return out;
}

// Takes over the reference to out.
static void send_sealed(struct transport *t, int src, int dst, struct netbuf *out,
                        int64_t t_deliver_ns, const struct link_transfer *over)
{
    t->bytes_moved += (int64_t)out->len;
    t->frames_moved++;
    if (over || pacer_holds(&t->pacer, dst)) {
        pacer_add(&t->pacer, src, dst, out, over);
        pacer_step(&t->pacer);
    } else {
        t->row->send(t, src, dst, out, t_deliver_ns);
    }
}

void transport_send(struct transport *t, int src, int dst, struct frame *f, struct netbuf *b,
                    int64_t t_deliver_ns)
{
    assert(transport_hosts(t, src) && dst >= 0 && dst < t->n_endpoints && dst != src);
    assert(f->payload_bytes <= b->cap - FRAME_HEADER_BYTES);
    f->flags = t->params->checksum ? FRAME_CHECKSUM : 0;
    send_sealed(t, src, dst, seal(t, f, b), t_deliver_ns, NULL);
}

void transport_send_over(struct transport *t, int src, int dst, struct frame *f, struct netbuf *b,
                         int64_t t_deliver_ns, const struct link_transfer *over)
{
    if (t->params->pace != NET_PACE_REAL || !t->row->send_piece) {
        transport_send(t, src, dst, f, b, t_deliver_ns);
        return;
    }
    assert(transport_hosts(t, src) && dst >= 0 && dst < t->n_endpoints && dst != src);
    assert(f->payload_bytes <= b->cap - FRAME_HEADER_BYTES);
    f->flags = t->params->checksum ? FRAME_CHECKSUM : 0;
    if (f->payload_bytes > FRAME_PACED_PART_BYTES)
        f->flags |= FRAME_PACED;
    send_sealed(t, src, dst, seal(t, f, b), t_deliver_ns, over);
}

int64_t transport_paced_ns(const struct transport *t)
{
    int64_t now = transport_now(t), end = pacer_end_ns(&t->pacer);
    return end > now ? end : now;
}

enum { PACED_NAP_NS = 500 * 1000 };

// While frames leave at a pace: between two pieces it looks for messages twice in a millisecond.
static bool poll_paced(struct transport *t, struct net_msg *m, int64_t until_ns)
{
    for (;;) {
        int64_t due = pacer_step(&t->pacer), now = transport_now(t);
        if (due == INT64_MAX && !t->pacer.first)
            return t->row->poll(t, m, until_ns);
        if (t->row->poll(t, m, now))
            return true;
        if (now >= until_ns)
            return false;
        int64_t wake = now + PACED_NAP_NS;
        wake = due < wake ? due : wake;
        clock_sleep_until(until_ns < wake ? until_ns : wake);
    }
}

bool transport_poll(struct transport *t, struct net_msg *m, int64_t until_ns)
{
    memset(m, 0, sizeof *m);
    if (!(t->pacer.first ? poll_paced(t, m, until_ns) : t->row->poll(t, m, until_ns)))
        return false;
    enum frame_verdict physical = m->verdict; // too long, cut short, ...: maybe only a header came
    const struct netbuf *b = m->buf;
    if (m->first_ns == 0) // handed over inside the process
        m->first_ns = clock_ns();
    m->verdict = m->hashed
                     ? frame_open_hashed(b->bytes, b->len, &t->limits, m->payload_xxh3, &m->frame)
                     : frame_open(b->bytes, b->len, &t->limits, &m->frame);
    if (physical != FRAME_GOOD)
        m->verdict = physical;
    if (m->bytes == 0)
        m->bytes = b->len;
    m->payload = m->verdict == FRAME_GOOD ? b->bytes + FRAME_HEADER_BYTES : NULL;
    if (!transport_hosts(t, m->src)) {
        t->bytes_moved += (int64_t)m->bytes;
        t->frames_moved++;
    }
    return true;
}

int transport_open(struct transport *t, const struct net_params *params, uint64_t seed,
                   struct err *err)
{
    memset(t, 0, sizeof *t);
    t->row = transport_table[params->transport];
    t->params = params;
    t->seed = seed;
    t->limits.max_payload_bytes = FRAME_PAYLOAD_UNAGREED;
    pacer_open(&t->pacer, t, t->row, &t->link, &t->pool);
    if (link_open(&t->link, &params->link, seed, err))
        return -1;
    relay_link_params(params, &t->relay_params);
    int rc = link_open(&t->relay_link, &t->relay_params, ~seed, err);
    if (rc == 0)
        rc = t->row->open(t, err);
    if (rc) {
        link_close(&t->link);
        link_close(&t->relay_link);
    }
    return rc;
}

bool transport_hosts(const struct transport *t, int endpoint)
{
    return endpoint >= 0 && endpoint < t->n_endpoints && t->row->hosts(t, endpoint);
}

int64_t transport_now(const struct transport *t)
{
    return t->row->now(t);
}

void transport_forget(struct transport *t, int endpoint)
{
    pacer_forget(&t->pacer, endpoint);
    t->row->forget(t, endpoint);
}

bool transport_flush(struct transport *t, int64_t until_ns)
{
    while (t->pacer.first) {
        int64_t due = pacer_step(&t->pacer), now = transport_now(t), wake = now + 10 * PACED_NAP_NS;
        if (now >= until_ns)
            return false;
        t->row->flush(t, now); // receives go on meanwhile
        wake = due < wake ? due : wake;
        if (t->pacer.first)
            clock_sleep_until(until_ns < wake ? until_ns : wake);
    }
    return t->row->flush ? t->row->flush(t, until_ns) : true;
}

void transport_close(struct transport *t, bool clean)
{
    pacer_close(&t->pacer);
    t->row->close(t, clean);
    link_close(&t->link);
    link_close(&t->relay_link);
    netbuf_pool_close(&t->pool);
    t->state = NULL;
}
