#!/usr/bin/env python3
"""Writes llama/model.gguf: the weights of llama/model.safetensors as the converters write them, with
rows of q and k reordered for interleaved positions. (pip install gguf safetensors)"""
import json
import os

import gguf
import numpy as np
from safetensors.numpy import load_file

PART = {'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
        'self_attn.o_proj': 'attn_output', 'input_layernorm': 'attn_norm',
        'post_attention_layernorm': 'ffn_norm', 'mlp.gate_proj': 'ffn_gate',
        'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down'}


def name_of(name):
    if name.startswith('model.layers.'):
        _, _, layer, rest = name.split('.', 3)
        return f'blk.{layer}.{PART[rest[:-len(".weight")]]}.weight'
    return {'model.embed_tokens.weight': 'token_embd.weight', 'lm_head.weight': 'output.weight',
            'model.norm.weight': 'output_norm.weight'}[name]


def interleave(w, heads):
    """Row (half, pair) of a head goes to row 2 pair + half."""
    return w.reshape(heads, 2, -1, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def main():
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'llama')
    c = json.load(open(os.path.join(here, 'config.json'), encoding='utf-8'))
    w = gguf.GGUFWriter(os.path.join(here, 'model.gguf'), 'llama')
    w.add_block_count(c['num_hidden_layers'])
    w.add_context_length(c['max_position_embeddings'])
    w.add_embedding_length(c['hidden_size'])
    w.add_feed_forward_length(c['intermediate_size'])
    w.add_head_count(c['num_attention_heads'])
    w.add_head_count_kv(c['num_key_value_heads'])
    w.add_rope_freq_base(c['rope_theta'])
    w.add_rope_dimension_count(c['hidden_size'] // c['num_attention_heads'])
    w.add_layer_norm_rms_eps(c['rms_norm_eps'])
    for name, x in sorted(load_file(os.path.join(here, 'model.safetensors')).items()):
        x = x.astype(np.float32)
        if 'q_proj' in name or 'k_proj' in name:
            x = interleave(x, c['num_attention_heads' if 'q_proj' in name else 'num_key_value_heads'])
        w.add_tensor(name_of(name), np.ascontiguousarray(x))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == '__main__':
    main()
