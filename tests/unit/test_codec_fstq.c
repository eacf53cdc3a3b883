// Fed-FSTQ's allocation and quantiser against hand-worked cases, and its budgets over random
// inputs.
#include "codec/bitalloc.h"
#include "codec_cases.h"

static const struct codec_key key0 = {.seed = 7, .client = 3, .version = 11};

static bool close_to(float got, double want)
{
    return fabs((double)got - want) <= 1e-6 * fabs(want) + 1e-12;
}

// u = F D^2 (21) ranks 3 0 1 2 5 4 ...; the shares give one 16, two 4, two 2 (23).
static void test_percentile_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 10,
             "fstq:policy=percentile,budget=0,shares=0.1/0.2/0.2,gamma=1,norm=none,scale=group,"
             "format=fp32,tags=dense,values=packed");
    const float x[] = {0.5f, -0.4f, 0.3f, 0.1f, 0.2f, -0.8f, 0.01f, 0.02f, 0, 0.9f};
    const float f[] = {4, 4, 4, 400, 1, 0.2f, 1, 1, 1, 0.001f};
    memcpy(s.sens, f, sizeof f);
    int64_t len = session_trip(&s, x, key0);
    // u: 1, .64, .36, 4, .04, .128, ...: 3 at fp16, then 0 and 1 at 4 bits, 2 and 5 at 2 bits.
    // s(4) = .9 / 7, s(2) = .9 / 1 (30): codes 4 and -3; 0.3 and -0.8 round to 0 and -1 (31).
    const double want[] = {4 * .9 / 7, -3 * .9 / 7, 0, .1, 0, -.9, 0, 0, 0, 0};
    for (int i = 0; i < 10; i++)
        if (i != 3 && !close_to(s.x_hat[i], want[i]))
            fail_msg("value %d: %g, want %g", i, (double)s.x_hat[i], want[i]);
    assert_true(s.x_hat[3] == 0.0999755859375f); // 0.1 in half precision
    // One byte of header, 10 tags of 2 bits, two scales, 2 x 2 + 2 x 4 + 16 bits in whole bytes.
    assert_int_equal(len, 1 + 3 + 8 + 1 + 1 + 2);
    assert_int_equal(s.report.parts.tags, 3);
    assert_int_equal(s.report.parts.scales, 8);
    assert_int_equal(s.report.parts.values, 4);
    assert_int_equal(s.report.kept[7], 1);
    assert_int_equal(s.report.kept[4], 2);
    assert_int_equal(s.report.kept[2], 2);
    assert_int_equal(s.report.kept[0], 5);
    close_one(&s);
}

// The tier's scale comes from the values of the width alone: -0.8 is the largest of its two.
static void test_tier_scale_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 4,
             "fstq:policy=percentile,budget=0,widths=0/2/4,shares=0.25/0.5,importance=fisher,"
             "gamma=1,norm=none,scale=tier,format=fp32,tags=bitmap,values=packed");
    const float x[] = {0.5f, -0.8f, 0.5f, 9};
    const float f[] = {1, 1, 100, 0};
    memcpy(s.sens, f, sizeof f);
    session_trip(&s, x, key0);
    assert_true(close_to(s.x_hat[0], .8) && close_to(s.x_hat[1], -.8));
    assert_true(close_to(s.x_hat[2], .5) && s.x_hat[3] == 0);
    close_one(&s);
}

// Round half to even: 0.5 / 1 goes to 0, 1.5 to 2.
static void test_ties_go_to_even(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 4,
             "fstq:policy=percentile,budget=0,widths=0/4,shares=1,importance=magnitude,"
             "scale=group,format=fp32");
    const float x[] = {7, 0.5f, 1.5f, -2.5f};
    session_trip(&s, x, key0);
    assert_true(s.x_hat[0] == 7 && s.x_hat[1] == 0 && s.x_hat[2] == 2 && s.x_hat[3] == -2);
    close_one(&s);
}

// The literal INT2: 2.9 % of Gaussian and 0.3 % of Laplace values survive the scale of a matrix.
static void test_literal_int2_survivors(void **state)
{
    (void)state;
    static const double want[] = {.029, .003};
    struct session s;
    shape_init(&s.shape);
    for (int t = 0; t < 16; t++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", t);
        shape_add(&s.shape, name, 16, 4096, SHAPE_LORA_A);
    }
    shape_seal(&s.shape);
    session_open(&s, "fstq:policy=percentile,budget=0,widths=0/2,shares=1,importance=magnitude,"
                     "group=tensor,scale=group");
    size_t n = s.shape.n_values;
    float *x = mem_alloc(MEM_CODEC, n * sizeof *x);
    for (int d = 0; d < 2; d++) {
        fill(x, n, d ? DIST_LAPLACE : DIST_NORMAL, 0);
        session_trip(&s, x, key0);
        double alive = 0;
        for (size_t i = 0; i < n; i++)
            alive += s.x_hat[i] != 0;
        if (fabs(alive / (double)n / want[d] - 1) > 0.4)
            fail_msg("%g survive, want %g", alive / (double)n, want[d]);
    }
    mem_free(x);
    session_close(&s);
    shape_free(&s.shape);
}

