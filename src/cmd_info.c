#include "base/jsonw.h"
#include "base/table.h"
#include "base/topo.h"
#include "cmd.h"
#include "machine.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

struct sheet {
    char group[32];
    struct jsonw json;
    struct table table;
};

static void fact_as_json(struct sheet *s, bool next, const char *group, const char *name,
                         const char *value)
{
    if (next && *s->group)
        jsonw_end(&s->json);
    if (next) {
        jsonw_key(&s->json, group);
        jsonw_object(&s->json);
    }
    jsonw_key_text(&s->json, name, value);
}

static void show_fact(void *arg, const char *group, const char *name, const char *value)
{
    struct sheet *s = arg;
    bool next = strcmp(s->group, group) != 0;
    if (table_form() == TABLE_JSON) {
        fact_as_json(s, next, group, name, value);
    } else if (table_form() == TABLE_TEXT) {
        if (next)
            printf("# %s\n", group);
        printf("  %-32s %s\n", name, value);
    } else {
        table_row(&s->table, (const char *[]){group, name, value});
    }
    snprintf(s->group, sizeof s->group, "%s", group);
}

static void show_facts(void)
{
    struct sheet s = {.table = {.out = stdout,
                                .n_cols = 3,
                                .col = {{.head = "Group"}, {.head = "Fact"}, {.head = "Value"}}}};
    bool json = table_form() == TABLE_JSON;
    if (json) {
        jsonw_begin(&s.json, stdout);
        jsonw_object(&s.json);
    } else if (table_form() != TABLE_TEXT) {
        table_head(&s.table);
    }
    machine_each(show_fact, &s);
    if (json) {
        jsonw_end(&s.json); // the last group
        jsonw_end(&s.json);
        putchar('\n');
    }
}

static int show_topology(void)
{
    struct topo topo;
    struct err err;
    if (topo_load(&topo, &err)) {
        fprintf(stderr, "fstq info: %s\n", err.text);
        return STATUS_ENV;
    }
    topo_print(&topo, stdout);
    topo_free(&topo);
    return STATUS_VALID;
}

static int info_main(int argc, char **argv)
{
    static const struct option flags[] = {{"json", no_argument, NULL, 'j'},
                                          {"topology", no_argument, NULL, 't'},
                                          {"output", required_argument, NULL, 'o'},
                                          {0}};
    struct err err;
    bool topology = false;
    argv[0] = (char[]){"fstq info"};
    for (int c; (c = getopt_long(argc, argv, "o:", flags, NULL)) != -1;) {
        if (c == 't') {
            topology = true;
        } else if (c == '?') {
            return STATUS_USAGE;
        } else if (table_set_form(c == 'j' ? table_forms[TABLE_JSON] : optarg, &err)) {
            fprintf(stderr, "fstq info: %s\n", err.text);
            return STATUS_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "fstq info: %s: it takes no arguments\n", argv[optind]);
        return STATUS_USAGE;
    }
    if (topology)
        return show_topology();
    show_facts();
    return STATUS_VALID;
}

const struct cmd cmd_info = {
    .name = "info",
    .usage = "[--topology | -o FORM]",
    .help = "what this machine offers: cores, memory, GPUs, sensors, MPI, libraries, build",
    .details = "  --topology   the tree of packages, caches and cores as hwloc sees it\n"
               "  -o, --output FORM   md, csv, json or jsonl: the facts as a table\n"
               "  --json       the same as -o json\n\n"
               "What cannot be known is \"unavailable: why\". Needs no mpirun.\n",
    .alone = true,
    .run = info_main,
};
