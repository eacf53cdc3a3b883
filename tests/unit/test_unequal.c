// Clients of unequal rank: who has which, what each is sent and sends, and where the schemes for
// them go, against dense products in double that are made here of what the clients trained.
#include "codec/factors_own.h"
#include "fed/product.h"
#include "fed/ranks.h"

#include "federation.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

enum { CLIENTS = 8, SAMPLED = 4, STACK = 12 };

static struct federation fed;

// Deals.

static void test_ranks_are_read_or_refused(void **state)
{
    (void)state;
    struct ranks r;
    struct err err;
    assert_int_equal(ranks_parse("4:0.5,8:0.3,16:0.2", &r, &err), 0);
    assert_true(r.n == 3 && r.rank[0] == 4 && r.rank[2] == 16 && r.share[1] == 0.3);
    assert_int_equal(ranks_parse("8:1", &r, &err), 0);
    const char *const bad[] = {"8",           "8:",           "8:0.5",      "8:0.5,4:0.5",
                               "4:0.5,4:0.5", "0:1",          "4:-1,8:2",   "4:0.5,8:0.5,",
                               "4:0.5 8:0.5", "4:0.5,8:half", "4:nan,8:0.5"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        err.text[0] = '\0';
        assert_int_equal(ranks_parse(bad[i], &r, &err), -1);
        assert_non_null(strstr(err.text, "fed.ranks"));
    }
}

static void test_as_many_as_the_shares_say(void **state)
{
    (void)state;
    struct ranks r;
    struct err err;
    assert_int_equal(ranks_parse("2:0.5,4:0.25,8:0.25", &r, &err), 0);
    uint8_t *a = ranks_deal(&r, 100, 1, NULL), *b = ranks_deal(&r, 100, 2, NULL);
    int many[2][3] = {{0}}, moved = 0;
    for (int i = 0; i < 100; i++) {
        many[0][a[i]]++;
        many[1][b[i]]++;
        moved += a[i] != b[i];
    }
    assert_memory_equal(many[0], ((int[]){50, 25, 25}), sizeof many[0]);
    assert_memory_equal(many[1], many[0], sizeof many[0]);
    assert_true(moved > 0);
    mem_free(a);
    mem_free(b);
}

static void test_slow_devices_have_small_ranks(void **state)
{
    (void)state;
    struct ranks r;
    struct err err;
    struct client_params p;
    struct profile_model model;
    opt_defaults(client_options, client_option_count, &p);
    snprintf(p.profile, sizeof p.profile, "mix");
    assert_int_equal(profile_open(&model, &p, 3, &err), 0);
    assert_int_equal(ranks_parse("1:0.3,4:0.7", &r, &err), 0);
    uint8_t *own = ranks_deal(&r, 50, 3, &model);
    double fastest = 1e9, slowest = 0;
    int small = 0;
    for (uint32_t i = 0; i < 50; i++) {
        double slow = profile_device(&model, i).slow;
        small += own[i] == 0;
        if (own[i] == 0)
            fastest = slow < fastest ? slow : fastest;
        else
            slowest = slow > slowest ? slow : slowest;
    }
    assert_int_equal(small, 15);
    assert_true(fastest >= slowest);
    mem_free(own);
    profile_close(&model);
}

// Factors.

struct terms {
    size_t rows, cols, rank, n;
    float b[STACK][40 * 6], a[STACK][6 * 300], weight[STACK];
    const float *at_b[STACK], *at_a[STACK];
    double w[40 * 300];
};

static struct factor_sum terms_sum(struct terms *t)
{
    memset(t->w, 0, sizeof t->w);
    for (size_t k = 0; k < t->n; k++) {
        t->at_b[k] = t->b[k];
        t->at_a[k] = t->a[k];
        for (size_t i = 0; i < t->rows; i++)
            for (size_t r = 0; r < t->rank; r++)
                for (size_t j = 0; j < t->cols; j++)
                    t->w[i * t->cols + j] += (double)t->weight[k] *
                                             (double)t->b[k][i * t->rank + r] *
                                             (double)t->a[k][r * t->cols + j];
    }
    return (struct factor_sum){t->rows, t->cols, t->rank, t->n, t->at_b, t->at_a, t->weight};
}

// The golden problems of tests/golden/make_factors.py.
enum { G_ROWS = 5, G_COLS = 7, G_RANK = 2, G_TERMS = 3 };

static void read_block(FILE *f, const char *name, int n, float *x)
{
    char head[16];
    assert_int_equal(fscanf(f, "%15s", head), 1);
    assert_string_equal(head, name);
    for (int i = 0; i < n; i++)
        assert_int_equal(fscanf(f, "%f", &x[i]), 1);
}

