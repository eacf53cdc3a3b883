// Federations whose server trains a side network: they learn what one machine with all the data
// would, whoever sends it and however often; a cache changes bytes and nothing else.
#include "federation.h"
#include "scratch.h"

#include "base/rng.h"
#include "fed/policy.h"
#include "fed/side_plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cmocka.h>

enum { CLIENTS = 3, STEPS = 2, BATCH = 2, ROUNDS = 9, KEYS = 24 };

static struct federation fed;

struct outcome {
    uint64_t hash;
    int64_t uplink, values; // bytes
    double hits, evicted;   // of the cache
    struct rec_round round[ROUNDS + 1];
    int n_rounds;
};

static void begin(const char *method, int n, const char *const *more)
{
    char name[160];
    const char *keys[KEYS] = {"task.name=synth-medical",
                              "task.client_min=5",
                              "task.client_max=9",
                              "task.test=6",
                              "fed.clients=3",
                              "fed.clients_per_round=3",
                              "fed.local_steps=2",
                              "fed.batch=2",
                              "fed.rounds=9",
                              "fed.eval_every=0",
                              name};
    struct err err = {""};
    snprintf(name, sizeof name, "fed.method=%s", method);
    int common = 0;
    while (keys[common])
        common++;
    for (int i = 0; i < n; i++)
        keys[common + i] = more[i];
    if (federation_open(&fed, common + n, keys, &err))
        fail_msg("%s: %s", method, err.text);
}

static void end(struct outcome *o)
{
    federation_run(&fed);
    *o = (struct outcome){.hash = global_hash(&fed.loop.server->global), .n_rounds = fed.n_rounds};
    const struct scheme *scheme = fed.method.scheme;
    struct rec_summary row[SCHEME_FIGURES];
    size_t n = scheme->figures ? scheme->figures(&fed.loop.server->global, row) : 0;
    for (size_t i = 0; i < n; i++) {
        o->hits += strcmp(row[i].key, "cache_hits") ? 0 : row[i].value;
        o->evicted += strcmp(row[i].key, "cache_evicted") ? 0 : row[i].value;
    }
    for (int i = 0; i < fed.n_messages; i++) {
        const struct rec_message *m = &fed.message[i];
        o->uplink += m->frame_bytes;
        o->values += m->values_bytes > 0 ? m->values_bytes : 0;
    }
    for (int i = 0; i < fed.n_rounds && i <= ROUNDS; i++)
        o->round[i] = fed.round[i];
}

static struct outcome run_with(const char *method, int n, const char *const *more)
{
    struct outcome o;
    begin(method, n, more);
    end(&o);
    federation_close(&fed);
    return o;
}

static struct outcome run(const char *method)
{
    return run_with(method, 0, NULL);
}

// One machine: every client's examples in the order of the rounds, straight to the network.

struct central {
    const struct side_plan *plan;
    struct side *net;
    struct optim_params optim;
    struct side_example one[BATCH]; // of the step
    int32_t label[BATCH * 8], n, left;
    int64_t floats;
};

static void central_step(struct central *c)
{
    const struct side_form *f = &c->plan->kind[0].form;
    static int32_t row[512];
    static float target[64 * 1024];
    struct side_batch b = {.row = row};
    size_t dim = (size_t)f->dim, classes = (size_t)f->classes;
    for (int32_t i = 0; i < c->n; b.rows += c->one[i++].rows)
        for (int32_t k = 0; k < c->one[i].scored; k++)
            row[b.scored++] = b.rows + c->one[i].rows - c->one[i].scored + k;
    for (int32_t l = 0; l < f->layers; l++) {
        float *to = side_input(c->net, &b, l);
        for (int32_t i = 0; i < c->n; i++)
            for (int32_t k = 0; k < c->one[i].rows; k++, to += side_stride(c->net, 0))
                memcpy(to, c->one[i].x + ((size_t)(l * c->one[i].rows + k)) * dim,
                       dim * sizeof *to);
    }
    for (int32_t i = 0, at = 0; i < c->n && !f->labels; at += c->one[i++].scored)
        memcpy(target + (size_t)at * classes, c->one[i].x + side_floats(f, c->one[i].rows, 0),
               (size_t)c->one[i].scored * classes * sizeof *target);
    struct side_answer a = {.loss = f->labels ? SIDE_CE : SIDE_L2,
                            .target = f->labels ? NULL : target,
                            .label = c->label};
    side_step(c->net, &b, &a, &c->optim);
    for (int32_t i = 0; i < c->n; i++)
        mem_free(c->one[i].x);
    c->n = 0;
}

