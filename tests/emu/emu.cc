// Fibers, their meetings, and blocks.
#include "emu_check.h"
#include "emu_inner.h"
#include "emu_run.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include <sys/mman.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Keeps what a call must keep on the stack that is left, and goes on where the other stands.
extern "C" void emu_switch(void **left, void *to);
#if defined(__x86_64__)
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size emu_switch,.-emu_switch\n");
enum { ENTRY = 6, FRAME = 10 }; // in words: where the first return address lies, and all of it
#elif defined(__aarch64__)
__asm__(".text\n.globl emu_switch\n.type emu_switch,%function\nemu_switch:\n"
        "sub sp,sp,#176\n"
        "stp x19,x20,[sp,#0]\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
        "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\n"
        "stp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\nstp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
        "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
        "ldp x19,x20,[sp,#0]\nldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\n"
        "ldp x27,x28,[sp,#64]\nldp x29,x30,[sp,#80]\n"
        "ldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\nldp d14,d15,[sp,#144]\n"
        "add sp,sp,#176\nret\n"
        ".size emu_switch,.-emu_switch\n");
enum { ENTRY = 11, FRAME = 24 };
#else
#error "fibers are written for x86-64 and aarch64"
#endif

enum { WARPS = EMU_THREADS / 32, STACK = 64 << 10, GUARD = 4096, BROUGHT = 8 };
enum state { READY, AT_BARRIER, AT_MEETING, DONE };

struct fiber {
    void *sp;
    char *stack;
    enum state state;
    uint3 index;
    void *out; // for what a meeting brings
    int line;  // of the barrier or meeting where it stands
};

struct meeting {
    unsigned mask, arrived;
    enum emu_kind kind;
    size_t size;
    int line;
    unsigned char brought[32 * BROUGHT];
};

static struct {
    fiber f[EMU_THREADS];
    std::vector<meeting> meet[WARPS];
    // Who is ready: warps by their rank of the moment, and lanes of each warp.
    unsigned ready_ranks, ready_lanes[WARPS];
    unsigned char rank[WARPS], warp_at[WARPS];
    bool ahead; // the ready warp of least rank runs as far as it comes; else any ready thread
    fiber *now;
    void *main_sp;
    unsigned n, live, waiting;
    const emu_launch *launch; // NULL: no kernel runs
    void (*call)(const void *);
    const void *args;
    // Variables lie from the start of shared memory on, the dynamic part at its end.
    unsigned char *shared, *shared_end, *shared_used;
    std::vector<std::pair<const void *, void *>> variable;
    uint64_t rng;
    enum emu_order order;
    struct emu_counts count;
    void (*on_error)(const char *);
#ifdef __SANITIZE_ADDRESS__
    const void *main_stack;
    size_t main_size;
#endif
} e = {};

static uint64_t draw(void) // xorshift64*
{
    e.rng = e.rng ? e.rng : 88172645463325252u;
    e.rng ^= e.rng >> 12;
    e.rng ^= e.rng << 25;
    e.rng ^= e.rng >> 27;
    return e.rng * 2685821657736338717u >> 32;
}
const char *emu_running(void)
{
    return e.launch ? e.launch->kernel : nullptr;
}
void emu_seed(uint64_t seed, enum emu_order order)
{
    e.rng = (seed + 1) * 0x9e3779b97f4a7c15u;
    e.order = order;
}
unsigned emu_choose(unsigned n)
{
    return n == 1 || e.order == EMU_FORWARD ? 0
           : e.order == EMU_BACKWARD        ? n - 1
                                            : (unsigned)(draw() % n);
}
bool emu_ahead(void)
{
    return e.order == EMU_BACKWARD || (e.order == EMU_RANDOM && draw() % 4 == 0);
}
struct emu_counts emu_counted(void)
{
    e.count.findings = emu_check_findings();
    emu_check_traffic(&e.count.read_bytes, &e.count.write_bytes);
    return e.count;
}
void emu_count_product(void)
{
    e.count.products++;
}
void emu_count_graph(void)
{
    e.count.graphs++;
}
void emu_count_copy(size_t n, bool there)
{
    (there ? e.count.put_bytes : e.count.get_bytes) += n;
}
void emu_on_error(void (*fn)(const char *))
{
    e.on_error = fn;
}