// bitalloc by itself.

static double plain_bits(const void *arg, const int64_t count[ALLOC_LEVELS])
{
    const struct bitalloc *a = arg;
    double bits = 0;
    for (int k = 1; k < a->count; k++)
        bits += (double)count[k] * (a->bits[k] + 2);
    return bits / 8;
}

struct bench_alloc {
    struct shape shape;
    struct bitalloc a;
    struct alloc_levels levels;
    uint8_t tag[4096];
    float u[4096], x[4096], sens[4096], factor[1];
};

static void alloc_open(struct bench_alloc *b, uint32_t n, int policy, int importance, int gamma16)
{
    shape_one(&b->shape, 1, n);
    b->a = (struct bitalloc){.shape = &b->shape,
                             .count = 4,
                             .bits = {0, 2, 4, 16},
                             .importance = importance,
                             .policy = policy,
                             .gamma16 = gamma16};
    struct alloc_levels *l = &b->levels;
    memset(l, 0, sizeof *l);
    l->count = 4;
    for (int k = 1; k < 4; k++) {
        l->kind[k] = k == 3 ? ALLOC_FP16 : ALLOC_INT;
        l->q[k] = k == 1 ? 1 : 7;
        l->scale[k] = k == 1 ? 1e-3f : 5e-4f;
        l->inverse[k] = 1 / l->scale[k];
    }
}

// The tags that lambda gives, and what they cost.
static double choose_at(struct bench_alloc *b, float lambda)
{
    int64_t count[ALLOC_LEVELS] = {0};
    for (int k = 1; k < b->a.count; k++)
        b->levels.cost[k] = lambda * (float)(b->a.bits[k] + 2);
    const struct alloc_weights w = {b->u, -1, 0};
    alloc_choose(b->x, &w, b->shape.n_values, &b->levels, b->tag, count);
    return plain_bits(&b->a, count);
}

static enum bitalloc_verdict search_lambda(struct bench_alloc *b, double target, double slack,
                                           struct bitalloc_search *s)
{
    enum bitalloc_verdict verdict;
    bitalloc_search_begin(s, target, slack, 1e-7, target);
    while ((verdict = bitalloc_search_tell(s, choose_at(b, bitalloc_search_lambda(s)))) ==
           SEARCH_ON)
        if (s->turns > 200)
            fail_msg("no end: log lambda %g", s->at);
    return verdict;
}

static void allocate(struct bench_alloc *b, double target)
{
    const struct alloc_vectors v = {b->x, b->sens, NULL};
    const struct alloc_rule rule = bitalloc_rule(&b->a);
    struct rng r = rng_stream(key0.seed, RNG_CODEC, key0.client, key0.version, 0);
    struct alloc_run run = {.n = b->shape.n_values,
                            .key = {r.key[0], r.key[1]},
                            .ctr = {r.ctr[0], r.ctr[1], r.ctr[2], r.ctr[3]}};
    double sum = quant_sum(b->sens, b->shape.n_values);
    bitalloc_factors(&b->a, &sum, b->factor);
    run.factor = b->factor[0];
    if (b->a.policy != POLICY_RD) {
        const struct bitalloc_on on = {&alloc_stages_cpu, NULL, &run};
        alloc_stages_cpu.score(NULL, &v, &rule, &run, 1, b->u);
        bitalloc_ranks(&b->a, &on, b->u, target, plain_bits, &b->a, b->tag);
        return;
    }
    struct bitalloc_search s;
    const struct alloc_draw all = {1, run.n, 0};
    float *same = mem_alloc(MEM_CODEC, run.n * sizeof *same);
    alloc_stages_cpu.draw(NULL, &v, &rule, &run, &all, 1, same, b->u);
    mem_free(same);
    if (search_lambda(b, target, 2.4, &s) == SEARCH_BETWEEN) {
        s.at = s.cheap.at;
        choose_at(b, bitalloc_search_lambda(&s));
    }
}

static void alloc_close(struct bench_alloc *b)
{
    shape_free(&b->shape);
}

