// What a codec says of its stages: which parts its time has.
#include "codec_cases.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_row_has_its_parts_told),
        cmocka_unit_test(test_parts_are_there_and_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
