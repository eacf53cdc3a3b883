// Checkpoints of asynchronous rounds: who is under way, and from what. A resumed run sends them out
// once more. Words: dispatches, versions, clients; of a version its number, the fall of the loss,
// theta; of a client its number, that of the dispatch, the version's, the time on the run's clock
// (2).
#include "fed/server_async.h"

#include "base/bytes.h"

enum { KEEP_HEAD = 3, KEEP_AWAY = 5 };

static int used_versions(const struct async_rounds *a)
{
    int n = 0;
    for (int i = 0; i < a->n_versions; i++)
        n += a->version[i]->users > 0;
    return n;
}

static size_t keep_words(size_t n_versions, size_t n_away, size_t n_model)
{
    return KEEP_HEAD + n_versions * (2 + n_model) + KEEP_AWAY * n_away;
}

size_t async_keep_words(const struct server *s)
{
    const struct async_rounds *a = s->rounds;
    return keep_words((size_t)used_versions(a), (size_t)a->n_away, s->global.n_model);
}

void async_keep(const struct server *s, uint8_t *p)
{
    const struct async_rounds *a = s->rounds;
    put_u32(p, a->n_sent);
    put_u32(p + 4, (uint32_t)used_versions(a));
    put_u32(p + 8, (uint32_t)a->n_away);
    p += 4 * KEEP_HEAD;
    for (int i = 0; i < a->n_versions; i++) {
        const struct kept_version *v = a->version[i];
        if (v->users == 0)
            continue;
        put_u32(p, v->head.version);
        put_f32(p + 4, v->head.loss);
        p += 8;
        for (size_t k = 0; k < s->global.n_model; k++, p += 4)
            put_f32(p, v->theta[k]);
    }
    for (int i = 0; i < a->n_away; i++, p += 4 * KEEP_AWAY) {
        const struct away *w = &a->away[i];
        put_u32(p, w->client);
        put_u32(p + 4, w->number);
        put_u32(p + 8, w->start.round);
        put_u64(p + 12, (uint64_t)w->start.run_ns);
    }
}

static int restore_away(struct server *s, const uint8_t *p, struct err *err)
{
    struct async_rounds *a = s->rounds;
    uint32_t client = get_u32(p);
    struct kept_version *v = async_find_version(a, get_u32(p + 8));
    int64_t run_ns = (int64_t)get_u64(p + 12);
    if (client >= (uint32_t)s->env->fed->clients || a->place[client] != PLACE_FREE || !v ||
        run_ns < 0)
        return err_set(err, "the checkpoint in '%s' has a client under way that cannot be",
                       s->env->run_dir);
    async_put_away(s, client, get_u32(p + 4), v, run_ns);
    return 0;
}

int async_restore(struct server *s, const uint8_t *p, size_t words, struct err *err)
{
    struct async_rounds *a = s->rounds;
    uint32_t n_versions = words < KEEP_HEAD ? 0 : get_u32(p + 4);
    uint32_t n_away = words < KEEP_HEAD ? 0 : get_u32(p + 8);
    if (words < KEEP_HEAD || n_versions > n_away || n_away > (uint32_t)a->places ||
        words != keep_words(n_versions, n_away, s->global.n_model))
        return err_set(err, "the checkpoint in '%s' is not of scheme %s", s->env->run_dir,
                       s->env->method->scheme->name);
    a->n_sent = get_u32(p);
    p += 4 * KEEP_HEAD;
    for (uint32_t i = 0; i < n_versions; i++) {
        struct kept_version *v = async_new_version(s, get_u32(p));
        v->head.loss = get_f32(p + 4);
        p += 8;
        for (size_t k = 0; k < s->global.n_model; k++, p += 4)
            v->theta[k] = get_f32(p);
    }
    for (uint32_t i = 0; i < n_away; i++, p += 4 * KEEP_AWAY)
        if (restore_away(s, p, err))
            return -1;
    return 0;
}
