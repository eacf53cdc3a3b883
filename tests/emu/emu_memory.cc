// Device memory, streams and graphs.
#include "emu_check.h"
#include "emu_inner.h"
#include "emu_run.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include <csignal>
#include <sys/mman.h>

// One range of addresses, which nobody may touch while host code runs. After each block lies a part
// that is nobody's. A freed block's place is taken by the next one that needs as much room.
static const size_t RANGE = (size_t)4 << 30;
enum { PAGE = 4096, GAP = 256, SHARED_FREE = 48 << 10, GRID_YZ = 65535 };

// One entry of a queue: a kernel, a call on the host, a copy, or a fill.
struct work {
    emu_launch l;
    void (*call)(const void *);
    std::vector<unsigned char> args;
    bool kernel;
    void *to;
    const void *from;
    size_t n;
    int byte;
};
struct stream {
    std::vector<work> queue, captured;
    bool capturing;
};

static struct {
    unsigned char *range, *used;
    std::map<void *, size_t> blocks;
    std::multimap<size_t, void *> freed;  // by room
    std::map<const void *, size_t> limit; // of dynamic shared memory, by kernel
    bool open;                            // kernels run
} g = {};

static void access(bool on)
{
    size_t n = (size_t)(g.used - g.range + PAGE - 1) / PAGE * PAGE;
    g.open = on;
    if (n && mprotect(g.range, n, on ? PROT_READ | PROT_WRITE : PROT_NONE))
        emu_trap("mprotect failed");
}

static void on_fault(int number, siginfo_t *info, void *)
{
    unsigned char *at = static_cast<unsigned char *>(info->si_addr);
    signal(number, SIG_DFL);
    if (emu_running())
        emu_fail("touches %p, which is not its memory", static_cast<void *>(at));
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
    if (old == g.freed.end() && room > RANGE - (size_t)(g.used - g.range))
        return nullptr;
    void *p = g.used;
    if (old != g.freed.end()) {
        p = old->second;
        g.freed.erase(old);
    } else {
        g.used += room;
    }
    g.blocks[p] = n;
    emu_check_block(p, n, true);
    return p;
}

void emu_free(void *p)
{
    if (!p)
        return;
    auto b = g.blocks.find(p);
    if (b == g.blocks.end())
        emu_trap("a block is freed that was never allocated");
    emu_check_block(p, b->second, false);
    g.freed.insert({room_of(b->second), p});
    g.blocks.erase(b);
    if (!g.blocks.empty())
        return;
    madvise(g.range, (size_t)(g.used - g.range), MADV_DONTNEED);
    g.used = g.range;
    g.freed.clear();
}

// What is large is handed back instead: pages come back as zeroes, and until then they cost nothing
// when the range is opened and closed.
static void fill(void *to, int byte, size_t n)
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

// Streams.

void *emu_stream(void)
{
    return new stream();
}
void emu_stream_free(void *s)
{
    delete static_cast<stream *>(s);
}

static void add(void *to, work &&w)
{
    stream *s = static_cast<stream *>(to);
    (s->capturing ? s->captured : s->queue).push_back(std::move(w));
}

static std::vector<unsigned char> bytes_of(const void *args, size_t n)
{
    const unsigned char *p = static_cast<const unsigned char *>(args);
    return std::vector<unsigned char>(p, p + n);
}

void emu_limit(const void *kernel, size_t n)
{
    if (n > EMU_SHARED_MOST)
        emu_fail("%zu bytes of shared memory are more than any block can have", n);
    g.limit[kernel] = n;
}

void emu_enqueue(const emu_launch &l, const void *kernel, void (*call)(const void *),
                 const void *args, size_t n)
{
    uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
    bool grid = l.grid.x && l.grid.y && l.grid.z && l.grid.x <= INT32_MAX && l.grid.y <= GRID_YZ &&
                l.grid.z <= GRID_YZ;
    if (!threads || threads > EMU_THREADS || !grid)
        emu_fail("%s: a launch of %u x %u x %u blocks of %u x %u x %u threads", l.kernel, l.grid.x,
                 l.grid.y, l.grid.z, l.block.x, l.block.y, l.block.z);
    auto found = g.limit.find(kernel);
    size_t most = found == g.limit.end() ? (size_t)SHARED_FREE : found->second;
    if (l.shared_bytes > most)
        emu_fail("%s: %zu bytes of dynamic shared memory where %zu are allowed (SHARED_LIMIT)",
                 l.kernel, l.shared_bytes, most);
    work w = {};
    w.l = l;
    w.kernel = true;
    w.call = call;
    w.args = bytes_of(args, n);
    add(l.stream, std::move(w));
}

void emu_put(void *s, void *to, const void *from, size_t n)
{
    work w = {};
    w.to = to;
    w.from = from;
    w.n = n;
    add(s, std::move(w));
}
void emu_set(void *s, void *to, int byte, size_t n)
{
    work w = {};
    w.to = to;
    w.n = n;
    w.byte = byte;
    add(s, std::move(w));
}
void emu_call_later(void *s, void (*call)(const void *), const void *args, size_t n)
{
    work w = {};
    w.call = call;
    w.args = bytes_of(args, n);
    add(s, std::move(w));
}

static void run(const work &w)
{
    if (w.kernel)
        emu_run_kernel(w.l, w.call, w.args.data(), w.args.size());
    else if (w.call)
        w.call(w.args.data());
    else if (w.from)
        memmove(w.to, w.from, w.n);
    else
        fill(w.to, w.byte, w.n);
}

void emu_wait(void *p)
{
    stream *s = static_cast<stream *>(p);
    if (s->capturing)
        emu_trap("somebody waits for a stream whose work is being captured");
    if (s->queue.empty())
        return;
    std::vector<work> all = std::move(s->queue);
    s->queue.clear();
    access(true);
    for (const work &w : all)
        run(w);
    access(false);
}

void emu_capture_begin(void *p)
{
    stream *s = static_cast<stream *>(p);
    s->capturing = true;
    s->captured.clear();
}
void *emu_capture_end(void *p)
{
    stream *s = static_cast<stream *>(p);
    s->capturing = false;
    return new std::vector<work>(std::move(s->captured));
}
void emu_graph_launch(void *graph, void *s)
{
    for (const work &w : *static_cast<std::vector<work> *>(graph))
        add(s, work(w));
}
bool emu_capturing(void *s)
{
    return static_cast<stream *>(s)->capturing;
}
void *emu_graph_copy(void *graph)
{
    return new std::vector<work>(*static_cast<std::vector<work> *>(graph));
}
void emu_graph_free(void *graph)
{
    delete static_cast<std::vector<work> *>(graph);
}
