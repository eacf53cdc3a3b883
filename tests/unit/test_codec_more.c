// Codecs by hand: what a few small updates become, bit by bit and round by round.
#include "codec/dense.h"
#include "codec_cases.h"

// Natural compression.

// Powers of two are exact; 3 becomes 2 or 4 with equal chance, 5 becomes 4 three times out of four.
static void test_natural_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 6, "natural");
    const float x[] = {1, -3, 0.25f, 0, 5, -0x1p-100f};
    int twos = 0, fours = 0, rounds = 4000;
    for (int r = 0; r < rounds; r++) {
        int64_t len = session_trip(&s, x, key_of((uint32_t)r));
        assert_int_equal(len, 1 + 4 + 6); // header, the norm 8, a byte a value
        assert_int_equal(s.msg[5], 127 + 124);
        assert_int_equal(s.msg[7], 127 + 122);
        assert_int_equal(s.msg[8], 127);
        assert_true(s.x_hat[0] == 1 && s.x_hat[2] == 0.25f && s.x_hat[3] == 0);
        assert_true(s.x_hat[1] == -2 || s.x_hat[1] == -4);
        assert_true(s.x_hat[4] == 4 || s.x_hat[4] == 8);
        assert_true(s.x_hat[5] == -0x1p-100f);
        twos += s.x_hat[1] == -2;
        fours += s.x_hat[4] == 4;
    }
    assert_in_range(twos, rounds / 2 - 130, rounds / 2 + 130); // four standard deviations
    assert_in_range(fours, rounds * 3 / 4 - 110, rounds * 3 / 4 + 110);
    close_one(&s);
}

// Levels 0, 1/4, 1/2, 1 of the norm; below the least a coin decides.
static void test_natural_dithering_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 4, "natural:levels=3,norm=max");
    const float x[] = {8, -4, 3, -0.5f};
    int up = 0, coin = 0, rounds = 4000;
    for (int r = 0; r < rounds; r++) {
        int64_t len = session_trip(&s, x, key_of((uint32_t)r));
        assert_int_equal(len, 1 + 4 + 2); // three bits a value
        assert_true(s.x_hat[0] == 8 && s.x_hat[1] == -4);
        assert_true(s.x_hat[2] == 2 || s.x_hat[2] == 4);
        assert_true(s.x_hat[3] == 0 || s.x_hat[3] == -2);
        up += s.x_hat[2] == 4;
        coin += s.x_hat[3] == -2;
    }
    assert_in_range(up, rounds / 2 - 130, rounds / 2 + 130);
    assert_in_range(coin, rounds / 4 - 110, rounds / 4 + 110);
    close_one(&s);
}

// 3LC.

// 30 values are six quintuples: one with values, four of zeros as one run, one with a value.
static void test_threelc_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 30, "threelc");
    float x[30] = {8, -5, 4, 3.9f, -8};
    x[29] = -7;
    int64_t len = session_trip(&s, x, key_of(0));
    assert_int_equal(len, 1 + 4 + 3);
    // Codes 2 0 1 1 0 (4 is half of 8 and goes to the even side), least first: 2 + 9 + 27.
    assert_int_equal(s.msg[5], 2 + 0 * 3 + 1 * 9 + 1 * 27 + 0 * 81);
    assert_int_equal(s.msg[6], 243 + 4 - 2);
    assert_int_equal(s.msg[7], 1 + 3 + 9 + 27 + 0 * 81);
    const float want[] = {8, -8, 0, 0, -8};
    assert_memory_equal(s.x_hat, want, sizeof want);
    for (int i = 5; i < 29; i++)
        assert_true(s.x_hat[i] == 0);
    assert_true(s.x_hat[29] == -8);

    s.msg[6] = 243 + 5 - 2; // a run that leaves no room for the last quintuple
    assert_int_equal(
        codec_decode(s.c, &(struct codec_key){7, 3, 0}, s.msg, 8, s.x_hat, s.scratch, &s.err), -1);
    s.msg[6] = 255; // and one longer than the update
    assert_int_equal(
        codec_decode(s.c, &(struct codec_key){7, 3, 0}, s.msg, 8, s.x_hat, s.scratch, &s.err), -1);
    close_one(&s);

    // Runs of 15 zero bytes: the longest code, then a single one.
    open_one(&s, 1, 80, "threelc:sparsity=1.5");
    float y[80] = {1};
    y[1] = 0.76f;
    y[2] = 0.74f;
    len = session_trip(&s, y, key_of(0));
    assert_int_equal(len, 1 + 4 + 3);
    assert_int_equal(s.msg[6], 255);
    assert_int_equal(s.msg[7], 121);
    assert_true(s.x_hat[0] == 1.5f && s.x_hat[1] == 1.5f && s.x_hat[2] == 0);
    close_one(&s);
}

