// Device memory.
#include "emu_check.h"
#include "emu_inner.h"
#include "emu_run.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include <csignal>
#include <sys/mman.h>

// One range of addresses, which nobody may touch while host code runs, but for its last parts: what
// host and device share, mapped and managed. After each block lies a part that is nobody's. A freed
// block's place is taken by the next one that needs as much room.
static const size_t RANGE = (size_t)4 << 30, PART = RANGE / 8, OWN = RANGE - 2 * PART;
enum { PAGE = 4096, GAP = 256 };

struct live {
    size_t size_bytes;
    uint64_t serial; // no other block ever has
};
static struct {
    int key; // of the processor's, which opens and closes the device's own memory at once; 0: none
    unsigned char *range, *used;
    std::map<const void *, live> blocks; // whose key's block begins there
    size_t shared[2];                    // bytes used of both
    unsigned n_shared[2];                // blocks there
    uint64_t serial;
    std::multimap<size_t, void *> freed; // by room
} g = {};

void emu_memory_open(bool on)
{
    size_t n = (size_t)(g.used - g.range + PAGE - 1) / PAGE * PAGE;
    if (g.key > 0)
        pkey_set(g.key, on ? 0 : PKEY_DISABLE_ACCESS);
    else if (n && mprotect(g.range, n, on ? PROT_READ | PROT_WRITE : PROT_NONE))
        emu_trap("mprotect failed");
    if (on)
        emu_managed_open(true);
}

void emu_managed_open(bool on)
{
    if (g.shared[1] &&
        mprotect(g.range + OWN + PART, PART, on ? PROT_READ | PROT_WRITE : PROT_NONE))
        emu_trap("mprotect failed");
}

static void on_fault(int number, siginfo_t *info, void *)
{
    unsigned char *at = static_cast<unsigned char *>(info->si_addr);
    signal(number, SIG_DFL);
    if (emu_running())
        emu_fail("touches %p, which is not its memory", static_cast<void *>(at));
    else if (at >= g.range + OWN && at < g.range + RANGE)
        emu_fail("host code touches managed memory while work is under way, which may change it");
    else if (at >= g.range && at < g.range + RANGE)
        emu_fail(
            "host code touches the device's memory, byte %zu of it; use put, get, copy or zero",
            (size_t)(at - g.range));
    // Somebody else's fault comes once more, to the system.
}

static void open_memory(void)
{
    static char alternate[64 << 10]; // a fiber's own stack may be what is full
    if (!g.range) {
        void *p =
            mmap(nullptr, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            emu_trap("no address space for device memory");
        g.range = g.used = static_cast<unsigned char *>(p);
        g.key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
        if (g.key > 0 && pkey_mprotect(p, OWN, PROT_READ | PROT_WRITE, g.key)) {
            pkey_free(g.key);
            g.key = 0;
        }
        emu_check_open(g.range, RANGE, nullptr, 0);
    }
    stack_t ss = {};
    ss.ss_sp = alternate;
    ss.ss_size = sizeof alternate;
    sigaltstack(&ss, nullptr);
    struct sigaction act = {};
    act.sa_sigaction = on_fault;
    act.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &act, nullptr);
    sigaction(SIGBUS, &act, nullptr);
}

static size_t room_of(size_t n)
{
    return (n + GAP - 1) / GAP * GAP + GAP;
}

void *emu_alloc(size_t n)
{
    size_t room = room_of(n);
    if (g.blocks.empty())
        open_memory();
    auto old = g.freed.find(room);
    if (old == g.freed.end() && room > OWN - (size_t)(g.used - g.range))
        return nullptr;
    void *p = g.used;
    if (old != g.freed.end()) {
        p = old->second;
        g.freed.erase(old);
    } else {
        g.used += room;
    }
    g.blocks[p] = {n, ++g.serial};
    emu_check_block(p, n, true);
    return p;
}

// Places are used once, until all of a part's blocks are free.
void *emu_alloc_shared(size_t n, bool managed)
{
    size_t room = room_of(n);
    if (g.blocks.empty())
        open_memory();
    if (room > PART - g.shared[managed])
        return nullptr;
    unsigned char *part = g.range + OWN + managed * PART, *p = part + g.shared[managed];
    if (!g.shared[managed] && mprotect(part, PART, PROT_READ | PROT_WRITE))
        emu_trap("mprotect failed");
    g.shared[managed] += room;
    g.n_shared[managed]++;
    g.blocks[p] = {n, ++g.serial};
    emu_check_block(p, n, true);
    return p;
}

bool emu_is_shared(const void *p)
{
    const unsigned char *at = static_cast<const unsigned char *>(p);
    return g.range && at >= g.range + OWN && at < g.range + RANGE;
}

static void free_shared(void *p)
{
    unsigned char *at = static_cast<unsigned char *>(p);
    bool managed = at >= g.range + OWN + PART;
    if (--g.n_shared[managed] > 0)
        return;
    unsigned char *part = g.range + OWN + managed * PART;
    madvise(part, g.shared[managed], MADV_DONTNEED);
    mprotect(part, PART, PROT_NONE);
    g.shared[managed] = 0;
}

void emu_free(void *p)
{
    if (!p)
        return;
    auto b = g.blocks.find(p);
    if (b == g.blocks.end())
        emu_trap("a block is freed that was never allocated");
    emu_check_block(p, b->second.size_bytes, false);
    if (emu_is_shared(p))
        free_shared(p);
    else
        g.freed.insert({room_of(b->second.size_bytes), p});
    g.blocks.erase(b);
    if (!g.blocks.empty())
        return;
    madvise(g.range, (size_t)(g.used - g.range), MADV_DONTNEED);
    g.used = g.range;
    g.freed.clear();
}

// What is large is handed back instead: pages come back as zeroes, and until then they cost nothing
// when the range is opened and closed.
void emu_fill(void *to, int byte, size_t n)
{
    uintptr_t from = (uintptr_t)to, end = from + n, first = (from + PAGE - 1) / PAGE * PAGE,
              last = end / PAGE * PAGE;
    if (byte || last <= first) {
        memset(to, byte, n);
        return;
    }
    memset(to, 0, first - from);
    madvise(reinterpret_cast<void *>(first), last - first, MADV_DONTNEED);
    memset(reinterpret_cast<void *>(last), 0, end - last);
}

bool emu_is_device(const void *p)
{
    const unsigned char *at = static_cast<const unsigned char *>(p);
    return g.range && at >= g.range && at < g.range + RANGE;
}

uint64_t emu_block_serial(const void *p)
{
    auto b = g.blocks.upper_bound(p);
    if (!emu_is_device(p) || b == g.blocks.begin())
        return 0;
    b--;
    const unsigned char *from = static_cast<const unsigned char *>(b->first);
    return static_cast<const unsigned char *>(p) <= from + b->second.size_bytes ? b->second.serial
                                                                                : 0;
}
