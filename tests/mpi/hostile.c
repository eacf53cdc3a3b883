// What must not hurt the transport over ranks:
//   hostile frames   rank 1 sends what is too long, forged, damaged or no frame at all
//   hostile parts    rank 1 sends long frames whose parts are damaged, missing, foreign, mixed up
//   hostile torn     the last rank kills itself between the parts of one; the others go on
//   hostile forget   rank 1 does not listen for a while; what is sent to it is given up
//   hostile huge     a frame whose length is beyond MPI's comfortable counts
//   hostile dead     the last rank kills itself; the others go on (mpirun with
//   orte_enable_recovery)
// Prints TAP on rank 0.
#include "base/bytes.h"
#include "base/clock.h"
#include "base/mem.h"
#include "net/comm_mpi.h"
#include "net/transport.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { SECOND = 1000000000 };

static struct net_params params;
static struct transport t;
static int n_tests, n_failed;

static void ok(bool good, const char *what)
{
    n_failed += !good;
    printf("%sok %d - %s\n", good ? "" : "not ", ++n_tests, what);
    fflush(stdout);
}

static struct netbuf *make(size_t n, uint32_t version)
{
    struct netbuf *b = transport_buf(&t, n);
    memset(netbuf_payload(b), (int)version, n);
    return b;
}

static void post(int dst, struct netbuf *b, uint8_t kind, size_t n, uint32_t version)
{
    struct frame f = {.kind = kind, .client = 7, .version = version, .payload_bytes = n};
    transport_send(&t, comm_get()->rank, dst, &f, b, 0);
    transport_unref(&t, b);
}

// Past the sealing: bytes as they are.
static void post_raw(int dst, struct netbuf *b)
{
    t.row->send(&t, comm_get()->rank, dst, b, 0);
}

static bool take(struct net_msg *m, double seconds)
{
    return transport_poll(&t, m, transport_now(&t) + (int64_t)(seconds * SECOND));
}

enum { LIMIT = 1000 };

static const struct {
    const char *name;
    enum frame_verdict want;
} hostile[] = {
    {"a good frame", FRAME_GOOD},
    {"a payload one byte over the limit", FRAME_TOO_LONG},
    {"8 MiB where 1000 bytes were agreed", FRAME_TOO_LONG},
    {"a long message that says it is short", FRAME_TOO_LONG},
    {"an empty message", FRAME_SHORT},
    {"63 bytes", FRAME_SHORT},
    {"64 bytes of noise", FRAME_ALIEN},
    {"a flipped bit in the header", FRAME_GARBLED},
    {"a flipped bit in the payload", FRAME_PAYLOAD},
    {"a tail cut off", FRAME_LENGTH},
    {"a payload at the limit", FRAME_GOOD},
};

static void send_hostile(uint32_t i)
{
    size_t n = i == 1 ? LIMIT + 1 : i == 2 || i == 3 ? 8 << 20 : i == 10 ? LIMIT : 500;
    struct netbuf *b = make(n, i);
    struct frame f = {.kind = FRAME_UPDATE, .client = 7, .version = i, .payload_bytes = n};
    if (i <= 2 || i == 10) {
        post(0, b, FRAME_UPDATE, n, i);
        return;
    }
    f.flags = FRAME_CHECKSUM;
    if (i == 3)
        f.payload_bytes = 10;
    frame_seal(&f, b->bytes, netbuf_payload(b));
    b->len = i == 4 ? 0 : i == 5 ? 63 : i == 6 ? 64 : FRAME_HEADER_BYTES + n - (i == 9);
    if (i == 6)
        memset(b->bytes, 0xab, 64);
    if (i == 7)
        b->bytes[20] ^= 4;
    if (i == 8)
        b->bytes[FRAME_HEADER_BYTES + 99] ^= 4;
    post_raw(0, b);
}

