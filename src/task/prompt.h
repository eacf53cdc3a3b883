// Prompt templates. "{name}" stands for a field of the record; a part in [brackets] is left out
// when a field in it is missing or empty; "\n" is a line break.
#ifndef FSTQ_TASK_PROMPT_H
#define FSTQ_TASK_PROMPT_H

#include "base/check.h"
#include "task/reader.h"

#include <stddef.h>

// Whether the template is well formed and every field outside brackets is one of the record's.
int prompt_check(const char *prompt_template, const struct record *r, struct err *err);

// The text, terminated, to be freed with mem_free. context replaces the field "context" where it is
// not NULL (a window of a long one).
char *prompt_fill(const char *prompt_template, const struct record *r, const char *context);

#endif
