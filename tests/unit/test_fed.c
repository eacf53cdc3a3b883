// The parts of fed/ that need no network: the clients' sequence, methods, schemes, checkpoints,
// slots, payloads.
#include "base/bytes.h"
#include "base/check.h"
#include "base/fsio.h"
#include "base/mem.h"
#include "base/rng.h"
#include "config.h"
#include "fed/binary.h"
#include "fed/checkpoint.h"
#include "fed/env.h"
#include "fed/fed.h"
#include "fed/method.h"
#include "fed/middle.h"
#include "fed/privacy.h"
#include "fed/product.h"
#include "fed/protocol.h"
#include "fed/slots.h"
#include "fed/workload.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[256];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/fstq-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char path[600];
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            unlink(path);
        }
    closedir(d);
    return rmdir(dir);
}

static void test_sample_is_ascending_and_covers(void **state)
{
    (void)state;
    int seen[20] = {0};
    for (uint32_t round = 1; round <= 400; round++) {
        uint32_t s[5];
        fed_sample(7, round, 20, 5, 0, s);
        for (int i = 0; i < 5; i++) {
            assert_true(s[i] < 20);
            assert_true(i == 0 || s[i] > s[i - 1]);
            seen[s[i]]++;
        }
    }
    for (int c = 0; c < 20; c++) // 100 expected, standard deviation below 9
        assert_in_range(seen[c], 60, 140);
    uint32_t all[20];
    fed_sample(7, 1, 20, 20, 0, all);
    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(all[i], i);
}

static void test_sample_depends_on_seed_and_round(void **state)
{
    (void)state;
    uint32_t a[10], b[10], c[10], again[10];
    fed_sample(1, 1, 100, 10, 0, a);
    fed_sample(2, 1, 100, 10, 0, b);
    fed_sample(1, 2, 100, 10, 0, c);
    fed_sample(1, 1, 100, 10, 0, again);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    assert_memory_equal(a, again, sizeof a);
}

static void test_dropout_has_its_rate(void **state)
{
    (void)state;
    int dropped = 0;
    for (uint32_t round = 1; round <= 1000; round++)
        for (uint32_t c = 0; c < 10; c++)
            dropped += fed_drops(3, round, c, 0.1);
    assert_in_range(dropped, 880, 1120); // 1000 expected, standard deviation 30
    assert_false(fed_drops(3, 1, 1, 0));
    assert_true(fed_drops(3, 1, 1, 1));
}

static void test_server_step_decays_over_the_second_half(void **state)
{
    (void)state;
    struct fed_params p = {.rounds = 10, .server_lr = 3, .server_lr_end = 1};
    assert_true(fed_server_lr(&p, 1) == 3 && fed_server_lr(&p, 5) == 3);
    assert_true(fabs(fed_server_lr(&p, 6) - 2.6) < 1e-12);
    assert_true(fabs(fed_server_lr(&p, 10) - 1) < 1e-12);
    p.server_lr_end = -1;
    assert_true(fed_server_lr(&p, 10) == 3);
}

static void tiny_shape(struct shape *s)
{
    shape_init(s);
    shape_add(s, "A", 2, 4, SHAPE_LORA_A);
    shape_add(s, "B", 4, 2, SHAPE_LORA_B);
    shape_seal(s);
}

static void test_methods_are_printed_expanded(void **state)
{
    (void)state;
    struct shape shape;
    struct method m, again;
    struct err err;
    tiny_shape(&shape);
    assert_int_equal(method_open(&m, "fedadam:beta1=0.5/fp16", &shape, &err), 0);
    assert_non_null(strstr(m.text, "fedadam:beta1=0.5,beta2=0.99,tau=0.001/fp16"));
    assert_int_equal(method_open(&again, m.text, &shape, &err), 0); // what is printed can be given
    assert_string_equal(again.text, m.text);
    method_close(&again);
    method_close(&m);
    assert_int_equal(method_open(&m, "fedavg", &shape, &err), 0); // an alias
    assert_non_null(strstr(m.text, "fedavg/fp32"));
    method_close(&m);
    for (int i = 0; method_aliases[i].name; i++) // every short name is one, or says why not
        assert_int_equal(method_check(method_aliases[i].name, &err),
                         method_aliases[i].expansion ? 0 : -1);
    assert_int_equal(method_open(&m, "fedavg~uniform/AB@raw", &shape, &err), 0);
    method_close(&m);
    assert_int_equal(method_open(&m, "fedavg/seg@raw", &shape, &err), 0);
    assert_string_equal(m.text, "fedavg/seg:parts=4@raw");
    method_close(&m);
    shape_free(&shape);
}

// A short name stands alone or as a codec; it takes options and wrappers, and brings its tokens
// where the method names none.
static void test_short_names(void **state)
{
    (void)state;
    static const struct {
        const char *text, *begins, *has;
    } rows[] = {
        {"fstq", "fedavg/fstq:policy=rd,budget=0.15,", "importance=fisher,gamma=0.25,norm=tensor"},
        {"fstq:budget=0.05,importance=magnitude+ef", "fedavg/fstq:policy=rd,budget=0.05,", "+ef:"},
        {"fedavg/fstq:widths=0/16", "fedavg/fstq:", "widths=0/16,"},
        {"fstq:widths=0/16+zstd", "fedavg/fstq:", "widths=0/16,"},
        {"fstq-paper", "fedavg~fisher:keep=0.5,every=10,rho=0.9,key=position,gate=on,loss=sum,",
         "/fstq:policy=percentile,budget=0.15,"},
        {"fedadam:tau=0.01/fstq-paper:tags=rice+zstd",
         "fedadam:beta1=0.9,beta2=0.99,tau=0.01~fisher:",
         "scale=group,format=fp32,tags=rice,values=packed"},
        {"fedavg/AB@fstq-paper", "fedavg~fisher:", "gamma=1,norm=none"},
        {"fedavg~uniform/fstq-paper", "fedavg/fstq:policy=percentile,", "scale=group"},
        {"fedavg~random:keep=0.3/fstq-paper", "fedavg~random:keep=0.3,", "scale=group"},
        {"fedpaq:bits=2", "fedavg/qsgd:", "bits=2,"},
        {"noop", "noop/raw", ""},
    };
    char text[1024], again[1024];
    struct err err = {""};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (method_expand(rows[i].text, text, sizeof text, &err))
            fail_msg("%s: %s", rows[i].text, err.text);
        if (strncmp(text, rows[i].begins, strlen(rows[i].begins)) || !strstr(text, rows[i].has))
            fail_msg("%s is %s", rows[i].text, text);
        assert_int_equal(method_expand(text, again, sizeof again, &err), 0);
        assert_string_equal(again, text);
    }
}

