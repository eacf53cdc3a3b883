#!/usr/bin/python3
"""Are codecs as fast as they should be? speed_codecs.py [NAME ...] [--samples 11] [--clock wall]

One fstq bench codec (or rans) a row, on 40 million values (llama2-7b-r16-all), one core; copy is
memcpy of the same update in the same run, samples in turn. Prints each figure beside its target;
status 1 when one misses. FSTQ=build/release/fstq names the program. A machine that others use too
distorts wall time; --clock cpu shows what the core spent.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

# name: (method, encode, decode); a target is a share of copy ('%') or GB/s of fp32
ROWS = {
    'sign': ('sign', '100%', '180%'),
    'int8': ('int8', '100%', '180%'),
    'int4': ('int4', '100%', '180%'),
    'int2': ('int2', '100%', '180%'),
    'ternary': ('int2:block=0', '100%', '180%'),
    'terngrad': ('terngrad', '60%', '180%'),
    'qsgd': ('qsgd', '60%', '180%'),
    'eden': ('eden:bits=1', '40%', '40%'),
    'topk': ('topk:ratio=0.01', '80%', '180%'),
    'uniform': ('uniform', '40%', '60%'),
    'fstq': ('fstq', '0.6', None),
    'zstd': ('int4+zstd', None, None),
    'lz4': ('int4+lz4', None, None),
}


def bench(arguments, samples):
    program = os.environ.get('FSTQ', 'build/release/fstq')
    with tempfile.NamedTemporaryFile(suffix='.json') as f:
        command = [program, 'bench', *arguments, '--samples', str(samples), '--json', f.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as e:
            sys.exit(f'speed_codecs.py: {program}: {e.strerror}; run make first, or set FSTQ')
        if done.returncode:
            sys.exit(f'{done.stdout}{done.stderr}speed_codecs.py: {" ".join(command)} failed')
        with open(f.name) as written:  # which stands in the other's place
            return json.load(written)['benchmarks']


def times(rows, name, key):
    """The samples of one row, in the order in which they were taken, in ns."""
    found = [(r['repetition_index'], r[key]) for r in rows
             if r['name'] == name and r['run_type'] == 'iteration']
    return [t for _, t in sorted(found)]


def codec(method, threads, samples, key):
    rows = bench(['codec', f'codec.methods={method}', 'codec.shape=llama2-7b-r16-all',
                  'codec.values=0', 'codec.draws=1', f'codec.threads={threads}'], samples)
    taken = {op: times(rows, f'codec/codec/{method}/{op}', key)
             for op in ('memcpy', 'encode', 'decode')}
    size = next(r['bytes_per_second'] * r['real_time'] * 1e-9 for r in rows
                if r['run_type'] == 'iteration')
    out = {}
    for op in ('encode', 'decode'):
        out[op] = (size / statistics.median(taken[op]),
                   100 * statistics.median(c / t for c, t in zip(taken['memcpy'], taken[op])))
    return out, size / statistics.median(taken['memcpy'])


class Verdicts:
    def __init__(self):
        self.missed = 0

    def __call__(self, value, target):
        if target is None:
            return ''
        ok = value >= float(target.rstrip('%'))
        self.missed += not ok
        return f'{"ok" if ok else "MISS"} (>= {target})'


def codecs(names, args, key, verdict):
    print('# Codec          encode  of copy                 decode  of copy                   copy')
    print('#                (GB/s)      (%)                 (GB/s)      (%)                 (GB/s)')
    for name in names:
        method, *targets = ROWS[name]
        got, copy = codec(method, 1, args.samples, key)
        line = f'{method:16}'
        for op, target in zip(('encode', 'decode'), targets):
            speed, share = got[op]
            word = verdict(share if target and target.endswith('%') else speed, target)
            line += f' {speed:7.2f} {share:7.0f}  {word:15} '
        print(f'{line}{copy:7.2f}', flush=True)


def rans(args, key, verdict):
    values = 1 << 22
    rows = bench(['rans', f'rans.values={values}'], args.samples)
    sources = sorted({tuple(r['run_name'].split('/')[2:4]) for r in rows})
    print('#\n# rANS, kinds/ratio   encode                    decode   (M symbols/s)')
    for kinds, ratio in sources:
        line = f'{kinds + "/" + ratio:20}'
        for op, target in (('encode', '300'), ('decode', '500')):
            t = times(rows, f'rans/rans/{kinds}/{ratio}/{op}/avx512', key)
            speed = values / statistics.median(t) * 1e3
            line += f' {speed:7.0f}  {verdict(speed, target):15} '
        print(line)


def two_cores(names, args, verdict):
    print('#\n# Two cores, wall clock: times one core')
    for name in names:
        method = ROWS[name][0]
        rounds = [(codec(method, 1, 5, 'real_time')[0], codec(method, 2, 5, 'real_time')[0])
                  for _ in range(3)]
        line = f'{method:16}'
        for op in ('encode', 'decode'):
            ratio = statistics.median(two[op][0] / one[op][0] for one, two in rounds)
            line += f' {op} {ratio:5.2f}  {verdict(ratio, "1.8"):15}'
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('names', nargs='*', metavar='NAME',
                        help=f'{", ".join(ROWS)}, rans, two; default all but two')
    parser.add_argument('--samples', type=int, default=11)
    parser.add_argument('--clock', choices=('wall', 'cpu'), default='wall')
    args = parser.parse_args()
    unknown = [n for n in args.names if n not in ROWS and n not in ('rans', 'two')]
    if unknown:
        parser.error(f'no row {", ".join(unknown)}')
    key, verdict = {'wall': 'real_time', 'cpu': 'cpu_time'}[args.clock], Verdicts()
    names = args.names or [*ROWS, 'rans']
    if any(n in ROWS for n in names):
        codecs([n for n in names if n in ROWS], args, key, verdict)
    if 'rans' in names:
        rans(args, key, verdict)
    if 'two' in names:
        two_cores(['int8', 'int4', 'qsgd', 'eden', 'topk'], args, verdict)
    print(f'# {verdict.missed} targets missed' if verdict.missed else '# every target is reached')
    return 1 if verdict.missed else 0


if __name__ == '__main__':
    sys.exit(main())
