// Transformers of the Llama family, trained through low-rank adapters on a frozen backbone.
//
//     struct model *m = model_open(&dev, &params, &err);      // weights from a file
//     model_init_adapter(m, seed, theta);                      // A Gaussian, B zero; (n) = shape
//     struct model_client client = {.adapter = theta, .moments = moments};
//     struct model_job job = {.batch = &batch, .client = &client};
//     model_load(m, &client, 0);                               // onto the device
//     model_train_step(m, &job, 1, &optim, rec);               // forward, backward, optimizer
//     model_evaluate(m, &job, 1);                              // loss only
//     model_store(m, &client);                                 // and back: theta is trained
//     model_generate(m, &gen);                                 // greedy, with a cache
//
// Every array in this header is the host's; where a device has its own memory, the model copies.
//
// Several clients' steps may go in one call: each job has its own adapter, batch and optimizer
// state. A batch is cut into slices of whole sequences, about MODEL_SLICE_TOKENS long, that depend
// on the batch alone; a lane (thread) takes a slice through forward and backward, and slices'
// gradients are summed in order. So results are the same to the bit for any number of threads, and
// for a job alone or beside others.
#ifndef FSTQ_MODEL_MODEL_H
#define FSTQ_MODEL_MODEL_H

#include "base/check.h"
#include "base/opt.h"
#include "base/record.h"
#include "base/shape.h"
#include "dev/dev.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_SLICE_TOKENS 512

struct model_params { // [model]
    char path[240];
    char others[512];  // "SHARE:PATH,...": of clients that hold other backbones
    int32_t lora_rank; // 0 = no adapter
    double lora_alpha;
    char lora_targets[64]; // "all", or q,k,v,o,gate,up,down
    int32_t recompute;     // MODEL_KEEP_*
    int32_t dtype;         // MODEL_DTYPE_*: how weights are held
};
enum { MODEL_KEEP_ALL, MODEL_KEEP_LAYER }; // recompute = none | layer
enum {
    MODEL_DTYPE_AUTO,
    MODEL_DTYPE_F32,
    MODEL_DTYPE_BF16,
    MODEL_DTYPE_F16,
    MODEL_DTYPE_Q8, // blocks of Q8_0, of Q4_1, of NF4 (see kernels/block.h)
    MODEL_DTYPE_Q4,
    MODEL_DTYPE_NF4,
    MODEL_DTYPE_STORED // as the file has it, however small the model is
};
extern const char *const model_dtypes[], *const model_recomputes[]; // the parameters' choices

extern const struct opt model_options[];
extern const int model_option_count;

struct optim_params { // [optim]: the local optimizer
    int32_t kind;     // OPTIM_*
    double lr, beta1, beta2, eps, weight_decay, momentum;
    double clip; // of the gradient's norm, 0 = off
};
enum { OPTIM_ADAMW, OPTIM_SGD };

extern const struct opt optim_options[];
extern const int optim_option_count;

#define MODEL_LAYERS_MAX 1024

// What a family of models has beside what a Llama has.
struct model_traits {
    bool qkv_bias;     // of queries, keys and values
    bool head_norm;    // every head of queries and keys is normalised
    bool out_norm;     // attention's and the MLP's output is, before it is added
    bool gelu;         // the MLP's gate, instead of SiLU
    bool scaled_embed; // embeddings times sqrt(dim)
    bool norm_plus;    // files hold a norm's weight less one
};

// divisors: a frequency each, as GGUF files have them.
enum { MODEL_ROPE_PLAIN, MODEL_ROPE_LINEAR, MODEL_ROPE_LLAMA3, MODEL_ROPE_DIVISORS, MODEL_ROPES };
#define MODEL_DIVISORS 512
struct model_rope {
    int32_t kind, n_divisors;
    double factor, low, high, original; // the last three of llama3
    float divisor[MODEL_DIVISORS];
};