// upload_s: bytes follow the rate of the client's link; they arrive in time, and a few more would
// not. Where the link is fast, the options decide.
static void test_uplink_sets_the_budget(void **state)
{
    (void)state;
    static const double rates[] = {4e3, 64e3, 200e3, 800e3, 1e9};
    struct link_params params = {.link = "fixed", .latency_ns = 20000000};
    struct link_model link;
    struct shape shape;
    struct method m;
    struct err err = {""};
    assert_int_equal(link_open(&link, &params, 1, &err), 0);
    shape_init(&shape);
    shape_add(&shape, "A", 8, 3000, SHAPE_LORA_A);
    shape_add(&shape, "B", 2000, 8, SHAPE_LORA_B);
    shape_seal(&shape);
    size_t n = shape.n_values;
    const char *const methods[] = {
        "fstq:budget=0.5,importance=magnitude,upload_s=0.25",
        "fstq:policy=greedy,budget=0.5,importance=magnitude,upload_s=0.25+zstd",
        "fstq:budget=0.5,importance=magnitude,upload_s=0.25+ef"};
    for (size_t k = 0; k < ARRAY_LEN(methods); k++) {
        assert_int_equal(method_open(&m, methods[k], &shape, &err), 0);
        const struct fed_env env = {.link = &link, .seed = 1, .method = &m};
        const struct codec_inst *c = m.codec;
        float *x = mem_alloc(MEM_CODEC, n * sizeof *x);
        float *kept = mem_alloc(MEM_CODEC, 2 * codec_state_floats(c) * sizeof *kept + 4);
        uint8_t *msg = mem_alloc(MEM_CODEC, codec_bound(c));
        void *scratch = mem_alloc(MEM_CODEC, codec_scratch_bytes(c));
        struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
        for (size_t i = 0; i < n; i++)
            x[i] = (float)(rng_unit(&r) - 0.5);
        for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
            params.up_bps = rates[i];
            struct codec_input in = {.x = x, .state = kept, .budget_bytes = -1};
            in.state_next = kept + codec_state_floats(c);
            in.budget_bytes = fed_upload_bytes(&env, 1, 0, 5000, codec_upload_s(c));
            int64_t len = codec_encode(c, &in, msg, codec_bound(c), scratch, NULL, &err);
            if (len < 0)
                fail_msg("%s: %s", methods[k], err.text);
            struct link_transfer up = {
                .round = 1, .up = true, .t_ready_ns = 5000, .bytes = FRAME_HEADER_BYTES + len};
            double spent = (double)link_carry(&link, &(struct link_state){0}, &up).t_deliver_ns;
            double least = strstr(methods[k], "zstd") ? 0.5 : 0.99; // squeezed after the budget
            double carried = (0.25 - 0.02) * rates[i] / 8 - FRAME_HEADER_BYTES;
            if (carried > (double)n) { // 0.5 of fp16 is a byte a value; a wrapper adds its header
                assert_true(len <= (int64_t)n + 11 && (double)len > least * (double)n);
                continue;
            }
            if (spent - 5000 > 250e6)
                fail_msg("%s: %lld bytes take %g ms", methods[k], (long long)len, spent * 1e-6);
            if ((double)len < least * carried - 28)
                fail_msg("%s: %lld bytes of %g", methods[k], (long long)len, carried);
        }
        mem_free(x);
        mem_free(kept);
        mem_free(msg);
        mem_free(scratch);
        method_close(&m);
    }
    shape_free(&shape);
}

static void test_bad_methods_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *complaint;
    } bad[] = {
        {"fedsomething/fp32", "no scheme 'fedsomething'"},
        {"fedavg:lr=1/fp32", "takes no options"},
        {"fedadam:beta3=1/fp32", "beta3"},
        {"fedadam:beta1=2/fp32", "beta1"},
        {"fedadam:beta1=0.5x/fp32", "beta1"},
        {"fp32", "no '/'"},
        {"fstq-papr", "did you mean fstq-paper"},
        {"fedavg~fishr/fp32", "did you mean fisher"},
        {"fedavg~/fp32", "'~' names no token source"},
        {"fedavg/@fp32", "'@' has no view"},
        {"fedavg/topk:", "no options behind ':'"},
        {"fedavg/topk:+ef", "no options behind ':'"},
        {"fedavg/topk+ef:", "no options behind ':'"},
        {"fedavg/seg:@fp32", "no options behind ':'"},
        {"fedavg~fisher:/fp32", "no options behind ':'"},
        {"fstq:", "no options behind ':'"},
        {"fedavg~nosuch/fp32", "no token source 'nosuch'"},
        {"fedavg~oracle:keep=1/fp32", "takes no options"},
        {"fedavg~tome:keep=1/fp32", "keep"},
        {"fedavg~tome:ratio=0.6/fp32", "ratio"},
        {"fedavg~fisher:ratio=0.5/fp32", "ratio"},
        {"fedavg/XY@fp32", "no view 'XY'"},
        {"fedavg/B:parts=2@fp32", "view 'B' takes no options"},
        {"fedavg/seg:parts=1@fp32", "parts"},
        {"fedavg/seg:share=2@fp32", "share"},
        {"fedavg/alt@", ""},
        {"fedavg/fp32;fp16", "sends 1 vector"},
        {"split:cut=0/fp16", "cut"},
        {"fedavg/nosuch", "nosuch"},
        {"fedavg/", ""},
        {"/fp32", ""},
        {"", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = {""};
        assert_int_equal(method_check(bad[i].text, &err), -1);
        assert_true(err.text[0]);
        assert_non_null(strstr(err.text, bad[i].complaint));
    }
}

// One step from theta = 1, D = 0.5, lr = 0.1; Reddi et al. 2021, Algorithm 2, by hand.
static void test_adaptive_servers_by_hand(void **state)
{
    (void)state;
    struct shape shape;
    struct method m;
    struct err err;
    tiny_shape(&shape);
    float theta = 1, delta = 0.5f, s[2];
    const struct step step = {
        .theta = &theta, .delta = &delta, .state = s, .n = 1, .range = {0, 1}, .lr = 0.1};
    assert_int_equal(method_open(&m, "fedadam:beta1=0.9,beta2=0.99,tau=0.1/raw", &shape, &err), 0);
    m.scheme->init(m.scheme_opt, s, 1);
    assert_true(s[0] == 0 && fabsf(s[1] - 0.01f) < 1e-9f);
    m.scheme->commit(m.scheme_opt, &step);
    // m = 0.05; v = 0.99 * 0.01 + 0.01 * 0.25 = 0.0124; step = 0.1 * 0.05 / (0.111355 + 0.1)
    assert_true(fabsf(s[0] - 0.05f) < 1e-7f && fabsf(s[1] - 0.0124f) < 1e-7f);
    assert_true(fabsf(theta - 1.0236569f) < 1e-5f);
    method_close(&m);
    theta = 1;
    assert_int_equal(method_open(&m, "fedyogi:beta1=0.9,beta2=0.99,tau=0.1/raw", &shape, &err), 0);
    m.scheme->init(m.scheme_opt, s, 1);
    m.scheme->commit(m.scheme_opt, &step);
    // v = 0.01 - 0.01 * 0.25 * sign(0.01 - 0.25) = 0.0125
    assert_true(fabsf(s[1] - 0.0125f) < 1e-7f);
    assert_true(fabsf(theta - (1 + 0.1f * 0.05f / (0.1118034f + 0.1f))) < 1e-5f);
    method_close(&m);
    shape_free(&shape);
}

// views.

// 3 matrices: A (2, 4) at 0, B (4, 2) at 8, another (3, 3) at 16; 25 values.
static void three_tensors(struct shape *s)
{
    shape_init(s);
    shape_add(s, "A", 2, 4, SHAPE_LORA_A);
    shape_add(s, "B", 4, 2, SHAPE_LORA_B);
    shape_add(s, "C", 3, 3, SHAPE_OTHER);
    shape_seal(s);
}

static int open_view(struct view_inst *v, const char *text, const char *codec,
                     const struct shape *shape, struct err *err)
{
    return view_open(v, text, &codec, 1, shape, err);
}