// EF21.

static void trip_and_keep(struct session *s, const float *x, uint32_t version)
{
    session_trip(s, x, key_of(version));
    memcpy(s->state, s->state_next, codec_state_floats(s->c) * sizeof(float));
}

static void test_ef21_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 3, "topk:ratio=0.3,value=fp32+ef21");
    const float x[][3] = {{3, -2, 1}, {4, -5, 1}, {4, -5, 3}};
    trip_and_keep(&s, x[0], 0); // the first is dense, and counted
    assert_int_equal(s.report.parts.header + s.report.parts.values, 1 + 12);
    assert_memory_equal(s.state, x[0], sizeof x[0]);
    session_trip(&s, x[1], key_of(1)); // difference 1 -3 0; it is lost
    assert_true(s.x_hat[0] == 0 && s.x_hat[1] == -3 && s.x_hat[2] == 0);
    assert_memory_equal(s.state, x[0], sizeof x[0]);
    trip_and_keep(&s, x[1], 2);
    assert_true(s.state[0] == 3 && s.state[1] == -5 && s.state[2] == 1);
    trip_and_keep(&s, x[2], 3); // difference 1 0 2
    assert_true(s.state[0] == 3 && s.state[1] == -5 && s.state[2] == 3);
    close_one(&s);

    open_one(&s, 1, 3, "topk:ratio=0.3,value=fp32+ef21:init=zero");
    trip_and_keep(&s, x[0], 0);
    assert_true(s.state[0] == 3 && s.state[1] == 0 && s.state[2] == 0);
    close_one(&s);
}

// One round of two clients with weights 1 and 3; the server's mean goes on from keep.
static void aggregate(struct session *s, float state[2][4], const float x[2][3], uint32_t version,
                      float *keep, float *delta)
{
    const struct codec_agg *agg = s->c->row->agg;
    void *sum = mem_alloc(MEM_CODEC, agg->state_bytes(s->c, 3));
    agg->begin(s->c, sum, 3);
    for (uint32_t k = 0; k < 2; k++) {
        struct codec_key key = {.seed = 7, .client = k, .version = version};
        memcpy(s->state, state[k], sizeof state[k]);
        int64_t len = session_encode(s, x[k], key, codec_bound(s->c));
        memcpy(state[k], s->state_next, sizeof state[k]);
        assert_int_equal(agg->add(s->c, &key, s->msg, (size_t)len, 1 + 2 * k, sum, &s->err), 0);
        assert_int_equal(agg->add(s->c, &key, s->msg, (size_t)len - 1, 1, sum, &s->err), -1);
    }
    agg->finish(s->c, sum, keep, 4, delta, 3);
    mem_free(sum);
}

static void test_ef21_server_keeps_the_mean(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 3, "topk:ratio=0.3,value=fp32+ef21");
    assert_int_equal(s.c->row->agg->keep_floats(s.c, 3), 3);
    float client[2][4] = {{0}}, keep[3] = {0}, delta[3];
    const float x[2][2][3] = {{{4, 8, 0}, {0, 4, 8}}, {{4, 0, 0}, {0, 5, 16}}};
    aggregate(&s, client, x[0], 0, keep, delta);
    assert_true(delta[0] == 1 && delta[1] == 5 && delta[2] == 6);
    aggregate(&s, client, x[1], 1, keep, delta); // differences -8 at 1, and 8 at 2
    assert_true(delta[0] == 1 && delta[1] == 3 && delta[2] == 12);
    for (int i = 0; i < 3; i++) // the server's is the mean of the clients'
        assert_true(keep[i] == delta[i] && keep[i] == (client[0][i] + 3 * client[1][i]) / 4);
    close_one(&s);

    open_one(&s, 1, 3, "topk:ratio=0.3,value=fp32+ef21:share=0.5"); // of four clients
    memset(client, 0, sizeof client);
    memset(keep, 0, sizeof keep);
    aggregate(&s, client, x[0], 0, keep, delta);
    assert_true(delta[0] == 0.5f && delta[1] == 2.5f && delta[2] == 3);
    close_one(&s);
}

// FetchSGD.

