#!/usr/bin/env python3
"""What is known of the GPU's kernels without a GPU, as the page bench/results/gpu-static.md.

  scripts/gpu_static.py BUILD > bench/results/gpu-static.md
  scripts/gpu_static.py BUILD --check FILE      whether the page still says so, within 5 % a number

BUILD is where the program and its tests were built with CUDA 13.0, e.g. build/release: there lie
what ptxas said and tests/emu/costs, which counts what the emulated kernels launch and touch.
"""
import glob
import os
import re
import subprocess
import sys
import textwrap

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check_gpu_code as code

# GB/s of memory, TFLOP/s in fp32 without tensor cores: data sheets of NVIDIA (Jetson Orin Nano
# 8 GB, Jetson AGX Orin 64 GB, Jetson T5000, H200 SXM).
BOARDS = (('Orin Nano', 68, 1.28), ('AGX Orin', 204.8, 5.3), ('Thor', 273, 8.06),
          ('H200', 4800, 67))
LAUNCH_US = 4  # assumed, on all of them
VALUES = 40e6
ARCH = 87
# Bytes a value that an encoder cannot do without, beside the message: it reads the update once;
# fstq Fisher's diagonal, too; error feedback reads what is left over and writes it anew.
BESIDE = {'fstq': 8, 'sign+ef': 12, 'cocktail+ef': 12, 'int4+ef21:init=zero': 12}
# TinyLlama 1.1B, rank 16 on all projections, 4 sequences of 256.
LAYERS, DIM, HIDDEN, KV, VOCAB, ROWS = 22, 2048, 5632, 256, 32000, 1024


def costs(build):
    """What the program says: (encode|decode, method) -> a value's costs; step -> by layers"""
    said = {}
    text = subprocess.run([f'{build}/tests/emu/costs'], capture_output=True, text=True,
                          check=True).stdout
    for line in text.splitlines():
        word = line.split(' ')
        if word[0] == 'step':
            said.setdefault('step', []).append([int(x) for x in word[1:]])
        else:
            said.setdefault((word[0], word[1]), []).append([int(x) for x in word[2:]])
    return said


def source(build, how):
    """Where a section is from."""
    with open(f'{build}/facts.h', encoding='utf-8') as f:
        rev = re.search(r'BUILD_GIT_REV "(\w+)', f.read())[1]
    return textwrap.fill(f'Source: `scripts/gpu_static.py build/release`; git {rev}; no GPU: '
                         f'{how}; no data file.', 100)


def ms(board, bytes_value, launches):
    return 1e3 * (bytes_value * VALUES / (board[1] * 1e9)) + launches * LAUNCH_US / 1e3


def codec_rows(said):
    """Between two sizes, so that what does not grow with the update does not count."""
    for (what, method), (a, b) in ((k, v) for k, v in said.items() if k != 'step'):
        n = b[0] - a[0]
        message, read, written = ((b[i] - a[i]) / n for i in (1, 3, 4))
        least = BESIDE.get(method, 4) + message if what == 'encode' else 0
        times = f'{(read + written) / least:.1f}' if least else '-'
        yield (f'`{method}`', what, str(b[2]), f'{8 * message:.2f}', f'{read:.2f}',
               f'{written:.2f}', f'{least:.2f}' if least else '-', times,
               *(f'{ms(x, read + written, b[2]):.2f}' for x in BOARDS))


def step_text(step):
    (_, launches, products, put, got), (_, launches2, products2, _, _) = step
    each, fixed = launches2 - launches, 2 * launches - launches2
    calls = products2 - products
    weights = LAYERS * (DIM * (DIM + 2 * KV) + DIM * DIM + 3 * DIM * HIDDEN)
    flop = 4.0 * ROWS * (weights + VOCAB * DIM)
    n = fixed + each * LAYERS + calls * LAYERS
    times = ', '.join(f'{name} {flop / tera / 1e9 + n * LAUNCH_US / 1e3:.0f} ms'
                      for name, _, tera in BOARDS)
    return f'''A step with AdamW is one graph of {fixed} launches and {each} a layer, and
{calls} products a layer by cuBLAS; it puts {put} bytes of one small batch onto the GPU and gets
{got}. TinyLlama 1.1B, {ROWS} tokens, is {flop / 1e12:.2f} TFLOP of products and {n} launches:
at the data sheets' fp32 rates and {LAUNCH_US} us a launch {times} at the least.
(Under `dev.math` = tf32, bf16 or fp16 tensor cores multiply by weights: without rates here.)'''


