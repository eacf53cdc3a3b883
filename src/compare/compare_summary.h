// What the runs of a method come to over its seeds, beside the base.
#ifndef FSTQ_COMPARE_COMPARE_SUMMARY_H
#define FSTQ_COMPARE_COMPARE_SUMMARY_H

#include "compare/compare.h"

enum { TEST_SEEDS = 5 }; // of fewer pairs a rank test cannot be told from chance

struct reached { // a target: a part of the base's final score on the same seed
    size_t n;    // seeds that reach it
    struct interval rounds, bytes, time_ns; // NaN unless all do
    struct ratio less_bytes, less_time; // base over this; NaN unless both reach it on every seed
    double round_at[COMPARE_SEEDS], bytes_at[COMPARE_SEEDS];
};

struct summary {
    size_t n, pairs; // seeds that are there; those on which the base is there too
    double final_score[COMPARE_SEEDS];
    struct interval score, gain; // gain: paired, over the base
    struct paired_test test;     // of the gains
    double p_holm;               // of all methods of the comparison but the base
    struct reached target[COMPARE_TARGETS];
    struct interval at[COMPARE_AT];
    double message_bytes, bits, nmse, total_bytes;
    double up_bytes, down_bytes, state_bytes, server_ns, memory_bytes; // means, see struct curve
    struct interval total_time_ns;                                     // modelled, of all rounds
    struct ratio less_bytes, less_time; // base over this, of all rounds
};

// One per method; free with mem_free.
struct summary *summarise_all(const struct compare *c);
// What a method comes to, in one sentence.
void summary_sentence(const struct compare *c, int i, const struct summary *s, char *out,
                      size_t size);
const char *compare_way(const struct compare *c);     // "up" or "both"
const char *compare_traffic(const struct compare *c); // "uplink" or "traffic"
// The method of m with every option, as a run of it says it.
const char *compare_expanded(const struct compare_method *m, int n_seeds);
// A setting of the search, as the options it sets.
// A value of a dimension of the search; beyond the first or the last one, as far from it by ratio
// as the one before is. Empty where that is no number.
void compare_value(const struct search_dim *d, int at, int k, char out[32]);
void compare_describe_tried(const struct compare *c, const struct tried *t, char *out, size_t size);

// Mean and band over seeds, by evaluation: as many as every seed has.
struct band {
    size_t n;
    double *round, *mean, *half, *bytes, *time_ns; // (n), one block; free with mem_free(round)
};
struct band compare_band(const struct compare *c, const struct compare_method *m);

#endif
