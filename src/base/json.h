// A small JSON writer: commas and indentation kept by the writer, null for a number that is not
// finite.
#ifndef FSTQ_BASE_JSON_H
#define FSTQ_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
    FILE *out;
    int depth;
    bool first[32];
    char close[32];          // the bracket that ends each level
    bool after_key, compact; // compact: no line breaks from here on
};

void json_begin(struct json *j, FILE *out);
void json_object(struct json *j);
void json_array(struct json *j);
void json_end(struct json *j); // closes the innermost object or array
void json_key(struct json *j, const char *key);
void json_text(struct json *j, const char *s);
void json_int(struct json *j, int64_t v);
void json_num(struct json *j, double v); // %.17g, null when not finite
void json_bool(struct json *j, bool v);

#endif
