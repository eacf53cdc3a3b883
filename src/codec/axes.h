// An update's matrices turned into their own principal directions across the rank: a Karhunen-Loeve
// transform. The rows of A (and of B^T) are few and far from equal in energy, so that coefficients
// along the directions take fewer bits than the values. Directions travel with the message, as
// small integers (basis.h), with their energies in octaves. A matrix without a side of KLT_ROWS or
// less, or not four times as long, stays as it is: one row, one direction.
#ifndef FSTQ_CODEC_AXES_H
#define FSTQ_CODEC_AXES_H

#include "codec/basis.h"
#include "codec/message.h"

#define AXES_LEVELS 32 // of a direction's energy a value, in octaves of the square of the unit
#define AXES_LEVEL  12 // from one square of the unit on

struct axes_matrix {
    size_t rows, length; // length 0: nothing to send
    bool turned;         // (length, rows) in memory
    size_t square;       // where its (rows, rows) numbers lie
    size_t coord;        // its coordinates, (rows + 1) rows / 2
    size_t first;        // direction
    int found, kept;     // directions with any energy; of these, the strongest that are sent
    double sq, column;   // sums of squares: of all values, the most of a column
};

struct axes_direction {
    double value; // energy a value along the direction before it was rounded,
    double sq;    // and all of it along what the receiver will have
    uint8_t level;
    size_t at; // of its coefficients, by level
};

struct axes {
    const struct codec_inst *c;
    double basis, keep; // step of coordinates; energy of the weakest direction, in steps squared
    int gamma16;        // steps grow with a direction's root mean square, to this power
    const float *x;
    struct axes_matrix *m;                       // (n_tensors)
    struct axes_direction *dir;                  // (rows of all)
    double *gram;                                // encoder: products of rows,
    float *u;                                    // and directions, as rows
    int8_t *coord;                               // of directions, in steps
    uint8_t *magnitude;                          // of coordinates
    float unit;                                  // step of a direction of level AXES_LEVEL
    size_t from[AXES_LEVELS], many[AXES_LEVELS]; // coefficients of a level: [from, from + many)
    int top, low;                                // levels that occur; low > top: none
    uint8_t class_of[AXES_LEVELS];               // whoever codes them shares out levels in classes
    int classes;
    _Atomic bool bad; // a value is not finite, or too large
};

// How a tensor is turned, if it is.
struct axes_matrix axes_matrix_of(const struct shape_tensor *t);
struct axes_sizes {
    size_t rows, squares, coords;
};
struct axes_sizes axes_sizes(const struct codec_inst *c);
size_t axes_bytes(const struct codec_inst *c, bool encoder); // scratch of axes_lay
void axes_lay(struct axes *p, const struct codec_inst *c, bool encoder, void **scratch);
size_t axes_entropy_values(const struct codec_inst *c); // as many as put and get code at once

static inline const struct shape_tensor *axes_tensor(const struct axes *p, uint32_t t)
{
    return &p->c->shape->tensors[t];
}
struct klt_tile axes_tile(const struct axes_matrix *m, size_t at);

// Encoder: directions of x, the strongest first. Where p->bad is set, there are none.
void axes_find(struct axes *p, const float *x);
// Of those found, the ones that are sent at a unit, and their levels. 0: none.
void axes_cut(struct axes *p, float unit);
float axes_step(const struct axes *p, int level);
double axes_power(int k); // 2^(k / 32), by square roots only
// Coefficients lie by level, the highest first, then matrix by matrix. Returns how many there are.
size_t axes_lay_codes(struct axes *p);

// Levels and classes, then the directions' coordinates.
size_t axes_bound(const struct codec_inst *c);
int axes_put_levels(const struct axes *p, struct msg_out *o);
int axes_put_directions(struct axes *p, struct msg_out *o, void *scratch);
int axes_get_levels(struct axes *p, struct msg_in *m, struct err *err);
int axes_get_directions(struct axes *p, struct msg_in *m, void *scratch, struct err *err);
// The directions that these say, as columns (rows, kept).
void axes_columns(const struct axes *p, const struct axes_matrix *m, float *mix);

#endif