static void test_products_are_those_of_the_script(void **state)
{
    (void)state;
    int size[4];
    double mu;
    float bs[G_TERMS][G_ROWS * G_RANK], as[G_TERMS][G_RANK * G_COLS], weight[G_TERMS];
    float singular[G_ROWS], want[G_ROWS * G_COLS], fit[G_ROWS * G_RANK], norm[G_TERMS];
    FILE *f = fopen("tests/golden/factors.txt", "r");
    assert_non_null(f);
    assert_int_equal(
        fscanf(f, "factors %d %d %d %d %lf", &size[0], &size[1], &size[2], &size[3], &mu), 5);
    assert_memory_equal(size, ((int[]){G_ROWS, G_COLS, G_RANK, G_TERMS}), sizeof size);
    for (int k = 0; k < G_TERMS; k++) {
        read_block(f, "weight", 1, &weight[k]);
        read_block(f, "b", G_ROWS * G_RANK, bs[k]);
        read_block(f, "a", G_RANK * G_COLS, as[k]);
    }
    read_block(f, "singular", G_ROWS, singular);
    read_block(f, "nearest", G_ROWS * G_COLS, want);
    read_block(f, "fit", G_ROWS * G_RANK, fit);
    read_block(f, "norm", G_TERMS, norm);
    fclose(f);
    const float *const b[] = {bs[0], bs[1], bs[2]}, *const a[] = {as[0], as[1], as[2]};
    const struct factor_sum sum = {G_ROWS, G_COLS, G_RANK, G_TERMS, b, a, weight};
    float to_b[G_ROWS * G_RANK] = {0}, to_a[G_RANK * G_COLS] = {0};
    struct factors *room = factors_open(G_RANK, G_TERMS, G_COLS);
    factors_nearest(room, &sum, to_b, to_a);
    for (int i = 0; i < G_ROWS; i++)
        for (int j = 0; j < G_COLS; j++) {
            float got = 0;
            for (int r = 0; r < G_RANK; r++)
                got += to_b[i * G_RANK + r] * to_a[r * G_COLS + j];
            assert_true(fabsf(got - want[i * G_COLS + j]) < 1e-5f * singular[0]);
        }
    for (int r = 0; r < G_RANK; r++) { // columns of b are as long as the singular values
        float sq = 0;
        for (int i = 0; i < G_ROWS; i++)
            sq += to_b[i * G_RANK + r] * to_b[i * G_RANK + r];
        assert_true(fabsf(sqrtf(sq) - singular[r]) < 1e-5f * singular[0]);
    }
    memset(to_b, 0, sizeof to_b);
    memset(to_a, 0, sizeof to_a);
    for (int k = 0; k < G_TERMS; k++) {
        for (int i = 0; i < G_ROWS * G_RANK; i++)
            to_b[i] += weight[k] * bs[k][i];
        for (int i = 0; i < G_RANK * G_COLS; i++)
            to_a[i] += weight[k] * as[k][i];
        double own = factors_norm(bs[k], as[k], G_ROWS, G_RANK, G_COLS);
        assert_true(fabs(own - (double)norm[k]) < 1e-5 * own);
    }
    factors_fit(room, &sum, mu, to_b, to_a);
    for (int i = 0; i < G_ROWS * G_RANK; i++)
        assert_true(fabsf(to_b[i] - fit[i]) < 1e-5f);
    factors_close(room);
}

// Clients' factors: a common start, and each its own way from it.
static void draw_terms(struct terms *t, size_t n, double apart)
{
    struct rng r = rng_stream(7, RNG_TEST, (uint32_t)n, 0, 0);
    *t = (struct terms){.rows = 40, .cols = 300, .rank = 6, .n = n};
    for (size_t k = 0; k < n; k++) {
        t->weight[k] = (float)(1 + k) / (float)(n * (n + 1) / 2);
        for (size_t i = 0; i < ARRAY_LEN(t->b[0]); i++)
            t->b[k][i] = (float)(rng_normal(&r) + (k ? (double)t->b[0][i] / apart : 0));
        for (size_t i = 0; i < ARRAY_LEN(t->a[0]); i++)
            t->a[k][i] = k ? t->a[0][i] + (float)(apart * rng_normal(&r)) : (float)rng_normal(&r);
    }
}

// The largest singular value of x (rows, cols), by powers.
static double largest(const double *x, size_t rows, size_t cols)
{
    double v[300], u[40], norm = 0;
    for (size_t j = 0; j < cols; j++)
        v[j] = 1 + 0.01 * (double)(j % 7);
    for (int round = 0; round < 400; round++) {
        double sq = 0;
        for (size_t i = 0; i < rows; i++) {
            u[i] = 0;
            for (size_t j = 0; j < cols; j++)
                u[i] += x[i * cols + j] * v[j];
        }
        memset(v, 0, sizeof v);
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < cols; j++)
                v[j] += x[i * cols + j] * u[i];
        for (size_t j = 0; j < cols; j++)
            sq += v[j] * v[j];
        norm = sqrt(sqrt(sq));
        for (size_t j = 0; j < cols && sq > 0; j++)
            v[j] /= sqrt(sq);
    }
    return norm;
}

// b a is W cut off: a's rows are orthonormal, b's columns orthogonal and no longer one than the one
// before, b = W a^T, and nothing that is left of W is longer than the last of them.
static void check_nearest(const double *w, const float *b, const float *a, size_t rows, size_t rank,
                          size_t cols, double tolerance)
{
    static double rest[40 * 300];
    double last = INFINITY, first = 0;
    memcpy(rest, w, rows * cols * sizeof *rest);
    for (size_t p = 0; p < rank; p++) {
        double sq = 0;
        for (size_t q = 0; q <= p; q++) {
            double aa = 0, bb = 0;
            for (size_t j = 0; j < cols; j++)
                aa += (double)a[p * cols + j] * (double)a[q * cols + j];
            for (size_t i = 0; i < rows; i++)
                bb += (double)b[i * rank + p] * (double)b[i * rank + q];
            assert_true(fabs(aa - (p == q)) < tolerance);
            sq = bb;
            first = p == 0 ? sqrt(bb) : first;
            assert_true(p == q || fabs(bb) < tolerance * first * first);
        }
        assert_true(sqrt(sq) <= last * (1 + tolerance));
        last = sqrt(sq);
        for (size_t i = 0; i < rows; i++) {
            double wa = 0;
            for (size_t j = 0; j < cols; j++) {
                wa += w[i * cols + j] * (double)a[p * cols + j];
                rest[i * cols + j] -= (double)b[i * rank + p] * (double)a[p * cols + j];
            }
            assert_true(fabs(wa - (double)b[i * rank + p]) < tolerance * first);
        }
    }
    assert_true(largest(rest, rows, cols) <= last + 10 * tolerance * first);
}

