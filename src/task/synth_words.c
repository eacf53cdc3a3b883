// The spelling of the embedded vocabulary: random syllables in the script of each language, from a
// fixed seed, every word once. It never enters training; it makes text, tokenizer and scores real.
#include "task/synth.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

// Syllables are onset and vowel, a word ends in a coda; "_" stands for nothing.
struct script {
    const char *onset, *vowel, *coda;
    int32_t syllables_min, syllables_max;
};

static const struct script scripts[SYNTH_LANGUAGES + 1] = {
    {"ب ت ج ح د ر ز س ش ص ط ع ف ق ك ل م ن ه", "ا و ي _", "_ ن ر ة", 2, 3},
    {"b br cl d dr f fl g gr h k l m n p r s sh st t th w", "a e i o u ea oo", "_ n ck rd st", 2,
     2},
    {"b c d f g l ll m n ñ p r s t v", "a o i u ía ie ó", "_ s ra da", 2, 2},
    {"b ch d f gn j l m n p r s t v vr", "a é è i ou eu oi eau", "_ x nne lle", 2, 2},
    {"b c d f j lh m n nh p r s t v", "a e i o u ei ou á", "ção ã r z l", 2, 2},
    {"б в г д ж з к л м н п р с т ф х ч ш", "а е и о у ы я ю", "_ к ль н й", 2, 3},
    {"క గ చ జ ట డ త ద న ప బ మ య ర ల వ స హ", "_ ా ి ీ ు ూ ె ే ొ ో", "_ ం ల్ న్", 2, 3},
    {"山 水 火 木 金 土 日 月 风 云 雨 石 竹 松 花 草 江 湖 海 桥 城 门 田 林 天 光 星 玉 雪 春",
     "_", "_", 2, 3},
    {"b c d f gl l m n p r s t v x z ph tr", "a e i o u y ae", "l x ne sis ma", 2, 3},
};

enum { WORD_BYTES = 40, SLOTS = 2048 };
static char spaced[SYNTH_VOCAB][WORD_BYTES]; // " word"
static int16_t slot[SLOTS];                  // open addressing, id + 1; 0 = empty
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t hash_of(const char *s, uint32_t n)
{
    uint32_t h = 2166136261u; // FNV-1a
    for (uint32_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * 16777619u;
    return h ^ (h >> 15);
}

static int32_t find(const char *s, uint32_t n)
{
    for (uint32_t i = hash_of(s, n) % SLOTS; slot[i]; i = (i + 1) % SLOTS) {
        const char *w = spaced[slot[i] - 1] + 1;
        if (strlen(w) == n && memcmp(w, s, n) == 0)
            return slot[i] - 1;
    }
    return -1;
}

static void set_word(int32_t id, const char *s)
{
    uint32_t i = hash_of(s, (uint32_t)strlen(s)) % SLOTS;
    snprintf(spaced[id], WORD_BYTES, " %s", s);
    while (slot[i])
        i = (i + 1) % SLOTS;
    slot[i] = (int16_t)(id + 1);
}

// Appends one of the words of a list separated by spaces.
static size_t draw(struct rng *r, const char *list, char *out, size_t at)
{
    uint32_t n = 1;
    for (const char *p = list; *p; p++)
        n += *p == ' ';
    for (uint32_t skip = rng_below(r, n); skip; skip--)
        list = strchr(list, ' ') + 1;
    size_t len = strcspn(list, " ");
    if (*list == '_')
        return at;
    assert(at + len < WORD_BYTES - 1);
    memcpy(out + at, list, len);
    return at + len;
}

static void spell(struct rng *r, const struct script *s, int32_t id)
{
    char w[WORD_BYTES - 1];
    size_t n;
    do {
        uint32_t spread = (uint32_t)(s->syllables_max - s->syllables_min + 1);
        uint32_t syllables = (uint32_t)s->syllables_min + rng_below(r, spread);
        n = 0;
        for (uint32_t i = 0; i < syllables; i++) {
            n = draw(r, s->onset, w, n);
            n = draw(r, s->vowel, w, n);
        }
        n = draw(r, s->coda, w, n);
        w[n] = 0;
    } while (find(w, (uint32_t)n) >= 0);
    set_word(id, w);
}

static void spell_all(void)
{
    static const char *const special[] = {"", "<s>", "</s>", "Q:", "A:", "."};
    for (int32_t id = SYNTH_BOS; id <= SYNTH_DOT; id++)
        set_word(id, special[id]);
    for (int32_t c = 0; c < 3; c++)
        set_word(synth_class_id(c), synth_classes[c]);
    for (int32_t id = SYNTH_USED; id < SYNTH_VOCAB; id++) {
        char unused[WORD_BYTES - 1];
        snprintf(unused, sizeof unused, id == SYNTH_UNK ? "<unk>" : "<unused%d>", id - SYNTH_UNK);
        set_word(id, unused);
    }
    for (int32_t id = SYNTH_DOT + 1; id < SYNTH_USED; id++) {
        struct rng r = rng_stream(0, RNG_DATA, UINT32_MAX, (uint32_t)id, 'w');
        if (!spaced[id][0])
            spell(&r, &scripts[synth_language_of(id)], id);
    }
}

const char *synth_spaced(int32_t id)
{
    pthread_once(&once, spell_all);
    return id >= 0 && id < SYNTH_VOCAB ? spaced[id] : "";
}

const char *synth_word(int32_t id)
{
    const char *s = synth_spaced(id);
    return *s ? s + 1 : s;
}

int32_t synth_find(const char *s, uint32_t n_bytes)
{
    pthread_once(&once, spell_all);
    return find(s, n_bytes);
}
