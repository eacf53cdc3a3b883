// The schemes without rounds against a timetable worked out by hand: who is under way when, from
// which version, in which version an update counts and for how much, and the model that comes out.
#include "federation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <unistd.h>

enum { CLIENTS = 3, VERSIONS = 8, VALUES = 16 };

static struct federation fed;
static float seen[VERSIONS + 1][CLIENTS][VALUES]; // updates by the version they were trained on

static void keep_update(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                        const float *x, const float *adapter)
{
    (void)adapter;
    (void)arg;
    assert_int_equal(s->n_values, VALUES);
    memcpy(seen[version][client], x, sizeof seen[version][client]);
}

// Each client needs the same time again and again: 2 x 10 ms of latency, 64 + 4 x 16 bytes down and
// a byte more up (the codec's own) at 128 kB/s, and 10 ms of compute times what its device is slow.
static const char table[] = "name,share,slow,compute_w,send_w\n"
                            "fast,1,1,0,0\n"
                            "slow,1,7,0,0\n";
static const char *const common[] = {
    "task.name=quadratic",   "task.features=8",         "task.outputs=2",
    "task.samples=10",       "optim.kind=sgd",          "optim.lr=0.01",
    "fed.clients=3",         "fed.clients_per_round=3", "fed.rounds=8",
    "fed.local_steps=2",     "client.step_ns=5000000",  "net.link=fixed",
    "net.up_bps=1.024e6",    "net.down_bps=1.024e6",    "net.latency_ns=10000000",
    "fed.server_ns=1000000", "net.sim_workers=2",       "trace.file=",
    "client.profile=table"};

static void run(const char *method, const char *const *more, int n_more)
{
    const char *keys[ARRAY_LEN(common) + 4];
    char path[] = "/tmp/fstq-devices-XXXXXX", name[64], text[128];
    struct err err = {""};
    int n = ARRAY_LEN(common), fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, table, sizeof table - 1) == (ssize_t)sizeof table - 1);
    close(fd);
    memcpy(keys, common, sizeof common);
    snprintf(name, sizeof name, "client.table=%s", path);
    snprintf(text, sizeof text, "fed.method=%s/fp32", method);
    keys[n++] = name;
    keys[n++] = text;
    for (int i = 0; i < n_more; i++)
        keys[n++] = more[i];
    if (federation_open(&fed, n, keys, &err))
        fail_msg("%s", err.text);
    unlink(path);
    for (int e = 1; e < fed.loop.n_endpoints; e++)
        fed.loop.own_env[e].update = keep_update;
    federation_run(&fed);
    assert_true(server_done(fed.loop.server) && loop_clean(&fed.loop));
}

// The timetable, without anything of the server's: clients that may set out do so as soon as all
// that have come are taken, and after every `buffer` updates comes a version, which takes 1 ms. Two
// arrivals of one instant come in the order of their dispatch.
struct timetable {
    int64_t ends_ns[VERSIONS + 1];
    struct {
        uint32_t client, version;
    } arrival[VERSIONS * CLIENTS];
};

enum { MAY_SET_OUT = -1, RESTS = -2 };

static uint32_t first_due(const int64_t *due, const int *number)
{
    uint32_t first = UINT32_MAX;
    for (uint32_t c = 0; c < CLIENTS; c++)
        if (due[c] >= 0 && (first == UINT32_MAX || due[c] < due[first] ||
                            (due[c] == due[first] && number[c] < number[first])))
            first = c;
    return first;
}

static void work_out(struct timetable *t, int buffer)
{
    int64_t now = 0, due[CLIENTS] = {MAY_SET_OUT, MAY_SET_OUT, MAY_SET_OUT};
    uint32_t from[CLIENTS], version = 1;
    int number[CLIENTS], n = 0, taken = 0;
    while (version <= VERSIONS) {
        uint32_t first = first_due(due, number);
        for (uint32_t c = 0; (first == UINT32_MAX || due[first] > now) && c < CLIENTS; c++)
            if (due[c] == MAY_SET_OUT) {
                int64_t slow = (int64_t)profile_device(&fed.profile, c).slow;
                due[c] = now + 22007813 + slow * 10000000;
                from[c] = version;
                number[c] = n++;
            }
        first = first_due(due, number);
        now = due[first] > now ? due[first] : now;
        due[first] = RESTS;
        t->arrival[taken].client = first;
        t->arrival[taken++].version = from[first];
        if (taken % buffer)
            continue;
        now += 1000000;
        t->ends_ns[version++] = now;
        for (uint32_t c = 0; c < CLIENTS; c++)
            due[c] = due[c] == RESTS ? MAY_SET_OUT : due[c];
    }
}