static void test_the_nearest_product_is_the_truncated_svd(void **state)
{
    (void)state;
    static struct terms t;
    static float b[40 * 6], a[6 * 300];
    const size_t n[] = {1, 2, 5, STACK};
    for (size_t i = 0; i < ARRAY_LEN(n); i++)
        for (int apart = 0; apart < 2; apart++) {
            draw_terms(&t, n[i], apart ? 0.5 : 0.01);
            struct factor_sum s = terms_sum(&t);
            struct factors *f = factors_open(6, STACK, 300);
            factors_nearest(f, &s, b, a);
            check_nearest(t.w, b, a, 40, 6, 300, 1e-4);
            factors_close(f);
        }
    assert_int_equal(mem_now(MEM_SERVER), 0);
}

// Of terms much alike one step is enough, of others it is not; where it is, both ways come to the
// same product.
static void test_one_step_is_taken_where_it_is_enough(void **state)
{
    (void)state;
    static struct terms t;
    static float b[2][40 * 6], a[2][6 * 300];
    for (int apart = 0; apart < 2; apart++) {
        draw_terms(&t, 5, apart ? 0.5 : 0.01);
        struct factor_sum s = terms_sum(&t);
        struct factors *f = factors_open(6, 5, 300);
        memset(b, 0, sizeof b);
        memset(a, 0, sizeof a);
        assert_true(factors_by_steps(f, &s, b[0], a[0]) == !apart);
        if (apart)
            assert_true(b[0][0] == 0 && a[0][0] == 0);
        else
            check_nearest(t.w, b[0], a[0], 40, 6, 300, 1e-5);
        factors_by_grams(f, &s, b[1], a[1]);
        check_nearest(t.w, b[1], a[1], 40, 6, 300, 1e-4);
        double most = largest(t.w, 40, 300);
        for (size_t i = 0; i < 40 * 300 && !apart; i++) {
            double by[2] = {0};
            for (size_t w = 0; w < 2; w++)
                for (size_t r = 0; r < 6; r++)
                    by[w] += (double)b[w][i / 300 * 6 + r] * (double)a[w][r * 300 + i % 300];
            assert_true(fabs(by[0] - by[1]) < 1e-5 * most);
        }
        factors_close(f);
    }
}

// [2 0] x [1 0 0] + [0 3] x [0 1 0], halves of it: singular values 1.5 and 1.
static void test_a_case_by_hand(void **state)
{
    (void)state;
    const float b0[] = {2, 0, 0, 0}, a0[] = {1, 0, 0, 0, 0, 0}, weight[] = {0.5f, 0.5f};
    const float b1[] = {0, 0, 3, 0}, a1[] = {0, 1, 0, 0, 0, 0};
    const float *const b[] = {b0, b1}, *const a[] = {a0, a1};
    struct factor_sum s = {2, 3, 2, 2, b, a, weight};
    struct factors *f = factors_open(2, 2, 3);
    float to_b[4] = {0}, to_a[6] = {0};
    factors_nearest(f, &s, to_b, to_a);
    assert_true(fabsf(fabsf(to_b[2]) - 1.5f) < 1e-6f && fabsf(to_b[0]) < 1e-6f);
    assert_true(fabsf(fabsf(to_b[1]) - 1) < 1e-6f && fabsf(to_b[3]) < 1e-6f);
    assert_true(fabsf(to_b[2] * to_a[1] - 1.5f) < 1e-6f);
    assert_true(fabsf(to_b[1] * to_a[3] - 1) < 1e-6f);
    // One term alone has one: the other row of A stays as it was, and its column of B is nothing.
    s.n = 1;
    const float one[] = {1};
    s.weight = one;
    memcpy(to_a, ((float[]){7, 8, 9, 4, 5, 6}), sizeof to_a);
    factors_nearest(f, &s, to_b, to_a);
    assert_true(fabsf(to_b[0] * to_a[0] - 2) < 1e-6f && to_b[1] == 0 && to_b[3] == 0);
    assert_true(to_a[3] == 4 && to_a[4] == 5 && to_a[5] == 6);
    assert_true(fabs(factors_norm(b1, a1, 2, 2, 3) - 3) < 1e-9);
    factors_close(f);
}

