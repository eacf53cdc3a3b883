// What the server does for a version whatever the way of its rounds: frames that carry it, rows of
// the messages that came for it, its end in the books, and those who are asked whether they live.
#ifndef FSTQ_FED_SERVER_BOOKS_H
#define FSTQ_FED_SERVER_BOOKS_H

#include "fed/server.h"

// The next version begins: its row is empty, its sums are.
void books_open(struct server *s);
// The commit: false = nothing moves, for the sum of the updates is not finite.
bool books_commit(struct server *s);
void books_still(struct server *s); // instead, where nothing came
// The score, where one is due after this version.
void books_evaluate(struct server *s);
// The end of a version whose messages are in the sink: its row, its events, its checkpoint. True:
// there is another one to come.
bool books_close(struct server *s, int64_t t_begin_ns);
// Before the first version, or after a resume: scores what there is at the start. Returns as
// books_close.
bool books_start(struct server *s);

// Going out.
// Bytes of the frame that brings this client the newest version, where that may be coded.
int64_t books_client_bytes(const struct server *s, uint32_t client);
struct frame books_model_head(const struct server *s);
// What a task carries: when its round began, where links vary with time; what the version took,
// where versions are coded; and where clients have state, what this one goes on from, with the
// round of the checkpoint that has to stay possible. Returns the length, TASK_BYTES at most.
#define TASK_BYTES (ROUND_START_BYTES + TASK_DOWN_BYTES + TASK_STATE_BYTES)
size_t books_put_task(const struct server *s, const struct round_start *start, uint32_t client,
                      uint32_t kept, int64_t down_bytes, uint8_t *out);

// Coming in. An update as such, and as that of this client, trained on this version.
enum message_status books_judge_frame(const struct net_msg *m);
enum message_status books_judge_update(const struct server *s, const struct frame *f,
                                       uint32_t version);
static inline bool books_head_read(const struct net_msg *m) // is m->frame what was sent?
{
    return m->verdict == FRAME_GOOD || m->verdict >= FRAME_TOO_LONG;
}
void books_warn(const struct server *s, const struct net_msg *m, enum message_status why);
void books_refuse(struct server *s, const struct net_msg *m, enum message_status why); // a row
// Which of its segments arrived, where updates travel as datagrams; overwritten by the next.
const uint8_t *books_heard(struct server *s, const struct update *u);
float books_weight(const struct server *s, const struct frame *f);
struct rec_message books_message(const struct server *s, uint32_t client, int endpoint);
// What a frame holds beside its first vector gets rows of its own.
void books_by_vector(struct rec_message *row, const struct update *u, int n);
struct rec_link books_link(const struct server *s, uint32_t client, int64_t bytes, int64_t ready_ns,
                           const struct link_result *r);

// What workers tell of a version beside their updates. Was this frame that?
bool books_take_events(struct server *s, const struct net_msg *m);
bool books_events_owed(const struct server *s); // by a worker that may still tell
// It is late: those who owe are suspected, if silent since then, and nobody waits for them.
void books_forgive_events(struct server *s, int64_t since_ns);

// Clients.
bool books_client_there(const struct server *s, uint32_t client, int64_t run_ns);
// Energy of a client's way, which began at this time.
void books_draw(struct server *s, uint32_t client, const struct client_times *t, int64_t run_ns);

// Workers.
bool books_worker_up(const struct server *s);   // any: neither dead nor suspected
bool books_worker_left(const struct server *s); // any that is not dead
void books_ask_suspects(struct server *s);

#endif
