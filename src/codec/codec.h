// Compressors as one table of rows. A codec turns a flat update (see base/shape.h) into bytes and
// back; the receiver decodes from those bytes alone. Packed bytes are the same on every machine,
// for any thread count and vector width.
#ifndef FSTQ_CODEC_CODEC_H
#define FSTQ_CODEC_CODEC_H

#include "base/check.h"
#include "base/opt.h"
#include "base/record.h"
#include "base/shape.h"
#include "kernels/kernels_codec.h"

#include <stddef.h>
#include <stdint.h>

// What a codec needs from its surroundings.
enum codec_needs {
    CODEC_SENS = 1,    // a sensitivity per coordinate (Fisher), codec_input.sens
    CODEC_STATE = 2,   // state_floats(n) > 0 floats of client state kept between rounds
    CODEC_OWN_AGG = 4, // an aggregation of its own instead of the weighted mean
    CODEC_GRAD = 8,    // the EMA of the gradient, codec_input.grad
    CODEC_REACH = 16,  // in codec_input.sens, instead: the squared norm of what multiplies a
                       // coordinate in the adapter's product B A
};

enum codec_flags {
    CODEC_UNBIASED = 1,      // E[decode(encode(x))] = x
    CODEC_MASKABLE = 2,      // the sum of codes is meaningful (secure aggregation); see adds_up
    CODEC_EXACT = 4,         // decode(encode(x)) == x bit for bit
    CODEC_INEXACT_BYTES = 8, // bytes may differ between backends; see its help for the bound
    CODEC_NO_EF = 16,        // NMSE >= 1 is possible: error feedback would diverge
    CODEC_RANDOM = 32,       // draws random numbers, keyed by codec_key
    CODEC_SELF_CHECK = 64,   // finds non-finite input on its way: codec_encode need not look first
    CODEC_BUDGET = 256,      // keeps to codec_input.budget_bytes
    CODEC_ANY_SIZE = 128,    // takes any finite value; the others refuse |x| >= CODEC_LIMIT
};

// Lossy codes scale, square and sum: beyond this an update is broken anyway, and no decoded value
// may overflow. Scales in messages are held to the same bound.
#define CODEC_LIMIT 0x1p100f

// What an encoder or decoder returns when values are not finite; -1 is any other trouble.
#define CODEC_NONFINITE (-2)

// Names the random stream of one message: same key, same bytes.
struct codec_key {
    uint64_t seed;
    uint32_t client, version;
};

// A device that vectors lie on, a lane of it, and memory for one encoding or decoding at a time:
// the host's, for small results or, where the codec has no stages there, for the vectors
// themselves; and the device's.
struct dev;
struct codec_device {
    struct dev *dev;
    int32_t lane;
    void *stage; // codec_stage_bytes, of dev's stage()
    void *room;  // codec_device_bytes, of dev's alloc()
};

struct codec_input {
    const struct codec_device *on; // where x, sens, grad and both states lie; NULL = the host
    const float *x;                // (n)
    const float *sens;             // (n) or NULL; CODEC_SENS or CODEC_REACH
    const float *grad;             // (n) or NULL
    const float *state;            // (state_floats) before, or NULL
    float *state_next; // (state_floats) what the state becomes if the message is acknowledged
    struct codec_key key;
    // For this message, -1 = as the options say (bandwidth-heterogeneous clients).
    int64_t budget_bytes;
    // How far the mean training loss has come down since the first round, as announced with the
    // model; 0 = not known yet.
    double loss_fall;
    // (n_tensors) out: values sent at each width, tensor by tensor; NULL = nobody asks. A codec
    // that does not say leaves zeros.
    int64_t (*by_tensor)[RECORD_WIDTHS];
    // A codec says lap(in->laps, STAGE_...) where a part of it ends; NULL = nobody measures.
    struct laps *laps;
};

struct codec_output {
    const struct codec_device *on; // where sink.to lies; NULL = the host
    struct quant_sink sink;
};

// Where the time of a codec goes that says no laps.
#define CODEC_REST STAGE_QUANTISE