// Small whole numbers: sums of sketches are exact, and a sketch of the sum is the sum of sketches.
static void test_sketches_add_up(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 10, 30, "fetchsgd:rows=3,cols=50");
    float x[3][300];
    uint8_t msg[2][601];
    for (int i = 0; i < 300; i++) {
        x[0][i] = (float)(i % 7 - 3);
        x[1][i] = (float)(i % 11 - 5);
        x[2][i] = x[0][i] + x[1][i];
    }
    for (uint32_t k = 0; k < 3; k++) { // every client and round the same hashes
        struct codec_key key = {.seed = 7, .client = k, .version = 10 + k};
        assert_int_equal(session_encode(&s, x[k], key, codec_bound(s.c)), 601);
        if (k < 2)
            memcpy(msg[k], s.msg, 601);
    }
    for (size_t i = 1; i < 601; i += 4) {
        float a, b, sum;
        memcpy(&a, msg[0] + i, 4);
        memcpy(&b, msg[1] + i, 4);
        memcpy(&sum, s.msg + i, 4);
        assert_true(a + b == sum);
    }
    close_one(&s);
}

// A round of one client, which sends x; the coordinate that moves and by how much.
static void fetch_round(struct session *s, const float *x, float *keep, size_t moved, float by)
{
    size_t n = s->shape.n_values;
    const struct codec_agg *agg = s->c->row->agg;
    void *st = mem_alloc(MEM_CODEC, agg->state_bytes(s->c, n));
    float *delta = mem_alloc(MEM_CODEC, n * sizeof *delta);
    struct codec_key key = key_of(0);
    agg->begin(s->c, st, n);
    int64_t len = session_encode(s, x, key, codec_bound(s->c));
    for (int twice = 0; twice < 2; twice++)
        assert_int_equal(agg->add(s->c, &key, s->msg, (size_t)len, 3, st, &s->err), 0);
    assert_int_equal(agg->add(s->c, &key, s->msg, (size_t)len - 4, 3, st, &s->err), -1);
    agg->finish(s->c, st, keep, 6, delta, n);
    for (size_t i = 0; i < n; i++)
        if (delta[i] != (i == moved ? by : 0))
            fail_msg("delta[%zu] = %g", i, (double)delta[i]);
    mem_free(st);
    mem_free(delta);
}

// One coordinate a round: what waits comes later, with momentum, and is cleared once it is sent.
static void test_fetchsgd_by_hand(void **state)
{
    (void)state;
    struct session s;
    float x[20] = {0}, zero[20] = {0};
    x[3] = 8;
    x[17] = -4;
    for (int momentum = 0; momentum < 2; momentum++) {
        open_one(&s, 4, 5,
                 momentum ? "fetchsgd:cols=1000,ratio=0.05,momentum=0.5"
                          : "fetchsgd:cols=1000,ratio=0.05,momentum=0");
        assert_int_equal(s.c->row->agg->keep_floats(s.c, 20), 2 * 5 * 1000);
        float *keep = mem_alloc(MEM_CODEC, 10000 * sizeof *keep);
        fetch_round(&s, x, keep, 3, 8);
        fetch_round(&s, zero, keep, 17, momentum ? -6 : -4); // 4, and half of it again
        fetch_round(&s, zero, keep, 20, 0);
        for (int i = 0; i < 10000; i++)
            assert_true(keep[i] == 0);
        mem_free(keep);
        close_one(&s);
    }
}

// CocktailSGD.

// With the whole update as the subset: the four largest, 4 bits each, a scale for every two.
static void test_cocktail_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 8, "cocktail:sample=1,ratio=0.5,bucket=2,index=bitmap");
    const float x[] = {7, 0.1f, -3.4f, 0.2f, 1, 0, -2.625f, 0.3f};
    int64_t len = session_trip(&s, x, key_of(0));
    assert_int_equal(len, 1 + 1 + (1 + 1) + 2 * 2 + 2);
    assert_int_equal(s.report.parts.indices, 2);
    assert_int_equal(s.report.parts.scales, 4);
    assert_int_equal(s.msg[3], 0x55); // bitmap of 0, 2, 4, 6
    assert_int_equal(s.msg[8], (7 + 7) | (7 - 3) << 4);
    assert_int_equal(s.msg[9], (7 + 3) | (7 - 7) << 4); // steps of 0.375
    const float want[] = {7, 0, -3, 0, 1.125f, 0, -2.625f, 0};
    assert_memory_equal(s.x_hat, want, sizeof want);
    close_one(&s);

    // Of each three in a row the largest, and of the two that are left.
    open_one(&s, 1, 8, "cocktail:sample=1,ratio=0.3,chunk=3,bits=8,bucket=1");
    session_trip(&s, x, key_of(0));
    assert_int_equal(s.report.kept[0], 5);
    for (int i = 0; i < 8; i++)
        assert_true(i == 0 || i == 4 || i == 6 ? fabsf(s.x_hat[i] - x[i]) < 0.01f * fabsf(x[i])
                                               : s.x_hat[i] == 0);
    close_one(&s);

    shape_init(&s.shape); // a bucket does not reach from A into B
    shape_add(&s.shape, "A", 1, 4, SHAPE_LORA_A);
    shape_add(&s.shape, "B", 4, 1, SHAPE_LORA_B);
    shape_seal(&s.shape);
    session_open(&s, "cocktail:sample=1,ratio=1");
    const float y[] = {7000, 1000, -2000, 3000, 7e-6f, -1e-6f, 2e-6f, 3e-6f};
    session_trip(&s, y, key_of(0));
    assert_int_equal(s.report.parts.scales, 4);
    assert_true(codec_nmse(y + 4, s.x_hat + 4, 4) < 1e-4);
    close_one(&s);
}

