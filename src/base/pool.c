// One loop at a time. Its items are handed out by one atomic word, so that a helper that comes
// late, or not at all, costs nothing; a helper that is taken off its core in the middle of an item
// costs what the caller then waits, and that is kept in an account (below).
#include "base/pool.h"

#include "base/check.h"
#include "base/clock.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS_MAX 1024
#define SPIN_NS     30000 // before a thread sleeps; to wake it takes about as long

// A count that threads wait on: they spin a little, then sleep.
struct gate {
    _Atomic uint32_t count, sleepers;
};

// What is left to do, in one word: items that nobody has taken, lanes that may take them, whether
// one at a time, and how many helpers are at work. The rest of a loop may be read by those who took
// an item: the caller changes it only when nothing is left and no helper is at work.
#define WORD(left, lanes, at_work) ((uint64_t)(left) << 32 | (uint64_t)(lanes) << 16 | (at_work))
#define WORD_SINGLY                ((uint64_t)1 << 31)
static uint32_t left_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static uint32_t lanes_of(uint64_t word)
{
    return (uint32_t)(word >> 16) & 0x7fff;
}

static uint32_t at_work_of(uint64_t word)
{
    return (uint32_t)word & 0xffff;
}

static struct {
    // The loop under way.
    _Alignas(64) _Atomic uint64_t word;
    _Alignas(64) const struct pool_loop *loop;
    uint32_t turn0;            // of item 0
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
    const struct pool_loop *l = pool.loop;
    own_lane = lane;
    l->fn(l->arg, item, lane);
    if (l->in_order) {
        uint32_t mine = pool.turn0 + (uint32_t)item, now;
        while ((now = atomic_load(&pool.turn.count)) != mine)
            gate_wait(&pool.turn, now);
        l->in_order(l->arg, item, lane);
        gate_open(&pool.turn, INT_MAX);
    }
    own_lane = -1;
}

struct taken {
    int32_t from, n;
};

// The next items: several where many are left, so that small ones are not fought for. A helper's
// first ones say that it is at work.
static struct taken take(int32_t lane, bool first)
{
    uint64_t word = atomic_load(&pool.word);
    uint32_t n;
    do {
        if (left_of(word) == 0 || (uint32_t)lane >= lanes_of(word))
            return (struct taken){0, 0};
        n = word & WORD_SINGLY ? 0 : left_of(word) / (8 * lanes_of(word));
        n = n > 0 ? n : 1;
    } while (!atomic_compare_exchange_weak(&pool.word, &word, word - WORD(n, 0, 0) + first));
    return (struct taken){pool.loop->n - (int32_t)left_of(word), (int32_t)n};
}

static void do_items(struct taken t, int32_t lane)
{
    for (; t.n > 0; t = take(lane, false))
        for (int32_t i = 0; i < t.n; i++)
            do_item(t.from + i, lane);
}

