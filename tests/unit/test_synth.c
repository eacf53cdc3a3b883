// The embedded task's generator: its vocabulary, its grammar, what a question asks and an answer
// says, and the exact bytes it makes.
#include "task/synth.h"
#include "task/utf8.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCK = 87, LANG0 = 6, MED0 = LANG0 + 8 * BLOCK, FACT = 6, FACTS = 4 };
enum { NAME, ATTR, HEAD, TAIL, PARTICLE, WH };

// Kind and number of a word of a language, from the sizes that the format documents: 12 names, 6
// attributes, 36 heads, 24 tails, 3 particles, 6 wh-words.
static int kind_of(int32_t id, int32_t *number)
{
    static const int32_t size[] = {12, 6, 36, 24, 3, 6};
    int32_t at = (id - LANG0) % BLOCK;
    int kind = 0;
    assert_in_range(id, LANG0, MED0 - 1);
    while (at >= size[kind])
        at -= size[kind++];
    *number = at;
    return kind;
}

// A fact as "NpAHT" and the attribute that its words name; the name and the attribute agree with
// each other by construction, head and tail must be the attribute's.
static int32_t parse_fact(const int32_t *t, char shape[6])
{
    static const char letter[] = "NAHTpW";
    int32_t attr = -1, head = -1, tail = -1, n;
    for (int i = 0; i < 5; i++) {
        int kind = kind_of(t[i], &n);
        shape[i] = letter[kind];
        if (kind == ATTR)
            attr = n;
        if (kind == HEAD)
            head = n / 6;
        if (kind == TAIL)
            tail = n / 4;
    }
    shape[5] = 0;
    assert_int_equal(t[5], SYNTH_DOT);
    assert_true(attr >= 0 && head == attr && tail == attr);
    return attr;
}

static const char *const shapes[8] = {"AHTpN", "NpATH", "NAHTp", "pNAHT",
                                      "NpAHT", "ATHpN", "NATHp", "pNATH"};

static struct rng stream(uint32_t a, uint32_t b)
{
    return rng_stream(1, RNG_TEST, a, b, 0);
}

static void words_are_unique_and_of_their_script(void **state)
{
    (void)state;
    static const uint32_t range[9][2] = {{0x600, 0x6ff}, {'a', 'z'},       {'a', 0x17f},
                                         {'a', 0x17f},   {'a', 0x17f},     {0x400, 0x4ff},
                                         {0xc00, 0xc7f}, {0x4e00, 0x9fff}, {'a', 'z'}};
    for (int32_t id = SYNTH_DOT + 1; id < SYNTH_USED; id++) {
        const char *w = synth_word(id);
        size_t n = strlen(w);
        const uint32_t *r = range[synth_language_of(id)];
        assert_true(n >= 2 && n < 40);
        assert_int_equal(synth_find(w, (uint32_t)n), id); // so no other word is spelled the same
        for (size_t i = 0; i < n;) {
            uint32_t cp;
            i += utf8_next(w + i, n - i, &cp);
            assert_in_range(cp, r[0], r[1]);
        }
    }
    assert_string_equal(synth_word(SYNTH_Q), "Q:");
    assert_string_equal(synth_word(synth_class_id(2)), "maybe");
    assert_int_equal(synth_find("nonsense", 8), -1);
}

static void check_context(const struct synth_example *e, int32_t l, int32_t attrs[FACTS])
{
    char shape[6];
    assert_int_equal(e->tokens[0], SYNTH_BOS);
    for (int i = 0; i < FACTS; i++) {
        attrs[i] = parse_fact(e->tokens + 1 + i * FACT, shape);
        assert_string_equal(shape, shapes[l]);
        assert_int_equal(synth_language_of(e->tokens[1 + i * FACT]), l);
        for (int j = 0; j < i; j++)
            assert_int_not_equal(attrs[i], attrs[j]);
    }
}

// The attributes a question asks for, in order, whether by wh-word or by name.
static int32_t asked(const struct synth_example *e, int32_t *attrs)
{
    int32_t n = 0, number, count = 0, names = 0;
    assert_int_equal(e->tokens[1 + FACTS * FACT], SYNTH_Q);
    assert_int_equal(e->tokens[e->answer - 1], SYNTH_ANS);
    for (int32_t i = 2 + FACTS * FACT; i < e->answer - 1; i++, count++) {
        int kind = kind_of(e->tokens[i], &number);
        if (kind == WH || kind == ATTR)
            attrs[n++] = number;
        names += kind == NAME;
    }
    assert_int_equal(names, 1);
    assert_int_equal(count, n + 2); // a name and a particle
    return n;
}