void emu_fail(const char *format, ...)
{
    char text[1600], *at = text, *end = text + sizeof text;
    va_list ap;
    va_start(ap, format);
    if (e.launch)
        at += snprintf(at, (size_t)(end - at),
                       "%s, block (%u,%u,%u) of (%u,%u,%u), thread %u: ", e.launch->kernel,
                       blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x, gridDim.y, gridDim.z,
                       e.now ? (unsigned)(e.now - e.f) : 0);
    vsnprintf(at, (size_t)(end - at), format, ap);
    va_end(ap);
    if (e.on_error) {
        e.on_error(text);
        return;
    }
    fprintf(stderr, "emu: %s\n", text);
    abort();
}
void emu_trap(const char *what)
{
    emu_fail("%s", what);
    abort();
}

// Fibers.

static void to_main(void)
{
    fiber *f = e.now;
    e.count.switches++;
#ifdef __SANITIZE_ADDRESS__
    void *fake;
    __sanitizer_start_switch_fiber(f->state == DONE ? nullptr : &fake, e.main_stack, e.main_size);
#endif
    emu_switch(&f->sp, e.main_sp);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

static void fiber_main(void)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &e.main_stack, &e.main_size);
#endif
    e.call(e.args);
    e.now->state = DONE;
    e.live--;
    to_main();
    abort();
}

static void *map(size_t n)
{
    void *p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        emu_trap("no address space");
    return p;
}

// Stacks begin at different lines of the cache, or all fibers would compete for the same ones.
static void fiber_begin(unsigned t)
{
    fiber &f = e.f[t];
    if (!f.stack) {
        f.stack = static_cast<char *>(map(STACK + GUARD)) + GUARD;
        mprotect(f.stack - GUARD, GUARD, PROT_NONE);
    }
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(f.stack, STACK); // frames of a fiber that ended
#endif
    void **sp = reinterpret_cast<void **>(f.stack + STACK - 64 - t * 192 % 8192 / 64 * 64) - FRAME;
    memset(sp, 0, sizeof *sp * FRAME);
    sp[ENTRY] = reinterpret_cast<void *>(fiber_main);
    f.sp = sp;
    f.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
}