// Algorithm 1: of 8 coordinates and 60 bits, tags of 2 bits counted: three times 16 + 2, then one
// of 4 + 2.
static void test_greedy_by_hand(void **state)
{
    (void)state;
    static struct bench_alloc b;
    alloc_open(&b, 8, POLICY_GREEDY, IMPORTANCE_FISHER, 16);
    const float x[] = {1, 2, -3, 4, 1, 1, 1, 1}, f[] = {1, 1, 1, 1, 20, 0, 3, 2};
    memcpy(b.x, x, sizeof x);
    memcpy(b.sens, f, sizeof f);
    allocate(&b, 60.0 / 8);
    const uint8_t want[] = {0, 2, 3, 3, 3, 0, 0, 0}; // u: 1 4 9 16 20 0 3 2
    assert_memory_equal(b.tag, want, 8);
    allocate(&b, 1e6); // no F, no bits
    const uint8_t all[] = {3, 3, 3, 3, 3, 0, 3, 3};
    assert_memory_equal(b.tag, all, 8);
    allocate(&b, 0);
    for (int i = 0; i < 8; i++)
        assert_int_equal(b.tag[i], 0);
    alloc_close(&b);
}

// (14) by hand: each coordinate takes the width of least w e^2 + lambda r.
static void test_choice_by_hand(void **state)
{
    (void)state;
    static struct bench_alloc b;
    // 1e-3: two bits are exact. 3e-3: two leave (2e-3)^2, four are exact. 2.6e-4: two round to 0,
    // four give 5e-4, sixteen leave nearly nothing.
    static const float x[] = {1e-3f, 3e-3f, 2.6e-4f, 0};
    static const struct {
        float lambda;
        uint8_t tag[4];
    } rows[] = {
        {1, {0, 0, 0, 0}},
        {1.0001f * 1e-6f / 4, {0, 2, 0, 0}}, // 1e-6 < 4 lambda, 9e-6 > 6 lambda
        {0.9999f * 1e-6f / 4, {1, 2, 0, 0}},
        {1.01f * 6.76e-8f / 18, {1, 2, 0, 0}},
        {0.99f * 6.76e-8f / 18, {1, 2, 3, 0}}, // 1.67e-9 = 6 lambda is not taken on the way
        {0, {1, 2, 3, 0}},
    };
    alloc_open(&b, 4, POLICY_RD, IMPORTANCE_MAGNITUDE, 0);
    memcpy(b.x, x, sizeof x);
    for (int i = 0; i < 4; i++)
        b.u[i] = 1;
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        choose_at(&b, rows[r].lambda);
        if (memcmp(b.tag, rows[r].tag, 4) != 0)
            fail_msg("lambda %g: %d %d %d %d", (double)rows[r].lambda, b.tag[0], b.tag[1], b.tag[2],
                     b.tag[3]);
    }
    // A weight of 4 is a lambda of a quarter; two widths of equal cost: the narrower one.
    b.u[0] = 4;
    choose_at(&b, 1.0001f * 1e-6f / 4);
    assert_int_equal(b.tag[0], 1);
    for (int k = 1; k < 4; k++)
        b.levels.cost[k] = -1;
    const struct alloc_weights one = {(const float[]){1}, -1, 0};
    int64_t count[ALLOC_LEVELS] = {0};
    alloc_choose((const float[]){0}, &one, 1, &b.levels, b.tag, count);
    assert_int_equal(b.tag[0], 1);
    alloc_close(&b);
}

// Tags of the first n values by every instruction set: by weights as they are given, and by those
// made on the way.
static void choose_everywhere(struct bench_alloc *b, size_t n, int roots, uint8_t *want)
{
    const struct alloc_weights given = {b->u, -1, 0}, made = {b->sens, roots, 1e6f};
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        alloc_power(b->sens, n, 1e6f, 16 >> roots, b->u);
        for (int turn = 0; turn < 2; turn++) {
            memset(b->tag, 0xe5, sizeof b->tag);
            int64_t count[ALLOC_LEVELS] = {0};
            alloc_choose(b->x, turn ? &made : &given, n, &b->levels, b->tag, count);
            assert_int_equal(b->tag[n], 0xe5);
            if (isa == SIMD_BASE && turn == 0)
                memcpy(want, b->tag, n);
            assert_memory_equal(b->tag, want, n);
            for (size_t i = 0; i < n; i++)
                count[want[i]]--;
            for (int k = 0; k < ALLOC_LEVELS; k++)
                assert_int_equal(count[k], 0);
        }
    }
    simd_limit(SIMD_AVX512);
}

