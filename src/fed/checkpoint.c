#include "fed/checkpoint.h"

#include "base/bytes.h"
#include "base/fsio.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

// magic u32, format u32, round u32, n_batteries u32, config hash, run id, registry, n, n_state,
// n_slots u64, 9 totals i64, first and last loss f64, then theta and the scheme's state as f32, the
// slots as two u32 each, the batteries as f64, the handlers' words as many as there are, then XXH3
// of everything before it.
#define CKPT_MAGIC  0x4b435346u // "FSCK"
#define CKPT_FORMAT 4
#define CKPT_TOTALS (16 + 6 * 8)
#define CKPT_LOSSES (CKPT_TOTALS + CHECKPOINT_TOTALS * 8)
#define CKPT_HEAD   (CKPT_LOSSES + 2 * 8)
_Static_assert(sizeof(struct checkpoint_totals) == CHECKPOINT_TOTALS * 8,
               "totals are written in turn");
#define CKPT_MAX ((size_t)16 << 30)

static void put_floats(uint8_t *p, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put_f32(p + 4 * i, v[i]);
}

static void get_floats(const uint8_t *p, float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        v[i] = get_f32(p + 4 * i);
}

static void generation_path(const char *dir, int g, char *out, size_t size)
{
    snprintf(out, size, "%s/server.%c.ckpt", dir, 'a' + g);
}

size_t checkpoint_bytes(const struct checkpoint *c)
{
    return CKPT_HEAD + 4 * (c->n + c->n_state + c->n_more) + 8 * c->n_slots +
           8 * (size_t)c->n_batteries + 8;
}

int checkpoint_write(const char *dir, const struct checkpoint *c, const struct checkpoint_data *d,
                     uint8_t *b, struct err *err)
{
    size_t len = checkpoint_bytes(c);
    if (c->n_more > UINT32_MAX || len > CKPT_MAX)
        return err_set(err, "it would have %zu bytes, more than the %zu that are read back", len,
                       CKPT_MAX);
    const int64_t *totals = &c->totals.uplink_bytes;
    put_u32(b, CKPT_MAGIC);
    put_u32(b + 4, CKPT_FORMAT);
    put_u32(b + 8, c->round);
    put_u32(b + 12, c->n_batteries);
    put_u64(b + 16, c->config_hash);
    put_u64(b + 24, c->run_id);
    put_u64(b + 32, c->registry);
    put_u64(b + 40, c->n);
    put_u64(b + 48, c->n_state);
    put_u64(b + 56, c->n_slots);
    for (int i = 0; i < CHECKPOINT_TOTALS; i++)
        put_u64(b + CKPT_TOTALS + 8 * i, (uint64_t)totals[i]);
    put_f64(b + CKPT_LOSSES, c->first_loss);
    put_f64(b + CKPT_LOSSES + 8, c->last_loss);
    uint8_t *p = b + CKPT_HEAD;
    put_floats(p, d->theta, c->n);
    put_floats(p + 4 * c->n, d->state, c->n_state);
    p += 4 * (c->n + c->n_state);
    for (size_t i = 0; i < c->n_slots; i++) {
        put_u32(p + 8 * i, d->slots[i].round);
        put_u32(p + 8 * i + 4, d->slots[i].epoch);
    }
    p += 8 * c->n_slots;
    for (size_t i = 0; i < c->n_batteries; i++)
        put_f64(p + 8 * i, d->battery[i]);
    p += 8 * (size_t)c->n_batteries;
    if (c->n_more)
        memcpy(p, d->more, 4 * c->n_more);
    put_u64(b + len - 8, XXH3_64bits(b, len - 8));
    char path[1024];
    generation_path(dir, (int)(c->round & 1), path, sizeof path);
    return fsio_replace(path, b, len, err);
}

bool checkpoint_present(const char *dir)
{
    char path[1024];
    for (int g = 0; g < 2; g++) {
        generation_path(dir, g, path, sizeof path);
        if (access(path, F_OK) == 0)
            return true;
    }
    return false;
}

