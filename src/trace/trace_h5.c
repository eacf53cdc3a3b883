// The one file with hdf5.h. Rules that the kill sweeps taught (tests/unit/test_trace_kill.c):
// everything is created before the rename; afterwards only whole chunks are appended; what was
// flushed is never written again, but for the index and the header of its dataset.
#include "trace/trace_h5.h"

#include "base/fsio.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <hdf5_hl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define ATTR_MAX      32000     // an attribute of the classic format fits a 64 KiB header message
#define DEFLATE_LEVEL 1         // level 4 saves 1% (spec/ecosystem.md 2.2)
#define ROOM_STEP     (1 << 20) // reserved at once, so that few commits pay for it

unsigned trace_h5_btree_k =
    256; // nodes of 512 chunks: 16 KiB, and no split in the first 512 rounds

static void library_start(void)
{
    static bool started;
    if (started)
        return;
    started = true;
    // Readers may look at a live file; the journal's lock keeps writers apart.
    setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);
    H5dont_atexit(); // an abandoned file stays as it is
    H5open();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static herr_t first_reason(unsigned n, const H5E_error2_t *e, void *out)
{
    (void)n;
    snprintf(out, 160, "%s", e->desc ? e->desc : "");
    return 1;
}

// The library's innermost word on what went wrong.
static int h5_error(struct err *err, const char *path, const char *what)
{
    char why[160] = "";
    int e = errno;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_reason, why);
    why[strcspn(why, "\n")] = '\0'; // the library puts a date and more behind it
    bool full = e == ENOSPC || e == EFBIG || e == EDQUOT;
    err_set(err, "%s: cannot %s: %s", path, what, full ? strerror(e) : why[0] ? why : "HDF5 error");
    H5Eclear2(H5E_DEFAULT);
    return -1;
}

// Types.

static hid_t text_type(size_t size)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, size ? size : 1);
    H5Tset_strpad(t, H5T_STR_NULLPAD);
    H5Tset_cset(t, H5T_CSET_UTF8);
    return t;
}

static hid_t stage_type(void)
{
    hid_t t = H5Tenum_create(H5T_STD_U8LE);
    for (int i = 0; i < STAGE_COUNT; i++) {
        uint8_t v = (uint8_t)i;
        H5Tenum_insert(t, stage_table[i].name, &v);
    }
    return t;
}

static hid_t status_type(void)
{
    hid_t t = H5Tenum_create(H5T_STD_I32LE);
    for (int32_t i = 0; i < MESSAGE_STATUS_COUNT; i++)
        H5Tenum_insert(t, message_status_name[i], &i);
    return t;
}

static hid_t number_type(enum field_type type)
{
    switch (type) {
    case FIELD_I32:
    case FIELD_STATUS:
        return H5T_STD_I32LE;
    case FIELD_I64:
        return H5T_STD_I64LE;
    case FIELD_U64:
        return H5T_STD_U64LE;
    case FIELD_F64:
        return H5T_IEEE_F64LE;
    default:
        return H5T_STD_U8LE;
    }
}

// Of one column. enums: as in the file; a reader takes plain integers, so that names of a later
// version do no harm.
static hid_t column_type(const struct record_field *f, bool enums)
{
    if (f->type == FIELD_TEXT)
        return text_type(f->count);
    if (enums && f->type == FIELD_STAGE)
        return stage_type();
    if (enums && f->type == FIELD_STATUS)
        return status_type();
    return H5Tcopy(number_type(f->type));
}

// Adds the columns of a field to a compound: an array is taken apart, for pandas knows none. Only
// those that the other type has, where there is one. Returns how many.
static int insert_columns(hid_t type, const struct record_field *f, bool enums, hid_t other)
{
    int n = trace_field_columns(f), found = 0;
    for (int k = 0; k < n; k++) {
        char name[80];
        trace_column_name(f, k, name, sizeof name);
        if (other >= 0 && H5Tget_member_index(other, name) < 0)
            continue;
        hid_t column = column_type(f, enums);
        size_t at = f->offset + (size_t)k * (trace_field_bytes(f) / (size_t)n);
        found += H5Tinsert(type, name, at, column) >= 0;
        H5Tclose(column);
    }
    return found;
}

// The row as it lies in memory is the row in the file: nothing is converted on the way out.
static hid_t row_type(enum record_id id)
{
    hid_t t = H5Tcreate(H5T_COMPOUND, record_tables[id].row_bytes);
    for (const struct record_field *f = record_tables[id].fields; f->name; f++)
        insert_columns(t, f, true, -1);
    return t;
}

// Creation.

// Every HDF5 id of a creation step goes through these: the first failure is kept, later ones
// ignored.
struct maker {
    hid_t file;
    bool bad;
};

static hid_t ok(struct maker *m, hid_t id)
{
    m->bad |= id < 0;
    return id;
}

