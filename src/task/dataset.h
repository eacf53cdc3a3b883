// Examples as a language model sees them: tokens, where the answer begins, and what the scores
// need.
#ifndef FSTQ_TASK_DATASET_H
#define FSTQ_TASK_DATASET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct example {
    const int32_t *tokens; // prompt, answer, end of sequence
    int32_t n;             // tokens in all
    int32_t answer;        // the loss is on tokens[answer .. n): the answer and its end
    int32_t group;         // language, topic or collection, an index into task.groups
    int32_t label;         // class of the answer, an index into task.labels; -1 = none
    const char *reference; // the answer as text
};

struct examples {
    int32_t n;
    const struct example *v;
};

// What a model answered.
struct prediction {
    const int32_t *tokens; // without the end of sequence
    int32_t n;
    bool ended; // it came to an end of sequence within task.max_answer tokens
};

// A set under construction; everything in it is freed together.
struct dataset {
    struct examples examples;
    struct example *v;
    int32_t cap;
    struct dataset_block *blocks;
};

struct dataset *dataset_open(int32_t cap);
void dataset_close(struct dataset *d);
void *dataset_take(struct dataset *d, size_t size_bytes); // lives as long as d
char *dataset_text(struct dataset *d, const char *text, size_t n);
void dataset_add(struct dataset *d, const struct example *e); // tokens and text are copied

#endif
