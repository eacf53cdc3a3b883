// Real data: files of questions and answers become records of named text fields. A row of
// reader_table is a format. Malformed input names the line or the key.
#ifndef FSTQ_TASK_READER_H
#define FSTQ_TASK_READER_H

#include "base/check.h"
#include "task/corpus.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reader {
    const char *name, *help;
    const char *prompt;        // template, see prompt.h
    const char *const *labels; // NULL-terminated answers, NULL = free text
    const char *const *groups; // NULL-terminated fields; the first that a record has is its group
    bool plain;                // text, .txt in a folder; else JSON
    // Appends the records of one file. path serves the language in its name and the messages.
    int (*read)(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                struct err *err);
};

extern const struct reader reader_squad, reader_pubmedqa, reader_medmcqa, reader_jsonl,
    reader_instruct, reader_speech;
extern const struct reader *const reader_table[]; // NULL-terminated

// Reads files: one, all files of a folder in the order of their names, or several paths separated
// by commas. Close the corpus in any case.
int corpus_read(struct corpus *c, const struct reader *r, const char *paths, struct err *err);
// Ids from a JSON object (its keys) or array of texts, for an official test set.
int corpus_read_ids(struct corpus *c, const char *path, const char *const **ids, int32_t *n,
                    struct err *err);

#endif
