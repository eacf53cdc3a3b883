// What a codec says of its stages: which parts its time has, and where they ran. test_codec_stages
// ROW: of the devices this one alone, on a small update.
#include "codec_cases.h"

#include "codec/bits.h"

#include "dev/dev.h"

#include <stdlib.h>
#include <xxhash.h>

#define PART(stage) (UINT64_C(1) << STAGE_##stage)
#define SPARSE      (PART(ALLOC) | PART(SELECT) | PART(PACK) | PART(QUANTISE))

// The parts of an encoding's time, at least one line for each row of both tables.
static const struct {
    const char *text;
    uint64_t parts;
} laps_of[] = {
    {"raw", PART(QUANTISE) | PART(PACK)}, // quantise: the check of the values
    {"fp32", PART(QUANTISE) | PART(PACK)},
    {"fp16", PART(QUANTISE)},
    {"bf16", PART(QUANTISE)},
    {"int", PART(QUANTISE)},
    {"int:code=rans", PART(QUANTISE) | PART(ENTROPY)},
    {"nf4", PART(QUANTISE)},
    {"qsgd:code=gamma", PART(QUANTISE) | PART(ENTROPY)},
    {"terngrad:code=base3", PART(QUANTISE) | PART(PACK)},
    {"sign", PART(QUANTISE)},
    {"onebit", PART(QUANTISE)},
    {"fedbat", PART(QUANTISE)},
    {"uniform", PART(QUANTISE) | PART(ENTROPY)},
    {"klt", PART(QUANTISE) | PART(ENTROPY)},
    {"tcq", PART(QUANTISE) | PART(ENTROPY)},
    {"natural:code=rans", PART(QUANTISE) | PART(ENTROPY)},
    {"threelc", PART(QUANTISE) | PART(ENTROPY)}, // runs,
    {"eden", PART(QUANTISE)},                    // one pass from values to packed codes
    {"topk", SPARSE},
    {"randk", SPARSE},
    {"stc", SPARSE},
    {"sbc", SPARSE},
    {"ecolora", SPARSE},
    {"dgc", SPARSE | PART(FEEDBACK)},
    {"cocktail", PART(SELECT) | PART(PACK) | PART(QUANTISE)},
    {"signsgd", PART(QUANTISE)},
    {"signsgd:momentum=0.9", PART(FEEDBACK) | PART(QUANTISE)},
    {"powersgd", PART(QUANTISE) | PART(PACK)},
    {"fetchsgd", PART(QUANTISE) | PART(PACK)},
    {"demo", PART(FEEDBACK) | PART(SELECT) | PART(PACK) | PART(QUANTISE)},
    {"fstq", PART(QUANTISE) | PART(ALLOC) | PART(ENTROPY)},
    {"fstq:transform=klt", PART(QUANTISE) | PART(ALLOC) | PART(ENTROPY)},
    {"fstq-paper", PART(QUANTISE) | PART(SELECT) | PART(ALLOC) | PART(PACK)},
    {"topk+ef", SPARSE | PART(FEEDBACK)},
    {"fp16+ef21", PART(FEEDBACK) | PART(PACK) | PART(QUANTISE)}, // its first message is dense
    {"int+rans", PART(QUANTISE) | PART(ENTROPY)},
    {"int+zstd", PART(QUANTISE) | PART(ENTROPY)},
    {"int+lz4", PART(QUANTISE) | PART(ENTROPY)},
};

// Whether the last piece of a text is this codec or wrapper.
static bool ends_with(const char *text, const char *name)
{
    const char *last = strrchr(text, '+');
    size_t len = strlen(name);
    last = last ? last + 1 : text;
    return strncmp(last, name, len) == 0 && (last[len] == '\0' || last[len] == ':');
}

static void has_a_line(const struct codec *const *row)
{
    for (; *row; row++) {
        bool found = false;
        for (size_t i = 0; i < ARRAY_LEN(laps_of); i++)
            found |= ends_with(laps_of[i].text, (*row)->name);
        if (!found)
            fail_msg("%s has no line in laps_of", (*row)->name);
    }
}

static void test_every_row_has_its_parts_told(void **state)
{
    (void)state;
    has_a_line(codec_table);
    has_a_line(wrapper_table);
}

