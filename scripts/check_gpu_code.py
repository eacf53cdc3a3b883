#!/usr/bin/env python3
"""What nvcc made of the kernels: registers, spills, how many warps an SM can hold, atomics, and in
codecs fused multiply-adds.

  scripts/check_gpu_code.py BUILD             checks, one TAP line per kernel file and rule
  scripts/check_gpu_code.py BUILD --table     prints a line per kernel and architecture instead

BUILD is where the program was built with CUDA, e.g. build/release; there lies what ptxas said and
the PTX. The limits are in kernels/gpu_limits.txt. For other architectures than the default one
build with CUDA_ARCH="80 87 90 110 120" first.
"""
import glob
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Of an SM: warps, blocks, KiB of shared memory (CUDA C++ Programming Guide 13.0, table 30). All
# have 65,536 registers, given out in 256 a warp, and keep 1 KiB of shared memory a block.
SM = {72: (64, 32, 96), 75: (32, 16, 64), 80: (64, 32, 164), 86: (48, 16, 100),
      87: (48, 16, 164), 89: (48, 24, 100), 90: (64, 32, 228), 100: (64, 32, 228),
      103: (64, 32, 228), 110: (48, 24, 228), 120: (48, 24, 100), 121: (48, 24, 100)}
LIMITS_FOR = '13.0'  # compilers differ
# Files whose kernels give the CPU's bytes.
CODECS = ('entropy.cu', 'mix.cu', 'quantise.cu', 'rotate.cu', 'select.cu', 'widths.cu')


def limits():
    """kernel -> threads, dynamic shared memory, registers at most, warps at least"""
    rows = {}
    with open(os.path.join(ROOT, 'kernels/gpu_limits.txt'), encoding='utf-8') as f:
        for line in f:
            m = re.fullmatch(r'([^#\s].*?)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*', line)
            if m:
                rows[m[1]] = tuple(int(x) for x in m.groups()[1:])
    return rows


def plain_names(names):
    """Mangled -> as the source has it, without types of arguments."""
    text = subprocess.run(['c++filt'], input='\n'.join(names), capture_output=True, text=True,
                          check=True).stdout.split('\n')
    return {m: re.sub(r'^void ', '', t).split('(')[0] for m, t in zip(names, text)}


def compiled(log):
    """What ptxas said: (architecture, kernel) -> registers, stack, spilled bytes, static shared"""
    said, key, stack, spill = {}, None, 0, 0
    with open(log, encoding='utf-8') as f:
        for line in f:
            if m := re.search(r"entry function '(\w+)' for 'sm_(\d+)", line):
                key = int(m[2]), m[1]
            elif m := re.search(r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)', line):
                stack, spill = int(m[1]), int(m[2]) + int(m[3])
            elif (m := re.search(r'Used (\d+) registers', line)) and key:
                shared = re.search(r'(\d+) bytes smem', line)
                said[key] = int(m[1]), stack, spill, int(shared[1]) if shared else 0
                key = None
    names = plain_names(sorted({k for _, k in said}))
    return {(arch, names[k]): v for (arch, k), v in said.items()}


