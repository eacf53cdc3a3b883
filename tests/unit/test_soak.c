// Many rounds of `quadratic` under faults, links and policies drawn from one seed, over a simulated
// network, some of them stopped and resumed. After each round the server is held against a replay
// that knows only the updates before compression and which of them counted: bytes, weights, client
// state and the model, to the bit.
//   FSTQ_SOAK_SEED=N   only the episode of this seed, as a failure prints it
//   FSTQ_TEST_LONG=1   10,000 rounds
#include "fed/datagram.h"
#include "fed/slots.h"
#include "fed/worker.h"
#include "federation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEYS = 64, KEY_BYTES = 128, ROWS = 2048, CLIENTS = 24, ROUNDS = 70, FLOATS = 64 };
enum { FRAME_MOST = 1024 };

struct made { // by a client, on a version
    bool seen, applied, acked;
    float x[FLOATS], next[2 * FLOATS]; // before compression; its codecs' state behind it
    size_t len;                        // 0 = nobody waited for it
    uint8_t bytes[FRAME_MOST];
};

struct episode {
    uint64_t seed;
    struct federation fed;
    int n_keys;
    char key[KEYS][KEY_BYTES];
    // Rows of the round.
    int n_rows;
    struct rec_message row[ROWS];
    struct rec_round round;
    // The replay.
    float theta[FLOATS];
    float state[CLIENTS][2 * FLOATS]; // of a client's codecs: what it goes on from
    uint32_t slot[CLIENTS];           // the round that made it, 0 = none has
    struct made made[CLIENTS][ROUNDS];
    double weight[CLIENTS]; // of an update in time, 0 = not known yet
    int64_t uplink_bytes;
};

static struct episode *ep;
static int64_t soak_rounds, soak_late, soak_applied, soak_refused, soak_resumed, soak_lost;

// Says how to see it again, where cmocka's own message would not.
static void hold(bool good, const char *what)
{
    if (good)
        return;
    print_message("# round %u of the episode of seed %llu: %s\n"
                  "# FSTQ_SOAK_SEED=%llu replays it; its config:\n",
                  ep->round.version, (unsigned long long)ep->seed, what,
                  (unsigned long long)ep->seed);
    for (int i = 0; i < ep->n_keys; i++)
        print_message("#   %s\n", ep->key[i]);
    fail_msg("%s", what);
}

