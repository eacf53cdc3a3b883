#!/usr/bin/env python3
"""Writes blocks.txt: random blocks of every type that kernels/block.c decodes, and their values.

A line: TYPE, the blocks' bytes, their values as fp32 bits, both in hex. The oracle is the Python
package gguf (pip install gguf); random scales are kept in a range where they stay finite. NF4's
levels are those of QLoRA's appendix E (Dettmers et al. 2023).
"""
import os

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

TYPES = ('F32', 'F16', 'BF16', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'Q2_K', 'Q3_K', 'Q4_K',
         'Q5_K', 'Q6_K', 'IQ4_NL', 'IQ4_XS')
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
                -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
                0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
                0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
                0.7229568362236023, 1.0], '<f4')
# Where a block's halves lie.
HALVES = {'F16': (0,), 'Q4_0': (0,), 'Q4_1': (0, 2), 'Q5_0': (0,), 'Q5_1': (0, 2), 'Q8_0': (0,),
          'Q2_K': (80, 82), 'Q3_K': (108,), 'Q4_K': (0, 2), 'Q5_K': (0, 2), 'Q6_K': (208,),
          'IQ4_NL': (0,), 'IQ4_XS': (0,)}


def main():
    rng = np.random.default_rng(20260425)
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, 'blocks.txt'), 'w', encoding='ascii') as out:
        for name in TYPES:
            values, size = GGML_QUANT_SIZES[T[name]]
            n = max(2, 32 // values)
            raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
            if name in ('F32', 'BF16'):
                x = rng.normal(size=n).astype('<f4')
                raw = x.view(np.uint8).reshape(n, 4)[:, 4 - size:].copy()
            for at in HALVES.get(name, ()):
                raw[:, at:at + 2] = rng.normal(0, 0.05, n).astype('<f2').view(np.uint8).reshape(n, 2)
            y = dequantize(raw.reshape(1, -1), T[name]).astype('<f4')
            out.write(f'{name} {raw.tobytes().hex()} {y.tobytes().hex()}\n')
        raw = rng.integers(0, 256, (2, 34), dtype=np.uint8)
        raw[:, :2] = np.array([[0.05], [-1.5]], '<f2').view(np.uint8)
        q = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1)
        y = raw[:, :2].copy().view('<f2').astype('<f4') * NF4[q]
        out.write(f'NF4 {raw.tobytes().hex()} {y.tobytes().hex()}\n')


if __name__ == '__main__':
    main()
