// What the files of model/ share.
#ifndef FSTQ_MODEL_INNER_H
#define FSTQ_MODEL_INNER_H

#include "model/model.h"

// Projections that share an input are one matrix.
enum { LIN_QKV, LIN_O, LIN_GU, LIN_DOWN, LINS };

struct layer {
    struct kernel_linear lin[LINS];
    size_t at[LINS]; // of the matrix among all matrix values
    float *norm_att, *norm_mlp;
};

struct model_lane {
    struct arena acts;
    float *grad; // of one slice, when its job has several
    size_t grad_cap;
    int64_t update_ns, fisher_ns; // of the update under way, the second not in the first
};

// One part of a job's batch.
struct slice {
    int32_t job, seq0, seqs, row0, rows; // of the batch
    bool alone;                          // the only slice of its job
    int32_t rows_left;                   // that enter the last layer
    double loss;
    struct model_times times;
};

struct model {
    struct dev *dev;
    struct model_params params;
    struct model_config cfg;
    int32_t dtype; // enum kernel_dtype
    void *weights; // n_matrix values of dtype, then slack; norms follow at once when fp32
    float *norms;  // (2 L + 1, dim)
    size_t n_matrix, n_norm;
    float *packed; // small models: every W^T in panels, else NULL
    size_t embed_at, head_at;
    struct kernel_weight embed, head;
    struct layer *layer;
    float *norm_final;
    float *cosine, *sine; // (positions, head_dim / 2)
    int32_t positions;
    struct shape shape;

    struct model_lane *lane;
    struct slice *slice;
    int32_t n_slices, slice_cap;
    size_t acts_bytes;
    float *grads; // of jobs that bring no place for it
    size_t grads_cap;
    float *full_grad; // training all weights
    float *start;     // of a backbone that moves: the adapted weights as they were, else NULL
    struct model_times times;
};

// A tensor of a checkpoint, by its Hugging Face name, and where it lies.
struct slot {
    char name[64];
    int32_t rows, cols; // rows 0: a vector of cols
    size_t at;          // among the matrix values, or among the norms
    bool norm;
};
int32_t model_slots(const struct model *m);
struct slot model_slot(const struct model *m, int32_t i);
void model_slot_put(struct model *m, const struct slot *s, size_t from, size_t n, const float *x);
void model_slot_get(const struct model *m, const struct slot *s, size_t from, size_t n, float *x);

// Lays out a model without values; dtype is decided from what the file stores.
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
static inline int32_t model_qkv_cols(const struct model_config *c)
{
    return model_q_cols(c) + 2 * model_kv_cols(c);
}

// Memory of one lane, taken twice with the same calls: once to count, once to use.
struct bump {
    uint8_t *base; // NULL = only counting
    size_t used;
};
void *bump_take(struct bump *b, size_t count, size_t size);

// What a layer leaves for its backward.
struct kept {
    float *qkv, *att, *lse, *mid, *gu, *rstd_att, *rstd_mlp;
    float *u[LINS];
};

// The rows that enter a layer, where tokens merge on the way.
struct level {
    int32_t rows;
    int32_t *start, *pos; // (seqs + 1), (rows)
    float *size;          // (rows) tokens that a row stands for
    float *log_size;      // (rows), NULL while no row stands for several
    bool merges;          // after attention row i goes into row into[i] of the next level
    int32_t *into;
    float *share; // (rows) its part in there; those of one row sum to 1
};

// The memory of one slice. With recompute, and without a backward, all layers share one `kept`.
struct acts {
    int32_t ld_dim, ld_q, ld_qkv, ld_gu, ld_hidden, ld_u[LINS];
    float **x; // (L + 1) inputs of the layers and the last output; without backward two in turn
    struct kept *kept;
    bool shared;
    float *h, *dh, *dx;
    float *act, *dact;                 // in the MLP
    float *datt, *dqkv;                // in attention, in the same place
    float *x_few, *att_few, *datt_few; // the last layer's second half, where few rows have a loss
    float *top, *dtop;                 // rows with a loss, (n, dim), before the last norm
    float *rstd_top, *loss, *weight;
    int32_t *start, *pos, *row, *target, *best; // start: of the sequences, (rows + 1)
    struct level *level;                        // (L) where tokens merge
    int32_t *free; // (seqs) leading rows of a sequence that may merge: of the level last planned
};

