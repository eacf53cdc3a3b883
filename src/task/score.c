#include "task/score.h"

#include "base/mem.h"
#include "task/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_hash_then_text(const void *a, const void *b)
{
    const struct text_word *x = a, *y = b;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    if (x->n != y->n)
        return x->n < y->n ? -1 : 1;
    return memcmp(x->s, y->s, x->n);
}

static double exact(const struct text_words *a, const struct text_words *b)
{
    if (a->n != b->n)
        return 0;
    for (int32_t i = 0; i < a->n; i++)
        if (!text_same(&a->v[i], &b->v[i]))
            return 0;
    return 1;
}

// 2 common / (words of both): the harmonic mean of precision and recall.
static double f_of(int32_t common, int32_t a, int32_t b)
{
    return a + b == 0 ? 1 : 2.0 * common / (a + b);
}

// Sorts both; words that pair up are common.
static double f1(struct text_words *a, struct text_words *b)
{
    int32_t i = 0, j = 0, common = 0;
    qsort(a->v, (size_t)a->n, sizeof *a->v, by_hash_then_text);
    qsort(b->v, (size_t)b->n, sizeof *b->v, by_hash_then_text);
    while (i < a->n && j < b->n) {
        int order = by_hash_then_text(&a->v[i], &b->v[j]);
        common += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    return f_of(common, a->n, b->n);
}

// Longest common subsequence, one row of the table at a time.
static int32_t lcs(const struct text_words *a, const struct text_words *b)
{
    int32_t *row = mem_alloc(MEM_DATA, ((size_t)b->n + 1) * sizeof *row);
    for (int32_t i = 0; i < a->n; i++) {
        int32_t diagonal = 0; // row[j] of the row before
        for (int32_t j = 0; j < b->n; j++) {
            int32_t above = row[j + 1];
            if (text_same(&a->v[i], &b->v[j]))
                row[j + 1] = diagonal + 1;
            else if (row[j] > above)
                row[j + 1] = row[j];
            diagonal = above;
        }
    }
    int32_t length = row[b->n];
    mem_free(row);
    return length;
}

struct score score_texts(const char *prediction, const char *reference)
{
    struct text_words a = text_split(prediction), b = text_split(reference);
    struct score s = {.n = 1, .accuracy = NAN};
    s.exact = exact(&a, &b);
    s.rouge_l = f_of(lcs(&a, &b), a.n, b.n);
    s.f1 = f1(&a, &b);
    text_free(&a);
    text_free(&b);
    return s;
}

double score_exact(const char *prediction, const char *reference)
{
    return score_texts(prediction, reference).exact;
}

double score_f1(const char *prediction, const char *reference)
{
    return score_texts(prediction, reference).f1;
}

double score_rouge_l(const char *prediction, const char *reference)
{
    return score_texts(prediction, reference).rouge_l;
}

int32_t score_label(const char *prediction, const char *const *labels, int32_t n_labels)
{
    struct text_words p = text_split(prediction);
    int32_t best = -1, longest = 0;
    for (int32_t l = 0; l < n_labels; l++) {
        struct text_words w = text_split(labels[l]);
        int32_t same = 0;
        while (same < w.n && same < p.n && text_same(&w.v[same], &p.v[same]))
            same++;
        if (same == w.n && same > longest) {
            best = l;
            longest = same;
        }
        text_free(&w);
    }
    text_free(&p);
    return best;
}
