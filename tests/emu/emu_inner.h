// Between the parts of the engine: emu.cc runs blocks, emu_memory.cc has memory, emu_stream.cc
// streams.
#ifndef FSTQ_EMU_INNER_H
#define FSTQ_EMU_INNER_H

#include "emu.h"

enum { EMU_THREADS = 1024, EMU_SHARED_MOST = 232448 }; // a block's: 227 KiB of shared memory

// A kernel with its arguments as bytes, the kernel's address first.
void emu_run_kernel(const emu_launch &l, void (*call)(const void *args), const void *args,
                    size_t args_bytes);
const char *emu_running(void); // the kernel that runs, or NULL
// In the order that was asked for: one of n, the first, the last or a drawn one; whether another
// stream comes first.
unsigned emu_choose(unsigned n);
bool emu_ahead(void);

void emu_memory_open(bool on); // kernels run
void emu_managed_open(bool on);
void emu_fill(void *to, int byte, size_t n);
uint64_t emu_block_serial(const void *p); // of the block that p lies in or ends; 0: none

#endif
