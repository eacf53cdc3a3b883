// The safetensors container: eight bytes of header length, a JSON header, then the tensors' bytes.
// The header is trusted in nothing.
#ifndef FSTQ_MODEL_SAFETENSORS_H
#define FSTQ_MODEL_SAFETENSORS_H

#include "base/check.h"

#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_DIMS       4
#define SAFETENSORS_NAME       208 // bytes of a file's name, at most
#define SAFETENSORS_FILES      256 // of one model, at most
#define SAFETENSORS_HEADER_MAX ((uint64_t)100 << 20)

struct safetensor {
    char name[128];
    int32_t dtype; // enum kernel_dtype, -1 = another type
    int32_t dims;
    int64_t dim[SAFETENSORS_DIMS];
    uint64_t at, end, n; // bytes in the file: the first, and behind the last; values
};

struct safetensors {
    struct safetensor *tensor; // in the order of their bytes, which no two share
    int32_t n;
    char *config; // "fstq_config" of the metadata, NULL = none
};

// bytes: the first n of a file of file_bytes; the whole header must be among them.
int safetensors_parse(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct safetensors *st,
                      struct err *err);
void safetensors_free(struct safetensors *st);
// The files that an index (model.safetensors.index.json) names, each once.
struct safetensors_index {
    char (*file)[SAFETENSORS_NAME]; // names without a folder
    int32_t n;
};
int safetensors_index_parse(const uint8_t *bytes, size_t n, struct safetensors_index *x,
                            struct err *err);
void safetensors_index_free(struct safetensors_index *x);

const struct safetensor *safetensors_find(const struct safetensors *st, const char *name);

#endif
