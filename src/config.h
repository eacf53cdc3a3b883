// One struct of all parameters, made by joining the option tables that the modules export.
#ifndef FSTQ_CONFIG_H
#define FSTQ_CONFIG_H

#include "fed/fed.h"
#include "model/model.h"
#include "net/transport.h"
#include "task/task.h"
#include "trace/trace.h"

#include <stdarg.h>

struct run_params { // [run]
    int64_t seed;
    char dir[240];
    bool resume;
    int32_t slots; // RUN_SLOTS_*
};
enum { RUN_SLOTS_STRICT, RUN_SLOTS_LOSE };

struct pretrain_params { // [pretrain]
    int32_t steps, batch, warmup;
    double constant, lr_end;
    int32_t dim, hidden, layers, heads, kv_heads;
    char file[240];
};

extern const struct opt pretrain_options[]; // cmd_pretrain.c
extern const int pretrain_option_count;

// [infer]: lists are separated by commas, and every combination is measured.
struct infer_params {
    int32_t prompts; // INFER_*
    char prompt_tokens[120], new_tokens[120], batch[120];
    char reduce[120], keep[120], layer[120];
    int32_t positions; // INFER_ORIGINAL | INFER_COMPACT
    char scores[240];
    int32_t score_clients, score_steps;
    int32_t repeat, warmup, show;
    bool merged;
};
enum { INFER_SYNTHETIC, INFER_TASK };
enum { INFER_ORIGINAL, INFER_COMPACT };

extern const struct opt infer_options[]; // bench/infer_settings.c
extern const int infer_option_count;

struct dev_params_cfg { // [dev]
    int32_t kind;       // cpu, cuda, auto
    int32_t threads;    // 0 = cores / compute ranks on the node
    int32_t math;       // enum kernel_math
    int32_t buffers;    // enum dev_buffers
    int32_t clients;    // trained at once; 0 = as memory suggests
};

struct config {
    struct fed_params fed;
    struct fisher_params fisher;
    struct client_params client;
    struct net_params net;
    struct task_params task;
    struct model_params model;
    struct optim_params optim;
    struct trace_params trace;
    struct run_params run;
    struct dev_params_cfg dev;
    struct pretrain_params pretrain;
    struct infer_params infer;
    char path[240]; // of the file, "" = defaults only
};

struct config_section {
    const char *name;       // "fed"
    const struct opt *rows; // names include the section: "fed.rounds"
    const int *n;           // how many
    size_t offset;          // of the section's struct in struct config
};

extern const struct config_section config_sections[];
extern const int config_section_count;

// Mistakes of the user: all are counted, the first twenty are said on stderr.
struct mistakes {
    int n;
    bool loud; // false: another rank says them
};
// where: a line of the file at path, -n for argument n, 0 = the file as a whole, or no file (NULL).
void mistakes_add(struct mistakes *m, const char *path, int where, const char *fmt, va_list args);
int mistakes_end(const struct mistakes *m); // says how many more there are; returns how many in all

void config_defaults(struct config *c);
// Reads CONFIG, then "section.key=value" overrides. Reports every mistake at once on stderr, each
// with file and line (or the argument), and returns the number of mistakes. path may be NULL.
int config_load(struct config *c, const char *path, int n_overrides, char *const *overrides);
// The same, with the keys of [compare] handed to somebody else: line, or -n for argument n; what
// key returns is a mistake too. Other commands skip that section.
#define CONFIG_COMPARE "compare"
struct config_extra {
    int (*key)(void *arg, int line, const char *name, const char *value, struct err *err);
    void *arg;
};
int config_load_extra(struct config *c, const char *path, int n_overrides, char *const *overrides,
                      const struct config_extra *extra);
int config_set(struct config *c, const char *name, const char *value, struct err *err);
// Of values that are right one by one, whether they are together: 0, or -1 with what is wrong.
int config_check(const struct config *c, struct err *err);
// What config_text wrote, for the other ranks: 0, or -1 with what is wrong.
int config_apply_text(struct config *c, const char *text, struct err *err);
// Whether this process speaks for the job before MPI has started: it was given rank 0 or no rank.
// Every rank reads the config, one of them complains.
bool config_is_mouthpiece(void);
// Row of dev_table; auto is resolved. Ends the program where the named one cannot be used here.
int32_t config_dev_kind(const struct config *c);
const struct opt *config_find(const char *name, const struct config_section **section);
// Every parameter by name, in order; for the header, the trace and the hash.
void config_each(const struct config *c,
                 void (*fn)(void *arg, const struct opt *row, const char *value), void *arg);
char *config_text(const struct config *c); // canonical ini text; free with mem_free
// Of what decides the result: not trace, infer, run.dir, run.resume, run.slots.
uint64_t config_hash(const struct config *c);

#endif