def kernel_rows(build):
    rows = code.limits()
    for log in sorted(glob.glob(f'{build}/kernels/*.cu.log')):
        for (arch, name), (registers, _, _, static) in sorted(code.compiled(log).items(),
                                                              key=lambda x: x[0][1]):
            if arch != ARCH:
                continue
            threads, dynamic = rows[name][:2]
            held = code.warps(arch, registers, static + dynamic, threads)
            yield (f'`{name}`', os.path.basename(log)[:-4], str(threads), str(registers),
                   str(static + dynamic), f'{held} of {code.SM[arch][0]}')


def table(head, rows):
    return '\n'.join(['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|'] +
                     ['| ' + ' | '.join(r) + ' |' for r in rows])


def page(build):
    said = costs(build)
    boards = (f'{name} ({bw:g} GB/s)' for name, bw, _ in BOARDS)
    head = ('method', '', 'launches', 'bits', 'read', 'written', 'least', 'times', *boards)
    kernels = ('kernel', 'file', 'threads', 'registers', 'shared', 'warps')
    return f'''# The GPU's kernels, without a GPU

`scripts/gpu_static.py build/release`, CUDA {code.LIMITS_FOR}. None of this was measured on a GPU:
it is what the first run on one is held against.

## Codecs

Launches of one update (of 32,768 values), bits a value of the message, and bytes of the GPU's
memory a value that kernels read and write, each 4-byte word once a launch, as if caches kept all
of a launch and none of the one before: counted in the emulation (`tests/emu/costs`), between
16,384 and 32,768 values. Least: what no encoder can do without. The last columns are milliseconds
for {VALUES / 1e6:.0f} million values at the data sheets' bandwidth and {LAUNCH_US} us a launch,
without copies to and from the host; decoding adds to what is there.

{table(head, codec_rows(said))}

{source(build, 'ptxas of CUDA ' + code.LIMITS_FOR + ' and emulation on x86-64')}

## A training step

{step_text(said['step'])}

{source(build, 'emulation on x86-64')}

## Kernels

On sm_{ARCH}, as ptxas has them; bytes of shared memory with the dynamic part, warps that a
multiprocessor holds. None spills.

{table(kernels, kernel_rows(build))}

{source(build, 'ptxas of CUDA ' + code.LIMITS_FOR)}
'''


def same(a, b):
    """Words equal, numbers within 5 %."""
    number = re.compile(r'\d+(?:\.\d+)?')
    if number.sub('#', a) != number.sub('#', b):
        return False
    return all(abs(float(x) - float(y)) <= .05 * max(float(x), float(y)) + .011
               for x, y in zip(number.findall(a), number.findall(b)))


def told(text):
    """The lines without those that say where they are from, which name a commit."""
    return re.sub(r'^Source: .*?(?=\n\n|\Z)', '', text, flags=re.M | re.S).split('\n')


def check(build, path):
    if not glob.glob(f'{build}/kernels/*.cu.log') or code.compiler(build) != code.LIMITS_FOR:
        print(f'1..0 # SKIP the page is of CUDA {code.LIMITS_FOR}')
        return 0
    with open(path, encoding='utf-8') as f:
        old, new = told(f.read()), told(page(build))
    wrong = [y for x, y in zip(old, new) if not same(x, y)]
    bad = bool(wrong) or len(old) != len(new)
    print(f'{"not " if bad else ""}ok 1 - {os.path.basename(path)} says what the kernels are')
    for line in wrong[:5]:
        print(f'# now: {line}')
    print('1..1')
    return bad


def main():
    args = sys.argv[1:]
    if len(args) == 3 and args[1] == '--check':
        return check(args[0], args[2])
    if len(args) != 1 or args[0].startswith('-'):
        sys.exit(__doc__.strip())
    print(page(args[0]), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