// Where d is the least square, (W - (b + d) a) a^T = nu d.
static void test_the_fit_is_where_its_gradient_is_zero(void **state)
{
    (void)state;
    static struct terms t;
    static float b[40 * 6], was[40 * 6], a[6 * 300];
    const double mu = 0.3;
    double trace = 0;
    draw_terms(&t, 3, 0.5);
    struct factor_sum s = terms_sum(&t);
    struct factors *f = factors_open(6, 3, 300);
    memcpy(a, t.a[1], sizeof a);
    memcpy(b, t.b[2], sizeof b);
    memcpy(was, b, sizeof b);
    factors_fit(f, &s, mu, b, a);
    for (size_t i = 0; i < ARRAY_LEN(a); i++)
        trace += (double)a[i] * (double)a[i];
    for (size_t i = 0; i < 40; i++)
        for (size_t r = 0; r < 6; r++) {
            double slope = 0;
            for (size_t j = 0; j < 300; j++) {
                double rest = t.w[i * 300 + j];
                for (size_t q = 0; q < 6; q++)
                    rest -= (double)b[i * 6 + q] * (double)a[q * 300 + j];
                slope += rest * (double)a[r * 300 + j];
            }
            double d = (double)b[i * 6 + r] - (double)was[i * 6 + r];
            assert_true(fabs(slope - mu * trace / 6 * d) < 1e-3);
        }
    factors_close(f);
}

// Whole rounds.

struct trained { // of the last round
    int n;
    uint32_t client[SAMPLED];
    float *adapter[SAMPLED]; // zeros where it has nothing
};

static struct trained trained;
static const char *rest = "fed.ranks_rest=cut";

static void watch(void *arg, uint32_t version, uint32_t client, const struct shape *s,
                  const float *x, const float *adapter)
{
    const struct view_inst *view = &fed.method.view;
    const struct view_part *part = &view->part[view_turn(view, client, version)];
    size_t n = fed.work.shape.n_values;
    (void)arg;
    if (version < (uint32_t)fed.cfg.fed.rounds)
        return;
    assert_int_equal(s->n_values, part->shape.n_values);
    float *full = mem_alloc(MEM_DATA, n * sizeof *full);
    memcpy(full, adapter, n * sizeof *full);
    for (int r = 0; r < part->n_ranges; r++)
        for (size_t i = part->range[r].from; i < part->range[r].to; i++)
            full[i] += *x++;
    trained.client[trained.n] = client;
    trained.adapter[trained.n++] = full;
}

static void begin(const char *method, const char *more, const char *rounds)
{
    const char *const keys[] = {"task.name=synth-qa",
                                "task.test=4",
                                "model.path=builtin",
                                "model.lora_rank=4",
                                "model.lora_targets=q,v",
                                "fed.clients=8",
                                "fed.clients_per_round=4",
                                "fed.local_steps=2",
                                "fed.server_lr=0.75",
                                "fed.eval_every=0",
                                "fed.weights=equal",
                                "optim.lr=0.02",
                                "dev.kind=cpu",
                                "net.sim_workers=3",
                                "fed.ranks=1:0.25,2:0.5,4:0.25",
                                rest,
                                method,
                                more,
                                rounds};
    struct err err = {""};
    memset(&trained, 0, sizeof trained);
    federation_update = watch;
    if (federation_open(&fed, ARRAY_LEN(keys), keys, &err))
        fail_msg("%s", err.text);
}

static void end(void)
{
    for (int i = 0; i < trained.n; i++)
        mem_free(trained.adapter[i]);
    trained.n = 0;
    federation_update = NULL;
    federation_close(&fed);
    assert_true(mem_now(MEM_SERVER) == 0 && mem_now(MEM_NET) == 0);
}

static float *version_after(const char *method, const char *rounds)
{
    begin(method, "net.sim_workers=1", rounds);
    federation_run(&fed);
    float *copy = mem_alloc(MEM_DATA, fed.work.shape.n_values * sizeof *copy);
    memcpy(copy, fed.loop.server->global.theta, fed.work.shape.n_values * sizeof *copy);
    end();
    return copy;
}

// Theta after two rounds, what it was before the second, and what was trained in between.
struct step_seen {
    struct products pairs;
    float *was;
    const float *now;
    double weight[SAMPLED], all; // of the clients, by fed.weights = equal
};

static void see(struct step_seen *s, const char *method)
{
    struct err err;
    s->was = version_after(method, "fed.rounds=1");
    begin(method, "net.sim_workers=3", "fed.rounds=2");
    federation_run(&fed);
    assert_true(trained.n == SAMPLED && fed.round[fed.n_rounds - 1].arrived == SAMPLED);
    s->now = fed.loop.server->global.theta;
    assert_int_equal(products_open(&s->pairs, &fed.work.shape, &err), 0);
}

static void unsee(struct step_seen *s)
{
    mem_free(s->was);
    products_close(&s->pairs);
    end();
}

// Norms of the clients' products, as hetlora weighs them; or ones.
static void weigh(struct step_seen *s, bool by_norm)
{
    s->all = 0;
    for (int c = 0; c < SAMPLED; c++) {
        double sq = 0;
        for (uint32_t p = 0; p < s->pairs.n_pairs && by_norm; p++) {
            const struct product_pair *q = &s->pairs.pair[p];
            for (size_t i = 0; i < q->rows; i++)
                for (size_t j = 0; j < q->cols; j++) {
                    double w = 0;
                    for (size_t r = 0; r < q->rank; r++)
                        w += (double)trained.adapter[c][q->b + i * q->rank + r] *
                             (double)trained.adapter[c][q->a + r * q->cols + j];
                    sq += w * w;
                }
        }
        s->weight[c] = by_norm ? sqrt(sq) : 1;
        s->all += s->weight[c];
    }
}

