#include "fence.h"

#include "base/clock.h"
#include "dev/dev.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RANGE_BYTES ((size_t)16 << 30) // of addresses, for all blocks of the process
#define PAGE        ((size_t)4096)

enum { BLOCKS = 4096, GRAPHS = 32 };

struct block {
    size_t at, size_bytes, room;
    enum mem_purpose purpose;
    bool used;
};

static uint8_t *range;
static size_t range_used;
static struct block block[BLOCKS];
static int n_blocks;

// A lane's queue, and what was recorded of it. Entries of a recording belong to that.
struct entry {
    void (*run)(void *arg);
    void (*drop)(void *arg); // NULL: not this list's
    void *arg;
};
struct list {
    struct entry *e;
    size_t n, cap;
};
struct graph {
    uint64_t key;
    struct list list;
};
struct fence {
    struct list queue;
    bool recording;
    uint64_t key;
    size_t from;
    struct graph graph[GRAPHS];
    int n_graphs, next;
};

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return;
}

// Only what a signal handler may call, but for snprintf, which does not allocate here.
static void touched(int number, siginfo_t *info, void *context)
{
    uint8_t *p = info->si_addr;
    char text[256];
    (void)context;
    signal(number, SIG_DFL);
    if (p < range || p >= range + RANGE_BYTES)
        return; // somebody else's fault, once more
    size_t at = (size_t)(p - range);
    snprintf(text, sizeof text,
             "fence: host code touches the device's memory, outside of blocks\n");
    for (int i = 0; i < n_blocks; i++)
        if (at >= block[i].at && at < block[i].at + block[i].room)
            snprintf(text, sizeof text,
                     "fence: host code touches the device's memory: byte %zu of a block of %zu for "
                     "%s%s; use put, get, copy or zero\n",
                     at - block[i].at, block[i].size_bytes, mem_purpose_name[block[i].purpose],
                     block[i].used ? "" : ", which was freed");
    say(text);
    abort();
}

void fence_check(const char *op, const void *p)
{
    const uint8_t *at = p;
    if (!p || (at >= range && at < range + RANGE_BYTES))
        return;
    fprintf(stderr, "fence: %s is given the host's memory where the device's belongs\n", op);
    abort();
}

void fence_check_host(const char *what, const void *p)
{
    const uint8_t *at = p;
    if (at < range || at >= range + RANGE_BYTES)
        return;
    fprintf(stderr, "fence: %s is given the device's memory where the host's belongs\n", what);
    abort();
}

static void protect(int how)
{
    if (range_used && mprotect(range, range_used, how))
        die(STATUS_ENV, "fence: mprotect failed");
}

static void list_add(struct list *l, struct entry e)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 256;
        l->e = realloc(l->e, l->cap * sizeof *l->e);
        if (!l->e)
            die(STATUS_ENV, "fence: out of memory");
    }
    l->e[l->n++] = e;
}

static void list_clear(struct list *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->e[i].drop)
            l->e[i].drop(l->e[i].arg);
    l->n = 0;
}

void fence_queue(void *queue, void (*run)(void *arg), void (*drop)(void *arg), void *arg)
{
    struct fence *f = queue;
    list_add(&f->queue, (struct entry){run, drop, arg});
}

static struct fence *of(struct dev *d)
{
    return d->state;
}

static void run_queue(struct fence *f)
{
    if (f->recording) {
        say("fence: somebody waits within a recording\n");
        abort();
    }
    if (f->queue.n == 0)
        return;
    uint64_t was = dev_denormals_off();
    protect(PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < f->queue.n; i++)
        f->queue.e[i].run(f->queue.e[i].arg);
    protect(PROT_NONE);
    dev_denormals_restore(was);
    list_clear(&f->queue);
}

static void fence_wait(struct dev *d, int32_t lane)
{
    (void)lane;
    run_queue(of(d));
}

void fence_enter(void *queue)
{
    run_queue(queue);
    protect(PROT_READ | PROT_WRITE);
}

void fence_leave(void)
{
    protect(PROT_NONE);
}

static void *fence_alloc(struct dev *d, enum mem_purpose purpose, size_t size_bytes)
{
    size_t room = (size_bytes + PAGE) / PAGE * PAGE;
    (void)d;
    for (int i = 0; i < n_blocks; i++)
        if (!block[i].used && block[i].room >= room && block[i].room <= 2 * room) {
            block[i].used = true;
            block[i].size_bytes = size_bytes;
            block[i].purpose = purpose;
            return range + block[i].at;
        }
    if (n_blocks == BLOCKS || room > RANGE_BYTES - range_used)
        die(STATUS_ENV, "fence: no room for %zu bytes", size_bytes);
    block[n_blocks++] = (struct block){
        .at = range_used, .size_bytes = size_bytes, .room = room, .purpose = purpose, .used = true};
    range_used += room;
    return range + range_used - room;
}

// Blocks are zeroed by the system, when they are next looked at.
static void fence_free(struct dev *d, void *p)
{
    fence_wait(d, 0);
    for (int i = 0; i < n_blocks; i++)
        if (block[i].used && range + block[i].at == (uint8_t *)p) {
            block[i].used = false;
            if (madvise(p, block[i].room, MADV_DONTNEED))
                die(STATUS_ENV, "fence: madvise failed");
            return;
        }
    say("fence: a block is freed that was never allocated\n");
    abort();
}

static void *fence_stage(struct dev *d, size_t size_bytes)
{
    (void)d;
    return mem_alloc(MEM_OTHER, size_bytes);
}

static void fence_unstage(struct dev *d, void *p)
{
    fence_wait(d, 0);
    mem_free(p);
}

