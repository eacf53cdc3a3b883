// Ping-pong between ranks 0 and 1, raw MPI or frames, in one run and by turns: what a frame costs
// is told by the ratio. Rank 0 measures, rank 1 follows its orders, further ranks wait; between
// measurements they wait by the transport's naps, so that nobody spins beside somebody else's
// benchmark.
#ifndef FSTQ_BENCH_PINGPONG_H
#define FSTQ_BENCH_PINGPONG_H

#include "bench/bench.h"
#include "net/transport.h"

enum pingpong_mode { PINGPONG_RAW, PINGPONG_FRAME, PINGPONG_HASHED, PINGPONG_MODES };

struct pingpong {
    struct net_params net;
    struct transport t;
    struct netbuf *ping;
    // Raw messages leave from one buffer and arrive in another, as frames do: to write into what
    // was just sent makes the next copy fetch every line from the other core.
    uint8_t *raw_out, *raw_in;
    uint32_t turn;
    int64_t bad; // frames that did not arrive as they were sent
};

struct pingpong_arg { // of a bench_case
    struct pingpong *p;
    enum pingpong_mode mode;
    size_t bytes;
};

// Both on every rank. Ranks other than 0 return from serve when rank 0 stops.
void pingpong_open(struct pingpong *p, size_t max_bytes);
void pingpong_serve(struct pingpong *p);
void pingpong_stop(struct pingpong *p); // rank 0
void pingpong_close(struct pingpong *p);

// For struct bench_case: announces n round trips, then makes them.
void pingpong_prepare(void *arg, int64_t n);
void pingpong_loop(void *arg, int64_t n);
// One round trip of fresh bytes, compared in full on both sides.
bool pingpong_intact(struct pingpong *p, enum pingpong_mode mode, size_t bytes);

#endif
