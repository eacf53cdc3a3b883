#include "task/synth.h"

#include <assert.h>
#include <string.h>

// The vocabulary: six specials, eight language blocks, a medical block, padding to 800.
enum {
    NAMES = 12,
    ATTRS = 6,
    HEADS = 6, // of each attribute: the first word of its value
    TAILS = 4, // of each attribute: the second
    PARTICLES = 3,
    VALUES = ATTRS * (HEADS + TAILS),
    BLOCK = NAMES + ATTRS + VALUES + PARTICLES + ATTRS, // the last are wh-words, one an attribute
    LANG0 = 6,
    MED0 = LANG0 + SYNTH_LANGUAGES * BLOCK,
    DRUGS = 12,
    DISEASES = 12,
    OUTCOMES = 54, // nine a topic: three classes by three words
    CLASSES = 3,
    MED_PARTICLES = 4,
    FACTS = 4, // in a context
    FACT_TOKENS = 6,
};

static int32_t block(int32_t l)
{
    return LANG0 + l * BLOCK;
}
static int32_t name_id(int32_t l, int32_t i)
{
    return block(l) + i;
}
static int32_t attr_id(int32_t l, int32_t a)
{
    return block(l) + NAMES + a;
}
static int32_t head_id(int32_t l, int32_t a, int32_t h)
{
    return block(l) + NAMES + ATTRS + a * HEADS + h;
}
static int32_t tail_id(int32_t l, int32_t a, int32_t t)
{
    return block(l) + NAMES + ATTRS + ATTRS * HEADS + a * TAILS + t;
}
static int32_t particle_id(int32_t l, int32_t p)
{
    return block(l) + NAMES + ATTRS + VALUES + p;
}
static int32_t wh_id(int32_t l, int32_t a)
{
    return block(l) + NAMES + ATTRS + VALUES + PARTICLES + a;
}
static int32_t drug_id(int32_t i)
{
    return MED0 + i;
}
static int32_t disease_id(int32_t i)
{
    return MED0 + DRUGS + i;
}
static int32_t outcome_id(int32_t i)
{
    return MED0 + DRUGS + DISEASES + i;
}
int32_t synth_class_id(int32_t c)
{
    return MED0 + DRUGS + DISEASES + OUTCOMES + c;
}
static int32_t med_particle_id(int32_t p)
{
    return MED0 + DRUGS + DISEASES + OUTCOMES + CLASSES + p;
}
static int32_t class_of_outcome(int32_t o)
{
    return o % 9 / 3;
}

// Grammar of a language. The attribute always stands directly before its value: with a particle
// between them that language does not learn to copy.
static const struct {
    int8_t order; // of a fact: 0 N p A V V, 1 p N A V V, 2 A V V p N, 3 N A V V p
    int8_t tail_first, wh_first, attr_first;
} grammar[SYNTH_LANGUAGES] = {
    {2, 0, 1, 1}, // ar
    {0, 1, 1, 1}, // en
    {3, 0, 1, 1}, // es
    {1, 0, 0, 1}, // fr
    {0, 0, 0, 0}, // pt
    {2, 1, 1, 0}, // ru
    {3, 1, 0, 0}, // te
    {1, 1, 0, 1}, // zh
};

_Static_assert(MED0 + DRUGS + DISEASES + OUTCOMES + CLASSES + MED_PARTICLES == SYNTH_USED, "");

int32_t synth_language_of(int32_t id)
{
    assert(id >= LANG0 && id < SYNTH_USED);
    return id < MED0 ? (id - LANG0) / BLOCK : SYNTH_LANGUAGES;
}

const char *const synth_classes[3] = {"yes", "no", "maybe"};
const char *const synth_languages[SYNTH_LANGUAGES] = {"ar", "en", "es", "fr",
                                                      "pt", "ru", "te", "zh"};

struct fact {
    int32_t name, attr, head, tail; // or drug, disease, outcome, unused
};

static int32_t below(struct rng *r, int32_t n)
{
    return (int32_t)rng_below(r, (uint32_t)n);
}

// k of n in random order
static void pick(struct rng *r, int32_t n, int32_t k, int32_t *out)
{
    int32_t all[16];
    assert(n <= 16 && k <= n);
    for (int32_t i = 0; i < n; i++)
        all[i] = i;
    for (int32_t i = 0; i < k; i++) {
        int32_t j = i + below(r, n - i), t = all[i];
        all[i] = all[j];
        all[j] = t;
        out[i] = all[i];
    }
}

