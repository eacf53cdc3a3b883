// A vocabulary from Hugging Face's tokenizer.json. What is known of it is taken, and any other kind
// of model, normalizer or pre-tokenizer is refused by its name: its ids would be wrong.
#include "base/fsio.h"
#include "base/mem.h"
#include "task/bpe.h"

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOWER_BLOCK "\xe2\x96\x81" // U+2581, SentencePiece's space

static const char *type_of(const json_t *o)
{
    const char *type = json_string_value(json_object_get(o, "type"));
    return type ? type : "none";
}

static struct gguf_text text_of(const json_t *s)
{
    return (struct gguf_text){json_string_value(s), json_string_length(s)};
}

// Added tokens first: what they say of an id counts, and some are in no vocabulary.
static int read_added(const json_t *root, struct bpe_vocabulary *v, struct err *err)
{
    const json_t *list = json_object_get(root, "added_tokens"), *row;
    size_t i;
    json_array_foreach(list, i, row)
    {
        const json_t *id = json_object_get(row, "id"), *text = json_object_get(row, "content");
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= v->n ||
            !json_is_string(text))
            return err_set(err, "added_tokens, entry %zu: no id of the vocabulary, or no content",
                           i);
        json_int_t at = json_integer_value(id);
        bool special = json_is_true(json_object_get(row, "special"));
        v->token[at] = text_of(text);
        v->kind[at] = special ? BPE_CONTROL : BPE_ADDED;
        if (!special && !v->pretoken && json_is_true(json_object_get(row, "normalized")))
            return err_set(err, "added token '%.60s': normalized is set: not supported here",
                           v->token[at].p);
        if (!special && (json_is_true(json_object_get(row, "lstrip")) ||
                         json_is_true(json_object_get(row, "rstrip")) ||
                         json_is_true(json_object_get(row, "single_word"))))
            return err_set(err,
                           "added token '%.60s': lstrip, rstrip and single_word are not "
                           "supported",
                           v->token[at].p);
    }
    return 0;
}

static int read_vocab(const json_t *root, const json_t *model, struct bpe_vocabulary *v,
                      struct err *err)
{
    const json_t *vocab = json_object_get(model, "vocab");
    const json_t *added = json_object_get(root, "added_tokens"), *row;
    const char *text;
    json_t *id;
    size_t i;
    int64_t n = 0;
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id) if (json_integer_value(id) >= n) n =
        json_integer_value(id) + 1;
    json_array_foreach(added, i, row) if (json_integer_value(json_object_get(row, "id")) >= n) n =
        json_integer_value(json_object_get(row, "id")) + 1;
    if (!json_is_object(vocab) || n < 1 || n > BPE_MAX_VOCAB)
        return err_set(err, "model.vocab has ids up to %lld; 1 to %d tokens are known",
                       (long long)n - 1, BPE_MAX_VOCAB);
    v->n = (int32_t)n;
    v->token = mem_alloc(MEM_DATA, (size_t)n * sizeof *v->token);
    v->kind = mem_alloc(MEM_DATA, (size_t)n);
    memset(v->kind, BPE_CONTROL, (size_t)n); // ids without a text
    json_object_foreach((json_t *)(uintptr_t)vocab, text, id)
    {
        json_int_t at = json_integer_value(id);
        if (!json_is_integer(id) || at < 0)
            return err_set(err, "model.vocab: '%.60s' has no id", text);
        if (v->token[at].p)
            return err_set(err, "model.vocab: '%.60s' and '%.60s' have the same id", text,
                           v->token[at].p);
        v->token[at] = (struct gguf_text){text, strlen(text)};
        bool byte = !v->pretoken && strlen(text) == 6 && !strncmp(text, "<0x", 3) && text[5] == '>';
        v->kind[at] = byte ? BPE_BYTE : BPE_NORMAL;
    }
    return read_added(root, v, err);
}

