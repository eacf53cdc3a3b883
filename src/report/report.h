// What a trace comes to, for people and for machines: one section a function. Tables have '#' on
// every line that is not data.
#ifndef FSTQ_REPORT_REPORT_H
#define FSTQ_REPORT_REPORT_H

#include "trace/trace.h"

#include <stdio.h>

#define REPORT_CONDENSED 20 // rows of a table that was not asked for by name

void report_head(FILE *out, const struct trace_file *f, const char *path);
void report_meta(FILE *out, const struct trace_file *f); // ranks, config, build, environment
void report_runs(FILE *out, const struct trace_file *f);
// Of one run. most: rows at most, 0 = all.
void report_summary(FILE *out, const struct trace_file *f, int32_t run);
void report_rounds(FILE *out, const struct trace_file *f, int32_t run, size_t most);
void report_stages(FILE *out, const struct trace_file *f, int32_t run);
void report_bytes(FILE *out, const struct trace_file *f, int32_t run);
// By layer and matrix, the share of values at each width; nothing where the codec did not say.
void report_widths(FILE *out, const struct trace_file *f, int32_t run, size_t most);
void report_sensors(FILE *out, const struct trace_file *f, int32_t run); // nothing where none
void report_energy(FILE *out, const struct trace_file *f, int32_t run);  // measured, by stage
void report_clients(FILE *out, const struct trace_file *f, int32_t run, size_t most);
// The two lines that end every command: the adapter's hash and the verdict. Returns enum status.
int report_verdict(FILE *out, const struct trace_file *f);
// run < 0: all of them.
void report_json(FILE *out, const struct trace_file *f, const char *path, int64_t run);

// Typed access: rows of table id in the order they were written.
static inline const void *report_rows(const struct trace_file *f, enum record_id id, size_t *n)
{
    *n = f->n[id];
    return f->rows[id];
}
// The runs of a file: those of /runs, else run 0.
size_t report_run_count(const struct trace_file *f);
int32_t report_run_id(const struct trace_file *f, size_t i);
const char *report_method(const struct trace_file *f, int32_t run);

// Sums over one run, shared by the tables and the JSON.
struct report_bytes {
    int64_t frames, part[6], total, values; // parts in the order of report_part_name
    int64_t kept[RECORD_WIDTHS];
    double nmse_median; // NaN = none
    char coded_on[16];  // "" = not told
};
extern const char *const report_part_name[6];
struct report_bytes report_sum_bytes(const struct trace_file *f, int32_t run);

struct report_client {
    int32_t client, rank, asked, ok, lost, refused;
    int64_t bytes, train_ns, trained;
    double g, energy_j; // modelled: T_comp / T_comm, and the energy of both; NaN = not known
    double measured_j;  // of the spans that are its own, NaN = no rail was read
};
// What boards drew, by event of the file: free with mem_free.
struct report_energy {
    int boards;
    size_t readings;
    double joule,
        shared_j; // from the first reading to the last; of this, while a rank was in a span
};
double *report_energy_events(const struct trace_file *f, int32_t run, struct report_energy *sum);
// By client; free with mem_free.
struct report_client *report_sum_clients(const struct trace_file *f, int32_t run, size_t *n);
// The values of each tensor by width, at most so many tensors; returns how many.
int32_t report_sum_tensors(const struct trace_file *f, int32_t run, struct rec_alloc *sum,
                           int32_t most);

struct tally;
void report_tally(const struct trace_file *f, int32_t run, struct tally *t);

#endif
