// Streams, events and graphs. A stream runs as late as it may, or ahead of the one that somebody
// waits for; a graph's work in any order that its dependencies leave: so what nobody waits for
// shows as a wrong value.
#include "emu_check.h"
#include "emu_inner.h"
#include "emu_run.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <time.h>

enum { SHARED_FREE = 48 << 10, GRID_YZ = 65535 };

struct stream;
// One entry of a queue: a kernel, a call on the host, a copy, a fill, an event, or a wait for how
// far another stream had come.
struct work {
    emu_launch l;
    void (*call)(const void *);
    std::vector<unsigned char> args;
    bool kernel;
    void *to;
    const void *from;
    size_t n;
    int byte;
    std::shared_ptr<int64_t> stamp;
    stream *other;
    uint64_t upto;
    std::vector<size_t> after; // of a capture: the work that it follows
};
struct capture {
    std::vector<work> work_;
    stream *origin;
};
struct stream {
    std::deque<work> queue;
    uint64_t pushed, done;
    capture *in;              // or NULL
    std::vector<size_t> tail; // of the capture: what the next work follows
};
struct event {
    std::shared_ptr<int64_t> ns;
    stream *s; // where it was recorded last: work up to this
    uint64_t upto;
    capture *in;
    std::vector<size_t> tail;
};
// Memory that a graph works on, by a block that may be gone by the time it is launched.
struct pin {
    const void *at;
    uint64_t serial;
};
struct graph {
    std::vector<work> work_;
    std::vector<std::vector<size_t>> before; // of each: the work that follows it
    std::vector<pin> pins;
};

static std::vector<stream *> streams;
static std::map<const void *, size_t> limits; // of dynamic shared memory, by kernel

void *emu_stream(void)
{
    streams.push_back(new stream());
    return streams.back();
}
void emu_stream_free(void *s)
{
    streams.erase(std::find(streams.begin(), streams.end(), s));
    delete static_cast<stream *>(s);
}