static bool has(uint32_t client, size_t i)
{
    const struct view_part *p = &fed.method.view.part[fed.method.view.own[client]];
    for (int r = 0; r < p->n_ranges; r++)
        if (i >= p->range[r].from && i < p->range[r].to)
            return true;
    return false;
}

// theta += lr (mean - theta) with zeros or nobody where a client has nothing.
static void check_means(const char *method, bool by_norm, bool zeros)
{
    struct step_seen s;
    const bool frozen = strstr(rest, "frozen") != NULL;
    int somebody = 0;
    see(&s, method);
    weigh(&s, by_norm);
    for (size_t i = 0; i < fed.work.shape.n_values; i++) {
        double sum = 0, weight = 0, want = (double)s.was[i];
        for (int c = 0; c < SAMPLED; c++)
            if (has(trained.client[c], i)) {
                sum += s.weight[c] * (double)trained.adapter[c][i];
                weight += s.weight[c];
            } else {
                assert_true(trained.adapter[c][i] == (frozen ? s.was[i] : 0));
            }
        if (weight > 0 && zeros && frozen)
            sum += (s.all - weight) * want;
        if (weight > 0)
            want += 0.75 * (sum / (zeros ? s.all : weight) - want);
        somebody += weight > 0 && weight < s.all;
        if (fabs((double)s.now[i] - want) > 1e-5)
            fail_msg("%s: value %zu is %g, expected %g", method, i, (double)s.now[i], want);
    }
    assert_true(somebody > 0);
    unsee(&s);
}

static void test_means_are_over_who_has_it(void **state)
{
    (void)state;
    check_means("fed.method=fedavg/fp32", false, false);
    check_means("fed.method=hetlora:pad=own/fp32", true, false);
    check_means("fed.method=hetlora/fp32", true, true);
    rest = "fed.ranks_rest=frozen";
    check_means("fed.method=fedavg/fp32", false, false);
    check_means("fed.method=hetlora/fp32", true, true);
    rest = "fed.ranks_rest=cut";
}

// What a term of rank one is worth, and its place: sorted from the version before, whose order is
// the server's, by |theta mean update|.
static void test_haflq_puts_first_what_matters(void **state)
{
    (void)state;
    struct step_seen s;
    int moved = 0;
    rest = "fed.ranks_rest=frozen";
    see(&s, "fed.method=haflq:smooth=0/fp32");
    const float *worth = fed.loop.server->global.state;
    for (uint32_t p = 0; p < s.pairs.n_pairs; p++) {
        const struct product_pair *q = &s.pairs.pair[p];
        double last = INFINITY;
        bool taken[4] = {false};
        assert_true(q->rank == 4);
        for (uint32_t k = 0; k < 4; k++) {
            double sum = 0;
            uint32_t from = 0;
            for (size_t j = 0; j < q->cols; j++)
                sum += (double)worth[q->a + k * q->cols + j];
            for (size_t i = 0; i < q->rows; i++)
                sum += (double)worth[q->b + i * 4 + k];
            assert_true(sum <= last * (1 + 1e-9) && sum > 0);
            last = sum;
            for (; from < 4; from++) { // which of the terms before: the mean of who has it, moved
                double far = 0, value = 0, size = 0;
                for (size_t j = 0; j < q->cols && !taken[from]; j++) {
                    const size_t at = q->a + from * q->cols + j;
                    double mean = 0, n = 0;
                    for (int c = 0; c < SAMPLED; c++)
                        if (has(trained.client[c], at)) {
                            mean += (double)trained.adapter[c][at] - (double)s.was[at];
                            n++;
                        }
                    mean = n > 0 ? mean / n : 0;
                    far = fmax(far, fabs((double)s.was[at] + 0.75 * mean -
                                         (double)s.now[q->a + k * q->cols + j]));
                    value += fabs((double)s.was[at] * mean);
                    size += (double)worth[q->a + k * q->cols + j];
                }
                if (!taken[from] && far < 1e-5 && fabs(value - size) < 1e-3 * size)
                    break;
            }
            assert_true(from < 4);
            taken[from] = true;
            moved += from != k;
        }
    }
    assert_true(moved > 0);
    unsee(&s);
    rest = "fed.ranks_rest=cut";
}