static int read_merges(const json_t *model, struct bpe_vocabulary *v, struct err *err)
{
    const json_t *merges = json_object_get(model, "merges"), *m;
    size_t i;
    if (!json_is_array(merges) || json_array_size(merges) > BPE_MAX_VOCAB)
        return err_set(err, "model.merges is no list, or too long a one");
    v->merge = mem_alloc(MEM_DATA, json_array_size(merges) * sizeof *v->merge);
    json_array_foreach(merges, i, m)
    {
        struct gguf_text *to = v->merge[i];
        if (json_is_array(m) && json_array_size(m) == 2 && json_is_string(json_array_get(m, 0)) &&
            json_is_string(json_array_get(m, 1))) {
            to[0] = text_of(json_array_get(m, 0));
            to[1] = text_of(json_array_get(m, 1));
            continue;
        }
        const char *text = json_string_value(m), *space = text && *text ? strchr(text + 1, ' ') : 0;
        if (!space)
            return err_set(err, "model.merges, entry %zu: not two tokens", i);
        to[0] = (struct gguf_text){text, (size_t)(space - text)};
        to[1] = (struct gguf_text){space + 1, strlen(space + 1)};
    }
    v->n_merges = (int64_t)json_array_size(merges);
    return 0;
}

static bool is_byte_level(const json_t *p, bool regex)
{
    return !strcmp(type_of(p), "ByteLevel") &&
           !json_is_true(json_object_get(p, "add_prefix_space")) &&
           (json_object_get(p, "use_regex") == NULL ||
            json_is_true(json_object_get(p, "use_regex"))) == regex;
}

// ByteLevel alone (gpt-2), single digits before it (smollm), or a Split by a known pattern and
// ByteLevel without one.
static int read_pretoken(const json_t *root, struct bpe_vocabulary *v, struct err *err)
{
    const json_t *p = json_object_get(root, "pre_tokenizer");
    if (is_byte_level(p, true)) {
        v->pretoken = pretoken_find("gpt-2", 5);
        return 0;
    }
    const json_t *list = json_object_get(p, "pretokenizers");
    const json_t *first = json_array_get(list, 0), *last = json_array_get(list, 1);
    if (strcmp(type_of(p), "Sequence") != 0 || json_array_size(list) != 2)
        return err_set(err,
                       "pre_tokenizer is %.60s: ByteLevel, or two in a Sequence of which it is "
                       "the last, are known",
                       type_of(p));
    if (!strcmp(type_of(first), "Digits") &&
        json_is_true(json_object_get(first, "individual_digits")) && is_byte_level(last, true)) {
        v->pretoken = pretoken_find("smollm", 6);
        return 0;
    }
    const char *regex =
        json_string_value(json_object_get(json_object_get(first, "pattern"), "Regex"));
    bool isolated = json_string_value(json_object_get(first, "behavior")) &&
                    !strcmp(json_string_value(json_object_get(first, "behavior")), "Isolated") &&
                    !json_is_true(json_object_get(first, "invert"));
    v->pretoken = regex ? pretoken_by_regex(regex) : NULL;
    if (strcmp(type_of(first), "Split") != 0 || !isolated || !v->pretoken ||
        !is_byte_level(last, false))
        return err_set(err, "pre_tokenizer: %.40s%s%.200s then %.40s is not known", type_of(first),
                       regex ? " by " : "", regex ? regex : "", type_of(last));
    return 0;
}

static bool is_text(const json_t *o, const char *key, const char *text)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s && strcmp(s, text) == 0;
}

// {"type": "Replace", "pattern": {"String": " "}, "content": "U+2581"}
static bool is_replace(const json_t *o)
{
    return is_text(o, "type", "Replace") && is_text(o, "content", LOWER_BLOCK) &&
           is_text(json_object_get(o, "pattern"), "String", " ");
}