static int32_t *put_value(int32_t *out, int32_t l, const struct fact *f)
{
    int32_t head = head_id(l, f->attr, f->head), tail = tail_id(l, f->attr, f->tail);
    *out++ = grammar[l].tail_first ? tail : head;
    *out++ = grammar[l].tail_first ? head : tail;
    return out;
}

static int32_t *put_fact(int32_t *out, int32_t l, const struct fact *f)
{
    int32_t n = name_id(l, f->name), a = attr_id(l, f->attr), p = particle_id(l, 0);
    switch (grammar[l].order) {
    case 0:
        *out++ = n, *out++ = p, *out++ = a;
        out = put_value(out, l, f);
        break;
    case 1:
        *out++ = p, *out++ = n, *out++ = a;
        out = put_value(out, l, f);
        break;
    case 2:
        *out++ = a;
        out = put_value(out, l, f);
        *out++ = p, *out++ = n;
        break;
    default:
        *out++ = n, *out++ = a;
        out = put_value(out, l, f);
        *out++ = p;
    }
    *out++ = SYNTH_DOT;
    return out;
}

// The disease stands directly before its outcome.
static int32_t *put_finding(int32_t *out, const struct fact *f)
{
    *out++ = drug_id(f->name);
    *out++ = med_particle_id(0);
    *out++ = med_particle_id(1);
    *out++ = disease_id(f->attr);
    *out++ = outcome_id(f->head);
    *out++ = SYNTH_DOT;
    return out;
}

// Four facts with distinct attributes, about one name or about four.
static void draw_facts(struct rng *r, bool one_name, struct fact f[FACTS])
{
    int32_t names[FACTS], attrs[FACTS];
    if (one_name)
        names[0] = names[1] = names[2] = names[3] = below(r, NAMES);
    else
        pick(r, NAMES, FACTS, names);
    pick(r, ATTRS, FACTS, attrs);
    for (int i = 0; i < FACTS; i++) {
        int32_t head = below(r, HEADS);
        f[i] = (struct fact){names[i], attrs[i], head, below(r, TAILS)};
    }
}

// Four findings with distinct drugs and topics; f[0] is of the topic asked for, where topic >= 0.
static void draw_findings(struct rng *r, int32_t topic, struct fact f[FACTS])
{
    int32_t topics[FACTS], drugs[FACTS];
    pick(r, SYNTH_TOPICS, FACTS, topics);
    pick(r, DRUGS, FACTS, drugs);
    if (topic >= 0) {
        int at = 0;
        for (int i = 0; i < FACTS; i++)
            if (topics[i] == topic)
                at = i;
        topics[at] = topics[0];
        topics[0] = topic;
    }
    for (int i = 0; i < FACTS; i++) {
        int32_t disease = topics[i] * 2 + below(r, 2);
        f[i] = (struct fact){drugs[i], disease, topics[i] * 9 + below(r, 9), 0};
    }
}

// As questions have them: another finding is of the same drug or, as often, on the same disease, so
// that either alone tells three answers of four.
static void draw_trials(struct rng *r, int32_t topic, struct fact f[FACTS])
{
    draw_findings(r, topic, f);
    if (below(r, 2)) {
        f[1].name = f[0].name;
        return;
    }
    f[1].attr = f[0].attr;
    f[1].head = topic * 9 + (f[0].head - topic * 9 + 1 + below(r, 8)) % 9; // another outcome
}

// documents.

// Four words, twice, again and again: keeps the words of questions alive without teaching what they
// stand for.
static void doc_filler(struct rng *r, int32_t *out, int32_t *end)
{
    int32_t l = below(r, SYNTH_LANGUAGES), pool[ATTRS + 2 + 3 + CLASSES + 1], n = 0, s[4];
    for (int32_t a = 0; a < ATTRS; a++)
        pool[n++] = wh_id(l, a);
    pool[n++] = particle_id(l, 1), pool[n++] = particle_id(l, 2);
    pool[n++] = SYNTH_Q, pool[n++] = SYNTH_ANS, pool[n++] = SYNTH_EOS;
    for (int32_t c = 0; c < CLASSES; c++)
        pool[n++] = synth_class_id(c);
    pool[n++] = med_particle_id(2);
    while (out < end) {
        for (int i = 0; i < 4; i++)
            s[i] = pool[below(r, n)];
        for (int i = 0; i < 9 && out < end; i++)
            *out++ = i < 8 ? s[i % 4] : SYNTH_DOT;
    }
}