// Every coordinate is drawn with the same chance, anew in each round.
static void test_cocktail_draws(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 1, 40, "cocktail:sample=0.25,ratio=1,bits=8");
    float x[40];
    int seen[40] = {0}, rounds = 4000;
    for (int i = 0; i < 40; i++)
        x[i] = 1;
    for (int r = 0; r < rounds; r++) {
        session_trip(&s, x, key_of((uint32_t)r));
        assert_int_equal(s.report.kept[0], 30);
        for (int i = 0; i < 40; i++)
            seen[i] += s.x_hat[i] != 0;
    }
    for (int i = 0; i < 40; i++) // 4.4 standard deviations
        assert_in_range(seen[i], rounds / 4 - 120, rounds / 4 + 120);
    close_one(&s);
}

// DeMo.

static void assert_near(const float *got, const float *want, size_t n, double tol)
{
    for (size_t i = 0; i < n; i++)
        if (fabs((double)got[i] - (double)want[i]) > tol)
            fail_msg("[%zu] = %.9g, want %.9g", i, (double)got[i], (double)want[i]);
}

// A block of 2 x 2: its coefficients are half the sums with signs ++++, +-+-, ++--, +--+.
static void test_demo_by_hand(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 2, 2, "demo:keep=1,value=fp32,decay=0.5,index=log2");
    const float x[] = {4, 2, 0, -2}; // 2 2 4 0
    trip_and_keep(&s, x, 0);
    assert_near(s.x_hat, (const float[]){2, 2, -2, -2}, 4, 1e-6);
    assert_near(s.state, (const float[]){2, 0, 2, 0}, 4, 1e-6);
    assert_int_equal(s.report.kept[8], 1);
    assert_int_equal(s.msg[6], 2);  // two bits of position
    const float y[] = {0, 0, 1, 1}; // momentum 1 0 2 1: 2 1 -1 0
    trip_and_keep(&s, y, 1);
    assert_near(s.x_hat, (const float[]){1, 1, 1, 1}, 4, 1e-6);
    assert_near(s.state, (const float[]){0, -1, 1, 0}, 4, 1e-6);
    close_one(&s);
}

// With every coefficient kept the transform and its inverse are one another's, for any block.
static void test_demo_is_orthonormal(void **state)
{
    (void)state;
    static const uint32_t sizes[][2] = {{64, 128}, {16, 1000}, {29, 4},
                                        {257, 6},  {1, 77},    {60, 49}};
    for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
        struct session s;
        open_one(&s, sizes[k][0], sizes[k][1], "demo:keep=4096,value=fp32");
        size_t n = s.shape.n_values;
        float *x = mem_alloc(MEM_CODEC, n * sizeof *x);
        fill(x, n, DIST_LAPLACE, 1);
        session_trip(&s, x, key_of(0));
        assert_int_equal(s.report.kept[8], n);
        assert_true(codec_nmse(x, s.x_hat, n) < 1e-12);
        mem_free(x);
        close_one(&s);
    }
}

// 32 of 4096 coefficients: 12 bits of position and 16 of value are 0.22 bits a value; gaps are
// cheaper still.
static void test_demo_bits(void **state)
{
    (void)state;
    struct session s;
    open_one(&s, 64, 4096, "demo");
    size_t n = s.shape.n_values;
    float *x = mem_alloc(MEM_CODEC, n * sizeof *x);
    fill(x, n, DIST_NORMAL, 1);
    int64_t len = session_trip(&s, x, key_of(0));
    assert_int_equal(s.report.kept[7], n / 128);
    assert_true(8.0 * (double)len / (double)n < 0.22);
    mem_free(x);
    close_one(&s);
}

