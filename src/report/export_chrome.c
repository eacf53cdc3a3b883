#include "base/jsonw.h"
#include "base/mem.h"
#include "report/export.h"
#include "report/report.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Threads of a process, top to bottom: the rounds, the server's lanes, the clients' lanes. Clients
// of a rank share its lanes as long as they take turns; where two of them overlap each gets lanes
// of its own.
enum { GROUP_ROUNDS = -2, GROUP_SERVER = -1, GROUP_SHARED = 0 }; // else client + 1
#define TRACKS_MAX 64                                            // of one lane that overlap
#define MODEL_PID  1000000000

struct slice {
    int64_t group;
    int32_t pid, lane, track, tid; // track: of those on one lane that overlap
    int64_t ts, dur;               // ns
    const struct rec_event *event;
};

struct place { // where a process of the timeline is: its number is its place among them
    int32_t run, rank;
};

struct chrome {
    const struct trace_file *f;
    struct jsonw j;
    struct slice *slices;
    size_t n;
    struct place *places;
    size_t n_places;
    int64_t flows;
};

static int by_rank(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->run != y->run)
        return x->run < y->run ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

static void find_places(struct chrome *c, const struct rec_event *e, size_t n)
{
    c->places = mem_alloc(MEM_TRACE, (n + 1) * sizeof *c->places);
    for (size_t i = 0; i < n; i++)
        c->places[i] = (struct place){e[i].run, e[i].rank};
    if (n)
        qsort(c->places, n, sizeof *c->places, by_rank);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || by_rank(&c->places[i], &c->places[c->n_places - 1]) != 0)
            c->places[c->n_places++] = c->places[i];
}

static int32_t pid_of(const struct chrome *c, const struct rec_event *e)
{
    const struct place key = {e->run, e->rank};
    const struct place *hit = bsearch(&key, c->places, c->n_places, sizeof key, by_rank);
    return (int32_t)(hit - c->places);
}

// Slices onto threads.

static bool of_server(const struct rec_event *e)
{
    return e->client < 0 || e->stage == STAGE_BROADCAST || e->stage == STAGE_WAIT ||
           e->stage == STAGE_DECODE || e->stage == STAGE_AGGREGATE || e->stage == STAGE_COMMIT;
}

static int by_place(const void *a, const void *b)
{
    const struct slice *x = a, *y = b;
    const int64_t kx[] = {x->pid, x->group, x->lane, x->ts, -x->dur};
    const int64_t ky[] = {y->pid, y->group, y->lane, y->ts, -y->dur};
    for (size_t i = 0; i < ARRAY_LEN(kx); i++)
        if (kx[i] != ky[i])
            return kx[i] < ky[i] ? -1 : 1;
    if (x->event->stage != y->event->stage) // outer before inner where both take the same time
        return stage_table[x->event->stage].inner ? 1 : -1;
    return x->event < y->event ? -1 : x->event > y->event;
}

static bool same_lane(const struct slice *a, const struct slice *b)
{
    return a->pid == b->pid && a->group == b->group && a->lane == b->lane;
}

// The ends of what is open on a track, innermost last.
struct nest {
    int64_t end[32];
    int depth;
};

static bool fits(struct nest *t, const struct slice *s)
{
    while (t->depth && t->end[t->depth - 1] <= s->ts)
        t->depth--;
    if (t->depth == (int)ARRAY_LEN(t->end) || (t->depth && t->end[t->depth - 1] < s->ts + s->dur))
        return false;
    t->end[t->depth++] = s->ts + s->dur;
    return true;
}

// Puts the slices of each lane, sorted, on as few tracks as let them nest. Says whether one was
// enough.
static bool stack_lanes(struct slice *s, size_t n)
{
    struct nest *tracks = mem_alloc(MEM_TRACE, TRACKS_MAX * sizeof *tracks);
    bool one = true;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || !same_lane(&s[i], &s[i - 1]))
            memset(tracks, 0, TRACKS_MAX * sizeof *tracks);
        int k = 0;
        while (k < TRACKS_MAX - 1 && !fits(&tracks[k], &s[i]))
            k++;
        s[i].track = k;
        one &= k == 0 || s[i].lane == LANE_NET;
    }
    mem_free(tracks);
    return one;
}