// All instruction sets choose alike, at any length: ordinary values, halves, ones too large for a
// half or whose squares are too large for a float, zeros, weights of 0, and a group without a
// scale.
static void test_choice_is_the_same_everywhere(void **state)
{
    (void)state;
    static struct bench_alloc b;
    enum { COUNT = 1000 };
    static uint8_t want[COUNT];
    static const int sets[][4] = {{0, 2, 4, 16}, {0, 1, 3, 8}, {0, 1, 6, 16}};
    alloc_open(&b, COUNT, POLICY_RD, IMPORTANCE_FISHER, 4);
    fill(b.x, COUNT, DIST_LAPLACE, 1);
    fill(b.sens, COUNT, DIST_LAPLACE, 2);
    for (int i = 0; i < COUNT; i++)
        b.x[i] *= i % 7 == 0    ? 1e8f
                  : i % 11 == 0 ? 1e-4f
                  : i % 13 == 0 ? 0
                  : i % 17 == 0 ? 1e28f
                                : 1;
    for (size_t set = 0; set < 2 * ARRAY_LEN(sets); set++) {
        for (int k = 1; k < 4; k++) {
            int bits = sets[set / 2][k];
            b.levels.kind[k] = bits == 16 ? ALLOC_FP16 : bits == 1 ? ALLOC_SIGN : ALLOC_INT;
            b.levels.q[k] = (float)((1 << (bits - 1)) - 1);
            b.levels.scale[k] = set % 2 && k == 2 ? 0 : 1e-3f / (float)bits;
            b.levels.inverse[k] = b.levels.scale[k] > 0 ? 1 / b.levels.scale[k] : 0;
            b.levels.cost[k] = 1e-7f * (float)bits;
        }
        for (size_t n = 0; n <= COUNT; n += n < 70 ? 1 : 93)
            choose_everywhere(&b, n, (int)n % 5, want);
    }
    alloc_close(&b);
}

// What is counted and moved together by tags, against plain loops: in n of these values.
static void sort_by_tags(const float *x, const uint8_t *tag, size_t n)
{
    enum { MOST = 20000, KINDS = 6 };
    static float v[MOST + 16];
    static uint8_t kept[MOST + 16];
    int64_t count[KINDS] = {0}, want[KINDS] = {0};
    size_t found = alloc_keep(x, tag, n, v, kept), at = 0;
    for (size_t i = 0; i < n; i++) {
        if (tag[i] < KINDS)
            want[tag[i]]++;
        if (tag[i] == 0)
            continue;
        assert_true(v[at] == x[i] && kept[at] == tag[i]);
        at++;
    }
    assert_int_equal(found, at);
    alloc_count(tag, n, KINDS, count);
    assert_memory_equal(count, want, sizeof want);
    found = alloc_gather(x, tag, n, 2, v);
    assert_int_equal(found, want[2]);
    for (size_t i = at = 0; i < n; i++)
        if (tag[i] == 2)
            assert_true(v[at++] == x[i]);
}

static void test_tags_sort_everywhere(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    static float x[COUNT];
    static uint8_t tag[COUNT];
    struct rng r = rng_stream(31, RNG_TEST, 0, 0, 0);
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)i;
        tag[i] = i < 9000 ? 2 : (uint8_t)(rng_below(&r, 3) ? 0 : rng_below(&r, 8)); // many of one
    }
    for (int isa = SIMD_BASE; isa < SIMD_ISA_COUNT; isa++) {
        simd_limit((enum simd_isa)isa);
        for (size_t n = 0; n <= COUNT; n += n < 70 ? 1 : 1993)
            for (size_t from = 0; from < 2; from++)
                sort_by_tags(x + from * (COUNT - n), tag + from * (COUNT - n), n);
    }
    simd_limit(SIMD_AVX512);
}

static double error_of(const struct bench_alloc *b, size_t i, int k)
{
    double x = fabs((double)b->x[i]), s = (double)b->levels.scale[k];
    if (k == 0)
        return x * x;
    if (k == 3)
        return 0; // half precision: next to nothing
    double v = nearbyint(x / s), q = (double)b->levels.q[k], d = x - (v < q ? v : q) * s;
    return d * d;
}

// Against every Lagrangian solution found by brute force: none of at most as many bits has less
// weighted error, up to one step.
static void test_rate_distortion_is_optimal(void **state)
{
    (void)state;
    static struct bench_alloc b;
    enum { COUNT = 1500 };
    alloc_open(&b, COUNT, POLICY_RD, IMPORTANCE_FISHER, 8);
    fill(b.x, COUNT, DIST_LAPLACE, 1);
    fill(b.sens, COUNT, DIST_LAPLACE, 2);
    for (int i = 0; i < COUNT; i++)
        b.sens[i] = b.sens[i] * b.sens[i];
    for (double target = 100; target < 2500; target *= 2) {
        allocate(&b, target);
        double bits = 0, error = 0;
        for (size_t i = 0; i < COUNT; i++) {
            int k = b.tag[i];
            bits += k ? b.a.bits[k] + 2 : 0;
            error += sqrt((double)b.sens[i]) * error_of(&b, i, k);
        }
        if (bits > 8 * target || bits <= 8 * target - 20)
            fail_msg("%g bits of %g", bits, 8 * target);
        for (double lambda = 1e6; lambda < 1e14; lambda *= 1.2) { // (14)
            double bits_l = 0, error_l = 0;
            for (size_t i = 0; i < COUNT; i++) {
                int best = 0;
                double best_cost = 0, f = sqrt((double)b.sens[i]);
                for (int k = 0; k < 4; k++) {
                    double cost = (k ? b.a.bits[k] + 2 : 0) + lambda * f * error_of(&b, i, k);
                    if (k == 0 || cost < best_cost) {
                        best = k;
                        best_cost = cost;
                    }
                }
                bits_l += best ? b.a.bits[best] + 2 : 0;
                error_l += f * error_of(&b, i, best);
            }
            if (bits_l <= bits && error_l < error * (1 - 1e-3))
                fail_msg("%g bits leave %g, %g bits leave %g", bits, error, bits_l, error_l);
        }
    }
    alloc_close(&b);
}