static void questions_are_answered_by_their_context(void **state)
{
    (void)state;
    static const char *const answer_shape[8] = {"AHT", "ATH", "AHT", "AHT",
                                                "HTA", "THA", "THA", "ATH"};
    int wh = 0;
    for (uint32_t i = 0; i < 800; i++) {
        struct rng r = stream(1, i);
        struct synth_example e;
        int32_t l = (int32_t)i % 8, attrs[FACTS], ask[4], number;
        synth_example(SYNTH_QA, &r, l, &e);
        assert_int_equal(e.n, 34);
        assert_int_equal(e.answer, 30);
        assert_int_equal(e.label, -1);
        check_context(&e, l, attrs);
        assert_int_equal(asked(&e, ask), 1);
        wh += kind_of(e.tokens[e.answer - 2], &number) == WH ||
              kind_of(e.tokens[e.answer - 3], &number) == WH ||
              kind_of(e.tokens[e.answer - 4], &number) == WH;
        assert_int_equal(e.tokens[e.n - 1], SYNTH_EOS);
        int at = 0;
        while (attrs[at] != ask[0])
            at++; // asked for what is there
        const int32_t *fact = e.tokens + 1 + at * FACT;
        for (int k = 0; k < 3; k++) {
            const char *where = strchr(shapes[l], answer_shape[l][k]);
            assert_int_equal(e.tokens[e.answer + k], fact[where - shapes[l]]);
        }
    }
    assert_in_range(wh, 330, 470); // a half of 800
}

static void long_answers_restate_facts_in_the_order_asked(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 400; i++) {
        struct rng r = stream(2, i);
        struct synth_example e;
        int32_t l = (int32_t)i % 8, attrs[FACTS], ask[4];
        synth_example(SYNTH_LONG, &r, l, &e);
        assert_int_equal(e.n, 51);
        assert_int_equal(e.answer, 32);
        check_context(&e, l, attrs);
        assert_int_equal(asked(&e, ask), 3);
        for (int32_t k = 26, number; k < 31; k++) // by name only
            assert_int_not_equal(kind_of(e.tokens[k], &number), WH);
        for (int k = 0; k < 3; k++) {
            int at = 0;
            while (attrs[at] != ask[k])
                at++;
            assert_memory_equal(e.tokens + e.answer + k * FACT, e.tokens + 1 + at * FACT,
                                FACT * sizeof(int32_t));
        }
        assert_int_equal(e.tokens[e.n - 1], SYNTH_EOS);
    }
}

static void findings_name_class_and_outcome(void **state)
{
    (void)state;
    enum { DRUG = MED0, DISEASE = DRUG + 12, OUTCOME = DISEASE + 12 };
    int classes[3] = {0}, shared = 0;
    for (uint32_t i = 0; i < 600; i++) {
        struct rng r = stream(3, i);
        struct synth_example e;
        int32_t topic = (int32_t)i % 6, found = 0, topics = 0, drugs = 0, diseases = 0;
        synth_example(SYNTH_MEDICAL, &r, topic, &e);
        assert_int_equal(e.n, 33);
        assert_int_equal(e.answer, 30);
        int32_t drug = e.tokens[26], disease = e.tokens[28], outcome = e.tokens[31];
        assert_int_equal((disease - DISEASE) / 2, topic);
        for (int k = 0; k < FACTS; k++) { // drug p p disease outcome .
            const int32_t *f = e.tokens + 1 + k * FACT;
            assert_in_range(f[0], DRUG, DISEASE - 1);
            assert_in_range(f[3], DISEASE, OUTCOME - 1);
            assert_int_equal((f[3] - DISEASE) / 2, (f[4] - OUTCOME) / 9);
            topics |= 1 << (f[3] - DISEASE) / 2;
            found += f[0] == drug && f[3] == disease && f[4] == outcome;
            drugs += f[0] == drug;
            diseases += f[3] == disease;
            assert_true(f[4] != outcome || (f[0] == drug && f[3] == disease));
        }
        assert_int_equal(found, 1);
        // Either the drug or the disease stands in another finding, too.
        assert_true(drugs + diseases == 3 && drugs > 0 && diseases > 0);
        assert_int_equal(__builtin_popcount((unsigned)topics), FACTS - (diseases == 2));
        shared += drugs == 2;
        assert_int_equal(e.label, (outcome - OUTCOME) % 9 / 3);
        assert_int_equal(e.tokens[30], synth_class_id(e.label));
        classes[e.label]++;
    }
    assert_in_range(shared, 240, 360); // of 600, standard deviation 12
    for (int c = 0; c < 3; c++)
        assert_in_range(classes[c], 150, 250);
}

