#!/usr/bin/python3
"""Reading a prompt and decoding, beside llama.cpp: the same GGUF, the same threads, in turn.

    bench/peers/compare_infer.py [MODEL.gguf] [--prompt 512] [--new 32] [--rounds 3] [--threads 1]
                                 [--math int8,fp32] [--clock wall|cpu] [--plain]

MODEL: default what scripts/get-model.sh fetches. llama.cpp runs through llama-cpp-python, as it was
built for this machine, or, where that is missing, through xllamacpp, whose wheel has it built for
AVX2; its cache is fp16, ours fp32. Each round measures fstq and then the peer, on
random tokens; the first token of an answer counts as reading. Printed are medians over the rounds,
and the median of the rounds' ratios. --clock cpu: processor time, which a busy machine does not
stretch; fstq's is that of a whole run less one that only reads. FSTQ=build/release/fstq names the
program. --plain: llama.cpp without weights laid out anew (AMX, repacked), where a machine announces
AMX and cannot run it. Without either package it says so and measures nothing.
"""
import argparse
import csv
import ctypes
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

llama_cpp = xllamacpp = None
try:
    import llama_cpp
except (ImportError, OSError, RuntimeError) as e:
    try:
        import xllamacpp
    except ImportError:
        print(f'compare_infer: skipped: {sys.executable} has no llama-cpp-python ({e}) and no '
              'xllamacpp; pip install one of them')
        sys.exit(0)


def parse():
    cache = os.environ.get('FSTQ_CACHE') or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'fstq')
    p = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    p.add_argument('model', nargs='?', default=os.path.join(cache, 'smollm2-135m.gguf'))
    p.add_argument('--prompt', type=int, default=512)
    p.add_argument('--new', type=int, default=32)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--threads', type=int, default=1)
    p.add_argument('--math', default='int8,fp32')
    p.add_argument('--clock', choices=['wall', 'cpu'], default='wall')
    p.add_argument('--plain', action='store_true')
    a = p.parse_args()
    if not os.path.exists(a.model):
        sys.exit(f'compare_infer: {a.model} is not there; scripts/get-model.sh fetches it')
    if a.prompt < 1 or a.new < 2 or a.rounds < 1 or a.threads < 1:
        sys.exit('compare_infer: a prompt, two new tokens, a round and a thread are the least')
    return a


def ours(a, math):
    """Seconds to read the prompt, seconds to decode all tokens after the first."""
    def once(new):
        with tempfile.TemporaryDirectory() as d:
            out = os.path.join(d, 'infer.csv')
            subprocess.run(
                [os.environ.get('FSTQ', 'build/release/fstq'), 'infer', f'model.path={a.model}',
                 f'dev.math={math}', f'dev.threads={a.threads}', 'dev.kind=cpu',
                 f'infer.prompt_tokens={a.prompt}', f'infer.new_tokens={new}', 'infer.repeat=1',
                 'infer.warmup=1', '--csv', out], check=True, stdout=subprocess.DEVNULL)
            with open(out, encoding='utf-8') as f:
                return next(csv.DictReader(f))
    row = once(a.new)
    if a.clock == 'cpu':
        read = float(once(1)['cpu_s'])
        return read, float(row['cpu_s']) - read
    return (a.prompt / float(row['prefill_tok_s']), (a.new - 1) / float(row['decode_tok_s']))


def leave_weights():
    """Models that are loaded from now on keep their weights as the file has them."""
    api = llama_cpp.llama_cpp
    usual = api.llama_model_default_params

    def params():
        p = usual()
        p.use_extra_bufts = False
        return p
    api.llama_model_default_params = params