static void test_parts_are_there_and_add_up(void **state)
{
    (void)state;
    struct session s;
    shape_two(&s.shape);
    float *x = mem_alloc(MEM_CODEC, sizeof *x * s.shape.n_values);
    fill(x, s.shape.n_values, DIST_LAPLACE, 3);
    for (size_t i = 0; i < ARRAY_LEN(laps_of); i++) {
        struct recorder r;
        struct rec_event e[16];
        struct laps laps;
        session_open(&s, laps_of[i].text);
        recorder_init(&r, ARRAY_LEN(e), 0, false);
        struct codec_input in = {.x = x,
                                 .sens = s.sens,
                                 .grad = s.grad,
                                 .state = s.state,
                                 .state_next = s.state_next,
                                 .key = key_of(1),
                                 .budget_bytes = -1,
                                 .laps = &laps};
        laps_begin(&laps, &r);
        int64_t len = codec_encode(s.c, &in, s.msg, codec_bound(s.c), s.scratch, &s.report, &s.err);
        int64_t whole = laps_end(&laps, &r, STAGE_ENCODE, CODEC_REST, 0, 0, len), sum = 0;
        uint64_t found = 0;
        if (len < 0)
            fail_msg("%s: %s", laps_of[i].text, s.err.text);
        for (size_t k = recorder_drain(&r, e, ARRAY_LEN(e)); k-- > 1;) {
            assert_int_equal(stage_table[e[k].stage].within, STAGE_ENCODE);
            found |= UINT64_C(1) << e[k].stage;
            sum += e[k].dur_ns;
        }
        assert_int_equal(sum, whole);
        for (int k = 0; k < STAGE_COUNT; k++)
            if ((found ^ laps_of[i].parts) >> k & 1)
                fail_msg("%s: %s %s", laps_of[i].text, stage_table[k].name,
                         found >> k & 1 ? "is not among its parts" : "took no time");
        recorder_free(&r);
        session_close(&s);
    }
    mem_free(x);
    shape_free(&s.shape);
}

// Devices.

static int32_t kind_of(const char *name)
{
    for (int32_t i = 0; dev_table[i]; i++)
        if (strcmp(dev_table[i]->name, name) == 0)
            return i;
    fail_msg("no device %s", name);
    return -1;
}

static float *send(struct dev *d, const float *x, size_t n)
{
    float *there = d->row->alloc(d, MEM_CODEC, (n + 1) * sizeof *x);
    dev_put(d, there, x, n * sizeof *x);
    return there;
}

// The host's session of a method, and its vectors on a device.
struct twin {
    struct session s;
    struct dev *d;
    struct codec_device on;
    float *x, *sens, *grad, *state, *state_next, *acc;
    uint8_t *msg;
};

static void twin_open(struct twin *t, struct dev *d, const char *text, const float *x)
{
    t->d = d;
    session_open(&t->s, text);
    size_t n = t->s.shape.n_values, state = codec_state_floats(t->s.c);
    t->on = (struct codec_device){
        .dev = d,
        .stage = d->row->stage(d, codec_stage_bytes(t->s.c, d) + 1),
        .room = d->row->alloc(d, MEM_CODEC, codec_device_bytes(t->s.c, d) + 1)};
    t->x = send(d, x, n);
    t->sens = send(d, t->s.sens, n);
    t->grad = send(d, t->s.grad, n);
    t->state = send(d, t->s.state, state);
    t->state_next = send(d, t->s.state, state);
    t->acc = send(d, x, n);
    t->msg = mem_alloc(MEM_CODEC, codec_bound(t->s.c) + 1);
}

static void twin_close(struct twin *t)
{
    float *const there[] = {t->x, t->sens, t->grad, t->state, t->state_next, t->acc, t->on.room};
    for (size_t i = 0; i < ARRAY_LEN(there); i++)
        t->d->row->free(t->d, there[i]);
    t->d->row->unstage(t->d, t->on.stage);
    mem_free(t->msg);
    session_close(&t->s);
}

static int64_t twin_encode(struct twin *t, struct codec_key key, struct codec_report *report)
{
    const struct codec_input in = {.on = &t->on,
                                   .x = t->x,
                                   .sens = t->sens,
                                   .grad = t->grad,
                                   .state = t->state,
                                   .state_next = t->state_next,
                                   .key = key,
                                   .budget_bytes = -1};
    return codec_encode(t->s.c, &in, t->msg, codec_bound(t->s.c), t->s.scratch, report, &t->s.err);
}

