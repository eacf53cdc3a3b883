// BPE against the Python packages tokenizers and sentencepiece (tests/golden/make_bpe.py): four
// ways to cut text into bytes, SentencePiece's vocabularies as tokenizer.json and GGUF files have
// them, added tokens, and a GGUF file that says the same as a tokenizer.json. The real SmolLM2 is
// tried where FSTQ_SMOLLM2 names its GGUF file.
#include "base/bytes.h"
#include "base/fsio.h"
#include "base/gguf.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/model.h"
#include "task/nfc.h"
#include "task/pretoken.h"
#include "task/tokenizer.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const kinds[][2] = {
    {"gpt2", "gpt-2"}, {"smollm", "smollm"}, {"llama3", "llama-bpe"}, {"qwen2", "qwen2"}};

static json_t *load_file(const char *name, const char *kind)
{
    char path[80];
    json_error_t why;
    snprintf(path, sizeof path, "tests/golden/%s-%s.json", name, kind);
    json_t *root = json_load_file(path, 0, &why);
    if (!root)
        fail_msg("%s: %s (tests run from the root of the checkout)", path, why.text);
    return root;
}

static json_t *load(const char *kind)
{
    return load_file("bpe", kind);
}

static struct tokenizer *open_json(const json_t *root)
{
    struct err err = {""};
    char *text = json_dumps(json_object_get(root, "tokenizer"), JSON_COMPACT);
    struct tokenizer *t =
        tokenizer_open_bytes(&tokenizer_json, (const uint8_t *)text, strlen(text), &err);
    free(text);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

// Ids as wanted, also when there is room for fewer; and the text comes back, or what it should.
static void check_text(const struct tokenizer *t, const char *kind, const char *text, size_t n,
                       const json_t *want, const char *came_back)
{
    size_t len_back = came_back ? strlen(came_back) : 0;
    int32_t ids[512], few[512];
    char back[1024];
    int32_t got = tokenizer_encode(t, text, n, ids, 512);
    if (got != (int32_t)json_array_size(want))
        fail_msg("%s '%s': %d ids, not %zu", kind, text, got, json_array_size(want));
    for (int32_t i = 0; i < got; i++)
        if (ids[i] != json_integer_value(json_array_get(want, (size_t)i)))
            fail_msg("%s '%s': id %d is %d, not %lld", kind, text, i, ids[i],
                     (long long)json_integer_value(json_array_get(want, (size_t)i)));
    assert_int_equal(tokenizer_encode(t, text, n, few, got / 2), got);
    assert_memory_equal(ids, few, (size_t)(got / 2) * sizeof *few);
    if (!came_back) {
        came_back = text;
        len_back = n;
    }
    size_t out = tokenizer_decode(t, ids, got, back, sizeof back);
    if (out != len_back || memcmp(back, came_back, out) != 0)
        fail_msg("%s '%s' comes back as '%s'", kind, text, back);
}

static void check_all(const struct tokenizer *t, const char *kind, const json_t *root)
{
    const json_t *row;
    size_t i;
    json_array_foreach(json_object_get(root, "texts"), i, row)
    {
        const json_t *text = json_object_get(row, "text");
        check_text(t, kind, json_string_value(text), json_string_length(text),
                   json_object_get(row, "ids"), json_string_value(json_object_get(row, "back")));
    }
    assert_true(i > 50);
}

static void ids_are_those_of_tokenizers(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        json_t *root = load(kinds[k][0]);
        struct tokenizer *t = open_json(root);
        assert_int_equal(t->vocab, 421);
        assert_true(t->bos == -1 && t->eos == 2 && t->pad == 0);
        check_all(t, kinds[k][0], root);
        tokenizer_close(t);
        json_decref(root);
    }
}

static void ids_of_sentencepieces_in_json(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool space_first;
    } row[] = {{"llama2", true}, {"gemma", false}, {"meta-first", false}, {"meta-always", false}};
    for (size_t k = 0; k < ARRAY_LEN(row); k++) {
        json_t *root = load(row[k].name);
        struct tokenizer *t = open_json(root);
        assert_true(t->bos == 1 && t->eos == 2 && t->space_first == row[k].space_first);
        check_all(t, row[k].name, root);
        assert_int_equal(t->row->control(t, "</s>"), 2);
        assert_int_equal(t->row->control(t, "<tool>"), -1);
        tokenizer_close(t);
        json_decref(root);
    }
}

// The same vocabulary as the keys of a GGUF file.
static uint8_t file[1 << 16];
static size_t len;

