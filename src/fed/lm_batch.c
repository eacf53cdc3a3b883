#include "fed/lm.h"

#include "base/mem.h"

void lm_batch_open(struct lm_batch *b, int32_t seqs, int32_t longest)
{
    size_t rows = (size_t)seqs * (size_t)longest;
    b->start = mem_alloc(MEM_DATA, (size_t)(seqs + 1) * sizeof *b->start);
    b->tokens = mem_alloc(MEM_DATA, rows * sizeof *b->tokens);
    b->targets = mem_alloc(MEM_DATA, rows * sizeof *b->targets);
    b->batch = (struct model_batch){.start = b->start, .tokens = b->tokens, .targets = b->targets};
}

void lm_batch_close(struct lm_batch *b)
{
    mem_free(b->start);
    mem_free(b->tokens);
    mem_free(b->targets);
}

void lm_batch_clear(struct lm_batch *b)
{
    b->batch.n_seqs = 0;
    b->start[0] = 0;
}

void lm_batch_add(struct lm_batch *b, const struct example *e)
{
    int32_t at = b->start[b->batch.n_seqs];
    for (int32_t i = 0; i + 1 < e->n; i++) {
        b->tokens[at + i] = e->tokens[i];
        b->targets[at + i] = i + 1 >= e->answer ? e->tokens[i + 1] : -1;
    }
    b->start[++b->batch.n_seqs] = at + e->n - 1;
}

void lm_batch_draw(struct lm_batch *b, const struct examples *own, int32_t n, struct rng *rng)
{
    lm_batch_clear(b);
    for (int32_t i = 0; i < n; i++)
        lm_batch_add(b, &own->v[rng_below(rng, (uint32_t)own->n)]);
}
