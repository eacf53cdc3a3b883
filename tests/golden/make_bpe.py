#!/usr/bin/env python3
"""Writes bpe-NAME.json: small whole tokenizer.json files with the ids of awkward texts.

The oracle is the Python package tokenizers (pip install tokenizers), which trains each vocabulary
here and now from the texts themselves; it also cuts texts into the pieces of pretokens.txt.
A file holds {"tokenizer": ..., "texts": [{"text": ..., "ids": [...], "pieces": [...]}, ...]}.
"""
import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from tokenizers import decoders, normalizers

MODERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEXTS = [
    "The nurse's shift wasn't over; she'll re-read chart 72 at 10:45, WE'RE told.",
    'In 2024, 3.14159 and 1000000 = 10^6; \u00bd \u2167 \u00b2 \u0967\u0968\u0969 \u0664\u0665',
    '  two  spaces\tand\ttabs \n\n\nthree newlines   \n end ',
    '\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u30021868\u5e74\u3002',
    '\u0643\u062a\u0627\u0628 \u0641\u064a 1908 \u0645\u060c',
    '\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e\u0964',
    'Family: \U0001f468\u200d\U0001f469\u200d\U0001f467, flag \U0001f1e9\U0001f1ea, \u2764\ufe0f!',
    'for (int i = 0; i < n; i++) {\n\tx[i] += a_b->c[i]*2.5e-3f; // so\n}\n',
    'Gr\u00f6\u00dfe na\u00efve CAF\u00c9\u00a0no-break\u3000wide \u017f\'\u017f it\'\u017f',
    '<|im_end|> is text here, <|tool|> a token',
    ' ', '\n', "'", "'re", ' 1', 'a  ', '\r\n \r\nx', '',
]
KINDS = {
    'gpt2': (pre_tokenizers.ByteLevel(add_prefix_space=False), None, False),
    'smollm': (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False)]),
               None, False),
    'llama3': (pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(MODERN % r'\p{N}{1,3}'), 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), None, True),
    'qwen2': (pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(MODERN % r'\p{N}'), 'isolated'),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        normalizers.NFC(), False),
}


def awkward(rng):
    alphabet = "a bZ'sreltdm\u017f \t\n\r 12\u00bd\u0663\u00e9\u4e2d\u0627.,-_\u00a0\u3000\U0001f44d\u200d"
    return ''.join(rng.choice(alphabet) for _ in range(rng.randint(1, 24)))


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    rng = random.Random(7)
    texts = TEXTS + [awkward(rng) for _ in range(60)]
    for name, (pre, normalizer, whole) in KINDS.items():
        t = Tokenizer(models.BPE(ignore_merges=whole))
        t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
        if normalizer:
            t.normalizer = normalizer
        special = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
        t.train_from_iterator(TEXTS, trainers.BpeTrainer(
            vocab_size=420, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        t.add_tokens([AddedToken('<|tool|>', normalized=False)])
        # Special tokens are text in data: the oracle is the same vocabulary without them.
        plain = json.loads(t.to_str())
        plain['added_tokens'] = [a for a in plain['added_tokens'] if not a['special']]
        oracle = Tokenizer.from_str(json.dumps(plain))
        rows = [{'text': s, 'ids': oracle.encode(s, add_special_tokens=False).ids} for s in texts]
        with open(os.path.join(here, f'bpe-{name}.json'), 'w', encoding='ascii') as out:
            json.dump({'tokenizer': json.loads(t.to_str()), 'texts': rows}, out,
                      separators=(',', ':'))
            out.write('\n')


if __name__ == '__main__':
    main()
