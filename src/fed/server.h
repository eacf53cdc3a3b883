// The server: a state machine over messages and timers. Start-up and the end are common; the rounds
// between belong to the scheme's handlers.
#ifndef FSTQ_FED_SERVER_H
#define FSTQ_FED_SERVER_H

#include "base/power.h"
#include "fed/checkpoint.h"
#include "fed/global.h"
#include "fed/protocol.h"

#include <signal.h>

enum server_phase {
    SERVER_GREET,    // hellos come in
    SERVER_SLOTS,    // of a resumed run: the workers look for their clients' state
    SERVER_CLOCKS,   // pings measure each worker's clock
    SERVER_ROUNDS,   // the scheme's handlers have the floor
    SERVER_FAREWELL, // the clocks once more
    SERVER_PARTING,  // clients are given what is theirs
    SERVER_STOPPING, // stop is sent, byes come in
    SERVER_DONE
};

struct server_peer { // a worker endpoint
    struct hello hello;
    struct bye last; // its memory; rss_peak_bytes 0 = not told
    bool greeted, dead, suspect, bye;
    bool owes_events;    // of the round
    uint32_t tasks;      // of the round
    uint32_t owes_slots; // answers about its clients' state
    int64_t offset_start_ns, offset_end_ns, rtt_ns;
    int pongs;
    int64_t ask_again_ns; // of a suspect
    int64_t heard_ns;     // last good frame, on the transport's clock
};

struct downlink; // downlink.h

struct server_kept { // checkpoints of this process
    uint32_t round;  // of the newest on disk, 0 = none
    int32_t missed;  // rounds that have none
    bool failing;    // the last try
    char why[160];   // the last failure, "" = none
};

struct server {
    const struct fed_env *env;
    const struct fed_sink *sink;
    enum server_phase phase;
    struct server_peer *peer; // 1..workers
    int workers;
    int64_t deadline_ns, alive_check_ns; // on the transport's clock
    int64_t origin_ns;                   // of the run, monotonic clock
    const volatile sig_atomic_t *stop;   // once not 0, the run ends with its round; NULL = never
    bool told_silence;                   // what net.timeout_s is for
    bool unclean;
    char failure[160]; // "" = none: why the run ended before its last round
    struct server_kept kept;

    struct global global;
    struct downlink *down; // NULL = versions travel as they are
    uint64_t run_id;
    struct slot_gen *slot;        // (clients) the state each goes on from, NULL = clients keep none
    double *battery;              // (clients) see presence.h, NULL = they have none
    uint32_t epoch;               // of the state that is made from now on
    double first_loss, last_loss; // mean training losses of rounds with updates, NAN = none yet
    struct checkpoint_totals totals;
    struct checkpoint_totals at_start; // of this process, for rates after a resume

    uint32_t round; // the version being made, 1..rounds; 0 before the first
    struct rec_round row;
    int64_t round_wire_bytes;
    int64_t relay_up_bytes, relay_down_bytes; // of this process
    struct power_sum power;
    struct eval_result eval;
    struct parting *parting;   // once a last version is made, see server_parting.c
    struct personal *personal; // what clients told, see personal.h; NULL = the server evaluates
    void *rounds;              // of the handlers
    uint8_t *ckpt, *more;      // scratch: a checkpoint's bytes; what the handlers keep of it
    size_t ckpt_cap, more_cap;
    uint8_t *heard; // scratch of books_heard
    size_t heard_cap;
    struct rec_event *drain; // scratch for rows
    size_t drain_cap;
};

bool server_stopping(const struct server *s);

