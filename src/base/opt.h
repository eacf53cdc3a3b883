// One row per parameter: its name (section.key) is the config key, the override on the command
// line, the header line and the HDF5 attribute. A module exports an array of rows over its own
// struct.
#ifndef FSTQ_BASE_OPT_H
#define FSTQ_BASE_OPT_H

#include "base/check.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum opt_type { OPT_BOOL, OPT_I32, OPT_I64, OPT_F64, OPT_TEXT, OPT_CHOICE };

struct opt {
    const char *name; // "fed.rounds", or "levels" in the options of a codec
    enum opt_type type;
    size_t offset, size; // of the field; size bounds text
    const char *dflt;    // parsed like any other value, so that the printed default is the real one
    double min, max;     // numbers only
    const char *unit;    // "" = none
    // OPT_CHOICE: the field is an int32_t index into a NULL-terminated list of names, or to a
    // function that names the rows of a table (NULL behind the last), so that each has one name.
    const char *const *choices;
    const char *(*choice)(int32_t i);
    const char *help;
};

#define OPT_TYPE_OF(field)                                                                         \
    _Generic((field), bool: OPT_BOOL, int32_t: OPT_I32, int64_t: OPT_I64, double: OPT_F64,         \
             char *: OPT_TEXT)
#define OPT_FIELD(T, field) (((T *)0)->field)
// clang-format off
// Numbers and switches: OPT(struct fed_params, rounds, "fed.rounds", "10", 1, 1e6, "", "help")
#define OPT(T, f, n, d, lo, hi, u, h)                                                              \
    {.name = n, .type = OPT_TYPE_OF(OPT_FIELD(T, f)), .offset = offsetof(T, f),                    \
     .size = sizeof(OPT_FIELD(T, f)), .dflt = d, .min = lo, .max = hi, .unit = u, .help = h}
#define OPT_STRING(T, f, n, d, h) OPT(T, f, n, d, 0, 0, "", h)
#define OPT_ENUM(T, f, n, d, c, h)                                                                 \
    {.name = n, .type = OPT_CHOICE, .offset = offsetof(T, f), .size = sizeof(OPT_FIELD(T, f)),     \
     .dflt = d, .unit = "", .choices = c, .help = h}
#define OPT_ROW(T, f, n, d, c, h)                                                                  \
    {.name = n, .type = OPT_CHOICE, .offset = offsetof(T, f), .size = sizeof(OPT_FIELD(T, f)),     \
     .dflt = d, .unit = "", .choice = c, .help = h}
// clang-format on

void opt_defaults(const struct opt *rows, int n, void *base);
const struct opt *opt_find(const struct opt *rows, int n, const char *name);
// Trailing junk, a value out of range or an unknown choice is an error that names row, value and
// range.
int opt_set(const struct opt *row, void *base, const char *text, struct err *err);
// "key=value,key=value" as in the options of a method; unknown keys suggest the nearest name.
int opt_set_list(const struct opt *rows, int n, void *base, const char *text, struct err *err);
const char *opt_choice(const struct opt *row, int32_t i); // NULL behind the last
void opt_format(const struct opt *row, const void *base, char *out, size_t out_size);
bool opt_is_default(const struct opt *row, const char *formatted); // by opt_format
// What the row takes, for people: "1 to 1e6 ns", "on, off", "mpi, sim".
void opt_range(const struct opt *row, char *out, size_t out_size);
// A line per row, its default, help and range, behind two blanks and the prefix of its name.
void opt_list(FILE *out, const char *prefix, const struct opt *rows, int n);
// What somebody meant who wrote text: shown each name there is, it keeps the nearest one within
// three edits, or one that text begins.
struct opt_guess {
    const char *text, *name; // name: the guess, NULL = none
    int distance;
};
void opt_guess(struct opt_guess *g, const char *name);
const char *opt_nearest(const struct opt *rows, int n, const char *text);
// Letters to change, add, drop or exchange with their neighbour; 99 for long strings.
int opt_distance(const char *a, const char *b);
// How an error about a name that is none goes on: "; did you mean NAME? There are NAME, NAME". name
// is that of a row, NULL behind the last.
char *opt_choices(const char *text, const char *(*name)(int32_t i), char *out, size_t size);

#endif