// Five rounds of the script's server: what nobody trained keeps its sensitivity, and equal worth
// its place.
static void test_haflq_goes_where_the_script_goes(void **state)
{
    (void)state;
    enum { RANK = 4, A = RANK * G_COLS, B = G_ROWS * RANK, N = A + B };
    int rank, rounds, moved = 0;
    double smooth, lr;
    float theta[N], mean[N], cover[N], sens[N] = {0}, want[N];
    char line[256];
    struct err err;
    FILE *f = fopen("tests/golden/factors.txt", "r");
    assert_non_null(f);
    do
        assert_non_null(fgets(line, sizeof line, f));
    while (sscanf(line, "haflq %d %d %lf %lf", &rank, &rounds, &smooth, &lr) != 4);
    assert_int_equal(rank, RANK);
    read_block(f, "b", B, theta + A);
    read_block(f, "a", A, theta);

    struct workload work = {0};
    shape_init(&work.shape);
    shape_add(&work.shape, "w.A", RANK, G_COLS, SHAPE_LORA_A);
    shape_add(&work.shape, "w.B", G_ROWS, RANK, SHAPE_LORA_B);
    shape_seal(&work.shape);
    struct method method = {.scheme = &scheme_haflq, .scheme_opt = &smooth};
    struct fed_env env = {.work = &work, .method = &method};
    struct global g = {.env = &env,
                       .n = N,
                       .n_model = N,
                       .theta = theta,
                       .state = sens,
                       .mean = {mean},
                       .cover = cover};
    assert_int_equal(scheme_haflq.open(&g, &err), 0);
    for (int t = 0; t < rounds; t++) {
        float terms, order[RANK];
        read_block(f, "trained", 1, &terms);
        read_block(f, "db", B, mean + A);
        read_block(f, "da", A, mean);
        read_block(f, "order", RANK, order);
        read_block(f, "b", B, want + A);
        read_block(f, "a", A, want);
        for (int i = 0; i < N; i++) // of the terms, as many as were trained
            cover[i] = i < A ? i / G_COLS < (int)terms : (i - A) % RANK < (int)terms;
        assert_true(scheme_haflq.mean(&g, lr));
        scheme_haflq.commit(
            &smooth,
            &(struct step){
                .theta = theta, .delta = mean, .state = sens, .n = N, .range = {0, N}, .lr = lr});
        scheme_haflq.after(&g, (uint32_t)t + 1);
        for (int i = 0; i < N; i++)
            if (fabsf(theta[i] - want[i]) > 1e-5f)
                fail_msg("round %d: value %d is %g, expected %g", t, i, (double)theta[i],
                         (double)want[i]);
        for (int k = 0; k < RANK; k++)
            moved += order[k] != (float)k;
    }
    assert_true(moved > 0);
    fclose(f);
    scheme_haflq.close(&g);
    shape_free(&work.shape);
}

// Clients of one rank have all terms: in another order they learn the same, to rounding.
static void test_terms_in_another_order_are_the_same_model(void **state)
{
    (void)state;
    const char *const of[] = {"fed.method=haflq/raw", "fed.method=fedavg/raw"};
    double loss[2], norm[2], average[2];
    for (int k = 0; k < 2; k++) {
        rest = "fed.average=ema";
        begin(of[k], "fed.ranks=", "fed.rounds=3");
        federation_run(&fed);
        average[k] =
            quant_sum_sq(global_evaluated(&fed.loop.server->global), fed.work.shape.n_values);
        const float *x = fed.loop.server->global.theta;
        norm[k] = quant_sum_sq(x, fed.work.shape.n_values);
        loss[k] = fed.round[fed.n_rounds - 1].train_loss;
        end();
    }
    rest = "fed.ranks_rest=cut";
    assert_true(fabs(norm[0] - norm[1]) < 1e-4 * norm[1]);
    assert_true(fabs(average[0] - average[1]) < 1e-4 * average[1]);
    assert_true(fabs(average[1] - norm[1]) > 1e-3 * norm[1]);
    assert_true(fabs(loss[0] - loss[1]) < 1e-4 * loss[1]);
}

// Frozen, a version travels whole, and the update is still the rank's.
static void test_a_frozen_rest_travels_down(void **state)
{
    (void)state;
    rest = "fed.ranks_rest=frozen";
    begin("fed.method=haflq/raw", "net.sim_workers=2", "fed.rounds=3");
    federation_run(&fed);
    const size_t whole = fed.work.shape.n_values;
    for (int i = 0; i < fed.n_messages; i++) {
        const struct rec_message *m = &fed.message[i];
        size_t rank = (size_t[]){1, 2, 4}[fed.method.view.own[m->client]];
        assert_int_equal(m->frame_bytes - FRAME_HEADER_BYTES, 4 * whole * rank / 4);
    }
    for (int i = 0; i < fed.n_rounds; i++)
        assert_true(fed.round[i].version < 1 ||
                    fed.round[i].downlink_bytes ==
                        SAMPLED * (FRAME_HEADER_BYTES + 4 * (int64_t)whole));
    end();
    rest = "fed.ranks_rest=cut";
}

// W = (1 - lr) B A of the version before + lr times the clients' mean product.
static void dense(const struct step_seen *s, const struct product_pair *q, double *w)
{
    memset(w, 0, (size_t)q->rows * q->cols * sizeof *w);
    for (int c = -1; c < SAMPLED; c++) {
        const float *x = c < 0 ? s->was : trained.adapter[c];
        double weight = c < 0 ? 0.25 : 0.75 / SAMPLED;
        for (size_t i = 0; i < q->rows; i++)
            for (size_t r = 0; r < q->rank; r++)
                for (size_t j = 0; j < q->cols; j++)
                    w[i * q->cols + j] += weight * (double)x[q->b + i * q->rank + r] *
                                          (double)x[q->a + r * q->cols + j];
    }
}

static void test_flexlora_deals_out_the_mean_product(void **state)
{
    (void)state;
    struct step_seen s;
    see(&s, "fed.method=flexlora/fp32");
    for (uint32_t p = 0; p < s.pairs.n_pairs; p++) {
        const struct product_pair *q = &s.pairs.pair[p];
        static double w[40 * 300], square[300 * 300];
        assert_true(q->rows * q->cols <= ARRAY_LEN(square));
        dense(&s, q, square);
        if (q->rows > 40) { // check_nearest has room for so many: the first of them
            double first = 0;
            for (size_t i = 0; i < q->rows; i++)
                for (size_t r = 0; r < q->rank; r++) {
                    double wa = 0;
                    for (size_t j = 0; j < q->cols; j++)
                        wa += square[i * q->cols + j] * (double)s.now[q->a + r * q->cols + j];
                    first += fabs(wa);
                    assert_true(fabs(wa - (double)s.now[q->b + i * q->rank + r]) < 1e-5);
                }
            assert_true(first > 0);
        } else {
            memcpy(w, square, (size_t)q->rows * q->cols * sizeof *w);
            check_nearest(w, s.now + q->b, s.now + q->a, q->rows, q->rank, q->cols, 1e-4);
        }
    }
    unsee(&s);
}

