// One loop at a time. Its items are handed out by one atomic word, so that a helper that comes
// late, or not at all, costs nothing; a helper that is taken off its core in the middle of an item
// costs what the caller then waits, and that is kept in an account (below).
#include "base/pool.h"

#include "base/check.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 1024
#define SPIN_NS     30000 // before a thread sleeps; to wake it takes about as long

// A count that threads wait on: they spin a little, then sleep.
struct gate {
    _Atomic uint32_t count, sleepers;
};

// What is left to do, in one word: items that nobody has taken, lanes that may take them, and how
// many helpers are at work. The rest of a job may be read by those who took an item: the caller
// changes it only when nothing is left and no helper is at work.
#define WORD(left, lanes, at_work) ((uint64_t)(left) << 32 | (uint64_t)(lanes) << 16 | (at_work))
static uint32_t left_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static uint32_t lanes_of(uint64_t word)
{
    return (uint32_t)(word >> 16) & 0xffff;
}

static uint32_t at_work_of(uint64_t word)
{
    return (uint32_t)word & 0xffff;
}

static struct {
    // The loop under way.
    _Alignas(64) _Atomic uint64_t word;
    _Alignas(64) int32_t n;
    uint32_t turn0; // of item 0
    pool_work *fn, *in_order;
    void *arg;
    _Atomic int64_t helped_ns; // CPU time of its helpers

    _Alignas(64) struct gate work; // helpers wait for a loop,
    _Alignas(64) struct gate done; // the caller for the last helper,
    _Alignas(64) struct gate turn; // and whoever has done an item for those before it

    _Atomic bool busy, stop;
    bool share_all;
    int32_t threads, helpers; // helpers that run
    pthread_t helper[THREADS_MAX];
} pool = {.threads = 1};

static _Thread_local int32_t own_lane = -1; // of the item that this thread is in

// Gates.

