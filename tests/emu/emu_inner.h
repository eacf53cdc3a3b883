// Between the two halves of the engine: emu.cc runs blocks, emu_memory.cc has memory and streams.
#ifndef FSTQ_EMU_INNER_H
#define FSTQ_EMU_INNER_H

#include "emu.h"

enum { EMU_THREADS = 1024, EMU_SHARED_MOST = 232448 }; // a block's: 227 KiB of shared memory

// A kernel with its arguments as bytes, the kernel's address first.
void emu_run_kernel(const emu_launch &l, void (*call)(const void *args), const void *args,
                    size_t args_bytes);
const char *emu_running(void); // the kernel that runs, or NULL

#endif