static bool help(int32_t lane)
{
    struct taken first = take(lane, true);
    if (first.n == 0)
        return false;
    int64_t t0 = clock_thread_ns();
    do_items(first, lane);
    atomic_fetch_add(&pool.helped_ns, clock_thread_ns() - t0);
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

// The accounts. On a busy machine a helper that is taken off its core in an item makes a loop
// slower than without it; a loop can also be too small to gain. What the threads got done above
// what the caller alone would have, in time of the clock, is put into the loop's account; what they
// lost is taken out. While nothing is in it the caller works alone, and a part of that time is put
// in, for the next try: a tenth, and half as much after each try that fails. So losses are at most
// a tenth of the time, plus what the account holds, plus one wait. Only time depends on any of
// this.
#define CREDIT_MAX_NS 3000000
#define CREDIT_MIN_NS -50000000
#define TRY_PART      10
#define FAILURES_MAX  3     // that halve the part
#define SHARE_NS      300e6 // over which the share is averaged
#define SHARE_MIN     0.05
#define ACCOUNTS      64

struct account {
    pool_site *site;
    int64_t credit_ns;
    int32_t failures;
};
static struct account accounts[ACCOUNTS];
static int64_t shared_ns, alone_ns;
// The part of a core that the caller gets when it works alone. What was seen grows old: then it is
// taken for all of it, so that there is less to gain, and the caller tries.
static double share = 1;

// Where there are too many loops, those left over share the last account.
static struct account *account_of(pool_site *site)
{
    size_t i = (uintptr_t)site / 16 % ACCOUNTS, tries = 0;
    while (accounts[i].site != site && accounts[i].site && ++tries < ACCOUNTS)
        i = (i + 1) % ACCOUNTS;
    if (!accounts[i].site)
        accounts[i] = (struct account){site, CREDIT_MAX_NS, 0};
    return &accounts[i];
}

static void open_accounts(void)
{
    memset(accounts, 0, sizeof accounts);
    shared_ns = alone_ns = 0;
    share = 1;
}

static void credit(struct account *a, int64_t ns)
{
    bool had = a->credit_ns > 0;
    a->credit_ns += ns;
    if (a->credit_ns < CREDIT_MIN_NS)
        a->credit_ns = CREDIT_MIN_NS;
    if (a->credit_ns >= CREDIT_MAX_NS) {
        a->credit_ns = CREDIT_MAX_NS;
        a->failures = 0;
    } else if (had && a->credit_ns <= 0 && a->failures < FAILURES_MAX) {
        a->failures++;
    }
}

static void average_share(double seen, int64_t wall_ns)
{
    double weight = (double)wall_ns / SHARE_NS;
    share += (seen - share) * (weight < 1 ? weight : 1);
    share = share < SHARE_MIN ? SHARE_MIN : share;
}

static void run_alone(const struct pool_loop *l, int32_t lane)
{
    for (int32_t i = 0; i < l->n; i++) {
        l->fn(l->arg, i, lane);
        if (l->in_order)
            l->in_order(l->arg, i, lane);
    }
}

// Returns the CPU time of all threads in the items.
static int64_t run_shared(const struct pool_loop *l, int32_t lanes)
{
    int32_t helpers = (lanes < l->n ? lanes : l->n) - 1;
    pool.loop = l;
    pool.turn0 = atomic_load(&pool.turn.count);
    atomic_store(&pool.helped_ns, 0);
    atomic_store(&pool.word, WORD(l->n, lanes, 0) | (l->in_order ? WORD_SINGLY : 0));
    // Any sleeper may be the one that wakes: all, where some may not take part.
    gate_open(&pool.work, lanes <= pool.helpers ? INT_MAX : helpers);
    int64_t t0 = clock_thread_ns();
    do_items(take(0, false), 0);
    int64_t cpu_ns = clock_thread_ns() - t0;
    for (;;) {
        uint32_t seen = atomic_load(&pool.done.count);
        if (at_work_of(atomic_load(&pool.word)) == 0)
            return cpu_ns + atomic_load(&pool.helped_ns);
        gate_wait(&pool.done, seen);
    }
}

void pool_run(const struct pool_loop *l)
{
    int32_t lanes = l->lanes < pool.helpers + 1 ? l->lanes : pool.helpers + 1;
    bool small = l->n_values > 0 && l->n_values < POOL_LEAST_VALUES && !pool.share_all;
    // Also inside an item, and beside another thread's loop.
    if (lanes <= 1 || l->n <= 1 || small || own_lane >= 0 || atomic_exchange(&pool.busy, true)) {
        run_alone(l, own_lane < 0 ? 0 : own_lane);
        return;
    }
    assert(l->site);
    struct account *a = account_of(l->site);
    int64_t t0 = clock_ns();
    if (a->credit_ns > 0 || pool.share_all) {
        int64_t cpu_ns = run_shared(l, lanes), wall_ns = clock_ns() - t0;
        credit(a, (int64_t)((double)cpu_ns / share) - wall_ns);
        average_share(1, wall_ns / 4);
        shared_ns += wall_ns;
    } else {
        int64_t cpu0 = clock_thread_ns();
        run_alone(l, 0);
        int64_t cpu_ns = clock_thread_ns() - cpu0, wall_ns = clock_ns() - t0;
        credit(a, wall_ns / TRY_PART >> a->failures);
        average_share((double)cpu_ns / (double)(wall_ns + 1), wall_ns);
        alone_ns += wall_ns;
    }
    atomic_store(&pool.busy, false);
}

double pool_alone(void)
{
    return alone_ns > 0 ? (double)alone_ns / (double)(alone_ns + shared_ns) : 0;
}

static void run_loop(size_t n_values, size_t n, pool_work *fn, void *arg, pool_site *site)
{
    assert(n <= INT32_MAX);
    pool_run(&(struct pool_loop){.lanes = pool.threads,
                                 .n = (int32_t)n,
                                 .fn = fn,
                                 .arg = arg,
                                 .site = site,
                                 .n_values = n_values});
}

struct each {
    void (*fn)(void *arg, uint32_t item);
    void *arg;
};

static void each_item(void *arg, int32_t item, int32_t lane)
{
    (void)lane;
    const struct each *e = arg;
    e->fn(e->arg, (uint32_t)item);
}

void pool_each(size_t n_values, uint32_t n, void (*fn)(void *arg, uint32_t item), void *arg)
{
    struct each e = {fn, arg};
    run_loop(n_values, n, each_item, &e, (pool_site *)fn);
}

struct spans {
    size_t n, piece;
    void (*fn)(void *arg, size_t from, size_t to);
    void *arg;
};

static void span_item(void *arg, int32_t item, int32_t lane)
{
    (void)lane;
    const struct spans *s = arg;
    size_t from = (size_t)item * s->piece;
    s->fn(s->arg, from, s->n - from < s->piece ? s->n : from + s->piece);
}

void pool_spans(size_t n, size_t piece, void (*fn)(void *arg, size_t from, size_t to), void *arg)
{
    struct spans s = {n, piece, fn, arg};
    run_loop(n, n / piece + (n % piece > 0), span_item, &s, (pool_site *)fn);
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
        open_accounts();
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
