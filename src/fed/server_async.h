// What the files of the asynchronous server share.
#ifndef FSTQ_FED_SERVER_ASYNC_H
#define FSTQ_FED_SERVER_ASYNC_H

#include "fed/server.h"

struct kept_version { // as long as somebody is under way from it
    struct frame head;
    float *theta;         // (n_model)
    struct netbuf *model; // NULL = not packed yet
    bool *sent;           // (1 + workers) that have it
    int users;
};

struct away {                // a client under way
    uint32_t client, number; // number: of its dispatch
    int endpoint;
    struct round_start start; // of its way; round: the version it trains on
    struct kept_version *from;
    bool known;    // whether there is an update, and what
    int64_t at_ns; // its arrival on the run's clock; until it is known, no later than that
    enum message_status status;
    struct client_times times;
    struct frame frame;
    struct netbuf *held;
    int64_t frame_bytes; // header and all, 0 = none came
    struct rec_message row;
    int64_t sent_ns, patience_ns; // on the transport's clock
};

enum round_state {
    ROUND_OPEN,
    ROUND_HELD,    // nobody is there: it waits for somebody, or its deadline
    ROUND_MADE,    // the version is; the last waits for those under way, whom nobody else will hear
    ROUND_SETTLING // workers put away what belongs to it
};
enum place { PLACE_FREE, PLACE_AWAY, PLACE_RESTS };

struct async_rounds {
    const struct async_rule *rule;
    int32_t buffer, places;       // updates that make a version; clients under way
    int64_t now_ns;               // on the run's clock
    int64_t open_ns;              // of the version being made
    int64_t t_begin_ns;           // monotonic clock
    int64_t t_settle_ns, wait_ns; // transport's clock; wait_ns: until when, held or settling
    uint32_t n_sent, n_draws;     // dispatches of the run; draws of this version
    struct away *away;            // (places)
    int n_away, n_versions;
    struct kept_version **version; // (places + 1) ascending; the last is the one to set out from
    uint8_t *place;                // (clients)
    uint32_t *list, *drawn;        // scratch: (clients), (places)
    uint32_t *checkpointed;        // (clients) the state that the newest checkpoint names; or NULL
    struct rec_message *done;      // of this version
    size_t n_done, done_cap;
    enum round_state state;
};

struct kept_version *async_new_version(struct server *s, uint32_t round);
struct kept_version *async_find_version(const struct async_rounds *a, uint32_t round);
// One more under way, since a time on the run's clock.
struct away *async_put_away(struct server *s, uint32_t client, uint32_t number,
                            struct kept_version *from, int64_t run_ns);

// async_keep.c: what checkpoints hold of them, for the handlers.
size_t async_keep_words(const struct server *s);
void async_keep(const struct server *s, uint8_t *out);
int async_restore(struct server *s, const uint8_t *in, size_t words, struct err *err);

#endif
