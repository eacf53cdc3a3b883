// Watches every memory access of kernels that are compiled with -fsanitize=thread: the compiler's
// calls to the sanitizer's runtime come here instead. What kernels can order with is exact:
// barriers, __syncwarp, and between blocks a fence followed by an atomic. Finds races, reads of
// shared memory that nothing wrote, accesses outside of blocks and to the host's memory, and
// misaligned ones, in whatever order the threads ran.
#include "emu_check.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

extern "C" {
extern char __executable_start, end;
}

enum { THREADS = 1024, WORD = 4 };

struct access_of {
    uint32_t run;                 // the launch, or for shared memory the block's run
    uint32_t block, epoch, clock; // epoch: barriers passed; clock: the lane's, of __syncwarp
    uint32_t tick, pc;
    uint16_t thread;
    uint8_t bytes; // of the word, a bit each
    bool atomic;
};
struct word { // who wrote it last, and two who read it
    access_of w, r[2];
};

static struct {
    uintptr_t device, device_end, shared, shared_end, args, args_end, stack, stack_end;
    word *device_word;
    uint8_t *device_live; // of each word
    std::vector<word> shared_word;
    std::vector<uint32_t> shared_live; // by which run of a block
    uint32_t launch, run, block, epoch, tick;
    int thread = -1;
    uint32_t clock[THREADS][32]; // of a thread: how far it knows each lane of its warp to be
    uint32_t fence[THREADS];     // when it fenced last
    std::vector<uint32_t> published, acquired; // of each block
    std::set<std::pair<uint32_t, uint32_t>> told;
    uint64_t findings, read_words, written_words;
} c;

static void *reserve(size_t n)
{
    void *p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        abort();
    return p;
}

void emu_check_open(const void *device, size_t device_bytes, const void *shared,
                    size_t shared_bytes)
{
    if (device) {
        c.device = (uintptr_t)device;
        c.device_end = c.device + device_bytes;
        c.device_word = static_cast<word *>(reserve(device_bytes / WORD * sizeof(word)));
        c.device_live = static_cast<uint8_t *>(reserve(device_bytes / WORD));
    }
    if (shared) {
        c.shared = (uintptr_t)shared;
        c.shared_end = c.shared + shared_bytes;
        c.shared_word.resize(shared_bytes / WORD);
        c.shared_live.resize(shared_bytes / WORD);
    }
}
void emu_check_block(const void *p, size_t n, bool live)
{
    memset(c.device_live + ((uintptr_t)p - c.device) / WORD, live, (n + WORD - 1) / WORD);
}
void emu_check_shared(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i += WORD)
        c.shared_live[((uintptr_t)p - c.shared + i) / WORD] = c.run;
}
void emu_check_launch(const void *args, size_t n)
{
    c.args = (uintptr_t)args;
    c.args_end = c.args + n;
    c.launch++;
    c.published.clear();
    c.acquired.clear();
}
void emu_check_begin(uint32_t block, unsigned threads)
{
    c.block = block;
    c.run++;
    c.epoch = 0;
    memset(c.clock, 0, threads * sizeof c.clock[0]);
    memset(c.fence, 0, threads * sizeof c.fence[0]);
}
void emu_check_thread(int thread, const void *stack, const void *stack_end)
{
    c.thread = thread;
    c.stack = (uintptr_t)stack;
    c.stack_end = (uintptr_t)stack_end;
}
void emu_check_barrier(void)
{
    c.epoch++;
}
// Every lane knows then what any of them knew, and begins a new time of its own.
void emu_check_join(unsigned warp, unsigned mask)
{
    uint32_t most[32] = {0};
    for (unsigned l = 0; l < 32; l++)
        for (unsigned k = 0; k < 32 && (mask >> l & 1); k++) {
            uint32_t known = c.clock[warp * 32 + l][k];
            most[k] = known > most[k] ? known : most[k];
        }
    for (unsigned l = 0; l < 32; l++)
        most[l] += mask >> l & 1;
    for (unsigned l = 0; l < 32; l++)
        if (mask >> l & 1)
            memcpy(c.clock[warp * 32 + l], most, sizeof most);
}
void emu_check_fence(void)
{
    c.fence[c.thread] = ++c.tick;
}
uint64_t emu_check_findings(void)
{
    return c.findings;
}