// Spaces become U+2581 in the normalizer, behind one put in front (Llama 2) or not (Gemma, whose
// pre-tokenizer then finds no space to split at), or in the pre-tokenizer.
static int read_sentencepiece(const json_t *root, struct bpe_vocabulary *v, struct err *err)
{
    const json_t *norm = json_object_get(root, "normalizer");
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    const json_t *list = json_object_get(norm, "normalizers");
    const json_t *first = json_array_get(list, 0);
    const json_t *split = json_object_get(pre, "split");
    bool none = !json_is_object(pre), meta = is_text(pre, "type", "Metaspace");
    bool idle =
        none || (is_text(pre, "type", "Split") && is_text(pre, "behavior", "MergedWithPrevious") &&
                 is_text(json_object_get(pre, "pattern"), "String", " "));
    if (is_text(norm, "type", "Sequence") && json_array_size(list) == 2 && idle &&
        is_text(first, "type", "Prepend") && is_text(first, "prepend", LOWER_BLOCK) &&
        is_replace(json_array_get(list, 1))) {
        v->space = BPE_SPACE_PARTS;
        return 0;
    }
    if (is_replace(norm) && idle)
        return 0;
    if (json_is_object(norm) || !meta || !is_text(pre, "replacement", LOWER_BLOCK))
        return err_set(
            err,
            "normalizer %.40s with pre_tokenizer %.40s is not known: with byte_fallback, "
            "Replace of spaces, Prepend and Replace, or Metaspace alone are",
            type_of(norm), type_of(pre));
    v->apart = !json_is_false(split);
    const char *scheme = json_string_value(json_object_get(pre, "prepend_scheme"));
    if (!scheme)
        scheme = json_is_false(json_object_get(pre, "add_prefix_space")) ? "never" : "always";
    if (strcmp(scheme, "never") != 0 && strcmp(scheme, "first") != 0 &&
        strcmp(scheme, "always") != 0)
        return err_set(err, "pre_tokenizer: prepend_scheme is %.40s: not known", scheme);
    v->space = *scheme == 'n' ? BPE_SPACE_NONE : *scheme == 'f' ? BPE_SPACE_WORD : BPE_SPACE_WORDS;
    return 0;
}

