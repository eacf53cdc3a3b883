#!/usr/bin/env python3
"""Holds JSON against a JSON Schema: check_schema.py SCHEMA FILE ...; status 1: one differs.

Of the draft 2020-12 it knows what the schemas of this tree use, and ends at a keyword that it does
not. --damage FILE SCHEMA: whether damage to FILE is noticed - each member left out where it is
required, each value of another type.
"""
import copy
import json
import os
import re
import sys

NOTES = {'$schema', 'title', 'description', '$defs'}
TYPES = {'object': dict, 'array': list, 'string': str, 'boolean': bool, 'null': type(None)}


def is_type(v, name):
    if name in ('number', 'integer'):
        right = isinstance(v, (int, float)) and not isinstance(v, bool)
        return right and (name == 'number' or v == int(v))
    return isinstance(v, TYPES[name])


class Validator:
    def __init__(self, path):
        self.folder = os.path.dirname(path)
        with open(path, encoding='utf-8') as f:
            self.root = json.load(f)

    def errors(self, v, schema=None, at=''):
        schema = self.root if schema is None else schema
        for word, what in schema.items():
            if word not in NOTES:
                check = getattr(self, 'word_' + word.strip('$'), None)
                if not check:
                    sys.exit(f'check_schema.py: the keyword {word} is not known')
                yield from check(v, what, schema, at)

    def word_type(self, v, names, schema, at):
        names = [names] if isinstance(names, str) else names
        if not any(is_type(v, n) for n in names):
            yield f'{at or "the whole"}: {json.dumps(v)[:60]} is no {" or ".join(names)}'

    def word_properties(self, v, props, schema, at):
        for name, part in props.items():
            if isinstance(v, dict) and name in v:
                yield from self.errors(v[name], part, f'{at}/{name}')

    def word_required(self, v, names, schema, at):
        for name in names:
            if isinstance(v, dict) and name not in v:
                yield f'{at}: no {name}'

    def word_additionalProperties(self, v, part, schema, at):
        for name in v if isinstance(v, dict) else ():
            if name not in schema.get('properties', {}):
                if part is False:
                    yield f'{at}: {name} is not known'
                else:
                    yield from self.errors(v[name], part, f'{at}/{name}')

    def word_items(self, v, part, schema, at):
        for i, item in enumerate(v if isinstance(v, list) else ()):
            yield from self.errors(item, part, f'{at}/{i}')

    def word_enum(self, v, values, schema, at):
        if v not in values:
            yield f'{at}: {json.dumps(v)[:60]} is none of {values}'

    def word_const(self, v, value, schema, at):
        yield from self.word_enum(v, [value], schema, at)

    def word_pattern(self, v, pattern, schema, at):
        if isinstance(v, str) and not re.search(pattern, v):
            yield f'{at}: {v[:60]} does not match {pattern}'

    def word_anyOf(self, v, parts, schema, at):
        tried = [list(self.errors(v, part, at)) for part in parts]
        if all(tried):
            yield from min(tried, key=len)

    def word_ref(self, v, where, schema, at):
        if where.startswith('#/'):
            part = self.root
            for step in where[2:].split('/'):
                part = part[step]
            yield from self.errors(v, part, at)
        else:
            yield from Validator(os.path.join(self.folder, where)).errors(v, None, at)


def damaged(v, root=None):
    """Copies of v, each with one thing wrong: (what, copy). Of a list only its first item."""
    root = v if root is None else root
    for key in (list(v) if isinstance(v, dict) else range(min(1, len(v)))):
        kept = v[key]
        if isinstance(v, dict):
            del v[key]
            yield f'without {key}', copy.deepcopy(root)
        v[key] = {'of': 'another type'} if not isinstance(kept, dict) else 'another type'
        yield f'{key} of another type', copy.deepcopy(root)
        v[key] = kept
        if isinstance(kept, (dict, list)):
            yield from damaged(kept, root)


def short(v):
    """The same with one item of each list: enough to damage."""
    if isinstance(v, dict):
        return {key: short(part) for key, part in v.items()}
    return [short(part) for part in v[:1]] if isinstance(v, list) else v


def required(schema):
    """The names that a schema asks for somewhere: others may be missing."""
    names = set(schema.get('required', ())) if isinstance(schema, dict) else set()
    parts = schema.values() if isinstance(schema, dict) else schema
    for part in parts if isinstance(schema, (dict, list)) else ():
        names |= required(part)
    return names


def main():
    if sys.argv[1] == '--damage':
        with open(sys.argv[2], encoding='utf-8') as f:
            value = json.load(f)
        validator = Validator(sys.argv[3])
        asked = {'without ' + name for name in required(validator.root)}
        missed = [what for what, copied in damaged(short(value))
                  if not any(validator.errors(copied))]
        missed = [what for what in missed if what in asked or not what.startswith('without')]
        for what in missed:
            print('# not noticed:', what)
        sys.exit(bool(missed))
    wrong = 0
    for path in sys.argv[2:]:
        with open(path, encoding='utf-8') as f:
            value = json.load(f)
        for error in list(Validator(sys.argv[1]).errors(value))[:10]:
            print(f'# {path}: {error}')
            wrong += 1
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()
