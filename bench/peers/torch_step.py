#!/usr/bin/python3
"""The PyTorch twin of `fstq bench step`: one LoRA step of a Llama on the CPU, same shapes, threads.

Forward, backward to the embeddings, AdamW on the adapter; frozen backbone, LoRA on all seven
projections, a loss on every token; cross_entropy over the whole logits,
torch.optim.AdamW(foreach=True). PyTorch as its users run it, by option:
    --math fp32 | bf16       bf16: torch.autocast, the weights in bf16, the adapter in fp32
    --attention eager | sdpa a softmax with a causal mask, or scaled_dot_product_attention
    --compile                torch.compile of the model
    --peft                   transformers' LlamaForCausalLM under PEFT instead of the model below
Prints one JSON object; wall and CPU time of each step. Run by compare_step.sh.

OPENBLAS_CORETYPE matters: a PyTorch that multiplies with a distribution's OpenBLAS falls back to
slow kernels on CPUs that OpenBLAS does not know by number.
"""
import argparse
import json
import math
import time

import torch
import torch.nn.functional as F


class Linear(torch.nn.Module):
    """x W^T + scale (x A^T) B^T, W frozen."""

    def __init__(self, rows, cols, rank, alpha):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(rows, cols) * 0.7 / math.sqrt(cols), False)
        self.a = torch.nn.Parameter(torch.randn(rank, cols) / math.sqrt(cols))
        self.b = torch.nn.Parameter(torch.zeros(rows, rank))
        self.scale = alpha / rank

    def forward(self, x):
        return F.linear(x, self.weight) + self.scale * F.linear(F.linear(x, self.a), self.b)


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


class Block(torch.nn.Module):
    def __init__(self, o):
        super().__init__()
        d, r, a = o.dim, o.rank, 16.0
        self.heads, self.kv, self.size = o.heads, o.kv_heads, d // o.heads
        self.sdpa = o.attention == 'sdpa'
        self.q = Linear(d, d, r, a)
        self.k, self.v = (Linear(self.kv * self.size, d, r, a) for _ in range(2))
        self.o = Linear(d, d, r, a)
        self.gate, self.up = Linear(o.hidden, d, r, a), Linear(o.hidden, d, r, a)
        self.down = Linear(d, o.hidden, r, a)
        self.norm1, self.norm2 = (torch.nn.Parameter(torch.ones(d), False) for _ in range(2))

    def forward(self, x, cos, sin, mask):
        b, t, d = x.shape
        h = norm(x, self.norm1)
        q = self.q(h).view(b, t, self.heads, self.size).transpose(1, 2)
        k = self.k(h).view(b, t, self.kv, self.size).transpose(1, 2)
        v = self.v(h).view(b, t, self.kv, self.size).transpose(1, 2)
        q, k = (y * cos + torch.cat([-y[..., self.size // 2:], y[..., :self.size // 2]], -1) * sin
                for y in (q, k))
        if self.kv != self.heads:
            k, v = (y.repeat_interleave(self.heads // self.kv, 1) for y in (k, v))
        if self.sdpa:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(self.size) + mask, -1) @ v
        x = x + self.o(y.transpose(1, 2).reshape(b, t, d))
        h = norm(x, self.norm2)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(torch.nn.Module):
    def __init__(self, o):
        super().__init__()
        self.embed = torch.nn.Parameter(torch.randn(o.vocab, o.dim) * 0.05, False)
        self.blocks = torch.nn.ModuleList(Block(o) for _ in range(o.layers))
        self.norm = torch.nn.Parameter(torch.ones(o.dim), False)
        size = o.dim // o.heads
        speed = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angle = torch.arange(o.seq)[:, None] * speed
        self.cos, self.sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        self.mask = torch.full((o.seq, o.seq), -math.inf).triu(1)

    def forward(self, x):
        for block in self.blocks:
            x = block(x, self.cos, self.sin, self.mask)
        return F.linear(norm(x, self.norm), self.embed)


def peft_model(o):
    """The same shape as transformers and PEFT have it."""
    # Only here: the other rows need neither package.
    # pylint: disable=import-outside-toplevel
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=o.dim, intermediate_size=o.hidden, num_hidden_layers=o.layers,
        num_attention_heads=o.heads, num_key_value_heads=o.kv_heads, vocab_size=o.vocab,
        max_position_embeddings=4096, tie_word_embeddings=True, use_cache=False,
        attn_implementation=o.attention))
    names = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
    model = get_peft_model(model, LoraConfig(r=o.rank, lora_alpha=16, target_modules=names,
                                             lora_dropout=0.0, task_type='CAUSAL_LM'))
    table = model.get_input_embeddings().weight
    return model, table, lambda x: model(inputs_embeds=x).logits


def build(o):
    """Model, embedding table and what makes logits of embeddings."""
    if o.peft:
        model, table, run = peft_model(o)
    else:
        model = Llama(o)
        table, run = model.embed, model
    if o.math == 'bf16':
        for w in model.parameters():
            if not w.requires_grad:
                w.data = w.data.to(torch.bfloat16)
    if o.compile:
        run = torch.compile(run)
    return model, table, run


def options():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name, value in dict(dim=288, hidden=768, layers=6, heads=6, kv_heads=0, vocab=32000,
                            batch=8, seq=256, rank=16, threads=1, steps=3, warmup=1).items():
        p.add_argument('--' + name.replace('_', '-'), type=int, default=value)
    p.add_argument('--math', choices=('fp32', 'bf16'), default='fp32')
    p.add_argument('--attention', choices=('eager', 'sdpa'), default='eager')
    p.add_argument('--compile', action='store_true')
    p.add_argument('--peft', action='store_true')
    o = p.parse_args()
    o.kv_heads = o.kv_heads or o.heads
    return o


def main():
    o = options()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    model, table, run = build(o)
    trained = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=4e-3, weight_decay=0.0, foreach=True)
    tokens = torch.randint(0, o.vocab, (o.batch, o.seq))
    targets = torch.randint(0, o.vocab, (o.batch, o.seq))
    wall, cpu, loss = [], [], 0.0
    for i in range(o.warmup + o.steps):
        t, c = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        embedded = table.detach()[tokens].requires_grad_(True)
        with torch.autocast('cpu', torch.bfloat16, enabled=o.math == 'bf16'):
            logits = run(embedded)
        loss = F.cross_entropy(logits.float().view(-1, o.vocab), targets.view(-1))
        loss.backward()
        token_sq = embedded.grad.float().pow(2).sum(-1)
        optimizer.step()
        if i >= o.warmup:
            wall.append(time.perf_counter() - t)
            cpu.append(time.process_time() - c)
        assert token_sq.shape == (o.batch, o.seq)
    peak = 0
    with open('/proc/self/status', encoding='ascii') as f:
        for line in f:
            if line.startswith('VmHWM'):
                peak = int(line.split()[1]) // 1024
    print(json.dumps(dict(torch=torch.__version__, threads=o.threads, wall_s=wall, cpu_s=cpu,
                          loss=loss.item(), rss_mib=peak)))


main()