static int read_cutting(const json_t *root, const json_t *model, struct bpe_vocabulary *v,
                        struct err *err)
{
    static const char *const affix[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const json_t *normalizer = json_object_get(root, "normalizer");
    bool fallback = json_is_true(json_object_get(model, "byte_fallback"));
    if (strcmp(type_of(model), "BPE") != 0)
        return err_set(err, "model is %.60s: only BPE is known", type_of(model));
    for (size_t i = 0; i < ARRAY_LEN(affix); i++)
        if (json_string_length(json_object_get(model, affix[i])) > 0)
            return err_set(err, "model.%s is set: not supported", affix[i]);
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return err_set(err, "model.dropout is set: not supported");
    if (fallback)
        return read_sentencepiece(root, v, err);
    if (json_is_true(json_object_get(model, "fuse_unk")))
        return err_set(err, "model.fuse_unk is set without byte_fallback: not supported");
    if (json_is_object(normalizer) && strcmp(type_of(normalizer), "NFC") != 0)
        return err_set(err, "normalizer is %.60s: only NFC is known without byte_fallback",
                       type_of(normalizer));
    v->nfc = json_is_object(normalizer);
    return read_pretoken(root, v, err);
}

// The file does not say what ends an answer; these names do, in this order.
static int32_t find_special(const struct bpe_vocabulary *v, const char *const *names)
{
    for (; *names; names++)
        for (int32_t i = 0; i < v->n; i++)
            if (v->kind[i] == BPE_CONTROL && gguf_is(v->token[i], *names))
                return i;
    return -1;
}

// The control token that the post-processor puts before a text; -1 = none, -2 = nothing is said.
static int32_t find_bos(const struct bpe_vocabulary *v, const json_t *post)
{
    const json_t *list = json_object_get(post, "processors"), *part;
    size_t i;
    if (!json_is_object(post))
        return -2;
    json_array_foreach(list, i, part)
    {
        int32_t id = find_bos(v, part);
        if (id >= 0)
            return id;
    }
    const json_t *first = json_array_get(json_object_get(post, "single"), 0);
    const char *name =
        json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    const char *const names[] = {name, NULL};
    return is_text(post, "type", "TemplateProcessing") && name ? find_special(v, names) : -1;
}

static int json_open(struct tokenizer *t, const uint8_t *bytes, size_t n, struct err *err)
{
    static const char *const eos[] = {
        "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", NULL};
    static const char *const pad[] = {"<|endoftext|>", "<|end_of_text|>", "<pad>", NULL};
    static const char *const bos[] = {"<|begin_of_text|>", "<s>", "<bos>", NULL};
    struct bpe_vocabulary v = {.bos = -1, .eos = -1, .pad = -1};
    json_error_t why;
    json_t *root = json_loadb((const char *)bytes, n, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return err_set(err, "line %d: %s", why.line, why.text);
    const json_t *model = json_object_get(root, "model");
    int bad = read_cutting(root, model, &v, err) || read_vocab(root, model, &v, err) ||
              read_merges(model, &v, err);
    if (!bad) {
        v.whole = json_is_true(json_object_get(model, "ignore_merges"));
        v.eos = find_special(&v, eos);
        v.pad = find_special(&v, pad);
        v.bos = find_bos(&v, json_object_get(root, "post_processor"));
        if (v.bos == -2) // as their tokenizers' classes do
            v.bos = find_special(&v, bos);
        bad = bpe_build(t, &v, err);
    }
    bpe_vocabulary_free(&v);
    json_decref(root);
    return bad ? -1 : 0;
}

// Files beside it: tokenizer_config.json names special tokens, generation_config.json has their
// ids.

static int read_beside(const char *path, const char *name, json_t **root, struct err *err)
{
    char file[PATH_MAX];
    uint8_t *bytes;
    size_t n;
    json_error_t why;
    const char *slash = strrchr(path, '/');
    *root = NULL;
    if (snprintf(file, sizeof file, "%.*s%s", slash ? (int)(slash - path) + 1 : 0, path, name) >=
            (int)sizeof file ||
        access(file, F_OK))
        return 0;
    if (fsio_read(file, 16 << 20, MEM_DATA, &bytes, &n, err))
        return -1;
    *root = json_loadb((const char *)bytes, n, JSON_REJECT_DUPLICATES, &why);
    mem_free(bytes);
    return *root ? 0 : err_set(err, "%s: line %d: %s", file, why.line, why.text);
}

// Says which keys are set and not known here.
static void note_others(const json_t *root, const char *file, const char *const *known,
                        const char *instead)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)root, key, v)
    {
        const char *const *k = known;
        while (*k && strcmp(*k, key) != 0)
            k++;
        if (!*k && !json_is_null(v) && !json_is_false(v))
            note("%s: %.60s is not known here%s", file, key, instead);
    }
}

// A token by its text: "</s>", or {"content": "</s>", ...}. Leaves *id where nothing is said.
static int config_token(const struct tokenizer *t, const json_t *root, const char *key, int32_t *id,
                        struct err *err)
{
    const json_t *v = json_object_get(root, key);
    const char *text = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    int32_t found = text ? bpe_control(t, text) : -1;
    if (!v || json_is_null(v))
        return 0;
    if (found < 0)
        return err_set(err,
                       "tokenizer_config.json: %s is %.60s: no special token of the vocabulary",
                       key, text ? text : "no text");
    *id = found;
    return 0;
}