static void documents_hold_no_questions(void **state)
{
    (void)state;
    int restating = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        struct rng r = stream(4, i);
        int32_t t[SYNTH_DOC_TOKENS + 1];
        float w[SYNTH_DOC_TOKENS];
        uint8_t copy[SYNTH_DOC_TOKENS];
        t[SYNTH_DOC_TOKENS] = -7;
        synth_pretrain_doc(&r, t, w);
        synth_pretrain_copies(t, copy);
        assert_int_equal(t[0], SYNTH_BOS);
        assert_int_equal(t[SYNTH_DOC_TOKENS], -7);
        assert_true(w[0] == 0 && w[SYNTH_DOC_TOKENS - 1] == 1);
        restating += w[1] < 1;
        int copies = 0;
        for (int k = 1; k < SYNTH_DOC_TOKENS; k++) {
            assert_in_range(t[k], SYNTH_EOS, SYNTH_USED - 1);
            assert_true(w[1] == 1 ? w[k] == 1 : w[k] == (k <= 24 ? w[1] : 1.0f));
            assert_false(copy[k] && k <= 24); // what is stated is fresh
            copies += copy[k];
            if (t[k] == SYNTH_Q && k + 6 < SYNTH_DOC_TOKENS) { // Q: appears in filler only
                assert_true(w[1] == 1);
            }
        }
        assert_true(copies == 0 || copies == 8 || copies == 6); // four facts or three
    }
    assert_in_range(restating, 3100, 3450); // 82 % of 4000
}

static uint64_t fnv(uint64_t h, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

// Hashes of what is made, over little-endian 32-bit ids: every machine must make the same.
static void bytes_are_golden(void **state)
{
    (void)state;
    const uint64_t seed = 14695981039346656037u;
    uint64_t words = seed, docs = seed, examples[3] = {seed, seed, seed};
    for (int32_t id = 0; id < SYNTH_VOCAB; id++)
        words = fnv(words, synth_word(id), strlen(synth_word(id)) + 1);
    for (uint32_t i = 0; i < 1000; i++) {
        struct rng r = rng_stream(1, RNG_PRETRAIN, i / 64, i % 64, 0);
        int32_t t[SYNTH_DOC_TOKENS];
        float w[SYNTH_DOC_TOKENS];
        synth_pretrain_doc(&r, t, w);
        docs = fnv(docs, t, sizeof t);
        for (uint32_t k = 0; k < 3; k++) {
            struct synth_example e;
            r = rng_stream(1, RNG_DATA, k, i, 0);
            synth_example((enum synth_kind)k, &r, (int32_t)i % 6, &e);
            examples[k] = fnv(examples[k], e.tokens, (size_t)e.n * sizeof *e.tokens);
        }
    }
    print_message("words %016llx docs %016llx examples %016llx %016llx %016llx\n",
                  (unsigned long long)words, (unsigned long long)docs,
                  (unsigned long long)examples[0], (unsigned long long)examples[1],
                  (unsigned long long)examples[2]);
    assert_true(words == 0xc26d6e147d53c140u);
    assert_true(docs == 0x453d4a6983c6e21cu);
    assert_true(examples[0] == 0xdf6ebe9f49cf6fffu);
    assert_true(examples[1] == 0x1e24301ed501bbb9u);
    assert_true(examples[2] == 0x3846753869146799u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_unique_and_of_their_script),
        cmocka_unit_test(questions_are_answered_by_their_context),
        cmocka_unit_test(long_answers_restate_facts_in_the_order_asked),
        cmocka_unit_test(findings_name_class_and_outcome),
        cmocka_unit_test(documents_hold_no_questions),
        cmocka_unit_test(bytes_are_golden),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