// The first round of the second shape makes the bytes whose hashes are committed (test_codec.c).
static void is_golden(const struct twin *t, const char *text, int64_t len)
{
    char line[320];
    FILE *f = fopen("tests/golden/codec.txt", "r");
    if (!f)
        fail_msg("no tests/golden/codec.txt; run from the root of the checkout");
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strlen(line) < 42 || strcmp(line + 42, text) != 0)
            continue;
        uint64_t want = strtoull(line, NULL, 16);
        if (want && want != XXH3_64bits(t->msg, (size_t)len)) // 0: not the same everywhere
            fail_msg("%s: not the committed bytes on %s", text, t->d->row->name);
        fclose(f);
        return;
    }
    fail_msg("%s has no line in tests/golden/codec.txt", text);
}

// Two rounds, so that what is kept comes into play: bytes, state, and what is decoded and added.
static void same_on_device(struct twin *t, const float *x, const char *golden)
{
    const size_t n = t->s.shape.n_values, state = codec_state_floats(t->s.c);
    float *got = mem_alloc(MEM_CODEC, (n + state + 1) * sizeof *got);
    float *acc = mem_alloc(MEM_CODEC, (n + 1) * sizeof *acc);
    for (uint32_t round = 11; round < 13; round++) {
        const struct codec_key key = key_of(round);
        struct codec_report report;
        int64_t len = session_encode(&t->s, x, key, codec_bound(t->s.c));
        int64_t there = twin_encode(t, key, &report);
        if (len < 0 || there < 0)
            fail_msg("%s: %s", t->s.c->text, t->s.err.text);
        assert_string_equal(t->s.report.ran_on, "cpu");
        assert_string_equal(report.ran_on, codec_runs_on(t->s.c, t->d) ? t->d->row->name : "cpu");
        if (there != len || memcmp(t->msg, t->s.msg, (size_t)len) != 0)
            fail_msg("%s: other bytes on %s", t->s.c->text, t->d->row->name);
        if (golden && round == 11)
            is_golden(t, golden, len);
        dev_get(t->d, got, t->state_next, state * sizeof *got);
        assert_memory_equal(got, t->s.state_next, state * sizeof *got);
        dev_put(t->d, t->state, got, state * sizeof *got);
        memcpy(t->s.state, got, state * sizeof *got);
        memcpy(acc, x, n * sizeof *x);
        dev_put(t->d, t->acc, x, n * sizeof *x);
        for (int add = 1; add >= 0; add--) {
            const struct codec_output here = {.sink = {acc, 0.5f, add}};
            const struct codec_output to = {.on = &t->on, .sink = {t->acc, 0.5f, add}};
            int bad =
                codec_decode_to(t->s.c, &key, t->msg, (size_t)len, here, t->s.scratch, &t->s.err);
            bad |= codec_decode_to(t->s.c, &key, t->msg, (size_t)len, to, t->s.scratch, &t->s.err);
            if (bad)
                fail_msg("%s: %s", t->s.c->text, t->s.err.text);
            dev_get(t->d, got, t->acc, n * sizeof *got);
            if (memcmp(got, acc, n * sizeof *got) != 0)
                fail_msg("%s: decoded otherwise on %s", t->s.c->text, t->d->row->name);
        }
    }
    mem_free(got);
    mem_free(acc);
}

// A value that no codec takes is named as on the host, wherever it lies.
static void same_refusal(struct twin *t, float *x)
{
    struct codec_report report;
    const size_t n = t->s.shape.n_values, at = n / 2;
    const float was = x[at];
    x[at] = INFINITY;
    dev_put(t->d, t->x, x, n * sizeof *x);
    int64_t here = session_encode(&t->s, x, key_of(2), codec_bound(t->s.c));
    char text[sizeof t->s.err.text];
    memcpy(text, t->s.err.text, sizeof text);
    if (here != CODEC_NONFINITE || twin_encode(t, key_of(2), &report) != here)
        fail_msg("%s takes an infinite value", t->s.c->text);
    assert_string_equal(t->s.err.text, text);
    x[at] = was;
}

