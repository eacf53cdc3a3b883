#!/usr/bin/env python3
"""The ISO neural network codec on updates that a run kept, beside codecs of this suite.

    bench/peers/compare_nnc.py UPDATE.safetensors ... [--steps 1 2 3] [--methods 'klt;uniform']

NNC (ISO/IEC 15938-17: DeepCABAC, dependent quantisation) by the Python package nncodec, which a
virtual environment may hold: pip install nncodec. Both ways to hand it an update are shown: every
matrix a tensor of its own, and all A and all B^T stacked, which saves its syntax. Bits are of whole
messages, the error is of what its decoder gives; times are of its own calls, without files. The
program is $FSTQ, else build/release/fstq. Skips with a word where nncodec is not installed.
"""
import argparse
import contextlib
import io
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time

try:
    import numpy as np
    import nncodec.nn as nnc
except ImportError as e:
    print(f'compare_nnc: skipped: {sys.executable} has no {e.name}: pip install nncodec in a venv')
    sys.exit(0)


def read(path):
    """The fp32 matrices of a safetensors file, by name."""
    with open(path, 'rb') as f:
        head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        data = f.read()
    head.pop('__metadata__', None)
    rows = sorted(head.items(), key=lambda kv: kv[1]['data_offsets'][0])
    return {k: np.frombuffer(data[slice(*v['data_offsets'])], '<f4').reshape(v['shape']).copy()
            for k, v in rows}


def stacked(update):
    """All A below one another, all B^T too, those of one length together."""
    groups = {}
    for x in update.values():
        wide = x.shape[0] <= x.shape[1]
        groups.setdefault(f'{"A" if wide else "B"}{max(x.shape)}', []).append(x if wide else x.T)
    return {k: np.ascontiguousarray(np.concatenate(v)) for k, v in groups.items()}


def run_nnc(tensors, qp, dependent, room):
    """Bits a value, relative squared error, and seconds to encode and decode."""
    args = {'qp': qp, 'use_dq': dependent, 'results': room}
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        stream = nnc.encode({k: v.copy() for k, v in tensors.items()}, args)
        middle = time.perf_counter()
        back = nnc.decode(stream)
        end = time.perf_counter()
    n = sum(v.size for v in tensors.values())
    lost = sum(float(((v - np.asarray(back[k])) ** 2).sum()) for k, v in tensors.items())
    all_of = sum(float((v ** 2).sum()) for v in tensors.values())
    return 8 * len(stream) / n, lost / all_of, middle - start, end - middle


def run_fstq(program, path, methods):
    with tempfile.TemporaryDirectory() as room:
        out = os.path.join(room, 'codec.json')
        done = subprocess.run(
            [program, 'bench', 'codec', 'codec.dist=file', f'codec.file={path}', 'codec.values=0',
             'codec.draws=1', f'codec.methods={methods}', '--samples', '3', '--min-time', '0.001',
             '--json', out], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f'compare_nnc: {" ".join(done.args)}: {done.stdout}{done.stderr}')
        with open(out) as f:
            rows = {r['name']: r for r in json.load(f)['benchmarks']}
    for name, row in rows.items():
        if name.endswith('/encode_median'):
            method = name[len('codec/codec/'):-len('/encode_median')]
            back = rows[f'codec/codec/{method}/decode_median']
            yield (method, row['bits_per_value'], row['nmse'], row['real_time'] * 1e-9,
                   back['real_time'] * 1e-9)


def show(path, name, bits, nmse, encode, decode):
    print(f'{os.path.basename(path):28} {name:44} {bits:7.4f} {nmse:8.5f} {1e3 * encode:9.3f} '
          f'{1e3 * decode:9.3f}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('updates', nargs='+', metavar='UPDATE.safetensors')
    parser.add_argument('--steps', type=float, nargs='*', default=[1, 1.5, 2, 3],
                        help="of the update's root mean square; its own are 2^(qp / 4)")
    parser.add_argument('--methods', default='uniform:step=2,dead=0.1,value=centre,group=class;'
                        'klt:step=2.5', help="codecs of this suite, separated by ';'")
    args = parser.parse_args()
    program = os.environ.get('FSTQ', 'build/release/fstq')
    if not os.access(program, os.X_OK):
        sys.exit(f'compare_nnc: no {program}: run make first')
    print(f'{"# update":28} {"codec":44} {"bits":>7} {"NMSE":>8} {"encode ms":>9} {"decode ms":>9}')
    for path in args.updates:
        update = read(path)
        n = sum(v.size for v in update.values())
        rms = math.sqrt(sum(float((v.astype(np.float64) ** 2).sum()) for v in update.values()) / n)
        for row in run_fstq(program, path, args.methods):
            show(path, *row)
        with tempfile.TemporaryDirectory() as room:
            for way, tensors in (('each', update), ('stacked', stacked(update))):
                for dependent in (False, True):
                    for step in args.steps:
                        qp = round(4 * math.log2(step * rms))
                        name = f'nnc:qp={qp},{"trellis" if dependent else "scalar"},{way}'
                        show(path, name, *run_nnc(tensors, qp, dependent, room))


if __name__ == '__main__':
    main()