int checkpoint_parse(const uint8_t *b, size_t len, struct checkpoint *c, const uint8_t **body,
                     struct err *err)
{
    if (len < CKPT_HEAD + 8)
        return err_set(err, "truncated: %zu bytes, a checkpoint has at least %d", len,
                       CKPT_HEAD + 8);
    if (get_u32(b) != CKPT_MAGIC)
        return err_set(err, "not a checkpoint");
    if (get_u32(b + 4) != CKPT_FORMAT)
        return err_set(err, "checkpoint format %u, this program reads %d", get_u32(b + 4),
                       CKPT_FORMAT);
    if (get_u64(b + len - 8) != XXH3_64bits(b, len - 8))
        return err_set(err, "damaged: its hash does not match");
    int64_t *totals = &c->totals.uplink_bytes;
    uint64_t n = get_u64(b + 40), n_state = get_u64(b + 48), n_slots = get_u64(b + 56);
    uint64_t room = (len - CKPT_HEAD - 8) / 4, n_batteries = get_u32(b + 12);
    if (n > room || n_state > room - n || n_slots > (room - n - n_state) / 2 ||
        n_batteries > (room - n - n_state - 2 * n_slots) / 2 || len % 4 != 0)
        return err_set(err, "its lengths do not agree");
    c->round = get_u32(b + 8);
    c->config_hash = get_u64(b + 16);
    c->run_id = get_u64(b + 24);
    c->registry = get_u64(b + 32);
    c->n = n;
    c->n_state = n_state;
    c->n_slots = n_slots;
    c->n_batteries = (uint32_t)n_batteries;
    c->n_more = room - n - n_state - 2 * (n_slots + n_batteries);
    for (int i = 0; i < CHECKPOINT_TOTALS; i++)
        totals[i] = (int64_t)get_u64(b + CKPT_TOTALS + 8 * i);
    c->first_loss = get_f64(b + CKPT_LOSSES);
    c->last_loss = get_f64(b + CKPT_LOSSES + 8);
    *body = b + CKPT_HEAD;
    return 0;
}

// The newest generation of two that verifies: 0 or 1, -1 = none does. present: how many files there
// are.
static int newest(const char *dir, struct checkpoint found[2], uint8_t *bytes[2],
                  const uint8_t *body[2], int *present, struct err *why)
{
    char path[1024];
    int best = -1;
    *present = 0;
    for (int g = 0; g < 2; g++) {
        size_t len;
        struct err e = {""};
        bytes[g] = NULL;
        generation_path(dir, g, path, sizeof path);
        if (access(path, F_OK) != 0)
            continue;
        ++*present;
        if (fsio_read(path, CKPT_MAX, MEM_SERVER, &bytes[g], &len, &e) ||
            checkpoint_parse(bytes[g], len, &found[g], &body[g], &e)) {
            err_set(why, "%s: %s", path, e.text);
            warn("%s; trying the other generation", why->text);
            continue;
        }
        if (best < 0 || found[g].round > found[best].round)
            best = g;
    }
    return best;
}

int checkpoint_adapter(const char *dir, uint64_t registry, size_t n, float *theta, uint32_t *round,
                       struct err *err)
{
    struct checkpoint found[2];
    uint8_t *bytes[2];
    const uint8_t *body[2];
    struct err why = {""};
    int present, rc = 0, best = newest(dir, found, bytes, body, &present, &why);
    if (best < 0)
        rc = err_set(err, "no checkpoint in '%s' to take an adapter from%s%s", dir,
                     present ? ": " : "", why.text);
    else if (found[best].registry != registry || found[best].n != n)
        rc = err_set(err,
                     "the checkpoint in '%s' holds an adapter of another shape; give the "
                     "model.* keys of its run",
                     dir);
    if (rc == 0) {
        get_floats(body[best], theta, n);
        *round = found[best].round;
    }
    mem_free(bytes[0]);
    mem_free(bytes[1]);
    return rc;
}

static void take_body(const struct checkpoint *c, const uint8_t *p, struct checkpoint_data *d)
{
    get_floats(p, d->theta, c->n);
    get_floats(p + 4 * c->n, d->state, c->n_state);
    p += 4 * (c->n + c->n_state);
    for (size_t i = 0; i < c->n_slots; i++)
        d->slots[i] = (struct slot_gen){get_u32(p + 8 * i), get_u32(p + 8 * i + 4)};
    p += 8 * c->n_slots;
    for (size_t i = 0; i < c->n_batteries; i++)
        d->battery[i] = get_f64(p + 8 * i);
    p += 8 * (size_t)c->n_batteries;
    d->more = NULL;
    if (c->n_more)
        d->more = memcpy(mem_alloc(MEM_SERVER, 4 * c->n_more), p, 4 * c->n_more);
}

int checkpoint_read(const char *dir, struct checkpoint *c, struct checkpoint_data *d,
                    struct err *err)
{
    struct checkpoint found[2];
    uint8_t *bytes[2];
    const uint8_t *body[2];
    struct err why = {""};
    int present, best = newest(dir, found, bytes, body, &present, &why);
    int rc = 0;
    if (best < 0 && present)
        rc = err_set(err, "no checkpoint in '%s' verifies (%s)", dir, why.text);
    if (best >= 0) {
        const struct checkpoint *f = &found[best];
        if (f->config_hash != c->config_hash)
            rc = err_set(
                err,
                "the checkpoint in '%s' is of another configuration; resume with the same one, or "
                "start in another run.dir",
                dir);
        else if (f->registry != c->registry || f->n != c->n || f->n_state != c->n_state ||
                 f->n_slots != c->n_slots || f->n_batteries != c->n_batteries)
            rc = err_set(err, "the checkpoint in '%s' holds an adapter of another shape", dir);
        else {
            take_body(f, body[best], d);
            *c = *f;
            rc = 1;
        }
    }
    mem_free(bytes[0]);
    mem_free(bytes[1]);
    return rc;
}
