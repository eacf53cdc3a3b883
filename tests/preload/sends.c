// Writes down what leaves a rank through MPI, between a program and any MPI: bytes by receiver, a
// line "E FROM TO BYTES" each, as Open MPI's monitoring has them.
//   FSTQ_SENDS=FILE    FILE.RANK.prof, when MPI ends
// Declared here, for headers differ: what an MPI has for a type or a communicator is a word at
// most.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { RANKS = 256 };
static long long sent[RANKS];

static void *next(const char *name)
{
    void *at = dlsym(RTLD_NEXT, name);
    if (!at) {
        fprintf(stderr, "sends: no %s\n", name);
        abort();
    }
    return at;
}

static void note(int count, intptr_t type, int to)
{
    int (*size_of)(intptr_t, int *) = (int (*)(intptr_t, int *))next("PMPI_Type_size");
    int size = 0;
    size_of(type, &size);
    if (to >= 0 && to < RANKS)
        __atomic_fetch_add(&sent[to], (long long)count * size, __ATOMIC_RELAXED);
}

int MPI_Send(const void *buf, int count, intptr_t type, int to, int tag, intptr_t comm)
{
    int (*real)(const void *, int, intptr_t, int, int, intptr_t) =
        (int (*)(const void *, int, intptr_t, int, int, intptr_t))next("PMPI_Send");
    note(count, type, to);
    return real(buf, count, type, to, tag, comm);
}

int MPI_Isend(const void *buf, int count, intptr_t type, int to, int tag, intptr_t comm, void *op)
{
    int (*real)(const void *, int, intptr_t, int, int, intptr_t, void *) =
        (int (*)(const void *, int, intptr_t, int, int, intptr_t, void *))next("PMPI_Isend");
    note(count, type, to);
    return real(buf, count, type, to, tag, comm, op);
}

int MPI_Finalize(void)
{
    int (*real)(void) = (int (*)(void))next("PMPI_Finalize");
    const char *path = getenv("FSTQ_SENDS"), *rank = getenv("PMI_RANK");
    char name[512];
    snprintf(name, sizeof name, "%s.%s.prof", path ? path : "sends", rank ? rank : "0");
    FILE *f = fopen(name, "w");
    for (int to = 0; f && to < RANKS; to++)
        if (sent[to])
            fprintf(f, "E\t%s\t%d\t%lld bytes\n", rank ? rank : "0", to, sent[to]);
    if (f)
        fclose(f);
    return real();
}