// Any target is met, or lies between two lambdas that are neighbours, whatever the start; none is
// met by more than it allows.
static void test_search_ends(void **state)
{
    (void)state;
    static struct bench_alloc b;
    enum { COUNT = 3001 };
    static const double targets[] = {900, 890, 905, 60, 5000, 1, 0, 1e6};
    struct bitalloc_search s;
    alloc_open(&b, COUNT, POLICY_RD, IMPORTANCE_FISHER, 4);
    fill(b.x, COUNT, DIST_LAPLACE, 3);
    fill(b.u, COUNT, DIST_LAPLACE, 4);
    for (int i = 0; i < COUNT; i++) {
        b.u[i] = b.u[i] * b.u[i];
        if (i % 7 == 0) { // a seventh are alike: 966 to 1286 bytes at one lambda
            b.x[i] = b.x[0];
            b.u[i] = b.u[0];
        }
    }
    for (size_t t = 0; t < ARRAY_LEN(targets); t++) {
        enum bitalloc_verdict verdict = search_lambda(&b, targets[t], 2, &s);
        double cost = choose_at(&b, bitalloc_search_lambda(&s));
        if (verdict == SEARCH_MET)
            assert_true(cost <= targets[t] && (cost >= targets[t] - 2 || targets[t] == 1e6));
        else if (verdict == SEARCH_BETWEEN)
            assert_true(s.dear.cost > targets[t] && s.cheap.cost < targets[t] - 2 &&
                        s.cheap.at - s.dear.at < 1e-5);
        else
            fail_msg("target %g: verdict %d", targets[t], (int)verdict);
    }
    assert_int_equal(search_lambda(&b, -1, 0.5, &s), SEARCH_HOPELESS);
    alloc_close(&b);
}

// (22): where quantisation is fine, b = 0.5 log2(u / lambda): four times the sensitivity, one bit
// more.
static void test_high_rate_bits(void **state)
{
    (void)state;
    static struct bench_alloc b;
    enum { COUNT = 4096, GROUPS = 3 };
    alloc_open(&b, COUNT, POLICY_RD, IMPORTANCE_FISHER, 16);
    static const int bits[] = {0, 2, 3, 4, 6, 8};
    struct alloc_levels *l = &b.levels;
    l->count = b.a.count = (int)ARRAY_LEN(bits);
    for (int k = 1; k < b.a.count; k++) { // uniform values in [-1, 1]: q steps of 1 / (q + 1/2)
        b.a.bits[k] = bits[k];
        l->kind[k] = ALLOC_INT;
        l->q[k] = (float)((1 << (bits[k] - 1)) - 1);
        l->scale[k] = 1 / (l->q[k] + 0.5f);
        l->inverse[k] = 1 / l->scale[k];
    }
    struct rng r = rng_stream(5, RNG_TEST, 0, 0, 0);
    for (int i = 0; i < COUNT; i++) {
        b.x[i] = (float)(2 * rng_unit(&r) - 1);
        b.sens[i] = (float)(1 << 2 * (i % GROUPS));
    }
    allocate(&b, COUNT * 6.0 / 8); // four bits and the two that plain_bits counts for a tag
    double mean[GROUPS] = {0};
    for (int i = 0; i < COUNT; i++)
        mean[i % GROUPS] += (double)GROUPS * bits[b.tag[i]] / COUNT;
    for (int g = 1; g < GROUPS; g++)
        if (fabs(mean[g] - mean[g - 1] - 1) > 0.25)
            fail_msg("%g, %g and %g bits", mean[0], mean[1], mean[2]);
    alloc_close(&b);
}