static void test_parts_of_a_view_are_disjoint(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t covered;
    } views[] = {{"", 25},
                 {"B", 8},
                 {"R", 4},
                 {"alt", 16},
                 {"seg", 25},
                 {"seg:parts=7", 25},
                 {"sub:parts=1", 25},
                 {"sub:parts=2", 25},
                 {"sub:parts=3,draw=4", 25}};
    struct shape shape;
    struct err err;
    float full[25], part[25];
    three_tensors(&shape);
    for (int i = 0; i < 25; i++)
        full[i] = (float)(i + 1);
    for (size_t k = 0; k < ARRAY_LEN(views); k++) {
        struct view_inst v;
        float back[25] = {0};
        size_t covered = 0;
        assert_int_equal(open_view(&v, views[k].text, "raw", &shape, &err), 0);
        for (uint32_t p = 0; p < v.n_parts; p++) {
            const struct shape *s = &v.part[p].shape;
            assert_int_equal(v.part[p].at, covered);
            covered += s->n_values;
            view_gather(&v.part[p], full, part);
            for (uint32_t t = 0; t < s->n_tensors; t++) // kinds go with the values
                for (uint32_t j = 0; j < s->tensors[t].rows * s->tensors[t].cols; j++) {
                    float x = part[s->tensors[t].offset + j];
                    if (v.row->local)
                        assert_true(s->tensors[t].kind == SHAPE_OTHER && x > 8 && x <= 12);
                    else
                        assert_int_equal(s->tensors[t].kind, x <= 8    ? SHAPE_LORA_A
                                                             : x <= 16 ? SHAPE_LORA_B
                                                                       : SHAPE_OTHER);
                }
            view_scatter(&v.part[p], part, back);
        }
        assert_int_equal(covered, views[k].covered);
        size_t equal = 0;
        for (int i = 0; i < 25; i++) {
            assert_true(back[i] == 0 || back[i] == full[i]);
            equal += back[i] == full[i];
        }
        assert_int_equal(equal, views[k].covered);
        view_close(&v);
    }
    shape_free(&shape);
}

// Random sets: whole rows or columns, a turn of three rounds each, and never a random stream twice.
static void test_random_sets_take_turns(void **state)
{
    (void)state;
    struct shape shape;
    struct view_inst v, other;
    struct err err;
    three_tensors(&shape);
    assert_int_equal(open_view(&v, "sub:parts=2,stay=3", "raw", &shape, &err), 0);
    for (uint32_t round = 1; round <= 24; round++) {
        struct codec_key a = view_key(&v, 9, 1, round, 0);
        assert_int_equal(view_turn(&v, round, round), (round - 1) / 3 % 2);
        for (uint32_t before = 1; before < round; before++) {
            struct codec_key b = view_key(&v, 9, 1, before, 0);
            assert_true(a.seed != b.seed || a.version != b.version);
        }
    }
    for (uint32_t t = 0; t < v.part[0].shape.n_tensors; t++) {
        const struct shape_tensor *part = &v.part[0].shape.tensors[t], *whole = &shape.tensors[t];
        assert_string_equal(part->name, whole->name);
        assert_true((part->rows == whole->rows) != (part->cols == whole->cols));
    }
    assert_int_equal(open_view(&other, "sub:parts=2,stay=3,draw=2", "raw", &shape, &err), 0);
    bool differ = other.part[0].n_ranges != v.part[0].n_ranges;
    for (int i = 0; !differ && i < v.part[0].n_ranges; i++)
        differ = v.part[0].range[i].from != other.part[0].range[i].from;
    assert_true(differ);
    view_close(&other);
    view_close(&v);
    assert_int_equal(open_view(&v, "sub:parts=40", "raw", &shape, &err), -1);
    assert_non_null(strstr(err.text, "nothing to send"));
    shape_free(&shape);
}

static void test_whose_turn_it_is(void **state)
{
    (void)state;
    struct shape shape;
    struct view_inst v;
    struct err err;
    three_tensors(&shape);
    assert_int_equal(open_view(&v, "alt", "raw", &shape, &err), 0);
    for (uint32_t client = 0; client < 3; client++) {
        assert_int_equal(view_turn(&v, client, 1), 0); // B, for B = 0 leaves A no gradient
        assert_int_equal(view_turn(&v, client, 2), 1);
        assert_int_equal(view_turn(&v, client, 3), 0);
    }
    assert_int_equal(v.part[0].shape.tensors[0].kind, SHAPE_LORA_B);
    int n;
    const struct shape_range *r = view_trained(&v, 0, 2, &n);
    assert_true(n == 1 && r[0].from == 0 && r[0].to == 8);
    view_close(&v);
    // A quarter of 25 values: 6, 6, 6, 7; a matrix that is cut keeps its whole rows together.
    assert_int_equal(open_view(&v, "seg", "raw", &shape, &err), 0);
    assert_int_equal(view_turn(&v, 2, 5), 3);
    assert_null(view_trained(&v, 2, 5, &n));  // all is trained
    const struct shape *s = &v.part[1].shape; // values 6..11: two of A, four of B
    assert_int_equal(s->n_tensors, 2);
    assert_true(s->tensors[0].rows == 1 && s->tensors[0].cols == 2);
    assert_true(s->tensors[1].rows == 2 && s->tensors[1].cols == 2);
    assert_int_equal(v.part[3].shape.n_values, 7);
    // What a codec does every other time it still does when its part comes every fourth round.
    struct codec_key a = view_key(&v, 9, 1, 3, 0), b = view_key(&v, 9, 1, 7, 0);
    assert_int_equal(a.version + 1, b.version);
    assert_true(a.seed == b.seed && a.client == 1);
    view_close(&v);
    shape_free(&shape);
    tiny_shape(&shape);
    shape.tensors[0].kind = shape.tensors[1].kind = SHAPE_OTHER;
    assert_int_equal(open_view(&v, "B", "raw", &shape, &err), -1);
    assert_non_null(strstr(err.text, "nothing to send"));
    shape_free(&shape);
}

static void test_state_of_parts_lies_side_by_side(void **state)
{
    (void)state;
    struct shape shape;
    struct view_inst v;
    struct err err;
    three_tensors(&shape);
    assert_int_equal(open_view(&v, "seg:parts=3", "topk:ratio=0.5+ef", &shape, &err), 0);
    assert_int_equal(v.part[0].vector[0].state_at, 0);
    assert_int_equal(v.part[1].vector[0].state_at, 8 + 1); // residual and the round of its commit
    assert_int_equal(v.n_state, 25 + 3);
    view_close(&v);
    shape_free(&shape);
}

// By hand: B0 (3, 2), R (2, 2).
static void test_middle_by_hand(void **state)
{
    (void)state;
    struct product_pair pair = {.a = 0, .b = 4, .rank = 2, .rows = 3, .cols = 2};
    struct products p = {.pair = &pair, .n_pairs = 1};
    const float frozen[10] = {0, 0, 0, 0, 1, 2, 3, 4, 5, 6};
    const float z[10] = {7, 8, 9, 10, 1, -1, 0, 2, 99, 99}; // R = [1 -1; 0 2]
    float adapter[10], square[4];
    middle_expand(&p, frozen, z, adapter);
    const float want[10] = {7, 8, 9, 10, 1, 3, 3, 5, 5, 7}; // [1 2; 3 4; 5 6] R
    assert_memory_equal(adapter, want, sizeof want);
    float grad[10] = {0, 0, 0, 0, 1, 0, 0, 1, 1, 1};
    middle_gradient(&p, frozen, grad, square);
    const float dr[4] = {6, 8, 8, 10}; // [1 3 5; 2 4 6] [1 0; 0 1; 1 1]
    assert_memory_equal(grad + 4, dr, sizeof dr);
}

