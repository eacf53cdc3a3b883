// What is measured, as rows. One table of row types (record_tables) says name, type and unit of
// every field; the HDF5 writer, the journal, `show`, the CSV export and the tests walk it.
#ifndef FSTQ_BASE_RECORD_H
#define FSTQ_BASE_RECORD_H

#include "base/clock.h"
#include "base/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Stages. Ids are forever: they are stored. Add at the end, and a row in record.c.
enum stage {
    STAGE_PAD = 0, // fills the tail of a chunk; readers skip it
    STAGE_ROUND,
    STAGE_BROADCAST,
    STAGE_DOWNLOAD,
    STAGE_TRAIN,
    STAGE_FISHER,
    STAGE_SELECT, // inside encode
    STAGE_ALLOC,  // inside encode
    STAGE_ENCODE,
    STAGE_PACK, // inside encode
    STAGE_UPLOAD,
    STAGE_WAIT,
    STAGE_DECODE,
    STAGE_AGGREGATE,
    STAGE_COMMIT,
    STAGE_EVALUATE,
    STAGE_CHECKPOINT,
    STAGE_TRACE,
    STAGE_SLOT,       // a client's state read from or written to its slot file
    STAGE_FORWARD,    // inside train
    STAGE_BACKWARD,   // inside train
    STAGE_OPTIMIZER,  // inside train
    STAGE_EMBED_GRAD, // inside train: the part of backward below the lowest adapter
    STAGE_MASK,       // inside train: choosing the tokens whose loss counts
    STAGE_PRIVACY,    // clip and noise
    STAGE_SETUP,
    STAGE_SYNC,       // inside checkpoint, slot and trace: waiting for the disk
    STAGE_REFRESH,    // inside train: averaging the scores of tokens
    STAGE_ACCUMULATE, // inside train: averaging the adapter's gradients for the codec
    STAGE_MERGE,      // inside train: merging tokens, its gradient included
    STAGE_FEEDBACK,   // inside encode: adding the residual, and taking the next one
    STAGE_QUANTISE,   // inside encode: values to codes
    STAGE_ENTROPY,    // inside encode: codes to fewer bits
    STAGE_ORACLE,     // the true Fisher, example by example
    STAGE_DRAW,       // inside train: batches in, vectors in and out
    STAGE_COUNT
};

enum lane { LANE_COMPUTE, LANE_ENCODE, LANE_NET, LANE_IO, LANE_COUNT };

struct stage_row {
    const char *name;
    enum lane lane;
    bool inner;        // left out of sums of shares: another stage holds its time
    enum stage within; // the one stage it is a part of; STAGE_PAD = none, or parts of several
    const char *includes, *excludes;
};

extern const struct stage_row stage_table[STAGE_COUNT];
// All stages, each behind the one it is a part of; depth says how many it lies in. Returns how
// many.
int stage_order(enum stage order[STAGE_COUNT], int depth[STAGE_COUNT]);
extern const char *const lane_name[LANE_COUNT];

// Rows. Missing integers are -1, missing floats NaN. No padding holes: fields are ordered by size.
struct rec_event {
    // Since the start of the run, on rank 0's clock; modelled time under sim.
    int64_t t_start_ns, dur_ns;
    int64_t cpu_ns; // all threads of the rank, -1 = not taken
    int64_t bytes_in, bytes_out;
    int64_t energy_uj;
    int32_t run, version, attempt, client, rank; // client -1: the server's own
    uint8_t stage, flags, pad[2];
};
enum {
    EVENT_MODELLED = 1,
    EVENT_LOW_CONFIDENCE = 2,
    EVENT_SHARED = 4,  // an equal part of what several clients took together
    EVENT_SUMMED = 8,  // the sum of a part's visits: its length is measured, its place is not
    EVENT_TOKENS = 16, // bytes_in are tokens, int32_t each
};