static void put_text(const char *s, size_t n)
{
    put_u64(file + len, n);
    memcpy(file + len + 8, s, n);
    len += 8 + n;
}
static void put_key(const char *name, uint32_t type)
{
    put_text(name, strlen(name));
    put_u32(file + len, type);
    len += 4;
}
static void put_list(const char *name, uint32_t of, size_t n)
{
    put_key(name, GGUF_ARRAY);
    put_u32(file + len, of);
    put_u64(file + len + 4, n);
    len += 12;
}

static void make_gguf(const json_t *tokenizer, const char *pre)
{
    const json_t *model = json_object_get(tokenizer, "model"), *row;
    const json_t *added = json_object_get(tokenizer, "added_tokens");
    const char *text[421] = {0};
    uint32_t type[421];
    const char *name;
    json_t *id;
    size_t i;
    json_object_foreach(json_object_get(model, "vocab"), name, id)
    {
        text[json_integer_value(id)] = name;
        type[json_integer_value(id)] = 1;
    }
    json_array_foreach(added, i, row)
    {
        size_t at = (size_t)json_integer_value(json_object_get(row, "id"));
        text[at] = json_string_value(json_object_get(row, "content"));
        type[at] = json_is_true(json_object_get(row, "special")) ? 3 : 4;
    }
    memcpy(file, "GGUF", 4);
    put_u32(file + 4, 3);
    put_u64(file + 8, 0);
    put_u64(file + 16, 6);
    len = 24;
    put_key("tokenizer.ggml.model", GGUF_STRING);
    put_text("gpt2", 4);
    put_key("tokenizer.ggml.pre", GGUF_STRING);
    put_text(pre, strlen(pre));
    put_key("tokenizer.ggml.eos_token_id", GGUF_U32);
    put_u32(file + len, 2);
    len += 4;
    put_list("tokenizer.ggml.tokens", GGUF_STRING, 421);
    for (i = 0; i < 421; i++)
        put_text(text[i], strlen(text[i]));
    put_list("tokenizer.ggml.token_type", GGUF_I32, 421);
    for (i = 0; i < 421; i++, len += 4)
        put_u32(file + len, type[i]);
    put_list("tokenizer.ggml.merges", GGUF_STRING,
             json_array_size(json_object_get(model, "merges")));
    json_array_foreach(json_object_get(model, "merges"), i, row)
    {
        char both[256];
        snprintf(both, sizeof both, "%s %s", json_string_value(json_array_get(row, 0)),
                 json_string_value(json_array_get(row, 1)));
        put_text(both, strlen(both));
    }
}

static void gguf_says_the_same(void **state)
{
    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        struct err err = {""};
        json_t *root = load(kinds[k][0]);
        make_gguf(json_object_get(root, "tokenizer"), kinds[k][1]);
        struct tokenizer *t = tokenizer_open_bytes(&tokenizer_gguf, file, len, &err);
        if (!t)
            fail_msg("%s: %s", kinds[k][0], err.text);
        assert_true(t->bos == -1 && t->eos == 2);
        check_all(t, kinds[k][0], root);
        tokenizer_close(t);
        json_decref(root);
    }
}

static void put_int(const char *name, uint32_t type, uint32_t v)
{
    put_key(name, type);
    if (type == GGUF_BOOL)
        file[len++] = (uint8_t)v;
    else
        put_u32(file + len, v);
    len += type == GGUF_BOOL ? 0 : 4;
}

static void make_sentencepieces(const json_t *root)
{
    const json_t *pieces = json_object_get(root, "pieces"), *row;
    bool space = json_is_true(json_object_get(root, "space"));
    size_t i, n = json_array_size(pieces);
    memcpy(file, "GGUF", 4);
    put_u32(file + 4, 3);
    put_u64(file + 8, 0);
    put_u64(file + 16, space ? 4 : 6);
    len = 24;
    put_key("tokenizer.ggml.model", GGUF_STRING);
    put_text("llama", 5);
    if (!space) { // else by default
        put_int("tokenizer.ggml.add_space_prefix", GGUF_BOOL, 0);
        put_int("tokenizer.ggml.add_bos_token", GGUF_BOOL, 0);
    }
    put_list("tokenizer.ggml.tokens", GGUF_STRING, n);
    json_array_foreach(pieces, i, row) put_text(json_string_value(json_array_get(row, 0)),
                                                json_string_length(json_array_get(row, 0)));
    put_list("tokenizer.ggml.scores", GGUF_F32, n);
    json_array_foreach(pieces, i, row)
    {
        put_f32(file + len, (float)json_number_value(json_array_get(row, 1)));
        len += 4;
    }
    put_list("tokenizer.ggml.token_type", GGUF_I32, n);
    json_array_foreach(pieces, i, row)
    {
        put_u32(file + len, (uint32_t)json_integer_value(json_array_get(row, 2)));
        len += 4;
    }
}

