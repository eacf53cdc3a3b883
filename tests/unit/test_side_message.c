// Messages of activations and the cache that keeps them: what is read is what was written, nothing
// else is believed, and what goes when there is no room is the oldest.
#include "base/bytes.h"
#include "base/mem.h"
#include "base/rng.h"
#include "fed/side_cache.h"
#include "fed/side_message.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 2, DIM = 24, CLASSES = 10, ROWS = 5, SCORED = 2, SEED = 9 };
static const struct side_form base = {.layers = LAYERS,
                                      .dim = DIM,
                                      .classes = CLASSES,
                                      .rows = ROWS,
                                      .scored = SCORED,
                                      .examples = 3};
static const char *const codecs[] = {"fp32", "fp16", "int:bits=8", "int:bits=4", "nf4"};

static struct side_form form_of(bool pivot, bool labels, const char *codec)
{
    struct side_form f = base;
    struct err err;
    f.pivot = pivot;
    f.labels = labels;
    f.rows = pivot ? SCORED : ROWS;
    if (side_measure(&f, codec, &err))
        fail_msg("%s: %s", codec, err.text);
    return f;
}

static void noise(uint32_t stream, size_t n, float *x)
{
    struct rng r = rng_stream(7, RNG_TEST, stream, 0, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(&r);
}

static const int32_t label[SCORED] = {9, 0};
static float x[512], back[512];

static size_t put(struct side_coder *c, const struct side_example *e, uint8_t *out, size_t cap,
                  struct codec_report *report)
{
    struct err err;
    struct msg_out o;
    const struct side_head h = {100, 300, 2};
    msg_init(&o, out, cap, report);
    if (side_put_head(&o, &h, &err))
        return 0;
    for (int i = 0; i < 2; i++)
        if (side_put(&o, c, e, c->form->labels ? label : NULL, &err))
            return 0;
    return (size_t)msg_len(&o);
}

static int get(struct side_coder *c, const uint8_t *in, size_t len, struct side_example *e,
               int32_t *labels)
{
    struct err err = {""};
    struct msg_in m;
    struct side_head h;
    struct side_values values;
    e->x = back;
    int rc = msg_open_plain(&m, in, len, &err);
    rc = rc ? rc : side_get_head(&m, c->form, &h, &err);
    for (uint32_t i = 0; i < (rc ? 0 : h.count) && rc == 0; i++) {
        rc = side_get(&m, c->form, e, labels, &values, &err);
        rc = rc ? rc : side_decode(c, e, &values, &err);
    }
    rc = rc ? rc : msg_end(&m, &err);
    assert_true(rc == 0 || err.text[0]);
    return rc;
}

// Of each codec, form and size; bytes of values are (layers x rows x dim + differences) x width.
static void test_read_as_written(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(codecs); k++)
        for (int way = 0; way < 4; way++)
            for (int32_t scored = 1; scored <= SCORED; scored++) {
                struct side_form f = form_of(way & 1, way & 2, codecs[k]);
                struct side_coder c;
                struct err err;
                struct codec_report report = {.staleness = -1};
                int32_t labels[SCORED] = {-1, -1};
                assert_int_equal(side_coder_open(&c, &f, codecs[k], SEED, &err), 0);
                struct side_example e = {.id = side_id(SEED, 3, 4),
                                         .rows = f.pivot ? scored : ROWS - scored,
                                         .scored = scored,
                                         .x = x},
                                    r;
                size_t n = side_floats(&f, e.rows, e.scored), cap = side_bound(&f);
                assert_true(n <= ARRAY_LEN(x));
                noise((uint32_t)k, n, x);
                uint8_t *bytes = malloc(cap);
                size_t len = put(&c, &e, bytes, cap, &report);
                assert_true(len > 0 && len <= cap);
                const struct codec_parts *p = &report.parts;
                assert_int_equal(
                    p->header + p->directory + p->scales + p->indices + p->tags + p->values, len);
                if (k < 2)
                    assert_int_equal(p->values, 2 * n * (k ? 2 : 4));
                assert_int_equal(p->tags, f.labels ? 2 * scored : 0);
                assert_int_equal(get(&c, bytes, len, &r, labels), 0);
                assert_true(r.id == e.id && r.rows == e.rows && r.scored == e.scored);
                assert_true(!f.labels || memcmp(labels, label, (size_t)scored * 4) == 0);
                if (k == 0)
                    assert_memory_equal(back, x, n * sizeof *x);
                assert_true(codec_nmse(x, back, n) < 0.02);
                for (size_t at = 0; at < len; at++)
                    assert_int_equal(get(&c, bytes, at, &r, labels), -1);
                free(bytes);
                side_coder_close(&c);
            }
}

static void test_refused(void **state)
{
    static const char *const bad[] = {"topk+ef", "fstq", "signsgd", "fedavg", "nonesuch"};
    struct err err;
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct side_form f = base;
        err.text[0] = '\0';
        if (side_measure(&f, bad[i], &err) == 0)
            fail_msg("%s is taken", bad[i]);
        assert_true(err.text[0]);
    }
    struct side_form f = form_of(true, false, "fp16");
    struct side_coder c;
    struct codec_report report;
    struct side_example e = {.rows = 1, .scored = 1, .x = x};
    uint8_t bytes[4096];
    assert_int_equal(side_coder_open(&c, &f, "fp16", SEED, &err), 0);
    noise(1, 512, x);
    x[3] = NAN;
    assert_int_equal(put(&c, &e, bytes, sizeof bytes, &report), 0);
    x[3] = 1;
    size_t len = put(&c, &e, bytes, sizeof bytes, &report);
    for (size_t cap = 0; cap < len; cap++)
        assert_int_equal(put(&c, &e, bytes, cap, &report), 0);
    side_coder_close(&c);
}

