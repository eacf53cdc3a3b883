// A file of token scores from any bytes: what opens has a finite score of at least 0 for every id.
#include "model/scores.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct token_scores s;
    struct err err = {""};
    if (token_scores_parse(&s, 4, data, size, &err)) {
        if (!err.text[0])
            abort();
        return 0;
    }
    for (int k = 0; k < SCORES; k++)
        for (int32_t v = 0; v < s.vocab; v++)
            if (!(s.table[k][v] >= 0) || isinf(s.table[k][v]))
                abort();
    token_scores_close(&s);
    return 0;
}
