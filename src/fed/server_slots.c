// Client state as the server knows it: of each client the generation that it goes on from. The
// checkpoint holds these names, so that a resumed run can ask its workers whether what they mean is
// still there.
#include "fed/server.h"

#include "base/bytes.h"
#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

void server_slots_open(struct server *s)
{
    if (fed_state_floats(s->env) > 0)
        s->slot = mem_alloc(MEM_SERVER, (size_t)s->env->fed->clients * sizeof *s->slot);
}

struct slot_gen server_slot(const struct server *s, uint32_t client)
{
    struct slot_gen g = s->slot[client];
    g.round &= ~SLOT_LOST;
    return g;
}

void server_slot_keep(struct server *s, uint32_t client, uint32_t version)
{
    if (s->slot)
        s->slot[client] =
            (struct slot_gen){version | (s->slot[client].round & SLOT_LOST), s->epoch};
}

// Asks an endpoint for the state of its clients, so many per frame.
static void ask(struct server *s, int endpoint, uint8_t *buf)
{
    uint32_t clients = (uint32_t)s->env->fed->clients, workers = (uint32_t)s->workers;
    size_t len = 0;
    for (uint32_t c = (uint32_t)endpoint - 1; c < clients; c += workers) {
        struct slots_entry entry = {c, server_slot(s, c)};
        assert(fed_owner(c, s->workers) == endpoint);
        if (entry.gen.round > 0) {
            slots_entry_put(&entry, buf + len);
            len += SLOTS_ENTRY_BYTES;
        }
        bool last = clients - c <= workers;
        if (len == SLOTS_PER_FRAME * SLOTS_ENTRY_BYTES || (last && len > 0)) {
            s->peer[endpoint].owes_slots++;
            server_control(s, endpoint, FRAME_SLOTS, buf, len, 0);
            len = 0;
        }
    }
}

void server_slots_ask(struct server *s)
{
    if (!s->slot || s->round == 0)
        return;
    uint8_t *buf = mem_alloc(MEM_SERVER, SLOTS_PER_FRAME * SLOTS_ENTRY_BYTES);
    for (int e = 1; e <= s->workers; e++)
        ask(s, e, buf);
    mem_free(buf);
}

// A client that is missing begins anew, and is marked for the rest of the run.
void server_slots_take(struct server *s, const struct net_msg *m)
{
    struct server_peer *p = &s->peer[m->src];
    if (p->owes_slots == 0)
        return;
    p->owes_slots--;
    for (size_t at = 0; at + 4 <= m->frame.payload_bytes; at += 4) {
        uint32_t c = get_u32(m->payload + at);
        if (c < (uint32_t)s->env->fed->clients && fed_owner(c, s->workers) == m->src)
            s->slot[c] = (struct slot_gen){SLOT_LOST, s->epoch};
    }
}

// Clients whose state was lost, at this start or ever: how many, and the first of them by number.
static int lost_clients(const struct server *s, bool ever, char *names, size_t size)
{
    int n = 0;
    size_t at = 0;
    *names = '\0';
    for (uint32_t c = 0; s->slot && c < (uint32_t)s->env->fed->clients; c++) {
        struct slot_gen g = s->slot[c];
        if (!(g.round & SLOT_LOST) || (!ever && (g.round != SLOT_LOST || g.epoch != s->epoch)))
            continue;
        if (n++ < SLOTS_NAMED)
            at += (size_t)snprintf(names + at, size - at, "%s%u", n > 1 ? ", " : "", c);
    }
    if (n > SLOTS_NAMED)
        snprintf(names + at, size - at, ", ...");
    return n;
}

int server_slots_lost(const struct server *s, char names[SLOTS_NAMES])
{
    return lost_clients(s, true, names, SLOTS_NAMES);
}

bool server_slots_known(const struct server *s)
{
    for (int e = 1; e <= s->workers; e++)
        if (s->peer[e].owes_slots)
            return false;
    return true;
}

void server_slots_decide(const struct server *s)
{
    char names[SLOTS_NAMES];
    int n = lost_clients(s, false, names, sizeof names);
    if (n == 0)
        return;
    if (!s->env->lose_slots)
        die(STATUS_ENV,
            "run.resume: the state of %d client%s (%s) after round %u is missing or damaged in "
            "'%s'; put the files slots.* of that round back where each rank sees them, or let "
            "run.slots=lose begin these clients anew",
            n, n == 1 ? "" : "s", names, s->round, s->env->run_dir);
    warn("run.resume: the state of %d client%s (%s) after round %u is missing or damaged; %s anew",
         n, n == 1 ? "" : "s", names, s->round, n == 1 ? "it begins" : "they begin");
}