// The cache against a list.
enum { IDS = 40, MOST = 120, RECORDS = 4096 };
struct list {
    struct {
        uint64_t id;
        size_t len;
    } one[RECORDS];
    int from, to;
};

static size_t record(uint64_t id, uint8_t *out)
{
    struct rng r = rng_stream(id, RNG_TEST, 5, 0, 0);
    size_t len = 9 + rng_below(&r, MOST - 9);
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)rng_u32(&r);
    return len;
}

static void check_all(struct side_cache *c, const struct list *l)
{
    uint8_t want[MOST];
    struct side_cache_counts n = side_cache_counts(c);
    int64_t bytes = 0;
    assert_int_equal(n.records, l->to - l->from);
    for (uint64_t id = 0; id < IDS; id++) {
        size_t len = 0;
        bool there = false;
        for (int i = l->from; i < l->to; i++)
            there |= l->one[i].id == id * 0x9e3779b97f4a7c15u;
        const uint8_t *r = side_cache_get(c, id * 0x9e3779b97f4a7c15u, &len);
        assert_int_equal(r != NULL, there);
        assert_int_equal(side_cache_has(c, id * 0x9e3779b97f4a7c15u), there);
        if (!r)
            continue;
        assert_int_equal(len, record(id, want));
        assert_memory_equal(r, want, len);
        bytes += (int64_t)len;
    }
    assert_int_equal(n.bytes, bytes);
}

static void test_cache(void **state)
{
    static struct list l;
    static const size_t slabs[] = {160, 1000, 1501, 100000};
    uint8_t bytes[MOST];
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(slabs); k++) {
        struct side_cache *c = side_cache_open(slabs[k], 9);
        struct rng r = rng_stream(1, RNG_TEST, 6, 0, 0);
        l.from = l.to = 0;
        for (int i = 0; i < 1500; i++) {
            uint64_t small = rng_below(&r, IDS), id = small * 0x9e3779b97f4a7c15u;
            size_t len = record(small, bytes);
            bool there = side_cache_has(c, id);
            side_cache_put(c, id, bytes, len);
            if (!there) {
                l.one[l.to].id = id;
                l.one[l.to++].len = len;
            }
            l.from = l.to - (int)side_cache_counts(c).records;
            assert_true(side_cache_has(c, id)); // the newest is always there
            if (i % 37 == 0)
                check_all(c, &l);
            if (i % 300 == 299) { // and after a restart, what goes next is the same
                size_t words = side_cache_words(c);
                uint8_t *kept = malloc(4 * words);
                side_cache_keep(c, kept);
                struct side_cache *again = side_cache_open(slabs[k], 9);
                assert_int_equal(side_cache_restore(again, kept, words), 0);
                for (size_t cut = 0; cut < words; cut += 1 + words / 50) {
                    struct side_cache *none = side_cache_open(slabs[k], 9);
                    assert_int_equal(side_cache_restore(none, kept, cut), -1);
                    side_cache_close(none);
                }
                free(kept);
                side_cache_close(c);
                c = again;
                check_all(c, &l);
            }
        }
        struct side_cache_counts n = side_cache_counts(c);
        assert_int_equal(n.records + n.evicted, l.to);
        assert_true(k < 3 ? n.evicted > 0 : n.evicted == 0);
        side_cache_put(c, 12345, bytes, slabs[k] + 1 > MOST ? slabs[k] + 1 : slabs[k] + 8);
        assert_int_equal(side_cache_counts(c).refused, 1);
        side_cache_close(c);
    }
}

// Two caches that were given the same, one of them restarted in between, forget the same.
static void test_cache_restarted(void **state)
{
    uint8_t bytes[MOST];
    struct side_cache *a = side_cache_open(777, 9), *b = side_cache_open(777, 9);
    struct rng r = rng_stream(2, RNG_TEST, 6, 0, 0);
    (void)state;
    for (int i = 0; i < 2000; i++) {
        uint64_t id = rng_below(&r, IDS);
        size_t len = record(id, bytes);
        side_cache_put(a, id << 32 | 7, bytes, len);
        side_cache_put(b, id << 32 | 7, bytes, len);
        if (i % 11 == 0) {
            size_t words = side_cache_words(b);
            uint8_t *kept = malloc(4 * words);
            side_cache_keep(b, kept);
            side_cache_close(b);
            b = side_cache_open(777, 9);
            assert_int_equal(side_cache_restore(b, kept, words), 0);
            free(kept);
        }
        for (uint64_t k = 0; k < IDS; k++)
            assert_int_equal(side_cache_has(a, k << 32 | 7), side_cache_has(b, k << 32 | 7));
    }
    side_cache_close(a);
    side_cache_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_as_written),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_cache_restarted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
