// A worker: a state machine that trains the clients it owns and sends what they have learned.
// Greeting and goodbye are common; what lies between belongs to the scheme's handlers.
#ifndef FSTQ_FED_WORKER_H
#define FSTQ_FED_WORKER_H

#include "fed/client.h"
#include "fed/env.h"
#include "fed/protocol.h"

struct worker {
    const struct fed_env *env;
    int endpoint;
    bool welcome, set_up, stop, clean_stop;
    uint32_t version; // the newest it was sent
    struct clients clients;
    void *rounds; // of the handlers
    struct rec_event *drain;
    size_t drain_cap;
    struct hello server;
    int64_t last_heard_ns, alive_check_ns;
    int64_t said_ns; // that it is at work
};

// What a worker does between greeting and goodbye, the twin of the server's handlers.
struct worker_handlers {
    const char *name;
    void (*open)(struct worker *w); // makes w->rounds
    void (*close)(struct worker *w);
    void (*message)(struct worker *w, const struct net_msg *m); // good ones
    bool (*busy)(const struct worker *w);                       // has something to compute now
    void (*step)(struct worker *w);                             // one piece of it
};

struct worker *worker_open(const struct fed_env *env, int endpoint, struct err *err);
void worker_close(struct worker *w);
void worker_start(struct worker *w); // says hello
void worker_message(struct worker *w, const struct net_msg *m);
bool worker_busy(const struct worker *w);
void worker_step(struct worker *w);
void worker_timer(struct worker *w, int64_t now);

// for the handlers.
void worker_send(struct worker *w, struct frame *f, struct netbuf *b, int64_t t_deliver);
// Sends an update over its client's link, books its upload and gives b back.
void worker_send_update(struct worker *w, struct frame *head, struct netbuf *b, int64_t t_deliver,
                        const struct link_transfer *over);
// The same of what a client says in the middle of its round.
void worker_say(struct worker *w, struct frame *head, struct netbuf *b,
                const struct link_transfer *over);
void worker_send_sum(struct worker *w, struct frame *head, struct netbuf *b, int64_t t_deliver);
void worker_fail(struct worker *w, uint32_t version, uint32_t client, enum message_status status,
                 const char *why);                                 // there is no update
bool worker_take_model(struct worker *w, const struct net_msg *m); // false: it is none
// The same in two: when it has come, and when its clients' turn comes.
void worker_note_model(struct worker *w, const struct net_msg *m);
bool worker_turn_to(struct worker *w, const struct frame *f, const uint8_t *payload);
void worker_send_events(struct worker *w); // spans, messages, widths and sensors since the last
// The server has decided: client state is made durable, then it may go on.
void worker_settle(struct worker *w);

#endif