static void receive_hostile(void)
{
    size_t booked = mem_now(MEM_NET);
    for (uint32_t i = 0; i < ARRAY_LEN(hostile); i++) {
        struct net_msg m;
        char what[160];
        bool good = take(&m, 20);
        snprintf(what, sizeof what, "%s: %s", hostile[i].name,
                 good ? frame_verdict_name[m.verdict] : "never came");
        bool readable = i <= 2 || i >= 8; // its header can be believed
        ok(good && m.verdict == hostile[i].want && m.src == 1 &&
               (m.verdict == FRAME_GOOD) == (m.payload != NULL) &&
               (!readable || (m.frame.version == i && m.frame.client == 7)),
           what);
        if (good)
            transport_unref(&t, m.buf);
    }
    ok(mem_now(MEM_NET) - booked < 200000, "nothing was allocated for the long ones");
    ok(t.mpi_errors == 0, "none of it is an error of MPI");
}

static void frames(void)
{
    t.limits.max_payload_bytes = LIMIT;
    if (comm_get()->rank == 0) {
        receive_hostile();
        post(1, make(0, 0), FRAME_STOP, 0, 0);
        ok(transport_flush(&t, transport_now(&t) + SECOND), "the last word leaves");
        return;
    }
    for (uint32_t i = 0; i < ARRAY_LEN(hostile); i++)
        send_hostile(i);
    struct net_msg m;
    if (!take(&m, 30))
        die(STATUS_CHECK, "rank 0 did not answer");
    transport_unref(&t, m.buf);
}

// A long frame, in pieces: what rank 1 does to them, and what rank 0 must make of it. Every frame
// that is not good is followed by a good short one, which must come through.
enum { PARTS_PAYLOAD = 2 * FRAME_PART_BYTES + 12345, PARTS_LIMIT = 3 * FRAME_PART_BYTES };
enum { HEAD_FLIP = 1, PART_FLIP, TAIL_FLIP, PART_GONE, TAIL_GONE, PART_TWICE, PARTS_SWAPPED };
enum { PART_SHORTER = PARTS_SWAPPED + 1, PART_LONGER, PART_HUGE, TAIL_LONGER, OVER_LIMIT };
enum { OTHER_SHAPE = OVER_LIMIT + 1, NO_HEAD, FRAME_BETWEEN, FRAME_EMPTY, FRAME_FORGED };

static const struct {
    const char *name;
    enum frame_verdict want;
    int what;
} broken[] = {
    {"a long frame", FRAME_GOOD, 0},
    {"a flipped bit in the head", FRAME_GARBLED, HEAD_FLIP},
    {"a flipped bit in a part", FRAME_PAYLOAD, PART_FLIP},
    {"a flipped bit in the hash behind", FRAME_PAYLOAD, TAIL_FLIP},
    {"a part left out", FRAME_LENGTH, PART_GONE},
    {"the hash left out", FRAME_LENGTH, TAIL_GONE},
    {"a part twice", FRAME_LENGTH, PART_TWICE},
    {"two parts in the wrong order", FRAME_PAYLOAD, PARTS_SWAPPED},
    {"a part one byte shorter", FRAME_LENGTH, PART_SHORTER},
    {"a part one byte longer", FRAME_LENGTH, PART_LONGER},
    {"a part of 32 MiB", FRAME_LENGTH, PART_HUGE},
    {"nine bytes of hash", FRAME_LENGTH, TAIL_LONGER},
    {"a head that announces too much", FRAME_TOO_LONG, OVER_LIMIT},
    {"a head of another shape", FRAME_REGISTRY, OTHER_SHAPE},
    {"parts without a head", FRAME_ALIEN, NO_HEAD},
    {"a short frame between the parts", FRAME_LENGTH, FRAME_BETWEEN},
    {"no parts at all, and no payload", FRAME_GOOD, FRAME_EMPTY},
    {"parts of a frame that says it has one byte", FRAME_LENGTH, FRAME_FORGED},
    {"a long frame after all this", FRAME_GOOD, 0},
};

static void send_head(const struct frame *f, int what)
{
    uint8_t header[FRAME_HEADER_BYTES];
    frame_write(f, header);
    header[21] ^= what == HEAD_FLIP ? 4 : 0;
    comm_stray(0, header, FRAME_HEAD_BYTES, false);
}