// Of two clients, each with n values and n_state of state: nothing outside of the part has moved.
static void only_part_moved(const struct view_part *part, size_t n, size_t n_state,
                            const float *delta, const float *kept, const float *before)
{
    size_t moved = 0, trained = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        bool in = false;
        for (int r = 0; r < part->n_ranges; r++)
            in |= i % n >= part->range[r].from && i % n < part->range[r].to;
        size_t at = i / n * n_state + i % n;
        trained += in;
        moved += delta[i] != 0;
        assert_true(in || delta[i] == 0);
        assert_true(in || kept[at] == before[at]);         // first moment
        assert_true(in || kept[at + n] == before[at + n]); // second
    }
    assert_int_equal(trained, 2 * part->shape.n_values);
    assert_true(moved > trained / 2);
}

// Two clients learn for two rounds with every way a frozen value might move: weight decay, momentum
// that is kept, clipping. Nothing outside the view does; and the clip sees only what is trained.
static void frozen_values(const char *method)
{
    struct config c;
    struct err err;
    struct workload w;
    struct recorder rec;
    config_defaults(&c);
    snprintf(c.model.path, sizeof c.model.path, "builtin");
    c.task.test = 4;
    c.model.lora_rank = 2;
    c.optim.weight_decay = 0.1;
    c.optim.clip = 0.5;
    c.fed.clients = c.fed.clients_per_round = 2;
    c.fed.local_steps = 2;
    c.fed.batch = 2;
    c.fed.opt_state = FED_STATE_KEEP;
    struct workload_env env = {.fed = &c.fed,
                               .fisher = &c.fisher,
                               .task = &c.task,
                               .model = &c.model,
                               .optim = &c.optim,
                               .threads = 1,
                               .seed = 1,
                               .worker = true};
    assert_int_equal(workload_open(&w, &env, &err), 0);
    struct method m;
    assert_int_equal(method_open(&m, method, &w.shape, &err), 0);
    struct local_use form = {m.view.row->local, m.view.opt};
    assert_int_equal(workload_prepare(&w, false, &form, form.rule != NULL, &err), 0);
    recorder_init(&rec, 4096, 0, false);
    size_t n = w.shape.n_values, n_state = w.row->state_floats(&w);
    float *theta = mem_alloc(MEM_OTHER, n * sizeof *theta);
    float *delta = mem_alloc(MEM_OTHER, 2 * n * sizeof *delta);
    float *kept = mem_alloc(MEM_OTHER, 2 * n_state * sizeof *kept);
    float *before = mem_alloc(MEM_OTHER, 2 * n_state * sizeof *before);
    w.row->initial(&w, theta);
    for (uint32_t round = 1; round <= 2; round++) {
        struct train_job job[2];
        const struct view_part *part = &m.view.part[view_turn(&m.view, 0, round)];
        memcpy(before, kept, 2 * n_state * sizeof *kept);
        for (uint32_t k = 0; k < 2; k++) {
            job[k] = (struct train_job){.client = k,
                                        .steps = c.fed.local_steps,
                                        .round = round,
                                        .theta = theta,
                                        .delta = delta + k * n,
                                        .state = kept + k * n_state,
                                        .tokens = m.tokens,
                                        .token_opt = &m.token_opt};
            job[k].trained = view_trained(&m.view, k, round, &job[k].n_trained);
        }
        w.row->train(&w, job, 2, &rec);
        only_part_moved(part, n, n_state, delta, kept, before);
        for (size_t i = 0; i < n; i++)
            theta[i] += delta[i];
    }
    void *blocks[] = {theta, delta, kept, before};
    for (size_t i = 0; i < ARRAY_LEN(blocks); i++)
        mem_free(blocks[i]);
    recorder_free(&rec);
    method_close(&m);
    workload_close(&w);
}

static void test_frozen_values_do_not_move(void **state)
{
    (void)state;
    frozen_values("fedavg/alt@raw");
    frozen_values("fedavg/B@raw");
    frozen_values("fedavg/R@raw");
    frozen_values("fedavg/sub:parts=3@raw");
}

// binary updates.