static void test_lorafair_moves_b_to_the_mean_product(void **state)
{
    (void)state;
    double far[2]; // from the mean product, without and with the correction
    for (int k = 0; k < 2; k++) {
        struct step_seen s;
        see(&s, k ? "fed.method=lorafair:mu=1e-6/fp32" : "fed.method=lorafair:mu=1e6/fp32");
        far[k] = 0;
        for (uint32_t p = 0; p < s.pairs.n_pairs; p++) {
            const struct product_pair *q = &s.pairs.pair[p];
            static double w[300 * 300];
            dense(&s, q, w);
            for (size_t i = 0; i < q->rows; i++)
                for (size_t j = 0; j < q->cols; j++) {
                    for (size_t r = 0; r < q->rank; r++)
                        w[i * q->cols + j] -= (double)s.now[q->b + i * q->rank + r] *
                                              (double)s.now[q->a + r * q->cols + j];
                    far[k] += w[i * q->cols + j] * w[i * q->cols + j];
                }
        }
        unsee(&s);
    }
    assert_true(far[1] < 0.95 * far[0]);
}

static void test_bytes_are_those_of_the_rank(void **state)
{
    (void)state;
    begin("fed.method=fedavg/raw", "net.sim_workers=2", "fed.rounds=3");
    federation_run(&fed);
    size_t whole = fed.work.shape.n_values;
    int64_t up[4] = {0}, down[4] = {0};
    int seen = 0;
    for (int i = 0; i < fed.n_messages; i++) {
        const struct rec_message *m = &fed.message[i];
        size_t rank = (size_t[]){1, 2, 4}[fed.method.view.own[m->client]];
        assert_int_equal(m->frame_bytes - FRAME_HEADER_BYTES, 4 * whole * rank / 4);
        up[m->version] += m->frame_bytes;
        down[m->version] += FRAME_HEADER_BYTES + (int64_t)(4 * whole * rank / 4);
        seen |= 1 << rank;
    }
    for (int i = 0; i < fed.n_rounds; i++) {
        if (fed.round[i].version < 1)
            continue;
        assert_true(fed.round[i].uplink_bytes == up[fed.round[i].version]);
        assert_true(fed.round[i].downlink_bytes == down[fed.round[i].version]);
    }
    assert_int_equal(seen, 1 << 1 | 1 << 2 | 1 << 4);
    end();
}

static const char *const methods[] = {"fed.method=fedavg/topk:ratio=0.2+ef",
                                      "fed.method=hetlora/int:bits=8",
                                      "fed.method=flexlora/fp16",
                                      "fed.method=lorafair/fstq",
                                      "fed.method=fedavgm/qsgd",
                                      "fed.method=fedprox:mu=1/fp32",
                                      "fed.method=haflq/fstq:budget=0.5"};

static void test_any_workers_come_to_the_same(void **state)
{
    (void)state;
    for (size_t m = 0; m < ARRAY_LEN(methods); m++) {
        uint64_t hash[2];
        rest = strstr(methods[m], "haflq") ? "fed.ranks_rest=frozen" : "fed.ranks_rest=cut";
        for (int k = 0; k < 2; k++) {
            begin(methods[m], k ? "net.sim_workers=1" : "net.sim_workers=4", "fed.rounds=3");
            federation_run(&fed);
            assert_true(server_done(fed.loop.server) && loop_clean(&fed.loop));
            assert_true(fed.round[fed.n_rounds - 1].arrived == SAMPLED);
            hash[k] = fed.round[fed.n_rounds - 1].adapter_xxh3;
            end();
        }
        assert_true(hash[0] == hash[1]);
    }
    rest = "fed.ranks_rest=cut";
}

// Frames are lost, damaged, doubled and late on their way: rounds go on with what came, and nothing
// is taken for what it is not.
static void test_faults_lose_updates_and_nothing_else(void **state)
{
    (void)state;
    const char *const faults[] = {"net.sim_drop=0.1", "net.sim_corrupt=0.2", "net.sim_reorder=0.5"};
    static const size_t of[] = {1, 2, 3, 6};
    for (size_t i = 0; i < ARRAY_LEN(faults); i++)
        for (size_t m = 0; m < ARRAY_LEN(of); m++) {
            int taken = 0;
            begin(methods[of[m]], faults[i], "fed.rounds=5");
            federation_run(&fed);
            assert_true(server_done(fed.loop.server));
            for (int k = 0; k < fed.n_messages; k++) {
                const struct rec_message *r = &fed.message[k];
                taken += r->status == MESSAGE_OK;
                assert_true(r->status != MESSAGE_OK || r->weight > 0);
            }
            assert_true(taken > 5 && (i == 2 || taken < 5 * SAMPLED));
            assert_true(global_finite(fed.loop.server->global.theta, fed.work.shape.n_values));
            end();
        }
}