void emu_check_traffic(uint64_t *read_bytes, uint64_t *write_bytes)
{
    *read_bytes = WORD * c.read_words;
    *write_bytes = WORD * c.written_words;
}

// What to say. A finding is told once for each pair of lines.

static std::string line_of(uint32_t pc)
{
    char command[256], text[512] = "?";
    snprintf(command, sizeof command, "addr2line -s -e /proc/%d/exe 0x%x", (int)getpid(), pc);
    if (FILE *p = popen(command, "r")) {
        if (!fgets(text, sizeof text, p))
            strcpy(text, "?");
        pclose(p);
    }
    text[strcspn(text, " \n")] = 0;
    return text;
}

// By value, here alone, so that an access that is in order stays in registers.
static __attribute__((cold, noinline)) void race(uintptr_t at, access_of was, access_of now,
                                                 bool wrote, bool writes)
{
    bool shared = at >= c.shared && at < c.shared_end;
    c.findings++;
    if (!c.told.insert({was.pc, now.pc}).second)
        return;
    emu_fail("a race at byte %zu of %s memory: %s at %s, %s by %s %u at %s",
             (size_t)(at - (shared ? c.shared : c.device)), shared ? "shared" : "device",
             writes ? "written" : "read", line_of(now.pc).c_str(), wrote ? "written" : "read",
             was.block == now.block ? "thread" : "another block's thread", was.thread,
             line_of(was.pc).c_str());
}

static __attribute__((cold, noinline)) void wrong(const char *what, uintptr_t at, uint32_t pc)
{
    c.findings++;
    if (c.told.insert({pc, 0}).second)
        emu_fail("%s, at %p, %s", what, reinterpret_cast<void *>(at), line_of(pc).c_str());
}

// Accesses.

static inline __attribute__((always_inline)) bool ordered(const access_of &was,
                                                          const access_of &now)
{
    if (was.block == now.block) {
        if (was.thread == now.thread || was.epoch != now.epoch)
            return true;
        return was.thread / 32 == now.thread / 32 &&
               c.clock[now.thread][was.thread % 32] > was.clock;
    }
    if (was.block >= c.published.size() || now.block >= c.acquired.size())
        return false;
    return c.published[was.block] > was.tick && c.acquired[now.block] > c.published[was.block];
}

static inline __attribute__((always_inline)) void
touch_word(word *p, uintptr_t at, const access_of &now, bool write, bool shared)
{
    access_of &w = p->w;
    bool fresh = w.run != now.run;
    if (!fresh && (w.bytes & now.bytes) && !(w.atomic && now.atomic) && !ordered(w, now))
        race(at, w, now, true, write);
    if (!write) {
        if (shared && fresh)
            wrong("reads shared memory that nothing wrote", at, now.pc);
        c.read_words += !shared && p->r[0].run != now.run;
        int slot = p->r[0].run != now.run || p->r[0].thread == now.thread ? 0 : 1;
        p->r[slot] = now;
        return;
    }
    c.written_words += !shared && fresh;
    for (const access_of &r : p->r)
        if (r.run == now.run && (r.bytes & now.bytes) && !(r.atomic && now.atomic) &&
            !ordered(r, now))
            race(at, r, now, false, true);
    w = now;
}