static void send_broken(uint32_t i, struct netbuf *b, uint8_t *huge)
{
    int what = broken[i].what;
    uint8_t *payload = netbuf_payload(b), tail[FRAME_TAIL_BYTES + 1] = {0};
    struct frame f = {.kind = FRAME_EVENTS,
                      .flags = FRAME_CHECKSUM,
                      .client = 7,
                      .version = i,
                      .registry = what == OTHER_SHAPE ? 9 : 0,
                      .payload_bytes = PARTS_PAYLOAD};
    size_t sizes[3] = {FRAME_PART_BYTES, FRAME_PART_BYTES, PARTS_PAYLOAD - 2 * FRAME_PART_BYTES};
    if (what == OVER_LIMIT)
        f.payload_bytes = PARTS_LIMIT + 1;
    if (what == FRAME_FORGED || what == FRAME_EMPTY)
        f.payload_bytes = what == FRAME_FORGED;
    put_u64(tail, frame_hash(payload, what == FRAME_EMPTY ? 0 : PARTS_PAYLOAD));
    sizes[1] += what == PART_LONGER ? 1 : what == PART_SHORTER ? (size_t)-1 : 0;
    payload[FRAME_PART_BYTES + 3] ^= what == PART_FLIP ? 8 : 0;
    tail[5] ^= what == TAIL_FLIP ? 8 : 0;
    if (what != NO_HEAD)
        send_head(&f, what);
    for (int k = 0; k < 3 && what != FRAME_EMPTY; k++) {
        int j = what == PARTS_SWAPPED && k < 2 ? 1 - k : k;
        if (what == PART_GONE && k == 1)
            continue;
        if (what == PART_HUGE && k == 1) {
            comm_stray(0, huge, 32 << 20, true);
            continue;
        }
        if (what == FRAME_BETWEEN && k == 1)
            post(0, make(10, i), FRAME_BYE, 10, i);
        comm_stray(0, payload + (size_t)j * FRAME_PART_BYTES, sizes[j], true);
        if (what == PART_TWICE && k == 0)
            comm_stray(0, payload, sizes[0], true);
    }
    if (what != TAIL_GONE)
        comm_stray(0, tail, FRAME_TAIL_BYTES + (what == TAIL_LONGER), true);
    payload[FRAME_PART_BYTES + 3] ^= what == PART_FLIP ? 8 : 0;
    if (what != 0 && what != FRAME_BETWEEN && what != FRAME_EMPTY)
        post(0, make(10, i), FRAME_BYE, 10, i);
}

static bool followed(uint32_t i)
{
    struct net_msg m;
    if (!take(&m, 20))
        return false;
    bool good = m.verdict == FRAME_GOOD && m.frame.kind == FRAME_BYE && m.frame.version == i;
    transport_unref(&t, m.buf);
    return good;
}

static void receive_broken(uint32_t i)
{
    struct net_msg m;
    char what[160];
    bool good = take(&m, 20);
    snprintf(what, sizeof what, "%s: %s", broken[i].name,
             good ? frame_verdict_name[m.verdict] : "never came");
    bool readable = broken[i].want == FRAME_GOOD || broken[i].want >= FRAME_TOO_LONG;
    bool right = good && m.verdict == broken[i].want && m.src == 1 &&
                 (m.verdict == FRAME_GOOD) == (m.payload != NULL) &&
                 (!readable || (m.frame.version == i && m.frame.client == 7));
    for (size_t k = 0; right && m.payload && k < m.frame.payload_bytes; k += 1009)
        right = m.payload[k] == (uint8_t)(k * 7 + k / 256 + k / 65536);
    if (good)
        transport_unref(&t, m.buf);
    if (broken[i].what != 0 && broken[i].what != FRAME_EMPTY)
        right = right && followed(i);
    if (broken[i].what == FRAME_BETWEEN) { // the parts that follow it belong to nothing
        good = take(&m, 20);
        right = right && good && m.verdict == FRAME_ALIEN;
        if (good)
            transport_unref(&t, m.buf);
    }
    ok(right, what);
}

