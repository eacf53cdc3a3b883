#include "base/listing.h"
#include "base/power.h"
#include "base/table.h"
#include "cmd.h"
#include "codec/codec.h"
#include "compare/compare.h"
#include "config.h"
#include "fed/method.h"
#include "fed/presence.h"
#include "fed/profile.h"
#include "fed/scheme.h"
#include "model/reduce.h"
#include "net/rate.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

static void codec_rows(struct listing *l, const struct codec *const *table)
{
    static const struct {
        unsigned bit;
        const char *word;
    } flags[] = {{CODEC_EXACT, "exact"},
                 {CODEC_UNBIASED, "unbiased"},
                 {CODEC_MASKABLE, "codes add up"},
                 {CODEC_RANDOM, "random"},
                 {CODEC_NO_EF, "no error feedback"},
                 {CODEC_BUDGET, "keeps to a budget"},
                 {CODEC_INEXACT_BYTES, "bytes depend on the machine"}},
      needs[] = {{CODEC_SENS, "needs sensitivities"},
                 {CODEC_STATE, "keeps state"},
                 {CODEC_OWN_AGG, "aggregates its own way"},
                 {CODEC_GRAD, "needs gradients"},
                 {CODEC_REACH, "needs an adapter's products"}};
    for (; *table; table++) {
        const struct codec *c = *table;
        char words[256] = "";
        size_t n = 0;
        for (size_t i = 0; i < ARRAY_LEN(flags); i++)
            if (c->flags & flags[i].bit)
                n += (size_t)snprintf(words + n, sizeof words - n, ", %s", flags[i].word);
        if (c->adds_up)
            n +=
                (size_t)snprintf(words + n, sizeof words - n, ", codes add up with %s", c->adds_up);
        for (size_t i = 0; i < ARRAY_LEN(needs); i++)
            if (c->needs & needs[i].bit)
                n += (size_t)snprintf(words + n, sizeof words - n, ", %s", needs[i].word);
        if (c->blocks)
            n += (size_t)snprintf(words + n, sizeof words - n, ", in blocks");
        listing_entry(l, c->name, c->help, n ? words + 2 : "");
        if (strlen(c->source) > 1)
            listing_note(l, "from", c->source);
        listing_options(l, c->options, c->n_options);
    }
}

static void list_codecs(struct listing *l)
{
    listing_part(l, "codec",
                 "what it sends of an update; (codes add up: sums of messages mean something,\n"
                 "as secure aggregation wants; in blocks: what arrives of a message counts where\n"
                 "it travels as datagrams, unless an option joins what it says of coordinates)");
    codec_rows(l, codec_table);
    listing_part(l, "wrapper", "behind a '+', around another codec");
    codec_rows(l, wrapper_table);
}

static void list_schemes(struct listing *l)
{
    listing_part(l, "scheme", "what clients and server do");
    for (const struct scheme *const *s = scheme_table; *s; s++) {
        listing_entry(l, (*s)->name, (*s)->help, "");
        if (strlen((*s)->source) > 1)
            listing_note(l, "from", (*s)->source);
        if ((*s)->sees)
            listing_note(l, "the server sees of a client:", (*s)->sees);
        for (const struct up_vector *u = (*s)->up; u && u->name; u++)
            listing_note(l, "also sends up:", u->name);
        listing_options(l, (*s)->options, (*s)->n_options);
    }
}

static void list_aliases(struct listing *l)
{
    listing_part(l, "short name",
                 "alone, with options and wrappers of their codec (fstq:budget=0.05+ef);\n"
                 "fstq, fstq-paper and fedpaq as the codec of another scheme, too\n"
                 "(fedadam/fstq-paper)");
    for (const struct method_alias *a = method_aliases; a->name; a++) {
        char text[1024];
        struct err err;
        listing_entry(l, a->name, a->help, "");
        if (!a->expansion)
            listing_note(l, "does not run", "");
        else if (method_expand(a->name, text, sizeof text, &err) == 0)
            listing_note(l, text, "");
    }
}