static void gate_open(struct gate *g, int32_t sleepers)
{
    atomic_fetch_add(&g->count, 1);
    if (atomic_load(&g->sleepers) > 0)
        syscall(SYS_futex, &g->count, FUTEX_WAKE_PRIVATE, sleepers, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Until the count is no longer `seen`.
static void gate_wait(struct gate *g, uint32_t seen)
{
    int64_t until = clock_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 16; i++) {
            if (atomic_load(&g->count) != seen)
                return;
            relax();
        }
    } while (clock_ns() < until);
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->count) == seen)
        syscall(SYS_futex, &g->count, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

// Items.

static void do_item(int32_t item, int32_t lane)
{
    own_lane = lane;
    pool.fn(pool.arg, item, lane);
    if (pool.in_order) {
        uint32_t mine = pool.turn0 + (uint32_t)item, now;
        while ((now = atomic_load(&pool.turn.count)) != mine)
            gate_wait(&pool.turn, now);
        pool.in_order(pool.arg, item, lane);
        gate_open(&pool.turn, INT_MAX);
    }
    own_lane = -1;
}

static int64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// The next item, or -1. A helper's first one says that it is at work.
static int32_t take(int32_t lane, bool first)
{
    uint64_t word = atomic_load(&pool.word);
    do
        if (left_of(word) == 0 || (uint32_t)lane >= lanes_of(word))
            return -1;
    while (!atomic_compare_exchange_weak(&pool.word, &word, word - WORD(1, 0, 0) + first));
    return pool.n - (int32_t)left_of(word);
}

static bool help(int32_t lane)
{
    int32_t item = take(lane, true);
    if (item < 0)
        return false;
    int64_t t0 = thread_cpu_ns();
    for (; item >= 0; item = take(lane, false))
        do_item(item, lane);
    atomic_fetch_add(&pool.helped_ns, thread_cpu_ns() - t0);
    if (at_work_of(atomic_fetch_sub(&pool.word, WORD(0, 0, 1))) == 1)
        gate_open(&pool.done, 1);
    return true;
}

static void *helper_main(void *arg)
{
    int32_t lane = (int32_t)(intptr_t)arg;
    for (;;) {
        uint32_t seen = atomic_load(&pool.work.count);
        if (atomic_load(&pool.stop))
            return NULL;
        if (!help(lane))
            gate_wait(&pool.work, seen);
    }
}

// The account. On a busy machine a helper that is taken off its core in an item makes a loop slower
// than without it. What the threads got done above what the caller alone would have, in time of the
// clock, is put into the account; what they lost is taken out. While nothing is in it the caller
// works alone, and a tenth of that time is put in, for the next try: losses are at most a tenth of
// the time, plus what the account holds, plus one wait. Only time depends on any of this.
#define CREDIT_MAX_NS 5000000
#define CREDIT_MIN_NS -200000000 // whatever happened, the next try comes within two seconds of work
#define TRY_PART      10
#define SHARE_NS      50e6 // over which the share of a core that a lone caller gets is averaged

struct account {
    int64_t credit_ns;
    double share; // of a core, that the caller gets when it works alone; 1 where not known
};
static const struct account new_account = {CREDIT_MAX_NS, 1};
static struct account account;

static void credit(int64_t ns)
{
    account.credit_ns += ns;
    if (account.credit_ns > CREDIT_MAX_NS)
        account.credit_ns = CREDIT_MAX_NS;
    if (account.credit_ns < CREDIT_MIN_NS)
        account.credit_ns = CREDIT_MIN_NS;
}

static void drift_share(double towards, int64_t wall_ns)
{
    double weight = (double)wall_ns / SHARE_NS;
    account.share += (towards - account.share) * (weight < 1 ? weight : 1);
}

static void run_alone(int32_t n, int32_t lane, pool_work *fn, pool_work *in_order, void *arg)
{
    for (int32_t i = 0; i < n; i++) {
        fn(arg, i, lane);
        if (in_order)
            in_order(arg, i, lane);
    }
}

static void run_shared(int32_t lanes, int32_t n, pool_work *fn, pool_work *in_order, void *arg)
{
    int32_t item, helpers = (lanes < n ? lanes : n) - 1;
    pool.n = n;
    pool.turn0 = atomic_load(&pool.turn.count);
    pool.fn = fn;
    pool.in_order = in_order;
    pool.arg = arg;
    atomic_store(&pool.helped_ns, 0);
    atomic_store(&pool.word, WORD(n, lanes, 0));
    // Any sleeper may be the one that wakes: all, where some may not take part.
    gate_open(&pool.work, lanes <= pool.helpers ? INT_MAX : helpers);
    while ((item = take(0, false)) >= 0)
        do_item(item, 0);
}

static void wait_for_helpers(void)
{
    for (;;) {
        uint32_t seen = atomic_load(&pool.done.count);
        if (at_work_of(atomic_load(&pool.word)) == 0)
            return;
        gate_wait(&pool.done, seen);
    }
}

void pool_run(int32_t lanes, int32_t n, pool_work *fn, pool_work *in_order, void *arg)
{
    if (lanes > pool.helpers + 1)
        lanes = pool.helpers + 1;
    // Inside an item, or beside another thread's loop.
    if (lanes <= 1 || n <= 1 || own_lane >= 0 || atomic_exchange(&pool.busy, true)) {
        run_alone(n, own_lane < 0 ? 0 : own_lane, fn, in_order, arg);
        return;
    }
    bool alone = account.credit_ns <= 0 && !pool.share_all;
    int64_t t0 = clock_ns(), cpu0 = thread_cpu_ns();
    if (alone)
        run_alone(n, 0, fn, in_order, arg);
    else
        run_shared(lanes, n, fn, in_order, arg);
    int64_t cpu_ns = thread_cpu_ns() - cpu0;
    if (!alone) {
        wait_for_helpers();
        cpu_ns += atomic_load(&pool.helped_ns);
    }
    int64_t wall_ns = clock_ns() - t0;
    if (alone) {
        credit(wall_ns / TRY_PART);
        drift_share(wall_ns > 0 ? (double)cpu_ns / (double)wall_ns : 1, wall_ns);
    } else {
        credit((int64_t)((double)cpu_ns / account.share) - wall_ns);
        drift_share(1, wall_ns);
    }
    atomic_store(&pool.busy, false);
}

struct each {
    void (*fn)(void *arg, uint32_t item);
    void *arg;
};

static void each_item(void *arg, int32_t item, int32_t lane)
{
    (void)lane;
    struct each *e = arg;
    e->fn(e->arg, (uint32_t)item);
}

void pool_each(size_t n_values, uint32_t n, void (*fn)(void *arg, uint32_t item), void *arg)
{
    assert(n <= INT32_MAX);
    struct each e = {fn, arg};
    bool alone = n_values < POOL_LEAST_VALUES && !pool.share_all;
    pool_run(alone ? 1 : pool.threads, (int32_t)n, each_item, NULL, &e);
}

struct spans {
    size_t n, piece;
    void (*fn)(void *arg, size_t from, size_t to);
    void *arg;
};

static void span_item(void *arg, uint32_t item)
{
    struct spans *s = arg;
    size_t from = item * s->piece;
    s->fn(s->arg, from, s->n - from < s->piece ? s->n : from + s->piece);
}

void pool_spans(size_t n, size_t piece, void (*fn)(void *arg, size_t from, size_t to), void *arg)
{
    struct spans s = {n, piece, fn, arg};
    size_t pieces = n / piece + (n % piece > 0);
    assert(pieces <= INT32_MAX);
    pool_each(n, (uint32_t)pieces, span_item, &s);
}

// Helpers come and go.

// A forked child has none, and nobody sleeps.
static void forget_helpers(void)
{
    pool.helpers = 0;
    atomic_store(&pool.work.sleepers, 0);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_helpers);
}

void pool_reserve(int32_t threads)
{
    assert(threads >= 1 && threads <= THREADS_MAX && own_lane < 0);
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    sigset_t all, before;
    if (pool.helpers == 0)
        account = new_account;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); // signals are for the thread that loops
    for (; pool.helpers < threads - 1; pool.helpers++) {
        void *lane = (void *)(intptr_t)(pool.helpers + 1);
        int bad = pthread_create(&pool.helper[pool.helpers], NULL, helper_main, lane);
        if (bad)
            die(STATUS_ENV, "cannot start thread %d of %d: %s", pool.helpers + 2, threads,
                strerror(bad));
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void pool_open(int32_t threads)
{
    pool_reserve(threads);
    pool.threads = threads;
}

int32_t pool_threads(void)
{
    return pool.threads;
}

void pool_share_all(void)
{
    pool.share_all = true;
}

void pool_close(void)
{
    assert(own_lane < 0 && !atomic_load(&pool.busy));
    atomic_store(&pool.stop, true);
    gate_open(&pool.work, INT_MAX);
    for (; pool.helpers > 0; pool.helpers--)
        pthread_join(pool.helper[pool.helpers - 1], NULL);
    atomic_store(&pool.stop, false);
    pool.threads = 1;
    pool.share_all = false;
}