struct rec_round {
    int64_t uplink_bytes, downlink_bytes;     // as counted per client
    int64_t control_bytes, control_up_bytes;  // all other frames; those of them from the workers
    int64_t relay_up_bytes, relay_down_bytes; // between relays and the server
    // Everything the transport moved, each copy once.
    int64_t wire_bytes;
    int64_t uplink_total_bytes; // cumulative uplink of the run
    int64_t time_measured_ns, time_modelled_ns;
    int64_t compute_max_ns, upload_max_ns, download_max_ns; // modelled terms of the slowest client
    double train_loss, score, eval_loss, update_norm, energy_j, energy_modelled_j, server_lr;
    uint64_t adapter_xxh3;
    int32_t run, version, attempt;
    int32_t sampled, dropped, lost, rejected, arrived;
};

enum message_status {
    MESSAGE_OK,
    MESSAGE_CORRUPT,    // checksum or decoder said no
    MESSAGE_STALE,      // of another round
    MESSAGE_VERSION,    // another protocol
    MESSAGE_SIZE,       // longer than negotiated, or not as long as it says
    MESSAGE_SHAPE,      // another shape registry
    MESSAGE_NONFINITE,  // NaN or Inf in the update
    MESSAGE_UNEXPECTED, // a kind, client or copy that nobody asked for
    MESSAGE_LOST,       // asked for and never arrived
    MESSAGE_LINK,       // the model of its link lost it
    MESSAGE_UNUSED,     // sound, but late, or one of too few
    MESSAGE_STATUS_COUNT
};
extern const char *const message_status_name[MESSAGE_STATUS_COUNT];

#define RECORD_WIDTHS 9
extern const int record_width_bits[RECORD_WIDTHS]; // 0 1 2 3 4 6 8 16 32
// Of so many bits, at most 32: the place of the least width that holds them.
extern const uint8_t record_width_of[33];

struct rec_message {
    int64_t frame_bytes; // = header + directory + scales + indices + tags + values
    int64_t header_bytes, directory_bytes, scales_bytes, indices_bytes, tags_bytes, values_bytes;
    int64_t kept[RECORD_WIDTHS]; // values sent at each width
    double nmse;                 // against the uncompressed update, as the client measured it
    double norm;                 // of the update before clipping
    double weight;
    int64_t staleness; // rounds since the client's residual was committed, -1 = none
    int32_t run, version, attempt, client, rank, status, vector, lag;
    char coded_on[16]; // device whose stages went over the values, "" = not told
};

struct rec_eval {
    double value;
    int64_t n;
    int32_t run, version, attempt, pad;
    char set[24], metric[24]; // "all" or a language; "score", "loss", "em", "rouge_l"
};

struct rec_alloc {
    int64_t kept[RECORD_WIDTHS];
    int32_t run, version, attempt, rank, tensor, messages;
    char name[48]; // of the tensor: its layer and matrix
};

struct rec_link {
    int64_t bytes, bytes_sent, t_ready_ns, t_deliver_ns, latency_ns; // t_deliver_ns -1: never
    int64_t said_ns;
    double rate_bps;
    double compute_j, send_j; // of an upload, NaN where the client's powers are not known
    int32_t run, version, attempt, client, up; // up 1 = client to server
    int32_t lost;                              // segments, when first sent
};

struct rec_sensor {
    int64_t t_ns;
    double milliwatt, celsius, value;
    int32_t run, version, rank, pad;
    char rail[24], unit[8];
};

struct rec_run {
    int64_t seed;
    int32_t run, pad;
    char method[1024], setting[120]; // as long as struct method has it
};

struct rec_summary {
    double value;
    int32_t run, pad;
    char key[40], unit[16];
};

struct rec_partition { // the realised partition: examples of a group at a client
    int64_t n;
    int32_t run, client, group, pad;
    char name[24];
};

struct rec_rank {
    int64_t pid, clock_offset_start_ns, clock_offset_end_ns, clock_rtt_ns, rss_peak_bytes;
    int64_t mem_peak_bytes[MEM_PURPOSES]; // by purpose, -1 = not told
    int32_t rank, threads;
    char host[64], role[16], cpuset[64], gpu[64];
};