// A coefficient is averaged over those who sent it, not over all; then comes the sign.
static void test_demo_server(void **state)
{
    (void)state;
    for (int sign = 0; sign < 2; sign++) {
        struct session s;
        open_one(&s, 2, 2,
                 sign ? "demo:keep=1,value=fp32,step=0.25" : "demo:keep=1,value=fp32,sign=off");
        const float x[3][4] = {{4, 2, 0, -2}, {6, 4, -2, -4}, {1, 1, 1, 1}}; // 4 and 8 of ++--, 2
        const struct codec_agg *agg = s.c->row->agg;
        void *votes = mem_alloc(MEM_CODEC, agg->state_bytes(s.c, 4));
        float delta[4];
        agg->begin(s.c, votes, 4);
        for (uint32_t k = 0; k < 3; k++) {
            struct codec_key key = {.seed = 7, .client = k, .version = 0};
            int64_t len = session_encode(&s, x[k], key, codec_bound(s.c));
            assert_int_equal(agg->add(s.c, &key, s.msg, (size_t)len, 1 + k, votes, &s.err), 0);
            assert_int_equal(agg->add(s.c, &key, s.msg, (size_t)len - 1, 1, votes, &s.err), -1);
        }
        agg->finish(s.c, votes, NULL, 6, delta, 4); // 6 of ++--, 2 of ++++
        assert_near(
            delta, sign ? (const float[]){.25f, .25f, -.25f, -.25f} : (const float[]){4, 4, -2, -2},
            4, 1e-5);
        mem_free(votes);
        close_one(&s);
    }
}

// Sparsifiers.

#define LARGE 80000 // a sample stands for the update, and candidates come in several chunks

enum odd { ODD_NONE, ODD_EQUAL, ODD_FALSE_SAMPLE };

// Nearly all values equal, too many for candidates; or all that is large where samples are taken,
// so that they mislead.
static void fill_odd(float *x, size_t n, enum odd odd)
{
    fill(x, n, DIST_NORMAL, (uint32_t)odd);
    for (size_t i = 0; i < n; i++) {
        if (odd == ODD_EQUAL)
            x[i] = x[i] > 3e-3f ? 2 : x[i] < -3e-3f ? -2 : x[i] > 0 ? 1 : -1;
        else if (odd == ODD_FALSE_SAMPLE)
            x[i] *= i % (16 * (LARGE / 4096)) < 16 ? 1000 : 1;
    }
}

// The k largest on the side of what was kept (0 = either), of equals those that come first.
static void check_largest(const float *x, const float *x_hat, size_t n, size_t k, int side)
{
    float least = INFINITY, most = 0;
    size_t kept = 0, last = 0;
    for (size_t i = 0; i < n; i++)
        if (x_hat[i] != 0) {
            kept++;
            least = fabsf(x[i]) < least ? fabsf(x[i]) : least;
        }
    assert_int_equal(kept, k);
    for (size_t i = 0; i < n; i++)
        if (x_hat[i] != 0 && fabsf(x[i]) == least)
            last = i;
    for (size_t i = 0; i < n; i++) {
        bool on = side == 0 || (side > 0) == (x[i] > 0);
        if (x_hat[i] != 0)
            assert_true(on);
        else if (on)
            most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        if (on && x_hat[i] == 0 && fabsf(x[i]) == least)
            assert_true(i > last);
    }
    assert_true(most <= least);
}

static void test_largest_are_exact(void **state)
{
    (void)state;
    static float x[LARGE];
    pool_share_all();
    for (int odd = ODD_NONE; odd <= ODD_FALSE_SAMPLE; odd++)
        for (int threads = 1; threads <= 3; threads += 2) {
            struct session s;
            pool_open(threads);
            fill_odd(x, LARGE, (enum odd)odd);
            open_one(&s, 8, LARGE / 8, "topk:ratio=0.01,value=fp32");
            session_trip(&s, x, key_of(0));
            check_largest(x, s.x_hat, LARGE, LARGE / 100, 0);
            for (size_t i = 0; i < LARGE; i++)
                assert_true(s.x_hat[i] == 0 || s.x_hat[i] == x[i]);
            close_one(&s);
            open_one(&s, 8, LARGE / 8, "sbc:ratio=0.01");
            x[odd] = 1000; // which side is larger is seen from this
            session_trip(&s, x, key_of(0));
            check_largest(x, s.x_hat, LARGE, LARGE / 100, 1);
            close_one(&s);
        }
    pool_close();
}