// wh-word, attribute: the lexicon that questions need. A half is outcome, yes / no / maybe.
static void doc_glossary(struct rng *r, int32_t *out, int32_t *end)
{
    int32_t l = below(r, SYNTH_LANGUAGES);
    bool medical = below(r, 2) == 0;
    while (out < end) {
        int32_t a = below(r, ATTRS), o = below(r, OUTCOMES);
        int32_t entry[3] = {medical ? outcome_id(o) : wh_id(l, a),
                            medical ? synth_class_id(class_of_outcome(o)) : attr_id(l, a),
                            SYNTH_DOT};
        for (int i = 0; i < 3 && out < end; i++)
            *out++ = entry[i];
    }
}

static void doc_medical(struct rng *r, int32_t *out, int32_t *end)
{
    struct fact f[FACTS];
    int32_t order[FACTS];
    draw_findings(r, -1, f);
    pick(r, FACTS, FACTS, order);
    for (int i = 0; i < FACTS; i++)
        out = put_finding(out, &f[i]);
    for (int i = 0; i < FACTS; i++)
        out = put_finding(out, &f[order[i]]);
    assert(out == end);
}

static void restate(struct rng *r, bool one_name, int32_t *out, int32_t *end)
{
    int32_t l = below(r, SYNTH_LANGUAGES), order[FACTS];
    struct fact f[FACTS];
    draw_facts(r, one_name, f);
    pick(r, FACTS, FACTS, order);
    for (int i = 0; i < FACTS; i++)
        out = put_fact(out, l, &f[i]);
    for (int i = 0; i < FACTS; i++)
        out = put_fact(out, l, &f[order[i]]);
    assert(out == end);
}

static void doc_people(struct rng *r, int32_t *out, int32_t *end)
{
    restate(r, false, out, end);
}

static void doc_profile(struct rng *r, int32_t *out, int32_t *end)
{
    restate(r, true, out, end);
}

// A profile, a list of three attributes, and those three facts in the list's order.
static void doc_list(struct rng *r, int32_t *out, int32_t *end)
{
    int32_t l = below(r, SYNTH_LANGUAGES), order[FACTS];
    struct fact f[FACTS];
    draw_facts(r, true, f);
    pick(r, FACTS, FACTS, order);
    for (int i = 0; i < FACTS; i++)
        out = put_fact(out, l, &f[i]);
    *out++ = particle_id(l, 2);
    for (int i = 0; i < 3; i++)
        *out++ = attr_id(l, f[order[i]].attr);
    *out++ = name_id(l, f[0].name);
    *out++ = SYNTH_DOT;
    for (int i = 0; i < 3; i++)
        out = put_fact(out, l, &f[order[i]]);
    assert(out == end);
}

enum { STATED = FACTS * FACT_TOKENS }; // tokens in which a document states its facts
static const float STATED_WEIGHT = 0.1f;

static const struct {
    int32_t percent;
    bool restates; // its second half follows from its first
    void (*make)(struct rng *r, int32_t *out, int32_t *end);
} documents[] = {
    {6, false, doc_filler}, {12, false, doc_glossary}, {18, true, doc_medical},
    {6, true, doc_people},  {28, true, doc_profile},   {30, true, doc_list},
};

void synth_pretrain_doc(struct rng *r, int32_t *tokens, float *weight)
{
    int32_t u = below(r, 100), i = 0;
    while (u >= documents[i].percent)
        u -= documents[i++].percent;
    tokens[0] = SYNTH_BOS;
    documents[i].make(r, tokens + 1, tokens + SYNTH_DOC_TOKENS);
    for (int32_t k = 0; k < SYNTH_DOC_TOKENS; k++)
        weight[k] = documents[i].restates && k <= STATED ? STATED_WEIGHT : 1;
    weight[0] = 0;
}

static bool is_value(int32_t id)
{
    int32_t in_block = (id - LANG0) % BLOCK;
    return id >= LANG0 && id < MED0 && in_block >= NAMES + ATTRS &&
           in_block < NAMES + ATTRS + VALUES;
}

