// What clients are sent when a run is over (fed.deliver): each its own, over its own link, one at a
// time to a rank, which says what has come.
#include "fed/server.h"

#include "base/bytes.h"
#include "base/mem.h"
#include "fed/server_books.h"

#include <xxhash.h>

struct parting {
    int64_t *way_ns; // (clients) to each, -1: its link does not deliver
    struct parcel {  // under way to a rank
        uint32_t client;
        uint64_t hash;
        bool away;
    } * parcel; // (1..workers)
};

// All set out at once: the server's port is theirs together.
static struct client_round *ways(struct server *s, int64_t run_ns, int64_t from_ns)
{
    const struct fed_env *env = s->env;
    const size_t n = (size_t)env->fed->clients;
    struct parting *p = s->parting = mem_alloc(MEM_SERVER, sizeof *p);
    struct client_round *c = mem_alloc(MEM_SERVER, n * sizeof *c);
    const struct round_start start = {s->round, run_ns, 0};
    p->way_ns = mem_alloc(MEM_SERVER, n * sizeof *p->way_ns);
    p->parcel = mem_alloc(MEM_SERVER, (size_t)(s->workers + 1) * sizeof *p->parcel);
    for (size_t i = 0; i < n; i++)
        c[i] = (struct client_round){
            .client = (uint32_t)i,
            .down_bytes = (int64_t)(FRAME_HEADER_BYTES + fed_parcel_bytes(env, (uint32_t)i)),
            .from_ns = from_ns};
    fed_round_times(env, &start, c, n);
    for (size_t i = 0; i < n; i++) {
        const struct link_result *down = &c[i].times.down;
        p->way_ns[i] = down->delivered ? down->t_deliver_ns - from_ns : -1;
    }
    return c;
}

static int64_t run_ns(const struct server *s)
{
    return s->env->net->pace == NET_PACE_REAL ? s->totals.measured_ns : s->totals.modelled_ns;
}

void server_parting_book(struct server *s)
{
    const int64_t from = s->row.time_modelled_ns;
    if (!s->env->fed->deliver)
        return;
    struct client_round *c = ways(s, run_ns(s), from);
    for (int32_t i = 0; i < s->env->fed->clients; i++) {
        const struct link_result *down = &c[i].times.down;
        struct rec_link row = books_link(s, c[i].client, c[i].down_bytes, from, down);
        s->sink->rows(s->sink->arg, REC_LINKS, &row, 1);
        if (!down->delivered)
            continue;
        s->row.downlink_bytes += c[i].down_bytes;
        if (down->t_deliver_ns > s->row.time_modelled_ns)
            s->row.time_modelled_ns = down->t_deliver_ns;
    }
    mem_free(c);
}

static void put_parcel(struct server *s, uint32_t client, uint8_t *out)
{
    const struct scheme_parting *own = s->env->method->scheme->parting;
    const struct view_part *part = view_own(&s->env->method->view, client);
    const size_t n = fed_parcel_bytes(s->env, client) / 4;
    const float *x = s->global.theta;
    if (own) {
        own->put(&s->global, client, out);
        return;
    }
    if (part) {
        view_gather(part, x, s->global.mean[0]); // free: no more commits come
        x = s->global.mean[0];
    }
    for (size_t i = 0; i < n; i++)
        put_f32(out + 4 * i, x[i]);
}

static void give_next(struct server *s, int endpoint, uint32_t from)
{
    const struct fed_env *env = s->env;
    const struct parting *p = s->parting;
    struct parcel *parcel = &p->parcel[endpoint];
    const uint32_t n = (uint32_t)env->fed->clients;
    uint32_t c = from;
    while (c < n && (fed_owner(c, s->workers) != endpoint || p->way_ns[c] < 0))
        c++;
    parcel->away = c < n && server_peer_up(s, endpoint);
    if (!parcel->away)
        return;
    size_t bytes = fed_parcel_bytes(env, c);
    struct netbuf *b = transport_buf(env->transport, bytes);
    struct frame f = {.kind = FRAME_PARCEL, .client = c, .payload_bytes = bytes};
    struct link_transfer down = {.round = s->round,
                                 .client = c,
                                 .t_ready_ns = run_ns(s),
                                 .bytes = (int64_t)(FRAME_HEADER_BYTES + bytes)};
    put_parcel(s, c, netbuf_payload(b));
    parcel->client = c;
    parcel->hash = XXH3_64bits(netbuf_payload(b), bytes);
    int64_t now = transport_now(env->transport), come = link_add_ns(now, p->way_ns[c]);
    server_send(s, endpoint, &f, b, come, &down);
    transport_unref(env->transport, b);
    int64_t late = link_add_ns(come, (int64_t)(env->net->timeout_s * 1e9));
    s->deadline_ns = late > s->deadline_ns ? late : s->deadline_ns;
}

void server_parting_begin(struct server *s)
{
    if (!s->env->fed->deliver || s->failure[0] || (int32_t)s->round < s->env->fed->rounds)
        return;      // of a run that is over
    if (!s->parting) // it was over before this program began: again, and not into the books
        mem_free(ways(s, run_ns(s), 0));
    s->deadline_ns = transport_now(s->env->transport);
    for (int e = 1; e <= s->workers; e++)
        give_next(s, e, 0);
}

void server_parting_taken(struct server *s, const struct net_msg *m)
{
    struct parcel *parcel = s->parting ? &s->parting->parcel[m->src] : NULL;
    if (!parcel || !parcel->away || m->frame.client != parcel->client ||
        m->frame.payload_bytes != 8)
        return;
    if (get_u64(m->payload) != parcel->hash) {
        warn("%s has something else of client %u's than what was sent to it",
             server_peer_name(s, m->src), parcel->client);
        s->unclean = true;
    }
    give_next(s, m->src, parcel->client + 1);
}

bool server_parting_owes(const struct server *s, int endpoint)
{
    return s->parting && s->parting->parcel[endpoint].away && server_peer_up(s, endpoint);
}

bool server_parting_done(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (server_parting_owes(s, e))
            return false;
    return true;
}

void server_parting_close(struct server *s)
{
    if (!s->parting)
        return;
    mem_free(s->parting->way_ns);
    mem_free(s->parting->parcel);
    mem_free(s->parting);
}