static void fiber_run(unsigned t)
{
    e.now = &e.f[t];
    threadIdx = e.now->index;
#ifdef __SANITIZE_ADDRESS__
    void *fake;
    __sanitizer_start_switch_fiber(&fake, e.now->stack, STACK);
#endif
    emu_check_thread((int)t, e.now->stack, e.now->stack + STACK);
    emu_switch(&e.main_sp, e.now->sp);
    emu_check_thread(-1, nullptr, nullptr);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Meetings.

static void make_ready(unsigned t)
{
    e.f[t].state = READY;
    e.ready_lanes[t / 32] |= 1u << t % 32;
    e.ready_ranks |= 1u << e.rank[t / 32];
}

void emu_barrier(int line)
{
    e.now->state = AT_BARRIER;
    e.now->line = line;
    e.waiting++;
    e.count.barriers++;
    to_main();
}

static meeting *find_meeting(unsigned warp, unsigned mask, enum emu_kind kind, size_t size,
                             int line)
{
    meeting *found = nullptr;
    for (meeting &m : e.meet[warp]) {
        if (m.mask == mask)
            found = &m;
        else if (m.mask & mask)
            emu_fail("line %d: a warp operation for the lanes %08x, line %d: one for %08x", line,
                     mask, m.line, m.mask);
    }
    if (!found) {
        e.meet[warp].push_back({mask, 0, kind, size, line, {}});
        found = &e.meet[warp].back();
    }
    if (found->kind != kind || found->size != size)
        emu_fail("line %d: lanes of a warp meet in different operations (line %d)", line,
                 found->line);
    return found;
}

// The last one to come releases all.
void emu_meet(unsigned mask, enum emu_kind kind, const void *in, size_t size, void *out, int line)
{
    unsigned t = (unsigned)(e.now - e.f), lane = t % 32, warp = t / 32;
    e.count.meets++;
    if (!(mask >> lane & 1))
        emu_fail("line %d: a warp operation for the lanes %08x, without its own", line, mask);
    if (e.n - warp * 32 < 32)
        mask &= (1u << (e.n - warp * 32)) - 1; // a last warp that is not full
    meeting *m = find_meeting(warp, mask, kind, size, line);
    if (size)
        memcpy(m->brought + lane * size, in, size);
    m->arrived |= 1u << lane;
    e.now->out = out;
    e.now->line = line;
    e.now->state = AT_MEETING;
    if (m->arrived == mask) {
        for (unsigned i = 0; i < 32; i++) {
            if (!(mask >> i & 1))
                continue;
            fiber *f = &e.f[warp * 32 + i];
            if (f->out)
                memcpy(f->out, m->brought, 32 * size);
            make_ready(warp * 32 + i);
        }
        if (kind == EMU_SYNC)
            emu_check_join(warp, mask);
        e.meet[warp].erase(e.meet[warp].begin() + (m - e.meet[warp].data()));
    }
    to_main();
}

void emu_fence(void)
{
    emu_check_fence();
}
void emu_atomic(void *at, size_t size)
{
    emu_check_atomic(at, size);
}

// Shared memory, which a block finds full of NaN.

static size_t dynamic_bytes(void)
{
    return (e.launch->shared_bytes + 15) / 16 * 16;
}
void *emu_dynamic(void)
{
    return e.shared_end - dynamic_bytes();
}
void *emu_shared(const void *key, size_t size)
{
    for (const auto &v : e.variable)
        if (v.first == key)
            return v.second;
    unsigned char *p = e.shared_used;
    size_t gaps = 16 * e.variable.size(); // so that what lies beyond a variable is nobody's
    e.shared_used += (size + 15) / 16 * 16 + 16;
    if ((size_t)(p - e.shared) + size - gaps > 48 << 10)
        emu_fail("more than 48 KiB of variables in shared memory");
    memset(p, 0xff, size);
    emu_check_shared(p, size);
    e.variable.push_back({key, p});
    return p;
}

static void open_shared(void)
{
    size_t most = ((size_t)EMU_SHARED_MOST + GUARD - 1) / GUARD * GUARD;
    e.shared = static_cast<unsigned char *>(map(most + GUARD));
    e.shared_end = e.shared + most;
    mprotect(e.shared_end, GUARD, PROT_NONE);
    emu_check_open(nullptr, 0, e.shared, most);
}

// A block.

// A new order of the warps: some get far ahead of others, as a fair draw would never let them.
static void shuffle_warps(void)
{
    unsigned warps = (e.n + 31) / 32;
    for (unsigned i = 0; i < warps; i++)
        e.warp_at[i] = (unsigned char)(e.order == EMU_BACKWARD ? warps - 1 - i : i);
    for (unsigned i = warps; i > 1 && e.order == EMU_RANDOM; i--)
        std::swap(e.warp_at[i - 1], e.warp_at[draw() % i]);
    e.ready_ranks = 0;
    for (unsigned i = 0; i < warps; i++) {
        e.rank[e.warp_at[i]] = (unsigned char)i;
        if (e.ready_lanes[e.warp_at[i]])
            e.ready_ranks |= 1u << i;
    }
    e.ahead = e.order != EMU_RANDOM || draw() % 3 > 0;
}

static unsigned set_bit_from(unsigned mask, unsigned from) // the first one, cyclically
{
    unsigned turned = mask >> from | mask << (-from & 31);
    return ((unsigned)__builtin_ctz(turned) + from) & 31;
}

static unsigned pick(void)
{
    uint64_t r = e.order == EMU_RANDOM ? draw() : 0;
    unsigned rank =
        e.ahead ? (unsigned)__builtin_ctz(e.ready_ranks) : set_bit_from(e.ready_ranks, r >> 5 & 31);
    unsigned w = e.warp_at[rank], lanes = e.ready_lanes[w];
    unsigned lane = e.order == EMU_BACKWARD ? 31 - (unsigned)__builtin_clz(lanes)
                                            : set_bit_from(lanes, r >> 10 & 31);
    e.ready_lanes[w] = lanes & ~(1u << lane);
    if (!e.ready_lanes[w])
        e.ready_ranks &= ~(1u << rank);
    return w * 32 + lane;
}

static void stuck(void)
{
    static const char *const where[] = {"ready", "at a barrier", "in a warp operation", "ended"};
    char text[1024];
    int n = 0;
    for (unsigned t = 0; t < e.n && n < 800; t++) {
        const fiber &f = e.f[t];
        if (t == 0 || f.state != e.f[t - 1].state || f.line != e.f[t - 1].line)
            n += snprintf(text + n, sizeof text - (size_t)n, " %u is %s, line %d;", t,
                          where[f.state], f.line);
    }
    emu_fail("threads wait for each other for ever:%s", text);
    abort();
}

// Nobody is ready: all that live stand at one barrier, and go on in a new order.
static void pass_barrier(void)
{
    const fiber *first = nullptr;
    if (e.waiting != e.live)
        stuck();
    shuffle_warps();
    for (unsigned t = 0; t < e.n; t++) {
        const fiber &f = e.f[t];
        if (f.state != AT_BARRIER)
            continue;
        if (first && f.line != first->line)
            emu_fail("threads stand at different barriers, lines %d and %d", f.line, first->line);
        first = &f;
        make_ready(t);
    }
    e.waiting = 0;
    emu_check_barrier();
}

static void run_block(uint32_t block)
{
    memset(emu_dynamic(), 0xff, dynamic_bytes());
    e.shared_used = e.shared;
    e.variable.clear();
    e.live = e.n;
    e.waiting = 0;
    memset(e.ready_lanes, 0, sizeof e.ready_lanes);
    shuffle_warps();
    emu_check_begin(block, e.n);
    emu_check_shared(emu_dynamic(), dynamic_bytes());
    for (unsigned t = 0; t < e.n; t++) {
        fiber_begin(t);
        make_ready(t);
    }
    for (unsigned w = 0; w < (e.n + 31) / 32; w++)
        e.meet[w].clear();
    while (e.live > 0)
        if (e.ready_ranks)
            fiber_run(pick());
        else
            pass_barrier();
    e.now = nullptr;
    e.count.blocks++;
}

void emu_run_kernel(const emu_launch &l, void (*call)(const void *), const void *args, size_t n)
{
    uint32_t blocks = l.grid.x * l.grid.y * l.grid.z;
    if (!e.shared)
        open_shared();
    e.launch = &l;
    e.call = call;
    e.args = args;
    gridDim = l.grid;
    blockDim = l.block;
    e.n = l.block.x * l.block.y * l.block.z;
    e.count.launches++;
    emu_check_launch(args, n);
    std::vector<uint32_t> order(blocks);
    for (uint32_t b = 0; b < blocks; b++)
        order[b] = e.order == EMU_BACKWARD ? blocks - 1 - b : b;
    for (uint32_t b = blocks; b > 1 && e.order == EMU_RANDOM; b--)
        std::swap(order[b - 1], order[draw() % b]);
    for (uint32_t b : order) {
        blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y};
        run_block(b);
    }
    e.launch = nullptr;
}