// Clients that overlap on a rank's shared lanes are taken apart.
static void split_clients(struct slice *s, size_t n)
{
    for (struct slice *first = s, *end = s; first < s + n; first = end) {
        while (end < s + n && end->pid == first->pid && end->group == first->group)
            end++;
        if (first->group != GROUP_SHARED || stack_lanes(first, (size_t)(end - first)))
            continue;
        for (struct slice *x = first; x < end; x++)
            x->group = (int64_t)x->event->client + 1;
    }
}

static void number_threads(struct slice *s, size_t n)
{
    int32_t tid = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || s[i].pid != s[i - 1].pid)
            tid = 0;
        else if (!same_lane(&s[i], &s[i - 1]))
            tid += TRACKS_MAX;
        s[i].tid = tid + s[i].track;
    }
}

// Each attempt of a run counts its time from zero: the next one is shown a millisecond behind the
// last.
struct attempt_span {
    int32_t run, attempt;
    int64_t first, last, shift;
};

static int by_attempt(const void *a, const void *b)
{
    const struct attempt_span *x = a, *y = b;
    if (x->run != y->run)
        return x->run < y->run ? -1 : 1;
    return x->attempt < y->attempt ? -1 : x->attempt > y->attempt;
}

// A damaged file may hold any number; sums of these are exact also as the double of a JSON reader.
static int64_t clamped(int64_t ns, int64_t low)
{
    const int64_t high = (int64_t)1 << 50; // 13 days
    return ns < low ? low : ns > high ? high : ns;
}

static size_t find_attempts(const struct rec_event *e, size_t n, struct attempt_span *a, size_t max)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = found; // newest first: events of one attempt stand together
        while (k > 0 && (a[k - 1].run != e[i].run || a[k - 1].attempt != e[i].attempt))
            k--;
        if (k == 0) {
            if (found == max)
                continue;
            a[found++] = (struct attempt_span){e[i].run, e[i].attempt, INT64_MAX, INT64_MIN, 0};
            k = found;
        }
        int64_t begin = clamped(e[i].t_start_ns, -((int64_t)1 << 50));
        int64_t end = begin + clamped(e[i].dur_ns, 0);
        a[k - 1].first = begin < a[k - 1].first ? begin : a[k - 1].first;
        a[k - 1].last = end > a[k - 1].last ? end : a[k - 1].last;
    }
    if (found)
        qsort(a, found, sizeof *a, by_attempt);
    for (size_t k = 0; k < found; k++) {
        bool follows = k && a[k - 1].run == a[k].run;
        a[k].shift = follows ? a[k - 1].last + a[k - 1].shift + 1000000 - a[k].first : -a[k].first;
    }
    return found;
}

static void make_slices(struct chrome *c)
{
    enum { ATTEMPTS = 1024 };
    size_t n;
    const struct rec_event *e = report_rows(c->f, REC_EVENTS, &n);
    struct attempt_span *spans = mem_alloc(MEM_TRACE, ATTEMPTS * sizeof *spans);
    size_t n_spans = find_attempts(e, n, spans, ATTEMPTS);
    c->slices = mem_alloc(MEM_TRACE, (n + 1) * sizeof *c->slices);
    find_places(c, e, n);
    for (size_t i = 0; i < n; i++) {
        const struct attempt_span key = {.run = e[i].run, .attempt = e[i].attempt};
        const struct attempt_span *span =
            n_spans ? bsearch(&key, spans, n_spans, sizeof key, by_attempt) : NULL;
        c->slices[c->n++] = (struct slice){.pid = pid_of(c, &e[i]),
                                           .group = e[i].stage == STAGE_ROUND ? GROUP_ROUNDS
                                                    : of_server(&e[i])        ? GROUP_SERVER
                                                                              : GROUP_SHARED,
                                           .lane = (int32_t)stage_table[e[i].stage].lane,
                                           .ts = clamped(e[i].t_start_ns, -((int64_t)1 << 50)) +
                                                 (span ? span->shift : 0),
                                           .dur = clamped(e[i].dur_ns, 0),
                                           .event = &e[i]};
    }
    mem_free(spans);
    if (!c->n)
        return;
    qsort(c->slices, c->n, sizeof *c->slices, by_place);
    split_clients(c->slices, c->n);
    qsort(c->slices, c->n, sizeof *c->slices, by_place);
    stack_lanes(c->slices, c->n);
    number_threads(c->slices, c->n);
}

// Writing.

