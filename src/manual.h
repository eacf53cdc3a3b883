// The manual and the completion of shells, written from the tables of commands and of options.
#ifndef FSTQ_MANUAL_H
#define FSTQ_MANUAL_H

#include "cmd.h"

#include <stddef.h>

struct manual {
    const struct cmd *const *commands;
    size_t n;
    const char *statuses;
};

// --man: fstq(1); --man5: fstq(5), the parameters; --bash, --zsh: completion. False: another word.
bool manual_print(const char *what, const struct manual *m, FILE *out);

// The option of a command that somebody meant who wrote arg; NULL where arg is one, or like none.
const char *manual_nearest_flag(const struct cmd *c, const char *arg);

#endif
