// All of MPI: the process's part (start, end, what it is) and the transport over it.
#include "net/comm_mpi.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/job.h"
#include "base/mem.h"
#include "net/transport.h"

#include <assert.h>
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

// A frame is one message, or, long and with a checksum, a head (told by its length: no whole frame
// is that short), its parts and a tail. The transport takes messages of any tag in their order: no
// raw ones may be under way while it polls.
enum { TAG_RAW = 11, TAG_FRAME = 12, TAG_PART = 13 };

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

// Each rank would be a job of its own: mpirun tells its own MPI how many there are, and no other.
static void check_launcher(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};
    for (size_t i = 0; i < ARRAY_LEN(names) && comm.size == 1; i++) {
        const char *told = getenv(names[i]);
        if (told && atoi(told) > 1)
            die(STATUS_ENV,
                "mpirun started %s ranks (%s), and this program's MPI sees itself alone: it is "
                "built for another MPI. Start it with that one's mpirun, or build it with "
                "MPI=openmpi or MPI=mpich",
                told, names[i]);
    }
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
    comm.local_cpus = mem_alloc(MEM_OTHER, (size_t)comm.local_size * sizeof cores);
    must(MPI_Allgather(&cores, (int)sizeof cores, MPI_BYTE, comm.local_cpus, (int)sizeof cores,
                       MPI_BYTE, local),
         "MPI_Allgather");
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
        signal(SIGPIPE, SIG_IGN); // Open MPI writes to the socket of a rank that died
        MPI_Comm_rank(MPI_COMM_WORLD, &comm.rank);
        MPI_Comm_size(MPI_COMM_WORLD, &comm.size);
        check_abort_hook(abort_hook);
        check_identity(comm.rank, comm.size, comm.host);
        if (level < MPI_THREAD_FUNNELED)
            die(STATUS_ENV, "this MPI library has no MPI_THREAD_FUNNELED");
        check_launcher();
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
static void spin_or_nap(int64_t t_begin_ns, int64_t until_ns, int64_t busy_ns)
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
        spin_or_nap(t_begin_ns, INT64_MAX, 0);
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

static void send_now(int to, const void *bytes, size_t n, int tag)
{
    MPI_Datatype type;
    int count = bytes_type(n, &type);
    must(MPI_Send(bytes, count, type, to, tag, MPI_COMM_WORLD), "MPI_Send");
    free_type(&type);
}

void comm_raw_send(int to, const void *bytes, size_t n)
{
    send_now(to, bytes, n, TAG_RAW);
}

void comm_stray(int to, const void *bytes, size_t n, bool part)
{
    send_now(to, bytes, n, part ? TAG_PART : TAG_FRAME);
}