static void ids_of_sentencepieces_in_gguf(void **state)
{
    (void)state;
    static const char *const name[] = {"space", "bare"};
    for (size_t k = 0; k < ARRAY_LEN(name); k++) {
        struct err err = {""};
        json_t *root = load_file("spm", name[k]);
        make_sentencepieces(root);
        struct tokenizer *t = tokenizer_open_bytes(&tokenizer_gguf, file, len, &err);
        if (!t)
            fail_msg("%s: %s", name[k], err.text);
        assert_true(t->bos == (k ? -1 : 1) && t->eos == 2 && t->space_first == !k);
        check_all(t, name[k], root);
        tokenizer_close(t);
        for (size_t cut = 0; cut < len; cut += 7)
            assert_null(tokenizer_open_bytes(&tokenizer_gguf, file, cut, &err));
        uint8_t *at = memmem(file, len, "<0x0A>", 6);
        assert_non_null(at);
        at[3] = 'g';
        assert_null(tokenizer_open_bytes(&tokenizer_gguf, file, len, &err));
        assert_non_null(strstr(err.text, "<0x0A>"));
        json_decref(root);
    }
}

static void refuses(const char *text, const char *why)
{
    struct err err = {""};
    assert_null(tokenizer_open_bytes(&tokenizer_json, (const uint8_t *)text, strlen(text), &err));
    if (!strstr(err.text, why))
        fail_msg("'%s' does not say '%s'", err.text, why);
}

static void others_are_refused_by_name(void **state)
{
    (void)state;
    struct err err = {""};
    refuses("{", "line 1");
    refuses("{\"model\": {\"type\": \"Unigram\"}}", "Unigram");
#define FALLBACK "\"model\": {\"type\": \"BPE\", \"byte_fallback\": true}"
    refuses("{" FALLBACK "}", "normalizer none with pre_tokenizer none");
    refuses("{" FALLBACK ", \"normalizer\": {\"type\": \"Lowercase\"}}", "Lowercase");
    refuses("{" FALLBACK ", \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": "
            "\"\xe2\x96\x81\", \"prepend_scheme\": \"last\"}}",
            "prepend_scheme is last");
    refuses("{\"model\": {\"type\": \"BPE\", \"fuse_unk\": true}}", "fuse_unk");
    refuses("{\"model\": {\"type\": \"BPE\", \"dropout\": 0.1}}", "dropout");
    refuses("{\"model\": {\"type\": \"BPE\"}, \"normalizer\": {\"type\": \"Prepend\"}}", "Prepend");
    refuses("{\"model\": {\"type\": \"BPE\"}, \"pre_tokenizer\": {\"type\": \"Metaspace\"}}",
            "Metaspace");
    refuses("{\"model\": {\"type\": \"BPE\"}, \"pre_tokenizer\": {\"type\": \"Sequence\", "
            "\"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"x+\"}, "
            "\"behavior\": \"Isolated\"}, {\"type\": \"ByteLevel\", \"use_regex\": false}]}}",
            "x+");
#define PRE "\"pre_tokenizer\": {\"type\": \"ByteLevel\"}, "
    refuses("{" PRE "\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}",
            "model.vocab");
    refuses("{" PRE
            "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}}",
            "the same id");
    refuses("{" PRE "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a b\"]}}",
            "merge 0");
    refuses("{" PRE "\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [7]}}",
            "entry 0");
    json_t *root = load("gpt2");
    make_gguf(json_object_get(root, "tokenizer"), "deepseek-llm");
    assert_null(tokenizer_open_bytes(&tokenizer_gguf, file, len, &err));
    assert_non_null(strstr(err.text, "deepseek-llm"));
    make_gguf(json_object_get(root, "tokenizer"), "gpt-2");
    for (size_t cut = 0; cut < len; cut += 7)
        assert_null(tokenizer_open_bytes(&tokenizer_gguf, file, cut, &err));
    json_decref(root);
}

// Any bytes at all are cut into pieces that make up the whole, and time does not explode.
static void any_text_is_cut(void **state)
{
    (void)state;
    enum { N = 20000 };
    static char text[N];
    struct rng r = rng_stream(5, RNG_BATCH, 0, 0, 0);
    for (int kind = 0; kind < 3; kind++) {
        for (size_t i = 0; i < N; i++)
            text[i] = (char)(kind == 0 ? rng_below(&r, 256) : kind == 1 ? 32u : 0xe4u);
        for (int k = 0; pretoken_table[k]; k++) {
            size_t at = 0;
            while (at < N) {
                size_t n = pretoken_table[k]->next(text, N, at);
                assert_true(n > 0 && n <= N - at);
                at += n;
            }
        }
    }
    json_t *root = load("qwen2");
    struct tokenizer *t = open_json(root);
    static int32_t ids[N];
    memset(text, 'a', N);
    assert_true(tokenizer_encode(t, text, N, ids, N) <= N); // one piece of 20,000 letters
    tokenizer_close(t);
    json_decref(root);
}

