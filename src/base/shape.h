// What travels, as a list of named matrices in one flat vector of floats. Fixed at hello: frames
// carry only its hash, never shapes.
#ifndef FSTQ_BASE_SHAPE_H
#define FSTQ_BASE_SHAPE_H

#include <stddef.h>
#include <stdint.h>

enum shape_kind { SHAPE_OTHER, SHAPE_LORA_A, SHAPE_LORA_B };

struct shape_tensor {
    char name[48];
    uint32_t rows, cols; // row-major; A is (r, d_in), B is (d_out, r)
    uint32_t kind;       // enum shape_kind
    size_t offset;       // of its first value in the flat vector
};

struct shape {
    uint32_t n_tensors;
    size_t n_values;
    uint64_t hash; // XXH3 over names, sizes and kinds
    struct shape_tensor *tensors;
};

void shape_init(struct shape *s);
void shape_add(struct shape *s, const char *name, uint32_t rows, uint32_t cols,
               enum shape_kind kind);
void shape_seal(struct shape *s); // computes the hash
void shape_free(struct shape *s);

#endif