static int take(void *arg, const struct side_head *h, const struct side_example *e,
                const int32_t *label, struct err *err)
{
    struct central *c = arg;
    size_t n = side_floats(&c->plan->kind[0].form, e->rows, e->scored);
    int32_t at = 0;
    (void)err;
    if (c->left == 0)
        c->left = (int32_t)h->count;
    for (int32_t i = 0; i < c->n; i++)
        at += c->one[i].scored;
    if (label)
        memcpy(c->label + at, label, (size_t)e->scored * sizeof *label);
    c->one[c->n] = *e;
    c->one[c->n].x = mem_alloc(MEM_DATA, n * sizeof *e->x);
    memcpy(c->one[c->n++].x, e->x, n * sizeof *e->x);
    c->floats += (int64_t)n;
    if (--c->left == 0 || c->n == BATCH)
        central_step(c);
    return 0;
}

// floats: those of one pass over all examples.
static uint64_t centralised(const char *method, int64_t *floats)
{
    struct err err = {""};
    struct dev d;
    begin(method, 0, NULL);
    struct workload *w = &fed.work;
    struct central c = {.plan = fed.method.form, .optim = *w->env.optim};
    const struct side_form *f = &c.plan->kind[0].form;
    struct side_config net = {.layers = f->layers,
                              .width = f->dim,
                              .rank = 16,
                              .classes = f->classes,
                              .types = 1,
                              .dim = {f->dim}};
    uint32_t next[CLIENTS] = {0};
    assert_int_equal(dev_open(&d, 0, 1, &err), 0);
    c.net = side_open(&d, &net);
    side_init(c.net, w->env.seed);
    c.optim.kind = OPTIM_ADAMW;
    c.optim.lr = 1e-3;
    *floats = 0;
    for (uint32_t r = 1; r <= ROUNDS; r++)
        for (uint32_t k = 0; k < CLIENTS; k++) {
            struct train_job job = {.client = k, .round = r, .steps = STEPS, .ask = next[k]};
            struct side_end to = {take, &c};
            assert_int_equal(w->row->side->examples(w, c.plan, &job, to, &fed.rec, &err), 0);
            next[k] += (uint32_t)job.samples;
        }
    *floats = c.floats;
    uint64_t hash = XXH3_64bits(side_state(c.net), 4 * side_shape(c.net)->n_values);
    side_close(c.net);
    dev_close(&d);
    federation_close(&fed);
    return hash;
}

static void test_centralised(void **state)
{
    static const char *const methods[] = {"mobillm/fp32", "mobillm:labels=off,every=2/fp32",
                                          "pae:cache_bytes=0/fp32"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        int64_t floats;
        uint64_t hash = centralised(methods[i], &floats);
        struct outcome o = run(methods[i]);
        assert_true(o.hash == hash);
        assert_int_equal(o.values, 4 * floats);
        assert_int_equal(o.n_rounds, ROUNDS + 1);
    }
}

// The first epoch's bytes, exactly; none afterwards; and what is learned is the same.
static void test_cache(void **state)
{
    (void)state;
    for (int labels = 0; labels < 2; labels++) {
        struct outcome on = run(labels ? "pae:labels=on/fp16" : "pae/fp16");
        struct outcome off =
            run(labels ? "pae:labels=on,cache_bytes=0/fp16" : "pae:cache_bytes=0/fp16");
        assert_true(on.hash == off.hash);
        assert_true(on.uplink > 0 && off.uplink > 2 * on.uplink);
        assert_true(on.hits > 0 && on.evicted == 0 && off.hits == 0);
        assert_int_equal(on.round[ROUNDS].uplink_bytes, 0);
        assert_int_equal(on.round[ROUNDS].downlink_bytes, 0);
        assert_true(on.round[ROUNDS].arrived == CLIENTS && isfinite(on.round[ROUNDS].train_loss));
        assert_true(on.round[ROUNDS].train_loss < on.round[1].train_loss);
        for (int r = 1; r <= ROUNDS; r++)
            assert_true(on.round[r].train_loss == off.round[r].train_loss);
    }
}

