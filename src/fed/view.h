// Views: which part of the adapter is trained and travels in a round. A view cuts the adapter into
// parts; a client's round is about one of them. A part is a list of matrices of its own, so that
// codecs, their state and their random streams know nothing of views.
#ifndef FSTQ_FED_VIEW_H
#define FSTQ_FED_VIEW_H

#include "base/check.h"
#include "base/opt.h"
#include "base/shape.h"
#include "codec/codec.h"
#include "fed/fed.h"

#include <stdbool.h>
#include <stdint.h>

struct view_vector { // of those that a frame carries
    struct codec_inst *codec;
    size_t state_at; // of the codec's floats in a client's state
};

struct view_part {
    struct shape shape;        // what its codec sees
    struct shape_range *range; // where its values lie in the adapter, ascending
    int n_ranges;
    size_t at; // of its first value where all parts lie one after another
    struct view_vector vector[FED_VECTORS];
};

struct local_rule; // local.h

#define RANKS_MOST 16
struct ranks { // of unequal clients
    uint32_t n;
    uint32_t rank[RANKS_MOST]; // ascending
    double share[RANKS_MOST];  // of clients
};

struct view {
    const char *name, *help, *source;
    const struct opt *options;
    int n_options;
    size_t option_bytes;
    bool frozen;                    // what is outside the part is not trained
    bool only;                      // what is outside never changes: the downlink leaves it out too
    bool kept;                      // what is outside is trained and stays with its client
    bool mixed;                     // clients of a round have different parts
    bool turned;                    // local turns the adapter's space, and nothing else
    bool nested;                    // a client has one part for good; each holds those before it
    const struct local_rule *local; // another form of the adapter, that training goes through; NULL
                                    // = as it is
    uint32_t (*parts)(const void *opt);
    uint32_t (*stay)(const void *opt); // rounds that a part's turn takes; NULL = 1
    // Appends the ranges of part p; shape is the adapter's.
    void (*ranges)(const void *opt, const struct shape *shape, uint32_t p, struct view_part *part);
};

extern const struct view view_rank;
extern const struct view *const view_table[]; // NULL-terminated; the first is the whole adapter

// A view of one adapter. Parts are disjoint, unless they are nested.
struct view_inst {
    const struct view *row;
    void *opt;
    const struct shape *shape; // of the adapter
    uint32_t n_parts, stay;
    struct view_part *part;
    uint8_t *own;   // nested: (clients) the part of each; else NULL
    bool cut;       // and of versions they have that alone
    size_t n_sum;   // values of all parts
    int n_vectors;  // in a frame, the update first
    size_t n_state; // floats of all codecs that a client has
    bool whole;     // one part, the adapter itself: nothing is copied
    char text[96];
};

// "NAME[:opts]", "" = the whole adapter; codec: the text of each vector's. The shape outlives the
// instance.
int view_open(struct view_inst *v, const char *text, const char *const *codec, int n_vectors,
              const struct shape *shape, struct err *err);
// The view of fed.ranks, see ranks.h: part i is the first rank[i] rows of every A and columns of
// every B, and all of what is neither. Takes own (clients) over, also on an error. cut: of a
// version clients have their part alone, not all of it with the rest frozen.
int view_open_ranks(struct view_inst *v, const struct ranks *ranks, uint8_t *own, bool cut,
                    const char *const *codec, int n_vectors, const struct shape *shape,
                    struct err *err);
void view_close(struct view_inst *v);

uint32_t view_turn(const struct view_inst *v, uint32_t client, uint32_t round);
// Has what a client sends been the same part in all rounds from one to another?
bool view_stays(const struct view_inst *v, uint32_t client, uint32_t from, uint32_t to);
// The stream of a message: codecs count the turns of a part, not rounds, so that what they do
// every other time they still do when the part comes every other round.
struct codec_key view_key(const struct view_inst *v, uint64_t seed, uint32_t client, uint32_t round,
                          int vector);
// What local training may change, NULL = everything.
const struct shape_range *view_trained(const struct view_inst *v, uint32_t client, uint32_t round,
                                       int *n_ranges);
// The part that a client has of each version, and what it is trained from; NULL = all of it.
const struct view_part *view_own(const struct view_inst *v, uint32_t client);
void view_gather(const struct view_part *p, const float *full, float *part);
void view_scatter(const struct view_part *p, const float *part, float *full);

size_t view_scratch_bytes(const struct view_inst *v);  // of the hungriest
size_t view_decode_scratch(const struct view_inst *v); // of the hungriest that only decodes
size_t view_bound(const struct view_inst *v);          // of the longest frame's payload
unsigned view_needs(const struct view_inst *v);        // enum codec_needs, of all codecs
size_t view_down_floats(const struct view_inst *v);    // of the adapter that clients are sent

#endif
