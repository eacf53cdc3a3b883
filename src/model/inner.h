// What the files of model/ share.
#ifndef FSTQ_MODEL_INNER_H
#define FSTQ_MODEL_INNER_H

#include "model/model.h"

enum { MODEL_BLOCKS = -1 }; // a dtype: matrices are held as blocks, each of its own type

// Projections that share an input are one matrix.
enum { LIN_QKV, LIN_O, LIN_GU, LIN_DOWN, LINS };

struct layer {
    struct kernel_linear lin[LINS];
    size_t at[LINS]; // of the matrix among all matrix values
    float *norm_att, *norm_mlp;
    float *bias;       // (qkv columns) or NULL, like all that follow
    float *norm_heads; // (2, head_dim)
    float *norm_att_out, *norm_mlp_out;
    bool windowed;
};

// What a lane works in for a slice: activations, what the host decided about it, what comes back.
enum { LANE_ACTS, LANE_CONTROL, LANE_RESULTS, LANE_BLOCKS };
struct lane_bytes {
    size_t of[LANE_BLOCKS];
};

struct model_lane {
    uint8_t *block[LANE_BLOCKS]; // the device's
    uint8_t *twin[LANE_BLOCKS];  // the host's, NULL for activations
    kernel_act **x;              // (L + 1)
    struct kept *kept;           // (L)
    struct level *level;         // (L)
    float *grad;                 // of one slice, when its job has several
    size_t grad_cap;
    int64_t update_ns, fisher_ns; // of the update under way, the second not in the first
};

// Memory of the device's for an array of the host's.
struct loan {
    void *block; // NULL where the array serves
    size_t size_bytes;
};

// What the device has of a client in training.
enum { PLACE_LOANS = 5 };
struct model_place {
    float *adapter, *moments;
    struct kernel_fisher averages;
    struct kernel_ranges trained;
    kernel_step *step, *here; // the device's, and what the host knows of it
    bool behind;              // the device does not know yet what is here
    struct loan loan[PLACE_LOANS], ranges;
};

// What operations are given of a job's arrays.
struct job_lent {
    const float *adapter;
    float *grad;
    struct loan loan; // of the adapter
};

struct model_slice_times {
    int64_t forward_ns, backward_ns, embed_ns, merge_ns, step_ns; // the last: the optimizer's
};

// One part of a job's batch.
struct slice {
    int32_t job, seq0, seqs, row0, rows; // of the batch
    int32_t longest;
    bool alone;        // the only slice of its job
    int32_t rows_left; // that enter the last layer
    double loss;
    struct model_slice_times times;
};

struct model {
    struct dev *dev;
    struct model_params params;
    struct model_config cfg;
    int32_t dtype;           // enum kernel_dtype, or MODEL_BLOCKS
    void *weights;           // n_matrix values of dtype, then slack; norms follow at once when fp32
    struct block_rows *part; // MODEL_BLOCKS: embedding, each layer's targets, head; else NULL
    const void *map;         // the file that parts lie in, mapped; NULL = they lie in weights
    size_t map_bytes;
    float *norms; // (2 L + 1, dim), then what the family's traits add, (L, extra)
    size_t n_matrix, n_norm;
    float *packed; // small models: every W^T in panels, else NULL
    size_t embed_at, head_at;
    struct kernel_weight embed, head;
    struct layer *layer;
    float *norm_final;
    float *cosine[2], *sine[2]; // (positions, head_dim / 2); the second of layers with a window
    int32_t positions;
    struct shape shape;

    struct model_lane *lane;
    struct slice *slice;
    int32_t n_slices;
    size_t slice_cap;
    struct lane_bytes bytes; // of each lane
    uint32_t moves;          // how often memory that operations are given has moved
    float *grads;            // of jobs that bring no place for it
    size_t grads_cap;
    struct job_lent *job; // (jobs_cap) of the last call
    int32_t jobs_cap, n_places;
    struct model_place **place;     // (n_places)
    struct loan sum_loan, gen_loan; // a sum of squares; the adapter that generates
    float *room;                    // for a gradient in the host's hands, where it needs one
    float *full_grad;               // training all weights
    float *start; // of a backbone that moves: the adapted weights as they were, else NULL
    struct model_times times;
};