static void parts(void)
{
    t.limits.max_payload_bytes = PARTS_LIMIT;
    t.limits.registry = 5; // agreed; frames of no vectors may carry 0
    if (comm_get()->rank == 0) {
        struct netbuf *b = transport_buf(&t, PARTS_LIMIT); // the most it may take, and one more
        transport_unref(&t, b);
        size_t booked = mem_now(MEM_NET) + PARTS_LIMIT * 5 / 4 + 200000;
        for (uint32_t i = 0; i < ARRAY_LEN(broken); i++)
            receive_broken(i);
        ok(mem_now(MEM_NET) < booked, "no more was allocated than the agreed maximum");
        ok(t.mpi_errors == 0, "none of it is an error of MPI");
        post(1, make(0, 0), FRAME_STOP, 0, 0);
        ok(transport_flush(&t, transport_now(&t) + SECOND), "the last word leaves");
        return;
    }
    struct netbuf *b = transport_buf(&t, PARTS_PAYLOAD);
    uint8_t *huge = mem_alloc(MEM_NET, 32 << 20);
    for (size_t k = 0; k < PARTS_PAYLOAD; k++)
        netbuf_payload(b)[k] = (uint8_t)(k * 7 + k / 256 + k / 65536);
    for (uint32_t i = 0; i < ARRAY_LEN(broken); i++)
        send_broken(i, b, huge);
    struct net_msg m;
    if (!take(&m, 60))
        die(STATUS_CHECK, "rank 0 did not answer");
    transport_unref(&t, m.buf);
    transport_unref(&t, b);
    mem_free(huge);
}

// The last rank dies with half a frame sent. Nobody waits for the rest.
static void torn(void)
{
    enum { ROUNDS = 50 };
    t.limits.max_payload_bytes = PARTS_LIMIT;
    int rank = comm_get()->rank, last = comm_get()->size - 1;
    struct net_msg m;
    if (rank == last) {
        struct frame f = {.kind = FRAME_UPDATE,
                          .flags = FRAME_CHECKSUM,
                          .client = 7,
                          .payload_bytes = PARTS_PAYLOAD};
        uint8_t header[FRAME_HEADER_BYTES], *part = mem_alloc(MEM_NET, FRAME_PART_BYTES);
        frame_write(&f, header);
        comm_stray(0, header, FRAME_HEAD_BYTES, false);
        comm_stray(0, part, FRAME_PART_BYTES, true);
        raise(SIGKILL);
    }
    if (rank == 1) {
        for (uint32_t i = 0; i < ROUNDS; i++) {
            if (!take(&m, 30) || m.verdict != FRAME_GOOD || m.frame.version != i)
                die(STATUS_CHECK, "frame %u did not arrive", i);
            transport_unref(&t, m.buf);
            post(0, make(PARTS_PAYLOAD, i), FRAME_UPDATE, PARTS_PAYLOAD, i);
        }
        transport_flush(&t, transport_now(&t) + 10 * (int64_t)SECOND);
        return;
    }
    uint32_t answered = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        post(1, make(PARTS_PAYLOAD, i), FRAME_TASK, PARTS_PAYLOAD, i);
        if (!take(&m, 20))
            break;
        answered += m.src == 1 && m.verdict == FRAME_GOOD && m.frame.version == i;
        transport_unref(&t, m.buf);
    }
    ok(answered == ROUNDS, "long frames of the living arrive beside half a one of the dead");
    ok(!take(&m, 0.2), "the half is never taken for a whole");
    transport_forget(&t, last);
    ok(transport_flush(&t, transport_now(&t) + SECOND), "and holds up nothing at the end");
}

static void forget(void)
{
    enum { N = 16 << 20 };
    t.limits.max_payload_bytes = N;
    struct net_msg m;
    if (comm_get()->rank != 0) {
        clock_sleep_until(clock_ns() + SECOND / 2);
        for (uint32_t i = 0; i < 2; i++) { // both arrive after all, whole and in order
            if (!take(&m, 20) || m.verdict != FRAME_GOOD || m.frame.version != i)
                die(STATUS_CHECK, "frame %u did not arrive", i);
            transport_unref(&t, m.buf);
        }
        post(0, make(5, 2), FRAME_BYE, 5, 2);
        transport_flush(&t, transport_now(&t) + SECOND);
        return;
    }
    struct netbuf *b = make(N, 0);
    transport_ref(b);
    post(1, b, FRAME_MODEL, N, 0);
    ok(b->refs > 1, "the transport holds what it sends");
    ok(!transport_flush(&t, transport_now(&t) + SECOND / 20), "a flush gives up at its deadline");
    transport_forget(&t, 1);
    ok(transport_flush(&t, transport_now(&t) + SECOND / 20), "what is forgotten is not waited for");
    ok(b->refs > 1, "its bytes stay, for they may still be read");
    post(1, make(100, 1), FRAME_TASK, 100, 1);
    ok(take(&m, 20) && m.frame.kind == FRAME_BYE, "a rank that wakes up is heard again");
    transport_unref(&t, m.buf);
    while (b->refs > 1 && take(&m, 0.01))
        transport_unref(&t, m.buf);
    ok(b->refs == 1, "and the bytes come home");
    transport_unref(&t, b);
}