// A way of running rounds. `begin` is called once the workers are greeted; the handlers call
// server_finish.
struct server_handlers {
    const char *name;
    void (*open)(struct server *s); // makes s->rounds
    void (*close)(struct server *s);
    void (*begin)(struct server *s, int64_t now);
    void (*message)(struct server *s, const struct net_msg *m);
    void (*timer)(struct server *s, int64_t now);
    // The row that a client's own report belongs to (by client, version and vector), NULL = none.
    struct rec_message *(*row)(struct server *s, const struct rec_message *report);
    // What checkpoints hold beside the model, in 32-bit words, and back again before `begin`: -1
    // with err where the bytes are no such thing. NULL = nothing.
    size_t (*keep_words)(const struct server *s);
    void (*keep)(const struct server *s, uint8_t *out);
    int (*restore)(struct server *s, const uint8_t *in, size_t words, struct err *err);
};

struct server *server_open(const struct fed_env *env, const struct fed_sink *sink, struct err *err);
void server_close(struct server *s);
void server_message(struct server *s, const struct net_msg *m);
void server_timer(struct server *s, int64_t now);
int64_t server_next_timer(const struct server *s);
static inline bool server_done(const struct server *s)
{
    return s->phase == SERVER_DONE;
}

// for the handlers. Seals and sends; payload already in b; version 0 is the one being made.
// Everything but models, updates and what is said in a round is counted as control bytes.
void server_send(struct server *s, int endpoint, struct frame *f, struct netbuf *b,
                 int64_t t_deliver, const struct link_transfer *over);
void server_control(struct server *s, int endpoint, enum frame_kind kind, const void *payload,
                    size_t len, uint8_t reason);
const char *server_peer_name(const struct server *s, int endpoint); // for messages; overwritten
bool server_peer_up(const struct server *s, int endpoint);          // neither dead nor suspected
void server_suspect(struct server *s, int endpoint, const char *why);
// Suspects an endpoint that has said nothing since a time on the transport's clock; one that has is
// merely slow or unlucky.
void server_suspect_silent(struct server *s, int endpoint, int64_t since_ns);
void server_check_alive(struct server *s);
void server_evaluate(struct server *s);
void server_checkpoint(struct server *s);
// The frame of a version (n_model), to be sent as it is.
struct netbuf *server_pack_model(struct server *s, const float *theta);
// As much of it as a part of the view holds.
struct netbuf *server_pack_part(struct server *s, const struct view_part *part);
// And where versions are coded: what the endpoint lacks of the newest.
struct netbuf *server_pack_changes(struct server *s, int endpoint);
int64_t server_take_wire(struct server *s); // bytes the transport moved since it was last asked
void server_flush_events(struct server *s); // rows of the server's own recorder to the sink
// What the boards drew since it was last asked, by what their ranks have told; NaN = nobody knows.
double server_take_energy(struct server *s);
void server_take_events(struct server *s, const struct net_msg *m);
// server_slots.c. In the round of a generation: the state before it was lost.
#define SLOT_LOST   0x80000000u
#define SLOTS_NAMED 8
#define SLOTS_NAMES (12 * SLOTS_NAMED + 8)
void server_slots_open(struct server *s);
struct slot_gen server_slot(const struct server *s, uint32_t client);
// An update trained on this version was taken.
void server_slot_keep(struct server *s, uint32_t client, uint32_t version);
// At a resume: asks the workers, takes an answer; are all in; and goes on, or ends the job.
void server_slots_ask(struct server *s);
void server_slots_take(struct server *s, const struct net_msg *m);
bool server_slots_known(const struct server *s);
void server_slots_decide(const struct server *s);
// Clients whose state was lost in this run, and the first few of them by number.
int server_slots_lost(const struct server *s, char names[SLOTS_NAMES]);

// server_parting.c. Books it with the last version, before that is closed: bytes, links, the time
// of the slowest.
void server_parting_book(struct server *s);
void server_parting_begin(struct server *s);
void server_parting_taken(struct server *s, const struct net_msg *m); // a rank has one: the next
bool server_parting_owes(const struct server *s, int endpoint);       // its answer, and it is up
bool server_parting_done(const struct server *s);
void server_parting_close(struct server *s);
void server_finish(struct server *s); // no more rounds: farewell

#endif