static void test_a_part_of_no_rank_is_refused(void **state)
{
    (void)state;
    begin("fed.method=fedavg/fp32", "net.sim_workers=1", "fed.rounds=2");
    federation_run(&fed);
    struct clients *c = &fed.loop.worker[1]->clients;
    size_t n = fed.work.shape.n_values;
    uint8_t *bytes = mem_alloc(MEM_DATA, 4 * n + 8);
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    for (int i = 0; i < 2000; i++) {
        struct frame f = {.version = 3, .payload_bytes = rng_below(&r, (uint32_t)(4 * n + 8))};
        bool rank = f.payload_bytes == n || f.payload_bytes == 2 * n || f.payload_bytes == 4 * n;
        assert_true(clients_take_model(c, &f, bytes) == rank);
    }
    for (size_t p = 0; p < 3; p++) { // 1, 2 and 4 of 4
        struct frame f = {.version = 3, .payload_bytes = n << p};
        assert_true(clients_take_model(c, &f, bytes));
    }
    mem_free(bytes);
    end();
}

// One rank for all is no rank at all.
static void test_equal_ranks_change_nothing(void **state)
{
    (void)state;
    const char *const ranks[] = {"fed.ranks=4:1", "fed.ranks="};
    const char *const of[] = {"fed.method=fedavg/fstq", "fed.method=hetlora/fp32",
                              "fed.method=flexlora/fp32"};
    for (size_t m = 0; m < ARRAY_LEN(of); m++) {
        uint64_t hash[2];
        for (int k = 0; k < 2; k++) {
            begin(of[m], ranks[k], "fed.rounds=3");
            federation_run(&fed);
            hash[k] = fed.round[fed.n_rounds - 1].adapter_xxh3;
            end();
        }
        assert_true(hash[0] == hash[1]);
    }
}

static void test_what_does_not_go_together_is_refused(void **state)
{
    (void)state;
    const char *const bad[][3] = {
        {"fed.method=scaffold/fp32", "fed.sum=order", "one rank"},
        {"fed.method=fedex/fp32", "fed.sum=order", "one rank"},
        {"fed.method=fedbuff/fp32", "fed.sum=order", "one rank"},
        {"fed.method=fednova/fp32", "fed.sum=order", "different parts"},
        {"fed.method=fedavg/seg@fp32", "fed.sum=order", "leave out view seg"},
        {"fed.method=fedavg/signsgd", "fed.sum=order", "messages of one size"},
        {"fed.method=fedavg/fp32", "fed.sum=exact", "fed.sum"},
        {"fed.method=fedavg/fp32", "fed.downlink=fp16", "fed.downlink"},
        {"fed.method=fedavg/fp32", "fed.ranks=2:0.5,8:0.5", "lora_rank = 8"},
        {"fed.method=fedavg/fp32", "task.name=quadratic", "low-rank adapter"},
        {"fed.method=hetlora/B@fp32", "fed.ranks=", "takes no view"},
        {"fed.method=haflq/B@fp32", "fed.ranks=", "takes no view"},
        {"fed.method=haflq/topk+ef", "fed.sum=order", "without state"},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        const char *const keys[] = {"task.name=synth-qa",
                                    "model.path=builtin",
                                    "model.lora_rank=4",
                                    "fed.clients=8",
                                    "fed.clients_per_round=4",
                                    "task.test=4",
                                    "fed.ranks=2:0.5,4:0.5",
                                    "optim.kind=sgd",
                                    bad[i][0],
                                    bad[i][1]};
        struct err err = {""};
        assert_int_equal(federation_open(&fed, ARRAY_LEN(keys), keys, &err), -1);
        if (!strstr(err.text, bad[i][2]))
            fail_msg("%s, %s: '%s' does not say '%s'", bad[i][0], bad[i][1], err.text, bad[i][2]);
        federation_close(&fed);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_are_read_or_refused),
        cmocka_unit_test(test_as_many_as_the_shares_say),
        cmocka_unit_test(test_slow_devices_have_small_ranks),
        cmocka_unit_test(test_the_nearest_product_is_the_truncated_svd),
        cmocka_unit_test(test_one_step_is_taken_where_it_is_enough),
        cmocka_unit_test(test_products_are_those_of_the_script),
        cmocka_unit_test(test_a_case_by_hand),
        cmocka_unit_test(test_the_fit_is_where_its_gradient_is_zero),
        cmocka_unit_test(test_means_are_over_who_has_it),
        cmocka_unit_test(test_haflq_puts_first_what_matters),
        cmocka_unit_test(test_haflq_goes_where_the_script_goes),
        cmocka_unit_test(test_terms_in_another_order_are_the_same_model),
        cmocka_unit_test(test_a_frozen_rest_travels_down),
        cmocka_unit_test(test_flexlora_deals_out_the_mean_product),
        cmocka_unit_test(test_lorafair_moves_b_to_the_mean_product),
        cmocka_unit_test(test_bytes_are_those_of_the_rank),
        cmocka_unit_test(test_any_workers_come_to_the_same),
        cmocka_unit_test(test_faults_lose_updates_and_nothing_else),
        cmocka_unit_test(test_a_part_of_no_rank_is_refused),
        cmocka_unit_test(test_equal_ranks_change_nothing),
        cmocka_unit_test(test_what_does_not_go_together_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