class Peer:
    def __init__(self, a):
        self.clock = time.process_time if a.clock == 'cpu' else time.perf_counter
        self.llama = llama_cpp.Llama(a.model, n_ctx=a.prompt + a.new, n_batch=512, n_ubatch=512,
                                     n_threads=a.threads, n_threads_batch=a.threads,
                                     verbose=False)
        rng = random.Random(1)
        self.prompt = [rng.randrange(self.llama.n_vocab()) for _ in range(a.prompt)]
        self.new = a.new

    def next(self):
        """The likeliest token after what was read."""
        return llama_cpp.llama_sampler_sample(self.sampler, self.llama.ctx, -1)

    def eval(self, tokens):
        """Reads tokens behind those that were read, 512 at a time."""
        for at in range(0, len(tokens), 512):
            part = tokens[at:at + 512]
            array = (ctypes.c_int32 * len(part))(*part)
            batch = llama_cpp.llama_batch_get_one(array, len(part))
            if llama_cpp.llama_decode(self.llama.ctx, batch):
                sys.exit('compare_infer: llama_decode failed')

    def run(self):
        self.llama.reset()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.llama.ctx), True)
        self.sampler = llama_cpp.llama_sampler_init_greedy()
        t = [self.clock()]
        self.eval(self.prompt)
        token = self.next()
        t.append(self.clock())
        for _ in range(self.new - 1):
            self.eval([token])
            token = self.next()
        t.append(self.clock())
        llama_cpp.llama_sampler_free(self.sampler)
        return t[1] - t[0], t[2] - t[1]


class Bundled:
    """The same through xllamacpp, by whose server's own times a wall clock goes."""

    def __init__(self, a):
        p = xllamacpp.CommonParams()
        p.model.path = a.model
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_parallel = a.prompt + a.new + 256, 512, 512, 1
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = a.threads
        p.no_extra_bufts = a.plain
        p.verbosity = 0
        self.server = xllamacpp.Server(p)
        rng = random.Random(1)
        self.prompt = [rng.randrange(1000, 40000) for _ in range(a.prompt)]
        self.new, self.cpu = a.new, a.clock == 'cpu'

    def once(self, new):
        t = time.process_time()
        times = self.server.handle_completions(
            {'prompt': self.prompt, 'n_predict': new, 'temperature': 0, 'cache_prompt': False,
             'ignore_eos': True})['timings']
        if (times['prompt_n'], times['predicted_n']) != (len(self.prompt), new):
            sys.exit(f'compare_infer: llama.cpp read and wrote other numbers of tokens: {times}')
        return time.process_time() - t, times

    def run(self):
        cpu, times = self.once(self.new)
        if self.cpu:
            read = self.once(1)[0]
            return read, cpu - read
        return times['prompt_ms'] / 1e3, times['predicted_ms'] / 1e3


def main():
    a = parse()
    if a.plain and llama_cpp:
        leave_weights()
    peer = (Peer if llama_cpp else Bundled)(a)
    peer.run()  # warms up
    names = [f'fstq {m}' for m in a.math.split(',')]
    took = {n: [] for n in names + ['llama.cpp']}
    for _ in range(a.rounds):
        for m, n in zip(a.math.split(','), names):
            took[n].append(ours(a, m))
        took['llama.cpp'].append(peer.run())
    print(f'# {a.model}: {a.prompt} + {a.new} tokens, {a.threads} thread(s), {a.clock} time, '
          f'{a.rounds} rounds, load {os.getloadavg()[0]:.1f}, {(llama_cpp or xllamacpp).__name__} '
          f'{(llama_cpp or xllamacpp).__version__}{", plain" if a.plain else ""}')
    print('# ' + (llama_cpp.llama_print_system_info().decode() if llama_cpp
                  else xllamacpp.get_system_info()).strip())
    print('# program        prefill    decode   of llama.cpp: prefill  decode')
    print('#                 (tok/s)   (tok/s)                    (x)     (x)')
    work = (a.prompt, a.new - 1)
    for n, times in took.items():
        rate = [w / statistics.median(t[k] for t in times) for k, w in enumerate(work)]
        of = [statistics.median(p[k] / t[k] for p, t in zip(took['llama.cpp'], times))
              for k in (0, 1)]
        print(f'{n:<14} {rate[0]:10.1f} {rate[1]:9.1f} {of[0]:26.2f} {of[1]:7.2f}')


if __name__ == '__main__':
    main()
