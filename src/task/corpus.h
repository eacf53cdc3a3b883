// Records of named text fields, as readers find them in files.
#ifndef FSTQ_TASK_CORPUS_H
#define FSTQ_TASK_CORPUS_H

#include "base/check.h"
#include "task/dataset.h"

#include <stddef.h>
#include <stdint.h>

struct field {
    const char *name, *value;
};

struct record {
    const struct field *fields; // "question", "context", "language", ...
    int32_t n_fields;
    int32_t answer_at;  // byte of the field "context" where the answer stands, -1 = not known
    const char *id;     // records of one id stay together when test data is set apart
    const char *answer; // what is to be generated
};

struct corpus {
    struct record *records;
    int32_t n;
    size_t cap;
    int32_t left_out;      // questions without an answer
    int32_t classes;       // records whose answer is a class, not free text
    const char *task;      // of the file that is being read
    struct dataset *texts; // owns every text
};

void corpus_open(struct corpus *c);
void corpus_close(struct corpus *c);
const char *corpus_keep(struct corpus *c, const char *text); // a copy that lives in the corpus
// Fields and texts must live in the corpus already, or as long as the program.
void corpus_add(struct corpus *c, const struct field *fields, int32_t n, struct record r);
// The value of a field, or NULL.
const char *record_field(const struct record *r, const char *name);

#endif
