#!/usr/bin/python3
"""Makes tests/golden/llama: a small Llama with grouped queries and LoRA on all seven projections, as
PyTorch computes it. tests/unit/test_model_golden.c compares the C model with it.

  config.json, model.safetensors   the backbone as a Hugging Face directory
  fixture.safetensors              batch, adapter, log-softmax of the logits, loss, gradient of every
                                   adapter tensor, gradient of the embeddings, losses of 10 AdamW steps

Run with Debian's python3-torch: /usr/bin/python3 tests/golden/make_llama_fixture.py
"""
import json
import math
import os
import struct

import numpy
import torch

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'llama')
DIM, HIDDEN, LAYERS, HEADS, KV, VOCAB = 32, 56, 2, 4, 2, 61
HEAD, THETA, EPS = DIM // HEADS, 500.0, 1e-5
RANK, ALPHA, LENGTHS = 4, 6.0, (13, 1, 9, 20)
STEPS, ADAMW, CLIP = 10, dict(lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.05), 0.5
PARTS = {'q': ('self_attn.q_proj', DIM, DIM), 'k': ('self_attn.k_proj', KV * HEAD, DIM),
         'v': ('self_attn.v_proj', KV * HEAD, DIM), 'o': ('self_attn.o_proj', DIM, DIM),
         'gate': ('mlp.gate_proj', HIDDEN, DIM), 'up': ('mlp.up_proj', HIDDEN, DIM),
         'down': ('mlp.down_proj', DIM, HIDDEN)}


def save(path, tensors, metadata=None):
    """The safetensors container, fp32."""
    header, blob = {}, b''
    if metadata:
        header['__metadata__'] = metadata
    for name, t in tensors.items():
        raw = t.detach().to(torch.float32).contiguous().numpy().astype('<f4').tobytes()
        header[name] = dict(dtype='F32', shape=list(t.shape),
                            data_offsets=[len(blob), len(blob) + len(raw)])
        blob += raw
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(os.path.join(OUT, path), 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text + blob)


def backbone():
    g = torch.Generator().manual_seed(1)
    w = {'model.embed_tokens.weight': torch.randn(VOCAB, DIM, generator=g) * 0.5}
    for i in range(LAYERS):
        at = f'model.layers.{i}.'
        for name, rows, cols in PARTS.values():
            w[at + name + '.weight'] = torch.randn(rows, cols, generator=g) / math.sqrt(cols)
        for name in ('input_layernorm', 'post_attention_layernorm'):
            w[at + name + '.weight'] = 1 + 0.2 * torch.randn(DIM, generator=g)
    w['model.norm.weight'] = 1 + 0.2 * torch.randn(DIM, generator=g)
    w['lm_head.weight'] = torch.randn(VOCAB, DIM, generator=g) * 0.3
    return w


def adapter():
    g = torch.Generator().manual_seed(2)
    a = {}
    for i in range(LAYERS):
        for part, (_, rows, cols) in PARTS.items():
            a[f'layers.{i}.{part}.A'] = torch.randn(RANK, cols, generator=g) / math.sqrt(cols)
            a[f'layers.{i}.{part}.B'] = torch.randn(rows, RANK, generator=g) * 0.3
    return a