// sum over clients of n_k (M d + C) w: rows that have a loss are counted as examples are, for an
// answer has several.
static void test_bytes(void **state)
{
    (void)state;
    struct outcome o = run("pae/fp16");
    struct config cfg = fed.cfg;
    struct err err;
    struct task *t = task_open(&cfg.task, (uint64_t)cfg.run.seed, CLIENTS, &err);
    assert_non_null(t);
    int64_t rows = 0;
    for (int32_t k = 0; k < CLIENTS; k++)
        for (int32_t i = 0; i < task_client(t, k)->n; i++)
            rows += task_client(t, k)->v[i].n - task_client(t, k)->v[i].answer;
    task_close(t);
    begin("pae/fp16", 0, NULL);
    const struct side_form *f = &((const struct side_plan *)fed.method.form)->kind[0].form;
    int64_t values = rows * ((int64_t)f->layers * f->dim + f->classes) * 2;
    federation_close(&fed);
    assert_int_equal(o.values, values);
}

// Too small a cache asks again; too small for one example asks always.
// With fed.deliver the network comes down, once, to every client: the one that the run's hash is
// of.
static void test_parcels(void **state)
{
    (void)state;
    struct outcome o;
    begin("mobillm/fp32", 1, (const char *const[]){"fed.deliver=on"});
    end(&o);
    const struct scheme_parting *p = fed.method.scheme->parting;
    int64_t parcels = 0, before = 0;
    for (uint32_t c = 0; c < CLIENTS; c++) {
        size_t len = p->bytes(&fed.env, c);
        uint8_t *got = mem_alloc(MEM_OTHER, len);
        p->put(&fed.loop.server->global, c, got);
        assert_true(XXH3_64bits(got, len) == o.hash);
        mem_free(got);
        parcels += (int64_t)(FRAME_HEADER_BYTES + len);
    }
    for (int i = 1; i < ROUNDS; i++)
        before = o.round[i].downlink_bytes > before ? o.round[i].downlink_bytes : before;
    assert_int_equal(before, CLIENTS * FRAME_HEADER_BYTES); // tasks
    assert_int_equal(o.round[ROUNDS].downlink_bytes, before + parcels);
    assert_true(loop_clean(&fed.loop));
    federation_close(&fed);
    // Of other schemes, the version.
    begin("fedavg/fp32", 1, (const char *const[]){"fed.deliver=on"});
    end(&o);
    int64_t version = 64 + 4 * (int64_t)fed.env.work->shape.n_values;
    assert_int_equal(o.round[1].downlink_bytes, CLIENTS * version);
    assert_int_equal(o.round[ROUNDS].downlink_bytes, 2 * CLIENTS * version);
    assert_true(loop_clean(&fed.loop));
    federation_close(&fed);
}

static void test_full(void **state)
{
    (void)state;
    struct outcome off = run("pae:cache_bytes=0/fp16"), one = run("pae:cache_bytes=100/fp16");
    assert_true(one.hash == off.hash && one.uplink == off.uplink);
    struct outcome some = run("pae:cache_bytes=60000/fp16"), all = run("pae/fp16");
    assert_true(some.uplink > all.uplink && some.uplink <= off.uplink);
    assert_true(some.evicted > 0 && all.evicted == 0);
    assert_true(isfinite(some.round[ROUNDS].train_loss));
}

// Before anything is learned the model says what it says alone.
static void test_start(void **state)
{
    (void)state;
    struct outcome plain = run_with("fedavg/fp32", 1, (const char *const[]){"fed.rounds=1"}),
                   side = run_with("pae/fp32", 1, (const char *const[]){"fed.rounds=1"});
    assert_true(plain.round[0].score == side.round[0].score);
    assert_true(isfinite(side.round[0].eval_loss) && side.round[0].eval_loss > 0);
}

// Stopped after two rounds and gone on with: weights, moments, places and cache.
static void test_resume(void **state)
{
    (void)state;
    const char *const methods[] = {"pae/int:bits=8", "pae:cache_bytes=60000/fp16", "mobillm/nf4",
                                   "fedmobillm/fp16"};
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        char dir[300], key[320];
        struct outcome whole = run(methods[i]), part;
        snprintf(dir, sizeof dir, "%s/%zu", scratch_dir, i);
        snprintf(key, sizeof key, "run.dir=%s", dir);
        assert_int_equal(mkdir(dir, 0700), 0);
        const char *const more[] = {key, "run.resume=on"};
        begin(methods[i], 1, more);
        fed.stop_after = 4;
        end(&part);
        federation_close(&fed);
        assert_true(part.hash != whole.hash);
        begin(methods[i], 2, more);
        end(&part);
        federation_close(&fed);
        assert_true(part.hash == whole.hash);
        for (int r = 0; r < part.n_rounds && i < 3; r++)
            assert_true(part.round[r].train_loss == whole.round[4 + 1 + r].train_loss);
    }
}