void comm_raw_recv(int from, void *bytes, size_t n)
{
    MPI_Datatype type;
    int count = bytes_type(n, &type);
    must(MPI_Recv(bytes, count, type, from, TAG_RAW, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
         "MPI_Recv");
    free_type(&type);
}

// A frame that arrives in parts, hashed in their order.
struct arrival {
    struct netbuf *buf;
    size_t total, posted; // of its payload: bytes, and those that receives were started for
    size_t part;          // as long as its parts are, but the last one
    int64_t first_ns;     // when its head was here
    uint8_t tail[FRAME_TAIL_BYTES];
    bool moving;
    struct frame_hasher hasher;
    struct arrival *next; // spare ones
};

enum op_kind {
    OP_FRAME, // a message handed over by itself
    OP_PART,
    OP_TAIL,  // ends an arrival, whole or cut short
    OP_DRAIN, // a message nobody wants
};

// A send or a receive under way, or a message between endpoints of this rank. Nothing ever waits on
// one of them: a receive from a dead rank never completes and never fails, so all are tested in
// turn.
struct op {
    MPI_Request request;
    struct netbuf *buf;
    int src, dst;
    enum op_kind kind;
    enum frame_verdict verdict; // what the message's shape alone tells: only a header is kept
    struct arrival *arrival;
    uint8_t *bytes;   // where a part goes
    size_t n;         // on the wire
    int64_t first_ns; // of a receive: when its message was matched
    bool forgotten;   // the peer was given up; the bytes stay until MPI lets go of them
    bool moving;      // counted in n_moving
    struct op *next;
};

struct op_block {
    struct op_block *next;
    struct op op[64];
};

struct op_list {
    struct op *first, **last; // last: where the next one is linked in
};

struct peer {
    // The last pass in which a receive from it, or a send to it, was incomplete.
    uint32_t waits, send_waits;
    bool skips;           // parts that belong to no frame, until the next one begins
    struct arrival *open; // the frame whose parts come next
};

enum {
    RECEIVES_MAX = 1024, // a flood beyond it waits inside MPI
    SINK = 16 * 1024,    // where the bytes of a message that is too long go, piece by piece
};

struct mpi_state {
    struct op_list sends, receives, local;
    struct op *spare;
    struct op_block *blocks;
    struct arrival *spare_arrivals;
    struct peer *peer; // per rank
    uint32_t pass;
    int n_receives;
    int n_moving;    // sends and receives under way that nobody has given up
    int64_t busy_ns; // how long they may take
    uint8_t head[FRAME_HEAD_BYTES];
    struct op head_op; // its receive; while it is under way nothing else is begun
    uint8_t drain[FRAME_HEADER_BYTES + SINK];
};

static struct mpi_state *mpi_of(const struct transport *t)
{
    return t->state;
}

// A long message without single copy, or over TCP, is pieced through buffers by both sides' calls:
// naps would slow it down to a piece a nap (measured: 40 times). So a transfer may keep us awake
// for as long as 250 MB/s would need; a peer that computes meanwhile, or is dead, costs no more
// than that.
enum { MOVING_NS_PER_BYTE = 4 };

static void begin_moving(struct mpi_state *s, bool *moving, size_t bytes)
{
    int64_t now = clock_ns();
    s->busy_ns = (s->n_moving > 0 && s->busy_ns > now ? s->busy_ns : now) +
                 MOVING_NS_PER_BYTE * (int64_t)bytes;
    s->n_moving++;
    *moving = true;
}

static void end_moving(struct mpi_state *s, bool *moving)
{
    s->n_moving -= *moving;
    *moving = false;
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
    end_moving(s, &op->moving);
    op->next = s->spare;
    s->spare = op;
}

static void count_error(struct transport *t, const char *what, int peer, int rc)
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
    s->peer = mem_alloc(MEM_NET, (size_t)comm.size * sizeof *s->peer);
    s->head_op.request = MPI_REQUEST_NULL;
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

// One message out of b. Takes over a reference.
static void post_send(struct transport *t, int src, int dst, struct netbuf *b, const uint8_t *bytes,
                      size_t n, int tag)
{
    struct mpi_state *s = mpi_of(t);
    struct op *op = op_new(s, src, dst, b);
    MPI_Datatype type;
    int count = bytes_type(n, &type);
    int rc = MPI_Isend(bytes, count, type, dst, tag, MPI_COMM_WORLD, &op->request);
    free_type(&type);
    int done = 0;
    if (rc == MPI_SUCCESS) // short messages are gone at once
        rc = MPI_Test(&op->request, &done, MPI_STATUS_IGNORE);
    if (rc != MPI_SUCCESS)
        count_error(t, "cannot send to", dst, rc);
    if (rc == MPI_SUCCESS && !done) {
        list_add(&s->sends, op);
        begin_moving(s, &op->moving, n);
        return;
    }
    transport_unref(t, b);
    op_free(s, op);
}

static void post_ref(struct transport *t, int src, int dst, struct netbuf *b, const uint8_t *bytes,
                     size_t n, int tag)
{
    transport_ref(b);
    post_send(t, src, dst, b, bytes, n, tag);
}

static void hash_taken(struct netbuf *b, uint64_t hash)
{
    put_u64(b->bytes + FRAME_HEAD_BYTES, hash);
    b->payload_xxh3 = hash;
    b->hashed = true;
    b->hash_due = false;
}

// The hash is taken part by part behind the sends, so that it costs the receiver no time: it copies
// meanwhile, and hashes what it has just copied out of its cache.
static void send_in_parts(struct transport *t, int src, int dst, struct netbuf *b)
{
    struct frame_hasher hasher;
    size_t n = b->len - FRAME_HEADER_BYTES;
    const uint8_t *payload = b->bytes + FRAME_HEADER_BYTES;
    if (b->hash_due)
        frame_hasher_begin(&hasher);
    post_ref(t, src, dst, b, b->bytes, FRAME_HEAD_BYTES, TAG_FRAME);
    for (size_t at = 0; at < n; at += FRAME_PART_BYTES) {
        size_t part = n - at < FRAME_PART_BYTES ? n - at : FRAME_PART_BYTES;
        post_ref(t, src, dst, b, payload + at, part, TAG_PART);
        if (b->hash_due)
            frame_hasher_add(&hasher, payload + at, part);
    }
    if (b->hash_due)
        hash_taken(b, frame_hasher_end(&hasher));
    post_send(t, src, dst, b, b->bytes + FRAME_HEAD_BYTES, FRAME_TAIL_BYTES, TAG_PART);
}

static void mpi_send(struct transport *t, int src, int dst, struct netbuf *b, int64_t t_deliver_ns)
{
    (void)t_deliver_ns;
    struct mpi_state *s = mpi_of(t);
    if (comm.size == 1) {
        if (b->hash_due)
            hash_taken(b, frame_hash(netbuf_payload(b), b->len - FRAME_HEADER_BYTES));
        list_add(&s->local, op_new(s, src, dst, b));
    } else if ((b->hash_due || b->hashed) && b->len >= FRAME_HEADER_BYTES + FRAME_LONG_BYTES) {
        send_in_parts(t, src, dst, b);
    } else {
        post_send(t, src, dst, b, b->bytes, b->len, TAG_FRAME);
    }
}

// A frame that leaves at a pace: its head, short parts and its tail, or, short itself, as a whole.
static size_t mpi_piece(const struct netbuf *b, size_t at)
{
    size_t end = b->len - FRAME_TAIL_BYTES;
    if (!(b->bytes[FRAME_AT_FLAGS] & FRAME_PACED))
        return b->len;
    if (at == 0)
        return FRAME_HEAD_BYTES;
    if (at == end)
        return FRAME_TAIL_BYTES;
    return end - at < FRAME_PACED_PART_BYTES ? end - at : FRAME_PACED_PART_BYTES;
}

static void mpi_send_piece(struct transport *t, int src, int dst, struct netbuf *b, size_t at,
                           size_t n)
{
    size_t end = b->len - FRAME_TAIL_BYTES; // the payload lies behind the tail, and goes before it
    if (at == 0)
        post_send(t, src, dst, b, b->bytes, n, TAG_FRAME);
    else if (at < end)
        post_send(t, src, dst, b, b->bytes + at + FRAME_TAIL_BYTES, n, TAG_PART);
    else
        post_send(t, src, dst, b, b->bytes + FRAME_HEAD_BYTES, n, TAG_PART);
}

static void test_sends(struct transport *t)
{
    struct mpi_state *s = mpi_of(t);
    s->pass++;
    for (struct op **at = &s->sends.first; *at;) {
        struct op *op = *at;
        uint32_t *waits = &s->peer[op->dst].send_waits; // one test a receiver, not one per part
        int done = 0, rc = MPI_SUCCESS;
        if (op->forgotten || *waits != s->pass)
            rc = MPI_Test(&op->request, &done, MPI_STATUS_IGNORE);
        if (rc != MPI_SUCCESS)
            count_error(t, "cannot send to", op->dst, rc);
        if (rc == MPI_SUCCESS && !done) {
            *waits = op->forgotten ? *waits : s->pass;
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
    m->verdict = op->verdict;
    m->bytes = op->n;
    m->t_ns = clock_ns();
    m->first_ns = op->first_ns;
    op_free(s, op);
}

static struct arrival *arrival_new(struct mpi_state *s, struct netbuf *b, const struct frame *f)
{
    struct arrival *a = s->spare_arrivals;
    if (a)
        s->spare_arrivals = a->next;
    else
        a = mem_alloc(MEM_NET, sizeof *a);
    a->buf = b;
    a->total = (size_t)f->payload_bytes;
    a->part = frame_part_bytes(f->flags);
    a->posted = 0;
    a->first_ns = clock_ns();
    memset(a->tail, 0, sizeof a->tail);
    frame_hasher_begin(&a->hasher);
    if (!(f->flags & FRAME_PACED)) // whose sender is asleep most of the time
        begin_moving(s, &a->moving, a->total);
    return a;
}

static void arrival_free(struct mpi_state *s, struct arrival *a)
{
    end_moving(s, &a->moving);
    a->next = s->spare_arrivals;
    s->spare_arrivals = a;
}

static void end_arrival(struct mpi_state *s, struct op *op, struct net_msg *m)
{
    struct arrival *a = op->arrival;
    memcpy(a->buf->bytes + FRAME_HEAD_BYTES, a->tail, FRAME_TAIL_BYTES);
    m->hashed = true;
    m->payload_xxh3 = frame_hasher_end(&a->hasher);
    a->buf->len = FRAME_HEADER_BYTES + a->posted;
    op->buf = a->buf;
    op->first_ns = a->first_ns;
    op->n += FRAME_HEAD_BYTES + a->posted;
    arrival_free(s, a);
    hand_over(s, op, m);
}

// A receive is complete. True where that makes a message.
static bool received(struct transport *t, struct op *op, struct net_msg *m)
{
    struct mpi_state *s = mpi_of(t);
    switch (op->kind) {
    case OP_FRAME:
        hand_over(s, op, m);
        return true;
    case OP_TAIL:
        end_arrival(s, op, m);
        return true;
    case OP_PART:
        frame_hasher_add(&op->arrival->hasher, op->bytes, op->n);
        break;
    case OP_DRAIN:
        t->bytes_moved += (int64_t)op->n;
        break;
    }
    op_free(s, op);
    return false;
}

// Tests one receive. 1: complete, 0: not yet, -1: MPI gave it up.
static int test_receive(struct transport *t, struct op *op)
{
    int done = 0;
    int rc = MPI_Test(&op->request, &done, MPI_STATUS_IGNORE);
    if (rc == MPI_SUCCESS)
        return done != 0;
    count_error(t, "cannot receive from", op->src, rc);
    return -1;
}

// MPI lost a message. What it was part of ends where its tail would: as a damaged frame.
static void drop_receive(struct transport *t, struct op *op)
{
    if (op->kind == OP_TAIL) {
        transport_unref(t, op->arrival->buf);
        arrival_free(mpi_of(t), op->arrival);
    } else if (op->kind == OP_FRAME) {
        transport_unref(t, op->buf);
    }
    op_free(mpi_of(t), op);
}

// The oldest message that is complete. Order holds per sender: a short message that overtook a long
// one inside MPI waits for it, but nobody waits for another sender's. Without m messages stay, and
// only what goes into them is moved on.
static bool take_received(struct transport *t, struct net_msg *m)
{
    struct mpi_state *s = mpi_of(t);
    s->pass++;
    for (struct op **at = &s->receives.first; *at;) {
        struct op *op = *at;
        struct peer *from = &s->peer[op->src];
        int done = from->waits == s->pass ? 0 : test_receive(t, op);
        if (done == 0 || (!m && (op->kind == OP_FRAME || op->kind == OP_TAIL))) {
            from->waits = s->pass;
            at = &op->next;
            continue;
        }
        list_take(&s->receives, at);
        s->n_receives--;
        if (done < 0)
            drop_receive(t, op);
        else if (received(t, op, m))
            return true;
    }
    return false;
}

// The type of a message that is too long: its header goes to where it belongs, everything after it,
// piece by piece, into the same SINK bytes behind. Cutting it off (a shorter receive, which MPI
// answers with MPI_ERR_TRUNCATE) will not do: Open MPI 4.1 writes long messages past the end of
// such a buffer.
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

// A word about a frame that is not whole, in its turn: nothing is received for it any more.
static void queue_verdict(struct mpi_state *s, struct op *op, enum frame_verdict verdict)
{
    op->verdict = verdict;
    list_add(&s->receives, op); // its request is null, which is complete
    s->n_receives++;
}

// Starts the receive of a matched message of n bytes: to `bytes`, or, where op keeps no more than a
// header of it, to the sink behind that.
static void post_receive(struct transport *t, struct op *op, uint8_t *bytes, size_t n,
                         MPI_Message *message)
{
    struct mpi_state *s = mpi_of(t);
    bool sink = op->kind == OP_DRAIN || op->verdict != FRAME_GOOD;
    MPI_Datatype type;
    int count = 1;
    if (sink)
        type = sink_type(n);
    else
        count = bytes_type(n, &type);
    op->n = n;
    op->bytes = bytes;
    int rc = MPI_Imrecv(bytes, count, type, message, &op->request);
    free_type(&type);
    if (rc != MPI_SUCCESS) {
        count_error(t, "cannot receive from", op->src, rc);
        op->request = MPI_REQUEST_NULL;
        if (op->kind == OP_TAIL) // parts of it may still be on their way
            queue_verdict(s, op, FRAME_LENGTH);
        else
            drop_receive(t, op);
        return;
    }
    list_add(&s->receives, op);
    s->n_receives++;
    if (n > 4096 && op->kind != OP_PART) // shorter ones are here already; parts are counted as one
        begin_moving(s, &op->moving, n);
}

static struct op *new_receive(struct mpi_state *s, int src, enum op_kind kind, struct netbuf *b)
{
    struct op *op = op_new(s, src, comm.rank, b);
    op->kind = kind;
    op->first_ns = clock_ns();
    return op;
}

static void cut_short(struct mpi_state *s, int src, enum frame_verdict verdict)
{
    struct peer *from = &s->peer[src];
    if (!from->open)
        return;
    struct op *op = new_receive(s, src, OP_TAIL, NULL);
    op->arrival = from->open;
    from->open = NULL;
    queue_verdict(s, op, verdict);
}

// The head of a long frame is here. One that cannot be used is handed over by itself, before
// anything is allocated for the rest, and its parts are skipped.
static void take_head(struct transport *t, int src)
{
    struct mpi_state *s = mpi_of(t);
    struct peer *from = &s->peer[src];
    struct frame f;
    enum frame_verdict verdict = frame_open_head(s->head, &t->limits, &f);
    bool good = verdict == FRAME_GOOD;
    struct netbuf *b = transport_buf(t, good ? (size_t)f.payload_bytes : 0);
    memcpy(b->bytes, s->head, FRAME_HEAD_BYTES);
    memset(b->bytes + FRAME_HEAD_BYTES, 0, FRAME_TAIL_BYTES);
    from->skips = !good;
    if (good) {
        from->open = arrival_new(s, b, &f);
        return;
    }
    struct op *op = new_receive(s, src, OP_FRAME, b);
    b->len = FRAME_HEADER_BYTES;
    op->n = FRAME_HEAD_BYTES;
    queue_verdict(s, op, verdict);
}

// False while the head is on its way, which it never was: a matched message this short is here.
static bool finish_head(struct transport *t)
{
    struct op *op = &mpi_of(t)->head_op;
    if (op->request == MPI_REQUEST_NULL)
        return true;
    int done = test_receive(t, op);
    if (done > 0)
        take_head(t, op->src);
    else if (done < 0)
        op->request = MPI_REQUEST_NULL;
    return done != 0;
}

static bool start_head(struct transport *t, int src, MPI_Message *message)
{
    struct mpi_state *s = mpi_of(t);
    s->head_op.src = src;
    int rc = MPI_Imrecv(s->head, FRAME_HEAD_BYTES, MPI_BYTE, message, &s->head_op.request);
    if (rc != MPI_SUCCESS)
        count_error(t, "cannot receive from", src, rc);
    else
        finish_head(t);
    return true;
}

static bool start_frame(struct transport *t, int src, size_t n, MPI_Message *message)
{
    struct mpi_state *s = mpi_of(t);
    bool too_long = n > t->limits.max_payload_bytes + FRAME_HEADER_BYTES;
    size_t cap = n > FRAME_HEADER_BYTES ? n - FRAME_HEADER_BYTES : 0;
    struct netbuf *b = transport_buf(t, too_long ? SINK : cap);
    b->len = too_long ? FRAME_HEADER_BYTES : n;
    struct op *op = new_receive(s, src, OP_FRAME, b);
    op->verdict = too_long ? FRAME_TOO_LONG : FRAME_GOOD;
    s->peer[src].skips = false;
    post_receive(t, op, b->bytes, n, message);
    return true;
}

// A part has one length that fits. Any other ends its frame, and what belongs to none is drained;
// the first of those that follow no frame at all is reported.
static bool start_part(struct transport *t, int src, size_t n, MPI_Message *message)
{
    struct mpi_state *s = mpi_of(t);
    struct peer *from = &s->peer[src];
    struct arrival *a = from->open;
    size_t left = a ? a->total - a->posted : 0;
    size_t want = left == 0 ? FRAME_TAIL_BYTES : left > a->part ? a->part : left;
    if (!a || n != want) {
        cut_short(s, src, FRAME_LENGTH);
        bool stray = !a && !from->skips;
        from->skips = true;
        struct op *op = new_receive(s, src, OP_DRAIN, NULL);
        if (stray) {
            op->kind = OP_FRAME;
            op->verdict = FRAME_ALIEN;
            op->buf = transport_buf(t, 0);
            op->buf->len = FRAME_HEADER_BYTES;
            memset(op->buf->bytes, 0, FRAME_HEADER_BYTES);
        }
        post_receive(t, op, s->drain, n, message);
        return true;
    }
    struct op *op = new_receive(s, src, left ? OP_PART : OP_TAIL, NULL);
    uint8_t *bytes = a->buf->bytes + FRAME_HEADER_BYTES + a->posted;
    op->arrival = a;
    a->posted += left ? n : 0;
    if (!left) {
        from->open = NULL;
        bytes = a->tail;
    }
    post_receive(t, op, bytes, n, message);
    return true;
}

// Begins with one waiting message; false where there is none. A matched probe, not posted receives:
// the length is known before a buffer is chosen, so that nothing is allocated for a message that is
// longer than was agreed, and no worst-case buffer has to lie ready for every sender. A message
// that is too long must still be received, for it was matched: it goes down the sink.
static bool start_receive(struct transport *t)
{
    struct mpi_state *s = mpi_of(t);
    if (s->n_receives >= RECEIVES_MAX || !finish_head(t))
        return false;
    int found = 0;
    MPI_Message message;
    MPI_Status status;
    MPI_Count n = 0;
    int rc = MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &found, &message, &status);
    if (rc != MPI_SUCCESS)
        count_error(t, "cannot look for messages of", status.MPI_SOURCE, rc);
    if (rc != MPI_SUCCESS || !found)
        return false;
    MPI_Get_elements_x(&status, MPI_BYTE, &n);
    int src = status.MPI_SOURCE;
    if (status.MPI_TAG == TAG_PART)
        return start_part(t, src, (size_t)n, &message);
    cut_short(s, src, FRAME_LENGTH);
    return n == FRAME_HEAD_BYTES ? start_head(t, src, &message)
                                 : start_frame(t, src, (size_t)n, &message);
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
        spin_or_nap(t_begin_ns, until_ns, busy_until(mpi_of(t)));
    }
}

static void give_up(struct mpi_state *s, struct op *op)
{
    op->forgotten = true;
    end_moving(s, &op->moving);
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
    if (comm.size > 1 && s->peer[endpoint].open)
        end_moving(s, &s->peer[endpoint].open->moving);
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
        take_received(t, NULL);
        if (!start_receive(t))
            spin_or_nap(t_begin_ns, until_ns, busy_until(mpi_of(t)));
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

// A frame whose sender never came to its end. Parts under way are MPI's: leaked knowingly.
static void drop_arrival(struct transport *t, struct arrival *a)
{
    if (!a)
        return;
    for (const struct op *op = mpi_of(t)->receives.first; op; op = op->next)
        if (op->arrival == a)
            return;
    transport_unref(t, a->buf);
    arrival_free(mpi_of(t), a);
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
    for (int rank = 0; rank < comm.size; rank++)
        drop_arrival(t, s->peer[rank].open);
    drop_all(t, &s->sends, true);
    drop_all(t, &s->receives, true);
    drop_all(t, &s->local, false);
    while (s->spare_arrivals) {
        struct arrival *a = s->spare_arrivals;
        s->spare_arrivals = a->next;
        mem_free(a);
    }
    while (s->blocks) {
        struct op_block *block = s->blocks;
        s->blocks = block->next;
        mem_free(block);
    }
    mem_free(s->peer);
    mem_free(s);
}

const struct transport_row transport_mpi = {
    .name = "mpi",
    .hashes_long = true,
    .help = "real messages between ranks, point to point; one rank alone is server and worker",
    .open = mpi_open,
    .send = mpi_send,
    .piece = mpi_piece,
    .send_piece = mpi_send_piece,
    .poll = mpi_poll,
    .now = mpi_now,
    .hosts = mpi_hosts,
    .forget = mpi_forget,
    .flush = mpi_flush,
    .close = mpi_close,
};
