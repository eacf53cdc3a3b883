#include "base/jsonw.h"
#include "base/topo.h"
#include "cmd.h"
#include "machine.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

struct sheet {
    const char *group;
    struct jsonw *json; // NULL: for people
};

static void show_fact(void *arg, const char *group, const char *name, const char *value)
{
    struct sheet *s = arg;
    bool next = !s->group || strcmp(s->group, group) != 0;
    if (s->json) {
        if (next && s->group)
            jsonw_end(s->json);
        if (next) {
            jsonw_key(s->json, group);
            jsonw_object(s->json);
        }
        jsonw_key(s->json, name);
        jsonw_text(s->json, value);
    } else {
        if (next)
            printf("# %s\n", group);
        printf("  %-32s %s\n", name, value);
    }
    s->group = group;
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
    static const struct option flags[] = {
        {"json", no_argument, NULL, 'j'}, {"topology", no_argument, NULL, 't'}, {0}};
    struct jsonw json;
    struct sheet sheet = {0};
    bool topology = false;
    argv[0] = (char[]){"fstq info"};
    for (int c; (c = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (c == 'j')
            sheet.json = &json;
        else if (c == 't')
            topology = true;
        else
            return STATUS_USAGE;
    }
    if (optind < argc) {
        fprintf(stderr, "fstq info: %s: it takes no arguments\n", argv[optind]);
        return STATUS_USAGE;
    }
    if (topology)
        return show_topology();
    if (sheet.json) {
        jsonw_begin(&json, stdout);
        jsonw_object(&json);
    }
    machine_each(show_fact, &sheet);
    if (sheet.json) {
        jsonw_end(&json); // the last group
        jsonw_end(&json);
        putchar('\n');
    }
    return STATUS_VALID;
}

const struct cmd cmd_info = {
    .name = "info",
    .usage = "[--topology | --json]",
    .help = "what this machine offers: cores, memory, GPUs, sensors, MPI, libraries, build",
    .details = "  --topology   the tree of packages, caches and cores as hwloc sees it\n"
               "  --json       the facts for machines\n\n"
               "What cannot be known is \"unavailable: why\". Needs no mpirun.\n",
    .alone = true,
    .run = info_main,
};
