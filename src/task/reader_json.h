// JSON with a place for every complaint.
#ifndef FSTQ_TASK_READER_JSON_H
#define FSTQ_TASK_READER_JSON_H

#include "task/corpus.h"

#include <jansson.h>

enum { FIELDS_MAX = 24, WHERE = 128 };

// A file's tree, to be given back; an error with file and line otherwise.
json_t *reader_parse(const char *path, const uint8_t *bytes, size_t n, struct err *err);
// take() for the JSON value of each line that is not blank; what it says gets file and line.
int reader_lines(struct corpus *c, const char *path, const uint8_t *bytes, size_t n,
                 int (*take)(struct corpus *, json_t *, const char *where, struct err *),
                 struct err *err);
// The value of a key, which must be of the type; "where: 'key' ..." otherwise.
json_t *reader_need(json_t *object, const char *key, json_type type, const char *where,
                    struct err *err);
const char *reader_text(json_t *object, const char *key, const char *where, struct err *err);
// A text as it is, a whole number in digits; NULL for anything else.
const char *reader_scalar(struct corpus *c, json_t *v);

#endif
