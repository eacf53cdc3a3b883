#!/usr/bin/env python3
"""Deletes one barrier at a time from the GPU's kernels and says whether the tests find it.

  tests/emu/mutate.py [FILE ...]      of kernels/, e.g. norm.cu; without: all

Each mutant is compiled for the emulation, checked, and runs test_kernels in one order, or
test_codec_stages. Found is a wrong value, a finding of the checks, or an end. What is not found
must be in REDUNDANT, with its reason, and nothing else may be there. Works in a copy; a minute or
more for each file.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BARRIER = re.compile(r'__sync(threads|warp)\(\);')
# file, how many barriers stand before it: why it may go
REDUNDANT = {}
# Files that test_codec_stages tests; the others are test_kernels' work.
CODECS = ('entropy.cu', 'gpu_codes.h', 'mix.cu', 'quantise.cu', 'rotate.cu', 'select.cu',
          'widths.cu')


def make(copy, *goals):
    return subprocess.run(['make', '-s', '-C', copy, 'CUDA=0', 'O=build/m', *goals],
                          capture_output=True, text=True)


def found(copy, program):
    """What the tests say of a mutant, or nothing."""
    goal = f'build/m/tests/emu/{program}'
    built = make(copy, goal)
    if built.returncode:
        sys.exit(f'a mutant does not compile:\n{built.stderr}')
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT='TAP')
    try:
        run = subprocess.run([os.path.join(copy, goal), 'emu', 'seed1'], capture_output=True,
                             text=True, timeout=300, env=env, errors='replace')
    except subprocess.TimeoutExpired:
        return 'it never ends'
    if run.returncode == 0:
        return ''
    m = re.search(r'emu: (.*)|^not ok \d+ - (.*)', run.stdout + run.stderr, re.M)
    return (m[1] or m[2]) if m else f'status {run.returncode}'


def mutants(path):
    """The source without one barrier, and the line where that stood."""
    with open(path, encoding='utf-8') as f:
        text = f.read()
    for n, m in enumerate(BARRIER.finditer(text)):
        yield n, text.count('\n', 0, m.start()) + 1, text[:m.start()] + ';' + text[m.end():]


def main():
    files = sys.argv[1:] or sorted(f for f in os.listdir(os.path.join(ROOT, 'kernels'))
                                   if f.endswith('.cu') or f == 'gpu.h')
    bad = n = 0
    with tempfile.TemporaryDirectory() as copy:
        for part in ('Makefile', 'src', 'kernels', 'bench', 'configs', 'tests'):
            full = os.path.join(ROOT, part)
            if os.path.isdir(full):
                shutil.copytree(full, os.path.join(copy, part))
            else:
                shutil.copy(full, copy)
        for file in files:
            program = 'check_codecs' if file in CODECS else 'check_kernels'
            why = found(copy, program)
            if why:
                sys.exit(f'the kernels as they are: {why}')
            path = os.path.join(copy, 'kernels', file)
            shutil.copy(path, path + '.whole')
            for which, line, text in mutants(path):
                with open(path, 'w', encoding='utf-8') as f:
                    f.write(text)
                why, free = found(copy, program), REDUNDANT.get((file, which))
                good = bool(why) != bool(free)
                n += 1
                bad += not good
                print(f'{"" if good else "not "}ok {n} - {file}:{line} without its barrier: '
                      f'{why or "not found" + (", as " + free if free else "")}', flush=True)
            shutil.move(path + '.whole', path)
            os.utime(path)
    print(f'1..{n}')
    return bad > 0


if __name__ == '__main__':
    sys.exit(main())
