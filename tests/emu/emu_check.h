// What the engine tells whoever watches the memory accesses of kernels: emu_check.cc in a checked
// build, where kernels are compiled with -fsanitize=thread, else emu_nocheck.cc, which does
// nothing.
#ifndef FSTQ_EMU_CHECK_H
#define FSTQ_EMU_CHECK_H

#include <cstddef>
#include <cstdint>

void emu_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void emu_check_open(const void *device, size_t device_bytes, const void *shared,
                    size_t shared_bytes);
void emu_check_block(const void *p, size_t n, bool live); // of device memory
void emu_check_launch(const void *args, size_t n);
void emu_check_begin(uint32_t block, unsigned threads);
void emu_check_shared(const void *p, size_t n);                              // the block has this
void emu_check_thread(int thread, const void *stack, const void *stack_end); // runs now; < 0: none
void emu_check_barrier(void);
void emu_check_join(unsigned warp, unsigned mask);
void emu_check_fence(void);
void emu_check_atomic(const void *at, size_t n);
uint64_t emu_check_findings(void);
void emu_check_traffic(uint64_t *read_bytes, uint64_t *write_bytes);

#endif
