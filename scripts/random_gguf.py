#!/usr/bin/env python3
"""Writes a GGUF file of random weights in the shape of a known model, blocks as in a Q4_K_M file.

What memory and time a model asks for depends on its shape alone, so that both can be measured
where the model itself is not at hand. The file has no vocabulary: give task.vocab, or take a
synthetic task. Needs numpy.
"""

import argparse
import struct
import sys

import numpy as np

# name: architecture, layers, dim, hidden, heads, kv heads, vocabulary, rope theta, tied head, qkv
# bias. From the config.json each is published with.
SHAPES = {
    "smollm2-135m": ("llama", 30, 576, 1536, 9, 3, 49152, 1e5, True, False),
    "qwen2.5-0.5b": ("qwen2", 24, 896, 4864, 14, 2, 151936, 1e6, True, True),
    "tinyllama-1.1b": ("llama", 22, 2048, 5632, 32, 4, 32000, 1e4, False, False),
}

SIGMA = 0.02  # of a weight
F32, Q5_0, Q8_0, Q4_K, Q6_K = 0, 6, 8, 12, 14  # tensor types of GGUF
# type: values of a block, bytes of it, and what it becomes where rows are no multiple of its values
# (ggml's own quantiser does so).
TYPES = {Q5_0: (32, 22, None), Q8_0: (32, 34, None), Q4_K: (256, 144, Q5_0), Q6_K: (256, 210, Q8_0)}
ALIGN = 32
U32, FLOAT, STRING = 4, 6, 8  # key types


def half(value, n):
    return np.full((n, 1), value, "<f2").view(np.uint8).reshape(n, 2)


def blocks(kind, n, rng):
    """n blocks (n, bytes): random codes under scales that give them SIGMA and a mean near 0."""
    codes = {Q5_0: 20, Q8_0: 32, Q4_K: 128, Q6_K: 192}[kind]
    code = rng.integers(0, 256, (n, codes), np.uint8)
    if kind == Q5_0:  # d (q - 16)
        return np.hstack([half(SIGMA / 9.2, n), code])
    if kind == Q8_0:  # d q
        return np.hstack([half(SIGMA / 74, n), code])
    if kind == Q6_K:  # d scale (q - 32)
        return np.hstack([code, np.full((n, 16), 16, np.uint8), half(SIGMA / (16 * 18.5), n)])
    # Q4_K: d 32 q - dmin 32, every group's scale and minimum 32 in the twelve bytes' packing
    scales = np.array([160] * 8 + [0] * 4, np.uint8)
    d = SIGMA / (32 * 4.6)
    return np.hstack([half(d, n), half(7.5 * d, n), np.tile(scales, (n, 1)), code])


def tensors(shape):
    """(name, rows, columns, type) of each; rows 0 = a vector."""
    arch, layers, dim, hidden, heads, kv, vocab, _, tied, bias = shape
    kv_cols = kv * (dim // heads)
    yield "token_embd.weight", vocab, dim, Q6_K if tied else Q4_K
    for i in range(layers):
        more = Q6_K if i < layers // 8 or i >= 7 * layers // 8 or i % 3 == 2 else Q4_K
        at = f"blk.{i}."
        yield at + "attn_norm.weight", 0, dim, F32
        yield at + "ffn_norm.weight", 0, dim, F32
        for name, rows, cols, kind in (
            ("attn_q", dim, dim, Q4_K),
            ("attn_k", kv_cols, dim, Q4_K),
            ("attn_v", kv_cols, dim, more),
            ("attn_output", dim, dim, Q4_K),
            ("ffn_gate", hidden, dim, Q4_K),
            ("ffn_up", hidden, dim, Q4_K),
            ("ffn_down", dim, hidden, more),
        ):
            yield at + name + ".weight", rows, cols, kind
            if bias and name in ("attn_q", "attn_k", "attn_v"):
                yield at + name + ".bias", 0, rows, F32
    yield "output_norm.weight", 0, dim, F32
    if not tied:
        yield "output.weight", vocab, dim, Q6_K


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def keys(shape):
    arch, layers, dim, hidden, heads, kv, vocab, theta, _, _ = shape
    yield "general.architecture", STRING, arch
    for name, value in (
        ("block_count", layers),
        ("context_length", 2048),
        ("embedding_length", dim),
        ("feed_forward_length", hidden),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv),
    ):
        yield f"{arch}.{name}", U32, value
    yield f"{arch}.rope.freq_base", FLOAT, theta
    yield f"{arch}.attention.layer_norm_rms_epsilon", FLOAT, 1e-5


def pad(n):
    return -n % ALIGN


def write(f, shape, seed):
    table, at, made = b"", 0, []
    for name, rows, cols, kind in tensors(shape):
        while rows and cols % TYPES[kind][0]:
            kind = TYPES[kind][2]
        size = rows * cols // TYPES[kind][0] * TYPES[kind][1] if rows else 4 * cols
        dims = (cols, rows) if rows else (cols,)
        table += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)
        made.append((rows, cols, kind, size))
        at += size + pad(size)
    key = b""
    listed = list(keys(shape))
    for name, kind, value in listed:
        key += text(name) + struct.pack("<I", kind)
        key += text(value) if kind == STRING else struct.pack("<I" if kind == U32 else "<f", value)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(made), len(listed)) + key + table
    f.write(head + bytes(pad(len(head))))
    rng = np.random.default_rng(seed)
    for rows, cols, kind, size in made:
        if rows:
            step = max(1, (1 << 24) // cols)  # rows at a time
            for r in range(0, rows, step):
                n = min(step, rows - r) * cols // TYPES[kind][0]
                f.write(blocks(kind, n, rng).tobytes())
        else:
            f.write(np.ones(cols, "<f4").tobytes())
        f.write(bytes(pad(size)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("out", help="the file to write; one that is there stays as it is")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    try:
        with open(a.out, "xb") as f:
            write(f, SHAPES[a.shape], a.seed)
    except OSError as e:
        sys.exit(f"random_gguf: {a.out}: {e.strerror}; give another name")


if __name__ == "__main__":
    main()