def norm(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * w


def rotate(x, positions):
    """x (T, heads, HEAD), as Hugging Face does: column i turns with column i + HEAD / 2."""
    speed = THETA ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
    angle = (positions[:, None].double() * speed)[:, None, :]
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    a, b = x[..., :HEAD // 2], x[..., HEAD // 2:]
    return (x.double() * cos + torch.cat([-b, a], -1).double() * sin).to(x.dtype)


def forward(w, a, tokens):
    """One sequence: its embeddings (a leaf) and its logits."""
    n = len(tokens)
    embedded = w['model.embed_tokens.weight'][tokens].detach().requires_grad_(True)
    x = embedded

    def project(i, part, h):
        y = h @ w[f'model.layers.{i}.{PARTS[part][0]}.weight'].T
        return y + ALPHA / RANK * (h @ a[f'layers.{i}.{part}.A'].T) @ a[f'layers.{i}.{part}.B'].T

    causal = torch.full((n, n), -math.inf).triu(1)
    for i in range(LAYERS):
        h = norm(x, w[f'model.layers.{i}.input_layernorm.weight'])
        q = rotate(project(i, 'q', h).view(n, HEADS, HEAD), torch.arange(n))
        k = rotate(project(i, 'k', h).view(n, KV, HEAD), torch.arange(n))
        v = project(i, 'v', h).view(n, KV, HEAD)
        k, v = (t.repeat_interleave(HEADS // KV, 1) for t in (k, v))
        score = torch.einsum('qhd,khd->hqk', q, k) / math.sqrt(HEAD) + causal
        out = torch.einsum('hqk,khd->qhd', score.softmax(-1), v).reshape(n, DIM)
        x = x + project(i, 'o', out)
        h = norm(x, w[f'model.layers.{i}.post_attention_layernorm.weight'])
        gated = torch.nn.functional.silu(project(i, 'gate', h)) * project(i, 'up', h)
        x = x + project(i, 'down', gated)
    return embedded, norm(x, w['model.norm.weight']) @ w['lm_head.weight'].T


def batch():
    g = torch.Generator().manual_seed(3)
    n = sum(LENGTHS)
    tokens = torch.randint(0, VOCAB, (n,), generator=g)
    targets = torch.randint(0, VOCAB, (n,), generator=g)
    targets[torch.rand(n, generator=g) < 0.3] = -1
    weights = torch.randint(0, 4, (n,), generator=g) * 0.5
    return tokens, targets, weights


def loss_of(w, a, data):
    """Weighted mean over tokens with a target; embeddings and log-softmax of all sequences."""
    tokens, targets, weights = data
    total, embedded, logs, at = 0, [], [], 0
    for n in LENGTHS:
        e, logits = forward(w, a, tokens[at:at + n])
        log = logits.log_softmax(-1)
        t = targets[at:at + n]
        picked = -log.gather(1, t.clamp(min=0)[:, None])[:, 0]
        total = total + (picked * weights[at:at + n] * (t >= 0)).sum()
        embedded.append(e)
        logs.append(log)
        at += n
    return total / (weights * (targets >= 0)).sum(), embedded, torch.cat(logs)


def main():
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    w, a, data = backbone(), adapter(), batch()
    save('model.safetensors', w, {'format': 'pt'})
    config = dict(architectures=['LlamaForCausalLM'], model_type='llama', hidden_size=DIM,
                  intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                  num_key_value_heads=KV, vocab_size=VOCAB, max_position_embeddings=64,
                  rope_theta=THETA, rms_norm_eps=EPS, hidden_act='silu',
                  tie_word_embeddings=False, attention_bias=False, rope_scaling=None)
    with open(os.path.join(OUT, 'config.json'), 'w') as f:
        json.dump(config, f, indent=2)
        f.write('\n')
    for t in a.values():
        t.requires_grad_(True)
    loss, embedded, logs = loss_of(w, a, data)
    loss.backward()
    starts = numpy.concatenate([[0], numpy.cumsum(LENGTHS)])
    out = {'starts': torch.tensor(starts), 'tokens': data[0], 'targets': data[1],
           'weights': data[2], 'log_softmax': logs, 'loss': loss.reshape(1),
           'embed_grad': torch.cat([e.grad for e in embedded]),
           'lora': torch.tensor([RANK, ALPHA]),
           'adamw': torch.tensor([ADAMW['lr'], *ADAMW['betas'], ADAMW['eps'],
                                  ADAMW['weight_decay'], CLIP])}
    for name, t in a.items():
        out['adapter.' + name] = t.detach().clone()
        out['grad.' + name] = t.grad.clone()
    optimizer, curve = torch.optim.AdamW(a.values(), **ADAMW), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _, _ = loss_of(w, a, data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(a.values(), CLIP)
        optimizer.step()
        curve.append(loss.item())
    out['curve'] = torch.tensor(curve)
    for name, t in a.items():
        out['final.' + name] = t
    save('fixture.safetensors', out, {'torch': torch.__version__})
    print('torch', torch.__version__, 'loss', curve[0], '->', curve[-1])


main()
