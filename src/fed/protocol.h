// Payloads of the frames that server and workers exchange, little-endian, read with bounds checks.
#ifndef FSTQ_FED_PROTOCOL_H
#define FSTQ_FED_PROTOCOL_H

#include "base/record.h"
#include "fed/slots.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hello {                                // worker to server, once
    uint64_t config_hash, boot_id, pid_space; // boot and pid namespace: is `pid` one of ours?
    int64_t pid;
    int32_t rank, threads;
    char host[64], build[64], cpuset[64], gpu[64];
};
#define HELLO_BYTES (4 + 3 * 8 + 8 + 2 * 4 + 4 * 64)

struct welcome { // server to worker
    uint64_t run_id, max_payload_bytes;
    uint32_t resumed_at; // last committed round
    int64_t origin_ns;   // of the run, on the server's clock
};
#define WELCOME_BYTES 28
// The part of a run that begins with this welcome; never 0.
uint32_t welcome_epoch(const struct welcome *w);

// A task is a header, and what of the following three it needs, in this order.
// When a round begins, where links vary with time: they go on where the last round left them.
struct round_start {
    uint32_t round;   // as the frame says
    int64_t run_ns;   // on the run's clock: modelled time of the rounds before
    int64_t clock_ns; // on the transport's, where that is virtual
};
#define ROUND_START_BYTES 16

// Where versions are coded: bytes of the frame that brings the client its version, u64.
#define TASK_DOWN_BYTES 8

// Where clients have state: what this one goes on from, and the round of the newest checkpoint.
struct task_state {
    struct slot_gen newest;
    uint32_t kept;
};
#define TASK_STATE_BYTES 12

// Of SLOTS from the server: so many clients per frame, and each one's newest generation. The worker
// answers each frame with the numbers of those clients whose state it cannot find, u32 each.
struct slots_entry {
    uint32_t client;
    struct slot_gen gen;
};
#define SLOTS_ENTRY_BYTES 12
#define SLOTS_PER_FRAME   65536

struct bye { // worker to server, last: peaks of memory
    int64_t rss_peak_bytes, mem_peak_bytes[MEM_PURPOSES];
};
#define BYE_BYTES (8 * (1 + MEM_PURPOSES))

void hello_local(struct hello *h); // fills pid, pid_space, boot_id, build
void hello_put(const struct hello *h, uint8_t *out);
int hello_get(const uint8_t *in, size_t len, struct hello *h); // -1: wrong length or byte order
bool hello_self(const struct hello *peer);                     // this process
bool hello_alive(
    const struct hello *peer); // false only if it surely died: same host and pid space, no such pid

void welcome_put(const struct welcome *w, uint8_t *out);
int welcome_get(const uint8_t *in, size_t len, struct welcome *w);

void round_start_put(const struct round_start *s, uint8_t *out);
// Both times are 0 where len is; -1: any other length, or a time before the run.
int round_start_get(const uint8_t *in, size_t len, struct round_start *s);
void task_state_put(const struct task_state *t, uint8_t *out);
int task_state_get(const uint8_t *in, size_t len, struct task_state *t);
void slots_entry_put(const struct slots_entry *e, uint8_t *out);
void slots_entry_get(const uint8_t *in, struct slots_entry *e);

void bye_local(struct bye *b);
void bye_put(const struct bye *b, uint8_t *out);
int bye_get(const uint8_t *in, size_t len, struct bye *b);

// UPDATE: the messages of its vectors one after another. Of several, the length u32 of each comes
// first.
size_t vectors_head_bytes(int n);
void vectors_put_head(uint8_t *out, const size_t *len, int n);
// Where each message lies; -1: the lengths are not those of n vectors.
int vectors_get(const uint8_t *in, size_t size, int n, const uint8_t **at, size_t *len);

// EVENTS: sections of rows of the record's tables, each with its table u32 and count u32. Rows
// travel as they lie in memory, which hello has checked to be the same on both sides.
struct rows_section {
    enum record_id id;
    size_t n;
    const void *rows; // may lie anywhere: copy before reading
};
#define ROWS_SECTION_BYTES 8
size_t rows_bytes(const struct rows_section *s, int n);
void rows_put(uint8_t *out, const struct rows_section *s, int n);
// The section at *at, which moves behind it: 1, 0 at the end, -1 where the bytes are no such thing.
int rows_get(const uint8_t *in, size_t len, size_t *at, struct rows_section *s);

#endif