// All alike: the first in order get the bits, and the budget is used.
static void test_equal_values_take_turns_by_index(void **state)
{
    (void)state;
    static const char *const rest[] = {"policy=greedy", "policy=rd", "policy=rd,scale=tier",
                                       "policy=percentile"};
    enum { COUNT = 40000 };
    for (size_t k = 0; k < ARRAY_LEN(rest); k++) {
        struct session s;
        char text[128];
        snprintf(text, sizeof text, "fstq:budget=0.05,tags=rans,importance=magnitude,%s", rest[k]);
        open_one(&s, 4, COUNT / 4, text);
        float *x = mem_alloc(MEM_CODEC, COUNT * sizeof *x);
        for (int i = 0; i < COUNT; i++)
            x[i] = i % 3 ? -1e-3f : 1e-3f;
        int64_t len = session_trip(&s, x, key0);
        for (int i = 1; i < COUNT; i++)
            if (s.x_hat[i] != 0 && s.x_hat[i - 1] == 0)
                fail_msg("%s: value %d was sent, the one before was not", rest[k], i);
        if (s.x_hat[0] == 0 || s.x_hat[COUNT - 1] != 0)
            fail_msg("%s: from %g to %g", rest[k], (double)s.x_hat[0], (double)s.x_hat[COUNT - 1]);
        if (len > 4000 || len < 3980)
            fail_msg("%s: %lld bytes of 4000", rest[k], (long long)len);
        mem_free(x);
        close_one(&s);
    }
}

// Importance.

// Half of 8 coordinates at one width; which ones, as a bit mask.
static unsigned kept_by(const char *importance, uint32_t client, uint32_t version)
{
    char text[256];
    snprintf(text, sizeof text,
             "fstq:policy=percentile,budget=0,widths=0/16,shares=0.5,tags=bitmap,%s", importance);
    struct session s;
    shape_init(&s.shape);
    shape_add(&s.shape, "A", 1, 4, SHAPE_LORA_A);
    shape_add(&s.shape, "B", 1, 4, SHAPE_LORA_B);
    shape_seal(&s.shape);
    session_open(&s, text);
    const float x[8] = {1, 2, 3, 4, 4, 3, 2, 1}, f[8] = {16, 1, 0.1f, 0, 1600, 900, 1, 1};
    const float g[8] = {-9, 9, -1, -0.1f, 8, -8, 0, -1};
    memcpy(s.sens, f, sizeof f);
    memcpy(s.grad, g, sizeof g);
    session_trip(&s, x, (struct codec_key){.seed = 7, .client = client, .version = version});
    unsigned kept = 0;
    for (unsigned i = 0; i < 8; i++)
        kept |= (unsigned)(s.x_hat[i] != 0) << i;
    session_close(&s);
    shape_free(&s.shape);
    return kept;
}

static void test_importance(void **state)
{
    (void)state;
    assert_int_equal(kept_by("importance=magnitude", 0, 0), 0x3c);
    assert_int_equal(kept_by("gamma=0", 0, 0), 0x3c);
    // F D^2 = 16 4 .9 0 | 25600 8100 4 1
    assert_int_equal(kept_by("gamma=1,norm=none", 0, 0), 0x33);
    // by the tensor, F / mean = 3.74 .234 .023 0 | 2.56 1.44 .0016 .0016: F D^2 = 3.7 .94 .21 0 |
    // 41 13 ..
    assert_int_equal(kept_by("gamma=1,norm=tensor", 0, 0), 0x33);
    // and its fourth root: 1.39 2.78 3.5 0 | 20 9.9 .8 .2
    assert_int_equal(kept_by("gamma=0.25,norm=tensor", 0, 0), 0x36);
    // -g D = 9 -18 3 .4 | -32 24 0 1; only four are above 0 beside the last
    assert_int_equal(kept_by("importance=gd", 0, 0), 0xa5);
    // |g D| = 9 18 3 .4 | 32 24 0 1
    assert_int_equal(kept_by("importance=absgd", 0, 0), 0x33);
    assert_int_equal(kept_by("importance=uniform", 0, 0), kept_by("importance=uniform", 5, 9));
    unsigned seen = 0;
    for (uint32_t round = 0; round < 20; round++) {
        unsigned kept = kept_by("importance=random", 1, round);
        assert_int_equal(__builtin_popcount(kept), 4);
        assert_int_equal(kept, kept_by("importance=random", 1, round));
        seen |= kept;
    }
    assert_int_equal(seen, 0xff);
}

static void test_needs_and_missing_sides(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        unsigned needs;
    } rows[] = {{"fstq:gamma=0.25", CODEC_SENS},
                {"fstq:gamma=0.3125", CODEC_SENS},
                {"fstq:gamma=0.0625", CODEC_SENS},
                {"fstq:gamma=0", 0},
                {"fstq:importance=magnitude", 0},
                {"fstq:importance=random", 0},
                {"fstq:importance=gd", CODEC_GRAD},
                {"fstq:importance=absgd+ef", CODEC_GRAD | CODEC_STATE},
                {"fstq:importance=fedsrd", CODEC_REACH},
                {"fstq-paper+zstd", CODEC_SENS}};
    struct session s;
    float x[64];
    fill(x, 64, DIST_NORMAL, 1);
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        open_one(&s, 8, 8, rows[k].text);
        assert_int_equal(codec_needs(s.c), rows[k].needs);
        struct codec_input in = {
            .x = x, .state = s.state, .state_next = s.state_next, .key = key0, .budget_bytes = -1};
        int64_t len = codec_encode(s.c, &in, s.msg, codec_bound(s.c), s.scratch, NULL, &s.err);
        bool asks = rows[k].needs & (CODEC_SENS | CODEC_GRAD | CODEC_REACH);
        assert_true(asks ? len < 0 && strstr(s.err.text, "needs") : len > 0);
        s.sens[3] = NAN;
        s.grad[3] = INFINITY;
        len = session_encode(&s, x, key0, codec_bound(s.c));
        assert_true(asks ? len < 0 && strstr(s.err.text, "finite") : len > 0);
        close_one(&s);
    }
}

