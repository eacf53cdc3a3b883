#include "fed/downlink.h"

#include "base/bytes.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

// Codec keys of the server's messages: no client has this number.
#define SERVER_KEY UINT32_MAX
// Messages kept, at most, however short they are.
#define DOWN_MESSAGES 4096

struct message { // the change that makes a version
    size_t len;  // 0 = nothing changed
    uint8_t *bytes;
};

struct downlink {
    const struct fed_env *env;
    const struct view_inst *form;
    size_t n, held;            // values of a vector; bytes of the messages, their lengths included
    float *was[FED_VECTORS];   // (n) each, of the version before
    float *state, *state_next; // (form.n_state)
    float *change, *part;      // (n) scratch
    void *scratch;
    uint8_t *out;
    size_t cap;
    size_t itself;           // bytes of the round's coded version, in out; 0 = there is none
    struct message *message; // the newest last, of versions in a row
    int n_messages;
    uint32_t *client, *peer; // version that each has, 0 = none
    uint32_t version;        // the newest
};

static bool of_versions(const struct fed_env *env)
{
    return env->fed->down_of == FED_DOWN_VERSION;
}

static size_t whole_bytes(const struct fed_env *env)
{
    return 4 * fed_down_floats(env);
}

static void forget(struct downlink *d, int n)
{
    for (int i = 0; i < n; i++) {
        d->held -= 4 + d->message[i].len;
        mem_free(d->message[i].bytes);
    }
    d->n_messages -= n;
    memmove(d->message, d->message + n, (size_t)d->n_messages * sizeof *d->message);
}

struct downlink *downlink_open(const struct fed_env *env)
{
    const struct view_inst *form = &env->method->down;
    struct downlink *d = mem_alloc(MEM_SERVER, sizeof *d);
    *d = (struct downlink){.env = env, .form = form, .n = form->shape->n_values};
    for (int k = 0; k < form->n_vectors; k++)
        d->was[k] = mem_alloc(MEM_SERVER, d->n * sizeof(float));
    d->change = mem_alloc(MEM_SERVER, d->n * sizeof(float));
    d->part = mem_alloc(MEM_SERVER, d->n * sizeof(float));
    d->state = form->n_state ? mem_alloc(MEM_SERVER, form->n_state * sizeof(float)) : NULL;
    d->state_next = form->n_state ? mem_alloc(MEM_SERVER, form->n_state * sizeof(float)) : NULL;
    size_t scratch = view_scratch_bytes(form);
    d->scratch = scratch ? mem_alloc(MEM_CODEC, scratch) : NULL;
    d->cap = view_bound(form);
    d->out = mem_alloc(MEM_SERVER, d->cap);
    d->message = mem_alloc(MEM_SERVER, DOWN_MESSAGES * sizeof *d->message);
    d->client = mem_alloc(MEM_SERVER, (size_t)env->fed->clients * sizeof *d->client);
    d->peer = mem_alloc(MEM_SERVER, (size_t)env->transport->n_endpoints * sizeof *d->peer);
    return d;
}

void downlink_close(struct downlink *d)
{
    if (!d)
        return;
    forget(d, d->n_messages);
    for (int k = 0; k < FED_VECTORS; k++)
        mem_free(d->was[k]);
    void *blocks[] = {d->change, d->part,    d->state,  d->state_next, d->scratch,
                      d->out,    d->message, d->client, d->peer,       d};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
}

// Coding.

static struct codec_key key_of(const struct fed_env *env, uint32_t version, int vector)
{
    return view_key(&env->method->down, env->seed, SERVER_KEY, version, vector);
}

// The part that the commit of round version - 1 moved.
static const struct view_part *part_of(const struct fed_env *env, uint32_t version)
{
    const struct view_inst *form = &env->method->down;
    return &form->part[view_turn(form, SERVER_KEY, version - 1)];
}

// One message onto the vectors, as both sides do it.
static int apply(const struct fed_env *env, uint32_t version, const uint8_t *in, size_t len,
                 float *const *vector, float *x, void *scratch, struct err *err)
{
    const struct view_part *part = part_of(env, version);
    const uint8_t *at[FED_VECTORS];
    size_t each[FED_VECTORS];
    int n = env->method->down.n_vectors;
    if (len == 0)
        return 0;
    if (vectors_get(in, len, n, at, each))
        return err_set(err, "the change of version %u is not one of %d vectors", version, n);
    for (int k = 0; k < n; k++) {
        struct codec_key key = key_of(env, version, k);
        if (codec_decode(part->vector[k].codec, &key, at[k], each[k], x, scratch, err))
            return -1;
        const float *from = x;
        for (int r = 0; r < part->n_ranges; r++)
            for (size_t i = part->range[r].from; i < part->range[r].to; i++)
                vector[k][i] += *from++;
    }
    return 0;
}