// Frames twice, workers fewer or more: the same. Damaged or out of order: not taken, asked again.
static void test_transport(void **state)
{
    const char *const twice[] = {"net.sim_duplicate=0.5", "net.sim_workers=1"};
    const char *const broken[] = {"net.sim_corrupt=0.1", "net.sim_reorder=0.5", "net.timeout_s=1"};
    (void)state;
    struct outcome plain = run("pae/fp16"), other = run_with("pae/fp16", 2, twice);
    assert_true(plain.hash == other.hash);
    struct outcome bad = run_with("pae/fp16", 3, broken);
    int rejected = 0, arrived = 0;
    for (int r = 0; r < bad.n_rounds; r++) {
        rejected += bad.round[r].rejected + bad.round[r].lost;
        arrived += bad.round[r].arrived;
    }
    assert_true(rejected > 0 && arrived > 0 && bad.hash != plain.hash);
}

// Without rounds: everything comes once, in the order of its modelled arrival, whoever computes it;
// what was replayed often enough is not replayed any more; a restart goes on in the middle of it.
static void test_arrivals(void **state)
{
    const char *const slow[] = {"fed.rounds=16", "client.step_ns=1e6", "net.link=lte-hetero",
                                "fed.clients_per_round=2", "net.sim_workers=1"};
    const char *const fast[] = {slow[0], slow[1], slow[2], slow[3], "net.sim_workers=3"};
    (void)state;
    struct outcome one = run_with("fedmobillm/fp16", 5, slow);
    struct outcome three = run_with("fedmobillm/fp16", 5, fast), rounds = run("pae/fp16");
    assert_true(one.hash == three.hash && one.hash != rounds.hash);
    assert_int_equal(one.values, rounds.values);
    const struct rec_round *last =
        &one.round[one.n_rounds - 1 < ROUNDS ? one.n_rounds - 1 : ROUNDS];
    assert_true(last->downlink_bytes <= 2 * 64);
    struct outcome all = run_with("fedmobillm:layers=3/fp16", 5, fast);
    struct outcome some = run_with("fedmobillm:layers=2,width=40/fp16", 5, fast);
    assert_true(all.hash == one.hash && some.hash != one.hash && some.values < one.values);
    struct outcome none = run_with("fedmobillm:replay=0/fp16", 5, fast),
                   spent = run_with("fedmobillm:replay=50,cap=2/fp16", 5, fast);
    assert_true(isnan(fed.round[fed.n_rounds - 1].train_loss)); // of the last run
    assert_true(spent.hash != none.hash && spent.hash != one.hash);
}

static void test_refused(void **state)
{
    static const struct {
        const char *key, *method, *says;
    } bad[] = {
        {"fed.quorum=2", "pae/fp16", "fed.quorum"},
        {"fed.quorum=2", "fedmobillm:cache_bytes=0/fp16", "fed.quorum"},
        {"fed.batch=2", "fedmobillm:layers=1000/fp16", "layers"},
        {"fed.average=ema", "mobillm/fp16", "fed.average"},
        {"fed.opt_state=keep", "mobillm/fp16", "fed.opt_state"},
        {"client.dp_clip=1", "mobillm/fp16", "dp_clip"},
        {"fed.downlink=fp16", "mobillm/fp16", "fed.downlink"},
        {"fed.batch=2", "mobillm/B@fp16", "view"},
        {"fed.batch=2", "pae/topk+ef", "topk"},
        {"fed.batch=2", "pae:every=1000/fp16", "every"},
        {"fed.batch=2", "pae:merge=0.3/fp16", "merge"},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char name[100];
        const char *const keys[] = {"task.name=synth-medical", bad[i].key, name};
        struct err err = {""};
        snprintf(name, sizeof name, "fed.method=%s", bad[i].method);
        if (federation_open(&fed, 3, keys, &err) == 0)
            fail_msg("%s with %s is taken", bad[i].method, bad[i].key);
        if (!strstr(err.text, bad[i].says))
            fail_msg("%s with %s: %s", bad[i].method, bad[i].key, err.text);
        federation_close(&fed);
    }
}

