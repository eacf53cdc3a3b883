#include "base/topo.h"

#include <assert.h>
#include <errno.h>
#include <hwloc.h>
#include <hwloc/glibc-sched.h>
#include <stdio.h>
#include <string.h>

#if HWLOC_API_VERSION < 0x00020000
#error "hwloc 2.0 or later is needed"
#endif

static int count(hwloc_topology_t h, hwloc_obj_type_t type)
{
    int n = hwloc_get_nbobjs_by_type(h, type);
    return n > 0 ? n : 0;
}

static int load(struct topo *t, bool devices, struct err *err)
{
    *t = (struct topo){0};
    hwloc_topology_t h;
    if (hwloc_topology_init(&h) < 0)
        return err_set(err, "hwloc: cannot start: %s", strerror(errno));
    if (devices)
        hwloc_topology_set_type_filter(h, HWLOC_OBJ_PCI_DEVICE, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(h) < 0) {
        int why = errno;
        hwloc_topology_destroy(h);
        return err_set(err, "hwloc: cannot read the topology of this machine: %s", strerror(why));
    }
    t->hwloc = h;
    t->packages = count(h, HWLOC_OBJ_PACKAGE);
    t->numa_nodes = count(h, HWLOC_OBJ_NUMANODE);
    t->cores = count(h, HWLOC_OBJ_CORE);
    t->pus = count(h, HWLOC_OBJ_PU);
    t->l3s = count(h, HWLOC_OBJ_L3CACHE);
    hwloc_obj_t root = hwloc_get_root_obj(h);
    t->memory_bytes = root->total_memory;
    hwloc_obj_t package = hwloc_get_obj_by_type(h, HWLOC_OBJ_PACKAGE, 0);
    const char *model = package ? hwloc_obj_get_info_by_name(package, "CPUModel") : NULL;
    if (!model)
        model = hwloc_obj_get_info_by_name(root, "CPUModel");
    snprintf(t->cpu, sizeof t->cpu, "%s", model ? model : "");
    return 0;
}

int topo_load(struct topo *t, struct err *err)
{
    return load(t, false, err);
}

int topo_load_devices(struct topo *t, struct err *err)
{
    return load(t, true, err);
}

void topo_free(struct topo *t)
{
    if (t->hwloc)
        hwloc_topology_destroy(t->hwloc);
    *t = (struct topo){0};
}

int topo_allowed_pus(const struct topo *t)
{
    return hwloc_bitmap_weight(hwloc_topology_get_allowed_cpuset(t->hwloc));
}

// Cores where hwloc knows them, else PUs.
static hwloc_obj_type_t core_type(const struct topo *t)
{
    return t->cores > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
}

static int cores_inside(const struct topo *t, int package)
{
    hwloc_obj_t p = hwloc_get_obj_by_type(t->hwloc, HWLOC_OBJ_PACKAGE, (unsigned)package);
    return hwloc_get_nbobjs_inside_cpuset_by_type(t->hwloc, p->cpuset, core_type(t));
}

// Ranks that package p gets when n ranks go one by one to the package with most cores per rank.
// Sets *first to the ranks of the packages before it. O(n * packages), once at start.
static int ranks_of(const struct topo *t, int p, int n, int *first)
{
    enum { MAX_PACKAGES = 64 };
    int ranks[MAX_PACKAGES] = {0}, cores[MAX_PACKAGES];
    for (int i = 0; i < t->packages; i++)
        cores[i] = cores_inside(t, i);
    for (int k = 0; k < n; k++) {
        int best = 0;
        for (int i = 1; i < t->packages; i++)
            if (cores[i] * (ranks[best] + 1) > cores[best] * (ranks[i] + 1))
                best = i;
        ranks[best]++;
    }
    *first = 0;
    for (int i = 0; i < p; i++)
        *first += ranks[i];
    return ranks[p];
}

// The union of cores [low, high) among those inside the set.
static void add_cores(const struct topo *t, hwloc_const_cpuset_t inside, int low, int high,
                      hwloc_bitmap_t out)
{
    for (int i = low; i < high; i++) {
        hwloc_obj_t core =
            hwloc_get_obj_inside_cpuset_by_type(t->hwloc, inside, core_type(t), (unsigned)i);
        hwloc_bitmap_or(out, out, core->cpuset);
    }
}

static int part(int whole, int i, int n)
{
    return (int)((int64_t)whole * i / n);
}

static int print_set(hwloc_const_bitmap_t set, char *out, size_t out_size)
{
    int n = hwloc_bitmap_list_snprintf(out, out_size, set);
    return n < 0 || (size_t)n >= out_size ? -1 : 0;
}

