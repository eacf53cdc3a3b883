// The spelling of the embedded vocabulary: random syllables in the script of each language, from a
// fixed seed, every word once. It never enters training; it makes text, tokenizer and scores real.
#include "task/synth.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct script {
    const char *onset[32], *vowel[12], *coda[6]; // NULL-terminated
    int32_t syllables_min, syllables_max;
};

// clang-format off
static const struct script scripts[SYNTH_LANGUAGES + 1] = {
    {.onset = {"ب", "ت", "ج", "ح", "د", "ر", "ز", "س", "ش", "ص", "ط", "ع", "ف", "ق", "ك", "ل", "م", "ن", "ه"},
     .vowel = {"ا", "و", "ي", ""}, .coda = {"", "ن", "ر", "ة"}, .syllables_min = 2, .syllables_max = 3},
    {.onset = {"b", "br", "cl", "d", "dr", "f", "fl", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "sh", "st", "t", "th", "w"},
     .vowel = {"a", "e", "i", "o", "u", "ea", "oo"}, .coda = {"", "n", "ck", "rd", "st"}, .syllables_min = 2, .syllables_max = 2},
    {.onset = {"b", "c", "d", "f", "g", "l", "ll", "m", "n", "ñ", "p", "r", "s", "t", "v"},
     .vowel = {"a", "o", "i", "u", "ía", "ie", "ó"}, .coda = {"", "s", "ra", "da"}, .syllables_min = 2, .syllables_max = 2},
    {.onset = {"b", "ch", "d", "f", "gn", "j", "l", "m", "n", "p", "r", "s", "t", "v", "vr"},
     .vowel = {"a", "é", "è", "i", "ou", "eu", "oi", "eau"}, .coda = {"", "x", "nne", "lle"}, .syllables_min = 2, .syllables_max = 2},
    {.onset = {"b", "c", "d", "f", "j", "lh", "m", "n", "nh", "p", "r", "s", "t", "v"},
     .vowel = {"a", "e", "i", "o", "u", "ei", "ou", "á"}, .coda = {"ção", "ã", "r", "z", "l"}, .syllables_min = 2, .syllables_max = 2},
    {.onset = {"б", "в", "г", "д", "ж", "з", "к", "л", "м", "н", "п", "р", "с", "т", "ф", "х", "ч", "ш"},
     .vowel = {"а", "е", "и", "о", "у", "ы", "я", "ю"}, .coda = {"", "к", "ль", "н", "й"}, .syllables_min = 2, .syllables_max = 3},
    {.onset = {"క", "గ", "చ", "జ", "ట", "డ", "త", "ద", "న", "ప", "బ", "మ", "య", "ర", "ల", "వ", "స", "హ"},
     .vowel = {"", "ా", "ి", "ీ", "ు", "ూ", "ె", "ే", "ొ", "ో"}, .coda = {"", "ం", "ల్", "న్"}, .syllables_min = 2, .syllables_max = 3},
    {.onset = {"山", "水", "火", "木", "金", "土", "日", "月", "风", "云", "雨", "石", "竹", "松", "花", "草",
               "江", "湖", "海", "桥", "城", "门", "田", "林", "天", "光", "星", "玉", "雪", "春"},
     .vowel = {""}, .coda = {""}, .syllables_min = 2, .syllables_max = 3},
    {.onset = {"b", "c", "d", "f", "gl", "l", "m", "n", "p", "r", "s", "t", "v", "x", "z", "ph", "tr"},
     .vowel = {"a", "e", "i", "o", "u", "y", "ae"}, .coda = {"l", "x", "ne", "sis", "ma"}, .syllables_min = 2, .syllables_max = 3},
};
// clang-format on

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

static const char *draw(struct rng *r, const char *const *list)
{
    uint32_t n = 0;
    while (list[n])
        n++;
    return list[rng_below(r, n)];
}

static void spell(struct rng *r, const struct script *s, int32_t id)
{
    char w[WORD_BYTES - 1];
    do {
        uint32_t spread = (uint32_t)(s->syllables_max - s->syllables_min + 1);
        int32_t syllables = s->syllables_min + (int32_t)rng_below(r, spread);
        size_t n = 0;
        for (int32_t i = 0; i < syllables; i++) {
            const char *onset = draw(r, s->onset), *vowel = draw(r, s->vowel);
            n += (size_t)snprintf(w + n, sizeof w - n, "%s%s", onset, vowel);
        }
        snprintf(w + n, sizeof w - n, "%s", draw(r, s->coda));
    } while (find(w, (uint32_t)strlen(w)) >= 0);
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
