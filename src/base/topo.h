// hwloc in one place: what this node offers and where a rank should run. HWLOC_SYNTHETIC and
// HWLOC_XMLFILE replay recorded machines.
#ifndef FSTQ_BASE_TOPO_H
#define FSTQ_BASE_TOPO_H

#include "base/check.h"

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct topo {
    void *hwloc; // hwloc_topology_t
    int packages, numa_nodes, cores, pus, l3s;
    uint64_t memory_bytes;
    char cpu[96]; // model name, "" = not known
};

int topo_load(struct topo *t, struct err *err);
int topo_load_devices(struct topo *t, struct err *err); // with those of the PCI bus
void topo_free(struct topo *t);
int topo_allowed_pus(const struct topo *t);
// The cpuset of local rank i of n on this node: whole cores, split as evenly as can be, never
// crossing a package where n >= packages; all PUs when there are more ranks than cores. Text as in
// "0-3,8".
int topo_cpuset(const struct topo *t, int local_rank, int n_local, char *out, size_t out_size,
                int *n_pus);
int topo_bind(const struct topo *t, const char *cpuset, struct err *err); // binds this process
int topo_current(const struct topo *t, char *out, size_t out_size);       // where we run now
// The CPUs near a device of the PCI bus, such as "0000:3B:00.0". False: that is not known.
bool topo_near(const struct topo *t, const char *bus, cpu_set_t *cpus);
// Free with topo_xml_free.
char *topo_xml(const struct topo *t, size_t *len);
void topo_xml_free(const struct topo *t, char *xml);
void topo_print(const struct topo *t, void *file); // one indented line an object, for `fstq info`

#endif