static void key_us(struct jsonw *j, const char *key, int64_t ns)
{
    jsonw_key(j, key);
    jsonw_num(j, (double)ns / 1000.0);
}

static void begin_event(struct jsonw *j, const char *phase, const char *name, int32_t pid,
                        int32_t tid)
{
    jsonw_object(j);
    j->compact = true; // an event per line
    jsonw_key_text(j, "ph", phase);
    jsonw_key_text(j, "name", name);
    jsonw_key_int(j, "pid", pid);
    jsonw_key_int(j, "tid", tid);
}

static void end_event(struct jsonw *j)
{
    jsonw_end(j);
    j->compact = false;
}

static void put_metadata(struct jsonw *j, const char *what, int32_t pid, int32_t tid,
                         const char *name)
{
    begin_event(j, "M", what, pid, tid);
    jsonw_key(j, "args");
    jsonw_object(j);
    jsonw_key_text(j, "name", name);
    jsonw_end(j);
    end_event(j);
}

static void put_sort_index(struct jsonw *j, const char *what, int32_t pid, int32_t tid, int64_t v)
{
    begin_event(j, "M", what, pid, tid);
    jsonw_key(j, "args");
    jsonw_object(j);
    jsonw_key_int(j, "sort_index", v);
    jsonw_end(j);
    end_event(j);
}

static void process_name(const struct chrome *c, const struct rec_event *e, char *out, size_t size)
{
    size_t n;
    const struct rec_rank *ranks = report_rows(c->f, REC_RANKS, &n);
    const char *role = "", *host = "";
    for (size_t i = 0; i < n; i++)
        if (ranks[i].rank == e->rank) {
            role = ranks[i].role;
            host = ranks[i].host;
        }
    int at = 0;
    if (report_run_count(c->f) > 1)
        at = snprintf(out, size, "run %d %.60s, ", e->run, report_method(c->f, e->run));
    snprintf(out + at, size - (size_t)at, "rank %d%s%s%s%s", e->rank, role[0] ? " " : "", role,
             host[0] ? " on " : "", host);
}

static void thread_name(const struct slice *s, char *out, size_t size)
{
    char who[32] = "", again[32] = "";
    if (s->track)
        snprintf(again, sizeof again, " (%d)", s->track + 1);
    if (s->group == GROUP_SERVER)
        snprintf(who, sizeof who, "server ");
    else if (s->group > 0)
        snprintf(who, sizeof who, "client %d ", s->event->client);
    if (s->group == GROUP_ROUNDS)
        snprintf(out, size, "rounds%s", again);
    else
        snprintf(out, size, "%s%s%s", who, lane_name[s->lane], again);
}

static void put_threads(struct chrome *c)
{
    char name[256];
    for (size_t i = 0; i < c->n; i++) {
        const struct slice *s = &c->slices[i];
        if (i == 0 || s->pid != s[-1].pid) {
            process_name(c, s->event, name, sizeof name);
            put_metadata(&c->j, "process_name", s->pid, 0, name);
            put_sort_index(&c->j, "process_sort_index", s->pid, 0, s->pid);
        }
        bool first = true; // of its thread: tracks of a lane are mixed in time
        for (size_t k = i; first && k > 0 && same_lane(&c->slices[k - 1], s); k--)
            first = c->slices[k - 1].track != s->track;
        if (!first)
            continue;
        thread_name(s, name, sizeof name);
        put_metadata(&c->j, "thread_name", s->pid, s->tid, name);
        put_sort_index(&c->j, "thread_sort_index", s->pid, s->tid, s->tid);
    }
}

static void put_slice(struct jsonw *j, const struct slice *s)
{
    const struct rec_event *e = s->event;
    const struct {
        const char *name;
        int64_t v;
    } args[] = {{"version", e->version},     {"client", e->client},
                {"cpu_ns", e->cpu_ns},       {"bytes_in", e->bytes_in},
                {"bytes_out", e->bytes_out}, {"energy_uj", e->energy_uj}};
    begin_event(j, "X", stage_table[e->stage].name, s->pid, s->tid);
    jsonw_key_text(j, "cat", e->flags & EVENT_MODELLED ? "modelled" : lane_name[s->lane]);
    key_us(j, "ts", s->ts);
    key_us(j, "dur", s->dur);
    jsonw_key(j, "args");
    jsonw_object(j);
    for (size_t i = 0; i < ARRAY_LEN(args); i++)
        if (args[i].v > 0 || (i < 2 && args[i].v >= 0))
            jsonw_key_int(j, args[i].name, args[i].v);
    jsonw_end(j);
    end_event(j);
}

