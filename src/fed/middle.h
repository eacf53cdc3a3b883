// Adapters B0 R A with B0 and A frozen, where only the square R is learned (LoRA-XS, Fed-SB). In
// the flat vector of the adapter R stands at the head of B's place; the rest of it is unused.
#ifndef FSTQ_FED_MIDDLE_H
#define FSTQ_FED_MIDDLE_H

#include "fed/local.h"
#include "fed/product.h"

// B0 of every pair ~ N(0, 1 / rows), so that its columns are about orthonormal. frozen: as long as
// the adapter; only B's places are filled.
void middle_draw(const struct products *p, uint64_t seed, float *frozen);
// adapter = (A of z, B0 R), what the model runs with.
void middle_expand(const struct products *p, const float *frozen, const float *z, float *adapter);
// dR = B0^T dB takes dB's place in the gradient of the expanded adapter. scratch: rank^2.
void middle_gradient(const struct products *p, const float *frozen, float *grad, float *scratch);

extern const struct local_rule middle_rule;

#endif
