// fstq compare: methods x seeds from one config, every run made once, the same search for every
// method, one table. What is known follows from the runs that lie in the directory; a run that is
// asked for and not there is made by a child process.
#ifndef FSTQ_COMPARE_COMPARE_H
#define FSTQ_COMPARE_COMPARE_H

#include "config.h"

#include <stdio.h>
#include <sys/types.h>

enum {
    COMPARE_METHODS = 96,
    COMPARE_SEEDS = 64,
    COMPARE_DIMS = 6,
    COMPARE_VALUES = 16,
    COMPARE_KEYS = 4,    // options that move together in one dimension of the search
    COMPARE_TARGETS = 3, // as many as a table has columns for
    COMPARE_AT = 6,
    COMPARE_NAME = 48,
    COMPARE_SETTING = 256,
};

// One run by evaluation, round 0 left out.
struct curve {
    size_t n;
    double *round, *score, *uplink_bytes, *time_ns; // (n); uplink and modelled time: cumulative
    double floor;                                   // the score before round 1, NaN = not there
    double message_bytes;                           // mean of a client's frame
    double nmse;                                    // median, NaN = not measured
    double adapter_values;
    double up_bytes, down_bytes; // of the whole run; NaN = not told, like those that follow
    double state_bytes;          // that a client keeps between its rounds
    double server_ns;            // measured, of a round: its median
    double memory_bytes;         // that any rank's process held at most, as the system counts it
    char method[640];            // with every option
    bool finite;                 // the last score is a number: the run did not diverge
};

// Mean of the last evaluations (of all where there are fewer); NaN if one of them is.
double curve_final(const struct curve *c, int last);
// The first evaluation whose trailing mean reaches the target, or c->n.
size_t curve_reach(const struct curve *c, int trailing, double target, bool higher);
// Trailing mean at the last evaluation within so many bytes; NaN before there are enough.
double curve_at_bytes(const struct curve *c, int trailing, double bytes);
void curve_free(struct curve *c);

// Mean and half width of its 95% confidence interval (Student). NaN where a value is missing: a
// seed that failed is not averaged away; n counts those that are there.
struct interval {
    size_t n;
    double mean, half;
};
struct interval interval_of(const double *v, size_t n);
struct interval interval_of_difference(const double *v, const double *base, size_t n);
// Of base / v: the geometric mean and the ends of its 95% interval (Student, on logarithms).
struct ratio {
    size_t n;
    double mean, low, high;
};
struct ratio ratio_of(const double *base, const double *v, size_t n);
// Of v - base. NaN where a value is missing or there is no pair.
struct paired_test {
    size_t n;
    double dz;            // Cohen's d of paired differences: their mean by their deviation
    double rank_biserial; // share of the rank sum in favour of v less the share against it
    double p_wilcoxon;    // signed-rank test, two-sided, exact
};
struct paired_test paired_test_of(const double *v, const double *base, size_t n);
// Holm's step-down (1979): p-values of a family, those that are NaN no part of it.
void holm(const double *p, size_t n, double *adjusted);
double student_975(size_t degrees);

struct compare_params { // [compare]
    char dir[200], base[COMPARE_NAME], only[1024], score[24];
    char seeds[512], search_seeds[256], targets[128], bytes_at[256];
    int32_t search_mode, better, traffic;
    int32_t jobs, search_rounds, budget_rounds, last, trailing;
    bool search_widen;
};

enum { SEARCH_GRID, SEARCH_COORDINATE, SEARCH_HALVING };
enum { BETTER_AUTO, BETTER_HIGHER, BETTER_LOWER };
enum { TRAFFIC_UP, TRAFFIC_BOTH };
enum budget_kind { BUDGET_NONE, BUDGET_BYTES, BUDGET_BITS, BUDGET_FRACTION, BUDGET_SAME };