// Arrows: from the end of a client's upload to the server's decoding of it.

static int by_update(const void *a, const void *b)
{
    const struct rec_event *x = (*(const struct slice *const *)a)->event;
    const struct rec_event *y = (*(const struct slice *const *)b)->event;
    const int32_t kx[] = {x->run, x->version, x->attempt, x->client};
    const int32_t ky[] = {y->run, y->version, y->attempt, y->client};
    for (size_t i = 0; i < ARRAY_LEN(kx); i++)
        if (kx[i] != ky[i])
            return kx[i] < ky[i] ? -1 : 1;
    return 0;
}

static void put_arrow_end(struct chrome *c, const char *phase, const struct slice *s, int64_t ts)
{
    begin_event(&c->j, phase, "update", s->pid, s->tid);
    jsonw_key_text(&c->j, "cat", "update");
    jsonw_key_int(&c->j, "id", c->flows);
    key_us(&c->j, "ts", ts);
    if (phase[0] == 'f')
        jsonw_key_text(&c->j, "bp", "e"); // to the slice around it
    end_event(&c->j);
}

static void put_arrow(struct chrome *c, const struct slice *up, const struct slice *decode)
{
    // Inside the upload, just before its end. The sender may note the end of an upload later than
    // the server has it: an arrow never points back.
    int64_t ts = up->ts + up->dur - 1;
    ts = ts > decode->ts ? decode->ts : ts;
    ts = ts < up->ts ? up->ts : ts;
    c->flows++;
    put_arrow_end(c, "s", up, ts);
    put_arrow_end(c, "f", decode, decode->ts > ts ? decode->ts : ts);
}

static void put_arrows(struct chrome *c)
{
    const struct slice **up = mem_alloc(MEM_TRACE, (c->n + 1) * sizeof *up);
    size_t n = 0;
    // Where nothing left the process there is no upload: then from the encoding.
    static const uint8_t origins[] = {STAGE_UPLOAD, STAGE_ENCODE};
    for (size_t o = 0; o < ARRAY_LEN(origins) && n == 0; o++)
        for (size_t i = 0; i < c->n; i++)
            if (c->slices[i].event->stage == origins[o])
                up[n++] = &c->slices[i];
    if (n)
        qsort(up, n, sizeof *up, by_update);
    for (size_t i = 0; n && i < c->n; i++) {
        const struct slice *decode = &c->slices[i];
        if (decode->event->stage != STAGE_DECODE)
            continue;
        const struct slice **hit = bsearch(&decode, up, n, sizeof *up, by_update);
        if (hit && (*hit)->ts <= decode->ts + decode->dur)
            put_arrow(c, *hit, decode);
    }
    mem_free(up);
}

// Counters: at the end of each round.

static void put_counter(struct jsonw *j, const char *name, int32_t pid, int64_t ts, const char *key,
                        double v)
{
    if (!isfinite(v))
        return;
    begin_event(j, "C", name, pid, 0);
    key_us(j, "ts", ts);
    jsonw_key(j, "args");
    jsonw_object(j);
    jsonw_key(j, key);
    jsonw_num(j, v);
    jsonw_end(j);
    end_event(j);
}

static void put_counters(struct chrome *c)
{
    size_t n;
    const struct rec_round *r = report_rows(c->f, REC_ROUNDS, &n);
    for (size_t i = 0, from = 0; i < c->n; i++) {
        const struct slice *s = &c->slices[i];
        if (s->event->stage != STAGE_ROUND)
            continue;
        // Rounds come in the order of their slices; begin where the last one was found.
        size_t k = 0;
        while (k < n && (r[(from + k) % n].run != s->event->run ||
                         r[(from + k) % n].version != s->event->version))
            k++;
        if (k == n)
            continue;
        from = (from + k) % n;
        int64_t ts = s->ts + s->dur;
        put_counter(&c->j, "uplink total", s->pid, ts, "bytes", (double)r[from].uplink_total_bytes);
        put_counter(&c->j, "uplink", s->pid, ts, "bytes", (double)r[from].uplink_bytes);
        put_counter(&c->j, "train loss", s->pid, ts, "loss", r[from].train_loss);
        put_counter(&c->j, "score", s->pid, ts, "score", r[from].score);
    }
}

