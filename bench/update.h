// Updates to compress: shapes of LoRA adapters by name, and values of a distribution or from a
// file.
#ifndef FSTQ_BENCH_UPDATE_H
#define FSTQ_BENCH_UPDATE_H

#include "base/check.h"
#include "base/shape.h"

#include <stdbool.h>

enum update_dist { UPDATE_NORMAL, UPDATE_LAPLACE, UPDATE_STUDENT3, UPDATE_FILE };
extern const char *const update_dists[];

// A name ("llama2-7b-r16-all", "embedded-r8", ...) or a list of matrices "16x4096,4096x16x10": rows
// x columns, and how many; wider ones count as A, taller ones as B. Its values can be repeated
// until there are at least so many.
int update_shape(const char *text, size_t at_least, struct shape *s, struct err *err);
void update_names(char *out, size_t out_size); // of all shapes, for help

// The shape and the values of a .safetensors file, such as trace.updates keeps; over again until
// there are at_least values. Free *x with mem_free.
int update_read(const char *path, size_t at_least, struct shape *s, float **x, struct err *err);
bool update_has_shape(const char *path); // by its name

// x (n). From any other file: little-endian floats, as they stand in it, over again when there are
// fewer.
int update_fill(enum update_dist dist, const char *path, float *x, size_t n, struct err *err);

#endif