static const char *only; // or NULL

static void test_device_gives_the_same_bytes(void **state)
{
    (void)state;
    void (*const shapes[])(struct shape * s) = {shape_odd, shape_two};
    for (int32_t r = 0; dev_table[r]; r++)
        // The emulated GPU takes the first by itself, watched (tests/cli/emu.sh).
        for (size_t k = !only && r == kind_of("emu");
             k < (only ? 1 : ARRAY_LEN(shapes)) && r != kind_of("ref"); k++) {
            struct dev d;
            struct twin t;
            struct err err;
            if (dev_usable(r, &err) || (only && strcmp(only, dev_table[r]->name) != 0)) // a GPU
                continue;
            assert_int_equal(dev_open(&d, r, 1, &err), 0);
            shapes[k](&t.s.shape);
            float *x = mem_alloc(MEM_CODEC, sizeof *x * t.s.shape.n_values);
            fill(x, t.s.shape.n_values, DIST_LAPLACE, 5);
            for (const char *const *text = codec_cases; *text; text++) {
                twin_open(&t, &d, *text, x);
                same_on_device(&t, x, k ? *text : NULL);
                same_refusal(&t, x);
                twin_close(&t);
            }
            mem_free(x);
            shape_free(&t.s.shape);
            dev_close(&d);
        }
}

// Which of many equal values are taken, or get a width, is decided by their order, across tiles and
// matrices.
static void test_ties_are_the_same(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "fstq-paper:importance=magnitude",
        "fstq:policy=greedy,budget=0.1,importance=magnitude",
        "fstq:policy=percentile,budget=0,shares=0.05/0.2/0.4,importance=magnitude",
        "fstq:bits=1.5,importance=magnitude",
        "topk:ratio=0.6,group=class",
        "stc:ratio=0.6,group=all",
        "sbc:ratio=0.1,group=tensor",
    };
    struct dev d;
    struct err err;
    struct twin t;
    assert_int_equal(dev_open(&d, kind_of("emu"), 1, &err), 0);
    shape_odd(&t.s.shape);
    float *x = mem_alloc(MEM_CODEC, sizeof *x * t.s.shape.n_values);
    for (size_t i = 0; i < t.s.shape.n_values; i++)
        x[i] = (float)(i * 2654435769u >> 7 & 3) - 1.5f;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        twin_open(&t, &d, texts[i], x);
        same_on_device(&t, x, NULL);
        twin_close(&t);
    }
    mem_free(x);
    shape_free(&t.s.shape);
    dev_close(&d);
}

// The largest slices that are rotated, work memory that all does not fit into at once, and of equal
// values more than a sparsifier has room for as candidates.
static void test_parts_come_out_as_the_whole(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t work_floats; // a whole slice's where there are slices of 65,536 values
        bool tied;
    } rows[] = {{"eden:bits=2.5", 78000, false},
                {"topk:ratio=0.3", 12000, false},
                {"sbc:ratio=0.3", 12000, false},
                {"topk:ratio=0.01,group=all", 12000, true},
                {"stc:ratio=0.01,group=class", 12000, true},
                {"sbc:ratio=0.01,group=tensor", 12000, true}};
    struct dev d;
    struct err err;
    struct twin t;
    assert_int_equal(dev_open(&d, kind_of("emu"), 1, &err), 0);
    const size_t all = d.lane[0].cx.work_floats;
    shape_init(&t.s.shape);
    shape_add(&t.s.shape, "A", 16, 4500, SHAPE_LORA_A);
    shape_add(&t.s.shape, "B", 1, 3001, SHAPE_LORA_B);
    shape_seal(&t.s.shape);
    float *x = mem_alloc(MEM_CODEC, sizeof *x * t.s.shape.n_values);
    fill(x, t.s.shape.n_values, DIST_NORMAL, 4);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (size_t k = 0; k < t.s.shape.n_values && rows[i].tied; k++)
            x[k] = (float)(k * 2654435769u >> 7 & 3) - 1.5f;
        twin_open(&t, &d, rows[i].text, x);
        d.lane[0].cx.work_floats = rows[i].work_floats;
        same_on_device(&t, x, NULL);
        d.lane[0].cx.work_floats = all;
        twin_close(&t);
    }
    mem_free(x);
    shape_free(&t.s.shape);
    dev_close(&d);
}