// Modelled time: rounds end to end, each client's download, computation and upload.

static void put_modelled(struct jsonw *j, const char *name, int32_t pid, int32_t tid, int64_t ts,
                         int64_t dur, int32_t version, int64_t bytes)
{
    if (dur < 0)
        return;
    dur = clamped(dur, 0);
    begin_event(j, "X", name, pid, tid);
    jsonw_key_text(j, "cat", "modelled");
    key_us(j, "ts", ts);
    key_us(j, "dur", dur);
    jsonw_key(j, "args");
    jsonw_object(j);
    jsonw_key_int(j, "version", version);
    if (bytes >= 0)
        jsonw_key_int(j, "bytes", bytes);
    jsonw_end(j);
    end_event(j);
}

static void put_links_of(struct chrome *c, const struct rec_round *r, int32_t pid, int64_t start,
                         size_t *from, bool *named, int32_t named_cap)
{
    size_t n;
    const struct rec_link *l = report_rows(c->f, REC_LINKS, &n);
    int64_t down_end = 0;
    // Rows of a round stand together, a client's download before its upload.
    while (*from < n && (l[*from].run != r->run || l[*from].version < r->version))
        ++*from;
    for (; *from < n && l[*from].run == r->run && l[*from].version == r->version; ++*from) {
        const struct rec_link *x = &l[*from];
        if (x->client < 0 || x->client >= named_cap)
            continue;
        int32_t tid = x->client + 1;
        int64_t ready = clamped(x->t_ready_ns, 0), delivered = clamped(x->t_deliver_ns, 0);
        if (!named[x->client]) {
            char name[48];
            snprintf(name, sizeof name, "client %d", x->client);
            put_metadata(&c->j, "thread_name", pid, tid, name);
            named[x->client] = true;
        }
        if (x->up && x[-1].client == x->client && x > l)
            put_modelled(&c->j, "compute", pid, tid, start + down_end, ready - down_end, r->version,
                         -1);
        put_modelled(&c->j, x->up ? "upload" : "download", pid, tid, start + ready,
                     delivered - ready, r->version, x->bytes);
        down_end = delivered;
    }
}

static void name_model(struct jsonw *j, int32_t pid, int32_t run)
{
    char name[96];
    snprintf(name, sizeof name, "run %d, modelled time (not on the clock of the others)", run);
    put_metadata(j, "process_name", pid, 0, name);
    put_sort_index(j, "process_sort_index", pid, 0, pid);
    put_metadata(j, "thread_name", pid, 0, "rounds");
}

static void put_model_of_run(struct chrome *c, int32_t run, int32_t pid)
{
    enum { CLIENTS = 1 << 20 };
    size_t n, from = 0;
    const struct rec_round *r = report_rows(c->f, REC_ROUNDS, &n);
    int64_t start = 0;
    char name[256];
    bool *named = mem_alloc(MEM_TRACE, CLIENTS * sizeof *named);
    for (size_t i = 0; i < n; i++) {
        if (r[i].run != run || r[i].time_modelled_ns <= 0)
            continue;
        if (start == 0)
            name_model(&c->j, pid, run);
        snprintf(name, sizeof name, "round %d", r[i].version);
        put_modelled(&c->j, name, pid, 0, start, r[i].time_modelled_ns, r[i].version,
                     r[i].uplink_bytes);
        put_links_of(c, &r[i], pid, start, &from, named, CLIENTS);
        start = clamped(start + clamped(r[i].time_modelled_ns, 0), 0);
    }
    mem_free(named);
}

void export_chrome(const struct trace_file *f, FILE *out)
{
    struct chrome c = {.f = f};
    make_slices(&c);
    jsonw_begin(&c.j, out);
    jsonw_array(&c.j);
    put_threads(&c);
    for (size_t i = 0; i < c.n; i++)
        put_slice(&c.j, &c.slices[i]);
    put_arrows(&c);
    put_counters(&c);
    for (size_t i = 0; f->n[REC_LINKS] && i < report_run_count(f); i++)
        put_model_of_run(&c, report_run_id(f, i), MODEL_PID + (int32_t)i);
    jsonw_end(&c.j);
    mem_free(c.slices);
    mem_free(c.places);
}