static void add_key(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void add_key(const char *format, ...)
{
    va_list args;
    assert_true(ep->n_keys < KEYS);
    va_start(args, format);
    int n = vsnprintf(ep->key[ep->n_keys++], KEY_BYTES, format, args);
    va_end(args);
    assert_true(n < KEY_BYTES);
}

// What an episode is.

static const char *const codecs[] = {"fp32",       "fp16",          "topk:ratio=0.2+ef",
                                     "sign+ef",    "int:bits=4+ef", "qsgd",
                                     "int:bits=8", "topk:ratio=0.1"};
static const char *const links[] = {
    "loopback", "fixed", "lte-20", "lte-hetero", "edge-mixed", "markov", "lte-hetero:slow=0.5"};
static const char *const policies[][2] = {{"", ""},
                                          {"fed.deadline_s=0.3", ""},
                                          {"fed.quorum=0.6", ""},
                                          {"fed.quorum=0.5", "fed.late_weight=0.5"},
                                          {"fed.deadline_s=0.25", "fed.late_weight=0.7"},
                                          {"fed.overcommit=1.5", "fed.late_weight=0.3"},
                                          {"fed.overcommit=1.4", ""},
                                          {"fed.deadline_s=0.2", "fed.min_completion=0.5"}};
static const char *const presences[] = {"always", "always", "onoff:stay=2", "day:period=20,on=0.7"};

#define PICK(r, list) list[rng_below(r, ARRAY_LEN(list))]

static void draw_config(struct rng *r)
{
    const char *const *policy = PICK(r, policies);
    add_key("run.seed=%u", 1 + rng_below(r, 1000000));
    add_key("task.name=quadratic");
    add_key("task.features=%u", 2 + rng_below(r, 15));
    add_key("task.outputs=%u", 1 + rng_below(r, 4));
    add_key("task.samples=%u", 4 + rng_below(r, 12));
    add_key("optim.kind=sgd");
    add_key("optim.lr=0.01");
    uint32_t clients = 2 + rng_below(r, CLIENTS - 1);
    add_key("fed.clients=%u", clients);
    add_key("fed.clients_per_round=%u", 1 + rng_below(r, clients < 12 ? clients : 12));
    add_key("fed.rounds=%u", 10 + rng_below(r, ROUNDS - 10));
    add_key("fed.local_steps=%u", 1 + rng_below(r, 3));
    add_key("fed.batch=4");
    add_key("fed.method=fedavg/%s", PICK(r, codecs));
    add_key("fed.server_lr=%g", 0.25 + 0.25 * rng_below(r, 4));
    add_key("fed.weights=%s", rng_below(r, 2) ? "samples" : "equal");
    add_key("fed.eval_every=0");
    add_key("fed.dropout=%g", rng_below(r, 3) ? 0.1 * rng_below(r, 8) : 0);
    add_key("client.step_ns=%u", rng_below(r, 2) ? 50000000 : 0);
    add_key("client.profile=%s", rng_below(r, 2) ? "mix" : "slow:share=0.4,max=6");
    add_key("client.availability=%s", PICK(r, presences));
    if (rng_below(r, 4) == 0)
        add_key("client.battery_j=20"), add_key("client.compute_w=3"), add_key("client.send_w=2"),
            add_key("client.charge_w=0.5");
    for (int i = 0; i < 2; i++)
        if (*policy[i])
            add_key("%s", policy[i]);
    add_key("net.sim_workers=%u", 1 + rng_below(r, 5));
    add_key("net.timeout_s=1");
    add_key("net.link=%s", PICK(r, links));
    if (rng_below(r, 3) == 0)
        add_key("net.loss=random:p=%g", 0.02 * rng_below(r, 10)),
            add_key("net.delivery=%s", rng_below(r, 2) ? "reliable" : "datagram");
    if (rng_below(r, 3) == 0)
        add_key("net.port_up_bps=%u", 20000 + rng_below(r, 1000000));
    if (rng_below(r, 4) == 0)
        add_key("net.arena_bytes=%u", 400000);
    static const char *const kinds[] = {"drop", "corrupt", "delay", "duplicate", "reorder"};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (rng_below(r, 2))
            add_key("net.sim_%s=%g", kinds[i], 0.02 * rng_below(r, 8));
}

// The replay.

static const struct codec_inst *codec(void)
{
    return ep->fed.env.method->view.part[0].vector[0].codec;
}

static struct made *made_of(uint32_t client, uint32_t version)
{
    assert_true(client < CLIENTS && version < ROUNDS);
    return &ep->made[client][version];
}

static void see_update(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                       const float *x, const float *adapter)
{
    (void)adapter;
    (void)arg;
    struct made *m = made_of(client, version);
    assert_true(s->n_values <= FLOATS);
    hold(!m->seen || memcmp(m->x, x, s->n_values * sizeof *x) == 0,
         "a client that trains on a version again learns something else");
    m->seen = true;
    memcpy(m->x, x, s->n_values * sizeof *x);
}

// What the client must have sent, by the state that the replay has of it.
static void encode(uint32_t client, uint32_t version, int64_t frame_bytes)
{
    static uint8_t scratch[1 << 20] __attribute__((aligned(64)));
    const struct fed_env *env = &ep->fed.env;
    size_t n_state = env->method->view.n_state;
    struct made *m = made_of(client, version);
    struct codec_input in = {.x = m->x,
                             .state = n_state ? ep->state[client] : NULL,
                             .state_next = n_state ? m->next : NULL,
                             .budget_bytes = -1,
                             .key = view_key(&env->method->view, env->seed, client, version, 0)};
    struct err err = {""};
    assert_true(n_state <= ARRAY_LEN(m->next) && codec_bound(codec()) <= FRAME_MOST);
    assert_true(codec_scratch_bytes(codec()) <= sizeof scratch);
    hold(m->seen, "an update arrived that no client has made");
    int64_t n = codec_encode(codec(), &in, m->bytes, FRAME_MOST, scratch, NULL, &err);
    int64_t heads =
        FRAME_HEADER_BYTES + (datagram_on(env->method, env->link) ? DATAGRAM_HEAD_BYTES : 0);
    hold(n + heads == frame_bytes, "a frame is not what its client's state makes it");
    m->len = (size_t)n;
}

// The same in every round, and less for each that it is late.
static void check_weight(const struct rec_message *row)
{
    double *known = &ep->weight[row->client], late = ep->fed.cfg.fed.late_weight;
    bool equal = ep->fed.cfg.fed.weights == FED_WEIGHTS_EQUAL;
    if (row->lag == 0 && *known == 0)
        *known = row->weight;
    hold(row->weight > 0, "an update without weight counts");
    hold(!equal || *known == 0 || *known == 1, "clients are not weighted alike");
    hold(*known == 0 || fabs(row->weight - *known * pow(late, row->lag)) <= 1e-6 * *known,
         "an update has another weight than its samples and its lateness give it");
}

static void add_update(const struct rec_message *row, float *sum)
{
    static uint8_t scratch[1 << 20] __attribute__((aligned(64)));
    const struct fed_env *env = &ep->fed.env;
    uint32_t client = (uint32_t)row->client, version = (uint32_t)(row->version - row->lag);
    struct made *m = made_of(client, version);
    struct codec_key key = view_key(&env->method->view, env->seed, client, version, 0);
    struct err err = {""};
    hold(m->len > 0, "an update counts late that did not come");
    hold(!m->applied, "an update is applied twice");
    m->applied = true;
    hold(row->lag == 0 || m->acked || env->method->view.n_state == 0,
         "a late update counts whose client has not moved on");
    check_weight(row);
    int rc =
        codec_decode_add(codec(), &key, m->bytes, m->len, (float)row->weight, sum, scratch, &err);
    hold(rc == 0, "an update counts that cannot be decoded");
    soak_applied++;
    soak_late += row->lag > 0;
}

// Updates as they count: those of the round by client, then late ones.
static int add_updates(float *sum, double *weight)
{
    int n = 0;
    for (int late = 0; late < 2; late++)
        for (int i = 0; i < ep->n_rows; i++) {
            const struct rec_message *row = &ep->row[i];
            if (row->status != MESSAGE_OK || (row->lag > 0) != late)
                continue;
            add_update(row, sum);
            *weight += row->weight;
            n++;
        }
    return n;
}

static void move_model(void)
{
    const struct fed_env *env = &ep->fed.env;
    const struct global *g = &ep->fed.loop.server->global;
    float sum[FLOATS] = {0};
    double weight = 0, parts = 0;
    int n = add_updates(sum, &weight);
    hold(n == ep->round.arrived && n == g->arrived, "the updates that arrived are not counted");
    hold(weight == g->weight, "the weights are not those of the updates that arrived");
    for (int i = 0; i < ep->n_rows; i++)
        parts += ep->row[i].status == MESSAGE_OK ? ep->row[i].weight / weight : 0;
    hold(n == 0 || fabs(parts - 1) < 1e-12, "the weights do not add up to one");
    float inverse = (float)(1.0 / weight);
    for (size_t i = 0; n > 0 && i < g->n; i++)
        sum[i] *= inverse;
    struct step step = {.theta = ep->theta,
                        .delta = sum,
                        .n = g->n,
                        .range = env->method->view.part[0].range[0],
                        .lr = fed_server_lr(env->fed, ep->round.version)};
    if (n > 0)
        scheme_mean(NULL, &step);
    hold(memcmp(ep->theta, g->theta, g->n * sizeof *g->theta) == 0,
         "the model is not that of the replay");
}

// A client goes on from what was acknowledged: what counts, and what will count late.
static void check_state(void)
{
    const struct server *s = ep->fed.loop.server;
    uint32_t version = (uint32_t)ep->round.version;
    for (int i = 0; i < ep->n_rows; i++) {
        const struct rec_message *row = &ep->row[i];
        if (row->lag > 0 || (row->status != MESSAGE_OK && row->status != MESSAGE_UNUSED) ||
            row->frame_bytes == 0)
            continue;
        uint32_t client = (uint32_t)row->client;
        encode(client, version, row->frame_bytes);
        bool kept = row->status == MESSAGE_OK || (s->slot && s->slot[client].round == version);
        hold(row->status == MESSAGE_OK || !kept || ep->fed.cfg.fed.late_weight > 0,
             "an update is acknowledged that will never count");
        if (!kept)
            continue;
        memcpy(ep->state[client], made_of(client, version)->next, sizeof ep->state[client]);
        made_of(client, version)->acked = true;
        ep->slot[client] = version;
    }
    for (int32_t c = 0; s->slot && c < ep->fed.cfg.fed.clients; c++) {
        struct slot_gen gen = server_slot(s, (uint32_t)c);
        const struct worker *w = ep->fed.loop.worker[fed_owner((uint32_t)c, s->workers)];
        hold(gen.round == ep->slot[c], "a client goes on from a state that was not acknowledged");
        hold(gen.round == 0 || slots_have(w->clients.slots, (uint32_t)c, gen),
             "the state that a client goes on from is not there");
    }
}

static void check_bytes(void)
{
    int64_t up = 0, late = 0;
    for (int i = 0; i < ep->n_rows; i++) {
        const struct rec_message *row = &ep->row[i];
        *(row->lag > 0 ? &late : &up) += row->frame_bytes > 0 ? row->frame_bytes : 0;
        soak_refused += row->status != MESSAGE_OK && row->status != MESSAGE_LOST;
        soak_lost += row->status == MESSAGE_LOST;
    }
    hold(up == ep->round.uplink_bytes, "the frames of the round are not its uplink");
    ep->uplink_bytes += up;
    hold(ep->uplink_bytes == ep->round.uplink_total_bytes, "the uplink of the run is another");
    hold(ep->round.sampled >= ep->round.dropped + ep->round.lost, "more clients went than came");
}

static void take_rows(void *arg, enum record_id id, const void *rows, size_t n)
{
    (void)arg;
    if (id == REC_ROUNDS)
        ep->round = *(const struct rec_round *)rows;
    if (id != REC_MESSAGES)
        return;
    assert_true(ep->n_rows + (int)n <= ROWS);
    memcpy(&ep->row[ep->n_rows], rows, n * sizeof *ep->row);
    ep->n_rows += (int)n;
}

static void take_commit(void *arg, int32_t version)
{
    struct federation *f = arg;
    hold(ep->round.version == version, "a round is committed without its row");
    check_bytes();
    if (version > 0) {
        check_state();
        move_model();
        const struct server *s = f->loop.server;
        hold(transport_now(s->env->transport) >= s->totals.modelled_ns - s->at_start.modelled_ns,
             "less time has passed than is modelled");
        soak_rounds++;
    }
    ep->n_rows = 0;
    if (f->stop_after && version >= f->stop_after)
        f->stop = 1;
}

// Episodes.

static void open_episode(bool resume)
{
    const char *keys[KEYS];
    struct err err = {""};
    for (int i = 0; i < ep->n_keys; i++)
        keys[i] = ep->key[i];
    keys[ep->n_keys] = "run.resume=on";
    if (federation_open(&ep->fed, ep->n_keys + resume, keys, &err))
        hold(false, err.text);
    ep->fed.sink.rows = take_rows; // the server asks its sink anew each time
    ep->fed.sink.commit = take_commit;
    if (!resume)
        ep->fed.work.row->initial(&ep->fed.work, ep->theta);
    hold(!resume || ep->fed.loop.server->round == (uint32_t)ep->round.version,
         "a resumed run does not begin where it stopped");
}

static void run_episode(const char *dir, uint64_t seed)
{
    struct rng r = rng_stream(seed, RNG_SIM, 1, 2, 3);
    memset(ep, 0, sizeof *ep);
    ep->seed = seed;
    draw_config(&r);
    bool stops = rng_below(&r, 4) == 0;
    if (stops) {
        char path[64];
        snprintf(path, sizeof path, "%s/%llu", dir, (unsigned long long)seed);
        assert_int_equal(mkdir(path, 0700), 0);
        add_key("run.dir=%s", path);
    }
    open_episode(false);
    ep->fed.stop_after = stops ? 1 + (int)rng_below(&r, 9) : 0;
    federation_run(&ep->fed);
    federation_close(&ep->fed);
    if (stops) {
        open_episode(true);
        soak_resumed++;
        federation_run(&ep->fed);
        federation_close(&ep->fed);
    }
    hold(ep->round.version == ep->fed.cfg.fed.rounds, "the run ends before its last round");
    hold(mem_now(MEM_NET) == 0 && mem_now(MEM_SERVER) == 0, "memory is lost");
}

static void every_round_agrees_with_the_replay(void **state)
{
    (void)state;
    char dir[] = "/tmp/fstq-soak.XXXXXX", command[64];
    const char *only = getenv("FSTQ_SOAK_SEED");
    int64_t want = getenv("FSTQ_TEST_LONG") ? 10000 : 1500;
    uint64_t seed = only ? strtoull(only, NULL, 10) : 1;
    assert_non_null(mkdtemp(dir));
    ep = mem_alloc(MEM_OTHER, sizeof *ep);
    federation_update = see_update;
    do
        run_episode(dir, seed++);
    while (!only && soak_rounds < want);
    mem_free(ep);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
    print_message(
        "# %lld rounds of %llu episodes, %lld of them resumed: %lld updates counted, %lld "
        "of them late, %lld refused, %lld lost\n",
        (long long)soak_rounds, (unsigned long long)seed - 1, (long long)soak_resumed,
        (long long)soak_applied, (long long)soak_late, (long long)soak_refused,
        (long long)soak_lost);
    if (only)
        return;
    assert_true(soak_applied > want && soak_late > want / 50 && soak_refused > want / 10);
    assert_true(soak_lost > want / 50 && soak_resumed > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_round_agrees_with_the_replay)};
    return cmocka_run_group_tests_name("soak", tests, NULL, NULL);
}
