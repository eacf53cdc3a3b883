#include "model/scores.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/mem.h"
#include "model/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX ((size_t)1 << 28)

static const char *const names[SCORES] = {
    [SCORES_FISHER] = "fisher", [SCORES_GRADNORM] = "gradnorm"};

void token_scores_open(struct token_scores *s, int32_t vocab)
{
    size_t n = (size_t)vocab;
    *s = (struct token_scores){.vocab = vocab};
    for (int k = 0; k < SCORES; k++)
        s->table[k] = mem_alloc(MEM_OTHER, n * sizeof *s->table[k]);
    s->seen = mem_alloc(MEM_OTHER, n * sizeof *s->seen);
    s->fresh = mem_alloc(MEM_OTHER, SCORES * n * sizeof *s->fresh);
    s->count = mem_alloc(MEM_OTHER, n * sizeof *s->count);
}

void token_scores_clear(struct token_scores *s)
{
    for (int k = 0; k < SCORES; k++)
        memset(s->table[k], 0, (size_t)s->vocab * sizeof *s->table[k]);
    memset(s->seen, 0, (size_t)s->vocab * sizeof *s->seen);
}

void token_scores_close(struct token_scores *s)
{
    for (int k = 0; k < SCORES; k++)
        mem_free(s->table[k]);
    mem_free(s->seen);
    mem_free(s->fresh);
    mem_free(s->count);
    *s = (struct token_scores){0};
}

void token_scores_add(struct token_scores *s, const struct model_batch *b, const float *embed_grad,
                      int32_t dim, double rho)
{
    size_t vocab = (size_t)s->vocab;
    memset(s->fresh, 0, SCORES * vocab * sizeof *s->fresh);
    memset(s->count, 0, vocab * sizeof *s->count);
    for (int32_t i = 0; i < b->start[b->n_seqs]; i++) {
        const float *g = embed_grad + (ptrdiff_t)i * dim;
        double sq = 0;
        for (int32_t c = 0; c < dim; c++)
            sq += (double)g[c] * (double)g[c];
        s->fresh[SCORES_FISHER * vocab + (size_t)b->tokens[i]] += sq;
        s->fresh[SCORES_GRADNORM * vocab + (size_t)b->tokens[i]] += sqrt(sq);
        s->count[b->tokens[i]]++;
    }
    for (size_t v = 0; v < vocab; v++) {
        if (s->count[v] == 0)
            continue;
        for (int k = 0; k < SCORES; k++) {
            double mean = s->fresh[(size_t)k * vocab + v] / s->count[v], was = s->table[k][v];
            s->table[k][v] = (float)(s->seen[v] ? rho * was + (1 - rho) * mean : mean);
        }
        s->seen[v]++;
    }
}

void token_scores_join(struct token_scores *all, const struct token_scores *client)
{
    for (int32_t v = 0; v < all->vocab; v++) {
        for (int k = 0; k < SCORES; k++)
            all->table[k][v] += client->table[k][v] * (float)client->seen[v];
        all->seen[v] += client->seen[v];
    }
}

int32_t token_scores_finish(struct token_scores *all)
{
    double sum[SCORES] = {0};
    int32_t n = 0;
    for (int32_t v = 0; v < all->vocab; v++)
        for (int k = 0; k < SCORES && all->seen[v]; k++) {
            all->table[k][v] /= (float)all->seen[v];
            sum[k] += (double)all->table[k][v];
            n += k == 0;
        }
    for (int32_t v = 0; v < all->vocab; v++)
        for (int k = 0; k < SCORES && !all->seen[v] && n > 0; k++)
            all->table[k][v] = (float)(sum[k] / n);
    return n;
}

int token_scores_write(const struct token_scores *s, const char *path, struct err *err)
{
    char text[256];
    size_t each = 4 * (size_t)s->vocab;
    int used = snprintf(text, sizeof text, "{");
    for (int k = 0; k < SCORES; k++)
        used +=
            snprintf(text + used, sizeof text - (size_t)used,
                     "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}",
                     k ? "," : "", names[k], s->vocab, (size_t)k * each, (size_t)(k + 1) * each);
    snprintf(text + used, sizeof text - (size_t)used, "}");
    size_t head = (strlen(text) + 7) / 8 * 8, bytes = 8 + head + SCORES * each;
    uint8_t *file = mem_alloc(MEM_OTHER, bytes);
    put_u64(file, head);
    memset(file + 8, ' ', head);
    memcpy(file + 8, text, strlen(text));
    for (int k = 0; k < SCORES; k++)
        for (int32_t v = 0; v < s->vocab; v++)
            put_f32(file + 8 + head + (size_t)k * each + 4 * (size_t)v, s->table[k][v]);
    int bad = fsio_replace(path, file, bytes, err);
    mem_free(file);
    return bad;
}

static int take_table(struct token_scores *s, int k, const struct safetensors *st,
                      const uint8_t *bytes, struct err *err)
{
    const struct safetensor *t = safetensors_find(st, names[k]);
    if (!t)
        return err_set(err, "tensor %s is missing", names[k]);
    if (t->dtype != KERNEL_F32 || t->dims != 1 || t->dim[0] != s->vocab)
        return err_set(err, "tensor %s is not %d values of F32, one per token of the model",
                       names[k], s->vocab);
    for (int32_t v = 0; v < s->vocab; v++) {
        s->table[k][v] = get_f32(bytes + t->at + 4 * (size_t)v);
        if (!(s->table[k][v] >= 0 && isfinite(s->table[k][v])))
            return err_set(err, "tensor %s: value %d is negative or not finite", names[k], v);
    }
    return 0;
}

int token_scores_parse(struct token_scores *s, int32_t vocab, const uint8_t *bytes, size_t n,
                       struct err *err)
{
    struct safetensors st;
    int bad = safetensors_parse(bytes, n, n, &st, err);
    if (bad)
        return bad;
    token_scores_open(s, vocab);
    for (int k = 0; k < SCORES && !bad; k++)
        bad = take_table(s, k, &st, bytes, err);
    safetensors_free(&st);
    if (bad)
        token_scores_close(s);
    return bad;
}

int token_scores_read(struct token_scores *s, int32_t vocab, const char *path, struct err *err)
{
    uint8_t *bytes;
    size_t n;
    struct err why = {""};
    if (fsio_read(path, FILE_MAX, MEM_OTHER, &bytes, &n, err))
        return -1;
    int bad = token_scores_parse(s, vocab, bytes, n, &why);
    mem_free(bytes);
    return bad ? err_set(err, "%s: %s", path, why.text) : 0;
}

int token_scores_copy(const char *from_dir, const char *to_dir, struct err *err)
{
    char from[512], to[512];
    uint8_t *bytes;
    size_t n;
    snprintf(from, sizeof from, "%s/%s", from_dir, TOKEN_SCORES_FILE);
    snprintf(to, sizeof to, "%s/%s", to_dir, TOKEN_SCORES_FILE);
    if (access(from, F_OK) != 0)
        return 0;
    if (fsio_read(from, FILE_MAX, MEM_OTHER, &bytes, &n, err))
        return -1;
    int bad = fsio_replace(to, bytes, n, err);
    mem_free(bytes);
    return bad ? -1 : 1;
}
