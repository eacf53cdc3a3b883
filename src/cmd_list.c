#include "base/power.h"
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

// A line of data; '#' begins the lines that explain it.
static void row(const char *name, const char *help)
{
    printf("  %-13s %s\n", name, help);
}

static void options_of(const struct opt *rows, int n)
{
    for (int i = 0; i < n; i++) {
        char range[256];
        opt_range(&rows[i], range, sizeof range);
        printf("#     %s=%s  %s (%s)\n", rows[i].name, rows[i].dflt, rows[i].help, range);
    }
}

static void codec_rows(const struct codec *const *table)
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
        printf("  %-12s %s%s%s%s\n", c->name, c->help, n ? " (" : "", n ? words + 2 : "",
               n ? ")" : "");
        if (strlen(c->source) > 1)
            printf("#     from %s\n", c->source);
        options_of(c->options, c->n_options);
    }
}

static void list_codecs(void)
{
    puts(
        "# codec      what it sends of an update; (codes add up: sums of messages mean something,\n"
        "#            as secure aggregation wants; in blocks: what arrives of a message counts "
        "where\n"
        "#            it travels as datagrams, unless an option joins what it says of "
        "coordinates)");
    codec_rows(codec_table);
    puts("# behind a '+', around another codec");
    codec_rows(wrapper_table);
}

static void list_schemes(void)
{
    puts("# scheme     what clients and server do");
    for (const struct scheme *const *s = scheme_table; *s; s++) {
        row((*s)->name, (*s)->help);
        if (strlen((*s)->source) > 1)
            printf("#     from %s\n", (*s)->source);
        if ((*s)->sees)
            printf("#     the server sees of a client: %s\n", (*s)->sees);
        for (const struct up_vector *u = (*s)->up; u && u->name; u++)
            printf("#     also sends up: %s\n", u->name);
        options_of((*s)->options, (*s)->n_options);
    }
}

static void list_methods(void)
{
    puts("# a method is "
         "SCHEME[:opts][~TOKENS[:opts]]/[VIEW[:opts]@]CODEC[:opts][+WRAPPER[:opts]...]\n"
         "# where a scheme sends more than the update, ;CODEC... follows for each of these (fp32)\n"
         "# tokens: which of them shape the local loss");
    for (const struct token_source *const *t = token_table; *t; t++) {
        row((*t)->name, (*t)->help);
        if (!t[1] || t[1]->options != (*t)->options) // once for all that share them
            options_of((*t)->options, (*t)->n_options);
    }
    puts("# views: which part of the adapter travels");
    for (const struct view *const *v = view_table; *v; v++) {
        row((*v)->name, (*v)->help);
        if (*(*v)->source)
            printf("#     from %s\n", (*v)->source);
        options_of((*v)->options, (*v)->n_options);
    }
    puts(
        "# short names: alone, with options and wrappers of their codec (fstq:budget=0.05+ef);"
        " fstq,\n# fstq-paper and fedpaq as the codec of another scheme, too (fedadam/fstq-paper)");
    for (const struct method_alias *a = method_aliases; a->name; a++) {
        char text[1024];
        struct err err;
        printf("  %-16s %s\n", a->name, a->help);
        if (!a->expansion)
            puts("#     does not run");
        else if (method_expand(a->name, text, sizeof text, &err) == 0)
            printf("#     %s\n", text);
    }
}

static void list_links(void)
{
    puts("# net.link   the way between a client and the server: NAME[:key=value,...]");
    for (const struct link_row *const *l = link_table; *l; l++) {
        row((*l)->name, (*l)->help);
        options_of((*l)->options, (*l)->n_options);
    }
    puts("# net.trace  what trace reads, and what trace:format= calls it");
    for (const struct rate_reader *const *r = rate_reader_table; *r; r++)
        row((*r)->name, (*r)->help);
}

static void list_devices(void)
{
    puts("# client.profile   what clients are: NAME[:key=value,...]");
    for (const struct profile_row *const *p = profile_table; *p; p++) {
        char text[160];
        const struct device *d = (*p)->always;
        snprintf(text, sizeof text, "%s", (*p)->help);
        if (d && d->compute_w >= 0)
            snprintf(text, sizeof text, "%s: %g x client.step_ns, %g W, sending %g W", (*p)->help,
                     d->slow, d->compute_w, d->send_w);
        row((*p)->name, text);
        if (d && d->compute_w >= 0)
            printf("#   its source: %s\n", d->source);
        options_of((*p)->options, (*p)->n_options);
    }
    puts("# client.availability   when clients are there: NAME[:key=value,...]");
    for (const struct presence_row *const *p = presence_table; *p; p++) {
        row((*p)->name, (*p)->help);
        options_of((*p)->options, (*p)->n_options);
    }
}

static void list_transports(void)
{
    puts("# net.transport");
    for (const struct transport_row *const *t = transport_table; *t; t++)
        row((*t)->name, (*t)->help);
}