// Entropy coding of what lies on a device: every stage against the host's functions.

struct coded {
    struct dev *d;
    const struct entropy_stages *stages;
    uint8_t *here, *there, *want, *got; // codes; bytes of them
    size_t n;
};

static void put_coded(struct coded *c, size_t n, unsigned kinds, uint64_t seed)
{
    struct rng r = rng_stream(seed, RNG_CODEC, 0, 0, 0);
    c->n = n;
    for (size_t i = 0; i < n; i++) { // few of the others
        uint32_t v = rng_below(&r, 4 * kinds);
        c->here[i] = (uint8_t)(v < kinds ? v : 0);
    }
    dev_put(c->d, c->there, c->here, n);
}

static void same_bytes(const struct coded *c, size_t bytes, const char *what, unsigned by)
{
    if (memcmp(c->got, c->want, bytes) != 0 || c->got[bytes] != 0xa5)
        fail_msg("%s: %s of %zu by %u", c->d->row->name, what, c->n, by);
    memset(c->got, 0xa5, bytes + 1);
}

static void check_rans(struct coded *c, size_t chunk, unsigned kinds)
{
    enum { CHUNKS = 24 };
    const struct kernel_ctx *cx = &c->d->lane[0].cx;
    uint64_t count[256] = {1}, want[256];
    uint16_t freq[256];
    size_t len[CHUNKS], room = rans_bound(chunk) + 5;
    struct rans_encoder e;
    put_coded(c, c->n, kinds, chunk);
    c->stages->count(cx, c->there, c->n, count);
    pack_count_u8(c->here, c->n, want);
    want[0]++;
    assert_memory_equal(count, want, sizeof count);
    rans_frequencies(count, freq);
    rans_encoder_init(&e, freq);
    assert_true(c->n <= CHUNKS * chunk);
    c->stages->rans(cx, &e, c->there, c->n, chunk, c->got, room, len);
    for (size_t k = 0; k * chunk < c->n; k++) {
        size_t m = c->n - k * chunk < chunk ? c->n - k * chunk : chunk;
        size_t bytes = rans_encode(&e, c->here + k * chunk, m, c->want);
        assert_int_equal(len[k], bytes);
        assert_memory_equal(c->got + (k + 1) * room - bytes, c->want + rans_bound(m) - bytes,
                            bytes);
    }
}

static void check_packed(struct coded *c)
{
    const struct kernel_ctx *cx = &c->d->lane[0].cx;
    memset(c->got, 0xa5, 2 * c->n + 16);
    for (unsigned width = 1; width <= 8; width++) {
        put_coded(c, c->n, 1u << width, width);
        pack_u8(c->here, c->n, width, c->want);
        c->stages->pack(cx, c->there, c->n, width, c->got);
        same_bytes(c, pack_bytes(c->n, width), "pack", width);
    }
    for (unsigned width = 1; width <= 3; width += 2) {
        uint8_t *kept = mem_alloc(MEM_CODEC, c->n + 16);
        put_coded(c, c->n, (1u << width) + 1, width);
        alloc_bitmap(c->here, c->n, c->want);
        c->stages->bitmap(cx, c->there, c->n, c->got);
        same_bytes(c, (c->n + 7) / 8, "bitmap", width);
        size_t n = alloc_kept(c->here, c->n, kept);
        pack_u8(kept, n, width, c->want);
        c->stages->kept(cx, c->there, c->n, width, c->got);
        same_bytes(c, pack_bytes(n, width), "kept", width);
        mem_free(kept);
    }
}

static void check_rice(struct coded *c)
{
    const struct kernel_ctx *cx = &c->d->lane[0].cx;
    const size_t n = c->n;
    put_coded(c, n, 2, 7);
    memset(c->here + n / 5, 0, n / 2); // several tiles without any
    dev_put(c->d, c->there, c->here, n);
    for (unsigned k = 0; k <= 31; k += k < 4 ? 1 : 9) {
        struct bits_out b;
        uint64_t bits = 0;
        bits_out_init(&b, c->want, 8 * n + 64);
        for (size_t i = 0, next = 0; i < n; i++)
            if (c->here[i]) {
                bits += ((i - next) >> k) + 1 + k;
                rice_put(&b, i - next, k);
                next = i + 1;
            }
        const size_t bytes = bits_out_end(&b);
        assert_int_equal(c->stages->rice(cx, c->there, n, k, NULL), bits);
        memset(c->got, 0xa5, bytes + 1);
        assert_int_equal(c->stages->rice(cx, c->there, n, k, c->got), bits);
        assert_int_equal(bytes, (bits + 7) / 8);
        same_bytes(c, bytes, "rice", k);
    }
}