// A tensor of a checkpoint, by its Hugging Face name, and where it lies.
struct slot {
    char name[64];
    int32_t rows, cols; // rows 0: a vector of cols
    size_t at;          // among the matrix values, or among the norms
    int32_t part;       // of model.part, where there are any
    bool norm;
    bool plus; // a norm of which Hugging Face files hold one less
};
int32_t model_slots(const struct model *m);
struct slot model_slot(const struct model *m, int32_t i);
void model_slot_put(struct model *m, const struct slot *s, size_t from, size_t n, const float *x);
// The place of the first of n values from outside that is not finite; n: all are.
size_t model_nonfinite(const float *x, size_t n);
void model_slot_get(const struct model *m, const struct slot *s, size_t from, size_t n, float *x);

// Lays out a model without values; dtype is decided from what the file stores. MODEL_BLOCKS: the
// caller gives every part its place.
struct model *model_shell(struct dev *dev, const struct model_params *p,
                          const struct model_config *c, int32_t stored, struct err *err);
void model_ready(struct model *m); // after the last weight: packs

// Row stride of activations of n columns: whole cache lines, and never a multiple of eight of them,
// which would put a column's rows into the same few sets of the caches.
static inline int32_t stride(int32_t n)
{
    int32_t lines = (n + 15) / 16;
    return 16 * (lines % 8 == 0 ? lines + 1 : lines);
}

static inline int32_t model_q_cols(const struct model_config *c)
{
    return c->heads * c->head_dim;
}
static inline int32_t model_kv_cols(const struct model_config *c)
{
    return c->kv_heads * c->head_dim;
}
static inline bool model_windowed(const struct model_config *c, int32_t layer)
{
    return c->window > 0 && c->windowed[layer / 64] >> layer % 64 & 1;
}
static inline int32_t model_qkv_cols(const struct model_config *c)
{
    return model_q_cols(c) + 2 * model_kv_cols(c);
}

// acts.c: the memory of a slice.

// A block, taken twice with the same calls: once to count, once to use.
struct bump {
    uint8_t *base; // NULL = only counting
    size_t used;
};
static inline void *bump_take(struct bump *b, size_t count, size_t size)
{
    size_t at = b->used;
    b->used += (count * size + 63) / 64 * 64;
    return b->base ? b->base + at : NULL;
}

// What a layer leaves for its backward.
struct kept {
    kernel_act *qkv, *att, *mid, *gu, *u[LINS];
    float *lse, *rstd_att, *rstd_mlp;
    kernel_act *raw;               // qkv before heads are normalised, where they are
    kernel_act *att_out, *mlp_out; // before they are normalised, where they are
    float *rstd_att_out, *rstd_mlp_out;
};

// What operations work on; all of it the device's but for the lists x and kept. With recompute, and
// without a backward, all layers share one `kept`.
struct acts {
    int32_t ld_dim, ld_q, ld_qkv, ld_gu, ld_hidden, ld_u[LINS];
    kernel_act **x; // (L + 1) inputs of the layers, last output; without backward two in turn
    struct kept *kept;
    bool shared;
    kernel_act *h, *dh, *dx, *dout;         // dout: of att_out or mlp_out
    kernel_act *act, *dact;                 // in the MLP
    kernel_act *datt, *dqkv;                // in attention, in the same place
    kernel_act *x_few, *att_few, *datt_few; // the last layer's second half, where few rows have a
                                            // loss
    kernel_act *top, *dtop;                 // rows with a loss, (n, dim), before the last norm
    float *rstd_top;
};

// What the host decides about a slice before it runs, and operations read. The host and the device
// have a copy each, laid out alike, so that it goes over in one piece.
struct control {
    int32_t *start, *pos, *token; // (seqs + 1); (rows): place in the sequence, and token
    int32_t *row, *target;        // (n_top) rows with a loss, and what they predict
    float *weight;                // (n_top)
    int32_t *scored;              // (n_scored) rows whose gradient goes down to the embeddings
    int32_t *free;                // (seqs) leading rows of a sequence that may merge
    float *log_size;              // (rows) of rows that come from another model
};

// Lists of the rows that enter a layer, in the host's memory or the device's.
struct level_lists {
    int32_t *start, *pos; // (seqs + 1), (rows)
    int32_t *free;        // (seqs) leading rows of a sequence that may merge
    float *log_size;      // (rows), NULL while no row stands for several
    int32_t *into;        // (rows) after attention row i goes into this row of the next level
    float *share;         // (rows) its part in there; those of one row sum to 1
};

// The rows that enter a layer, where tokens merge on the way. What its merging decides, into, share
// and the next level's lists, are one block that begins at into.
struct level {
    int32_t rows;
    bool merges; // some row goes into another one
    struct level_lists host, dev;
    size_t block_bytes;
    float *size; // (rows) the host's: tokens that a row stands for
};

