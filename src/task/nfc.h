// Text in Unicode's normal form C (Standard Annex 15): marks in their order, composed with what
// they stand on.
#ifndef FSTQ_TASK_NFC_H
#define FSTQ_TASK_NFC_H

#include <stdbool.h>
#include <stddef.h>

// Whether the text is surely in the form already; most text is, and costs one look.
bool nfc_holds(const char *text, size_t n);
// The text in the form, *n bytes, to be freed with mem_free. Bytes that are not UTF-8 stay as they
// are, and nothing joins over them.
char *nfc_of(const char *text, size_t *n);

#endif