struct model_config {
    int32_t family; // row of model_families
    int32_t dim, hidden, layers, heads, kv_heads, head_dim, vocab, max_positions;
    int32_t rope_style; // enum kernel_rope_style
    bool tied;          // the head is the embedding
    double rope_theta, norm_eps;
    struct model_traits traits; // what its family has beside a Llama
    struct model_rope rope;     // how frequencies are scaled, but in layers with a window
    double attn_scale;          // of the scores; 0 = 1 / sqrt(head_dim)
    int32_t window;             // a token sees so many in the layers named below; 0 = all
    double window_theta;        // rope_theta of those layers
    uint64_t windowed[MODEL_LAYERS_MAX / 64]; // bit l: layer l has the window
};

struct model;

// The weights of a file: llama2.c's .bin, a Hugging Face directory, or our own .safetensors.
struct model *model_open(struct dev *dev, const struct model_params *p, struct err *err);
// Fresh weights: E ~ N(0, 0.05^2), W ~ N(0, (0.7 / sqrt(d_in))^2), o and down smaller by 1 / sqrt(2
// L).
struct model *model_create(struct dev *dev, const struct model_params *p,
                           const struct model_config *c, uint64_t seed, struct err *err);
void model_close(struct model *m);
// What model_open would find at a model.path, without its weights.
int model_read_config(const char *path, struct model_config *c, struct err *err);
// Where the file of a model.path lies: the path itself, or, for a bare name, NAME.gguf in the cache
// that scripts/get-model.sh fills.
#define MODEL_PATH 512
void model_place(const char *path, char *out, size_t size);
// The file of the vocabulary that comes with a model.path: a GGUF file itself, a directory's
// tokenizer.json; "" = none.
void model_vocabulary(const char *path, char *out, size_t size);
// Every mistake that bytes from outside can make in a config.
int model_config_check(const struct model_config *c, struct err *err);
uint64_t model_config_values(const struct model_config *c); // weights of a checked config
const struct model_config *model_config(const struct model *m);
const struct shape *model_shape(const struct model *m); // of the adapter
size_t model_weight_count(const struct model *m);
// The values of the adapter that belong to this layer and those above it.
struct shape_range model_layers_from(const struct model *m, int32_t layer);
void model_init_adapter(const struct model *m, uint64_t seed, float *adapter);
// Own checkpoint: safetensors with the config in its metadata. dtype: enum kernel_dtype. adapter:
// merged into the weights, or NULL.
int model_save(const struct model *m, const char *path, int32_t dtype, const float *adapter,
               struct err *err);

// An adapter as a folder that PEFT loads, and back; p: its rank, alpha and the model's path. A
// folder that holds an adapter already, whoever trained it, stays as it is: -1.
int model_peft_check(const char *dir,
                     struct err *err); // is there none, so that one may be written?
int model_peft_write(const struct model *m, const struct model_params *p, const char *dir,
                     const float *adapter, struct err *err);
int model_peft_read(const struct model *m, const struct model_params *p, const char *dir,
                    float *adapter, struct err *err);

// Rows that enter a layer, on their way from one model to another (split learning). As an output
// those of sequence s are len[s] from row start[s] of its batch on; as an input they lie as the
// batch's start says.
struct model_cut {
    int32_t layer;       // from 1; as an output not the last one's successor
    int32_t *len;        // (n_seqs), outputs only
    int32_t *pos, *size; // (rows) position in the sequence, tokens that a row stands for
    float *x;            // (rows, dim)
};

// What layers put out, read on the way forward, for who trains beside the model (side.h): nothing
// is kept of a layer once the next has run.
struct model_tap {
    int32_t n;            // layers
    const int32_t *layer; // (n) ascending, from 0
    bool all;             // rows of the batch, or those with a target
    int32_t rows;         // of either
    float *x;             // (n, rows, dim) out
    float *logits; // (rows with a target, vocab) out, or NULL: the head is left out, and what
                   // is above the last of the layers
};

struct model_batch {
    int32_t n_seqs;
    const int32_t *start;   // (n_seqs + 1): rows of each sequence; no padding is needed
    const int32_t *tokens;  // (rows)
    const int32_t *targets; // (rows): the token to come, < 0 = no loss here (prompt, padding)
    const float *weights;   // (rows) or NULL for 1: multiplies a token's loss; 0 = no loss here
    bool sum;               // loss = sum of weight * loss; else divided by the sum of weights
    const struct model_cut *from; // NULL, or rows to begin with instead of tokens
};

