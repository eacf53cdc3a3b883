#include "fed/protocol.h"

#include "base/buildinfo.h"
#include "base/bytes.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define BYTE_ORDER_MARK 0x01020304u

static uint64_t boot_id(void)
{
    char text[64] = "";
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!f)
        return 0;
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    return XXH3_64bits(text, n);
}

void hello_local(struct hello *h)
{
    struct stat st;
    h->pid = (int64_t)getpid();
    h->pid_space = stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
    h->boot_id = boot_id();
    snprintf(h->build, sizeof h->build, "%s %s", buildinfo.version, buildinfo.git_rev);
}

static uint8_t *put_text(uint8_t *p, const char text[64])
{
    memcpy(p, text, 64);
    return p + 64;
}

static const uint8_t *get_text(const uint8_t *p, char text[64])
{
    memcpy(text, p, 63);
    text[63] = '\0';
    return p + 64;
}

void hello_put(const struct hello *h, uint8_t *p)
{
    uint32_t mark = BYTE_ORDER_MARK;
    memcpy(p, &mark, 4); // native on purpose
    put_u64(p + 4, h->config_hash);
    put_u64(p + 12, h->boot_id);
    put_u64(p + 20, h->pid_space);
    put_u64(p + 28, (uint64_t)h->pid);
    put_u32(p + 36, (uint32_t)h->rank);
    put_u32(p + 40, (uint32_t)h->threads);
    put_text(put_text(put_text(put_text(p + 44, h->host), h->build), h->cpuset), h->gpu);
}

int hello_get(const uint8_t *p, size_t len, struct hello *h)
{
    uint32_t mark;
    if (len != HELLO_BYTES)
        return -1;
    memcpy(&mark, p, 4);
    if (mark != BYTE_ORDER_MARK)
        return -1;
    h->config_hash = get_u64(p + 4);
    h->boot_id = get_u64(p + 12);
    h->pid_space = get_u64(p + 20);
    h->pid = (int64_t)get_u64(p + 28);
    h->rank = (int32_t)get_u32(p + 36);
    h->threads = (int32_t)get_u32(p + 40);
    get_text(get_text(get_text(get_text(p + 44, h->host), h->build), h->cpuset), h->gpu);
    return 0;
}

bool hello_self(const struct hello *peer)
{
    struct hello own = {0};
    hello_local(&own);
    return peer->boot_id == own.boot_id && peer->pid_space == own.pid_space && peer->pid == own.pid;
}

bool hello_alive(const struct hello *peer)
{
    struct hello own = {0};
    hello_local(&own);
    if (peer->boot_id == 0 || peer->boot_id != own.boot_id || peer->pid_space != own.pid_space ||
        peer->pid <= 1)
        return true;
    return kill((pid_t)peer->pid, 0) == 0 || errno != ESRCH;
}

void welcome_put(const struct welcome *w, uint8_t *p)
{
    put_u64(p, w->run_id);
    put_u64(p + 8, w->max_payload_bytes);
    put_u32(p + 16, w->resumed_at);
    put_u64(p + 20, (uint64_t)w->origin_ns);
}

int welcome_get(const uint8_t *p, size_t len, struct welcome *w)
{
    if (len != WELCOME_BYTES)
        return -1;
    w->run_id = get_u64(p);
    w->max_payload_bytes = get_u64(p + 8);
    w->resumed_at = get_u32(p + 16);
    w->origin_ns = (int64_t)get_u64(p + 20);
    return 0;
}

void round_start_put(const struct round_start *s, uint8_t *p)
{
    put_u64(p, (uint64_t)s->run_ns);
    put_u64(p + 8, (uint64_t)s->clock_ns);
}

int round_start_get(const uint8_t *p, size_t len, struct round_start *s)
{
    s->run_ns = s->clock_ns = 0;
    if (len != 0 && len != ROUND_START_BYTES)
        return -1;
    if (len) {
        s->run_ns = (int64_t)get_u64(p);
        s->clock_ns = (int64_t)get_u64(p + 8);
    }
    return s->run_ns < 0 || s->clock_ns < 0 ? -1 : 0;
}

uint32_t welcome_epoch(const struct welcome *w)
{
    uint8_t b[WELCOME_BYTES];
    welcome_put(w, b);
    return (uint32_t)XXH3_64bits(b, sizeof b) | 1;
}

