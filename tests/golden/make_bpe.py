#!/usr/bin/env python3
"""Writes bpe-NAME.json: small whole tokenizer.json files with the ids of awkward texts, and
spm-NAME.json: vocabularies of SentencePiece as GGUF's keys have them, with ids, too.

The oracles are the Python packages tokenizers and sentencepiece (pip install tokenizers
sentencepiece), which train each vocabulary here and now from the texts themselves.
A file holds {"tokenizer": ..., "texts": [{"text": ..., "ids": [...]}, ...]}, or with "pieces":
[[text, score, type], ...] and "space": whether one is put in front. "back" is what ids decode to,
where that is another text.
"""
import io
import json
import os
import random

import sentencepiece

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


def save(name, what):
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, name), 'w', encoding='ascii') as out:
        json.dump(what, out, separators=(',', ':'))
        out.write('\n')


BLOCK = '\u2581'
REPLACE = normalizers.Replace(' ', BLOCK)
# How SentencePiece's vocabularies stand in tokenizer.json: normalizer, pre-tokenizer, whether words
# are apart in training, and added tokens.
PIECES = {
    'llama2': (normalizers.Sequence([normalizers.Prepend(BLOCK), REPLACE]), None, True, []),
    'gemma': (REPLACE, pre_tokenizers.Split(' ', 'merged_with_previous'), False,
              ['\n\n', '\n\n\n', BLOCK * 2, '<table>', '\t']),
    'meta-first': (None, pre_tokenizers.Metaspace(BLOCK, 'first', split=False), True, ['<tool>']),
    'meta-always': (None, pre_tokenizers.Metaspace(BLOCK, 'always', split=True), True, ['<tool>']),
}


def piece_texts(rng):
    alphabet = "a bes \u2581tT\n\t1\u00e9\u4e2d\U0001f44d<tool>table"
    return TEXTS + ['  two', ' \u2581x', '\u2581', 'a<tool> b<tool><tool>', '<tool> a', 'x <table>  y',
                    '\n\n\n\n x', '\u2581\u2581 \u2581a', '<0x41>', '</s> is text', 'of the  of the'] + \
        [''.join(rng.choice(alphabet) for _ in range(rng.randint(1, 24))) for _ in range(60)]


def row_of(text, ids, decode):
    """back: what comes back, where that is not the text."""
    back = decode(ids)
    return {'text': text, 'ids': ids} if back == text else {'text': text, 'ids': ids, 'back': back}


def sentencepieces(rng):
    texts = piece_texts(rng)
    for name, (normalizer, pre, apart, added) in PIECES.items():
        t = Tokenizer(models.BPE())
        t.normalizer = REPLACE if apart else normalizer
        t.pre_tokenizer = pre_tokenizers.Metaspace(BLOCK, 'always') if apart else None
        t.train_from_iterator(TEXTS * 2, trainers.BpeTrainer(vocab_size=330, show_progress=False))
        state = json.loads(t.to_str())
        trained = sorted(state['model']['vocab'], key=state['model']['vocab'].get)
        # Some characters stay without a token, to fall back to bytes.
        trained = [x for x in trained if x not in '\U0001f468\U0001f469\u6771\u2167zZ']
        merges = [m for m in state['model']['merges'] if all(x in trained for x in m + [m[0] + m[1]])]
        vocab = ['<unk>', '<s>', '</s>'] + [f'<0x{b:02X}>' for b in range(256)] + trained
        vocab += [x for x in added if x not in trained and x != BLOCK * 2]
        if BLOCK * 2 in added and BLOCK * 2 not in trained:
            vocab.append(BLOCK * 2)
            merges.append([BLOCK, BLOCK])
        t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(vocab)},
                                 merges=[tuple(m) for m in merges], byte_fallback=True,
                                 fuse_unk=True, unk_token='<unk>'))
        if normalizer:
            t.normalizer = normalizer
        if pre:
            t.pre_tokenizer = pre
        t.add_tokens([AddedToken(x, normalized=False) for x in added])
        plain = t.to_str()
        t.add_special_tokens(['<unk>', '<s>', '</s>'])
        oracle = Tokenizer.from_str(plain)
        oracle.decoder = decoders.Sequence(
            [decoders.Replace(BLOCK, ' '), decoders.ByteFallback(), decoders.Fuse()] +
            ([] if name == 'gemma' else [decoders.Strip(' ', 1, 0)]))
        save(f'bpe-{name}.json', {
            'tokenizer': json.loads(t.to_str()),
            'texts': [row_of(s, oracle.encode(s, add_special_tokens=False).ids, oracle.decode)
                      for s in texts]})


def vocabularies(rng):
    texts = piece_texts(rng)
    for name, space, added in (('space', True, []), ('bare', False, ['\n\n', BLOCK * 2, '<table>'])):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([x.replace('\n', ' ') for x in TEXTS if x.strip()] * 3),
            model_writer=model, model_type='bpe', vocab_size=440, byte_fallback=True,
            normalization_rule_name='identity', add_dummy_prefix=space, character_coverage=0.98,
            remove_extra_whitespaces=False, user_defined_symbols=added, minloglevel=2)
        sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        kind = [6 if sp.is_byte(i) else 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else
                4 if sp.id_to_piece(i) in added else 1 for i in range(sp.vocab_size())]
        save(f'spm-{name}.json', {
            'space': space,
            'pieces': [[sp.id_to_piece(i), sp.get_score(i), k] for i, k in enumerate(kind)],
            'texts': [row_of(s, sp.encode(s), sp.decode) for s in texts]})


def main():
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
        save(f'bpe-{name}.json', {'tokenizer': json.loads(t.to_str()), 'texts': rows})
    sentencepieces(random.Random(8))
    vocabularies(random.Random(9))


if __name__ == '__main__':
    main()