// Tokens merge on the way through the layers (ToMe, Bolya et al. 2023), between the attention and
// the MLP of all but the last, adapted to a causal model: each into one that comes after it, which
// keeps its place and position. See struct kernel_merge for which. A merged row is the mean of its
// tokens; attention counts it as often as it stands for tokens; its label is that of the last of
// them, with the weight of all. protect: only tokens before the first of a sequence that has a
// target merge, so that what any loss sees of the sequence are tokens before it. Else which tokens
// merge depends on later ones, too.
struct model_merge {
    double ratio;   // part of the tokens that may merge, merged in each layer
    int32_t window; // places from the one to the other, at most
    bool protect;
};

size_t optim_floats(int32_t kind, size_t n);

// A client in training. From model_load to model_store its arrays are lent to the device: the host
// looks at them only where a call below says so.
struct model_client {
    int32_t id;       // for spans
    float *adapter;   // (n) of model_shape; trained in place
    float *moments;   // (n_moments), zero at the start
    size_t n_moments; // optim_floats(kind, n)
    int32_t steps;    // taken so far
    float *ema, *sum; // averages of the unclipped gradient g, each (n) or NULL: rho ema + (1 - rho)
    float *mean;      // g^2, sum + g^2, rho mean + (1 - rho) g
    float rho;
    // What model_update may change of adapter, moments and averages, ascending; NULL = all.
    const struct shape_range *trained;
    int32_t n_trained;
    struct model_place *place; // the model's
};

struct model_job {
    const struct model_batch *batch;
    struct model_client *client;     // loaded, or NULL: nobody trains
    const float *adapter;            // (n) instead of the client's; without a client NULL is the
                                     // backbone alone, to evaluate
    const struct model_merge *merge; // or NULL; goes with none of the outputs per token
    struct model_cut *cut; // or NULL: model_evaluate ends before this layer, without a loss; rows
                           // with a target do not merge then
    // Or NULL: training goes no further than that layer either, and its backward begins with dL/dx
    // of the rows that enter it instead of a loss; they lie as model_evaluate left the rows, and
    // pos and size are not read.
    const struct model_cut *back;

    struct model_tap *tap; // or NULL: model_evaluate reads layers instead of a loss; no merging

    // Outputs, each or NULL. Per token they have the batch's rows.
    float *grad;       // (n) the gradient; it is not to be changed
    float *token_loss; // 0 where there is no target; weights do not matter
    float *token_sq;   // ||dL/de_i||^2 where there is a target, else 0: asks backward to go on
                       // down to the embeddings of those rows
    float *embed_grad; // (rows, dim) dL/de_i: likewise, of all rows; where rows come from another
                       // model that is dL/dx of what enters its first layer
    float *received;   // attention each token gets, summed over queries, heads and layers
    int32_t *best;     // most likely next token, where there is a target; else -1

    double loss;       // out
    double weight;     // out: sum of weights of tokens with a target
    double grad_norm;  // out: before clipping
    int64_t rows_left; // out: rows that entered the last layer
};

int32_t model_slice_rows(const struct model *m); // of the largest slice of the last call
// Makes memory for up to this many jobs, and clients in training, with batches of up to `rows` rows
// in sequences of up to `longest`; calls beyond it make more. Nothing is allocated while training
// then.
void model_reserve(struct model *m, int32_t longest, int32_t rows, int32_t jobs);

// Lends a client's arrays to the device. place: from 0; clients in training at once have different
// ones.
void model_load(struct model *m, struct model_client *c, int32_t place);
// The adapter as trained so far: c->adapter, brought up to date.
const float *model_look(struct model *m, struct model_client *c);
// Where the device has the client's arrays; they stay as model_store leaves them until another
// client is loaded into the place. Where host code may touch them they are the client's own.
struct model_lent {
    float *adapter, *ema, *sum, *mean;
};
struct model_lent model_lent(const struct model_client *c);
// Brings all of it up to date, and gives it back.
void model_store(struct model *m, struct model_client *c);

