// Schemes against an independent script: the rules of local training and the server's steps of the
// table, on the problem of tests/golden/make_schemes.py, go where its double precision goes.
#include "base/mem.h"
#include "fed/global.h"
#include "fed/local.h"
#include "fed/scheme.h"
#include "fed/workload.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { CLIENTS = 6, SAMPLED = 3, DIM = 4, SAMPLES = 5, ROUNDS = 12, STEPS = 5 };

struct problem {
    double a[CLIENTS][SAMPLES][DIM], b[CLIENTS][SAMPLES], lr;
    int turn[ROUNDS][SAMPLED];
};

struct played {                    // a scheme at its place, with what it keeps
    struct shape_range range[DIM]; // what has its turn, a coordinate each; all where n_ranges is 0
    int n_ranges;
    uint32_t last[CLIENTS]; // round of each client's state, 0 = none
    struct view_inst view;  // as far as whose turn it is
    const struct scheme *row;
    struct local_chain chain;
    struct shape shape;
    double opt[8]; // room for the options of any row
    float theta[DIM], state[4][DIM], own[CLIENTS][2][DIM];
};

static FILE *open_golden(struct problem *p)
{
    int n[6];
    FILE *f = fopen("tests/golden/schemes.txt", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "problem %d %d %d %d %d %d %lf", &n[0], &n[1], &n[2], &n[3], &n[4],
                            &n[5], &p->lr),
                     7);
    assert_memory_equal(n, ((int[]){CLIENTS, SAMPLED, DIM, SAMPLES, ROUNDS, STEPS}), sizeof n);
    for (int i = 0; i < CLIENTS; i++)
        for (int s = 0; s < SAMPLES; s++) {
            for (int k = 0; k < DIM; k++)
                assert_int_equal(fscanf(f, "%lf", &p->a[i][s][k]), 1);
            assert_int_equal(fscanf(f, "%lf", &p->b[i][s]), 1);
        }
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < SAMPLED; i++)
            assert_int_equal(fscanf(f, "%d", &p->turn[r][i]), 1);
    return f;
}

static void gradient(const struct problem *p, int client, const float *x, float *grad)
{
    double g[DIM] = {0};
    for (int s = 0; s < SAMPLES; s++) {
        double r = -p->b[client][s];
        for (int k = 0; k < DIM; k++)
            r += p->a[client][s][k] * (double)x[k];
        for (int k = 0; k < DIM; k++)
            g[k] += p->a[client][s][k] * r / SAMPLES;
    }
    for (int k = 0; k < DIM; k++)
        grad[k] = (float)g[k];
}

static bool has_turn(const struct played *s, int k)
{
    bool any = s->n_ranges == 0;
    for (int i = 0; i < s->n_ranges; i++)
        any |= s->range[i].from == (size_t)k;
    return any;
}

// Of "02,13" or "02x3,13x3" the coordinates of the round's turn, and how long each stays; "-" = all
// of them, always.
static void take_turn(struct played *s, const char *parts, uint32_t round)
{
    const char *times = strchr(parts, 'x');
    s->view.stay = times ? (uint32_t)(times[1] - '0') : 1;
    s->view.n_parts = 1;
    s->n_ranges = 0;
    for (const char *c = parts; *c; c++)
        s->view.n_parts += *c == ',';
    for (uint32_t turn = view_turn(&s->view, 0, round); turn > 0; turn -= *parts++ == ',')
        ;
    for (; *parts >= '0' && *parts < '0' + DIM; parts++)
        s->range[s->n_ranges++] =
            (struct shape_range){(size_t)(*parts - '0'), (size_t)(*parts - '0') + 1};
}

// A client's round: delta is its update, up what it sends beside it.
static void train(const struct problem *p, struct played *s, int client, uint32_t round,
                  float *delta, float *up)
{
    struct train_job job = {
        .client = (uint32_t)client, .steps = STEPS, .theta = s->theta, .delta = delta};
    for (int k = 0; k < s->row->client_vectors; k++)
        job.own[k] = s->own[client][k];
    for (int k = 0; k < s->row->down_vectors; k++)
        job.down[k] = s->state[k];
    job.up[0] = up;
    job.trained = s->n_ranges && !s->row->keeps ? s->range : NULL;
    job.n_trained = job.trained ? s->n_ranges : 0;
    job.moved = s->last[client] > 0 && !view_stays(&s->view, 0, s->last[client], round);
    s->last[client] = round;
    memcpy(delta, s->theta, sizeof s->theta);
    local_begin(&s->chain, 0, &job);
    for (int step = 0; step < STEPS; step++) {
        float grad[DIM];
        gradient(p, client, s->chain.n ? local_before(&s->chain, 0, step) : delta, grad);
        local_after(&s->chain, 0, step, grad);
        for (int k = 0; k < DIM; k++)
            delta[k] -= has_turn(s, k) || s->row->keeps ? (float)p->lr * grad[k] : 0;
    }
    local_end(&s->chain, 0, &job);
}

