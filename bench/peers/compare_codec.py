#!/usr/bin/python3
"""What a user would write instead of `fstq bench codec`: the same compressors in PyTorch and NumPy.

    bench/peers/compare_codec.py [METHOD ...] [--shape llama2-7b-r16-all] [--rounds 3]
                                 [--threads 1] [--clock wall]

In the style of GRACE (sands-lab/grace): one compress and one decompress per tensor, of the
whole tensor. Unlike there, codes are packed, so that both sides move the same number of
bits. Each round measures fstq and then the peer, method by method, on an update of the same size
and distribution; what is printed are medians over the rounds, with the bits and the error of both.
No decoder can be faster than the stores of its output: each round also times a memset of as many
bytes, and beside fstq's decoding stands its share of that speed. Where it is 80% or more on one
thread, a ratio below 5 says how near the peer is to memory's speed, and is marked memory-bound.
METHOD: default all. FSTQ=build/release/fstq names the program.
"""
import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time

try:
    import numpy as np
    import torch
except ImportError as e:
    print(f'compare_codec: skipped: {sys.executable} has no {e.name}; on Debian: '
          'apt-get install python3-torch python3-numpy')
    sys.exit(0)

DIMS = {'llama2-7b': (4096, 4096, 11008, 32), 'llama3-8b': (4096, 1024, 14336, 32),
        'tinyllama': (2048, 256, 5632, 22), 'qwen2.5-0.5b': (896, 128, 4864, 24)}
MODULES = {'qv': 'qv', 'qkvo': 'qkvo', 'all': 'qkvogud'}


def shapes(name):
    """The sizes of all tensors of a LoRA adapter, as fstq names them: llama2-7b-r16-all."""
    model, rank, target = name.rsplit('-', 2)
    dim, kv, hidden, layers = DIMS[model]
    io = {'q': (dim, dim), 'k': (dim, kv), 'v': (dim, kv), 'o': (dim, dim), 'g': (dim, hidden),
          'u': (dim, hidden), 'd': (hidden, dim)}
    r = int(rank[1:])
    return [r * n for _ in range(layers) for m in MODULES[target] for n in io[m]]