static void put_attr_text(struct maker *m, hid_t where, const char *name, const char *text)
{
    size_t len = strlen(text);
    while (len > ATTR_MAX || (len == ATTR_MAX && ((uint8_t)text[len] & 0xc0) == 0x80))
        len = len > ATTR_MAX ? ATTR_MAX : len - 1; // never half a character
    char *copy = mem_alloc(MEM_TRACE, len + 1);
    memcpy(copy, text, len);
    hid_t type = text_type(len), space = H5Screate(H5S_SCALAR);
    hid_t a = ok(m, H5Acreate2(where, name, type, space, H5P_DEFAULT, H5P_DEFAULT));
    m->bad |= H5Awrite(a, type, copy) < 0;
    H5Aclose(a);
    H5Sclose(space);
    H5Tclose(type);
    mem_free(copy);
}

static void put_attr_int(struct maker *m, hid_t where, const char *name, int32_t v)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = ok(m, H5Acreate2(where, name, H5T_STD_I32LE, space, H5P_DEFAULT, H5P_DEFAULT));
    m->bad |= H5Awrite(a, H5T_NATIVE_INT32, &v) < 0;
    H5Aclose(a);
    H5Sclose(space);
}

// One text a column, in the order of the compound's members.
static void put_attr_list(struct maker *m, hid_t where, const char *name,
                          const struct record_field *fields, size_t member)
{
    size_t width = 1;
    hsize_t n = 0, at = 0;
    for (const struct record_field *f = fields; f->name; f++) {
        const char *s = *(const char *const *)((const char *)f + member);
        size_t len = s ? strlen(s) : 0;
        width = len > width ? len : width;
        n += (hsize_t)trace_field_columns(f);
    }
    char *all = mem_alloc(MEM_TRACE, n * width + 1);
    for (const struct record_field *f = fields; f->name; f++)
        for (int k = 0; k < trace_field_columns(f); k++, at++) {
            const char *s = *(const char *const *)((const char *)f + member);
            memcpy(all + at * width, s ? s : "", s ? strlen(s) : 0);
        }
    hid_t type = text_type(width), space = H5Screate_simple(1, &n, NULL);
    hid_t a = ok(m, H5Acreate2(where, name, type, space, H5P_DEFAULT, H5P_DEFAULT));
    m->bad |= H5Awrite(a, type, all) < 0;
    H5Aclose(a);
    H5Sclose(space);
    H5Tclose(type);
    mem_free(all);
}

static hid_t dataset_props(void)
{
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(p, false); // or each write would touch the header once more
    return p;
}