// The words of an access, or NULL where it is none of ours: said, unless it is the thread's own.
static word *words_of(uintptr_t at, size_t size, bool write, uint32_t pc)
{
    if (at >= c.stack && at < c.stack_end)
        return nullptr;
    if (at >= c.shared && at + size <= c.shared_end) {
        size_t first = (at - c.shared) / WORD, last = (at + size - 1 - c.shared) / WORD;
        if (c.shared_live[first] == c.run && c.shared_live[last] == c.run)
            return c.shared_word.data() + first;
        wrong("touches shared memory that is no variable of the block", at, pc);
    } else if (at >= c.device && at + size <= c.device_end) {
        size_t first = (at - c.device) / WORD, last = (at + size - 1 - c.device) / WORD;
        if (c.device_live[first] && c.device_live[last])
            return c.device_word + first;
        wrong(write ? "writes outside of every block" : "reads outside of every block", at, pc);
    } else {
        bool image = at >= (uintptr_t)&__executable_start && at < (uintptr_t)&end;
        if (write || !(image || (at >= c.args && at < c.args_end)))
            wrong(write ? "writes the host's memory" : "reads the host's memory", at, pc);
    }
    return nullptr;
}

static void touch(uintptr_t at, size_t size, bool write, bool atomic, uint32_t pc)
{
    word *p = words_of(at, size, write, pc);
    if (!p)
        return;
    bool shared = at >= c.shared && at < c.shared_end;
    if (at % size)
        wrong("an access that is not aligned", at, pc);
    access_of now = {
        shared ? c.run : c.launch, c.block, c.epoch, c.clock[c.thread][c.thread % 32], ++c.tick, pc,
        (uint16_t)c.thread,        15,      atomic};
    for (size_t k = 0; k < size; k += WORD, p++) {
        if (size < WORD)
            now.bytes = (uint8_t)(((1u << size) - 1) << at % WORD);
        touch_word(p, at + k, now, write, shared);
    }
}

static uint32_t place(const void *pc)
{
    return (uint32_t)((uintptr_t)pc - (uintptr_t)&__executable_start - 1);
}

void emu_check_atomic(const void *at, size_t n)
{
    if (c.thread < 0)
        return;
    touch((uintptr_t)at, n, true, true, place(__builtin_return_address(0)));
    if (c.published.size() <= c.block) {
        c.published.resize(c.block + 1);
        c.acquired.resize(c.block + 1);
    }
    if (c.fence[c.thread])
        c.published[c.block] = c.fence[c.thread];
    c.acquired[c.block] = ++c.tick;
}

static void from_code(const void *at, size_t size, bool write, const void *pc)
{
    if (c.thread >= 0)
        touch((uintptr_t)at, size, write, false, place(pc));
}

// The compiler's calls.

#define HOOK extern "C" __attribute__((visibility("default"))) void
HOOK __tsan_init(void)
{
}
HOOK __tsan_func_entry(void *)
{
}
HOOK __tsan_func_exit(void *)
{
}
#define HOOKS(n)                                                                                   \
    HOOK __tsan_read##n(void *p)                                                                   \
    {                                                                                              \
        from_code(p, n, false, __builtin_return_address(0));                                       \
    }                                                                                              \
    HOOK __tsan_write##n(void *p)                                                                  \
    {                                                                                              \
        from_code(p, n, true, __builtin_return_address(0));                                        \
    }                                                                                              \
    HOOK __tsan_unaligned_read##n(void *p)                                                         \
    {                                                                                              \
        from_code(p, n, false, __builtin_return_address(0));                                       \
    }                                                                                              \
    HOOK __tsan_unaligned_write##n(void *p)                                                        \
    {                                                                                              \
        from_code(p, n, true, __builtin_return_address(0));                                        \
    }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOK __tsan_read_range(void *p, size_t n)
{
    for (size_t i = 0; i < n; i += WORD)
        from_code(static_cast<char *>(p) + i, WORD, false, __builtin_return_address(0));
}
HOOK __tsan_write_range(void *p, size_t n)
{
    for (size_t i = 0; i < n; i += WORD)
        from_code(static_cast<char *>(p) + i, WORD, true, __builtin_return_address(0));
}