int topo_cpuset(const struct topo *t, int local_rank, int n_local, char *out, size_t out_size,
                int *n_pus)
{
    assert(local_rank >= 0 && local_rank < n_local);
    hwloc_const_cpuset_t all = hwloc_topology_get_allowed_cpuset(t->hwloc);
    int cores = hwloc_get_nbobjs_by_type(t->hwloc, core_type(t));
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (!set)
        die(STATUS_ENV, "out of memory for a cpuset");
    if (n_local > cores) {
        hwloc_bitmap_copy(set, all);
    } else if (t->packages < 2 || t->packages > 64 || n_local < t->packages) {
        add_cores(t, all, part(cores, local_rank, n_local), part(cores, local_rank + 1, n_local),
                  set);
    } else {
        int p = 0, first, k;
        for (; k = ranks_of(t, p, n_local, &first), local_rank >= first + k; p++)
            continue;
        hwloc_obj_t package = hwloc_get_obj_by_type(t->hwloc, HWLOC_OBJ_PACKAGE, (unsigned)p);
        int c = cores_inside(t, p), i = local_rank - first;
        add_cores(t, package->cpuset, part(c, i, k), part(c, i + 1, k), set);
    }
    hwloc_bitmap_and(set, set, all);
    *n_pus = hwloc_bitmap_weight(set);
    int r = print_set(set, out, out_size);
    hwloc_bitmap_free(set);
    return r;
}

int topo_bind(const struct topo *t, const char *cpuset, struct err *err)
{
    if (!hwloc_topology_is_thissystem(t->hwloc))
        return err_set(err, "cannot bind to %s: the topology is a recorded one, not this machine's",
                       cpuset);
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (!set)
        die(STATUS_ENV, "out of memory for a cpuset");
    int r = 0;
    if (hwloc_bitmap_list_sscanf(set, cpuset) < 0 || hwloc_bitmap_iszero(set))
        r = err_set(err, "cpuset \"%s\": not a list of CPUs as in 0-3,8", cpuset);
    else if (hwloc_set_cpubind(t->hwloc, set, HWLOC_CPUBIND_PROCESS) < 0)
        r = err_set(err, "cannot bind to CPUs %s: %s", cpuset, strerror(errno));
    hwloc_bitmap_free(set);
    return r;
}

int topo_current(const struct topo *t, char *out, size_t out_size)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (!set)
        die(STATUS_ENV, "out of memory for a cpuset");
    int r = -1;
    if (hwloc_get_cpubind(t->hwloc, set, HWLOC_CPUBIND_PROCESS) == 0)
        r = print_set(set, out, out_size);
    hwloc_bitmap_free(set);
    return r;
}

bool topo_near(const struct topo *t, const char *bus, cpu_set_t *cpus)
{
    hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(t->hwloc, bus);
    hwloc_obj_t near = device ? hwloc_get_non_io_ancestor_obj(t->hwloc, device) : NULL;
    CPU_ZERO(cpus);
    return near && near->cpuset &&
           hwloc_cpuset_to_glibc_sched_affinity(t->hwloc, near->cpuset, cpus, sizeof *cpus) == 0;
}

char *topo_xml(const struct topo *t, size_t *len)
{
    char *xml;
    int n;
    if (hwloc_topology_export_xmlbuffer(t->hwloc, &xml, &n, 0) < 0)
        return NULL;
    *len = n > 0 ? (size_t)n - 1 : 0; // hwloc counts the NUL
    return xml;
}

void topo_xml_free(const struct topo *t, char *xml)
{
    if (xml)
        hwloc_free_xmlbuffer(t->hwloc, xml);
}

static void print_obj(hwloc_obj_t o, int depth, FILE *f)
{
    char type[64], attr[128], set[256];
    hwloc_obj_type_snprintf(type, sizeof type, o, 0);
    hwloc_obj_attr_snprintf(attr, sizeof attr, o, " ", 0);
    hwloc_bitmap_list_snprintf(set, sizeof set, o->cpuset);
    fprintf(f, "%*s%s", 2 * depth, "", type);
    if (o->logical_index != (unsigned)-1 && depth > 0)
        fprintf(f, " %u", o->logical_index);
    if (attr[0])
        fprintf(f, " (%s)", attr);
    fprintf(f, "  cpus %s\n", set);
    for (hwloc_obj_t m = o->memory_first_child; m; m = m->next_sibling)
        print_obj(m, depth + 1, f);
    // A core with one thread says it all.
    if (o->type == HWLOC_OBJ_CORE && o->arity == 1)
        return;
    for (unsigned i = 0; i < o->arity; i++)
        print_obj(o->children[i], depth + 1, f);
}

void topo_print(const struct topo *t, void *file)
{
    print_obj(hwloc_get_root_obj(t->hwloc), 0, file);
}