def warps(arch, registers, shared, threads):
    """Warps that an SM holds of such a kernel."""
    most, blocks, kib = SM[arch]
    block = (threads + 31) // 32
    each = (max(registers, 1) * 32 + 255) // 256 * 256
    by_registers = 65536 // each // 4 * 4 // block  # an SM has four parts
    by_shared = kib * 1024 // ((shared + 1024 + 127) // 128 * 128)
    return min(blocks, most // block, by_registers, by_shared) * block


def compiler(build):
    """The version of nvcc that the program was built with."""
    with open(f'{build}/facts.h', encoding='utf-8') as f:
        m = re.search(r'BUILD_CUDA "([\d.]+)"', f.read())
    return m[1] if m else '?'


def complaints(kernels, rows, known):
    """known: whether the limits are this compiler's. They are for sm_80 and later."""
    for (arch, name), (registers, stack, spill, static) in sorted(kernels.items()):
        if name not in rows:
            yield f'{name} is not in kernels/gpu_limits.txt'
            continue
        threads, dynamic, most, least = rows[name]
        held = warps(arch, registers, static + dynamic, threads)
        if arch < 80 or not known:
            continue
        if stack or spill:
            yield f'{name}, sm_{arch}: {stack} bytes of stack, {spill} spilled'
        if registers > most:
            yield f'{name}, sm_{arch}: {registers} registers, {most} are allowed'
        if held < least:
            yield f'{name}, sm_{arch}: an SM holds {held} warps, it should {least}'


def atomics(path):
    """Atomics on floats: their order is not fixed."""
    with open(path, encoding='utf-8') as f:
        for n, line in enumerate(f, 1):
            if re.search(r'^\s*(?:@!?%\w+\s+)?(?:red|atom)\.\S*\.(?:f16|bf16|f32|f64)', line):
                yield f'line {n}: {line.strip()}'


def roundings(path):
    """What rounds otherwise than the CPU. (Machine code has fused ones in divisions; not PTX.)"""
    with open(path, encoding='utf-8') as f:
        for n, line in enumerate(f, 1):
            if re.search(r'^\s*(?:@!?%\w+\s+)?(?:fma\.|\S+\.(?:approx|ftz)\b)', line):
                yield f'line {n}: {line.strip()}'


def print_table(build, rows):
    print(f'{"kernel":<28} {"arch":>6} {"registers":>9} {"shared":>7} {"threads":>7} {"warps":>9}')
    for log in sorted(glob.glob(f'{build}/kernels/*.cu.log')):
        for (arch, name), (registers, _, _, static) in sorted(
                compiled(log).items(), key=lambda x: (x[0][1], x[0][0])):
            threads, dynamic = rows[name][:2]
            held = f'{warps(arch, registers, static + dynamic, threads)} of {SM[arch][0]}'
            print(f'{name:<28} sm_{arch:<3} {registers:>9} {static + dynamic:>7} {threads:>7} '
                  f'{held:>9}')


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith('-'):
        sys.exit(__doc__.strip())
    build, rows, n, bad = sys.argv[1], limits(), 0, 0
    logs = sorted(glob.glob(f'{build}/kernels/*.cu.log'))
    if not logs:
        print('1..0 # SKIP built without CUDA')
        return 0
    if not shutil.which('c++filt'):
        print('1..0 # SKIP no c++filt, from binutils')
        return 0
    if '--table' in sys.argv:
        print_table(build, rows)
        return 0
    seen, results = set(), []
    known = compiler(build) == LIMITS_FOR
    if not known:
        print(f'# CUDA {compiler(build)}: registers and warps are not looked at, whose limits are '
              f'for {LIMITS_FOR}')
    for log in logs:
        kernels = compiled(log)
        seen |= {name for _, name in kernels}
        file = os.path.basename(log)[:-4]
        results.append((f'{file}: registers, spills, warps',
                        list(complaints(kernels, rows, known))))
        results.append((f'{file}: no atomics on floats', list(atomics(log[:-4] + '.ptx'))))
        if file in CODECS:
            results.append((f'{file}: rounds as the CPU does', list(roundings(log[:-4] + '.ptx'))))
    results.append(('every line of gpu_limits.txt has a kernel',
                    [f'{name}: no such kernel' for name in rows if name not in seen]))
    for what, wrong in results:
        n += 1
        bad += bool(wrong)
        print(f'{"not " if wrong else ""}ok {n} - {what}')
        for line in wrong:
            print(f'# {line}')
    print('# instructions: not looked at, which takes cuobjdump and nvdisasm')
    print(f'1..{n}')
    return bad > 0


if __name__ == '__main__':
    sys.exit(main())