struct search_dim {
    int n_keys, n_values, line;
    char key[COMPARE_KEYS][64];
    char value[COMPARE_VALUES][COMPARE_KEYS][32];
};

struct tried {            // a setting of the search
    int at[COMPARE_DIMS]; // -1 or n_values: beyond the first or the last value
    double score;         // mean over the search seeds
    int seeds;            // that the score is the mean of
    bool out;             // of a search by halves
};

struct compare_method {
    char name[COMPARE_NAME], text[256]; // as given, with {lo..hi}
    int line;
    char options[COMPARE_SETTING]; // its own, "section.key=value ..."
    struct config cfg;             // with them

    // The budget search.
    enum budget_kind budget;
    double amount; // of the kind's unit
    char same[COMPARE_NAME];
    char head[256], tail[256]; // of the text, around the braces
    double lo, hi;
    bool whole; // an integer parameter
    double target_bytes, got_bytes, found;
    int probes;

    // The search for settings.
    struct config tuned;
    char setting[COMPARE_SETTING]; // what was chosen
    bool at_edge;                  // of the values of a dimension: better ones may lie outside
    struct tried *tried;           // (n_tried)
    int n_tried;

    bool resolved, searched;                // how far it is
    const struct curve *run[COMPARE_SEEDS]; // by seed, NULL = not there
};

struct compare {
    struct config cfg;
    struct compare_params p;
    int n_methods, base;
    struct compare_method *method; // (COMPARE_METHODS)
    int n_dims;
    struct search_dim dim[COMPARE_DIMS];
    int n_seeds, n_search_seeds, n_targets, n_at;
    int64_t seed[COMPARE_SEEDS], search_seed[COMPARE_SEEDS];
    double target[COMPARE_TARGETS], at_bytes[COMPARE_AT];
    bool higher;
    int line[32]; // where the keys were set
    const char *path;
};

extern const struct opt compare_options[];
extern const int compare_option_count;

// Reads and checks everything; says every mistake on stderr and returns their number.
int compare_load(struct compare *c, const char *path, int n_overrides, char *const *overrides);
void compare_free(struct compare *c);

// The runs: by the hash of their options.
struct runs;
// expected_rounds: of all runs that will be asked for, to tell the time left.
struct runs *runs_open(const struct compare *c, bool may_run, int64_t expected_rounds,
                       struct err *err);
void runs_close(struct runs *r);
// The curve of a run, or NULL when it is not there yet and is to be made, or has failed. Runs of a
// lower place are made first.
const struct curve *runs_get(struct runs *r, const struct config *c, int place, const char *name,
                             const char *setting);
bool runs_failed(const struct runs *r, const struct config *c);
// Starts what was asked for and waits until one has ended. False: nothing is left to wait for.
void runs_stop(struct runs *r); // at the end of their round; nothing more is started
bool runs_step(struct runs *r);
const char *runs_note(struct runs *r); // about runs of another build, "" = none
void runs_counts(const struct runs *r, int *finished, int *made, int *failed, int *missing);
bool runs_interrupted(const struct runs *r);
// Whether two written-out methods agree in every option that both name: a default that has changed
// since makes another method of the same string, an option that is new does not.
bool methods_agree(const char *a, const char *b);
uint64_t runs_key(const struct runs *r, const struct config *c);

// Goes as far as the runs that are there allow, and asks for the others. -1: it cannot go on.
int compare_advance(struct compare *c, struct runs *r, struct err *err);
int64_t compare_expected_rounds(const struct compare *c); // of all runs, without the budget search
double method_score(const struct compare *c, const struct curve *curve); // final, worst if none

void compare_print(const struct compare *c, FILE *out);
void compare_print_search(const struct compare *c, FILE *out);
void compare_csv(const struct compare *c, FILE *out);
void compare_markdown(const struct compare *c, FILE *out);
void compare_latex(const struct compare *c, FILE *out);
void compare_json(const struct compare *c, const struct runs *r, FILE *out);

#endif