static void list_methods(struct listing *l)
{
    l->width = 16; // of the longest short name
    listing_say(l, "a method is "
                   "SCHEME[:opts][~TOKENS[:opts]]/[VIEW[:opts]@]CODEC[:opts][+WRAPPER[:opts]...]");
    listing_say(l, "where a scheme sends more than the update, ;CODEC... follows for each of these "
                   "(fp32)");
    listing_part(l, "tokens", "which of them shape the local loss");
    for (const struct token_source *const *t = token_table; *t; t++) {
        listing_entry(l, (*t)->name, (*t)->help, "");
        if (!t[1] || t[1]->options != (*t)->options) // once for all that share them
            listing_options(l, (*t)->options, (*t)->n_options);
    }
    listing_part(l, "view", "which part of the adapter travels");
    for (const struct view *const *v = view_table; *v; v++) {
        listing_entry(l, (*v)->name, (*v)->help, "");
        if (*(*v)->source)
            listing_note(l, "from", (*v)->source);
        listing_options(l, (*v)->options, (*v)->n_options);
    }
    list_aliases(l);
}

static void list_links(struct listing *l)
{
    listing_part(l, "net.link", "the way between a client and the server: NAME[:key=value,...]");
    for (const struct link_row *const *r = link_table; *r; r++) {
        listing_entry(l, (*r)->name, (*r)->help, "");
        listing_options(l, (*r)->options, (*r)->n_options);
    }
    listing_part(l, "net.trace", "what trace reads, and what trace:format= calls it");
    for (const struct rate_reader *const *r = rate_reader_table; *r; r++)
        listing_entry(l, (*r)->name, (*r)->help, "");
}

static void list_devices(struct listing *l)
{
    listing_part(l, "client.profile", "what clients are: NAME[:key=value,...]");
    for (const struct profile_row *const *p = profile_table; *p; p++) {
        char text[160];
        const struct device *d = (*p)->always;
        bool figures = d && d->compute_w >= 0;
        snprintf(text, sizeof text, "%s", (*p)->help);
        if (figures)
            snprintf(text, sizeof text, "%s: %g x client.step_ns, %g W, sending %g W", (*p)->help,
                     d->slow, d->compute_w, d->send_w);
        listing_entry(l, (*p)->name, text, "");
        if (figures)
            listing_note(l, "its source:", d->source);
        listing_options(l, (*p)->options, (*p)->n_options);
    }
    listing_part(l, "client.availability", "when clients are there: NAME[:key=value,...]");
    for (const struct presence_row *const *p = presence_table; *p; p++) {
        listing_entry(l, (*p)->name, (*p)->help, "");
        listing_options(l, (*p)->options, (*p)->n_options);
    }
}

static void list_transports(struct listing *l)
{
    listing_part(l, "net.transport", "");
    for (const struct transport_row *const *t = transport_table; *t; t++)
        listing_entry(l, (*t)->name, (*t)->help, "");
}

static void list_tasks(struct listing *l)
{
    listing_part(l, "task.name", "");
    for (const struct task_row *const *t = task_table; *t; t++)
        listing_entry(l, (*t)->name, (*t)->help, "");
}

static void list_stages(struct listing *l)
{
    enum stage order[STAGE_COUNT];
    int depth[STAGE_COUNT], n = stage_order(order, depth);
    const char *above[STAGE_COUNT + 1] = {NULL}; // the stage that those of a depth are parts of
    listing_say(l, "What is timed. Parts of a stage stand indented below it and add up to it.");
    listing_part(l, "stage", "lane");
    for (int k = 0; k < n; k++) {
        const struct stage_row *s = &stage_table[order[k]];
        char name[64];
        snprintf(name, sizeof name, "%*s%s", 2 * depth[k], "", s->name);
        l->of = above[depth[k]];
        above[depth[k] + 1] = s->name;
        listing_entry(l, name, lane_name[s->lane], "");
        listing_note(l, "includes", s->includes);
        listing_note(l, "excludes", s->excludes);
    }
}

// Rows of [compare] are named without their section: its parser is another.
static void list_options(struct listing *l)
{
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        char name[32];
        snprintf(name, sizeof name, "[%s]", s->name);
        listing_part(l, name, "");
        listing_settings(l, "", s->rows, *s->n);
    }
    listing_part(l, "[compare]", "");
    listing_settings(l, "compare.", compare_options, compare_option_count);
    listing_say(l, "[compare] has lines method and search, too: 'fstq compare --help'");
}

