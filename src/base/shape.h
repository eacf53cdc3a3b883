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

// Coordinates of the flat vector.
struct shape_range {
    size_t from, to;
};
// Part k of n values cut into `parts` contiguous ones of even size.
struct shape_range shape_segment(size_t n, uint32_t parts, uint32_t k);
// Which part is a client's in a round, where parts go round robin.
static inline uint32_t shape_turn(uint32_t client, uint32_t version, uint32_t parts)
{
    return (uint32_t)(((uint64_t)client + version) % parts);
}

void shape_init(struct shape *s);
void shape_add(struct shape *s, const char *name, uint32_t rows, uint32_t cols,
               enum shape_kind kind);
void shape_seal(struct shape *s); // computes the hash
void shape_free(struct shape *s);

#endif
