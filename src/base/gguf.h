// The GGUF container, versions 2 and 3: keys with values, then tensors as blocks of a stored type.
// Little-endian. Nothing in it is trusted: counts, lengths and offsets are held against the file.
#ifndef FSTQ_BASE_GGUF_H
#define FSTQ_BASE_GGUF_H

#include "base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GGUF_DIMS      4
#define GGUF_ALIGNMENT 32 // where general.alignment does not say

enum gguf_value { // as stored
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_VALUES
};

struct gguf_text { // not terminated; points into the file
    const char *p;
    size_t n;
};

struct gguf_key {
    struct gguf_text name;
    enum gguf_value type, of; // of: of an array's elements
    uint64_t count;           // elements of an array, else 1
    const uint8_t *data;      // the value, or the first element
};

// A type in which tensors are stored: so many values are a block of so many bytes.
struct gguf_type {
    const char *name;
    int32_t id, values, bytes; // bytes 0: known by name only
};
extern const struct gguf_type gguf_types[];       // ends with a NULL name
const struct gguf_type *gguf_type_of(int32_t id); // NULL = nobody's

struct gguf_tensor {
    struct gguf_text name;
    const struct gguf_type *type;
    int32_t dims;
    int64_t dim[GGUF_DIMS]; // the first is contiguous: columns, then rows
    uint64_t at, n, bytes;  // first byte in the file, values, bytes
};

struct gguf {
    uint32_t version;
    uint64_t data; // where tensors begin
    int32_t n_keys, n_tensors;
    struct gguf_key *key;
    struct gguf_tensor *tensor;
};

// bytes: the whole file (mapped), or at least its header; they outlive g.
int gguf_parse(const uint8_t *bytes, size_t n, uint64_t file_bytes, struct gguf *g,
               struct err *err);
void gguf_free(struct gguf *g);

const struct gguf_key *gguf_find(const struct gguf *g, const char *name);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);
bool gguf_is(struct gguf_text t, const char *text);
// 0, or -1 where the key is no whole number (or no number at all) that the type holds.
int gguf_int(const struct gguf_key *k, int64_t *out);
int gguf_num(const struct gguf_key *k, double *out);
// Element *at of an array of strings, from *at = 0 on; moves on. count says how many there are.
struct gguf_text gguf_next(const struct gguf_key *k, size_t *at);

#endif
