#!/usr/bin/env python3
"""Writes side.txt: the side network of src/model/side.h in PyTorch, for test_side.

Needs torch. The file is "name count" and that many numbers, again and again; weights and gradients
in the order in which side.c lays them out.
"""
import os
import torch

LAYERS, WIDTH, RANK, CLASSES, DIMS, ROWS, SCORED = 2, 5, 3, 4, (4, 5), 6, [1, 4, 5]
TYPE = 0
OPTIM = dict(lr=0.01, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02)


def parameters(gen):
    def normal(*size):
        return (0.5 * torch.randn(*size, generator=gen)).requires_grad_()
    p = []
    for _ in range(LAYERS):
        p += [normal(RANK, WIDTH), normal(WIDTH, RANK)] + [normal(WIDTH, d) for d in DIMS]
    return p + [normal(CLASSES, WIDTH), normal(CLASSES), normal(LAYERS)]


def forward(p, x):
    head, bias, alpha = p[-3:]
    s = None
    for i in range(LAYERS):
        down, up, *project = p[i * (2 + len(DIMS)):(i + 1) * (2 + len(DIMS))]
        a = x[i] @ project[TYPE].T
        mu = torch.sigmoid(alpha[i])
        z = a if s is None else (1 - mu) * a + mu * s
        s = z + torch.relu(z @ down.T) @ up.T
    return s[SCORED] @ head.T + bias


def main():
    out = {}
    x = torch.randn(LAYERS, ROWS, DIMS[TYPE], generator=torch.Generator().manual_seed(1))
    target = torch.randn(len(SCORED), CLASSES, generator=torch.Generator().manual_seed(2))
    label = torch.tensor([3, 0, 2])
    losses = {
        'l2': lambda y: ((y - target) ** 2).sum(1).mean(),
        'ce': lambda y: torch.nn.functional.cross_entropy(y, label),
    }
    out['x'], out['target'], out['label'] = x, target, label
    for name, loss_of in losses.items():
        p = parameters(torch.Generator().manual_seed(3))
        out['weights'] = torch.cat([v.detach().flatten() for v in p]).clone()
        optim = torch.optim.AdamW(p, **OPTIM)
        for step in range(3):
            optim.zero_grad()
            y = forward(p, x)
            loss = loss_of(y)
            loss.backward()
            if step == 0:
                grads = [torch.zeros_like(v) if v.grad is None else v.grad for v in p]
                out[name + '.y'], out[name + '.loss'] = y.detach(), loss.detach()
                out[name + '.grad'] = torch.cat([g.flatten() for g in grads])
            optim.step()  # which leaves another backbone's projection alone: it has no gradient
        out[name + '.after'] = torch.cat([v.detach().flatten() for v in p])
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'side.txt')
    with open(path, 'w', encoding='utf-8') as f:
        for name, v in out.items():
            f.write(f'{name} {v.numel()}\n')
            f.write(' '.join(f'{float(k):.9g}' for k in v.flatten()) + '\n')


if __name__ == '__main__':
    main()
