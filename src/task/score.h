// Scores of generated text, the same on every machine: exact match, token F1, ROUGE-L, label
// accuracy. Text is lower-cased (Latin, Greek, Cyrillic) and split into words of letters, marks and
// digits; Han, kana and Thai are split by character; punctuation is dropped. No article is removed.
#ifndef FSTQ_TASK_SCORE_H
#define FSTQ_TASK_SCORE_H

#include <stddef.h>
#include <stdint.h>

struct score {
    int32_t n;                           // examples
    double exact, f1, rouge_l, accuracy; // means in [0, 1]; NaN = not defined here
};

// Two texts without words are equal: 1. One without and one with: 0.
double score_exact(const char *prediction, const char *reference);
double score_f1(const char *prediction, const char *reference);      // of the words as a multiset
double score_rouge_l(const char *prediction, const char *reference); // 2 LCS / (words of both)
// The label whose words begin the prediction (the longest such), or -1.
int32_t score_label(const char *prediction, const char *const *labels, int32_t n_labels);

// All of them at once; accuracy is NaN.
struct score score_texts(const char *prediction, const char *reference);

#endif