void acts_take(const struct model *m, struct acts *a, int32_t rows, bool train, struct bump *b);
size_t acts_bytes(const struct model *m, int32_t rows, bool train);

// A slice, or a step of generation, on its lane.
struct run {
    struct model *m;
    struct model_job *job;
    struct slice *slice;
    struct acts a;
    int32_t rows;
    struct kernel_seqs seqs;
    struct kernel_cache cache; // generation: of the rows, else k is NULL
    size_t cache_layer;        // elements from a layer's cache to the next one's
    const struct kernel_ctx *cx;
    const struct kernel_ops *op;
    const float *adapter;
    float *grad; // adapter's, or that of all weights
    bool full, token_grads;
    int32_t first;   // layer that the rows enter
    int32_t n_top;   // rows with a loss: a.row
    int32_t n_embed; // rows whose gradient goes down to the embeddings: a.target, once it is free
    bool few;        // so few that the last layer goes on with them alone after its attention
    const struct model_merge *merge; // NULL: rows are the same in all layers
    int32_t planned;                 // levels whose merging is decided
    const float *log_size;           // of the rows of this layer, or NULL
    struct model_times times;
};

// Merging: levels.c. All but merge_enter and merge_plan are for runs that merge.
void levels_take(struct acts *a, int32_t layers, int32_t rows, struct bump *b);
void merge_begin(struct run *r);            // level 0: all rows of the slice
void merge_enter(struct run *r, int32_t l); // rows, positions and sizes of layer l
void merge_plan(struct run *r, int32_t l);  // from the keys of layer l, before they are turned
void merge_forward(struct run *r, int32_t l, const float *x, float *y);
void merge_backward(struct run *r, int32_t l, const float *dy, float *dx);
void merge_labels(struct run *r); // targets and weights of the last layer's rows
void cut_load(struct run *r);     // the rows of layer r->first
void cut_store(struct run *r);    // those of the layer that the job's forward ends before
static inline bool merges_at(const struct run *r, int32_t l)
{
    return r->merge && r->a.level[l].merges;
}

struct kernel_rope rope_of(const struct model *m, float sign);
struct kernel_attn attn_of(const struct run *r);
// Rows of a layer's output projection, which adds its attention to its input.
static inline int32_t rows_attended(const struct run *r, int32_t l)
{
    return r->few && l == r->m->cfg.layers - 1 ? r->n_top : r->rows;
}
// Rows of what follows.
static inline int32_t rows_after(const struct run *r, int32_t l)
{
    return merges_at(r, l) ? r->a.level[l + 1].rows : rows_attended(r, l);
}
// x[l] -> x[l + 1]; what backward needs goes to kept[l]. received: of the slice's rows, or NULL.
void layer_forward(struct run *r, int32_t l, float *received);

// Lanes' arenas for slices of up to `rows` rows in sequences of up to `longest`, or generation.
void lanes_reserve(struct model *m, int32_t rows, int32_t longest, size_t acts_bytes);
void model_positions(struct model *m, int32_t n); // rope tables

// Loaders. Each fills *m or returns -1 with the file and the field.
struct loader {
    const char *name, *help;
    bool (*takes)(const char *path); // by name and kind of file
    struct model *(*load)(struct dev *dev, const struct model_params *p, struct err *err);
};
#define MODEL_BUILTIN "builtin"                            // as model.path
extern const uint8_t base_model_begin[], base_model_end[]; // builtin.c
extern const struct loader *const loader_table[];          // NULL-terminated
extern const struct loader loader_llama2c, loader_hf, loader_own;

#endif