// One matrix of m = (0.5, -1, 3, -3.5), alpha = mean |m| = 2, by hand; a second that has not moved.
static void test_binary_by_hand(void **state)
{
    (void)state;
    struct shape shape;
    struct binary b;
    const struct binary_opt opt = {.rho = 6, .alpha_max = 10};
    float block[10];
    const float theta[6] = {1, 1, 1, 1, 5, 5}, adapter[6] = {1.5f, 0, 4, -2.5f, 5, 5};
    shape_init(&shape);
    shape_add(&shape, "A", 1, 4, SHAPE_LORA_A);
    shape_add(&shape, "B", 2, 1, SHAPE_LORA_B);
    assert_int_equal(binary_floats(&shape), 10);
    binary_init(&b, &opt, &shape, block);
    binary_begin(&b, theta, adapter);
    assert_true(binary_alpha(&b, 0) == 2 && binary_alpha(&b, 1) == 0);

    // P(+) = 0.625, 0.25, 1, 0: the mean of y is m where |m| <= alpha.
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    float y[6];
    int plus[4] = {0};
    for (int k = 0; k < 10000; k++) {
        binary_draw(&b, theta, adapter, &r, y);
        for (int i = 0; i < 4; i++) {
            assert_true(fabsf(y[i]) == 2);
            plus[i] += y[i] > 0;
        }
        assert_true(y[4] == 0 && y[5] == 0);
    }
    assert_in_range(plus[0], 6000, 6500); // standard deviation 48
    assert_in_range(plus[1], 2280, 2720); // 43
    assert_true(plus[2] == 10000 && plus[3] == 0);

    // dalpha = 1 (1 - 0.25) + 2 (-1 + 0.5) + 4 - 8 = -4.25; da = 6 * 2 * that
    const float drawn[6] = {2, -2, 2, -2, 0, 0};
    float grad[6] = {1, 2, 4, 8, 16, 32};
    binary_gradient(&b, theta, adapter, drawn, grad);
    assert_true(grad[0] == 1 && grad[1] == 2 && grad[2] == 0 && grad[3] == 0);
    assert_true(grad[4] == 16 && grad[5] == 32); // full precision
    assert_true(fabsf(b.grad[0] + 51) < 1e-4f && b.grad[1] == 0);

    // The first step of Adam is lr against the sign; alpha = 2 exp(6 * 0.01)
    struct optim_params p = {
        .kind = OPTIM_ADAMW, .lr = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    binary_step(&b, &p);
    assert_true(fabsf(b.a[0] - 0.01f) < 1e-6f);
    assert_true(fabs(binary_alpha(&b, 0) - 2 * exp(0.06)) < 1e-5);
    const struct binary_opt tight = {.rho = 6, .alpha_min = 1, .alpha_max = 1.5};
    b.opt = &tight; // what the clamp holds does not learn
    assert_true(binary_alpha(&b, 0) == 1.5);
    binary_gradient(&b, theta, adapter, drawn, grad);
    assert_true(b.grad[0] == 0);
    shape_free(&shape);
}

// products.

#define PR_CLIENTS 3

// Adapter of two pairs: ranks 2; (3 x 5) and (4 x 5). A tensors first, as models lay them out.
static void pair_shape(struct shape *s)
{
    shape_init(s);
    shape_add(s, "q.A", 2, 5, SHAPE_LORA_A);
    shape_add(s, "k.A", 2, 5, SHAPE_LORA_A);
    shape_add(s, "q.B", 3, 2, SHAPE_LORA_B);
    shape_add(s, "k.B", 4, 2, SHAPE_LORA_B);
    shape_seal(s);
}

static double product_at(const float *a, const float *b, size_t row, size_t col)
{
    return (double)b[2 * row] * (double)a[col] + (double)b[2 * row + 1] * (double)a[5 + col];
}

// The largest error of (B A of theta) + backbone against the weighted mean of the clients'
// products, by definition and in double. flora: the server's adapter begins anew.
static double distance_from_mean(const char *scheme, double *largest)
{
    struct shape shape;
    struct products p;
    struct err err;
    struct rng r = rng_stream(3, RNG_TEST, 0, 0, 0);
    float theta[34], delta[PR_CLIENTS][34], mean[34] = {0}, sum[35] = {0}, backbone[35] = {0};
    const double weight[PR_CLIENTS] = {1, 2, 5};
    const struct scheme *s = scheme_find(scheme);
    pair_shape(&shape);
    assert_int_equal(shape.n_values, 34);
    assert_int_equal(products_open(&p, &shape, &err), 0);
    assert_int_equal(p.n, 35);
    for (int i = 0; i < 34; i++)
        theta[i] = i < 20 || !s->fresh ? (float)rng_normal(&r) : 0;
    double want[35] = {0};
    for (int k = 0; k < PR_CLIENTS; k++) {
        float own[34];
        for (int i = 0; i < 34; i++) {
            delta[k][i] = (float)rng_normal(&r);
            mean[i] += (float)(weight[k] / 8) * delta[k][i];
            own[i] = theta[i] + delta[k][i];
        }
        for (size_t i = 0; i < 35; i++)
            want[i] += weight[k] / 8 *
                       (i < 15 ? product_at(own, own + 20, i / 5, i % 5)
                               : product_at(own + 10, own + 26, (i - 15) / 5, i % 5));
        products_add(&p, theta, delta[k], (float)weight[k], sum);
    }
    products_mean(&p, theta, 8, 1, sum);
    const struct step step = {.theta = theta, .delta = mean, .n = 34, .range = {0, 34}, .lr = 1};
    s->commit(NULL, &step);
    for (int i = 0; i < 34 && s->fresh; i++)
        theta[i] = i < 20 ? 1 : 0;
    if (s->backbone)
        products_rest(&p, theta, sum, backbone);
    double worst = 0;
    *largest = 0;
    for (size_t i = 0; i < 35; i++) {
        double got = (double)backbone[i] +
                     (i < 15 ? product_at(theta, theta + 20, i / 5, i % 5)
                             : product_at(theta + 10, theta + 26, (i - 15) / 5, i % 5));
        worst = fmax(worst, fabs(got - want[i]));
        *largest = fmax(*largest, fabs(want[i]));
    }
    products_close(&p);
    shape_free(&shape);
    return worst;
}

static void test_mean_of_products(void **state)
{
    (void)state;
    double largest;
    assert_true(distance_from_mean("fedex", &largest) < 1e-6 * largest);
    assert_true(distance_from_mean("flora", &largest) < 1e-6 * largest);
    assert_true(distance_from_mean("fedavg", &largest) > 0.1 * largest);
    struct shape shape;
    struct products p;
    struct err err;
    shape_init(&shape);
    shape_add(&shape, "q.A", 2, 5, SHAPE_LORA_A);
    shape_add(&shape, "k.B", 3, 2, SHAPE_LORA_B);
    assert_int_equal(products_open(&p, &shape, &err), -1);
    assert_non_null(strstr(err.text, "q.A"));
    shape_free(&shape);
}

// A change of one coordinate moves the products by its square times its reach; by hand where both
// matrices are simple, and everywhere by the products themselves.
static void test_reach_of_coordinates(void **state)
{
    (void)state;
    struct shape shape;
    struct products p;
    struct err err;
    struct rng r = rng_stream(4, RNG_TEST, 0, 0, 0);
    float theta[34] = {0}, delta[34] = {0}, reach[34];
    pair_shape(&shape);
    assert_int_equal(products_open(&p, &shape, &err), 0);
    theta[20] = 3; // the first column of q.B is (3, 0, -4), of which -4 is new
    delta[24] = -4;
    theta[7] = 2; // the second row of q.A is (0, 0, 2, 0, 0)
    products_reach(&p, theta, delta, 34, reach);
    for (int i = 0; i < 34; i++)
        assert_true(reach[i] == (i < 5 ? 25 : i >= 20 && i < 26 && i % 2 ? 4 : 0));
    for (int i = 0; i < 34; i++) {
        theta[i] = (float)rng_normal(&r);
        delta[i] = (float)rng_normal(&r);
    }
    products_reach(&p, theta, delta, 34, reach);
    for (int i = 0; i < 34; i++) {
        float moved[35] = {0};
        double sq = 0;
        products_add(&p, theta, delta, -1, moved);
        delta[i] += 0.5f;
        products_add(&p, theta, delta, 1, moved);
        delta[i] -= 0.5f;
        for (int k = 0; k < 35; k++)
            sq += (double)moved[k] * (double)moved[k];
        assert_true(fabs(sq - 0.25 * (double)reach[i]) < 1e-5 * (1 + (double)reach[i]));
    }
    products_close(&p);
    shape_free(&shape);
}

// clip and noise.

static void test_clipping_by_hand(void **state)
{
    (void)state;
    struct client_params p = {.dp_clip = 1};
    float x[2] = {3, 4};
    assert_true(privacy_apply(&p, 1, 0, 1, x, 2) == 5);
    assert_true(x[0] == 0.6f && x[1] == 0.8f);
    float small[2] = {0.3f, 0.4f}; // within the ball: as it was
    assert_true(fabs(privacy_apply(&p, 1, 0, 1, small, 2) - 0.5) < 1e-7);
    assert_true(small[0] == 0.3f && small[1] == 0.4f);
    float zero[2] = {0, 0};
    assert_true(privacy_apply(&p, 1, 0, 1, zero, 2) == 0 && zero[0] == 0);
    p.dp_clip = 0;
    float off[2] = {3, 4};
    assert_true(privacy_apply(&p, 1, 0, 1, off, 2) == 5 && off[0] == 3);
    struct err err;
    p.dp_sigma = 1;
    assert_int_equal(client_check(&p, &err), -1);
    assert_non_null(strstr(err.text, "client.dp_clip"));
    p.dp_clip = 1;
    assert_int_equal(client_check(&p, &err), 0);
}

// 200,000 draws: mean within 5 standard errors, variance within 5 of its own, 4th moment near 3
// sigma^4, and no correlation between clients or rounds.
static void test_noise_is_gaussian_and_keyed(void **state)
{
    (void)state;
    enum { N = 200000 };
    struct client_params p = {.dp_clip = 2, .dp_sigma = 0.5}; // standard deviation 1
    float *x[3];
    for (int k = 0; k < 3; k++) {
        x[k] = mem_alloc(MEM_OTHER, N * sizeof(float));
        privacy_apply(&p, 1, k == 1, k == 2 ? 2 : 1, x[k], N);
    }
    double sum = 0, sq = 0, fourth = 0, cross[2] = {0, 0};
    for (int i = 0; i < N; i++) {
        double v = (double)x[0][i];
        sum += v;
        sq += v * v;
        fourth += v * v * v * v;
        cross[0] += v * (double)x[1][i];
        cross[1] += v * (double)x[2][i];
    }
    double root = sqrt((double)N);
    assert_true(fabs(sum) < 5 * root);
    assert_true(fabs(sq - N) < 5 * sqrt(2.0) * root);
    assert_true(fabs(fourth / N - 3) < 0.15);
    assert_true(fabs(cross[0]) < 5 * root && fabs(cross[1]) < 5 * root);
    float *again = mem_alloc(MEM_OTHER, N * sizeof(float));
    privacy_apply(&p, 1, 0, 1, again, N);
    assert_memory_equal(again, x[0], N * sizeof(float));
    for (int k = 0; k < 3; k++)
        mem_free(x[k]);
    mem_free(again);
}

// checkpoints.

#define CK_N     37
#define CK_SLOTS 5

static struct checkpoint ck_expect(void)
{
    return (struct checkpoint){.config_hash = 1,
                               .registry = 3,
                               .n = CK_N,
                               .n_state = 2 * CK_N,
                               .n_batteries = CK_SLOTS,
                               .n_slots = CK_SLOTS};
}

static void ck_write(uint32_t round)
{
    struct checkpoint c = ck_expect();
    struct err err;
    float theta[CK_N], s[2 * CK_N];
    c.round = round;
    c.run_id = 99;
    c.first_loss = 3.5;
    c.last_loss = 3.5 - 0.25 * round;
    c.totals.uplink_bytes = 1000 * round;
    for (int i = 0; i < CK_N; i++)
        theta[i] = (float)(i + 100 * (int)round);
    for (int i = 0; i < 2 * CK_N; i++)
        s[i] = (float)i * 0.5f;
    struct slot_gen slots[CK_SLOTS];
    for (uint32_t i = 0; i < CK_SLOTS; i++)
        slots[i] = (struct slot_gen){round - i % 2, 7 + i};
    double battery[CK_SLOTS];
    for (uint32_t i = 0; i < CK_SLOTS; i++)
        battery[i] = 0.25 * round - i;
    struct checkpoint_data d = {theta, s, slots, battery, NULL};
    uint8_t *buf = mem_alloc(MEM_OTHER, checkpoint_bytes(&c));
    assert_int_equal(checkpoint_write(dir, &c, &d, buf, &err), 0);
    mem_free(buf);
}

static int ck_read(struct checkpoint *c, float *theta, struct err *err)
{
    float s[2 * CK_N];
    struct slot_gen slots[CK_SLOTS];
    double battery[CK_SLOTS];
    struct checkpoint_data d = {theta, s, slots, battery, NULL};
    *c = ck_expect();
    int rc = checkpoint_read(dir, c, &d, err);
    for (uint32_t i = 0; rc == 1 && i < CK_SLOTS; i++)
        assert_true(slots[i].round == c->round - i % 2 && slots[i].epoch == 7 + i &&
                    battery[i] == 0.25 * c->round - i);
    return rc;
}

static void test_checkpoint_returns_the_newest(void **state)
{
    (void)state;
    struct checkpoint c;
    struct err err;
    float theta[CK_N];
    assert_int_equal(ck_read(&c, theta, &err), 0);
    for (uint32_t round = 1; round <= 5; round++)
        ck_write(round);
    assert_int_equal(ck_read(&c, theta, &err), 1);
    assert_int_equal(c.round, 5);
    assert_int_equal(c.run_id, 99);
    assert_int_equal(c.totals.uplink_bytes, 5000);
    assert_true(c.first_loss == 3.5 && c.last_loss == 2.25);
    for (int i = 0; i < CK_N; i++)
        assert_true(theta[i] == (float)(i + 500));
}

static void file_path(char *out, size_t size, int generation)
{
    snprintf(out, size, "%s/server.%c.ckpt", dir, 'a' + generation);
}

// Truncated at every length, and with every byte flipped: the other generation is taken, never a
// wrong one.
static void test_damaged_checkpoints_fall_back(void **state)
{
    (void)state;
    char path[600];
    struct checkpoint c;
    struct err err;
    float theta[CK_N];
    uint8_t *sound;
    size_t len;
    ck_write(8);
    ck_write(9);
    file_path(path, sizeof path, 1); // round 9 is odd
    assert_int_equal(fsio_read(path, 1 << 20, MEM_OTHER, &sound, &len, &err), 0);
    assert_int_equal(freopen("/dev/null", "w", stderr) != NULL, 1); // one warning a try is expected
    for (size_t cut = 0; cut < len; cut += 16) {
        assert_int_equal(fsio_replace(path, sound, cut, &err), 0);
        assert_int_equal(ck_read(&c, theta, &err), 1);
        assert_int_equal(c.round, 8);
    }
    for (size_t at = 0; at < len; at += 3) {
        sound[at] ^= (uint8_t)(1u << (at % 8));
        assert_int_equal(fsio_replace(path, sound, len, &err), 0);
        assert_int_equal(ck_read(&c, theta, &err), 1);
        assert_int_equal(c.round, 8);
        sound[at] ^= (uint8_t)(1u << (at % 8));
    }
    assert_int_equal(fsio_replace(path, sound, len, &err), 0);
    assert_int_equal(ck_read(&c, theta, &err), 1);
    assert_int_equal(c.round, 9);
    // Both damaged: an error, not a fresh start.
    assert_int_equal(fsio_replace(path, sound, 40, &err), 0);
    file_path(path, sizeof path, 0);
    assert_int_equal(fsio_replace(path, sound, 41, &err), 0);
    assert_int_equal(ck_read(&c, theta, &err), -1);
    assert_non_null(strstr(err.text, dir));
    mem_free(sound);
}

static void test_checkpoint_of_another_config_is_refused(void **state)
{
    (void)state;
    struct checkpoint c;
    struct err err;
    float theta[CK_N], s[2 * CK_N];
    struct slot_gen slots[CK_SLOTS + 1];
    double battery[CK_SLOTS];
    struct checkpoint_data d = {theta, s, slots, battery, NULL};
    ck_write(2);
    c = ck_expect();
    c.config_hash = 2;
    assert_int_equal(checkpoint_read(dir, &c, &d, &err), -1);
    assert_non_null(strstr(err.text, "another configuration"));
    c = ck_expect();
    c.registry = 4;
    assert_int_equal(checkpoint_read(dir, &c, &d, &err), -1);
    assert_non_null(strstr(err.text, "another shape"));
    c = ck_expect();
    c.n_batteries--;
    assert_int_equal(checkpoint_read(dir, &c, &d, &err), -1);
    assert_non_null(strstr(err.text, "another shape"));
    c = ck_expect();
    c.n_slots++;
    assert_int_equal(checkpoint_read(dir, &c, &d, &err), -1);
    assert_non_null(strstr(err.text, "another shape"));
}

// slots.

static struct slots *open_slots(int rank, uint32_t epoch)
{
    struct err err;
    struct slots *s = slots_open(dir, rank, 77, epoch, 3, epoch > 1, &err);
    assert_non_null(s);
    return s;
}

// The state after `round`, following on that of newest, with the checkpoint of kept on disk.
static void put(struct slots *s, uint32_t client, uint32_t round, struct slot_gen newest,
                uint32_t kept)
{
    struct err err;
    float v[3] = {(float)client, (float)round, 1};
    assert_int_equal(slots_write(s, client, round, newest, kept, v, &err), 0);
}

static void expect(struct slots *s, uint32_t client, uint32_t round, uint32_t epoch, bool there)
{
    float v[3] = {9, 9, 9};
    struct slot_gen gen = {round, epoch};
    assert_int_equal(slots_have(s, client, gen), there);
    assert_int_equal(slots_read(s, client, gen, v), there);
    assert_true(v[0] == (there ? (float)client : 0) && v[1] == (there ? (float)round : 0) &&
                v[2] == (there ? 1 : 0));
}

static void test_slots_keep_three_generations(void **state)
{
    (void)state;
    float v[3] = {9, 9, 9};
    struct slots *s = open_slots(1, 1);
    assert_true(slots_read(s, 4, (struct slot_gen){0}, v)); // none yet: zeros
    assert_true(v[0] == 0 && v[1] == 0 && v[2] == 0);
    for (uint32_t r = 2; r <= 5; r++)
        put(s, 4, r, (struct slot_gen){r - 1, 1}, r - 1);
    for (uint32_t r = 2; r <= 5; r++)
        expect(s, 4, r, 1, r > 2);
    expect(s, 5, 5, 1, false);                // a neighbour has nothing
    put(s, 4, 6, (struct slot_gen){4, 1}, 5); // 5 was not taken: it goes, all others stay
    for (uint32_t r = 3; r <= 6; r++)
        expect(s, 4, r, 1, r != 5);
    slots_close(s);
}

// While no checkpoint can be written, the state before the last one stays however often a client
// takes part.
static void test_slots_keep_what_the_checkpoint_needs(void **state)
{
    (void)state;
    struct slots *s = open_slots(1, 1);
    for (uint32_t r = 2; r <= 9; r++) {
        put(s, 4, r, (struct slot_gen){r - 1, 1}, r < 4 ? r - 1 : 3);
        expect(s, 4, r, 1, true);
        expect(s, 4, r - 1, 1, r > 2);
        expect(s, 4, 3, 1, r >= 3);
    }
    put(s, 4, 10, (struct slot_gen){9, 1}, 9); // written again
    put(s, 4, 11, (struct slot_gen){10, 1}, 10);
    expect(s, 4, 3, 1, false);
    slots_close(s);
}

static void test_slots_after_a_resume(void **state)
{
    (void)state;
    struct slots *s = open_slots(1, 1), *other = open_slots(2, 1);
    put(s, 1, 3, (struct slot_gen){0}, 0);
    put(s, 1, 4, (struct slot_gen){3, 1}, 3);
    put(other, 2, 3, (struct slot_gen){0}, 0);
    put(other, 2, 5, (struct slot_gen){3, 1}, 3);
    slots_close(s);
    slots_close(other);
    s = open_slots(1, 2); // after round 3
    expect(s, 1, 3, 1, true);
    expect(s, 2, 3, 1, true); // found in the other rank's file
    put(s, 1, 4, (struct slot_gen){3, 1}, 3);
    expect(s, 1, 4, 2, true);
    expect(s, 1, 4, 1, false); // that of the round which is done again is gone
    put(s, 2, 5, (struct slot_gen){3, 1}, 3);
    slots_close(s);
    s = open_slots(3, 3); // both ranks have a round 5 of client 2: only one of them is meant
    expect(s, 2, 5, 2, true);
    expect(s, 2, 5, 3, false);
    slots_close(s);
    struct err err;
    s = slots_open(dir, 1, 78, 1, 3, true, &err); // another run's slots do not exist
    expect(s, 1, 3, 1, false);
    slots_close(s);
}

static void test_a_damaged_slot_does_not_exist(void **state)
{
    (void)state;
    char path[600];
    struct slots *s = open_slots(1, 1);
    put(s, 0, 1, (struct slot_gen){0}, 0);
    put(s, 0, 2, (struct slot_gen){1, 1}, 1);
    slots_close(s);
    snprintf(path, sizeof path, "%s/slots.1", dir);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 40 + 12 + 40 + 5, SEEK_SET); // a byte of the second generation's floats
    fputc(0x5a, f);
    fclose(f);
    s = open_slots(1, 2);
    expect(s, 0, 2, 1, false);
    expect(s, 0, 1, 1, true);
    slots_close(s);
}