enum record_id {
    REC_RUNS,
    REC_EVENTS,
    REC_ROUNDS,
    REC_MESSAGES,
    REC_EVAL,
    REC_ALLOC,
    REC_LINKS,
    REC_SENSORS,
    REC_SUMMARY,
    REC_RANKS,
    REC_PARTITION,
    REC_COUNT
};

enum field_type {
    FIELD_I32,
    FIELD_I64,
    FIELD_U64,
    FIELD_F64,
    FIELD_U8,
    FIELD_TEXT,
    FIELD_STAGE,
    FIELD_STATUS
};

struct record_field {
    const char *name; // NULL ends the list; padding has no field
    enum field_type type;
    uint16_t offset, count; // count > 1: an array; for FIELD_TEXT the size in bytes
    const char *unit, *help;
};

struct record_table {
    const char *name; // dataset: "/events"
    size_t row_bytes;
    size_t chunk_rows; // every flush writes whole chunks
    size_t pad_offset; // of the field that marks a padding row: stage = PAD, else run = -1
    const struct record_field *fields;
    const char *help;
};

extern const struct record_table record_tables[REC_COUNT];
bool record_is_pad(enum record_id id, const void *row);
void record_make_pad(enum record_id id, void *row);

// Spans.
// A ring made at start; recording neither allocates nor locks. When it is full the oldest are lost
// and counted. One recorder per rank, used from one thread.
struct recorder {
    struct rec_event *ring;
    size_t cap, head, n;           // head: next slot to write
    int64_t total_ns[STAGE_COUNT]; // of all rows put, by stage
    int64_t lost, origin_ns;
    int32_t run, version, attempt, rank;
    bool cpu; // take CPU time too
};

struct span {
    int64_t t_ns, cpu_ns;
};

void recorder_init(struct recorder *r, size_t cap, int32_t rank, bool cpu);
void recorder_free(struct recorder *r);
size_t recorder_drain(struct recorder *r, struct rec_event *out, size_t max); // oldest first
void recorder_put(struct recorder *r, enum stage stage, int32_t client, int64_t t_ns,
                  int64_t dur_ns, int64_t cpu_ns, int64_t bytes_in, int64_t bytes_out,
                  uint8_t flags);

static inline struct span span_begin(const struct recorder *r)
{
    struct span s = {0, -1};
    if (r->cpu)
        s.cpu_ns = clock_cpu_ns();
    s.t_ns = clock_ns();
    return s;
}

static inline int64_t span_end(struct recorder *r, struct span s, enum stage stage, int32_t client,
                               int64_t bytes_in, int64_t bytes_out)
{
    int64_t t = clock_ns();
    int64_t cpu = s.cpu_ns < 0 ? -1 : clock_cpu_ns() - s.cpu_ns;
    recorder_put(r, stage, client, s.t_ns, t - s.t_ns, cpu, bytes_in, bytes_out, 0);
    return t - s.t_ns;
}

// The parts of one span, laid end to end: each lap books the time since the lap before it, so that
// the parts are the whole. A part may come back; its times add up. A NULL is nobody's watch.
struct laps {
    struct span first, last;
    enum stage stage; // of the last lap, STAGE_PAD = none yet
    int64_t dur_ns[STAGE_COUNT], cpu_ns[STAGE_COUNT];
};

void laps_begin(struct laps *l, const struct recorder *r);
void lap_book(struct laps *l, enum stage stage);
// Puts one row per part, and one of the whole. What came after the last lap belongs to its part;
// where there was no lap, to `rest`. Returns the whole's time.
int64_t laps_end(struct laps *l, struct recorder *r, enum stage whole, enum stage rest,
                 int32_t client, int64_t bytes_in, int64_t bytes_out);

static inline void lap(struct laps *l, enum stage stage)
{
    if (l)
        lap_book(l, stage);
}

// Around a callee that may or may not say laps: what it leaves open goes to its last part, or to
// `rest`.
static inline void laps_enter(struct laps *l)
{
    if (l)
        l->stage = STAGE_PAD;
}
static inline void laps_leave(struct laps *l, enum stage rest)
{
    if (l)
        lap_book(l, l->stage == STAGE_PAD ? rest : l->stage);
}

#endif