// Bytes of a message by what they say; their sum is the length of the message.
struct codec_parts {
    int64_t header, directory, scales, indices, tags, values;
};

struct codec_report {
    struct codec_parts parts;
    int64_t kept[RECORD_WIDTHS]; // values sent at each of record_width_bits
    int64_t staleness;           // rounds since the residual was last committed, -1 = none kept
    const char *ran_on;          // the row of dev_table whose stages went over the values
    int64_t (*by_tensor)[RECORD_WIDTHS]; // codec_input's, for the codec to fill
};

struct codec_inst;
struct codec_blocks;

// Aggregations other than the weighted mean (majority vote). Messages arrive in client order.
struct codec_agg {
    size_t (*state_bytes)(const struct codec_inst *c, size_t n); // of one round
    // What the server keeps from round to round and in its checkpoints, zero at first; NULL = none.
    size_t (*keep_floats)(const struct codec_inst *c, size_t n);
    void (*begin)(const struct codec_inst *c, void *state, size_t n);
    int (*add)(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
               size_t len, double weight, void *state, struct err *err);
    // keep is left as it was where delta comes out not finite: that round is not committed.
    void (*finish)(const struct codec_inst *c, void *state, float *keep, double weight_sum,
                   float *delta, size_t n);
};

// Tables of stages (kernels/stages.h) that a codec's passes over values are made of. Where a device
// has them all the codec runs there; else, and where a codec has none, vectors are fetched. A
// wrapper runs where its inner codec does, too.
enum codec_stages_of {
    CODEC_ON_QUANT = 1,
    CODEC_ON_ALLOC = 2,
    CODEC_ON_ROTATE = 4,
    CODEC_ON_SELECT = 8,
    CODEC_ON_MIX = 16,
    CODEC_ON_ENTROPY = 64,
    CODEC_ON_BYTES = 32, // of a wrapper that works on the inner codec's message alone
};

struct codec {
    const char *name, *help, *source; // source: author, year, equation
    const char *adds_up;              // options under which CODEC_MASKABLE holds, if not always
    const struct opt *options;
    int n_options;
    size_t option_bytes;           // of the struct the options fill
    unsigned needs, flags, stages; // stages: CODEC_ON_*, 0 = on the host alone
    bool feeds_back;               // a wrapper that sends later what its inner codec left out
    // Checks options against each other and the shape; NULL = nothing to check.
    int (*check)(const struct codec_inst *c, struct err *err);
    // Where options or an inner codec decide: flags and stages instead of the row's, needs beside
    // the row's; or NULL.
    unsigned (*flags_of)(const struct codec_inst *c);
    unsigned (*stages_of)(const struct codec_inst *c);
    // Seconds that a message may take on its client's uplink, 0 = no matter; or NULL. Whoever knows
    // the link turns them into codec_input.budget_bytes.
    double (*upload_s)(const struct codec_inst *c);
    unsigned (*needs_of)(const struct codec_inst *c);
    size_t (*state_floats)(const struct codec_inst *c);   // NULL = none
    size_t (*scratch_bytes)(const struct codec_inst *c);  // NULL = none; for encode and decode
    size_t (*decode_scratch)(const struct codec_inst *c); // where decode needs less; NULL = as much
    // Where it runs on a device, without an inner codec's: of the host's memory, and of the
    // device's; NULL = none.
    size_t (*stage_bytes)(const struct codec_inst *c);
    size_t (*device_bytes)(const struct codec_inst *c);
    size_t (*bound)(const struct codec_inst *c); // most bytes a message can have
    // Returns the length written, at most cap, or -1 (cap too small) or CODEC_NONFINITE with err.
    // The input has been checked to be finite. Same key and input, same bytes.
    int64_t (*encode)(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                      size_t cap, void *scratch, struct codec_report *report, struct err *err);
    // Into the sink: to = decoded, or to += weight * decoded, in float, coordinate by coordinate;
    // coordinates that were not sent are left alone when adding and zeroed when setting. Trusts
    // nothing in the bytes: on any error, it returns -1 (CODEC_NONFINITE for a non-finite decoded
    // value) and an accumulator is as it was.
    int (*decode)(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                  size_t len, struct codec_output to, void *scratch, struct err *err);
    const struct codec_agg *agg; // CODEC_OWN_AGG
    // How its messages are cut into blocks that decode alone, see blocks.h; NULL = they are not.
    const struct codec_blocks *blocks;
    const void *family; // what functions shared by several rows tell them apart by
};

