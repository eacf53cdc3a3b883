// A trace in the formats of others.
#ifndef FSTQ_REPORT_EXPORT_H
#define FSTQ_REPORT_EXPORT_H

#include "trace/trace.h"

#include <stdio.h>

// One file per table in dir (made if need be), RFC 4180, names in the first line; config.csv;
// units.csv says type, unit and meaning of every column. Numbers that are not finite are empty;
// 64-bit hashes are hex.
int export_csv(const struct trace_file *f, const char *dir, struct err *err);

// A cell: in quotes where its text needs them.
void export_csv_text(FILE *out, const char *s);

// Numbers of each round, per run: DIR/RUN/events.out.tfevents.TIME.fstq for TensorBoard; for MLflow
// DIR/metrics.csv (run_id, key, value, timestamp in ms, step) and DIR/params.csv.
int export_tensorboard(const struct trace_file *f, const char *dir, struct err *err);
// The same as MLPerf's log lines: score as eval_accuracy, rounds as epochs.
int export_mllog(const struct trace_file *f, const char *path, struct err *err);
int export_mlflow(const struct trace_file *f, const char *dir, struct err *err);

// Chrome's trace format, array form (a truncated file still loads), for Perfetto and
// chrome://tracing. A process per rank and run, its lanes as threads; slices of a thread nest or
// stand apart. Modelled transfers are a process of their own, on their own time.
void export_chrome(const struct trace_file *f, FILE *out);

#endif