// Whatever would make other tokens of a text must be as the vocabulary says.
static int read_config(struct tokenizer *t, const json_t *root, struct err *err)
{
    static const char *const off[] = {"do_lower_case", "split_special_tokens", "add_eos_token"};
    // What is heard, and what changes no id and no text.
    static const char *const known[] = {"add_bos_token",
                                        "add_eos_token",
                                        "add_prefix_space",
                                        "added_tokens_decoder",
                                        "additional_special_tokens",
                                        "backend",
                                        "bos_token",
                                        "chat_template",
                                        "cls_token",
                                        "do_lower_case",
                                        "eos_token",
                                        "errors",
                                        "extra_special_tokens",
                                        "is_local",
                                        "legacy",
                                        "mask_token",
                                        "max_length",
                                        "model_input_names",
                                        "model_max_length",
                                        "name_or_path",
                                        "pad_token",
                                        "padding_side",
                                        "processor_class",
                                        "sep_token",
                                        "sp_model_kwargs",
                                        "special_tokens_map_file",
                                        "split_special_tokens",
                                        "spaces_between_special_tokens",
                                        "tokenizer_class",
                                        "tokenizer_file",
                                        "truncation_side",
                                        "unk_token",
                                        "use_default_system_prompt",
                                        "vocab_size",
                                        NULL};
    const json_t *space = json_object_get(root, "add_prefix_space");
    const json_t *adds = json_object_get(root, "add_bos_token");
    int32_t bos = t->bos;
    for (size_t i = 0; i < ARRAY_LEN(off); i++)
        if (json_is_true(json_object_get(root, off[i])))
            return err_set(err, "tokenizer_config.json: %s is set: not supported", off[i]);
    if (json_is_boolean(space) && json_is_true(space) != bpe_puts_space(t))
        return err_set(err,
                       "tokenizer_config.json: add_prefix_space is %s, tokenizer.json says the "
                       "opposite",
                       json_is_true(space) ? "true" : "false");
    note_others(root, "tokenizer_config.json", known, "");
    if (config_token(t, root, "eos_token", &t->eos, err) ||
        config_token(t, root, "pad_token", &t->pad, err) ||
        config_token(t, root, "bos_token", &bos, err))
        return -1;
    if (json_is_boolean(adds))
        t->bos = json_is_true(adds) ? bos : -1;
    return json_is_true(adds) && bos < 0
               ? err_set(err, "tokenizer_config.json: add_bos_token is set without a bos_token")
               : 0;
}

// eos_token_id is a number, or a list of which the first counts, unless the tokenizer's own file
// has named the token.
static int read_generation(struct tokenizer *t, const json_t *root, bool named, struct err *err)
{
    // What is heard, how to sample (nothing is sampled here), and sizes.
    static const char *const known[] = {"_from_model_config",
                                        "bos_token_id",
                                        "cache_implementation",
                                        "do_sample",
                                        "eos_token_id",
                                        "max_length",
                                        "max_new_tokens",
                                        "min_p",
                                        "pad_token_id",
                                        "temperature",
                                        "top_k",
                                        "top_p",
                                        "transformers_version",
                                        "typical_p",
                                        "use_cache",
                                        NULL};
    note_others(root, "generation_config.json", known,
                ": an answer is the most likely token at each step");
    if (named)
        return 0;
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (json_is_array(eos))
        eos = json_array_get(eos, 0);
    if (!eos || json_is_null(eos))
        return 0;
    if (!json_is_integer(eos) || json_integer_value(eos) < 0 || json_integer_value(eos) >= t->vocab)
        return err_set(err, "generation_config.json: eos_token_id is no id of the vocabulary of %d",
                       t->vocab);
    t->eos = (int32_t)json_integer_value(eos);
    return 0;
}

static int json_beside(struct tokenizer *t, const char *path, struct err *err)
{
    json_t *config, *generation;
    if (read_beside(path, "tokenizer_config.json", &config, err))
        return -1;
    if (read_beside(path, "generation_config.json", &generation, err)) {
        json_decref(config);
        return -1;
    }
    bool named = json_object_get(config, "eos_token") != NULL;
    int bad = (config && read_config(t, config, err)) ||
              (generation && read_generation(t, generation, named, err));
    json_decref(config);
    json_decref(generation);
    return bad ? -1 : 0;
}

const struct tokenizer_row tokenizer_json = {
    .name = "hf",
    .help = "Hugging Face tokenizer.json: byte-pair encoding, byte-level or SentencePiece's",
    .needs_file = true,
    .ending = ".json",
    .open = json_open,
    .beside = json_beside,
    .close = bpe_close,
    .encode = bpe_encode,
    .piece = bpe_piece,
    .control = bpe_control,
};