// Returns the longest lag.
static int compare(int buffer, double (*scale)(int), bool mixes)
{
    struct timetable t = {.ends_ns = {0}};
    float theta[VERSIONS + 2][VALUES];
    work_out(&t, buffer);
    assert_int_equal(fed.n_rounds, VERSIONS + 1);
    fed.work.row->initial(&fed.work, theta[1]);
    int64_t end = 0;
    int at = 0, longest = 0;
    for (int v = 1; v <= VERSIONS; v++) {
        double sum[VALUES] = {0}, weight = 0;
        end += fed.round[v].time_modelled_ns;
        assert_int_equal(end, t.ends_ns[v]);
        assert_int_equal(fed.round[v].arrived, buffer);
        for (int k = 0; k < buffer; k++, at++) {
            const struct rec_message *m = &fed.message[at];
            uint32_t c = t.arrival[at].client, from = t.arrival[at].version;
            int lag = v - (int)from;
            longest = lag > longest ? lag : longest;
            assert_int_equal(m->client, c);
            assert_int_equal(m->version, v);
            assert_int_equal(m->lag, lag);
            assert_int_equal(m->status, MESSAGE_OK);
            assert_true(fabs(m->weight - 10 * scale(lag)) < 1e-5);
            weight += 10;
            for (int i = 0; i < VALUES; i++)
                sum[i] += 10 * scale(lag) *
                          ((double)seen[from][c][i] +
                           (mixes ? (double)theta[from][i] - (double)theta[v][i] : 0));
        }
        for (int i = 0; i < VALUES; i++)
            theta[v + 1][i] = (float)((double)theta[v][i] + sum[i] / weight);
    }
    for (int i = 0; i < VALUES; i++)
        assert_float_equal(fed.loop.server->global.theta[i], theta[VERSIONS + 1][i], 1e-5);
    for (; at < fed.n_messages; at++) // under way when the last version was made
        assert_int_equal(fed.message[at].status, MESSAGE_UNUSED);
    assert_int_equal(fed.n_messages, VERSIONS * buffer + CLIENTS - buffer);
    federation_close(&fed);
    return longest;
}

static double root(int lag)
{
    return 1 / sqrt(1.0 + lag);
}

static double poly(int lag)
{
    return 0.6 / sqrt(1.0 + lag);
}

static double hinge(int lag)
{
    return lag > 1 ? 0.9 / (2.0 * (lag - 1) + 1) : 0.9;
}

static double constant(int lag)
{
    (void)lag;
    return 0.6;
}

static void test_fedbuff_by_hand(void **state)
{
    (void)state;
    run("fedbuff:k=2", NULL, 0);
    assert_true(compare(2, root, false) >= 2);
    run("fedbuff:k=1", NULL, 0);
    assert_true(compare(1, root, false) >= 4);
    run("fedbuff:k=3", NULL, 0); // nobody is ever late
    assert_int_equal(compare(3, root, false), 0);
}

static void test_fedasync_by_hand(void **state)
{
    (void)state;
    run("fedasync", NULL, 0);
    compare(1, poly, true);
    run("fedasync:alpha=0.9,stale=hinge,a=2,b=1", NULL, 0);
    compare(1, hinge, true);
    run("fedasync:stale=constant", NULL, 0);
    compare(1, constant, true);
}

// A buffer that cannot fill is emptied when all have come.
static void test_fewer_clients_than_the_buffer_holds(void **state)
{
    (void)state;
    run("fedbuff:k=5", NULL, 0);
    for (int v = 1; v <= VERSIONS; v++)
        assert_int_equal(fed.round[v].arrived, CLIENTS);
    federation_close(&fed);
}

// Some are never there: the others' versions are made all the same, and all who were drawn are in
// the books.
static void test_dropout(void **state)
{
    (void)state;
    const char *const more[] = {"fed.dropout=0.4"};
    run("fedbuff:k=2", more, 1);
    int sampled = 0, dropped = 0, arrived = 0;
    for (int v = 1; v <= VERSIONS; v++) {
        assert_true(fed.round[v].arrived <= 2);
        sampled += fed.round[v].sampled;
        dropped += fed.round[v].dropped;
        arrived += fed.round[v].arrived;
    }
    assert_true(dropped > 0);
    assert_int_equal(sampled, dropped + arrived);
    federation_close(&fed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fedbuff_by_hand),
        cmocka_unit_test(test_fedasync_by_hand),
        cmocka_unit_test(test_fewer_clients_than_the_buffer_holds),
        cmocka_unit_test(test_dropout),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