// Batches under way change when a round ends and nothing else: each waited for, some in flight, and
// all together at the end.
static void test_flight(void **state)
{
    const char *const slow[] = {"client.step_ns=1e8", "net.link=lte-hetero", "fed.rounds=2"};
    static const char *const ways[] = {"mobillm:flight=0/fp16", "mobillm:flight=2/fp16",
                                       "mobillm/fp16"};
    struct outcome o[ARRAY_LEN(ways)];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        o[i] = run_with(ways[i], 3, slow);
        assert_true(o[i].hash == o[0].hash && o[i].uplink == o[0].uplink);
        for (int r = 1; r <= 2; r++)
            assert_true(o[i].round[r].train_loss == o[0].round[r].train_loss);
    }
    for (int r = 1; r <= 2; r++) {
        assert_true(o[1].round[r].time_modelled_ns < o[0].round[r].time_modelled_ns);
        assert_true(o[1].round[r].time_modelled_ns < o[2].round[r].time_modelled_ns);
    }
}

// Rows that have no loss are fewer, and teach the same.
static void test_merge(void **state)
{
    (void)state;
    struct outcome all = run("mobillm/fp32"), few = run("mobillm:merge=0.5/fp32");
    assert_true(few.values < 0.65 * (double)all.values && few.values > 0.4 * (double)all.values);
    for (int r = 1; r <= ROUNDS; r++)
        assert_true(fabs(few.round[r].train_loss - all.round[r].train_loss) < 1e-4);
}

// Over the answers' tokens alone: so many fewer bytes, and it learns.
static void test_answers(void **state)
{
    (void)state;
    struct outcome all = run("pae/fp16"), few = run("pae:classes=answers/fp16"),
                   labels = run("mobillm:classes=answers/fp16");
    int32_t classes[2];
    for (int i = 0; i < 2; i++) {
        begin(i ? "pae:classes=answers/fp16" : "pae/fp16", 0, NULL);
        classes[i] = ((const struct side_plan *)fed.method.form)->kind[0].form.classes;
        int32_t width = ((const struct side_plan *)fed.method.form)->kind[0].form.dim * 3;
        federation_close(&fed);
        if (i) {
            int64_t rows = all.values / (2 * (width + classes[0]));
            assert_true(classes[1] > 3 && classes[1] < classes[0]);
            assert_int_equal(few.values, rows * 2 * (width + classes[1]));
        }
    }
    assert_true(few.round[ROUNDS].train_loss < few.round[1].train_loss);
    assert_true(labels.round[ROUNDS].train_loss < labels.round[1].train_loss);
}

// Who keeps updates until it is decided who counts needs room for as long as they can be: of
// schemes that send something else, too.
static void test_arena(void **state)
{
    static const char *const methods[] = {"split/fp16", "splitlora/fp16;fp16;fp16", "mobillm/fp16"};
    const char *const keys[] = {"fed.quorum=2", "net.arena_bytes=4096"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        char name[100];
        const char *const all[] = {"task.name=synth-medical", keys[0], keys[1], name};
        struct err err = {""};
        snprintf(name, sizeof name, "fed.method=%s", methods[i]);
        assert_int_equal(federation_open(&fed, 4, all, &err), -1);
        if (!strstr(err.text, "net.arena_bytes"))
            fail_msg("%s: %s", methods[i], err.text);
        federation_close(&fed);
    }
}

static int make(void **state)
{
    (void)state;
    return scratch_make();
}

static int drop(void **state)
{
    (void)state;
    return scratch_drop();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_centralised), cmocka_unit_test(test_cache),
        cmocka_unit_test(test_bytes),       cmocka_unit_test(test_full),
        cmocka_unit_test(test_start),       cmocka_unit_test(test_resume),
        cmocka_unit_test(test_transport),   cmocka_unit_test(test_arrivals),
        cmocka_unit_test(test_flight),      cmocka_unit_test(test_answers),
        cmocka_unit_test(test_merge),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_arena),       cmocka_unit_test(test_parcels),
    };
    return cmocka_run_group_tests(tests, make, drop);
}