def pack(codes, bits):
    """uint8 codes below 2^bits to bytes, low bits first."""
    c = codes.view(-1, 8 // bits)
    out = c[:, 0].clone()
    for k in range(1, 8 // bits):
        out |= c[:, k] << (bits * k)
    return out.numpy().tobytes()


def unpack(data, bits):
    b = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
    mask = (1 << bits) - 1
    return torch.stack([(b >> (bits * k)) & mask for k in range(8 // bits)], 1).view(-1)


def floats(data):
    return torch.from_numpy(np.frombuffer(data, np.float32).copy())


class Sign:
    def compress(self, x):
        return [x.abs().mean().numpy().tobytes(),
                np.packbits((x >= 0).numpy(), bitorder='little').tobytes()]

    def decompress(self, message, n):
        bits = np.unpackbits(np.frombuffer(message[1], np.uint8), count=n, bitorder='little')
        return (torch.from_numpy(bits).float() * 2 - 1) * floats(message[0])


class Int:
    def __init__(self, bits, block=256):
        self.bits, self.block, self.q = bits, block, (1 << (bits - 1)) - 1

    def compress(self, x):
        x = x.view(-1, self.block)
        scale = x.abs().amax(1, keepdim=True) / self.q
        code = (x / scale).round().clamp(-self.q, self.q).add(self.q).to(torch.uint8)
        return [scale.numpy().tobytes(), pack(code.view(-1), self.bits)]

    def decompress(self, message, n):
        code = unpack(message[1], self.bits).to(torch.float32) - self.q
        return (code.view(-1, self.block) * floats(message[0]).unsqueeze(1)).view(-1)


class Qsgd:
    def __init__(self, bits=4, bucket=512):
        self.bits, self.bucket, self.s = bits, bucket, (1 << (bits - 1)) - 1

    def compress(self, x):
        x = x.view(-1, self.bucket)
        norm = x.norm(dim=1, keepdim=True)
        level_float = self.s / norm * x.abs()
        level = level_float.floor()
        up = torch.empty_like(x).uniform_() < level_float - level
        level = (level + up.float()) * x.sign()
        return [norm.numpy().tobytes(), pack((level + self.s).to(torch.uint8).view(-1), self.bits)]

    def decompress(self, message, n):
        level = unpack(message[1], self.bits).to(torch.float32) - self.s
        return (level.view(-1, self.bucket) * (floats(message[0]).unsqueeze(1) / self.s)).view(-1)


class Terngrad:
    def compress(self, x):
        c = 2.5 * x.std(unbiased=False)
        x = x.clamp(-c, c)
        size = x.abs()
        scale = size.max()
        sign = x.sign() * scale
        sign[torch.empty_like(x).uniform_() >= size / scale] = 0
        return [scale.numpy().tobytes(), pack((sign.sign() + 1).to(torch.uint8), 2)]

    def decompress(self, message, n):
        return (unpack(message[1], 2).to(torch.float32) - 1) * floats(message[0])


class Topk:
    def __init__(self, ratio):
        self.ratio = ratio

    def compress(self, x):
        _, at = torch.topk(x.abs(), max(1, int(x.numel() * self.ratio)), sorted=False)
        return [x[at].half().numpy().tobytes(), at.int().numpy().tobytes()]

    def decompress(self, message, n):
        x = torch.zeros(n)
        at = torch.from_numpy(np.frombuffer(message[1], np.int32).copy()).long()
        x[at] = torch.from_numpy(np.frombuffer(message[0], np.float16).copy()).float()
        return x


class Eden:
    """One bit; cut into slices of a power of two, as fstq does."""

    def rotate(self, x):
        h = 1
        while h < x.numel():
            x = x.view(-1, 2, h)
            x = torch.stack((x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]), 1)
            h *= 2
        return x.view(-1) / math.sqrt(h)

    def signs(self, n):
        g = torch.Generator().manual_seed(7)
        return torch.randint(0, 2, (n,), generator=g).float() * 2 - 1

    def slices(self, n):
        at = 0
        while at < n:
            d = min(1 << ((n - at).bit_length() - 1), 65536)
            yield at, d
            at += d

    def compress(self, x):
        message = []
        for at, d in self.slices(x.numel()):
            y = self.rotate(x[at:at + d] * self.signs(d))
            scale = (y * y).sum() / y.abs().sum()
            message += [scale.numpy().tobytes(),
                        np.packbits((y >= 0).numpy(), bitorder='little').tobytes()]
        return message

    def decompress(self, message, n):
        x = torch.empty(n)
        for k, (at, d) in enumerate(self.slices(n)):
            bits = np.unpackbits(np.frombuffer(message[2 * k + 1], np.uint8), bitorder='little')
            y = (torch.from_numpy(bits).float() * 2 - 1) * floats(message[2 * k])
            x[at:at + d] = self.rotate(y) * self.signs(d)
        return x


PEERS = {'sign': Sign(), 'int8': Int(8), 'int4': Int(4), 'int2': Int(2), 'terngrad': Terngrad(),
         'qsgd': Qsgd(), 'eden': Eden(), 'topk:ratio=0.01': Topk(0.01)}


def run_peer(codec, update, clock):
    start = clock()
    messages = [codec.compress(x) for x in update]
    middle = clock()
    back = [codec.decompress(m, x.numel()) for m, x in zip(messages, update)]
    end = clock()
    values = sum(x.numel() for x in update)
    error = sum(((b - x).double() ** 2).sum().item() for b, x in zip(back, update))
    norm = sum((x.double() ** 2).sum().item() for x in update)
    return {'encode': middle - start, 'decode': end - middle, 'nmse': error / norm,
            'bits': 8 * sum(len(p) for m in messages for p in m) / values}


def run_fstq(program, method, args, samples):
    with tempfile.NamedTemporaryFile(suffix='.json') as f:
        done = subprocess.run(
            [program, 'bench', 'codec', f'codec.methods={method}', f'codec.shape={args.shape}',
             'codec.values=0', 'codec.draws=1', f'codec.threads={args.threads}', '--samples',
             str(samples), '--min-time', '0.001', '--json', f.name], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f'compare_codec: {" ".join(done.args)}: {done.stdout}{done.stderr}')
        with open(f.name) as written:  # which stands in the other's place
            rows = {r['name']: r for r in json.load(written)['benchmarks']}
    pick = {op: rows[f'codec/codec/{method}/{op}_median'] for op in ('memcpy', 'encode', 'decode')}
    key = 'cpu_time' if args.clock == 'cpu' else 'real_time'
    return {**{op: row[key] * 1e-9 for op, row in pick.items()},
            'nmse': pick['encode']['nmse'], 'bits': pick['encode']['bits_per_value']}


def run_memset(room, clock):
    """Stores alone, as many bytes as a decoded update has; the fastest of three."""
    times = []
    for _ in range(3):
        start = clock()
        ctypes.memset(room.ctypes.data, 0, room.nbytes)
        times.append(clock() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('methods', nargs='*', metavar='METHOD', help=', '.join(PEERS))
    parser.add_argument('--shape', default='llama2-7b-r16-all')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--clock', choices=('wall', 'cpu'), default='wall',
                        help='cpu: of all threads, for a machine that others use too')
    args = parser.parse_args()
    clock = time.process_time if args.clock == 'cpu' else time.perf_counter
    unknown = [m for m in args.methods if m not in PEERS]
    if unknown:
        parser.error(f'no peer for {", ".join(unknown)}; there are {", ".join(PEERS)}')
    program = os.environ.get('FSTQ', 'build/release/fstq')
    if not os.access(program, os.X_OK):
        sys.exit(f'compare_codec: no {program}: run make first')
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    update = [torch.randn(n) * 1e-3 for n in shapes(args.shape)]
    size = 4e-9 * sum(x.numel() for x in update)
    print(f'# {args.shape}, {size / 4 * 1e3:.1f} million values in {len(update)} tensors, '
          f'{args.threads} thread(s), torch {torch.__version__}; GB/s of fp32, {args.clock} '
          f'clock, medians of {args.rounds} rounds in turn')
    print(f'{"# Codec":16}{"":7} {"bits":>6} {"NMSE":>8} {"encode":>7} {"decode":>7}  of memset '
          '(%)   torch/fstq: encode (least..most)   decode (least..most)')
    room = np.ones(sum(x.numel() for x in update), np.float32)
    slow = bound = 0
    for method in args.methods or PEERS:
        ours, theirs, fills = [], [], []
        for _ in range(args.rounds):
            ours.append(run_fstq(program, method, args, 5))
            fills.append(run_memset(room, clock))
            theirs.append(run_peer(PEERS[method], update, clock))
        share = statistics.median(f / r['decode'] for f, r in zip(fills, ours))
        for name, runs in (('fstq', ours), ('torch', theirs)):
            speed = [size / statistics.median(r[op] for r in runs) for op in ('encode', 'decode')]
            line = (f'{method:16}{name:7} {runs[0]["bits"]:6.3f} {runs[0]["nmse"]:8.5f} '
                    f'{speed[0]:7.2f} {speed[1]:7.2f}')
            if name == 'fstq':
                line += f' {100 * share:14.0f}'
            else:
                line += ' ' * 15
                for op in ('encode', 'decode'):
                    ratio = [t[op] / o[op] for t, o in zip(theirs, ours)]
                    middle = statistics.median(ratio)
                    at_limit = op == 'decode' and share >= .8 and args.threads == 1
                    slow += middle < 5
                    bound += middle < 5 and at_limit
                    line += f'   {middle:12.1f} ({min(ratio):.1f}..{max(ratio):.1f})'
                    line += ' memory-bound' if middle < 5 and at_limit else ''
            print(line, flush=True)
    print(f'# {slow} of the ratios are below 5, {bound} of them memory-bound' if slow else
          '# every ratio is at least 5')


if __name__ == '__main__':
    main()
