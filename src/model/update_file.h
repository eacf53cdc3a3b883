// One client's update in a file of its own: safetensors, a tensor a matrix, in the order of the
// flat vector. What a run keeps for fstq bench codec; adapters that others saved are read too.
#ifndef FSTQ_MODEL_UPDATE_FILE_H
#define FSTQ_MODEL_UPDATE_FILE_H

#include "base/check.h"
#include "base/shape.h"

// The file lasts or is not there. x (n_values of s)
int update_file_write(const char *path, const struct shape *s, const float *x, struct err *err);
// Fills s, sealed, and *x, to be freed with mem_free. fp32, bf16 and fp16 tensors of one or two
// dimensions; which are A and B their names say (".A", "lora_A").
int update_file_read(const char *path, struct shape *s, float **x, struct err *err);

#endif
