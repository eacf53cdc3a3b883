// Scores against cases worked by hand, and ROUGE-L against a brute-force subsequence search.
#include "base/rng.h"
#include "task/score.h"
#include "task/text.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void near(double got, double want)
{
    if (fabs(got - want) > 1e-12)
        fail_msg("got %.15g, want %.15g", got, want);
}

static void words_of(const char *text, const char *want)
{
    char got[256] = "";
    struct text_words w = text_split(text);
    for (int32_t i = 0; i < w.n; i++) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%.*s", i ? "|" : "", (int)w.v[i].n, w.v[i].s);
    }
    text_free(&w);
    assert_string_equal(got, want);
}

static void text_is_split_and_lowered(void **state)
{
    (void)state;
    words_of("", "");
    words_of(" .,!  ", "");
    words_of("The cat, the hat: 3.5%", "the|cat|the|hat|3|5");
    words_of("ÉCOLE Łódź ŠKODA Ÿ ŒUVRE", "école|łódź|škoda|ÿ|œuvre");
    words_of("Việt Nam: ĐƯỜNG", "việt|nam|đường");
    words_of("İSTANBUL", "istanbul");
    words_of("ΣΊΣΥΦΟΣ Ωδή σίσυφος", "σίσυφοσ|ωδή|σίσυφοσ"); // final sigma is sigma
    words_of("МОСКВА Ёлка Ґанок ІЇЄ", "москва|ёлка|ґанок|іїє");
    words_of("هذا، مثال؟", "هذا|مثال");
    words_of("محـــمد", "محمد");               // tatweel only stretches
    words_of("यह वाक्य है।", "यह|वाक्य|है");       // danda ends a sentence
    words_of("తెలుగు భాష", "తెలుగు|భాష");          // vowel signs belong to their word
    words_of("北京2008年。", "北|京|2008|年"); // by character; digits stay together
    words_of("ひらがなカナ、漢字", "ひ|ら|が|な|カ|ナ|漢|字");
    words_of("한국어 문장", "한국어|문장"); // Hangul is written in words
    words_of("ภาษา", "ภ|า|ษ|า");
    words_of("Ｆｕｌｌ１", "ｆｕｌｌ１");
    words_of("co\xc2\xad"
             "operate\xef\xbb\xbf",
             "cooperate"); // soft hyphen, byte order mark
    words_of("a\xff"
             "b \xe2\x82",
             ""
             "a|b"); // broken bytes are U+FFFD, a symbol
}

static void exact_match(void **state)
{
    (void)state;
    near(score_exact("Denver Broncos", "denver  broncos."), 1);
    near(score_exact("the Denver Broncos", "Denver Broncos"), 0); // articles count
    near(score_exact("", ""), 1);
    near(score_exact("...", ""), 1);
    near(score_exact("x", ""), 0);
    near(score_exact("丹佛野马", "丹佛 野马"), 1);
}

static void token_f1(void **state)
{
    (void)state;
    // 2 of 3 predicted words are right, 2 of 4 found: P = 2/3, R = 1/2, F = 4/7
    near(score_f1("red green blue", "red green white black"), 4.0 / 7);
    near(score_f1("a a a b", "a b b"), 4.0 / 7); // multiset: one a, one b
    near(score_f1("b a", "a b"), 1);             // order does not count
    near(score_f1("", ""), 1);
    near(score_f1("a", ""), 0);
    near(score_f1("", "a"), 0);
    near(score_f1("x", "y"), 0);
}

static void rouge_l(void **state)
{
    (void)state;
    // Lin 2004: "police killed the gunman" against "police kill the gunman": LCS 3 of 4 and 4
    near(score_rouge_l("police kill the gunman", "police killed the gunman"), 3.0 / 4);
    near(score_rouge_l("the gunman kill police", "police killed the gunman"), 2.0 / 4);
    near(score_rouge_l("a b c d e", "a c e"), 6.0 / 8);
    near(score_rouge_l("我喜欢红茶", "我喜欢绿茶。"), 8.0 / 10); // by character
    near(score_rouge_l("", ""), 1);
    near(score_rouge_l("", "a"), 0);
    near(score_rouge_l("A", "a"), 1);
}

// The longest common subsequence by trying every subset of a's words.
static int brute(const char *a, int na, const char *b, int nb)
{
    int best = 0;
    for (unsigned set = 0; set < 1u << na; set++) {
        int size = 0, at = 0, ok = 1;
        for (int i = 0; i < na && ok; i++) {
            if (!(set >> i & 1))
                continue;
            size++;
            while (at < nb && b[at] != a[i])
                at++;
            ok = at++ < nb;
        }
        if (ok && size > best)
            best = size;
    }
    return best;
}

static void rouge_l_matches_brute_force(void **state)
{
    (void)state;
    struct rng r = rng_stream(1, RNG_TEST, 0, 0, 0);
    for (int round = 0; round < 400; round++) {
        char letters[2][16], text[2][64];
        int n[2];
        for (int k = 0; k < 2; k++) {
            n[k] = (int)rng_below(&r, 11);
            size_t at = 0;
            text[k][0] = 0;
            for (int i = 0; i < n[k]; i++) {
                letters[k][i] = (char)('a' + rng_below(&r, 3));
                at += (size_t)snprintf(text[k] + at, sizeof text[k] - at, "%c ", letters[k][i]);
            }
        }
        double want =
            n[0] + n[1] == 0 ? 1 : 2.0 * brute(letters[0], n[0], letters[1], n[1]) / (n[0] + n[1]);
        near(score_rouge_l(text[0], text[1]), want);
    }
}

static void labels(void **state)
{
    (void)state;
    static const char *const ynm[] = {"yes", "no", "maybe"};
    static const char *const nested[] = {"grade", "grade two"};
    assert_int_equal(score_label("Yes, it does.", ynm, 3), 0);
    assert_int_equal(score_label("NO", ynm, 3), 1);
    assert_int_equal(score_label("maybe", ynm, 3), 2);
    assert_int_equal(score_label("nothing", ynm, 3), -1); // whole words only
    assert_int_equal(score_label("it is yes", ynm, 3), -1);
    assert_int_equal(score_label("", ynm, 3), -1);
    assert_int_equal(score_label("Grade two tumour", nested, 2), 1); // the longest
    assert_int_equal(score_label("Grade three", nested, 2), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_split_and_lowered),
        cmocka_unit_test(exact_match),
        cmocka_unit_test(token_f1),
        cmocka_unit_test(rouge_l),
        cmocka_unit_test(rouge_l_matches_brute_force),
        cmocka_unit_test(labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
