// The host's side of the emulation: seeds, memory, streams, graphs. One thread of the host.
#ifndef FSTQ_EMU_RUN_H
#define FSTQ_EMU_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Of threads and of blocks: ascending, descending, or drawn.
enum emu_order { EMU_RANDOM, EMU_FORWARD, EMU_BACKWARD };
void emu_seed(uint64_t seed, enum emu_order order);

// Device memory: host code that touches it ends the program. NULL: there is no more.
void *emu_alloc(size_t size_bytes);
void emu_free(void *block);
bool emu_is_device(const void *p);
// Memory of both, part of the device's: where it is managed host code may touch it only while
// nothing is queued.
void *emu_alloc_shared(size_t size_bytes, bool managed);
bool emu_is_shared(const void *p);

// A stream does nothing until somebody waits for it, or for another stream, and reads what it
// copies then.
void *emu_stream(void);
void emu_stream_free(void *stream);
void emu_put(void *stream, void *to, const void *from, size_t size_bytes);
void emu_set(void *stream, void *to, int byte, size_t size_bytes);
// A call on the host with device memory open to it: a library's work, a time.
void emu_call_later(void *stream, void (*call)(const void *args), const void *args,
                    size_t args_bytes);
void emu_wait(void *stream);
// An event is the place and the time at which a stream came to it; external: the time also within a
// capture. A stream that waits for one goes no further than the other had come by its record.
void *emu_event(void);
void emu_event_free(void *event);
void emu_event_record(void *event, void *stream, bool external);
void emu_event_wait(void *stream, const void *event);
int64_t emu_event_ns(const void *event);
// Between begin and end work is kept, not run; that of other streams, too, once they wait for an
// event of it. All of it must be waited for by the first stream when it ends.
void emu_capture_begin(void *stream);
void *emu_capture_end(void *stream);    // a graph
bool emu_capturing(const void *stream); // NULL: any
// Queues a graph's work, in any order that its waits leave.
void *emu_graph_copy(void *graph);
void emu_graph_launch(void *graph, void *stream);
void emu_graph_free(void *graph);

struct emu_counts {
    uint64_t launches, blocks, switches, barriers, meets, findings;
    uint64_t products, graphs;        // of the library; launches of graphs
    uint64_t read_bytes, write_bytes; // of device memory by kernels, a word once a launch; checked
    uint64_t put_bytes, get_bytes;    // to the device and from there
};
struct emu_counts emu_counted(void);
void emu_count_product(void);
void emu_count_graph(void);
void emu_count_copy(size_t size_bytes, bool there);
// By default an error is printed and ends the program. fn: is told instead, where that is possible.
void emu_on_error(void (*fn)(const char *text));
// What the machine claims to have from now on. error: of cudaGetDeviceCount, or 0; driver: the CUDA
// version that it is for, 0 for none.
struct emu_machine {
    int gpus, error, driver;
    bool without_blas, integrated;
};
void emu_claim(struct emu_machine m);

#ifdef __cplusplus
}
#endif

#endif