static void list_sensors(struct listing *l)
{
    listing_part(l, "sensor", "what it reads");
    for (const struct power_sensor *const *p = power_sensors; *p; p++)
        listing_entry(l, (*p)->name, (*p)->help, "");
    listing_say(l, "'fstq info' says which of them this machine has");
}

static void list_reductions(struct listing *l)
{
    listing_part(l, "infer.reduce", "which tokens of a prompt go on at inference");
    for (const struct reduction *const *r = reduction_table; *r; r++)
        listing_entry(l, (*r)->name, (*r)->help, "");
}

static const struct list {
    const char *name, *help;
    void (*put)(struct listing *l);
} lists[] = {
    {"options", "every parameter: default, range, meaning", list_options},
    {"codecs", "how an update becomes bytes", list_codecs},
    {"schemes", "how clients and server learn together", list_schemes},
    {"methods", "how a method is written; tokens, views, short names", list_methods},
    {"links", "models of the way between client and server", list_links},
    {"devices", "what clients can be", list_devices},
    {"transports", "what carries the bytes", list_transports},
    {"tasks", "what is learned", list_tasks},
    {"stages", "what is timed, and what each clock includes", list_stages},
    {"reductions", "how prompts get fewer tokens at inference", list_reductions},
    {"sensors", "power and temperature readers", list_sensors},
    {"benches", "microbenchmarks and their parameters", cmd_bench_list},
};

static const struct list *find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        if (strcmp(lists[i].name, name) == 0)
            return &lists[i];
    return NULL;
}

static int unknown_list(const char *name)
{
    struct opt_guess guess = {.text = name};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        opt_guess(&guess, lists[i].name);
    fprintf(stderr,
            guess.name ? "fstq list: %s: no such list; did you mean %s?\n"
                       : "fstq list: %s: no such list; 'fstq list' names them%.0s\n",
            name, guess.name ? guess.name : "");
    return STATUS_USAGE;
}

static void put_lists(int n, char **names)
{
    struct listing l;
    listing_begin(&l, stdout);
    if (n == 0) {
        listing_of(&l, "lists", NULL);
        listing_part(&l, "list", "what 'fstq list NAME' prints");
    }
    for (size_t i = 0; n == 0 && i < ARRAY_LEN(lists); i++)
        listing_entry(&l, lists[i].name, lists[i].help, "");
    for (int i = 0; i < n; i++) {
        const struct list *row = find(names[i]);
        listing_of(&l, row->name, n > 1 ? row->help : NULL);
        row->put(&l);
    }
    listing_end(&l);
}

static int list_main(int argc, char **argv)
{
    static const struct option flags[] = {{"output", required_argument, NULL, 'o'}, {0}};
    struct err err;
    argv[0] = (char[]){"fstq list"};
    for (int c; (c = getopt_long(argc, argv, "o:", flags, NULL)) != -1;) {
        if (c != 'o')
            return STATUS_USAGE;
        if (table_set_form(optarg, &err)) {
            fprintf(stderr, "fstq list: %s\n", err.text);
            return STATUS_USAGE;
        }
    }
    for (int i = optind; i < argc; i++)
        if (!find(argv[i]))
            return unknown_list(argv[i]);
    put_lists(argc - optind, argv + optind);
    return STATUS_VALID;
}

static void put_words(FILE *out)
{
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        fprintf(out, "%s%s", i ? " " : "", lists[i].name);
}

const struct cmd cmd_list = {
    .name = "list",
    .usage = "[NAME ...] [-o FORM]",
    .help = "what there is to choose from: codecs, schemes, links, tasks, stages, options ...",
    .details =
        "  -o, --output FORM   md, csv, json or jsonl: the same as one table, a row for each\n"
        "                      name and each of its options; Markdown has a table per part\n\n"
        "  fstq list                 the lists\n"
        "  fstq list options         every parameter: default, meaning, range\n"
        "  fstq list codecs schemes  what fed.method can be made of\n",
    .words = put_words,
    .alone = true,
    .run = list_main,
};