// A codec with its options, ready for one shape. Wrappers (+ef, +zstd) are codecs with an inner
// one.
struct codec_inst {
    const struct codec *row;
    const struct shape *shape;
    void *opt;
    const struct codec_inst *inner; // wrappers only
    // Of a block, see blocks.h: bytes that it can have at most, by which the values in it are
    // bounded instead of by shares of the update; 0 = of an update.
    size_t block_bytes;
    char text[512]; // expanded, as printed: every option by name
};

// A short name for a codec with options and wrappers; printed expanded. Options given after the
// short name replace its own or are added to them.
struct codec_alias {
    const char *name, *text, *help;
};

extern const struct codec_alias codec_alias_table[]; // ends with a NULL name
extern const struct codec *const codec_table[];      // NULL-terminated: what may stand before a '+'
extern const struct codec *const wrapper_table[];    // NULL-terminated: what may stand after it

// "CODEC[:opts][+WRAPPER[:opts]...]"; the shape outlives the instance. Returns NULL with err.
struct codec_inst *codec_open(const char *text, const struct shape *shape, struct err *err);
void codec_close(struct codec_inst *c);
// Another shape from now on, for what has other sizes from message to message (rows of
// activations): bytes are those of a codec opened on it. Ask for bound and scratch on every shape
// that may come, for the largest need not take most. State is of one shape and does not move.
void codec_reshape(struct codec_inst *c, const struct shape *shape);

size_t codec_state_floats(const struct codec_inst *c);
size_t codec_scratch_bytes(const struct codec_inst *c);  // of an encoder; enough for a decoder
size_t codec_decode_scratch(const struct codec_inst *c); // of one that only decodes
size_t codec_bound(const struct codec_inst *c);
// What codec_device needs, whichever of encoding and decoding it is for.
size_t codec_stage_bytes(const struct codec_inst *c, const struct dev *d);
size_t codec_device_bytes(const struct codec_inst *c, const struct dev *d);
bool codec_runs_on(const struct codec_inst *c, const struct dev *d); // not fetched
unsigned codec_needs(const struct codec_inst *c);
unsigned codec_flags(const struct codec_inst *c);
double codec_upload_s(const struct codec_inst *c); // of the codec or what it wraps
// Whether it, or what it wraps, keeps to a budget of bytes that a message is given.
bool codec_budgets(const struct codec_inst *c);
// Feedback that was told to go on around a codec whose error can exceed the update: the inner text,
// or NULL.
const char *codec_diverges(const struct codec_inst *c);
const struct codec *codec_find(const char *name); // a codec or a wrapper, NULL = none
// Refuses non-finite input, checks that the parts add up (assert), and encodes. scratch is 64-byte
// aligned and holds codec_scratch_bytes (codec_decode_scratch to decode); report may be NULL. A
// codec that searches for its budget may want more room on the way than the message takes in the
// end: give codec_bound.
int64_t codec_encode(const struct codec_inst *c, const struct codec_input *in, uint8_t *out,
                     size_t cap, void *scratch, struct codec_report *report, struct err *err);
int codec_decode_add(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                     size_t len, float weight, float *acc, void *scratch, struct err *err);
int codec_decode_to(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                    size_t len, struct codec_output to, void *scratch, struct err *err);
// x_hat = decoded; zeroes first.
int codec_decode(const struct codec_inst *c, const struct codec_key *key, const uint8_t *in,
                 size_t len, float *x_hat, void *scratch, struct err *err);
// ||x_hat - x||^2 / ||x||^2; 0 if both are 0.
double codec_nmse(const float *x, const float *x_hat, size_t n);

#endif