// Loss only (and token_loss, best, received).
void model_evaluate(struct model *m, struct model_job *jobs, int32_t n);
// Gradients of every job, no update. rec: spans FORWARD, BACKWARD, EMBED_GRAD, MERGE, or NULL.
void model_backward(struct model *m, struct model_job *jobs, int32_t n, struct recorder *rec);
// The gradient (n) a job's last backward left, in the host's hands to look at and change; it goes
// back before the next one is taken, and before model_update.
float *model_take_gradient(struct model *m, int32_t job);
// Instead of model_backward, for n jobs with loaded clients: makes room for gradients that the host
// will give.
void model_no_backward(struct model *m, struct model_job *jobs, int32_t n);
void model_give_gradient(struct model *m, int32_t job, float *grad);
// Clips and steps, spans OPTIMIZER and, where a job keeps averages, ACCUMULATE.
void model_update(struct model *m, struct model_job *jobs, int32_t n, const struct optim_params *p,
                  struct recorder *rec);
void model_train_step(struct model *m, struct model_job *jobs, int32_t n,
                      const struct optim_params *p, struct recorder *rec);
// sum (n) += squares of the gradients that the jobs' last backward left, in their order.
void model_sum_squares(struct model *m, int32_t n_jobs, float *sum);

// What the last backward and update took: wall time, shared out by the lanes' own clocks.
// device_ns: by the only lane's clock, from the first operation to the last, without the host's
// plans, copies to and from the host, and an update that is apart; 0: there are several lanes.
struct model_times {
    int64_t forward_ns, backward_ns, embed_ns, merge_ns, optimizer_ns, fisher_ns, device_ns;
};
struct model_times model_times(const struct model *m);
// Activations that one lane must keep from forward to backward of a slice of so many tokens.
size_t model_kept_bytes(const struct model *m, int32_t tokens);

struct model_reduce; // reduce.h
struct model_gen {
    const float *adapter; // or NULL
    int32_t n_seqs;
    const int32_t *start, *tokens; // prompts, none empty
    int32_t max_new, end; // end: token that stops a sequence and is not part of it, -1 = none
    int32_t *out;         // (n_seqs, max_new)
    int32_t *out_len;     // (n_seqs)
    bool *ended;          // (n_seqs) whether the end came, or NULL
    int64_t *token_ns;    // (n_seqs, max_new) out: when each was known, from the start of the work
                          // on (memory is there by then), the end included; or NULL
    int64_t *cache_bytes; // out: of the keys and values of all sequences; or NULL
    const struct model_reduce *reduce; // of prompts (reduce.h), or NULL; not with answers
    // With an expected answer, its end included, from token answer[i] >= 1 of sequence i on: one
    // pass over all of it gives the answer's loss, and what to go on from after the prompt. Where
    // each token of the answer is the likeliest one, it is what would be generated: out is not
    // filled. NULL = prompts alone.
    const int32_t *answer; // (n_seqs)
    double *loss;          // (n_seqs) out: sum over the answer's tokens
    bool *right;           // (n_seqs) out
};
void model_generate(struct model *m, const struct model_gen *g);

// A backbone that moves: W = W0 + alpha / rank * P for every projection with an adapter; P
// (model_product_values) has the size of their B A, in the order of the A of model_shape. fp32 on
// the CPU only, else an error. P = NULL: W0 again.
size_t model_product_values(struct model *m);
int model_backbone_open(struct model *m, struct err *err);
void model_backbone_move(struct model *m, const float *products);
// Merges an adapter into the weights for good: the model alone then is what it was with the
// adapter, up to rounding. fp32 weights only, else an error.
int model_fold(struct model *m, const float *adapter, struct err *err);

// Training of all weights, for the base model: fp32 weights and no adapter (lora_rank = 0), else an
// error. model_full_backward leaves the gradient of every weight; write weights through
// model_full_weights and say so with model_full_changed.
int model_full_begin(struct model *m, struct err *err);
void model_full_backward(struct model *m, struct model_job *job);
void model_full_update(struct model *m, struct model_job *job, const struct optim_params *p);
float *model_full_weights(struct model *m);  // (model_weight_count)
float *model_full_gradient(struct model *m); // likewise
void model_full_changed(struct model *m);

#endif