static void test_bad_options(void **state)
{
    (void)state;
    expect_error("fstq:widths=2/4", "ascending");
    expect_error("fstq:widths=0/4/2", "ascending");
    expect_error("fstq:widths=0/5", "ascending");
    expect_error("fstq:widths=0", "nothing but 0");
    expect_error("fstq:widths=0//4", "numbers");
    expect_error("fstq:widths=0/x", "widths");
    expect_error("fstq:gamma=0.3", "1/16");
    expect_error("fstq:budget=0", "budget");
    expect_error("fstq:policy=percentile,shares=0.1/0.2", "3 shares");
    expect_error("fstq:policy=percentile,shares=0.5/0.4/0.2", "above 1");
    expect_error("fstq:policy=percentile,shares=0.5/-0.4/0.2", "shares");
}

// Budgets.

static double drawn(struct rng *r, double low, double high)
{
    return low + (high - low) * rng_unit(r);
}

// Never above the budget; within 0.5 % or 16 bytes of it where there is anything left to send.
static void test_budget_is_met(void **state)
{
    (void)state;
    static const char *const rest[] = {"tags=auto",
                                       "tags=bitmap,values=packed",
                                       "tags=dense",
                                       "tags=rice,scale=tier",
                                       "tags=rans,group=class",
                                       "tags=auto,scale=group,format=fp32",
                                       "widths=0/2/4,tags=auto",
                                       "widths=0/1/2/3/4/6/8/16,tags=auto",
                                       "policy=greedy,tags=auto",
                                       "policy=greedy,tags=bitmap",
                                       "policy=percentile,tags=auto",
                                       "policy=percentile,tags=bitmap,scale=tier"};
    static const double budgets[] = {.15, .05, .0435, .02, .01, .005, .3};
    struct rng r = rng_stream(3, RNG_TEST, 0, 0, 0);
    for (size_t k = 0; k < ARRAY_LEN(rest); k++)
        for (size_t b = 0; b < ARRAY_LEN(budgets); b++) {
            char text[256];
            bool dense = strstr(rest[k], "dense"), bitmap = strstr(rest[k], "bitmap");
            if ((dense && budgets[b] < .14) || (bitmap && budgets[b] < .1))
                continue; // less than the tags alone
            snprintf(text, sizeof text, "fstq:budget=%g,importance=magnitude,%s", budgets[b],
                     rest[k]);
            struct session s;
            shape_init(&s.shape);
            shape_add(&s.shape, "A", 8, 500 + rng_below(&r, 4000), SHAPE_LORA_A);
            shape_add(&s.shape, "B", 300 + rng_below(&r, 3000), 8, SHAPE_LORA_B);
            shape_seal(&s.shape);
            session_open(&s, text);
            size_t n = s.shape.n_values;
            float *x = mem_alloc(MEM_CODEC, n * sizeof *x);
            fill(x, n, (enum dist)rng_below(&r, 3), rng_u32(&r));
            for (size_t i = 0; i < n / 2; i++)
                x[i] *= (float)drawn(&r, 0, 2);
            int64_t len = session_trip(&s, x, key0), want = (int64_t)(budgets[b] * 2 * (double)n);
            double slack = fmax(16, 0.005 * (double)want);
            bool all = s.report.kept[0] == 0 || strstr(text, "widths=0/2/4,");
            if (len > want || (!all && (double)len < (double)want - slack))
                fail_msg("%s: %lld bytes of %lld", text, (long long)len, (long long)want);
            if (len < want / 2)
                fail_msg("%s: only %lld bytes of %lld", text, (long long)len, (long long)want);
            // The same from the link: a budget in bytes goes before the options.
            struct codec_input in = {.x = x, .key = key0, .budget_bytes = want * 2 / 3};
            len = codec_encode(s.c, &in, s.msg, codec_bound(s.c), s.scratch, NULL, &s.err);
            bool tags_fit = !dense && !bitmap;
            if (tags_fit && (len < 0 || len > in.budget_bytes))
                fail_msg("%s: %lld bytes of %lld", text, (long long)len,
                         (long long)in.budget_bytes);
            mem_free(x);
            session_close(&s);
            shape_free(&s.shape);
        }
}