static void smollm2_itself(void **state)
{
    (void)state;
    const char *named = getenv("FSTQ_SMOLLM2");
    char path[MODEL_PATH];
    static const struct {
        const char *text;
        int32_t n, ids[12];
    } row[] = {{"Hello world! 123", 7, {19556, 905, 17, 216, 33, 34, 35}}};
    struct err err = {""};
    model_place(named && *named ? named : "smollm2-135m", path, sizeof path);
    if (access(path, R_OK))
        skip();
    struct tokenizer *t = tokenizer_open("gguf", path, &err);
    if (!t)
        fail_msg("%s", err.text);
    assert_true(t->vocab == 49152 && t->bos == -1 && t->eos == 2);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        int32_t ids[64];
        assert_int_equal(tokenizer_encode(t, row[i].text, strlen(row[i].text), ids, 64), row[i].n);
        assert_memory_equal(ids, row[i].ids, (size_t)row[i].n * sizeof *ids);
    }
    json_t *golden = json_load_file("../shared/spec/real-models/tokens.json", 0, NULL), *text;
    const char *name;
    json_object_foreach(json_object_get(golden, "strings"), name, text)
        check_text(t, name, json_string_value(text), json_string_length(text),
                   json_object_get(json_object_get(golden, "ids"), name), NULL);
    json_decref(golden);
    tokenizer_close(t);
}

static size_t from_hex(const char *hex, char *out)
{
    size_t n = 0;
    unsigned byte;
    for (; sscanf(hex, "%2x", &byte) == 1; hex += 2)
        out[n++] = (char)byte;
    return n;
}

// tests/golden/nfc.txt is Python's (scripts/make_nfc.py).
static void text_is_composed(void **state)
{
    (void)state;
    char before[512], after[512], text[256], want[256];
    int lines = 0, changed = 0;
    FILE *f = fopen("tests/golden/nfc.txt", "r");
    assert_non_null(f);
    for (; fscanf(f, "%511s %511s", before, after) == 2; lines++) {
        size_t n = from_hex(before, text), n_want = from_hex(after, want), got = n, again = n_want;
        char *form = nfc_of(text, &got), *same = nfc_of(want, &again);
        bool differs = n != n_want || memcmp(text, want, n) != 0;
        if (got != n_want || memcmp(form, want, got) != 0)
            fail_msg("line %d", lines + 1);
        if (again != n_want || memcmp(same, want, again) != 0)
            fail_msg("line %d: its form changes", lines + 1);
        if (differs && nfc_holds(text, n))
            fail_msg("line %d: held to be in the form", lines + 1);
        changed += differs;
        mem_free(form);
        mem_free(same);
    }
    fclose(f);
    assert_true(lines == 400 && changed > 100);
    // Bytes that are no UTF-8 stay, and part what is beside them.
    size_t n = 4;
    char *form = nfc_of("e\xff\xcc\x81", &n);
    assert_true(n == 4 && memcmp(form, "e\xff\xcc\x81", 4) == 0);
    mem_free(form);
    assert_true(nfc_holds("na\xc3\xafve", 6) && !nfc_holds("nai\xcc\x88ve", 7));
}

// Qwen's tokenizers compose text first, others do not.
static void composed_text_has_the_same_ids(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        json_t *root = load(i ? "smollm" : "qwen2");
        struct tokenizer *t = open_json(root);
        int32_t a[16], b[16];
        int32_t n = tokenizer_encode(t, "na\xc3\xafve", 6, a, 16);
        int32_t m = tokenizer_encode(t, "nai\xcc\x88ve", 7, b, 16);
        assert_int_equal(n == m && memcmp(a, b, (size_t)n * sizeof *a) == 0, i == 0);
        tokenizer_close(t);
        json_decref(root);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_tokenizers),
        cmocka_unit_test(gguf_says_the_same),
        cmocka_unit_test(ids_of_sentencepieces_in_json),
        cmocka_unit_test(ids_of_sentencepieces_in_gguf),
        cmocka_unit_test(others_are_refused_by_name),
        cmocka_unit_test(any_text_is_cut),
        cmocka_unit_test(text_is_composed),
        cmocka_unit_test(composed_text_has_the_same_ids),
        cmocka_unit_test(smollm2_itself),
    };
    return cmocka_run_group_tests_name("bpe", tests, NULL, NULL);
}
