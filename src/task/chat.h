// Chat formats, by name: the turns that instruction-tuned models were trained on, round a prompt.
// Their markers are control tokens, which no text of the data can forge.
#ifndef FSTQ_TASK_CHAT_H
#define FSTQ_TASK_CHAT_H

#include "task/tokenizer.h"

// Parts in turn: one that begins with '<' is a control token by its text, another is text, in which
// CHAT_TEXT stands for the message. What lies between control tokens is encoded as one.
#define CHAT_TEXT  "\1"
#define CHAT_PARTS 12
struct chat_row {
    const char *name, *help;
    const char *const
        *system;             // before the prompt where task.system is set; NULL = has no such turn
    const char *const *user; // the prompt, and all that comes before an answer
    const char *end;         // control token that ends an answer; NULL = the vocabulary's own
    bool spaced;             // a space comes before the answer
};
extern const struct chat_row *const chat_table[]; // NULL-terminated; the first is the default
const char *chat_name(int32_t i);                 // of task.template

struct chat {
    const struct chat_row *row;
    const char *system; // "" = none
    int32_t system_id[CHAT_PARTS], user_id[CHAT_PARTS];
};

// Finds the markers, and sets what ends an answer. system stays the caller's.
int chat_open(struct chat *c, const struct chat_row *row, const char *system, struct tokenizer *t,
              struct err *err);
// Writes at most cap ids; returns how many the whole prompt has.
int32_t chat_encode(const struct chat *c, const struct tokenizer *t, const char *prompt,
                    int32_t *ids, int32_t cap);

#endif