// What comes back in one piece; all but loss only where it was asked for.
struct results {
    float *loss;      // (n_top)
    int32_t *best;    // (n_top)
    float *token_sq;  // (n_scored)
    float *received;  // (rows)
    float *x;         // (rows, dim): gradients of the embeddings, or rows at a cut
    float *tap;       // (tap.n, rows, dim)
    float *logits;    // (rows with a target, vocab)
    kernel_act *wide; // logits, where activations are no floats
};

// Layers that rows go through: [first, end).
struct layers {
    int32_t first, end;
};
static inline struct layers layers_all(const struct model *m)
{
    return (struct layers){0, m->cfg.layers};
}
struct layers layers_of(const struct model *m, const struct model_job *job);

// train: room for what those layers keep for the way back.
void acts_take(const struct model *m, const struct model_lane *lane, struct acts *a, int32_t rows,
               struct layers of, bool train, struct bump *b);
void control_take(struct control *c, int32_t rows, struct bump *b);
void results_take(const struct model *m, const struct model_job *job, struct results *r,
                  int32_t rows, struct bump *b);
// c: the lists of the first level, in both places. place: (rows) the host's, to work in.
void levels_take(const struct model *m, struct level *level, const struct control *host,
                 const struct control *dev, int32_t rows, struct bump *host_bump,
                 struct bump *dev_bump, int32_t **place);
// At most, for a slice of so many rows of this job; NULL: a job that trains and scores tokens.
struct lane_bytes slice_bytes(const struct model *m, const struct model_job *job, int32_t rows,
                              bool train);
void lanes_open(struct model *m); // without blocks
void lanes_free(struct model *m);
// Makes every lane's memory at least this large, for slices of up to `rows` rows in sequences of up
// to `longest`.
void lanes_reserve(struct model *m, int32_t rows, int32_t longest, struct lane_bytes bytes);
void model_positions(struct model *m, int32_t n); // rope tables

// A slice, or a step of generation, on its lane.
struct launch {
    struct model *m;
    struct model_job *job;
    struct slice *slice;
    int32_t lane;
    const struct kernel_ctx *cx;
    const struct kernel_ops *op;
    const float *adapter;
    float *grad; // adapter's, or that of all weights
    bool backward, full, token_grads;
    const struct model_merge *merge; // NULL: rows are the same in all layers

    struct acts a;
    struct level *level; // (L) where tokens merge
    int32_t *place;      // (rows) the host's, to work in
    struct control host, dev;
    struct results out, dev_out;
    size_t control_bytes, results_bytes;

    int32_t rows;
    struct kernel_seqs seqs;
    const int32_t *pos;        // of the rows of this layer
    const float *log_size;     // likewise, or NULL
    struct kernel_cache cache; // generation: of the rows, in this layer, else k is NULL
    const int32_t *merges;     // the host's, or NULL: rows of each sequence to merge in this layer,
                               // not a part of them
    int32_t first, end;        // layer that the rows enter, and that they go no further than
    int32_t n_top;             // rows with a loss
    int32_t n_scored;          // rows whose gradient goes down to the embeddings
    bool few;                  // n_top is so few that the last layer goes on with them alone
    int32_t planned;           // levels whose merging is decided
    int32_t merge_marks, merge_marks_forward;
};

// Times within a slice.
enum { MARK_BEGIN, MARK_FORWARD, MARK_EMBED, MARK_END, MARK_STEP, MARK_MERGE }; // the last: pairs
enum { MERGES_PER_LAYER = 4 }; // decide, forward, forward again with recompute, backward
static inline void launch_mark(const struct launch *r, int32_t slot)
{
    r->m->dev->row->mark(r->m->dev, r->lane, slot);
}
static inline void launch_zero(const struct launch *r, void *to, size_t size_bytes)
{
    r->m->dev->row->zero(r->m->dev, r->lane, to, size_bytes);
}
static inline void launch_put(const struct launch *r, void *to, const void *from, size_t size_bytes)
{
    r->m->dev->row->put(r->m->dev, r->lane, to, from, size_bytes);
}
static inline void launch_get(const struct launch *r, void *to, const void *from, size_t size_bytes)
{
    r->m->dev->row->get(r->m->dev, r->lane, to, from, size_bytes);
}
static inline void launch_wait(const struct launch *r)
{
    r->m->dev->row->wait(r->m->dev, r->lane);
}