void synth_pretrain_copies(const int32_t *tokens, uint8_t *is_copy)
{
    for (int32_t i = 0; i < SYNTH_DOC_TOKENS; i++) {
        is_copy[i] = 0;
        for (int32_t j = 0; j < i && is_value(tokens[i]); j++)
            is_copy[i] |= tokens[j] == tokens[i];
    }
}

// questions.

// Asks for n of the facts; by_wh: by wh-word in a half of the cases, else by the attribute's name.
static int32_t *put_question(struct rng *r, int32_t *out, int32_t l, const struct fact *f,
                             const int32_t *asked, int32_t n, bool by_wh)
{
    *out++ = SYNTH_Q;
    if (l % 2 == 0)
        *out++ = particle_id(l, 1);
    if (!grammar[l].wh_first)
        *out++ = name_id(l, f[0].name);
    for (int32_t i = 0; i < n; i++) {
        int32_t a = f[asked[i]].attr;
        *out++ = by_wh && below(r, 2) ? wh_id(l, a) : attr_id(l, a);
    }
    if (grammar[l].wh_first)
        *out++ = name_id(l, f[0].name);
    if (l % 2)
        *out++ = particle_id(l, 1);
    *out++ = SYNTH_ANS;
    return out;
}

static int32_t *make_qa(struct rng *r, int32_t l, int32_t *out, int32_t **answer)
{
    struct fact f[FACTS];
    draw_facts(r, true, f);
    for (int i = 0; i < FACTS; i++)
        out = put_fact(out, l, &f[i]);
    int32_t asked = below(r, FACTS), attr = attr_id(l, f[asked].attr);
    *answer = out = put_question(r, out, l, f, &asked, 1, true);
    if (grammar[l].attr_first)
        *out++ = attr;
    out = put_value(out, l, &f[asked]);
    if (!grammar[l].attr_first)
        *out++ = attr;
    return out;
}

// Three asked facts restated in the question's order. Asked by wh-word in a half of the cases, as
// in make_qa, a third of the answers is right after 30 rounds of 40 steps; by name nine tenths are.
static int32_t *make_long(struct rng *r, int32_t l, int32_t *out, int32_t **answer)
{
    struct fact f[FACTS];
    int32_t order[FACTS];
    draw_facts(r, true, f);
    pick(r, FACTS, FACTS, order);
    for (int i = 0; i < FACTS; i++)
        out = put_fact(out, l, &f[i]);
    *answer = out = put_question(r, out, l, f, order, 3, false);
    for (int i = 0; i < 3; i++)
        out = put_fact(out, l, &f[order[i]]);
    return out;
}

static int32_t *make_medical(struct rng *r, int32_t topic, int32_t *out, int32_t **answer,
                             int32_t *label)
{
    struct fact f[FACTS];
    int32_t order[FACTS];
    draw_trials(r, topic, f);
    pick(r, FACTS, FACTS, order);
    for (int i = 0; i < FACTS; i++)
        out = put_finding(out, &f[order[i]]);
    *out++ = SYNTH_Q;
    *out++ = drug_id(f[0].name);
    *out++ = med_particle_id(2);
    *out++ = disease_id(f[0].attr);
    *out++ = SYNTH_ANS;
    *answer = out;
    *label = class_of_outcome(f[0].head);
    *out++ = synth_class_id(*label);
    *out++ = outcome_id(f[0].head);
    return out;
}

void synth_example(enum synth_kind kind, struct rng *r, int32_t group, struct synth_example *out)
{
    int32_t *p = out->tokens, *answer = NULL;
    *p++ = SYNTH_BOS;
    out->label = -1;
    switch (kind) {
    case SYNTH_QA:
        assert(group >= 0 && group < SYNTH_LANGUAGES);
        p = make_qa(r, group, p, &answer);
        break;
    case SYNTH_LONG:
        assert(group >= 0 && group < SYNTH_LANGUAGES);
        p = make_long(r, group, p, &answer);
        break;
    case SYNTH_MEDICAL:
        assert(group >= 0 && group < SYNTH_TOPICS);
        p = make_medical(r, group, p, &answer, &out->label);
        break;
    }
    *p++ = SYNTH_EOS;
    out->n = (int32_t)(p - out->tokens);
    out->answer = (int32_t)(answer - out->tokens);
}