static void huge(void)
{
    const size_t n = ((size_t)1 << 30) + ((size_t)1 << 27) + 12345;
    t.limits.max_payload_bytes = n;
    struct net_msg m;
    if (comm_get()->rank == 0) {
        post(1, make(n, 1), FRAME_MODEL, n, 1);
        ok(take(&m, 100) && m.verdict == FRAME_GOOD && m.frame.reason == 0,
           "a frame of more than 1 GiB arrives intact");
        transport_unref(&t, m.buf);
        return;
    }
    if (!take(&m, 100))
        die(STATUS_CHECK, "nothing arrived");
    struct frame f = {.kind = FRAME_ACK,
                      .reason = m.verdict != FRAME_GOOD || m.frame.payload_bytes != n};
    transport_unref(&t, m.buf);
    struct netbuf *b = make(0, 0);
    transport_send(&t, 1, 0, &f, b, 0);
    transport_unref(&t, b);
    transport_flush(&t, transport_now(&t) + SECOND);
}

static void dead(void)
{
    enum { N = 8 << 20, ROUNDS = 100 };
    t.limits.max_payload_bytes = N;
    int rank = comm_get()->rank, last = comm_get()->size - 1;
    struct net_msg m;
    if (rank == last) {
        take(&m, 20); // connected once
        raise(SIGKILL);
    }
    if (rank == 1) {
        for (uint32_t i = 0; i < ROUNDS; i++) {
            if (!take(&m, 30) || m.verdict != FRAME_GOOD || m.frame.version != i)
                die(STATUS_CHECK, "frame %u did not arrive", i);
            transport_unref(&t, m.buf);
            post(0, make(3000, i), FRAME_UPDATE, 3000, i);
        }
        transport_flush(&t, transport_now(&t) + SECOND);
        return;
    }
    post(last, make(10, 0), FRAME_TASK, 10, 0);
    clock_sleep_until(clock_ns() + SECOND / 2);
    for (int i = 0; i < 3; i++)
        post(last, make(N, 0), FRAME_MODEL, N, 0);
    uint32_t answered = 0;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        post(1, make(100000, i), FRAME_TASK, 100000, i);
        if (!take(&m, 20))
            break;
        answered += m.src == 1 && m.verdict == FRAME_GOOD && m.frame.version == i;
        transport_unref(&t, m.buf);
    }
    ok(answered == ROUNDS, "the living are served while a send to the dead hangs");
    transport_forget(&t, last);
    ok(transport_flush(&t, transport_now(&t) + SECOND), "forgotten sends do not hold up the end");
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    const struct comm *c = comm_start(&argc, &argv);
    opt_defaults(net_options, net_option_count, &params);
    struct err err;
    if (transport_open(&t, &params, 1, &err) != 0)
        die(STATUS_ENV, "%s", err.text);
    if (strcmp(mode, "frames") == 0 && c->size == 2)
        frames();
    else if (strcmp(mode, "parts") == 0 && c->size == 2)
        parts();
    else if (strcmp(mode, "torn") == 0 && c->size >= 3)
        torn();
    else if (strcmp(mode, "forget") == 0 && c->size == 2)
        forget();
    else if (strcmp(mode, "huge") == 0 && c->size == 2)
        huge();
    else if (strcmp(mode, "dead") == 0 && c->size >= 3)
        dead();
    else
        die(STATUS_USAGE, "usage: mpirun -np 2|3 hostile frames|parts|torn|forget|huge|dead");
    bool clean = strcmp(mode, "dead") != 0 && strcmp(mode, "torn") != 0;
    transport_close(&t, clean);
    comm_exit(n_failed ? STATUS_CHECK : STATUS_VALID, clean);
}
