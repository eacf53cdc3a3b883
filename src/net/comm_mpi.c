// All of MPI: the process's part (start, end, what it is) and the transport over it.
#include "net/comm_mpi.h"

#include "base/clock.h"
#include "base/job.h"
#include "base/mem.h"
#include "net/transport.h"

#include <assert.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { TAG_RAW = 11, TAG_FRAME = 12 };

static struct comm comm = {.size = 1, .local_size = 1, .compute_local = 1};
static bool started, has_mpi, may_spin = true;

bool comm_launched(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK",  "PMI_RANK", "PMI_FD",
                                        "SLURM_PROCID",         "MPIRUN_RANK"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (getenv(names[i]))
            return true;
    return false;
}

static void must(int rc, const char *what)
{
    if (rc == MPI_SUCCESS)
        return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int len = 0;
    MPI_Error_string(rc, text, &len);
    die(STATUS_ENV, "%s failed: %s", what, text);
}

static void abort_hook(int status)
{
    // With recovery on, MPI_Abort ends this rank only. Without its rank 0 a job is over; without
    // another it has lost some clients.
    if (comm.rank == 0)
        job_leave_status(status);
    MPI_Abort(MPI_COMM_WORLD, status);
}

// Who shares this host, and whether there is a core for each of them. A rank bound to one core must
// not count only that one: the cores of all ranks here are joined.
static void find_neighbours(void)
{
    MPI_Comm local;
    must(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, comm.rank, MPI_INFO_NULL, &local),
        "MPI_Comm_split_type");
    MPI_Comm_rank(local, &comm.local_rank);
    MPI_Comm_size(local, &comm.local_size);
    int server_here = comm.rank == 0;
    must(MPI_Allreduce(MPI_IN_PLACE, &server_here, 1, MPI_INT, MPI_MAX, local), "MPI_Allreduce");
    comm.compute_local = comm.local_size - (comm.size > 1 ? server_here : 0);
    if (comm.compute_local < 1)
        comm.compute_local = 1;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof cores, &cores);
    must(MPI_Allreduce(MPI_IN_PLACE, &cores, (int)sizeof cores, MPI_BYTE, MPI_BOR, local),
         "MPI_Allreduce");
    int n_cores = CPU_COUNT(&cores);
    may_spin = comm.local_size <= n_cores;
    MPI_Comm_free(&local);
    char yields[32];
    if (!may_spin && comm.local_rank == 0 &&
        comm_cvar("mpi_yield_when_idle", yields, sizeof yields) && strcmp(yields, "1") != 0 &&
        strcmp(yields, "true") != 0)
        warn("%d ranks share %d cores on this host and mpi_yield_when_idle is off: ranks that wait "
             "inside MPI slow the others down; start with --oversubscribe or "
             "--mca mpi_yield_when_idle 1",
             comm.local_size, n_cores);
}

const struct comm *comm_start(int *argc, char ***argv)
{
    if (started)
        return &comm;
    started = true;
    gethostname(comm.host, sizeof comm.host - 1);
    if (comm_launched()) {
        int level;
        must(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &level), "MPI_Init_thread");
        has_mpi = true;
        MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
        MPI_Comm_rank(MPI_COMM_WORLD, &comm.rank);
        MPI_Comm_size(MPI_COMM_WORLD, &comm.size);
        check_abort_hook(abort_hook);
        check_identity(comm.rank, comm.size, comm.host);
        if (level < MPI_THREAD_FUNNELED)
            die(STATUS_ENV, "this MPI library has no MPI_THREAD_FUNNELED");
        find_neighbours();
        if (comm.rank == 0)
            job_report_up();
    } else {
        check_identity(0, 1, comm.host);
    }
    // Naps of 20 us are stretched by the default slack of 50 us.
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    return &comm;
}

const struct comm *comm_get(void)
{
    return &comm;
}

void comm_broadcast(void *bytes, size_t n)
{
    if (comm.size == 1)
        return;
    for (size_t at = 0; at < n;) {
        size_t part = n - at < 1u << 30 ? n - at : 1u << 30;
        must(MPI_Bcast((char *)bytes + at, (int)part, MPI_BYTE, 0, MPI_COMM_WORLD), "MPI_Bcast");
        at += part;
    }
}