static void list_tasks(void)
{
    puts("# task.name");
    for (const struct task_row *const *t = task_table; *t; t++)
        row((*t)->name, (*t)->help);
}

static void list_stages(void)
{
    enum stage order[STAGE_COUNT];
    int depth[STAGE_COUNT], n = stage_order(order, depth);
    puts("# What is timed. Parts of a stage stand indented below it and add up to it.\n"
         "# stage        lane");
    for (int k = 0; k < n; k++) {
        const struct stage_row *s = &stage_table[order[k]];
        printf("  %*s%-*s %s\n#     includes %s\n#     excludes %s\n", 2 * depth[k], "",
               12 - 2 * depth[k], s->name, lane_name[s->lane], s->includes, s->excludes);
    }
}

// Rows of [compare] are named without their section: its parser is another.
static void list_section(const char *section, const char *prefix, const struct opt *rows, int n)
{
    printf("# [%s]\n", section);
    opt_list(stdout, prefix, rows, n);
}

static void list_options(void)
{
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        list_section(s->name, "", s->rows, *s->n);
        puts("#");
    }
    list_section("compare", "compare.", compare_options, compare_option_count);
    puts("# and its lines method and search: 'fstq compare --help'");
}

// Markdown's own characters, as they stand in ranges and in the form of a method.
static void markdown_cell(const char *text)
{
    for (; *text; text++) {
        if (strchr("|*_~<>[]", *text))
            putchar('\\');
        putchar(*text);
    }
}

static void list_section_markdown(const char *section, const char *prefix, const struct opt *rows,
                                  int n)
{
    printf("**[%s]**\n\n| parameter | default | range | what it is |\n|---|---|---|---|\n",
           section);
    for (int k = 0; k < n; k++) {
        const struct opt *o = &rows[k];
        char range[256];
        opt_range(o, range, sizeof range);
        printf(*o->dflt ? "| `%s%s` | `%s` | " : "| `%s%s` | %s | ", prefix, o->name, o->dflt);
        markdown_cell(range);
        fputs(" | ", stdout);
        markdown_cell(o->help);
        puts(" |");
    }
}

static void list_options_markdown(void)
{
    for (int i = 0; i < config_section_count; i++) {
        const struct config_section *s = &config_sections[i];
        list_section_markdown(s->name, "", s->rows, *s->n);
        puts("");
    }
    list_section_markdown("compare", "compare.", compare_options, compare_option_count);
    puts("\nBeside these [compare] has lines `method` and `search`: `fstq compare --help`.");
}

static void list_benches(void)
{
    char *argv[] = {(char[]){"bench"}, (char[]){"--list"}, NULL};
    cmd_bench.run(2, argv);
}

static void list_sensors(void)
{
    puts("# sensor     what it reads");
    for (const struct power_sensor *const *p = power_sensors; *p; p++)
        row((*p)->name, (*p)->help);
    puts("# 'fstq info' says which of them this machine has");
}

static void list_reductions(void)
{
    puts("# which tokens of a prompt go on at inference (infer.reduce)");
    for (const struct reduction *const *r = reduction_table; *r; r++)
        row((*r)->name, (*r)->help);
}

static const struct list {
    const char *name, *help;
    void (*print)(void);
} lists[] = {
    {"options", "every parameter: default, range, meaning (--markdown: as tables)", list_options},
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
    {"benches", "microbenchmarks and their parameters", list_benches},
};

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

static int list_main(int argc, char **argv)
{
    static const struct option flags[] = {{"markdown", no_argument, NULL, 'm'}, {0}};
    bool markdown = false;
    argv[0] = (char[]){"fstq list"};
    for (int c; (c = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (c != 'm')
            return STATUS_USAGE;
        markdown = true;
    }
    if (optind == argc) {
        puts("# fstq list");
        for (size_t i = 0; i < ARRAY_LEN(lists); i++)
            row(lists[i].name, lists[i].help);
        return STATUS_VALID;
    }
    for (int i = optind; i < argc; i++) {
        const struct list *l = lists, *end = lists + ARRAY_LEN(lists);
        while (l < end && strcmp(l->name, argv[i]) != 0)
            l++;
        if (l == end)
            return unknown_list(argv[i]);
        if (markdown && l->print != list_options) {
            fprintf(stderr, "fstq list: --markdown is for options, not for %s\n", l->name);
            return STATUS_USAGE;
        }
        if (markdown)
            list_options_markdown();
        else
            l->print();
    }
    return STATUS_VALID;
}

const struct cmd cmd_list = {
    .name = "list",
    .usage = "[NAME ...] [--markdown]",
    .help = "what there is to choose from: codecs, schemes, links, tasks, stages, options ...",
    .details = "  --markdown   options as Markdown tables, for documentation\n\n"
               "  fstq list                 the lists\n"
               "  fstq list options         every parameter: default, meaning, range\n"
               "  fstq list codecs schemes  what fed.method can be made of\n",
    .alone = true,
    .run = list_main,
};