static void test_bytes_are_made_where_codes_lie(void **state)
{
    (void)state;
    enum { MOST = 18000, LANES_32 = 1 << 18 };
    static const size_t sizes[] = {1, 7, 1024, 1031, MOST};
    const char *const rows[] = {"fence", "emu", "cuda"};
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        struct dev d;
        struct err err;
        if (dev_usable(kind_of(rows[r]), &err) || (only && strcmp(only, rows[r]) != 0))
            continue;
        assert_int_equal(dev_open(&d, kind_of(rows[r]), 1, &err), 0);
        struct coded c = {.d = &d, .stages = d.row->codec->entropy};
        c.here = mem_alloc(MEM_CODEC, LANES_32 + 64);
        c.there = d.row->alloc(&d, MEM_CODEC, LANES_32 + 64);
        c.want = mem_alloc(MEM_CODEC, 3 * LANES_32);
        c.got = mem_alloc(MEM_CODEC, 3 * LANES_32);
        size_t *room = &d.lane[0].cx.work_floats, whole = *room;
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            c.n = sizes[i];
            *room = i == 3 ? whole : 2500; // several batches
            check_packed(&c);
            *room = i == 3 ? whole : 5000;
            check_rans(&c, 1 + c.n / 2, 3);
            check_rans(&c, 1 + c.n / 20, 200);
            *room = i == 3 ? whole : 2500;
            check_rice(&c);
        }
        *room = whole;
        c.n = LANES_32 + 40; // 32 lanes, and one
        check_rans(&c, LANES_32, 9);
        c.n = (1 << 14) + 3; // 4 lanes
        check_rans(&c, 1 << 15, 9);
        d.row->free(&d, c.there);
        mem_free(c.here);
        mem_free(c.want);
        mem_free(c.got);
        dev_close(&d);
    }
}

static bool runs_on(const char *text, const char *device)
{
    struct session s;
    shape_two(&s.shape);
    session_open(&s, text);
    bool runs = codec_runs_on(s.c, &(struct dev){.row = dev_table[kind_of(device)]});
    session_close(&s);
    shape_free(&s.shape);
    return runs;
}

// Wrappers run where their codec does.
static void test_wrappers_go_with_their_codec(void **state)
{
    (void)state;
    const char *const rows[] = {"cpu", "fence", "emu"};
    const char *const inner[] = {"int8", "sign", "topk", "fstq", "powersgd"};
    const char *const outer[] = {"+ef", "+rans", "+zstd", "+lz4", "+ef+rans", "+ef21"};
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        assert_true(runs_on("int8", rows[r]) && !runs_on("powersgd", rows[r]));
        assert_true(runs_on("topk", rows[r]) && runs_on("eden", rows[r]) &&
                    runs_on("dgc", rows[r]));
        assert_true(runs_on("signsgd", rows[r]) && runs_on("cocktail", rows[r]));
        for (size_t i = 0; i < ARRAY_LEN(inner); i++)
            for (size_t k = 0; k < ARRAY_LEN(outer); k++) {
                char text[64];
                snprintf(text, sizeof text, "%s%s", inner[i], outer[k]);
                if (runs_on(text, rows[r]) != runs_on(inner[i], rows[r]))
                    fail_msg("%s on %s", text, rows[r]);
            }
    }
}

int main(int argc, char **argv)
{
    only = argc > 1 ? argv[1] : NULL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_has_its_parts_told),
        cmocka_unit_test(test_parts_are_there_and_add_up),
        cmocka_unit_test(test_device_gives_the_same_bytes),
        cmocka_unit_test(test_ties_are_the_same),
        cmocka_unit_test(test_parts_come_out_as_the_whole),
        cmocka_unit_test(test_bytes_are_made_where_codes_lie),
        cmocka_unit_test(test_wrappers_go_with_their_codec),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