static void add(void *to, work &&w)
{
    stream *s = static_cast<stream *>(to);
    if (!s->in) {
        emu_managed_open(false);
        s->queue.push_back(std::move(w));
        s->pushed++;
        return;
    }
    w.after = s->tail;
    s->tail = {s->in->work_.size()};
    s->in->work_.push_back(std::move(w));
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
    limits[kernel] = n;
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
    auto found = limits.find(kernel);
    size_t most = found == limits.end() ? (size_t)SHARED_FREE : found->second;
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

// Running.

static void run_upto(stream *s, uint64_t upto);

static void run(const work &w)
{
    struct timespec t;
    if (w.kernel) {
        emu_run_kernel(w.l, w.call, w.args.data(), w.args.size());
    } else if (w.call) {
        w.call(w.args.data());
    } else if (w.stamp) {
        clock_gettime(CLOCK_MONOTONIC, &t);
        *w.stamp = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    } else if (w.other) {
        run_upto(w.other, w.upto);
    } else if (w.from) {
        if (emu_is_device(w.to) != emu_is_device(w.from))
            emu_count_copy(w.n, emu_is_device(w.to));
        memmove(w.to, w.from, w.n);
    } else if (w.to) {
        emu_fill(w.to, w.byte, w.n);
    }
}

// Others may be ahead of the one that is waited for, as far as they come.
static void run_others(const stream *s)
{
    for (stream *other : streams)
        while (other != s && !other->queue.empty() && emu_ahead())
            run_upto(other, other->done + 1);
}

static void run_upto(stream *s, uint64_t upto)
{
    if (std::find(streams.begin(), streams.end(), s) == streams.end())
        return; // gone, and what was queued in it
    while (s->done < upto) {
        work w = std::move(s->queue.front());
        s->queue.pop_front();
        s->done++;
        run(w);
    }
}

void emu_wait(void *p)
{
    stream *s = static_cast<stream *>(p);
    if (s->in)
        emu_trap("somebody waits for a stream whose work is being captured");
    if (s->queue.empty())
        return;
    emu_memory_open(true);
    while (!s->queue.empty()) {
        run_others(s);
        run_upto(s, s->done + 1);
    }
    emu_memory_open(false);
    if (std::any_of(streams.begin(), streams.end(),
                    [](const stream *other) { return !other->queue.empty(); }))
        emu_managed_open(false);
}

// Events.

void *emu_event(void)
{
    event *e = new event();
    e->ns = std::make_shared<int64_t>(0);
    return e;
}
void emu_event_free(void *e)
{
    delete static_cast<event *>(e);
}
int64_t emu_event_ns(const void *e)
{
    return *static_cast<const event *>(e)->ns;
}

// Within a capture only an external record is one of a time; the other kind marks a dependency.
void emu_event_record(void *to, void *from, bool external)
{
    event *e = static_cast<event *>(to);
    stream *s = static_cast<stream *>(from);
    e->in = s->in && !external ? s->in : nullptr;
    e->tail = s->tail;
    if (e->in)
        return;
    work w = {};
    w.stamp = e->ns;
    add(s, std::move(w));
    e->s = s;
    e->upto = s->pushed;
}

static void merge(std::vector<size_t> &into, const std::vector<size_t> &more)
{
    for (size_t i : more)
        if (std::find(into.begin(), into.end(), i) == into.end())
            into.push_back(i);
}

// A stream that waits for what is being captured is captured, too.
void emu_event_wait(void *waiting, const void *for_this)
{
    stream *s = static_cast<stream *>(waiting);
    const event *e = static_cast<const event *>(for_this);
    if (!e->in && !e->s)
        return; // was never recorded
    if (e->in && std::none_of(streams.begin(), streams.end(),
                              [&](const stream *p) { return p->in == e->in; }))
        emu_trap("a stream waits for an event of a capture that is over");
    if (e->in && !s->in) {
        s->in = e->in;
        s->tail.clear();
    }
    if (s->in != e->in)
        emu_trap("a stream in a capture waits for work that is not in it");
    if (e->in) {
        merge(s->tail, e->tail);
    } else {
        work w = {};
        w.other = e->s;
        w.upto = e->upto;
        add(s, std::move(w));
    }
}

// Graphs.

bool emu_capturing(const void *s)
{
    bool any = false;
    for (const stream *p : streams)
        any |= p->in && (!s || p == s);
    return any;
}

void emu_capture_begin(void *p)
{
    stream *s = static_cast<stream *>(p);
    if (s->in)
        emu_trap("a capture begins in a stream whose work is being captured");
    s->in = new capture();
    s->in->origin = s;
    s->tail.clear();
}

// Every other stream of the capture ends in what the first one waited for.
static void check_joined(const capture *c)
{
    std::vector<bool> before(c->work_.size());
    for (size_t i : c->origin->tail)
        before[i] = true;
    for (size_t i = c->work_.size(); i-- > 0;)
        for (size_t j : c->work_[i].after)
            before[j] = before[j] || before[i];
    if (std::find(before.begin(), before.end(), false) != before.end())
        emu_trap("a capture ends while work of another stream is not waited for");
}

static void pin_block(graph *g, const void *at)
{
    uint64_t serial = emu_block_serial(at);
    if (serial)
        g->pins.push_back({at, serial});
}

// Arguments are bytes: whatever looks like an address of the device's memory is one.
static void pin_args(graph *g, const work &w)
{
    const void *at;
    pin_block(g, w.to);
    pin_block(g, w.from);
    for (size_t i = 0; i + sizeof at <= w.args.size(); i += sizeof at) {
        memcpy(&at, w.args.data() + i, sizeof at);
        pin_block(g, at);
    }
}

void *emu_capture_end(void *p)
{
    stream *s = static_cast<stream *>(p);
    capture *c = s->in;
    if (!c || c->origin != s)
        emu_trap("a capture ends in a stream where none began");
    check_joined(c);
    graph *g = new graph();
    g->work_ = std::move(c->work_);
    g->before.resize(g->work_.size());
    for (size_t i = 0; i < g->work_.size(); i++) {
        pin_args(g, g->work_[i]);
        for (size_t j : g->work_[i].after)
            g->before[j].push_back(i);
    }
    for (stream *other : streams)
        if (other->in == c)
            other->in = nullptr;
    delete c;
    return g;
}

// The work whose dependencies are done: the first, the last, or any.
void emu_graph_launch(void *of, void *s)
{
    const graph *g = static_cast<const graph *>(of);
    std::vector<size_t> left, ready;
    for (const pin &p : g->pins)
        if (emu_block_serial(p.at) != p.serial)
            emu_trap("a graph is launched that works on memory which was freed since");
    for (const work &w : g->work_) {
        if (w.after.empty())
            ready.push_back(left.size());
        left.push_back(w.after.size());
    }
    while (!ready.empty()) {
        auto chosen = ready.begin() + emu_choose((unsigned)ready.size());
        size_t i = *chosen;
        ready.erase(chosen);
        for (size_t j : g->before[i])
            if (--left[j] == 0)
                ready.push_back(j);
        work w = g->work_[i];
        w.after.clear();
        add(s, std::move(w));
    }
}
void *emu_graph_copy(void *g)
{
    return new graph(*static_cast<graph *>(g));
}
void emu_graph_free(void *g)
{
    delete static_cast<graph *>(g);
}
