// A small JSON writer: commas and indentation kept by the writer, null for a number that is not
// finite. Not json_: those names are jansson's, and one of the two would call the other's.
#ifndef FSTQ_BASE_JSONW_H
#define FSTQ_BASE_JSONW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct jsonw {
    FILE *out;
    int depth;
    bool first[32];
    char close[32];          // the bracket that ends each level
    bool after_key, compact; // compact: no line breaks from here on
};

void jsonw_begin(struct jsonw *j, FILE *out);
void jsonw_object(struct jsonw *j);
void jsonw_array(struct jsonw *j);
void jsonw_end(struct jsonw *j); // closes the innermost object or array
void jsonw_key(struct jsonw *j, const char *key);
void jsonw_text(struct jsonw *j, const char *s);
void jsonw_int(struct jsonw *j, int64_t v);
void jsonw_num(struct jsonw *j, double v); // %.17g, null when not finite
void jsonw_bool(struct jsonw *j, bool v);
void jsonw_raw(struct jsonw *j, const char *json); // a value that is JSON already
// A member of an object.
void jsonw_key_text(struct jsonw *j, const char *key, const char *s);
void jsonw_key_int(struct jsonw *j, const char *key, int64_t v);
void jsonw_key_num(struct jsonw *j, const char *key, double v);

#endif
