// Parts of the loaders that read bytes: for the loaders, their tests and their fuzzers.
#ifndef FSTQ_MODEL_LOAD_H
#define FSTQ_MODEL_LOAD_H

#include "base/gguf.h"
#include "model/model.h"

#include <stddef.h>

// The 28 bytes that begin a llama2.c v0 file. file_bytes must be what they ask for.
#define LLAMA2C_HEADER 28
int llama2c_config(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct model_config *c,
                   struct err *err);
// The keys of a GGUF file of n bytes.
int gguf_config(const struct gguf *g, const uint8_t *bytes, size_t n, struct model_config *c,
                struct err *err);

#endif
