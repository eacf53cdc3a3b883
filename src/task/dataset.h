// Examples as a language model sees them: tokens, where the answer begins, and what the scores
// need.
#ifndef FSTQ_TASK_DATASET_H
#define FSTQ_TASK_DATASET_H

#include <stdint.h>

struct example {
    const int32_t *tokens; // prompt, answer, end of sequence
    int32_t n;             // tokens in all
    int32_t answer;        // the loss is on tokens[answer .. n): the answer and its end
    int32_t group;         // language, topic or collection, an index into task.groups
    int32_t label;         // class of the answer, an index into task.labels; -1 = none
    const char *prompt;    // the same as UTF-8 text
    const char *reference; // the answer as text
};

struct examples {
    int32_t n;
    const struct example *v;
};

// What a model answered: tokens without the end of sequence. One that never ended is passed whole.
struct prediction {
    const int32_t *tokens;
    int32_t n;
};

#endif