// More bytes, less error; and the rate-distortion policy beats ranks at the same bytes.
static void test_error_falls_with_the_budget(void **state)
{
    (void)state;
    static const double budgets[] = {.01, .03, .1, .2, .4};
    static const char *const policies[] = {"rd", "percentile", "greedy"};
    double nmse[3][5];
    struct session s;
    shape_one(&s.shape, 16, 3000);
    float *x = mem_alloc(MEM_CODEC, 48000 * sizeof *x);
    fill(x, 48000, DIST_LAPLACE, 1);
    for (int p = 0; p < 3; p++)
        for (int b = 0; b < 5; b++) {
            char text[128];
            snprintf(text, sizeof text, "fstq:policy=%s,budget=%g,importance=magnitude",
                     policies[p], budgets[b]);
            session_open(&s, text);
            session_trip(&s, x, key0);
            nmse[p][b] = codec_nmse(x, s.x_hat, 48000);
            if (b && nmse[p][b] >= nmse[p][b - 1])
                fail_msg("%s: %g, before %g", text, nmse[p][b], nmse[p][b - 1]);
            if (p && nmse[0][b] > nmse[p][b] * 1.001)
                fail_msg("%s: %g, rd %g", text, nmse[p][b], nmse[0][b]);
            session_close(&s);
        }
    mem_free(x);
    shape_free(&s.shape);
}

// The paper's preset: 15 % of fp16, mask and tags counted; the three widths in their proportions.
static void test_paper_preset(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 16, 4096, "fstq-paper");
    float *x = mem_alloc(MEM_CODEC, 65536 * sizeof *x);
    fill(x, 65536, DIST_NORMAL, 1);
    int64_t len = session_trip(&s, x, key0), kept = 65536 - s.report.kept[0];
    assert_true(len <= 19660 && len > 19660 - 98);
    assert_int_equal(s.report.parts.indices, 65536 / 8);
    assert_int_equal(s.report.parts.tags, (kept * 2 + 7) / 8);
    assert_int_equal(s.report.parts.scales, 8);
    double share[] = {8 / 12.5, 4 / 12.5, .5 / 12.5};
    const int64_t got[] = {s.report.kept[2], s.report.kept[4], s.report.kept[7]};
    for (int k = 0; k < 3; k++)
        assert_true(fabs((double)got[k] / (double)kept - share[k]) < 1e-3);
    session_close(&s);
    // Shares as they stand, tags dense: 2 + .005 * 16 + .04 * 4 + .08 * 2 bits are 15 %, too.
    session_open(&s, "fstq-paper:budget=0,tags=dense");
    len = session_trip(&s, x, key0);
    assert_int_equal(s.report.parts.tags, 65536 / 4);
    assert_int_equal(s.report.kept[7], 328);
    assert_int_equal(s.report.kept[4], 2621);
    assert_int_equal(s.report.kept[2], 5243);
    assert_true(fabs((double)len * 8 / 65536 - 2.40) < 0.005);
    mem_free(x);
    close_one(&s);
}

// Four values only: widths jump from one lambda to the next float, and the first coordinates get
// what the others do not.
static void test_budget_is_met_by_equal_values(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 8, 5000, "fstq:bits=1.5,importance=magnitude");
    const size_t n = s.shape.n_values;
    float *x = mem_alloc(MEM_CODEC, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i * 2654435769u >> 7 & 3) - 1.5f;
    int64_t len = session_trip(&s, x, key_of(0));
    assert_true(len <= (int64_t)n * 3 / 16 && len > (int64_t)n * 3 / 16 * 99 / 100);
    assert_true(codec_nmse(x, s.x_hat, n) < .13); // .1 if all large ones fitted
    mem_free(x);
    close_one(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentile_by_hand),
        cmocka_unit_test(test_tier_scale_by_hand),
        cmocka_unit_test(test_ties_go_to_even),
        cmocka_unit_test(test_literal_int2_survivors),
        cmocka_unit_test(test_greedy_by_hand),
        cmocka_unit_test(test_choice_by_hand),
        cmocka_unit_test(test_choice_is_the_same_everywhere),
        cmocka_unit_test(test_tags_sort_everywhere),
        cmocka_unit_test(test_rate_distortion_is_optimal),
        cmocka_unit_test(test_search_ends),
        cmocka_unit_test(test_high_rate_bits),
        cmocka_unit_test(test_equal_values_take_turns_by_index),
        cmocka_unit_test(test_importance),
        cmocka_unit_test(test_needs_and_missing_sides),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_budget_is_met),
        cmocka_unit_test(test_budget_is_met_by_equal_values),
        cmocka_unit_test(test_error_falls_with_the_budget),
        cmocka_unit_test(test_paper_preset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