void task_state_put(const struct task_state *t, uint8_t *p)
{
    put_u32(p, t->newest.round);
    put_u32(p + 4, t->newest.epoch);
    put_u32(p + 8, t->kept);
}

int task_state_get(const uint8_t *p, size_t len, struct task_state *t)
{
    if (len != TASK_STATE_BYTES)
        return -1;
    t->newest = (struct slot_gen){get_u32(p), get_u32(p + 4)};
    t->kept = get_u32(p + 8);
    return 0;
}

void slots_entry_put(const struct slots_entry *e, uint8_t *p)
{
    put_u32(p, e->client);
    put_u32(p + 4, e->gen.round);
    put_u32(p + 8, e->gen.epoch);
}

void slots_entry_get(const uint8_t *p, struct slots_entry *e)
{
    e->client = get_u32(p);
    e->gen = (struct slot_gen){get_u32(p + 4), get_u32(p + 8)};
}

void bye_local(struct bye *b)
{
    b->rss_peak_bytes = (int64_t)mem_rss_peak();
    for (int i = 0; i < MEM_PURPOSES; i++)
        b->mem_peak_bytes[i] = (int64_t)mem_peak((enum mem_purpose)i);
}

void bye_put(const struct bye *b, uint8_t *p)
{
    put_u64(p, (uint64_t)b->rss_peak_bytes);
    for (int i = 0; i < MEM_PURPOSES; i++)
        put_u64(p + 8 * (i + 1), (uint64_t)b->mem_peak_bytes[i]);
}

int bye_get(const uint8_t *p, size_t len, struct bye *b)
{
    if (len != BYE_BYTES)
        return -1;
    b->rss_peak_bytes = (int64_t)get_u64(p);
    for (int i = 0; i < MEM_PURPOSES; i++)
        b->mem_peak_bytes[i] = (int64_t)get_u64(p + 8 * (i + 1));
    return 0;
}

size_t rows_bytes(const struct rows_section *s, int n)
{
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += ROWS_SECTION_BYTES + s[i].n * record_tables[s[i].id].row_bytes;
    return bytes;
}

void rows_put(uint8_t *p, const struct rows_section *s, int n)
{
    for (int i = 0; i < n; i++) {
        size_t bytes = s[i].n * record_tables[s[i].id].row_bytes;
        put_u32(p, (uint32_t)s[i].id);
        put_u32(p + 4, (uint32_t)s[i].n);
        if (bytes)
            memcpy(p + ROWS_SECTION_BYTES, s[i].rows, bytes);
        p += ROWS_SECTION_BYTES + bytes;
    }
}

int rows_get(const uint8_t *p, size_t len, size_t *at, struct rows_section *s)
{
    size_t left = len - *at;
    if (left == 0)
        return 0;
    if (left < ROWS_SECTION_BYTES || get_u32(p + *at) >= REC_COUNT)
        return -1;
    s->id = (enum record_id)get_u32(p + *at);
    s->n = get_u32(p + *at + 4);
    s->rows = p + *at + ROWS_SECTION_BYTES;
    left -= ROWS_SECTION_BYTES;
    if (s->n > left / record_tables[s->id].row_bytes)
        return -1;
    *at += ROWS_SECTION_BYTES + s->n * record_tables[s->id].row_bytes;
    return 1;
}

size_t vectors_head_bytes(int n)
{
    return n > 1 ? 4 * (size_t)n : 0;
}

void vectors_put_head(uint8_t *out, const size_t *len, int n)
{
    for (int k = 0; n > 1 && k < n; k++)
        put_u32(out + 4 * k, (uint32_t)len[k]);
}

int vectors_get(const uint8_t *in, size_t size, int n, const uint8_t **at, size_t *len)
{
    size_t head = vectors_head_bytes(n);
    if (size < head)
        return -1;
    size_t left = size - head;
    for (int k = 0; k < n; k++) {
        len[k] = n > 1 ? get_u32(in + 4 * k) : left;
        if (len[k] > left)
            return -1;
        at[k] = in + (size - left);
        left -= len[k];
    }
    return left == 0 ? 0 : -1;
}