// Large updates are decoded past the caches and by all threads; small ones, and additions, are not.
static void test_large_updates_decode_alike(void **state)
{
    (void)state;
    enum { ROWS = 65, COLS = 65536 };
    const size_t n = (size_t)ROWS * COLS;
    float *x = mem_alloc(MEM_CODEC, n * sizeof *x), *sum = mem_alloc(MEM_CODEC, n * sizeof *sum);
    pool_share_all();
    struct session s;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(int32_t)((uint32_t)i * 2654435769u);
    open_one(&s, ROWS, COLS, "topk:ratio=0.002");
    for (int threads = 1; threads <= 3; threads++) {
        struct codec_key key = key_of(0);
        pool_open(threads);
        int64_t len = session_trip(&s, x, key);
        memset(sum, 0, n * sizeof *sum);
        assert_int_equal(codec_decode_add(s.c, &key, s.msg, (size_t)len, 1, sum, s.scratch, &s.err),
                         0);
        assert_memory_equal(sum, s.x_hat, n * sizeof *sum);
        check_largest(x, s.x_hat, n, (size_t)ceil(.002 * (double)n), 0);
    }
    pool_close();
    mem_free(x);
    mem_free(sum);
    close_one(&s);
}

// Values that are no update: as they are, or not at all.
static void test_dense_values(void **state)
{
    (void)state;
    static const struct {
        float v;
        bool fits[DENSE_FORMATS];
    } rows[] = {{0x1.ffcp+15f, {true, true, true}},    // 65504
                {0x1.ffdffep+15f, {true, true, true}}, // rounds down to it
                {-0x1.ffep+15f, {true, false, true}},  // rounds up to 65536
                {0x1.fefffep+127f, {true, false, true}}, {-0x1.ffp+127f, {true, false, false}},
                {INFINITY, {false, false, false}},       {NAN, {false, false, false}}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        for (int f = 0; f < DENSE_FORMATS; f++) {
            float x[21] = {0}, y[21];
            uint8_t bytes[84];
            struct codec_report report = {0};
            struct err err;
            struct msg_out o;
            x[i] = rows[i].v;
            x[20] = 0.5f;
            msg_init(&o, bytes, sizeof bytes, &report);
            int rc = dense_put(&o, (enum dense_format)f, x, 21, &err);
            assert_int_equal(rc, rows[i].fits[f] ? 0 : CODEC_NONFINITE);
            if (rc)
                continue;
            assert_int_equal(msg_len(&o), dense_bytes((enum dense_format)f, 21));
            assert_int_equal(report.kept[record_width_of[f == DENSE_FP32 ? 32 : 16]], 21);
            struct msg_in m = {bytes, bytes + msg_len(&o)};
            struct quant_sink to = {y, 1, false};
            assert_int_equal(dense_get(&m, (enum dense_format)f, to, 21, &err), 0);
            assert_true(y[20] == 0.5f && fabsf(y[i] - x[i]) <= fabsf(x[i]) * 0x1p-8f);
            m = (struct msg_in){bytes, bytes + msg_len(&o) - 1};
            assert_int_equal(dense_get(&m, (enum dense_format)f, to, 21, &err), -1);
            msg_init(&o, bytes, dense_bytes((enum dense_format)f, 21) - 1, &report);
            assert_int_equal(dense_put(&o, (enum dense_format)f, x, 21, &err), -1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_natural_by_hand),
        cmocka_unit_test(test_natural_dithering_by_hand),
        cmocka_unit_test(test_threelc_by_hand),
        cmocka_unit_test(test_ef21_by_hand),
        cmocka_unit_test(test_ef21_server_keeps_the_mean),
        cmocka_unit_test(test_sketches_add_up),
        cmocka_unit_test(test_fetchsgd_by_hand),
        cmocka_unit_test(test_cocktail_by_hand),
        cmocka_unit_test(test_cocktail_draws),
        cmocka_unit_test(test_demo_by_hand),
        cmocka_unit_test(test_demo_is_orthonormal),
        cmocka_unit_test(test_demo_bits),
        cmocka_unit_test(test_demo_server),
        cmocka_unit_test(test_largest_are_exact),
        cmocka_unit_test(test_large_updates_decode_alike),
        cmocka_unit_test(test_dense_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