struct move {
    void *to;
    const void *from; // NULL: zeroes
    size_t n;
};

static void run_move(void *arg)
{
    const struct move *m = arg;
    if (m->from)
        memcpy(m->to, m->from, m->n);
    else
        memset(m->to, 0, m->n);
}

static void queue_move(struct dev *d, void *to, const void *from, size_t n)
{
    struct move *m = malloc(sizeof *m);
    if (!m)
        die(STATUS_ENV, "fence: out of memory");
    *m = (struct move){to, from, n};
    fence_queue(of(d), run_move, free, m);
}

static void not_recorded(struct dev *d, const char *what)
{
    if (!of(d)->recording)
        return;
    fprintf(stderr, "fence: a %s within a recording\n", what);
    abort();
}

// The host's memory is read when the queue runs, as late as it may be.
static void fence_put(struct dev *d, int32_t lane, void *to, const void *from, size_t n)
{
    (void)lane;
    not_recorded(d, "put");
    fence_check("put", to);
    fence_check_host("put", from);
    if (n)
        queue_move(d, to, from, n);
}

static void fence_get(struct dev *d, int32_t lane, void *to, const void *from, size_t n)
{
    (void)lane;
    not_recorded(d, "get");
    fence_check("get", from);
    fence_check_host("get", to);
    if (n)
        queue_move(d, to, from, n);
}

static void fence_copy(struct dev *d, int32_t lane, void *to, const void *from, size_t n)
{
    (void)lane;
    fence_check("copy", to);
    fence_check("copy", from);
    queue_move(d, to, from, n);
}

static void fence_zero(struct dev *d, int32_t lane, void *to, size_t n)
{
    (void)lane;
    fence_check("zero", to);
    queue_move(d, to, NULL, n);
}

static bool fence_replay(struct dev *d, int32_t lane, uint64_t key)
{
    struct fence *f = of(d);
    (void)lane;
    for (int i = 0; i < f->n_graphs; i++)
        if (f->graph[i].key == key) {
            for (size_t k = 0; k < f->graph[i].list.n; k++) {
                struct entry e = f->graph[i].list.e[k];
                e.drop = NULL;
                list_add(&f->queue, e);
            }
            return true;
        }
    return false;
}

static void fence_record(struct dev *d, int32_t lane, uint64_t key)
{
    struct fence *f = of(d);
    not_recorded(d, "recording");
    (void)lane;
    f->recording = true;
    f->key = key;
    f->from = f->queue.n;
}

// Keeps at most GRAPHS: the oldest goes, whose entries may still wait to run.
static void fence_record_end(struct dev *d, int32_t lane)
{
    struct fence *f = of(d);
    struct list kept = {0};
    f->recording = false;
    for (size_t i = f->from; i < f->queue.n; i++) {
        list_add(&kept, f->queue.e[i]);
        f->queue.e[i].drop = NULL;
    }
    if (f->n_graphs == GRAPHS) {
        fence_wait(d, lane);
        struct graph *old = &f->graph[f->next++ % GRAPHS];
        list_clear(&old->list);
        free(old->list.e);
        *old = (struct graph){f->key, kept};
    } else {
        f->graph[f->n_graphs++] = (struct graph){f->key, kept};
    }
}

struct stamp {
    int64_t *to;
};

static void run_stamp(void *arg)
{
    *((struct stamp *)arg)->to = clock_ns();
}

static void fence_mark(struct dev *d, int32_t lane, int32_t slot)
{
    struct stamp *s = malloc(sizeof *s);
    if (!s)
        die(STATUS_ENV, "fence: out of memory");
    s->to = &d->lane[lane].mark_ns[slot];
    fence_queue(of(d), run_stamp, free, s);
}

static int64_t fence_marked(struct dev *d, int32_t lane, int32_t slot)
{
    return d->lane[lane].mark_ns[slot];
}

static int fence_open(struct dev *d, struct err *err)
{
    if (!range) {
        range =
            mmap(NULL, RANGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range == MAP_FAILED) {
            range = NULL;
            return err_set(err, "dev.kind = fence: cannot reserve addresses");
        }
    }
    // Every time: a test's frame may have put its own handler there.
    struct sigaction act = {.sa_sigaction = touched, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &act, NULL);
    struct fence *f = mem_alloc(MEM_OTHER, sizeof *f);
    d->state = f;
    d->lane[0].cx.stream = f;
    return 0;
}

static void fence_close(struct dev *d)
{
    struct fence *f = of(d);
    fence_wait(d, 0);
    for (int i = 0; i < f->n_graphs; i++) {
        list_clear(&f->graph[i].list);
        free(f->graph[i].list.e);
    }
    free(f->queue.e);
    mem_free(f);
}

extern const struct dev_row dev_fence;
const struct dev_row dev_fence = {
    .name = "fence",
    .help = "for tests: the CPU's kernels on memory that host code cannot touch",
    .ops = &fence_ops,
    .codec = &fence_codec,
    .lanes = 1,
    .slice_tokens = 512, // as the CPU, and so the same bits
    .rows_alone = true,
    .open = fence_open,
    .close = fence_close,
    .alloc = fence_alloc,
    .free = fence_free,
    .stage = fence_stage,
    .unstage = fence_unstage,
    .put = fence_put,
    .get = fence_get,
    .copy = fence_copy,
    .zero = fence_zero,
    .wait = fence_wait,
    .replay = fence_replay,
    .record = fence_record,
    .record_end = fence_record_end,
    .mark = fence_mark,
    .marked = fence_marked,
};
