// Tokens, energy and G of a run, from its rows.
#include "base/mem.h"
#include "trace/figures.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define MS 1000000

static void transfer(struct figures *f, int32_t client, int32_t version, int64_t down,
                     int64_t ready, int64_t arrived, double compute_j, double send_j)
{
    struct rec_link l[2] = {
        {.bytes = 10, .t_deliver_ns = down, .client = client, .version = version},
        {.bytes = 10, .t_deliver_ns = arrived, .client = client, .version = version, .up = 1}};
    l[1].t_ready_ns = ready;
    l[1].compute_j = compute_j;
    l[1].send_j = send_j;
    figures_add(f, REC_LINKS, l, 2);
}

static double figure(const struct figures *f, const char *key)
{
    struct rec_summary s[FIGURES_MAX];
    size_t n = figures_list(f, s);
    for (size_t i = 0; i < n; i++)
        if (strcmp(s[i].key, key) == 0)
            return s[i].value;
    return NAN;
}

static void a_round(struct figures *f, int32_t version, int64_t ns, double joule)
{
    struct rec_round r = {
        .version = version, .time_measured_ns = ns, .time_modelled_ns = 2 * ns, .energy_j = joule};
    figures_add(f, REC_ROUNDS, &r, 1);
}

static void figures_by_hand(void **state)
{
    (void)state;
    struct figures f = {0};
    // Client 7: 20 ms there and 80 back, 200 ms of work, twice; client 900: as long either way.
    for (int32_t v = 1; v <= 2; v++)
        transfer(&f, 7, v, 20 * MS, 220 * MS, 300 * MS, 3, 1);
    transfer(&f, 900, 1, 50 * MS, 150 * MS, 200 * MS, 5, 2);
    transfer(&f, 8, 1, -1, 0, 10, 100, 100);             // the model never came
    transfer(&f, 8, 2, 50 * MS, 150 * MS, -1, 100, 100); // the update never did
    struct rec_event e[] = {{.stage = STAGE_TRAIN, .flags = EVENT_TOKENS | 4, .bytes_in = 4000},
                            {.stage = STAGE_TRAIN, .bytes_in = 4000}}; // of something else
    figures_add(&f, REC_EVENTS, e, 2);
    a_round(&f, 0, 1000 * MS, 50); // before anything is learned
    a_round(&f, 1, 100 * MS, 6);
    a_round(&f, 2, 300 * MS, NAN);
    size_t n;
    struct figures_client *c = figures_clients(&f, &n);
    assert_int_equal(n, 2);
    assert_true(c[0].client == 7 && c[0].rounds == 2 && c[1].client == 900 && c[1].rounds == 1);
    mem_free(c);
    static const struct {
        const char *key;
        double want;
    } want[] = {{"tokens", 1000},
                {"tokens_per_s_measured", 2500},
                {"tokens_per_s_modelled", 1250},
                {"tokens_per_J_measured", 1000.0 / 6},
                {"tokens_per_J_modelled", 1000.0 / 15},
                {"energy_measured", 6},
                {"energy_measured_round", 6},
                {"energy_modelled", 15},
                {"energy_modelled_compute", 11},
                {"energy_modelled_send", 4},
                {"energy_modelled_round", 7.5},
                {"energy_modelled_client_round", 5},
                {"G_modelled_median", 1.5},
                {"G_modelled_min", 1},
                {"G_modelled_max", 2},
                {"G_clients", 2}};
    for (size_t i = 0; i < ARRAY_LEN(want); i++)
        if (!(fabs(figure(&f, want[i].key) - want[i].want) < 1e-9 * want[i].want))
            fail_msg("%s: %g, wanted %g", want[i].key, figure(&f, want[i].key), want[i].want);
    figures_free(&f);
}

static void what_is_not_known_is_left_out(void **state)
{
    (void)state;
    struct figures f = {0};
    struct rec_summary s[FIGURES_MAX];
    assert_int_equal(figures_list(&f, s), 0);
    transfer(&f, 1, 1, 10, 10, 20, NAN, NAN); // no compute in the model, no powers
    a_round(&f, 1, 5, NAN);
    assert_int_equal(figures_list(&f, s), 0);
    figures_free(&f);
}

static void many_clients(void **state)
{
    (void)state;
    struct figures f = {0};
    for (int32_t i = 0; i < 50000; i++)
        transfer(&f, (int32_t)((uint32_t)i * 7919u % 20000u), 1 + i / 20000, 1, 3, 4, 1, 1);
    size_t n;
    struct figures_client *c = figures_clients(&f, &n);
    assert_int_equal(n, 20000);
    int64_t rounds = 0;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(c[i].client, i);
        rounds += c[i].rounds;
    }
    assert_int_equal(rounds, 50000);
    mem_free(c);
    figures_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figures_by_hand),
        cmocka_unit_test(what_is_not_known_is_left_out),
        cmocka_unit_test(many_clients),
    };
    return cmocka_run_group_tests_name("figures", tests, NULL, NULL);
}
