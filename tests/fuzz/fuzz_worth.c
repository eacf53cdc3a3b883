// The end of an update as what tokens are worth, from any bytes: what is taken leaves every average
// finite and at least 0, and says the same bytes again.
#include "fed/worth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 300 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float state[(SCORES + 1) * VOCAB];
    static uint8_t again[VOCAB * (10 + 2 * SCORES) + 4];
    struct worth w;
    struct token_scores s;
    struct err err = {""};
    int64_t before = worth_before(VOCAB, data, size, &err);
    if (before < 0) {
        check(err.text[0]);
        return 0;
    }
    memset(state, 0, sizeof state);
    worth_open(&w, VOCAB, state);
    worth_begin(&w);
    worth_add(&w, data, (size_t)before, size);
    worth_commit(&w, 0.9, 1);
    token_scores_open(&s, VOCAB);
    for (int32_t v = 0; v < VOCAB; v++) {
        s.seen[v] = (int64_t)w.count[v];
        for (int k = 0; k < SCORES; k++) {
            s.table[k][v] = w.table[k][v];
            check(w.table[k][v] >= 0 && isfinite(w.table[k][v]));
        }
    }
    check(worth_put(&s, again) == size - (size_t)before);
    check(memcmp(again, data + before, size - (size_t)before) == 0);
    token_scores_close(&s);
    worth_close(&w);
    return 0;
}