// A write that ends early is told with the reason, not with "Success"; what is there stays.
static void test_a_slot_cut_short_has_a_reason(void **state)
{
    (void)state;
    struct err err = {""};
    float v[3] = {0, 7, 1};
    struct slots *s = open_slots(1, 1);
    struct rlimit old, limit;
    put(s, 0, 1, (struct slot_gen){0}, 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limit = (struct rlimit){40 + 12 + 20, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    int rc = slots_write(s, 0, 2, (struct slot_gen){1, 1}, 1, v, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(rc, -1);
    assert_non_null(strstr(err.text, strerror(EFBIG)));
    expect(s, 0, 1, 1, true);
    expect(s, 0, 2, 1, false);
    slots_close(s);
}

// What bears the name of a slot file and is none is left alone, and blocks nobody.
static void test_only_regular_files_are_slots(void **state)
{
    (void)state;
    char path[600], target[600];
    struct err err = {""};
    struct slots *s = open_slots(1, 1);
    put(s, 0, 1, (struct slot_gen){0}, 0);
    slots_close(s);
    snprintf(path, sizeof path, "%s/slots.2", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    s = open_slots(1, 2);
    expect(s, 0, 1, 1, true);
    slots_close(s);
    assert_null(slots_open(dir, 2, 77, 1, 3, false, &err));
    assert_non_null(strstr(err.text, path));
    snprintf(path, sizeof path, "%s/slots.3", dir);
    snprintf(target, sizeof target, "%s/slots.1", dir);
    assert_int_equal(symlink(target, path), 0);
    assert_null(slots_open(dir, 3, 77, 1, 3, false, &err));
    s = open_slots(1, 2);
    expect(s, 0, 1, 1, true); // not emptied through the link
    slots_close(s);
}

// payloads.

static void test_hello_and_welcome_round_trip(void **state)
{
    (void)state;
    struct hello h = {.config_hash = 5, .rank = 3, .threads = 2}, g;
    uint8_t b[HELLO_BYTES + 1];
    hello_local(&h);
    snprintf(h.host, sizeof h.host, "jetson-7");
    hello_put(&h, b);
    assert_int_equal(hello_get(b, HELLO_BYTES, &g), 0);
    assert_int_equal(g.config_hash, 5);
    assert_int_equal(g.pid, getpid());
    assert_string_equal(g.host, "jetson-7");
    assert_string_equal(g.build, h.build);
    assert_true(hello_alive(&g));
    g.pid = 0x3fffff0; // beyond any pid_max of ours
    assert_false(hello_alive(&g));
    g.pid_space++; // of another container: nothing can be said
    assert_true(hello_alive(&g));
    assert_int_equal(hello_get(b, HELLO_BYTES - 1, &g), -1);
    assert_int_equal(hello_get(b, HELLO_BYTES + 1, &g), -1);
    uint8_t t = b[0];
    b[0] = b[3];
    b[3] = t;
    assert_int_equal(hello_get(b, HELLO_BYTES, &g), -1); // another byte order
    struct welcome w = {1, 2, 3, -4}, v;
    uint8_t wb[WELCOME_BYTES];
    welcome_put(&w, wb);
    assert_int_equal(welcome_get(wb, WELCOME_BYTES, &v), 0);
    assert_true(v.run_id == 1 && v.max_payload_bytes == 2 && v.resumed_at == 3 &&
                v.origin_ns == -4);
}

static void test_vectors_of_a_frame(void **state)
{
    (void)state;
    uint8_t b[64] = {0};
    const size_t len[3] = {5, 0, 7};
    const uint8_t *at[3];
    size_t got[3];
    assert_int_equal(vectors_head_bytes(1), 0); // one message is the payload
    assert_int_equal(vectors_get(b, 9, 1, at, got), 0);
    assert_true(at[0] == b && got[0] == 9);
    assert_int_equal(vectors_head_bytes(3), 12);
    vectors_put_head(b, len, 3);
    assert_int_equal(vectors_get(b, 12 + 12, 3, at, got), 0);
    assert_true(at[0] == b + 12 && at[1] == b + 17 && at[2] == b + 17);
    assert_memory_equal(got, len, sizeof len);
    for (size_t size = 0; size < sizeof b; size++)
        if (size != 24) // too short, or with bytes that belong to nobody
            assert_int_equal(vectors_get(b, size, 3, at, got), -1);
    b[3] = 0x80; // a first message of 2 GiB
    assert_int_equal(vectors_get(b, 24, 3, at, got), -1);
}

static void test_events_lengths_are_checked(void **state)
{
    (void)state;
    struct rec_event e[3] = {{.client = 1}, {.client = 2}, {.client = 3}};
    struct rec_message m = {.client = 9};
    const struct rows_section out[] = {
        {REC_EVENTS, 3, e}, {REC_SENSORS, 0, NULL}, {REC_MESSAGES, 1, &m}};
    size_t len = rows_bytes(out, ARRAY_LEN(out)), at = 0;
    uint8_t *b = mem_alloc(MEM_OTHER, len);
    struct rows_section in;
    rows_put(b, out, ARRAY_LEN(out));
    for (size_t i = 0; i < ARRAY_LEN(out); i++) {
        assert_int_equal(rows_get(b, len, &at, &in), 1);
        assert_true(in.id == out[i].id && in.n == out[i].n);
        if (in.n)
            assert_memory_equal(in.rows, out[i].rows, in.n * record_tables[in.id].row_bytes);
    }
    assert_int_equal(rows_get(b, len, &at, &in), 0);
    assert_int_equal(at, len);
    for (size_t cut = 1; cut < ROWS_SECTION_BYTES + sizeof e; cut++) {
        at = 0;
        assert_int_equal(rows_get(b, cut, &at, &in), -1);
    }
    const uint32_t lies[][2] = {{REC_COUNT, 0}, {REC_EVENTS, UINT32_MAX}, {UINT32_MAX, 1}};
    for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
        at = 0;
        put_u32(b, lies[i][0]);
        put_u32(b + 4, lies[i][1]);
        assert_int_equal(rows_get(b, len, &at, &in), -1);
    }
    mem_free(b);
}

#define IN_DIR(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

// At a real pace each sampled client has a rank to itself, and each of a rank's its chance.
static void test_sampled_apart(void **state)
{
    (void)state;
    uint32_t out[4];
    int seen[11] = {0};
    for (uint32_t round = 1; round <= 4000; round++) {
        fed_sample(3, round, 11, 4, 5, out);
        unsigned owners = 0;
        for (int i = 0; i < 4; i++) {
            assert_true(out[i] < 11 && (i == 0 || out[i] > out[i - 1]));
            owners |= 1u << fed_owner(out[i], 5);
            seen[out[i]]++;
        }
        assert_int_equal(__builtin_popcount(owners), 4);
    }
    // Worker 1 owns clients 0, 5 and 10, the others two each.
    for (int c = 0; c < 11; c++)
        assert_in_range(seen[c], c % 5 == 0 ? 980 : 1500, c % 5 == 0 ? 1150 : 1700);
    uint32_t one[2];
    fed_sample(3, 1, 2, 2, 9, one); // more workers than clients
    assert_true(one[0] == 0 && one[1] == 1);
}

static void test_a_task_says_when_its_round_began(void **state)
{
    (void)state;
    struct round_start a = {.round = 7, .run_ns = 12345678901234, .clock_ns = 42}, b = {.round = 7};
    uint8_t bytes[ROUND_START_BYTES + 1];
    round_start_put(&a, bytes);
    assert_int_equal(round_start_get(bytes, ROUND_START_BYTES, &b), 0);
    assert_true(a.run_ns == b.run_ns && a.clock_ns == b.clock_ns);
    assert_int_equal(round_start_get(bytes, 0, &b), 0); // a link that does not vary
    assert_true(b.run_ns == 0 && b.clock_ns == 0 && b.round == 7);
    for (size_t len = 1; len <= sizeof bytes; len++)
        if (len != ROUND_START_BYTES)
            assert_int_equal(round_start_get(bytes, len, &b), -1);
    a.run_ns = -1; // before the run
    round_start_put(&a, bytes);
    assert_int_equal(round_start_get(bytes, ROUND_START_BYTES, &b), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sample_is_ascending_and_covers),
        cmocka_unit_test(test_sample_depends_on_seed_and_round),
        cmocka_unit_test(test_dropout_has_its_rate),
        cmocka_unit_test(test_server_step_decays_over_the_second_half),
        cmocka_unit_test(test_methods_are_printed_expanded),
        cmocka_unit_test(test_short_names),
        cmocka_unit_test(test_uplink_sets_the_budget),
        cmocka_unit_test(test_bad_methods_are_named),
        cmocka_unit_test(test_adaptive_servers_by_hand),
        cmocka_unit_test(test_parts_of_a_view_are_disjoint),
        cmocka_unit_test(test_random_sets_take_turns),
        cmocka_unit_test(test_whose_turn_it_is),
        cmocka_unit_test(test_state_of_parts_lies_side_by_side),
        cmocka_unit_test(test_middle_by_hand),
        cmocka_unit_test(test_binary_by_hand),
        cmocka_unit_test(test_frozen_values_do_not_move),
        cmocka_unit_test(test_mean_of_products),
        cmocka_unit_test(test_reach_of_coordinates),
        cmocka_unit_test(test_clipping_by_hand),
        cmocka_unit_test(test_noise_is_gaussian_and_keyed),
        IN_DIR(test_checkpoint_returns_the_newest),
        IN_DIR(test_damaged_checkpoints_fall_back),
        IN_DIR(test_checkpoint_of_another_config_is_refused),
        IN_DIR(test_slots_keep_three_generations),
        IN_DIR(test_slots_keep_what_the_checkpoint_needs),
        IN_DIR(test_slots_after_a_resume),
        IN_DIR(test_a_damaged_slot_does_not_exist),
        cmocka_unit_test(test_sampled_apart),
        cmocka_unit_test(test_a_task_says_when_its_round_began),
        IN_DIR(test_a_slot_cut_short_has_a_reason),
        IN_DIR(test_only_regular_files_are_slots),
        cmocka_unit_test(test_hello_and_welcome_round_trip),
        cmocka_unit_test(test_vectors_of_a_frame),
        cmocka_unit_test(test_events_lengths_are_checked),
    };
    return cmocka_run_group_tests_name("fed", tests, NULL, NULL);
}