static void play_round(const struct problem *p, struct played *s, int round, double lr)
{
    float mean[DIM] = {0}, up_mean[DIM] = {0};
    const float *const ups[] = {up_mean};
    for (int i = 0; i < SAMPLED; i++) {
        float delta[DIM], up[DIM] = {0};
        train(p, s, p->turn[round][i], (uint32_t)round + 1, delta, up);
        for (int k = 0; k < DIM; k++) {
            mean[k] += delta[k] / SAMPLED;
            up_mean[k] += up[k] / SAMPLED;
        }
    }
    struct step step = {.theta = s->theta,
                        .delta = mean,
                        .up = ups,
                        .state = s->state[0],
                        .n = DIM,
                        .range = {0, DIM},
                        .lr = lr,
                        .arrived = SAMPLED,
                        .clients = CLIENTS};
    if (s->n_ranges == 0)
        s->row->commit(s->opt, &step);
    for (int i = 0; i < s->n_ranges; i++) {
        step.range = s->range[i];
        s->row->commit(s->opt, &step);
    }
    struct method m = {.scheme_opt = s->opt, .view = s->view};
    struct fed_env env = {.method = &m};
    struct global g = {.env = &env, .state = s->state[0], .n = DIM};
    if (s->row->after)
        s->row->after(&g, (uint32_t)round + 1);
}

static void play_open(struct played *s, const char *name, const char *options)
{
    struct err err = {""};
    static const struct optim_params optim = {0};
    *s = (struct played){.row = scheme_find(name), .view.row = view_table[0]};
    if (!s->row)
        fail_msg("no scheme %s", name);
    assert_true(s->row->option_bytes <= sizeof s->opt);
    assert_true(s->row->state_vectors <= 4 && s->row->client_vectors <= 2);
    opt_defaults(s->row->options, s->row->n_options, s->opt);
    if (strcmp(options, "-") != 0)
        assert_int_equal(opt_set_list(s->row->options, s->row->n_options, s->opt, options, &err),
                         0);
    shape_init(&s->shape);
    shape_add(&s->shape, "x.A", 1, DIM / 2, SHAPE_LORA_A);
    shape_add(&s->shape, "x.B", DIM / 2, 1, SHAPE_LORA_B);
    shape_seal(&s->shape);
    const struct local_setup setup = {.shape = &s->shape, .optim = &optim, .seed = 1};
    const struct local_use use = {s->row->local, s->opt};
    assert_int_equal(local_open(&s->chain, &setup, &use, s->row->local != NULL, 1, &err), 0);
    if (s->row->init)
        s->row->init(s->opt, s->state[0], DIM);
}

static void test_schemes_go_where_the_script_goes(void **state)
{
    (void)state;
    struct problem p;
    FILE *f = open_golden(&p);
    char name[32], options[96], parts[32];
    double lr, want, moved;
    int schemes = 0;
    for (; fscanf(f, " scheme %31s %95s %lf %31s", name, options, &lr, parts) == 4; schemes++) {
        struct played s;
        play_open(&s, name, options);
        for (int r = 0; r < ROUNDS; r++) {
            take_turn(&s, parts, (uint32_t)r + 1);
            play_round(&p, &s, r, lr);
            moved = 0;
            for (int k = 0; k < DIM; k++) {
                assert_int_equal(fscanf(f, "%lf", &want), 1);
                moved += fabs(want);
                if (fabs((double)s.theta[k] - want) > 2e-5)
                    fail_msg("%s:%s, version %d, x[%d]: %.6f, the script has %.6f", name, options,
                             r + 1, k, (double)s.theta[k], want);
            }
            assert_true(moved > 0);
        }
        local_close(&s.chain);
        shape_free(&s.shape);
    }
    assert_true(schemes >= 14 && feof(f));
    fclose(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_schemes_go_where_the_script_goes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