// Keeps the newest messages that are together no longer than the version itself.
static void push(struct downlink *d, uint32_t version, const uint8_t *bytes, size_t len)
{
    size_t most = whole_bytes(d->env), held = d->held + 4 + len;
    int gone = 0;
    while (gone < d->n_messages && (held > most || d->n_messages - gone == DOWN_MESSAGES))
        held -= 4 + d->message[gone++].len;
    forget(d, gone);
    d->version = version;
    if (held > most)
        return;
    struct message *m = &d->message[d->n_messages++];
    *m = (struct message){.len = len};
    m->bytes = len ? mem_alloc(MEM_SERVER, len) : NULL;
    if (len)
        memcpy(m->bytes, bytes, len);
    d->held = held;
}

static void vectors_of(const struct downlink *d, const struct global *g, float **vector)
{
    vector[0] = g->theta;
    for (int k = 1; k < d->form->n_vectors; k++)
        vector[k] = g->state + (size_t)(k - 1) * d->n;
}

// Without a message the version goes out as it is.
void downlink_begin(struct downlink *d, const struct global *g, uint32_t round)
{
    const struct view_part *part = &d->form->part[0];
    struct err err;
    d->itself = 0;
    if (!of_versions(d->env))
        return;
    view_gather(part, g->theta, d->part);
    struct codec_input in = {.x = d->part, .key = key_of(d->env, round, 0), .budget_bytes = -1};
    int64_t len = codec_encode(part->vector[0].codec, &in, d->out, d->cap, d->scratch, NULL, &err);
    if (len > 0)
        d->itself = (size_t)len;
    else
        warn("round %u: fed.downlink: %s; the version goes out as it is", round, err.text);
}

void downlink_before(struct downlink *d, const struct global *g)
{
    float *vector[FED_VECTORS];
    if (of_versions(d->env))
        return;
    vectors_of(d, g, vector);
    for (int k = 0; k < d->form->n_vectors; k++)
        memcpy(d->was[k], vector[k], d->n * sizeof(float));
}

static int64_t encode(struct downlink *d, float *const *vector, uint32_t version, struct err *err)
{
    const struct view_part *part = part_of(d->env, version);
    int n = d->form->n_vectors;
    size_t at = vectors_head_bytes(n), each[FED_VECTORS];
    for (int k = 0; k < n; k++) {
        size_t state = part->vector[k].state_at;
        for (size_t i = 0; i < d->n; i++)
            d->change[i] = vector[k][i] - d->was[k][i];
        view_gather(part, d->change, d->part);
        struct codec_input in = {.x = d->part,
                                 .state = d->state ? d->state + state : NULL,
                                 .state_next = d->state ? d->state_next + state : NULL,
                                 .key = key_of(d->env, version, k),
                                 .budget_bytes = -1};
        int64_t len = codec_encode(part->vector[k].codec, &in, d->out + at, d->cap - at, d->scratch,
                                   NULL, err);
        if (len < 0)
            return len;
        each[k] = (size_t)len;
        at += (size_t)len;
    }
    vectors_put_head(d->out, each, n);
    return (int64_t)at;
}

int downlink_after(struct downlink *d, struct global *g, uint32_t round, struct err *err)
{
    float *vector[FED_VECTORS];
    if (of_versions(d->env))
        return 0;
    vectors_of(d, g, vector);
    if (d->state)
        memcpy(d->state_next, d->state, d->form->n_state * sizeof(float));
    int64_t len = encode(d, vector, round + 1, err);
    for (int k = 0; k < d->form->n_vectors; k++)
        memcpy(vector[k], d->was[k], d->n * sizeof(float));
    if (len < 0 ||
        apply(d->env, round + 1, d->out, (size_t)len, vector, d->part, d->scratch, err)) {
        for (int k = 0; k < d->form->n_vectors; k++)
            memcpy(vector[k], d->was[k], d->n * sizeof(float));
        downlink_still(d, round);
        return -1;
    }
    if (d->state)
        memcpy(d->state, d->state_next, d->form->n_state * sizeof(float));
    push(d, round + 1, d->out, (size_t)len);
    return 0;
}

void downlink_still(struct downlink *d, uint32_t round)
{
    if (!of_versions(d->env))
        push(d, round + 1, NULL, 0);
}

// Going out.

// The first message that a holder of this version needs, or -1: the version itself is shorter.
static int first_message(const struct downlink *d, uint32_t has)
{
    uint32_t newest = d->version;
    if (has == 0 || newest < has || newest - has > (uint32_t)d->n_messages)
        return -1;
    return d->n_messages - (int)(newest - has);
}

static int64_t bytes_from(const struct downlink *d, uint32_t has)
{
    int first = first_message(d, has);
    size_t bytes = DOWN_HEAD_BYTES;
    if (d->itself)
        return (int64_t)(bytes + 4 + d->itself);
    for (int i = first; first >= 0 && i < d->n_messages; i++)
        bytes += 4 + d->message[i].len;
    return (int64_t)(first < 0 ? DOWN_HEAD_BYTES + whole_bytes(d->env) : bytes);
}

int64_t downlink_client_bytes(const struct downlink *d, uint32_t client)
{
    return bytes_from(d, d->client[client]);
}