// levels.c: merging. All but merge_enter and merge_plan are for launches that merge.
void merge_begin(struct launch *r);            // level 0: all rows of the slice
void merge_rows_begin(struct launch *r);       // the same of prompts, whose last tokens stay
void merge_enter(struct launch *r, int32_t l); // rows, positions and sizes of layer l
void merge_plan(struct launch *r, int32_t l);  // from the keys of layer l, before they are turned
void merge_forward(struct launch *r, int32_t l, const kernel_act *x, kernel_act *y);
void merge_backward(struct launch *r, int32_t l, const kernel_act *dy, kernel_act *dx);
void merge_labels(struct launch *r); // targets and weights of the last layer's rows
static inline bool merges_at(const struct launch *r, int32_t l)
{
    return r->merge && r->level[l].merges;
}

// lend.c: arrays of the host that the device works on.
void *loan_block(struct model *m, struct loan *l, size_t size_bytes);
// The array itself where host code may touch the device's memory, else a copy of it; NULL stays.
void *loan_lend(struct model *m, struct loan *l, const void *array, size_t size_bytes);
void loan_fetch(struct model *m, void *array, const void *lent, size_t size_bytes);
void loan_free(struct model *m, struct loan *l);
void places_reserve(struct model *m, int32_t n);
void places_free(struct model *m);

// optimizer.c: a step within the recording of its backward.
struct kernel_optim model_optim(const struct optim_params *p);
struct model_step {
    const struct model_job *job;
    const struct optim_params *optim;
    float *grad;
};
void step_put(struct model *m, const struct model_step *s);    // what changes, before it
void step_launch(struct model *m, const struct model_step *s); // operations alone
void step_get(struct model *m, const struct model_step *s);    // what the host wants to know
uint64_t step_key(struct model *m, const struct model_step *s);
void step_span(struct recorder *rec, const struct model_job *job, int64_t t0, int64_t dur_ns);

// plan.c: what the host decides; it touches nothing of the device's.
void plan_slices(struct model *m, const struct model_batch *b, int32_t job); // into slices
void plan_slice(struct launch *r);
void plan_top(struct launch *r);           // which rows have a loss
void plan_back(struct launch *r);          // what comes back of the rows at the cut, to the device
void plan_outcome(struct launch *r);       // from results to the job's outputs
uint64_t plan_key(const struct launch *r); // of everything that the launch depends on

// forward.c and backward.c: operations, in an order that the plan alone decides.
struct kernel_rope rope_of(const struct model *m, int32_t layer, float sign);
struct kernel_attn attn_of(const struct launch *r, int32_t layer);
void embed_forward(struct launch *r, const int32_t *tokens);  // of r->rows rows, to x[0]
void gate_forward(struct launch *r, int32_t l, int32_t rows); // gate and up to the MLP's inside
// Rows of a layer's output projection, which adds its attention to its input.
static inline int32_t rows_attended(const struct launch *r, int32_t l)
{
    return r->few && l == r->m->cfg.layers - 1 ? r->n_top : r->rows;
}
// Rows of what follows.
static inline int32_t rows_after(const struct launch *r, int32_t l)
{
    return merges_at(r, l) ? r->level[l + 1].rows : rows_attended(r, l);
}
// x[l] -> x[l + 1]; what backward needs goes to kept[l]. received: of the slice's rows, or NULL.
void layer_forward(struct launch *r, int32_t l, float *received);
void launch_forward(struct launch *r);
void launch_backward(struct launch *r);

// tap.c
static inline int32_t tap_layers(const struct model *m, const struct model_tap *t)
{
    return t->logits ? m->cfg.layers : t->layer[t->n - 1] + 1;
}
void tap_check(const struct model *m, const struct model_job *job);
void tap_layer(struct launch *r, int32_t l); // after it
void tap_head(struct launch *r);
void tap_outcome(struct launch *r);
uint64_t tap_key(const struct model_tap *t); // of all that operations depend on

// Loaders. Each fills *m or returns -1 with the file and the field.
struct loader {
    const char *name, *help;
    bool (*takes)(const char *path); // by name and kind of file
    struct model *(*load)(struct dev *dev, const struct model_params *p, struct err *err);
    int (*config)(const char *path, struct model_config *c, struct err *err);
};
#define MODEL_BUILTIN "builtin"                            // as model.path
extern const uint8_t base_model_begin[], base_model_end[]; // builtin.c
extern const struct loader *const loader_table[];          // NULL-terminated
extern const struct loader loader_llama2c, loader_hf, loader_own, loader_gguf;

#endif
