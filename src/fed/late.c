#include "fed/late.h"

#include "base/bytes.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

void late_free(struct late_list *l, struct transport *t)
{
    for (size_t i = 0; i < l->n; i++)
        transport_unref(t, l->one[i].held);
    mem_free(l->one);
    *l = (struct late_list){0};
}

void late_add(struct late_list *l, struct netbuf *held, const struct update *u, int64_t arrives_ns,
              const struct rec_message *row)
{
    l->one = mem_grow(MEM_SERVER, l->one, l->n, l->n + 1, &l->cap, sizeof *l->one);
    l->one[l->n++] = (struct late){held, *u, arrives_ns, *row};
}

// Of each: client, version, samples, weight, loss, arrival (2), bytes of the update, its row as it
// lies in memory, the update.
enum { HEAD = 8, ROW = (sizeof(struct rec_message) + 3) / 4 };

static size_t words_of(size_t bytes)
{
    return HEAD + ROW + (bytes + 3) / 4;
}

size_t late_words(const struct late_list *l)
{
    size_t words = 0;
    for (size_t i = 0; i < l->n; i++)
        words += words_of(l->one[i].update.len);
    return words;
}

void late_keep(const struct late_list *l, uint8_t *p)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct late *late = &l->one[i];
        const struct update *u = &late->update;
        memset(p, 0, 4 * words_of(u->len));
        put_u32(p, u->client);
        put_u32(p + 4, u->version);
        put_u32(p + 8, u->samples);
        put_f32(p + 12, u->weight);
        put_f32(p + 16, (float)u->loss); // as its frame had it
        put_u64(p + 20, (uint64_t)late->arrives_ns);
        put_u32(p + 28, (uint32_t)u->len);
        memcpy(p + 4 * HEAD, &late->row, sizeof late->row);
        memcpy(p + 4 * (HEAD + ROW), u->bytes, u->len);
        p += 4 * words_of(u->len);
    }
}

static int restore_one(struct late_list *l, const struct fed_env *env, const uint8_t *p,
                       size_t words)
{
    struct rec_message row;
    if (words < HEAD + ROW)
        return -1;
    struct update u = {.client = get_u32(p),
                       .version = get_u32(p + 4),
                       .samples = get_u32(p + 8),
                       .weight = get_f32(p + 12),
                       .scale = 1,
                       .loss = (double)get_f32(p + 16),
                       .len = get_u32(p + 28)};
    int64_t arrives_ns = (int64_t)get_u64(p + 20);
    if (u.client >= (uint32_t)env->fed->clients || !(u.weight >= 0) || !isfinite(u.weight) ||
        !isfinite(u.loss) || arrives_ns < 0 || u.len > fed_update_bound(env) ||
        words_of(u.len) > words)
        return -1;
    struct netbuf *b = transport_buf(env->transport, u.len);
    u.bytes = netbuf_payload(b);
    memcpy(netbuf_payload(b), p + 4 * (HEAD + ROW), u.len);
    memcpy(&row, p + 4 * HEAD, sizeof row);
    row.coded_on[sizeof row.coded_on - 1] = '\0';
    late_add(l, b, &u, arrives_ns, &row);
    return (int)words_of(u.len);
}

int late_restore(struct late_list *l, const struct fed_env *env, const uint8_t *in, size_t words,
                 struct err *err)
{
    for (size_t at = 0; at < words;) {
        int used = restore_one(l, env, in + 4 * at, words - at);
        if (used < 0)
            return err_set(err, "the checkpoint in '%s' has a late update that cannot be",
                           env->run_dir);
        at += (size_t)used;
    }
    return 0;
}
