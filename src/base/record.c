#include "base/record.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

const char *const lane_name[LANE_COUNT] = {
    [LANE_COMPUTE] = "compute",
    [LANE_ENCODE] = "encode",
    [LANE_NET] = "net",
    [LANE_IO] = "io",
};

// clang-format off
const struct stage_row stage_table[STAGE_COUNT] = {
    [STAGE_PAD] = {"pad", LANE_IO, true, STAGE_PAD,
        "nothing: fills the tail of a chunk", "everything"},
    [STAGE_ROUND] = {"round", LANE_COMPUTE, true, STAGE_PAD,
        "sampling to commit, as the server sees it", "evaluation, checkpoint and trace"},
    [STAGE_BROADCAST] = {"broadcast", LANE_NET, false, STAGE_PAD,
        "sealing the adapter and handing it to the transport for every sampled client",
        "its travel"},
    [STAGE_DOWNLOAD] = {"download", LANE_NET, false, STAGE_PAD,
        "a version's way into a rank: from the first of its bytes seen to its place in memory, "
        "checks included",
        "waiting for the server to send; modelled links, which are in /links"},
    [STAGE_TRAIN] = {"train", LANE_COMPUTE, false, STAGE_PAD,
        "all local steps of a client", "compression, transfer and slot files"},
    [STAGE_FISHER] = {"fisher", LANE_COMPUTE, true, STAGE_PAD,
        "all that sensitivities and scores of tokens cost a client: "
        "embed_grad, mask, refresh, accumulate and oracle",
        "what training costs without them"},
    [STAGE_SELECT] = {"select", LANE_ENCODE, true, STAGE_ENCODE,
        "the part of encode that scores coordinates and chooses or draws those to send",
        "their widths and values"},
    [STAGE_ALLOC] = {"alloc", LANE_ENCODE, true, STAGE_ENCODE,
        "the part of encode that chooses widths under the byte budget, trial sizes included",
        "estimating the sensitivities"},
    [STAGE_ENCODE] = {"encode", LANE_ENCODE, false, STAGE_PAD,
        "update to bytes: feedback, select, alloc, quantise, pack, entropy, whose sum it is",
        "frame header and checksum"},
    [STAGE_PACK] = {"pack", LANE_ENCODE, true, STAGE_ENCODE,
        "the part of encode that lays codes, positions and tags into bits",
        "quantise, where codes are laid as they are made"},
    [STAGE_UPLOAD] = {"upload", LANE_NET, false, STAGE_PAD,
        "the update's way out of a rank: from sealing to the last byte gone; inside one process, "
        "sealing",
        "decoding; modelled links, which are in /links"},
    [STAGE_WAIT] = {"wait", LANE_NET, false, STAGE_PAD,
        "nothing to do until a message or a deadline", "handling it"},
    [STAGE_DECODE] = {"decode", LANE_ENCODE, false, STAGE_PAD,
        "bytes to weighted sum, checks included", "the frame's checksum"},
    [STAGE_AGGREGATE] = {"aggregate", LANE_COMPUTE, false, STAGE_PAD,
        "closing the sum: weights, means, aggregations of a codec's own", "decoding"},
    [STAGE_COMMIT] = {"commit", LANE_COMPUTE, false, STAGE_PAD,
        "the server optimiser's step on the global adapter", "the aggregate"},
    [STAGE_EVALUATE] = {"evaluate", LANE_COMPUTE, false, STAGE_PAD,
        "scoring the global adapter, or a client its own", "training loss, which comes from train"},
    [STAGE_CHECKPOINT] = {"checkpoint", LANE_IO, false, STAGE_PAD,
        "writing, syncing and renaming the server's state", "client slots"},
    [STAGE_TRACE] = {"trace", LANE_IO, false, STAGE_PAD,
        "writing and flushing HDF5 and the journal",
        "recording spans, which costs under 100 ns each"},
    [STAGE_SLOT] = {"slot", LANE_IO, false, STAGE_PAD,
        "a client's state read from or written to its slot file", "using it"},
    [STAGE_FORWARD] = {"forward", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that computes the loss", "gradients"},
    [STAGE_BACKWARD] = {"backward", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that computes the adapter's gradients",
        "embed_grad; the optimiser"},
    [STAGE_OPTIMIZER] = {"optimizer", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that updates the adapter", "gradients"},
    [STAGE_EMBED_GRAD] = {"embed_grad", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that takes gradients on below the lowest adapter, for "
        "scores of tokens",
        "the adapters' gradients: backward"},
    [STAGE_MASK] = {"mask", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that chooses the tokens whose loss counts", "scoring them"},
    [STAGE_PRIVACY] = {"privacy", LANE_ENCODE, false, STAGE_PAD,
        "clipping an update and adding noise to it, its norm included", "compression; accounting"},
    [STAGE_SETUP] = {"setup", LANE_IO, true, STAGE_PAD,
        "a rank's start to the first round: MPI, data, weights, greeting", "rounds"},
    [STAGE_SYNC] = {"sync", LANE_IO, true, STAGE_PAD,
        "the part of checkpoint, slot and trace that waits for the disk (fsync, fdatasync)",
        "writing"},
    [STAGE_REFRESH] = {"refresh", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that averages the scores of tokens",
        "their gradients: embed_grad"},
    [STAGE_ACCUMULATE] = {"accumulate", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that averages squares of the adapter's gradient for the codec",
        "the optimiser"},
    [STAGE_MERGE] = {"merge", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that matches and merges tokens, and takes gradients back through it; "
        "bytes are the activations that enter the first layer and the last",
        "forward; backward"},
    [STAGE_FEEDBACK] = {"feedback", LANE_ENCODE, true, STAGE_ENCODE,
        "the part of encode that adds what the client keeps (a residual, momentum), decodes what "
        "was sent and keeps the rest",
        "the slot file"},
    [STAGE_QUANTISE] = {"quantise", LANE_ENCODE, true, STAGE_ENCODE,
        "the part of encode that turns values into codes: checks, scales, transforms, rounding; "
        "also laying the codes into bits where one pass does both, and fetching the update from a "
        "device where the host codes it",
        "entropy coding"},
    [STAGE_ENTROPY] = {"entropy", LANE_ENCODE, true, STAGE_ENCODE,
        "the part of encode that codes symbols by their frequency or compresses whole messages",
        "trial sizes of a budget search: alloc"},
    [STAGE_ORACLE] = {"oracle", LANE_COMPUTE, false, STAGE_PAD,
        "the true diagonal Fisher after training, from every example of the client",
        "what training steps leave: accumulate"},
    [STAGE_DRAW] = {"draw", LANE_COMPUTE, true, STAGE_TRAIN,
        "the part of train that draws batches and lays them out, and copies a client's vectors "
        "in and out", "tokens' weights: mask"},
};
// clang-format on

const char *const message_status_name[MESSAGE_STATUS_COUNT] = {
    [MESSAGE_OK] = "ok",
    [MESSAGE_CORRUPT] = "corrupt",
    [MESSAGE_STALE] = "stale",
    [MESSAGE_VERSION] = "version",
    [MESSAGE_SIZE] = "size",
    [MESSAGE_SHAPE] = "shape",
    [MESSAGE_NONFINITE] = "nonfinite",
    [MESSAGE_UNEXPECTED] = "unexpected",
    [MESSAGE_LOST] = "lost",
    [MESSAGE_LINK] = "link",
    [MESSAGE_UNUSED] = "unused",
};

const int record_width_bits[RECORD_WIDTHS] = {0, 1, 2, 3, 4, 6, 8, 16, 32};
const uint8_t record_width_of[33] = {0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 7, 7, 7, 7, 7, 7,
                                     8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8};

// Rows go to disk as they lie in memory: no holes.
_Static_assert(sizeof(struct rec_event) == 6 * 8 + 5 * 4 + 4, "hole in rec_event");
_Static_assert(sizeof(struct rec_round) == 13 * 8 + 7 * 8 + 8 + 8 * 4, "hole in rec_round");
_Static_assert(sizeof(struct rec_message) == (7 + RECORD_WIDTHS + 4) * 8 + 8 * 4 + 16,
               "hole in rec_message");
_Static_assert(sizeof(struct rec_eval) == 2 * 8 + 4 * 4 + 48, "hole in rec_eval");
_Static_assert(sizeof(struct rec_alloc) == RECORD_WIDTHS * 8 + 6 * 4 + 48, "hole in rec_alloc");
_Static_assert(sizeof(struct rec_link) == 9 * 8 + 6 * 4, "hole in rec_link");
_Static_assert(sizeof(struct rec_sensor) == 4 * 8 + 4 * 4 + 32, "hole in rec_sensor");
_Static_assert(sizeof(struct rec_run) == 8 + 2 * 4 + 1144, "hole in rec_run");
_Static_assert(sizeof(struct rec_summary) == 8 + 2 * 4 + 56, "hole in rec_summary");
_Static_assert(sizeof(struct rec_rank) == (5 + MEM_PURPOSES) * 8 + 2 * 4 + 208, "hole in rec_rank");
_Static_assert(sizeof(struct rec_partition) == 8 + 4 * 4 + 24, "hole in rec_partition");

// clang-format off
#define TYPE_OF(x)                                                                                 \
    _Generic((x), int32_t: FIELD_I32, int64_t: FIELD_I64, uint64_t: FIELD_U64, double: FIELD_F64,  \
             uint8_t: FIELD_U8, char *: FIELD_TEXT, int64_t *: FIELD_I64)
#define COUNT_OF(x)                                                                                \
    _Generic((x), char *: sizeof(x), int64_t *: sizeof(x) / sizeof(int64_t), default: 1)
#define CELL(f) (((ROW *)0)->f)
#define FIELD_AS(f, t, u, h)                                                                       \
    {.name = #f, .type = t, .offset = offsetof(ROW, f), .count = (uint16_t)COUNT_OF(CELL(f)),      \
     .unit = u, .help = h}
#define FIELD(f, u, h) FIELD_AS(f, TYPE_OF(CELL(f)), u, h)
#define RUN FIELD(run, "", "row of /runs")
#define VERSION FIELD(version, "", "version of the global model: the round, where there are rounds")
#define ATTEMPT FIELD(attempt, "", "plus 1 with each resume; readers keep the highest")
#define CLIENT FIELD(client, "", "client, -1 = the server itself")

#define ROW struct rec_run
static const struct record_field run_fields[] = {
    RUN,
    FIELD(method, "", "the method, every option by name"),
    FIELD(seed, "", "run.seed"),
    FIELD(setting, "", "what else differs between the runs of this file"),
    {0},
};
#undef ROW

#define ROW struct rec_event
static const struct record_field event_fields[] = {
    RUN, VERSION, ATTEMPT, CLIENT,
    FIELD(rank, "", "MPI rank, or endpoint under sim"),
    FIELD_AS(stage, FIELD_STAGE, "", "what was done: see /stages"),
    FIELD(t_start_ns, "ns", "start, since the start of the run on rank 0's clock"),
    FIELD(dur_ns, "ns", "duration"),
    FIELD(cpu_ns, "ns", "CPU time of all threads of the rank, -1 = not taken"),
    FIELD(bytes_in, "bytes", "bytes read"),
    FIELD(bytes_out, "bytes", "bytes written"),
    FIELD(energy_uj, "uJ", "energy of the board, -1 = not measured"),
    FIELD(flags, "",
          "1 = modelled time, 2 = energy from fewer than 10 samples, 4 = an equal part of what "
          "several clients took together, 8 = a sum of visits, 16 = bytes_in are tokens, 4 each"),
    {0},
};
#undef ROW

#define ROW struct rec_round
static const struct record_field round_fields[] = {
    RUN, VERSION, ATTEMPT,
    FIELD(uplink_bytes, "bytes", "updates sent by clients, headers included"),
    FIELD(downlink_bytes, "bytes", "adapter sent to clients, counted per sampled client"),
    FIELD(control_bytes, "bytes", "all other frames"),
    FIELD(control_up_bytes, "bytes", "of these, from the workers to the server"),
    FIELD(relay_up_bytes, "bytes", "what fed.relays sent on instead of their clients' updates"),
    FIELD(relay_down_bytes, "bytes", "adapter sent to relays, for their clients"),
    FIELD(wire_bytes, "bytes", "everything the transport moved, each copy once"),
    FIELD(uplink_total_bytes, "bytes", "uplink of the run so far"),
    FIELD(time_measured_ns, "ns", "wall time of the round"),
    FIELD(time_modelled_ns, "ns", "time of the round under the link model"),
    FIELD(compute_max_ns, "ns", "modelled: computation of the slowest client"),
    FIELD(upload_max_ns, "ns", "modelled: slowest upload"),
    FIELD(download_max_ns, "ns", "modelled: slowest download"),
    FIELD(train_loss, "", "mean loss of the local steps, weighted as the updates"),
    FIELD(score, "", "score of the global adapter"),
    FIELD(eval_loss, "", "loss of the global adapter"),
    FIELD(update_norm, "", "2-norm of the step of the global adapter"),
    FIELD(energy_j, "J", "energy of all boards"),
    FIELD(energy_modelled_j, "J", "of all clients, from configured powers and modelled times"),
    FIELD(server_lr, "", "server learning rate"),
    FIELD(adapter_xxh3, "", "XXH3 of the global adapter after the round"),
    FIELD(sampled, "", "clients sampled"),
    FIELD(dropped, "", "of these, unavailable, lost by net.loss or left out by policy"),
    FIELD(lost, "", "of these, lost: dead rank or silence"),
    FIELD(rejected, "", "updates refused: see /messages"),
    FIELD(arrived, "", "updates aggregated"),
    {0},
};
#undef ROW

#define ROW struct rec_message
static const struct record_field message_fields[] = {
    RUN, VERSION, ATTEMPT, CLIENT,
    FIELD(rank, "", "rank of the client"),
    FIELD_AS(status, FIELD_STATUS, "", "ok, or why it was refused"),
    FIELD(vector, "",
        "of those in the frame: 0 the update, with all that is the frame's own; behind the last, "
        "all frames in which the client said something in the middle of its round"),
    FIELD(lag, "versions", "made since the one it was trained on, of late and asynchronous ones"),
    FIELD(frame_bytes, "bytes", "of the frame for this vector: the sum of the parts below"),
    FIELD(header_bytes, "bytes", "frame and codec headers"),
    FIELD(directory_bytes, "bytes", "where each vector and tensor begins"),
    FIELD(scales_bytes, "bytes", "scales and zero points"),
    FIELD(indices_bytes, "bytes", "which coordinates"),
    FIELD(tags_bytes, "bytes", "widths by block or coordinate"),
    FIELD(values_bytes, "bytes", "codes"),
    FIELD(kept, "", "values sent at 0, 1, 2, 3, 4, 6, 8, 16 and 32 bits"),
    FIELD(nmse, "", "squared error over squared norm of the update, as the client measured it"),
    FIELD(norm, "", "L2 norm of what is sent of the update, before clipping and compression"),
    FIELD(weight, "", "weight in the aggregate"),
    FIELD(staleness, "rounds", "since the client's residual was committed; -1 = there is none"),
    FIELD(coded_on, "", "device whose stages went over the values: cpu where they were fetched"),
    {0},
};
#undef ROW

#define ROW struct rec_eval
static const struct record_field eval_fields[] = {
    RUN, VERSION, ATTEMPT,
    FIELD(set, "", "all, or a language"),
    FIELD(metric, "", "score, loss, em, rouge_l, ..."),
    FIELD(value, "", "its value"),
    FIELD(n, "", "examples"),
    {0},
};
#undef ROW

#define ROW struct rec_alloc
static const struct record_field alloc_fields[] = {
    RUN, VERSION, ATTEMPT,
    FIELD(rank, "", "rank whose clients sent them"),
    FIELD(tensor, "", "tensor, in the order of what travels"),
    FIELD(name, "", "its name: layer and matrix"),
    FIELD(messages, "", "messages summed"),
    FIELD(kept, "1", "values sent at 0, 1, 2, 3, 4, 6, 8, 16 and 32 bit"),
    {0},
};
#undef ROW

#define ROW struct rec_link
static const struct record_field link_fields[] = {
    RUN, VERSION, ATTEMPT, CLIENT,
    FIELD(up, "", "1 = client to server, 0 = server to client"),
    FIELD(bytes, "bytes", "bytes moved"),
    FIELD(bytes_sent, "bytes", "the same with those that were sent again"),
    FIELD(lost, "", "segments of 1448 bytes that net.loss took when they were first sent"),
    FIELD(t_ready_ns, "ns", "when the bytes were ready to go, from the start of the client's way"),
    FIELD(t_deliver_ns, "ns", "when the last one arrived, -1 = never"),
    FIELD(latency_ns, "ns", "of this latency and jitter"),
    FIELD(said_ns, "ns",
        "of an upload: before its bytes were ready, what was said in the round was so long on its "
        "way, both ways"),
    FIELD(rate_bps, "bit/s", "mean rate of the link while they left"),
    FIELD(compute_j, "J", "of an upload, modelled: what its client drew while it computed it"),
    FIELD(send_j, "J", "of an upload, modelled: what its client drew while it sent it"),
    {0},
};
#undef ROW

#define ROW struct rec_sensor
static const struct record_field sensor_fields[] = {
    RUN, VERSION,
    FIELD(rank, "", "rank that read it"),
    FIELD(t_ns, "ns", "time, since the start of the run on rank 0's clock"),
    FIELD(rail, "", "name of the rail or zone"),
    FIELD(milliwatt, "mW", "power"),
    FIELD(celsius, "degC", "temperature"),
    FIELD(value, "", "any other reading, in unit"),
    FIELD(unit, "", "unit of value"),
    {0},
};
#undef ROW

#define ROW struct rec_summary
static const struct record_field summary_fields[] = {
    RUN,
    FIELD(key, "", "what"),
    FIELD(value, "", "its value"),
    FIELD(unit, "", "its unit"),
    {0},
};
#undef ROW

#define ROW struct rec_rank
static const struct record_field rank_fields[] = {
    FIELD(rank, "", "MPI rank, or endpoint under sim"),
    FIELD(host, "", "host name"),
    FIELD(pid, "", "process"),
    FIELD(role, "", "server, worker or both"),
    FIELD(threads, "", "compute threads"),
    FIELD(cpuset, "", "where it ran"),
    FIELD(gpu, "", "its GPU"),
    FIELD(clock_offset_start_ns, "ns", "its clock minus rank 0's, at the start"),
    FIELD(clock_offset_end_ns, "ns", "and at the end"),
    FIELD(clock_rtt_ns, "ns", "its round trip: twice the largest error of the offset"),
    FIELD(rss_peak_bytes, "bytes", "peak of resident memory"),
    FIELD(mem_peak_bytes, "bytes",
          "peak by purpose: weights, adapter, optimizer, activations, data, codec, net, server, "
          "trace, other"),
    {0},
};
#undef ROW
#define ROW struct rec_partition
static const struct record_field partition_fields[] = {
    FIELD(run, "", "row of /runs"),
    FIELD(client, "", "client"),
    FIELD(group, "", "number of the group"),
    FIELD(name, "", "its name: language, topic, collection"),
    FIELD(n, "", "examples"),
    {0},
};
#undef ROW

#define TABLE(n, T, chunk, pad, f, h)                                                              \
    {.name = n, .row_bytes = sizeof(T), .chunk_rows = chunk, .pad_offset = offsetof(T, pad),       \
     .fields = f, .help = h}

// Chunks are about one flush of a small run: a flush writes whole chunks, so larger ones would be
// mostly padding (which gzip takes out) and smaller ones mostly index.
const struct record_table record_tables[REC_COUNT] = {
    [REC_RUNS] = TABLE("/runs", struct rec_run, 1, run, run_fields,
        "one row per run: method and seed"),
    [REC_EVENTS] = TABLE("/events", struct rec_event, 256, stage, event_fields,
        "one row per span: who did what, when and for how long"),
    [REC_ROUNDS] = TABLE("/rounds", struct rec_round, 1, run, round_fields,
        "one row per round: bytes, times, losses, clients"),
    [REC_MESSAGES] = TABLE("/messages", struct rec_message, 16, run, message_fields,
        "one row per vector of an update frame: bytes by part, error, what became of it"),
    [REC_EVAL] = TABLE("/eval", struct rec_eval, 4, run, eval_fields,
        "one row per metric and set"),
    [REC_ALLOC] = TABLE("/alloc", struct rec_alloc, 64, run, alloc_fields,
        "one row per tensor, rank and round: values by width, where the codec says them"),
    [REC_LINKS] = TABLE("/links", struct rec_link, 32, run, link_fields,
        "one row a transfer over a link model"),
    [REC_SENSORS] = TABLE("/sensors", struct rec_sensor, 64, run, sensor_fields,
        "one row a reading of power or temperature"),
    [REC_SUMMARY] = TABLE("/summary", struct rec_summary, 16, run, summary_fields,
        "one row a figure of the whole run"),
    [REC_RANKS] = TABLE("/meta/ranks", struct rec_rank, 1, rank, rank_fields,
        "one row per rank: host, binding, clock, memory"),
    [REC_PARTITION] = TABLE("/split", struct rec_partition, 128, run, partition_fields,
        "one row per client and group: the realised partition"),
};
// clang-format on

bool record_is_pad(enum record_id id, const void *row)
{
    const char *mark = (const char *)row + record_tables[id].pad_offset;
    if (id == REC_EVENTS)
        return *(const uint8_t *)mark == STAGE_PAD;
    int32_t run;
    memcpy(&run, mark, sizeof run);
    return run == -1;
}

void record_make_pad(enum record_id id, void *row)
{
    memset(row, 0, record_tables[id].row_bytes); // stage = STAGE_PAD
    const int32_t none = -1;
    if (id != REC_EVENTS)
        memcpy((char *)row + record_tables[id].pad_offset, &none, sizeof none);
}

static int order_below(enum stage parent, int level, enum stage *order, int *depth, int n)
{
    for (int i = STAGE_PAD + 1; i < STAGE_COUNT; i++)
        if (stage_table[i].within == parent) {
            order[n] = (enum stage)i;
            depth[n] = level;
            n = order_below((enum stage)i, level + 1, order, depth, n + 1);
        }
    return n;
}

int stage_order(enum stage order[STAGE_COUNT], int depth[STAGE_COUNT])
{
    return order_below(STAGE_PAD, 0, order, depth, 0);
}

void recorder_init(struct recorder *r, size_t cap, int32_t rank, bool cpu)
{
    assert(cap > 0);
    *r = (struct recorder){.cap = cap, .rank = rank, .cpu = cpu, .origin_ns = clock_ns()};
    r->ring = mem_alloc(MEM_TRACE, cap * sizeof *r->ring); // zeroed: its pages are here already
}

void recorder_free(struct recorder *r)
{
    mem_free(r->ring);
    *r = (struct recorder){0};
}

void recorder_put(struct recorder *r, enum stage stage, int32_t client, int64_t t_ns,
                  int64_t dur_ns, int64_t cpu_ns, int64_t bytes_in, int64_t bytes_out,
                  uint8_t flags)
{
    assert(stage > STAGE_PAD && stage < STAGE_COUNT);
    r->ring[r->head] = (struct rec_event){
        .t_start_ns = t_ns - r->origin_ns,
        .dur_ns = dur_ns,
        .cpu_ns = cpu_ns,
        .bytes_in = bytes_in,
        .bytes_out = bytes_out,
        .energy_uj = -1,
        .run = r->run,
        .version = r->version,
        .attempt = r->attempt,
        .client = client,
        .rank = r->rank,
        .stage = (uint8_t)stage,
        .flags = flags,
    };
    r->total_ns[stage] += dur_ns;
    r->head = r->head + 1 == r->cap ? 0 : r->head + 1;
    if (r->n < r->cap)
        r->n++;
    else
        r->lost++;
}

void laps_begin(struct laps *l, const struct recorder *r)
{
    memset(l, 0, sizeof *l);
    l->first = l->last = span_begin(r);
}

void lap_book(struct laps *l, enum stage stage)
{
    struct span now = {.cpu_ns = l->last.cpu_ns < 0 ? -1 : clock_cpu_ns(), .t_ns = clock_ns()};
    l->dur_ns[stage] += now.t_ns - l->last.t_ns;
    l->cpu_ns[stage] += now.cpu_ns - l->last.cpu_ns;
    l->last = now;
    l->stage = stage;
}

int64_t laps_end(struct laps *l, struct recorder *r, enum stage whole, enum stage rest,
                 int32_t client, int64_t bytes_in, int64_t bytes_out)
{
    bool cpu = l->first.cpu_ns >= 0;
    laps_leave(l, rest);
    int64_t dur = l->last.t_ns - l->first.t_ns, t = l->first.t_ns;
    recorder_put(r, whole, client, t, dur, cpu ? l->last.cpu_ns - l->first.cpu_ns : -1, bytes_in,
                 bytes_out, 0);
    for (int i = 0; i < STAGE_COUNT; i++)
        if (l->dur_ns[i] > 0) { // laid end to end, whatever order they came in
            recorder_put(r, (enum stage)i, client, t, l->dur_ns[i], cpu ? l->cpu_ns[i] : -1, 0, 0,
                         EVENT_SUMMED);
            t += l->dur_ns[i];
        }
    return dur;
}

size_t recorder_drain(struct recorder *r, struct rec_event *out, size_t max)
{
    size_t n = r->n < max ? r->n : max;
    size_t tail = r->head >= r->n ? r->head - r->n : r->head + r->cap - r->n;
    for (size_t i = 0; i < n; i++) {
        out[i] = r->ring[tail];
        tail = tail + 1 == r->cap ? 0 : tail + 1;
    }
    r->n -= n;
    return n;
}
