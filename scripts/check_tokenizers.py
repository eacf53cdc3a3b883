#!/usr/bin/env python3
"""Checks token ids against the Python packages tokenizers and sentencepiece on lines of text.

  scripts/check_tokenizers.py [--lines N] [--vocabulary SIZE] [--model FILE.gguf] TEXT|DIR ...

Draws N lines (10,000) from the files, trains a vocabulary of each kind on half of them with the
packages, and compares the ids of every line. --model: also the vocabulary inside a GGUF file of
byte-level BPE. Needs: make tests; pip install tokenizers sentencepiece gguf numpy. Status 1 if any
line differs.
"""
import argparse
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENCODE = os.path.join(ROOT, 'build/release/tests/mpi/encode')
BLOCK = '\u2581'
MODERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def modern(digits):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(MODERN % digits), 'isolated'), byte_level(False)])


BYTE_LEVEL = {
    'gpt-2': byte_level(),
    'smollm': pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                       byte_level()]),
    'llama-bpe': modern(r'\p{N}{1,3}'),
    'qwen2': modern(r'\p{N}'),
}
REPLACE = normalizers.Replace(' ', BLOCK)
PIECES = {
    'llama2': (normalizers.Sequence([normalizers.Prepend(BLOCK), REPLACE]), None, True),
    'gemma': (REPLACE, pre_tokenizers.Split(' ', 'merged_with_previous'), False),
    'metaspace': (None, pre_tokenizers.Metaspace(BLOCK, 'first', split=False), True),
}


def draw_lines(paths, n):
    files = []
    for path in paths:
        if os.path.isdir(path):
            files += [os.path.join(d, f) for d, _, names in os.walk(path) for f in names]
        else:
            files.append(path)
    lines = []
    for path in sorted(files):
        with (gzip.open if path.endswith('.gz') else open)(path, 'rb') as f:
            text = f.read().decode('utf-8', 'replace')
        if path.endswith('.json'):  # as people write, not as JSON does
            text = text.replace('\\n', '\n').replace('\\u', ' \\u')
        # The reference takes text: a line break inside is for tests of their own.
        lines += [x for line in text.split('\n') for x in
                  [line[i:i + 1000] for i in range(0, len(line), 1000)] if x.strip()]
    random.Random(1).shuffle(lines)
    return lines[:n]


def ours(kind, path, lines):
    run = subprocess.run([ENCODE, kind, path], input='\n'.join(lines).encode(), check=True,
                         stdout=subprocess.PIPE)
    return [[int(i) for i in line.split()] for line in run.stdout.decode().split('\n')[:len(lines)]]


def speed(kind, path, lines):
    run = subprocess.run([ENCODE, kind, path, '3'], input='\n'.join(lines).encode(), check=True,
                         stdout=subprocess.PIPE)
    return run.stdout.decode().strip()


def compare(name, kind, path, lines, reference):
    wrong = 0
    for line, got in zip(lines, ours(kind, path, lines)):
        want = reference(line)
        if got != want:
            wrong += 1
            if wrong <= 3:
                print(f'{name}: {line[:80]!r}\n  ours  {got[:40]}\n  wants {want[:40]}')
    print(f'{name}: {len(lines)} lines, {wrong} differ; {speed(kind, path, lines)}', flush=True)
    return wrong


def train_bytes(name, lines, size, place):
    t = Tokenizer(models.BPE(ignore_merges=name == 'llama-bpe'))
    t.pre_tokenizer = BYTE_LEVEL[name]
    if name == 'qwen2':
        t.normalizer = normalizers.NFC()
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=size, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    path = os.path.join(place, name + '.json')
    t.save(path)
    return path, t


def train_pieces(name, lines, size, place):
    normalizer, pre, apart = PIECES[name]
    t = Tokenizer(models.BPE())
    t.normalizer = REPLACE
    t.pre_tokenizer = pre_tokenizers.Metaspace(BLOCK, 'always') if apart else None
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, limit_alphabet=1000, max_token_length=16))
    model = json.loads(t.to_str())['model']
    trained = sorted(model['vocab'], key=model['vocab'].get)
    vocab = ['<unk>', '<s>', '</s>'] + [f'<0x{b:02X}>' for b in range(256)] + trained
    t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(vocab)},
                             merges=[tuple(m) for m in model['merges']], byte_fallback=True,
                             fuse_unk=True, unk_token='<unk>'))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    path = os.path.join(place, name + '.json')
    t.save(path)
    return path, t


def train_sentencepiece(lines, size, place):
    import gguf
    import sentencepiece
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type='bpe', vocab_size=size,
        byte_fallback=True, normalization_rule_name='identity', remove_extra_whitespaces=False,
        minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    path = os.path.join(place, 'sentencepiece.gguf')
    n = range(sp.vocab_size())
    w = gguf.GGUFWriter(path, 'llama')
    w.add_tokenizer_model('llama')
    w.add_token_list([sp.id_to_piece(i) for i in n])
    w.add_token_scores([sp.get_score(i) for i in n])
    w.add_token_types([6 if sp.is_byte(i) else 2 if sp.is_unknown(i) else 3 if sp.is_control(i)
                       else 1 for i in n])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    return path, sp


def of_gguf(path):
    """The byte-level BPE of a GGUF file, by the package."""
    import gguf
    fields = gguf.GGUFReader(path).fields
    tokens = fields['tokenizer.ggml.tokens'].contents()
    merges = [tuple(m.split(' ')) for m in fields['tokenizer.ggml.merges'].contents()]
    pre = fields['tokenizer.ggml.pre'].contents()
    t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(tokens)}, merges=merges,
                             ignore_merges=pre == 'llama-bpe'))
    t.pre_tokenizer = BYTE_LEVEL[pre]
    if pre == 'qwen2':
        t.normalizer = normalizers.NFC()
    return t


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--lines', type=int, default=10000)
    p.add_argument('--vocabulary', type=int, default=8000)
    p.add_argument('--model')
    p.add_argument('text', nargs='+')
    a = p.parse_args()
    lines = draw_lines(a.text, a.lines)
    half = lines[:len(lines) // 2]
    others = sum(unicodedata.normalize('NFC', x) != x for x in lines)
    print(f'{len(lines)} lines of {sum(len(x.encode()) for x in lines)} bytes, {others} of them '
          'not in NFC', flush=True)
    wrong = 0

    def by(t):
        return lambda x: t.encode(x, add_special_tokens=False).ids

    with tempfile.TemporaryDirectory() as place:
        for name in BYTE_LEVEL:
            path, t = train_bytes(name, half, a.vocabulary, place)
            wrong += compare(name, 'hf', path, lines, by(t))
        for name in PIECES:
            path, t = train_pieces(name, half, a.vocabulary, place)
            wrong += compare(name, 'hf', path, lines, by(t))
        path, sp = train_sentencepiece(half, a.vocabulary, place)
        wrong += compare('sentencepiece', 'gguf', path, lines, sp.encode)
        if a.model:
            name = os.path.basename(a.model)
            wrong += compare(name, 'gguf', a.model, lines, by(of_gguf(a.model)))
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
