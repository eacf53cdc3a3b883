// The side network of server-assisted side-tuning: a chain of gated adapters beside a backbone that
// stays as it is, over activations of some of its layers. Row by row, with a_i the i-th of them,
//
//     a_i = U_i x_i                 where backbones of other widths share the network, else x_i
//     z_1 = a_1                     z_i = (1 - mu_i) a_i + mu_i s_(i-1),  mu_i = sigmoid(alpha_i)
//     s_i = z_i + up_i relu(down_i z_i)
//     y   = head s_M + bias         of rows that have a loss
//
// PAE MobiLLM's chain as its summaries give it (arXiv 2507.01216). Inferred, for the papers' text
// does not say: relu, z_1, both losses, a bias, one U a backbone and layer, and all of the start:
// alpha, up, head and bias 0, so that s is a mix of activations and y is 0; down Gaussian; U the
// identity where it is square, else Gaussian.
//
// Nothing in it looks from one row to another: what a row gives is the same whatever is beside it.
// Arrays are the host's, and one thread works on them.
#ifndef FSTQ_MODEL_SIDE_H
#define FSTQ_MODEL_SIDE_H

#include "base/shape.h"
#include "dev/dev.h"
#include "model/model.h"

#include <stdbool.h>
#include <stdint.h>

#define SIDE_TYPES 8

struct side_config {
    int32_t layers, width, rank, classes; // M, D, r, C
    int32_t types;                        // of backbones
    int32_t dim[SIDE_TYPES];              // their widths
    bool project;                         // U; without it all are D wide
    bool norm;                            // rows come in with a mean square of 1
};

struct side;

// Rows of one backbone, or of several, in the order of their types; x is written where side_input
// says.
struct side_batch {
    int32_t type, rows, scored;
    const int32_t *row; // (scored) rows with a loss, ascending; NULL = all
    const int32_t *of;  // (types) rows of each type, which come to `rows`; NULL = all are of `type`
};

// What y should be. Of the two losses, means over the rows:
//     L2             |y + base - target|^2, summed over classes
//     cross-entropy  -log softmax(y + base)[label], where there are no targets
// A target is `target`, or 1 at the label and 0 elsewhere; base NULL is 0. So with target = (1 at
// the label) - base the server trains as well as with both, and knows neither.
enum side_loss { SIDE_L2, SIDE_CE };
struct side_answer {
    enum side_loss loss;
    const float *target;  // (scored, classes), or NULL
    const int32_t *label; // (scored)
    const float *base;    // (scored, classes), or NULL
};

int side_check(const struct side_config *c, struct err *err);
// d: a device whose memory is the host's; it outlives the network.
struct side *side_open(struct dev *d, const struct side_config *c);
void side_close(struct side *s); // NULL does nothing
const struct side_config *side_config(const struct side *s);
void side_init(struct side *s, uint64_t seed); // as new, the optimizer's state, too
const struct shape *side_shape(const struct side *s);
// The weights that rows of one backbone go through, in order: all but the projections of others. So
// many there are of such a network, and copied.
size_t side_values(const struct side_config *c, int32_t type);
void side_copy(const struct side *s, int32_t type, float *out);
// Weights, then the optimizer's two moments: (3 * n_values).
float *side_state(struct side *s);
// Steps taken: of what all rows go through, then of each backbone's projections, which stay as they
// are where a step has no rows of it. So many numbers there are.
int32_t side_counts(const struct side *s);
int32_t *side_steps(struct side *s, int32_t which);

// Where activations of layer i, from 0, of so many rows of a type are written; a row begins every
// side_stride. Makes room: what is there already is lost with the first layer's call.
float *side_input(struct side *s, const struct side_batch *b, int32_t layer);
ptrdiff_t side_stride(const struct side *s, int32_t type);
// There, a layer's row of a backbone: x over the root of its mean square where cfg.norm says so.
void side_put_row(const struct side *s, int32_t type, const float *x, float *to);

// y of the rows with a loss, side_out_stride apart, until the next call.
const float *side_forward(struct side *s, const struct side_batch *b);
ptrdiff_t side_out_stride(const struct side *s);
double side_loss_of(struct side *s, const struct side_batch *b, const struct side_answer *a);
// Forward, backward and a step of the optimizer; returns the loss before it. Where that is not
// finite nothing moves.
double side_step(struct side *s, const struct side_batch *b, const struct side_answer *a,
                 const struct optim_params *optim);
// The gradient (n_values) of a loss, for tests; returns the loss.
double side_gradient(struct side *s, const struct side_batch *b, const struct side_answer *a,
                     const float **grad);
// The likeliest class of each row with a loss, ties to the lower; base as above.
void side_best(const struct side *s, const struct side_batch *b, const float *base, int32_t *best);
// Multiplications and additions of a step over so many rows, all of which have a loss.
double side_step_flops(const struct side *s, int32_t type, int32_t rows);

#endif
