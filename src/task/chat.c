#include "task/chat.h"

#include "base/mem.h"

#include <string.h>

static const char *const plain_user[] = {CHAT_TEXT, NULL};
static const char *const chatml_system[] = {"<|im_start|>", "system\n" CHAT_TEXT, "<|im_end|>",
                                            "\n", NULL};
static const char *const chatml_user[] = {"<|im_start|>", "user\n" CHAT_TEXT, "<|im_end|>", "\n",
                                          "<|im_start|>", "assistant\n",      NULL};
static const char *const llama3_system[] = {
    "<|start_header_id|>", "system", "<|end_header_id|>", "\n\n" CHAT_TEXT, "<|eot_id|>", NULL};
static const char *const llama3_user[] = {
    "<|start_header_id|>", "user",      "<|end_header_id|>", "\n\n" CHAT_TEXT, "<|eot_id|>",
    "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n",           NULL};
static const char *const gemma_user[] = {"<start_of_turn>",
                                         "user\n" CHAT_TEXT,
                                         "<end_of_turn>",
                                         "\n",
                                         "<start_of_turn>",
                                         "model\n",
                                         NULL};
static const char *const llama2_user[] = {"[INST] " CHAT_TEXT " [/INST]", NULL};

static const struct chat_row plain = {
    .name = "plain", .help = "the prompt by itself", .user = plain_user, .spaced = true};
static const struct chat_row chatml = {.name = "chatml",
                                       .help = "turns of SmolLM2 and Qwen",
                                       .system = chatml_system,
                                       .user = chatml_user,
                                       .end = "<|im_end|>"};
static const struct chat_row llama3 = {.name = "llama3",
                                       .help = "turns of Llama 3",
                                       .system = llama3_system,
                                       .user = llama3_user,
                                       .end = "<|eot_id|>"};
static const struct chat_row gemma = {
    .name = "gemma", .help = "turns of Gemma", .user = gemma_user, .end = "<end_of_turn>"};
static const struct chat_row llama2 = {
    .name = "llama2", .help = "[INST] of Llama 2 and Mistral", .user = llama2_user, .spaced = true};

const struct chat_row *const chat_table[] = {&plain, &chatml, &llama3, &gemma, &llama2, NULL};

const char *chat_name(int32_t i)
{
    return chat_table[i] ? chat_table[i]->name : NULL;
}

static int find(const struct tokenizer *t, const char *text, const char *chat, int32_t *id,
                struct err *err)
{
    *id = t->row->control ? t->row->control(t, text) : -1;
    return *id < 0 ? err_set(err,
                             "task.template = %s: the vocabulary has no control token %s; take the "
                             "template of the model",
                             chat, text)
                   : 0;
}

static int find_all(const struct tokenizer *t, const char *const *part, const char *chat,
                    int32_t *id, struct err *err)
{
    for (int i = 0; part[i]; i++)
        if (*part[i] == '<' && find(t, part[i], chat, &id[i], err))
            return -1;
    return 0;
}

int chat_open(struct chat *c, const struct chat_row *row, const char *system, struct tokenizer *t,
              struct err *err)
{
    *c = (struct chat){.row = row, .system = system};
    if (*system && !row->system)
        return err_set(err, "task.system: template %s has no turn for it", row->name);
    if ((*system && find_all(t, row->system, row->name, c->system_id, err)) ||
        find_all(t, row->user, row->name, c->user_id, err))
        return -1;
    return row->end ? find(t, row->end, row->name, &t->eos, err) : 0;
}

struct output {
    const struct tokenizer *t;
    int32_t *ids, cap, n;
};

static void put_id(struct output *o, int32_t id)
{
    if (o->n < o->cap)
        o->ids[o->n] = id;
    o->n++;
}

// A part of text with the message in it.
static void put_text(struct output *o, const char *part, const char *message)
{
    const char *at = strchr(part, CHAT_TEXT[0]);
    size_t n = strlen(part), before = at ? (size_t)(at - part) : n, len = at ? strlen(message) : 0;
    char *text = mem_alloc(MEM_DATA, n + len + 1);
    memcpy(text, part, before);
    if (at) {
        memcpy(text + before, message, len);
        memcpy(text + before + len, at + 1, n - before - 1);
        n += len - 1;
    }
    int32_t left = o->cap > o->n ? o->cap - o->n : 0;
    o->n += tokenizer_encode(o->t, text, n, left ? o->ids + o->n : NULL, left);
    mem_free(text);
}

static void put_turn(struct output *o, const char *const *part, const int32_t *id,
                     const char *message)
{
    for (int i = 0; part[i]; i++)
        if (*part[i] == '<')
            put_id(o, id[i]);
        else
            put_text(o, part[i], message);
}

int32_t chat_encode(const struct chat *c, const struct tokenizer *t, const char *prompt,
                    int32_t *ids, int32_t cap)
{
    struct output o = {t, ids, cap, 0};
    if (*c->system)
        put_turn(&o, c->row->system, c->system_id, c->system);
    put_turn(&o, c->row->user, c->user_id, prompt);
    return o.n;
}