int64_t downlink_peer_bytes(const struct downlink *d, int endpoint)
{
    return bytes_from(d, d->peer[endpoint]);
}

bool downlink_whole(const struct downlink *d, int endpoint)
{
    return d->itself == 0 && first_message(d, d->peer[endpoint]) < 0;
}

void downlink_put(const struct downlink *d, int endpoint, uint8_t *p)
{
    int first = first_message(d, d->peer[endpoint]);
    if (d->itself) {
        put_u32(p, 0);
        put_u32(p + 4, 1);
        put_u32(p + DOWN_HEAD_BYTES, (uint32_t)d->itself);
        memcpy(p + DOWN_HEAD_BYTES + 4, d->out, d->itself);
        return;
    }
    put_u32(p, first < 0 ? 0 : d->peer[endpoint]);
    put_u32(p + 4, first < 0 ? 0 : (uint32_t)(d->n_messages - first));
    p += DOWN_HEAD_BYTES;
    for (int i = first; first >= 0 && i < d->n_messages; i++) {
        const struct message *m = &d->message[i];
        put_u32(p, (uint32_t)m->len);
        if (m->len)
            memcpy(p + 4, m->bytes, m->len);
        p += 4 + m->len;
    }
}

void downlink_sent(struct downlink *d, uint32_t client, int endpoint, uint32_t round)
{
    d->client[client] = d->peer[endpoint] = round;
}

void downlink_lost(struct downlink *d, uint32_t client, int endpoint)
{
    d->client[client] = d->peer[endpoint] = 0;
}

// Coming in.

int down_head_get(const uint8_t *in, size_t len, struct down_head *h)
{
    if (len < DOWN_HEAD_BYTES)
        return -1;
    *h = (struct down_head){get_u32(in), get_u32(in + 4)};
    return h->from == 0 && h->count > 1 ? -1 : 0;
}

int downlink_take(const struct fed_env *env, const uint8_t *in, size_t len, struct down_head head,
                  float *const *vector, float *part, void *scratch, struct err *err)
{
    size_t at = DOWN_HEAD_BYTES;
    for (uint32_t i = 0; i < head.count; i++) {
        if (len - at < 4 || get_u32(in + at) > len - at - 4)
            return err_set(err, "the changes of a model frame are longer than it");
        size_t each = get_u32(in + at);
        if (apply(env, head.from + 1 + i, in + at + 4, each, vector, part, scratch, err))
            return -1;
        at += 4 + each;
    }
    return at == len ? 0 : err_set(err, "a model frame is longer than its changes");
}

// Checkpoints: the newest version, the number of messages; the codecs' state; what clients have;
// the messages, each with its length, in whole words.

static size_t words_of(size_t bytes)
{
    return (bytes + 3) / 4;
}

size_t downlink_words(const struct downlink *d)
{
    size_t words = 2 + d->form->n_state + (size_t)d->env->fed->clients;
    for (int i = 0; i < d->n_messages; i++)
        words += 1 + words_of(d->message[i].len);
    return words;
}

void downlink_keep(const struct downlink *d, uint8_t *p)
{
    put_u32(p, d->version);
    put_u32(p + 4, (uint32_t)d->n_messages);
    p += 8;
    for (size_t i = 0; i < d->form->n_state; i++, p += 4)
        put_f32(p, d->state[i]);
    for (int32_t i = 0; i < d->env->fed->clients; i++, p += 4)
        put_u32(p, d->client[i]);
    for (int i = 0; i < d->n_messages; i++) {
        const struct message *m = &d->message[i];
        size_t size = 4 * words_of(m->len);
        put_u32(p, (uint32_t)m->len);
        memset(p + 4, 0, size);
        if (m->len)
            memcpy(p + 4, m->bytes, m->len);
        p += 4 + size;
    }
}

int downlink_restore(struct downlink *d, const uint8_t *p, size_t words, struct err *err)
{
    const uint8_t *end = p + 4 * words;
    size_t fixed = 2 + d->form->n_state + (size_t)d->env->fed->clients;
    if (words < fixed)
        return err_set(err, "the checkpoint has too little of the downlink");
    uint32_t newest = get_u32(p), n = get_u32(p + 4);
    p += 8;
    for (size_t i = 0; i < d->form->n_state; i++, p += 4)
        d->state[i] = get_f32(p);
    for (int32_t i = 0; i < d->env->fed->clients; i++, p += 4)
        d->client[i] = get_u32(p);
    for (uint32_t i = 0; i < n; i++) {
        size_t left = (size_t)(end - p);
        if (left < 4 || words_of(get_u32(p)) > left / 4 - 1 || n > newest || n > DOWN_MESSAGES)
            return err_set(err, "the checkpoint's changes of versions are damaged");
        push(d, newest - n + 1 + i, p + 4, get_u32(p));
        p += 4 + 4 * words_of(get_u32(p));
    }
    d->version = newest;
    return p == end ? 0 : err_set(err, "the checkpoint has more of the downlink than it says");
}