static hid_t put_dataset(struct maker *m, const char *name, hid_t type, int rank,
                         const hsize_t *dims, const void *data, const char *units,
                         const char *long_name)
{
    hid_t space = rank ? H5Screate_simple(rank, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t props = dataset_props();
    H5Pset_alloc_time(props, H5D_ALLOC_TIME_EARLY);
    hid_t d = ok(m, H5Dcreate2(m->file, name, type, space, H5P_DEFAULT, props, H5P_DEFAULT));
    m->bad |= H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0;
    put_attr_text(m, d, "units", units);
    put_attr_text(m, d, "long_name", long_name);
    H5Pclose(props);
    H5Sclose(space);
    return d;
}

static void put_table(struct maker *m, enum record_id id, size_t chunk_rows)
{
    const struct record_table *t = &record_tables[id];
    char *pad = mem_alloc(MEM_TRACE, t->row_bytes);
    record_make_pad(id, pad);
    hsize_t none = 0, unlimited = H5S_UNLIMITED, chunk = chunk_rows;
    hid_t type = row_type(id), space = H5Screate_simple(1, &none, &unlimited);
    hid_t props = dataset_props();
    H5Pset_chunk(props, 1, &chunk);
    H5Pset_shuffle(props);
    H5Pset_deflate(props, DEFLATE_LEVEL);
    H5Pset_fill_value(props, type, pad); // a chunk that never reached the disk reads as padding
    hid_t links = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(links, 1);
    hid_t d = ok(m, H5Dcreate2(m->file, t->name, type, space, links, props, H5P_DEFAULT));
    put_attr_text(m, d, "long_name", t->help);
    put_attr_list(m, d, "units", t->fields, offsetof(struct record_field, unit));
    put_attr_list(m, d, "descriptions", t->fields, offsetof(struct record_field, help));
    H5Dclose(d);
    H5Pclose(links);
    H5Pclose(props);
    H5Sclose(space);
    H5Tclose(type);
    mem_free(pad);
}

struct stage_text { // a row of /stages
    int32_t id, inner;
    char name[24], lane[16], within[24], includes[192], excludes[192];
};

static void put_stages(struct maker *m)
{
    struct stage_text *rows = mem_alloc(MEM_TRACE, STAGE_COUNT * sizeof *rows);
    for (int i = 0; i < STAGE_COUNT; i++) {
        const struct stage_row *s = &stage_table[i];
        rows[i].id = i;
        rows[i].inner = s->inner;
        snprintf(rows[i].name, sizeof rows[i].name, "%s", s->name);
        snprintf(rows[i].lane, sizeof rows[i].lane, "%s", lane_name[s->lane]);
        snprintf(rows[i].within, sizeof rows[i].within, "%s",
                 s->within ? stage_table[s->within].name : "");
        snprintf(rows[i].includes, sizeof rows[i].includes, "%s", s->includes ? s->includes : "");
        snprintf(rows[i].excludes, sizeof rows[i].excludes, "%s", s->excludes ? s->excludes : "");
    }
    static const struct record_field fields[] = {
        {"id", FIELD_I32, offsetof(struct stage_text, id), 1, "1", "value of /events stage"},
        {"inner", FIELD_I32, offsetof(struct stage_text, inner), 1, "1",
         "1 = lies inside another stage, left out of sums"},
        {"name", FIELD_TEXT, offsetof(struct stage_text, name), 24, "", "name"},
        {"lane", FIELD_TEXT, offsetof(struct stage_text, lane), 16, "", "lane of a timeline"},
        {"within", FIELD_TEXT, offsetof(struct stage_text, within), 24, "",
         "the stage it is a part of; the parts of a stage add up to it"},
        {"includes", FIELD_TEXT, offsetof(struct stage_text, includes), 192, "",
         "what its clock includes"},
        {"excludes", FIELD_TEXT, offsetof(struct stage_text, excludes), 192, "",
         "what its clock excludes"},
        {0},
    };
    hid_t type = H5Tcreate(H5T_COMPOUND, sizeof *rows);
    for (const struct record_field *f = fields; f->name; f++) {
        insert_columns(type, f, false, -1);
    }
    hsize_t n = STAGE_COUNT;
    hid_t space = H5Screate_simple(1, &n, NULL), props = dataset_props();
    hid_t d = ok(m, H5Dcreate2(m->file, "/stages", type, space, H5P_DEFAULT, props, H5P_DEFAULT));
    m->bad |= H5Dwrite(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows) < 0;
    put_attr_text(m, d, "long_name", "stages: what each clock includes and excludes");
    put_attr_list(m, d, "units", fields, offsetof(struct record_field, unit));
    put_attr_list(m, d, "descriptions", fields, offsetof(struct record_field, help));
    H5Dclose(d);
    H5Pclose(props);
    H5Sclose(space);
    H5Tclose(type);
    mem_free(rows);
}

// rounds_committed, and how many rows of each table are valid, over the names of the tables.
static void put_committed(struct maker *m)
{
    char names[REC_COUNT][32] = {{0}};
    int64_t zero[REC_COUNT] = {0};
    hsize_t n = REC_COUNT;
    for (int id = 0; id < REC_COUNT; id++)
        snprintf(names[id], sizeof names[id], "%s", record_tables[id].name);
    hid_t text = text_type(sizeof names[0]);
    hid_t scale = put_dataset(m, "/tables", text, 1, &n, names, "", "names of the tables");
    hid_t rows = put_dataset(m, "/rows_committed", H5T_STD_I64LE, 1, &n, zero, "row",
                             "rows of each table that were flushed, padding included");
    m->bad |= H5DSset_scale(scale, "table") < 0 || H5DSattach_scale(rows, scale, 0) < 0;
    hid_t rounds = put_dataset(m, "/rounds_committed", H5T_STD_I64LE, 0, NULL, zero, "round",
                               "rows of /rounds that were flushed");
    H5Dclose(rounds);
    H5Dclose(rows);
    H5Dclose(scale);
    H5Tclose(text);
}

static void put_facts(struct maker *m, const struct trace_file *facts)
{
    hid_t root = ok(m, H5Gopen2(m->file, "/", H5P_DEFAULT));
    hid_t config = ok(m, H5Gcreate2(m->file, "/config", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    hid_t meta = ok(m, H5Gcreate2(m->file, "/meta", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    put_attr_text(m, root, "format", TRACE_FORMAT);
    put_attr_int(m, root, "format_version", TRACE_FORMAT_VERSION);
    put_attr_int(m, root, "complete", 0);
    for (int i = 0; i < facts->n_facts; i++) {
        const struct trace_fact *f = &facts->facts[i];
        if (f->place != TRACE_META) {
            put_attr_text(m, f->place == TRACE_ROOT ? root : config, f->name, f->text);
            continue;
        }
        char name[96];
        snprintf(name, sizeof name, "/meta/%s", f->name);
        hid_t type = text_type(f->len);
        H5Dclose(put_dataset(m, name, type, 0, NULL, f->text, "", f->name));
        H5Tclose(type);
    }
    H5Gclose(meta);
    H5Gclose(config);
    H5Gclose(root);
}

static hid_t file_access(void)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    // Metadata leaves memory in a flush and at no other time.
    H5AC_cache_config_t c = {.version = H5AC__CURR_CACHE_CONFIG_VERSION};
    H5Pget_mdc_config(p, &c);
    c.incr_mode = H5C_incr__off;
    c.flash_incr_mode = H5C_flash_incr__off;
    c.decr_mode = H5C_decr__off;
    c.evictions_enabled = false;
    H5Pset_mdc_config(p, &c);
    return p;
}

static hid_t file_props(void)
{
    hid_t p = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_istore_k(p, trace_h5_btree_k);
    H5Pset_obj_track_times(p, false);
    return p;
}

static void close_library(struct trace_h5 *h)
{
    if (h->file < 0)
        return;
    for (int id = 0; id < REC_COUNT; id++) {
        H5Dclose((hid_t)h->table[id]);
        H5Tclose((hid_t)h->type[id]);
    }
    H5Dclose((hid_t)h->committed);
    H5Dclose((hid_t)h->rows_committed);
    H5Pclose((hid_t)h->transfer);
    H5Fclose((hid_t)h->file);
    h->file = -1;
}

static void close_own(struct trace_h5 *h)
{
    struct stat st;
    // Gives back what was reserved behind the end; a file that stays a little larger does no harm.
    if (h->fd >= 0 && h->reserved && fstat(h->fd, &st) == 0 && ftruncate(h->fd, st.st_size) < 0)
        errno = 0;
    if (h->fd >= 0)
        close(h->fd);
    mem_free(h->tail);
    h->tail = NULL;
    h->fd = -1;
    h->reserved = 0;
}

static int publish(const char *part, const char *path, struct err *err)
{
    int fd = open(part, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        trace_errno_set(err, part, "sync");
        if (fd >= 0)
            close(fd);
        return -1;
    }
    if (rename(part, path) < 0 || fsio_sync_dir(path) < 0) {
        trace_errno_set(err, path, "put in place");
        close(fd);
        return -1;
    }
    return fd;
}

static int open_tables(struct trace_h5 *h, struct err *err);

int trace_h5_create(struct trace_h5 *h, const char *path, const struct trace_file *facts,
                    size_t events_chunk, struct err *err)
{
    char part[PATH_MAX];
    library_start();
    *h = (struct trace_h5){.file = -1, .fd = -1};
    if (snprintf(h->path, sizeof h->path, "%s", path) >= (int)sizeof h->path - 8)
        return err_set(err, "%s: the name is too long", path);
    snprintf(part, sizeof part, "%.*s.part", (int)sizeof part - 8, path);
    int fd = fsio_regular(path, err) < 0 ? -1 : fsio_create(part, err);
    if (fd < 0)
        return -1;
    close(fd);
    hid_t create = file_props(), access = file_access();
    errno = 0;
    struct maker m = {.file = H5Fcreate(part, H5F_ACC_TRUNC, create, access)};
    H5Pclose(access);
    H5Pclose(create);
    if (m.file < 0)
        return h5_error(err, part, "create");
    put_facts(&m, facts);
    put_stages(&m);
    put_committed(&m);
    for (int id = 0; id < REC_COUNT; id++) {
        size_t chunk = record_tables[id].chunk_rows;
        put_table(&m, (enum record_id)id, id == REC_EVENTS && events_chunk ? events_chunk : chunk);
    }
    h->file = m.file;
    h->fanout = 2 * (size_t)trace_h5_btree_k;
    if (m.bad || H5Fflush(m.file, H5F_SCOPE_GLOBAL) < 0) {
        h5_error(err, part, "write");
    } else {
        h->fd = publish(part, path, err);
        if (h->fd >= 0 && open_tables(h, err) == 0)
            return 0;
    }
    trace_h5_abandon(h);
    unlink(part);
    return -1;
}

// Appending.

static size_t chunk_rows_of(hid_t dataset)
{
    hsize_t chunk = 0;
    hid_t props = H5Dget_create_plist(dataset);
    if (props >= 0 && H5Pget_layout(props) == H5D_CHUNKED)
        H5Pget_chunk(props, 1, &chunk);
    H5Pclose(props);
    return (size_t)chunk;
}

static int64_t rows_of(hid_t dataset)
{
    hsize_t n = 0;
    hid_t space = H5Dget_space(dataset);
    int rank = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    bool known = rank == 1 && H5Sget_simple_extent_dims(space, &n, NULL) == 1 && n <= INT64_MAX;
    H5Sclose(space);
    return known ? (int64_t)n : -1;
}

static int open_tables(struct trace_h5 *h, struct err *err)
{
    size_t tail = 0;
    // No chunk cache: a chunk goes to the file inside H5Dwrite, with the transfer properties below.
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    H5Pset_chunk_cache(access, 1, 0, 1.0);
    bool bad = false;
    for (int id = 0; id < REC_COUNT; id++) {
        hid_t d = H5Dopen2((hid_t)h->file, record_tables[id].name, access);
        h->table[id] = d;
        h->type[id] = row_type((enum record_id)id);
        bad |= d < 0;
        if (d < 0)
            continue;
        h->rows[id] = rows_of(d);
        h->chunk[id] = chunk_rows_of(d);
        bad |= h->rows[id] < 0 || !h->chunk[id] || h->rows[id] % (int64_t)h->chunk[id];
        size_t bytes = h->chunk[id] * record_tables[id].row_bytes;
        tail = bytes > tail ? bytes : tail;
    }
    H5Pclose(access);
    h->committed = H5Dopen2((hid_t)h->file, "/rounds_committed", H5P_DEFAULT);
    h->rows_committed = H5Dopen2((hid_t)h->file, "/rows_committed", H5P_DEFAULT);
    // A full index node hands only its newest entry on when it splits, so that a crash between the
    // two writes costs nothing that was flushed before.
    h->transfer = H5Pcreate(H5P_DATASET_XFER);
    H5Pset_btree_ratios((hid_t)h->transfer, 0.1, 0.5, 1.0);
    if (bad || h->committed < 0 || h->rows_committed < 0)
        return h5_error(err, h->path, "append to");
    h->tail = mem_alloc(MEM_TRACE, tail);
    return 0;
}

// Opens file as the continuation of h; copied: into memory, and nothing goes back.
static int open_file(struct trace_h5 *h, const char *file, bool copied, struct err *err)
{
    hid_t access = file_access();
    if (copied)
        H5Pset_fapl_core(access, ROOM_STEP, false);
    unsigned k = 0;
    errno = 0;
    h->file = H5Fopen(file, H5F_ACC_RDWR, access);
    H5Pclose(access);
    if (h->file < 0)
        return h5_error(err, file, "open");
    hid_t props = H5Fget_create_plist((hid_t)h->file);
    H5Pget_istore_k(props, &k);
    H5Pclose(props);
    h->fanout = k ? 2 * (size_t)k : 64;
    h->fd = copied ? -1 : open(file, O_RDWR | O_CLOEXEC);
    if (h->fd < 0 && !copied)
        return trace_errno_set(err, file, "open");
    return open_tables(h, err);
}

int trace_h5_reopen(struct trace_h5 *h, const char *path, struct err *err)
{
    library_start();
    *h = (struct trace_h5){.file = -1, .fd = -1};
    if (snprintf(h->path, sizeof h->path, "%s", path) >= (int)sizeof h->path)
        return err_set(err, "%s: the name is too long", path);
    if (open_file(h, path, false, err) == 0)
        return 0;
    trace_h5_close(h);
    return -1;
}

static int64_t chunks_for(const struct trace_h5 *h, int id, size_t n)
{
    return (int64_t)((n + h->chunk[id] - 1) / h->chunk[id]);
}

// How often nodes of a chunk index have split by the time it holds so many chunks. Rows only come
// at the end and the transfer properties of open_tables hand one entry on, so it happens when a
// table passes its fan-out, then each time it has grown by one less, and never else.
static int64_t splits(const struct trace_h5 *h, int64_t chunks)
{
    return chunks < 2 ? 0 : (chunks - 2) / ((int64_t)h->fanout - 1);
}

// When a node splits, the library writes its parent before what the parent now points to: a crash
// in between would cost what moved, the whole table when it is the root.
static bool index_splits(const struct trace_h5 *h, const size_t n[REC_COUNT])
{
    for (int id = 0; id < REC_COUNT; id++) {
        int64_t before = chunks_for(h, id, (size_t)h->rows[id]);
        if (splits(h, before + chunks_for(h, id, n[id])) > splits(h, before))
            return true;
    }
    return false;
}

// Room for a commit, before a byte of it is written: a file that is not touched stays whole. Blocks
// are reserved behind the end of the file, which keeps its size; where that is not supported the
// flush tells.
static int reserve_room(struct trace_h5 *h, const size_t n[REC_COUNT], struct err *err)
{
    int64_t need = 16 << 10, node = 40 * (int64_t)h->fanout;
    for (int id = 0; id < REC_COUNT; id++) {
        int64_t chunks = chunks_for(h, id, n[id]);
        int64_t bytes = (int64_t)(h->chunk[id] * record_tables[id].row_bytes);
        bool grows = h->rows[id] == 0 || index_splits(h, n); // the first node, or one more a level
        need += chunks * (bytes + bytes / 512 + 64) + (chunks && grows ? 3 * node : 0);
    }
    struct stat st;
    struct rlimit limit;
    if (fstat(h->fd, &st) < 0)
        return trace_errno_set(err, h->path, "look at");
    int64_t end = st.st_size + need;
    bool full = getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
                (rlim_t)end > limit.rlim_cur;
    if (full)
        errno = EFBIG;
    if (!full && end > h->reserved) {
        int64_t step = need > ROOM_STEP ? need : ROOM_STEP;
        if (fallocate(h->fd, FALLOC_FL_KEEP_SIZE, st.st_size, step) == 0)
            h->reserved = st.st_size + step;
        else if (errno == ENOSPC || errno == EDQUOT)
            full = fallocate(h->fd, FALLOC_FL_KEEP_SIZE, st.st_size, need) < 0;
    }
    return full ? trace_errno_set(err, h->path, "write") : 0;
}

static void part_name(const struct trace_h5 *h, char part[PATH_MAX])
{
    snprintf(part, PATH_MAX, "%.*s.part", PATH_MAX - 8, h->path);
}

static int copy_file(const char *from, const char *to, struct err *err)
{
    static const char what[] = "copy";
    char buf[1 << 16];
    ssize_t n = -1;
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return trace_errno_set(err, from, what);
    int out = fsio_create(to, err);
    while (out >= 0 && (n = read(in, buf, sizeof buf)) > 0)
        if (write(out, buf, (size_t)n) != n) {
            n = -1;
            break;
        }
    int r = out < 0 ? -1 : n < 0 ? trace_errno_set(err, from, what) : 0;
    close(in);
    if (out >= 0)
        close(out);
    return r;
}

// That commit is therefore done in a copy, which replaces the file by its name in one step.
static int move_to_copy(struct trace_h5 *h, struct err *err)
{
    char part[PATH_MAX];
    part_name(h, part);
    close_library(h);
    close_own(h);
    h->in_copy = true;
    if (copy_file(h->path, part, err) < 0)
        return -1;
    return open_file(h, part, false, err);
}

static int leave_copy(struct trace_h5 *h, struct err *err)
{
    char part[PATH_MAX];
    part_name(h, part);
    int fd = publish(part, h->path, err);
    if (fd < 0)
        return -1;
    close(fd);
    h->in_copy = false;
    return 0;
}

int trace_h5_prepare(struct trace_h5 *h, const size_t n[REC_COUNT], struct err *err)
{
    if (reserve_room(h, n, err) < 0)
        return -1;
    return index_splits(h, n) ? move_to_copy(h, err) : 0;
}

static int append_rows(struct trace_h5 *h, enum record_id id, const void *rows, size_t n)
{
    hid_t d = (hid_t)h->table[id];
    hsize_t start = (hsize_t)h->rows[id], count = n, size = start + n;
    if (H5Dset_extent(d, &size) < 0)
        return -1;
    hid_t in_file = H5Dget_space(d), in_memory = H5Screate_simple(1, &count, NULL);
    int r =
        H5Sselect_hyperslab(in_file, H5S_SELECT_SET, &start, NULL, &count, NULL) < 0 ||
                H5Dwrite(d, (hid_t)h->type[id], in_memory, in_file, (hid_t)h->transfer, rows) < 0
            ? -1
            : 0;
    H5Sclose(in_memory);
    H5Sclose(in_file);
    if (r == 0)
        h->rows[id] += (int64_t)n;
    return r;
}

int trace_h5_append(struct trace_h5 *h, enum record_id id, const void *rows, size_t n,
                    struct err *err)
{
    size_t row_bytes = record_tables[id].row_bytes;
    size_t rest = n % h->chunk[id], whole = n - rest;
    errno = 0;
    if (whole && append_rows(h, id, rows, whole) < 0)
        return h5_error(err, h->path, "write");
    if (!rest)
        return 0;
    memcpy(h->tail, (const char *)rows + whole * row_bytes, rest * row_bytes);
    for (size_t i = rest; i < h->chunk[id]; i++)
        record_make_pad(id, h->tail + i * row_bytes);
    if (append_rows(h, id, h->tail, h->chunk[id]) < 0)
        return h5_error(err, h->path, "write");
    return 0;
}

int trace_h5_commit(struct trace_h5 *h, int64_t rounds, struct err *err)
{
    errno = 0;
    if (H5Fflush((hid_t)h->file, H5F_SCOPE_LOCAL) < 0)
        return h5_error(err, h->path, "flush");
    if (H5Dwrite((hid_t)h->rows_committed, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                 h->rows) < 0 ||
        H5Dwrite((hid_t)h->committed, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &rounds) <
            0 ||
        H5Fflush((hid_t)h->file, H5F_SCOPE_LOCAL) < 0)
        return h5_error(err, h->path, "flush");
    return h->in_copy ? leave_copy(h, err) : 0;
}

int trace_h5_rehearse(const char *path, struct err *err)
{
    struct trace_h5 h = {.file = -1, .fd = -1};
    library_start();
    snprintf(h.path, sizeof h.path, "%s", path);
    int rc = open_file(&h, path, true, err);
    for (int id = 0; id < REC_COUNT && rc == 0; id++) {
        char *row = mem_alloc(MEM_TRACE, record_tables[id].row_bytes);
        record_make_pad((enum record_id)id, row);
        rc = trace_h5_append(&h, (enum record_id)id, row, 1, err);
        mem_free(row);
    }
    if (rc == 0)
        rc = trace_h5_commit(&h, 0, err);
    if (rc == 0)
        rc = trace_h5_complete(&h, false, err);
    trace_h5_close(&h);
    return rc;
}

int trace_h5_complete(struct trace_h5 *h, bool complete, struct err *err)
{
    int32_t v = complete;
    errno = 0;
    hid_t a = H5Aopen_by_name((hid_t)h->file, "/", "complete", H5P_DEFAULT, H5P_DEFAULT);
    int r = a < 0 || H5Awrite(a, H5T_NATIVE_INT32, &v) < 0 ? -1 : 0;
    H5Aclose(a);
    if (r < 0 || H5Fflush((hid_t)h->file, H5F_SCOPE_LOCAL) < 0)
        return h5_error(err, h->path, "mark");
    return 0;
}

int trace_h5_sync(struct trace_h5 *h, struct err *err)
{
    return fsync(h->fd) < 0 ? trace_errno_set(err, h->path, "sync") : 0;
}

void trace_h5_abandon(struct trace_h5 *h)
{
    char part[PATH_MAX];
    part_name(h, part);
    if (h->in_copy)
        unlink(part);
    h->in_copy = false;
    close_own(h);
    h->file = -1;
}

void trace_h5_close(struct trace_h5 *h)
{
    close_library(h);
    trace_h5_abandon(h);
}

// Reading. The file may be damaged in any way; what cannot be read is left out and counted.

static char *read_text_attr(hid_t a)
{
    char *text = NULL;
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    size_t size = type < 0 ? 0 : H5Tget_size(type);
    if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && size > 0 &&
        size <= 1 << 16 && H5Sget_simple_extent_npoints(space) == 1) {
        text = mem_alloc(MEM_TRACE, size + 1);
        if (H5Aread(a, type, text) < 0) {
            mem_free(text);
            text = NULL;
        }
    }
    H5Sclose(space);
    H5Tclose(type);
    return text;
}

static bool read_int_attr(hid_t file, const char *name, int32_t *v)
{
    hid_t a = H5Aopen_by_name(file, "/", name, H5P_DEFAULT, H5P_DEFAULT);
    if (a < 0)
        return false;
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    bool good = H5Tget_class(type) == H5T_INTEGER && H5Sget_simple_extent_npoints(space) == 1 &&
                H5Aread(a, H5T_NATIVE_INT32, v) >= 0;
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    return good;
}

struct attr_visit {
    struct trace_file *f;
    enum trace_place place;
};

static herr_t visit_attr(hid_t where, const char *name, const H5A_info_t *info, void *arg)
{
    (void)info;
    struct attr_visit *v = arg;
    hid_t a = H5Aopen(where, name, H5P_DEFAULT);
    char *text = a < 0 ? NULL : read_text_attr(a);
    if (text && strcmp(name, "format") != 0)
        trace_fact_add(v->f, v->place, name, text, strlen(text));
    mem_free(text);
    H5Aclose(a);
    return v->f->n_facts > 4096;
}

static void load_text(hid_t file, const char *name, struct trace_file *f)
{
    char path[96];
    snprintf(path, sizeof path, "/meta/%s", name);
    hid_t d = H5Dopen2(file, path, H5P_DEFAULT);
    if (d < 0)
        return;
    hid_t type = H5Dget_type(d), space = H5Dget_space(d);
    size_t size = H5Tget_size(type);
    if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && size > 0 &&
        size <= TRACE_TEXT_MAX && H5Sget_simple_extent_npoints(space) == 1) {
        char *text = mem_alloc(MEM_TRACE, size + 1);
        if (H5Dread(d, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) >= 0)
            trace_fact_add(f, TRACE_META, name, text, strlen(text));
        else
            f->damaged++;
        mem_free(text);
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(d);
}

static void load_facts(hid_t file, struct trace_file *f)
{
    const char *const groups[] = {"/", "/config"};
    for (int i = 0; i < 2; i++) {
        struct attr_visit v = {f, i ? TRACE_CONFIG : TRACE_ROOT};
        hsize_t at = 0;
        if (H5Aiterate_by_name(file, groups[i], H5_INDEX_NAME, H5_ITER_INC, &at, visit_attr, &v,
                               H5P_DEFAULT) < 0)
            f->damaged++;
    }
    for (int i = 0; trace_meta_names[i]; i++)
        load_text(file, trace_meta_names[i], f);
    int32_t complete = 0;
    f->complete = read_int_attr(file, "complete", &complete) && complete == 1;
}

// Those members of our row that the file has, by name.
static hid_t reading_type(enum record_id id, hid_t dataset)
{
    hid_t in_file = H5Dget_type(dataset), t = -1;
    int found = 0;
    if (H5Tget_class(in_file) == H5T_COMPOUND) {
        t = H5Tcreate(H5T_COMPOUND, record_tables[id].row_bytes);
        for (const struct record_field *f = record_tables[id].fields; f->name; f++)
            found += insert_columns(t, f, false, in_file);
        if (!found) {
            H5Tclose(t);
            t = -1;
        }
    }
    H5Tclose(in_file);
    return t;
}

static int read_rows(hid_t d, hid_t type, hid_t space, hsize_t start, hsize_t n, void *out)
{
    hid_t mem = H5Screate_simple(1, &n, NULL);
    int r = H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &n, NULL) < 0 ||
                    H5Dread(d, type, mem, space, H5P_DEFAULT, out) < 0
                ? -1
                : 0;
    H5Sclose(mem);
    H5Eclear2(H5E_DEFAULT);
    return r;
}

// A field that an older file lacks is missing in every row.
static void make_missing(enum record_id id, char *row)
{
    memset(row, 0, record_tables[id].row_bytes);
    for (const struct record_field *f = record_tables[id].fields; f->name; f++) {
        size_t bytes = trace_field_bytes(f);
        if (f->type == FIELD_I32 || f->type == FIELD_I64)
            memset(row + f->offset, 0xff, bytes);
        else if (f->type == FIELD_F64)
            for (size_t k = 0; k < bytes; k += sizeof(double))
                memcpy(row + f->offset + k, &(double){NAN}, sizeof(double));
    }
}

#define READ_CHUNKS 64

static void load_rows(enum record_id id, hid_t d, int64_t rows, size_t chunk, struct trace_file *f)
{
    size_t row_bytes = record_tables[id].row_bytes, block = chunk * READ_CHUNKS;
    hid_t type = reading_type(id, d), space = H5Dget_space(d);
    char *buf = mem_alloc(MEM_TRACE, block * row_bytes);
    for (int64_t at = 0; type >= 0 && at < rows; at += (int64_t)block) {
        size_t n = rows - at < (int64_t)block ? (size_t)(rows - at) : block;
        for (size_t i = 0; i < n; i++)
            make_missing(id, buf + i * row_bytes);
        if (read_rows(d, type, space, (hsize_t)at, n, buf) == 0) {
            trace_rows_add(f, id, buf, n);
            continue;
        }
        for (size_t done = 0; done < n; done += chunk) {
            size_t k = n - done < chunk ? n - done : chunk;
            if (read_rows(d, type, space, (hsize_t)at + done, k, buf) == 0)
                trace_rows_add(f, id, buf, k);
            else
                f->damaged++;
        }
    }
    f->damaged += type < 0;
    mem_free(buf);
    H5Sclose(space);
    H5Tclose(type);
}

// committed < 0: not known, then what is there counts.
static void load_table(hid_t file, enum record_id id, int64_t committed, int64_t file_bytes,
                       struct trace_file *f)
{
    hid_t d = H5Dopen2(file, record_tables[id].name, H5P_DEFAULT);
    if (d < 0) {
        f->damaged++;
        return;
    }
    int64_t rows = rows_of(d);
    size_t chunk = chunk_rows_of(d);
    // An index entry alone takes 24 bytes: a damaged size cannot send us round for ever.
    int64_t most = file_bytes / 24;
    bool sane = rows >= 0 && chunk > 0 && chunk <= (1u << 24) / record_tables[id].row_bytes &&
                (rows == 0 || rows / (int64_t)chunk <= most);
    f->exact = f->exact && sane && rows == committed;
    if (!sane)
        f->damaged++;
    else
        load_rows(id, d, committed >= 0 && committed < rows ? committed : rows, chunk, f);
    H5Dclose(d);
}

// Up to n numbers; how many there are, or -1.
static int read_counts(hid_t file, const char *name, int64_t *out, hssize_t n)
{
    hid_t d = H5Dopen2(file, name, H5P_DEFAULT);
    if (d < 0)
        return -1;
    hid_t type = H5Dget_type(d), space = H5Dget_space(d);
    hssize_t have = H5Sget_simple_extent_npoints(space);
    bool good = H5Tget_class(type) == H5T_INTEGER && have > 0 && have <= n &&
                H5Dread(d, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0;
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(d);
    return good ? (int)have : -1;
}

static int check_ours(hid_t file, const char *path, struct err *err)
{
    hid_t a = H5Aopen_by_name(file, "/", "format", H5P_DEFAULT, H5P_DEFAULT);
    char *format = a < 0 ? NULL : read_text_attr(a);
    bool ours = format && strcmp(format, TRACE_FORMAT) == 0;
    mem_free(format);
    H5Aclose(a);
    if (!ours)
        return err_set(err, "%s: an HDF5 file, but no trace (its attribute format is not %s)", path,
                       TRACE_FORMAT);
    return 0;
}

static int check_format(hid_t file, const char *path, struct err *err)
{
    int32_t version = 0;
    if (check_ours(file, path, err) < 0)
        return -1;
    if (!read_int_attr(file, "format_version", &version) || version != TRACE_FORMAT_VERSION)
        return err_set(err, "%s: trace format %d; this program reads %d", path, version,
                       TRACE_FORMAT_VERSION);
    return 0;
}

static hid_t open_to_read(const char *path, int (*check)(hid_t, const char *, struct err *),
                          struct err *err)
{
    library_start();
    errno = 0;
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0)
        return h5_error(err, path, "open as HDF5");
    if (check(file, path, err) < 0) {
        H5Fclose(file);
        H5Eclear2(H5E_DEFAULT);
        return -1;
    }
    return file;
}

int trace_h5_ours(const char *path, struct err *err)
{
    hid_t file = open_to_read(path, check_ours, err);
    if (file < 0)
        return -1;
    H5Fclose(file);
    H5Eclear2(H5E_DEFAULT);
    return 0;
}

int trace_h5_load(const char *path, struct trace_file *f, struct err *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return trace_errno_set(err, path, "read");
    if (!S_ISREG(st.st_mode))
        return err_set(err, "%s: not a file", path);
    hid_t file = open_to_read(path, check_format, err);
    if (file < 0)
        return -1;
    f->exact = true;
    load_facts(file, f);
    // Tables are only ever added at the end: an older file has fewer.
    int64_t committed[REC_COUNT];
    int tables = read_counts(file, "/rows_committed", committed, REC_COUNT);
    f->damaged += tables < 0;
    f->damaged += read_counts(file, "/rounds_committed", &f->rounds_committed, 1) < 0;
    for (int id = 0; id < (tables < 0 ? REC_COUNT : tables); id++)
        load_table(file, (enum record_id)id, tables < 0 ? -1 : committed[id], st.st_size, f);
    f->exact = f->exact && f->damaged == 0 && tables == REC_COUNT;
    H5Fclose(file);
    H5Eclear2(H5E_DEFAULT);
    return 0;
}