enum { SPIN_NS = 200 * 1000, NAP_MIN_NS = 20 * 1000, NAP_MAX_NS = 500 * 1000 };

// Waiting takes turns: up to 200 us of spinning where every rank has a core, for the answer to a
// short message is faster than any sleep; then naps. Ranks that spin without cores of their own
// stretch the others' computing eightfold, and MPI_Recv spins for ever. A nap lasts 1/32 of the
// time waited so far, within 20 and 500 us, so that it lengthens no wait by more than a few per
// cent. Until busy_ns a transfer of our own is under way and moves only while we call MPI.
static void rest(int64_t t_begin_ns, int64_t until_ns, int64_t busy_ns)
{
    int64_t now = clock_ns(), waited = now - t_begin_ns;
    if (comm.size > 1 && (now < busy_ns || (may_spin && waited < SPIN_NS))) {
        if (!may_spin)
            sched_yield();
        return;
    }
    int64_t nap = waited / 32;
    nap = nap < NAP_MIN_NS ? NAP_MIN_NS : nap > NAP_MAX_NS ? NAP_MAX_NS : nap;
    clock_sleep_until(nap < until_ns - now ? now + nap : until_ns);
}

void comm_barrier(void)
{
    MPI_Request request;
    int done = 0;
    if (comm.size == 1)
        return;
    must(MPI_Ibarrier(MPI_COMM_WORLD, &request), "MPI_Ibarrier");
    for (int64_t t_begin_ns = clock_ns();;) {
        must(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
        if (done)
            return;
        rest(t_begin_ns, INT64_MAX, 0);
    }
}

void comm_exit(int status, int clean)
{
    fflush(NULL);
    if (comm.rank == 0)
        job_leave_status(status);
    if (has_mpi && !clean)
        _exit(status);
    if (has_mpi) {
        comm_barrier(); // MPI_Finalize would spin until the last one comes
        MPI_Finalize();
    }
    exit(status);
}

const char *comm_library_version(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int len = 0;
    if (!text[0])
        MPI_Get_library_version(text, &len);
    return text;
}

// One control variable as text; false where this library has none of that name.
bool comm_cvar(const char *name, char *out, size_t size)
{
    int level, index, verbosity, bind, scope, count, name_len = 0, desc_len = 0;
    MPI_Datatype type;
    MPI_T_enum names;
    MPI_T_cvar_handle handle;
    union {
        int i;
        unsigned u;
        unsigned long ul;
        char text[4096];
    } value = {.text = ""};
    bool known = false;
    if (MPI_T_init_thread(MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
        return false;
    if (MPI_T_cvar_get_index(name, &index) == MPI_SUCCESS &&
        MPI_T_cvar_get_info(index, NULL, &name_len, &verbosity, &type, &names, NULL, &desc_len,
                            &bind, &scope) == MPI_SUCCESS &&
        MPI_T_cvar_handle_alloc(index, NULL, &handle, &count) == MPI_SUCCESS) {
        known = count <= (int)sizeof value.text - 1 && (count == 1 || type == MPI_CHAR) &&
                MPI_T_cvar_read(handle, &value) == MPI_SUCCESS;
        MPI_T_cvar_handle_free(&handle);
    }
    if (known) {
        if (type == MPI_CHAR)
            snprintf(out, size, "%s", value.text);
        else if (type == MPI_INT)
            snprintf(out, size, "%d", value.i);
        else if (type == MPI_UNSIGNED)
            snprintf(out, size, "%u", value.u);
        else if (type == MPI_UNSIGNED_LONG || type == MPI_UNSIGNED_LONG_LONG)
            snprintf(out, size, "%lu", value.ul);
        else
            known = false;
    }
    MPI_T_finalize();
    return known;
}

int comm_describe(char *out, size_t size)
{
    static const char *const names[] = {"pml",
                                        "btl",
                                        "btl_tcp_if_include",
                                        "btl_tcp_if_exclude",
                                        "btl_tcp_eager_limit",
                                        "btl_vader_eager_limit",
                                        "btl_vader_single_copy_mechanism",
                                        "mpi_yield_when_idle"};
    size_t at = 0;
    int level;
    if (size)
        out[0] = '\0';
    // Held open over all of them: each first start of MPI_T takes a quarter of a second.
    bool held = MPI_T_init_thread(MPI_THREAD_FUNNELED, &level) == MPI_SUCCESS;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char value[256];
        if (!comm_cvar(names[i], value, sizeof value))
            continue;
        int n = snprintf(out + at, size - at, "%s=%s\n", names[i], value);
        if (n < 0 || (size_t)n >= size - at)
            break;
        at += (size_t)n;
    }
    if (held)
        MPI_T_finalize();
    return (int)at;
}

// MPI 3.1 counts in int. Beyond 1 GiB a message is one element of a made-up type of so many MiB and
// the rest, whose signature is still that many bytes. The type may be freed as soon as it is in
// use.
enum { MIB = 1 << 20, COUNT_MAX = 1 << 30 };

static int bytes_type(size_t n, MPI_Datatype *type)
{
    *type = MPI_BYTE;
    if (n <= COUNT_MAX)
        return (int)n;
    MPI_Datatype mib;
    MPI_Type_contiguous(MIB, MPI_BYTE, &mib);
    int lengths[2] = {(int)(n / MIB), (int)(n % MIB)};
    MPI_Aint at[2] = {0, (MPI_Aint)(n / MIB * MIB)};
    MPI_Datatype types[2] = {mib, MPI_BYTE};
    MPI_Type_create_struct(2, lengths, at, types, type);
    MPI_Type_commit(type);
    MPI_Type_free(&mib);
    return 1;
}

static void free_type(MPI_Datatype *type)
{
    if (*type != MPI_BYTE)
        MPI_Type_free(type);
}

void comm_raw_send(int to, const void *bytes, size_t n)
{
    MPI_Datatype type;
    int count = bytes_type(n, &type);
    must(MPI_Send(bytes, count, type, to, TAG_RAW, MPI_COMM_WORLD), "MPI_Send");
    free_type(&type);
}

void comm_raw_recv(int from, void *bytes, size_t n)
{
    MPI_Datatype type;
    int count = bytes_type(n, &type);
    must(MPI_Recv(bytes, count, type, from, TAG_RAW, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
         "MPI_Recv");
    free_type(&type);
}

// A send or a receive under way, or a message between endpoints of this rank. Nothing ever waits on
// one of them: a receive from a dead rank never completes and never fails, so all are tested in
// turn.
struct op {
    MPI_Request request;
    struct netbuf *buf;
    int src, dst;
    bool forgotten; // the peer was given up; the bytes stay until MPI lets go of them
    bool too_long;  // only the header is kept
    bool moving;    // counted in n_moving
    struct op *next;
};

struct op_block {
    struct op_block *next;
    struct op op[64];
};

struct op_list {
    struct op *first, **last; // last: where the next one is linked in
};

struct mpi_state {
    struct op_list sends, receives, local;
    struct op *spare;
    struct op_block *blocks;
    uint32_t *waits; // per rank: the last pass in which a receive from it was incomplete
    uint32_t pass;
    int n_receives;
    int n_moving;    // sends and receives under way that nobody has given up
    int64_t busy_ns; // how long they may take
};

enum { RECEIVES_MAX = 1024 }; // a flood beyond it waits inside MPI

static struct mpi_state *mpi_of(const struct transport *t)
{
    return t->state;
}

// A long message without single copy, or over TCP, is pieced through buffers by both sides' calls:
// naps would slow it down to a piece a nap (measured: 40 times). So a transfer may keep us awake
// for as long as 250 MB/s would need; a peer that computes meanwhile, or is dead, costs no more
// than that.
enum { MOVING_NS_PER_BYTE = 4 };

static void moves(struct mpi_state *s, struct op *op, size_t bytes)
{
    int64_t now = clock_ns();
    s->busy_ns = (s->n_moving > 0 && s->busy_ns > now ? s->busy_ns : now) +
                 MOVING_NS_PER_BYTE * (int64_t)bytes;
    s->n_moving++;
    op->moving = true;
}

static int64_t busy_until(const struct mpi_state *s)
{
    return s->n_moving > 0 ? s->busy_ns : 0;
}

static void list_init(struct op_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void list_add(struct op_list *l, struct op *op)
{
    op->next = NULL;
    *l->last = op;
    l->last = &op->next;
}

// Takes out the element that *at links to.
static struct op *list_take(struct op_list *l, struct op **at)
{
    struct op *op = *at;
    *at = op->next;
    if (l->last == &op->next)
        l->last = at;
    return op;
}

static struct op *op_new(struct mpi_state *s, int src, int dst, struct netbuf *b)
{
    if (!s->spare) {
        struct op_block *block = mem_alloc(MEM_NET, sizeof *block);
        block->next = s->blocks;
        s->blocks = block;
        for (size_t i = 0; i < ARRAY_LEN(block->op); i++) {
            block->op[i].next = s->spare;
            s->spare = &block->op[i];
        }
    }
    struct op *op = s->spare;
    s->spare = op->next;
    *op = (struct op){.request = MPI_REQUEST_NULL, .buf = b, .src = src, .dst = dst};
    return op;
}

static void op_free(struct mpi_state *s, struct op *op)
{
    s->n_moving -= op->moving;
    op->next = s->spare;
    s->spare = op;
}

static void lost(struct transport *t, const char *what, int peer, int rc)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int len = 0;
    MPI_Error_string(rc, text, &len);
    if (t->mpi_errors++ == 0)
        warn("%s rank %d: %s (later ones are counted only)", what, peer, text);
}

static int mpi_open(struct transport *t, struct err *err)
{
    (void)err;
    struct mpi_state *s = mem_alloc(MEM_NET, sizeof *s);
    list_init(&s->sends);
    list_init(&s->receives);
    list_init(&s->local);
    s->waits = mem_alloc(MEM_NET, (size_t)comm.size * sizeof *s->waits);
    t->state = s;
    t->n_endpoints = comm.size > 1 ? comm.size : 2;
    return 0;
}

// With one rank it hosts the server and one worker; else every rank hosts the endpoint of its
// number.
static bool mpi_hosts(const struct transport *t, int endpoint)
{
    return comm.size == 1 ? endpoint < t->n_endpoints : endpoint == comm.rank;
}

static int64_t mpi_now(const struct transport *t)
{
    (void)t;
    return clock_ns();
}

static void mpi_send(struct transport *t, int src, int dst, struct netbuf *b, int64_t t_deliver_ns)
{
    (void)t_deliver_ns;
    struct mpi_state *s = mpi_of(t);
    struct op *op = op_new(s, src, dst, b);
    if (comm.size == 1) {
        list_add(&s->local, op);
        return;
    }
    MPI_Datatype type;
    int count = bytes_type(b->len, &type);
    int rc = MPI_Isend(b->bytes, count, type, dst, TAG_FRAME, MPI_COMM_WORLD, &op->request);
    free_type(&type);
    int done = 0;
    if (rc == MPI_SUCCESS) // short messages are gone at once
        rc = MPI_Test(&op->request, &done, MPI_STATUS_IGNORE);
    if (rc != MPI_SUCCESS)
        lost(t, "cannot send to", dst, rc);
    if (rc == MPI_SUCCESS && !done) {
        list_add(&s->sends, op);
        moves(s, op, b->len);
        return;
    }
    transport_unref(t, b);
    op_free(s, op);
}

static void test_sends(struct transport *t)
{
    struct mpi_state *s = mpi_of(t);
    for (struct op **at = &s->sends.first; *at;) {
        struct op *op = *at;
        int done = 0;
        int rc = MPI_Test(&op->request, &done, MPI_STATUS_IGNORE);
        if (rc != MPI_SUCCESS)
            lost(t, "cannot send to", op->dst, rc);
        if (rc == MPI_SUCCESS && !done) {
            at = &op->next;
            continue;
        }
        list_take(&s->sends, at);
        transport_unref(t, op->buf);
        op_free(s, op);
    }
}

static void hand_over(struct mpi_state *s, struct op *op, struct net_msg *m)
{
    m->src = op->src;
    m->dst = op->dst;
    m->buf = op->buf;
    m->verdict = op->too_long ? FRAME_TOO_LONG : FRAME_GOOD;
    m->t_ns = clock_ns();
    op_free(s, op);
}

// Tests one receive. 1: complete, 0: not yet, -1: MPI gave it up.
static int test_receive(struct transport *t, struct op *op)
{
    int done = 0;
    int rc = MPI_Test(&op->request, &done, MPI_STATUS_IGNORE);
    if (rc == MPI_SUCCESS)
        return done != 0;
    lost(t, "cannot receive from", op->src, rc);
    return -1;
}

// The oldest complete receive. Order holds per sender: a short message that overtook a long one
// inside MPI waits for it, but nobody waits for another sender's.
static bool take_received(struct transport *t, struct net_msg *m)
{
    struct mpi_state *s = mpi_of(t);
    s->pass++;
    for (struct op **at = &s->receives.first; *at;) {
        struct op *op = *at;
        if (s->waits[op->src] == s->pass) {
            at = &op->next;
            continue;
        }
        int done = test_receive(t, op);
        if (done == 0) {
            s->waits[op->src] = s->pass;
            at = &op->next;
            continue;
        }
        list_take(&s->receives, at);
        s->n_receives--;
        if (done > 0) {
            hand_over(s, op, m);
            return true;
        }
        transport_unref(t, op->buf);
        op_free(s, op);
    }
    return false;
}

// The type of a message that is too long: its header goes to where it belongs, everything after it,
// piece by piece, into the same SINK bytes behind. Cutting it off (a shorter receive, which MPI
// answers with MPI_ERR_TRUNCATE) will not do: Open MPI 4.1 writes long messages past the end of
// such a buffer.
enum { SINK = 16 * 1024 };

static MPI_Datatype sink_type(size_t n)
{
    size_t head = n < FRAME_HEADER_BYTES ? n : FRAME_HEADER_BYTES, rest = n - head;
    MPI_Datatype piece, pieces, type;
    MPI_Type_contiguous(SINK, MPI_BYTE, &piece);
    MPI_Type_create_hvector((int)(rest / SINK), 1, 0, piece, &pieces);
    int lengths[3] = {(int)head, 1, (int)(rest % SINK)};
    MPI_Aint at[3] = {0, FRAME_HEADER_BYTES, FRAME_HEADER_BYTES};
    MPI_Datatype types[3] = {MPI_BYTE, pieces, MPI_BYTE};
    MPI_Type_create_struct(3, lengths, at, types, &type);
    MPI_Type_commit(&type);
    MPI_Type_free(&pieces);
    MPI_Type_free(&piece);
    return type;
}

// Starts to receive one waiting message; false when there is none. A matched probe, not posted
// receives: the length is known before a buffer is chosen, so that nothing is allocated for a
// message that is longer than was agreed, and no worst-case buffer has to lie ready for every
// sender. A message that is too long must still be received, for it was matched: all but its header
// goes down the sink.
static bool start_receive(struct transport *t)
{
    struct mpi_state *s = mpi_of(t);
    int found = 0;
    MPI_Message message;
    MPI_Status status;
    if (s->n_receives >= RECEIVES_MAX)
        return false;
    int rc = MPI_Improbe(MPI_ANY_SOURCE, TAG_FRAME, MPI_COMM_WORLD, &found, &message, &status);
    if (rc != MPI_SUCCESS)
        lost(t, "cannot probe for messages at", comm.rank, rc);
    if (rc != MPI_SUCCESS || !found)
        return false;
    MPI_Count n = 0;
    MPI_Get_elements_x(&status, MPI_BYTE, &n);
    bool too_long = (uint64_t)n > t->limits.max_payload_bytes + FRAME_HEADER_BYTES;
    size_t cap = too_long ? FRAME_HEADER_BYTES + SINK : (size_t)n;
    struct netbuf *b = transport_buf(t, cap > FRAME_HEADER_BYTES ? cap - FRAME_HEADER_BYTES : 0);
    b->len = too_long ? FRAME_HEADER_BYTES : (size_t)n;
    struct op *op = op_new(s, status.MPI_SOURCE, comm.rank, b);
    op->too_long = too_long;
    MPI_Datatype type;
    int count = 1;
    if (too_long)
        type = sink_type((size_t)n);
    else
        count = bytes_type((size_t)n, &type);
    rc = MPI_Imrecv(b->bytes, count, type, &message, &op->request);
    free_type(&type);
    if (rc != MPI_SUCCESS) {
        lost(t, "cannot receive from", op->src, rc);
        transport_unref(t, b);
        op_free(s, op);
        return true;
    }
    list_add(&s->receives, op);
    s->n_receives++;
    if (n > 4096) // shorter ones are here already
        moves(s, op, (size_t)n);
    return true;
}

static bool take_local(struct transport *t, struct net_msg *m)
{
    struct mpi_state *s = mpi_of(t);
    if (!s->local.first)
        return false;
    hand_over(s, list_take(&s->local, &s->local.first), m);
    return true;
}

static bool take(struct transport *t, struct net_msg *m)
{
    if (comm.size == 1)
        return take_local(t, m);
    if (mpi_of(t)->sends.first)
        test_sends(t);
    if (mpi_of(t)->receives.first && take_received(t, m))
        return true;
    while (start_receive(t))
        if (take_received(t, m))
            return true;
    return false;
}

static bool mpi_poll(struct transport *t, struct net_msg *m, int64_t until_ns)
{
    for (int64_t t_begin_ns = 0;;) {
        if (take(t, m))
            return true;
        int64_t now = clock_ns();
        if (now >= until_ns)
            return false;
        if (t_begin_ns == 0)
            t_begin_ns = now;
        rest(t_begin_ns, until_ns, busy_until(mpi_of(t)));
    }
}

static void give_up(struct mpi_state *s, struct op *op)
{
    op->forgotten = true;
    s->n_moving -= op->moving;
    op->moving = false;
}

// A send to a rank that died may never complete, and its bytes belong to MPI until it does: they
// are put aside, tested now and then, and come back to the pool if MPI ever lets go. (MPI_Cancel
// frees a send at once where the library can; Open MPI ignores it for sends.)
static void mpi_forget(struct transport *t, int endpoint)
{
    struct mpi_state *s = mpi_of(t);
    for (struct op *op = s->sends.first; op; op = op->next) {
        if (op->dst == endpoint && !op->forgotten) {
            give_up(s, op);
            MPI_Cancel(&op->request);
        }
    }
    for (struct op *op = s->receives.first; op; op = op->next)
        if (op->src == endpoint)
            give_up(s, op);
    for (struct op **at = &s->local.first; *at;) {
        if ((*at)->dst != endpoint) {
            at = &(*at)->next;
            continue;
        }
        struct op *op = list_take(&s->local, at);
        transport_unref(t, op->buf);
        op_free(s, op);
    }
}

// Receives go on meanwhile (into the list, for a later poll): two ranks that flush long messages to
// each other would wait for ever otherwise.
static bool mpi_flush(struct transport *t, int64_t until_ns)
{
    struct mpi_state *s = mpi_of(t);
    int64_t t_begin_ns = clock_ns();
    for (;;) {
        test_sends(t);
        bool waiting = false;
        for (const struct op *op = s->sends.first; op; op = op->next)
            waiting |= !op->forgotten;
        if (!waiting)
            return true;
        if (clock_ns() >= until_ns)
            return false;
        if (!start_receive(t))
            rest(t_begin_ns, until_ns, busy_until(mpi_of(t)));
    }
}

static void drop_all(struct transport *t, struct op_list *l, bool in_mpi)
{
    while (l->first) {
        struct op *op = list_take(l, &l->first);
        if (!in_mpi)
            transport_unref(
                t, op->buf); // else its bytes may still be read or written: leaked knowingly
        op_free(mpi_of(t), op);
    }
}

static void mpi_close(struct transport *t, bool clean)
{
    struct mpi_state *s = mpi_of(t);
    if (clean && comm.size > 1) {
        mpi_flush(t, clock_ns() + 1000000000);
        struct net_msg m; // what has arrived and nobody asked for
        while (take(t, &m))
            transport_unref(t, m.buf);
    }
    drop_all(t, &s->sends, true);
    drop_all(t, &s->receives, true);
    drop_all(t, &s->local, false);
    while (s->blocks) {
        struct op_block *block = s->blocks;
        s->blocks = block->next;
        mem_free(block);
    }
    mem_free(s->waits);
    mem_free(s);
}

const struct transport_row transport_mpi = {
    .name = "mpi",
    .help = "real messages between ranks, point to point; one rank alone is server and worker",
    .open = mpi_open,
    .send = mpi_send,
    .poll = mpi_poll,
    .now = mpi_now,
    .hosts = mpi_hosts,
    .forget = mpi_forget,
    .flush = mpi_flush,
    .close = mpi_close,
};
