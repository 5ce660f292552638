"""Writes a trained checkpoint as GGUF: python models/export.py out models/needle.gguf [--type q8_0|f16|f32]"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

from language import BEGIN, END
from train import load

TYPES = {'q8_0': gguf.GGMLQuantizationType.Q8_0, 'f16': gguf.GGMLQuantizationType.F16, 'f32': gguf.GGMLQuantizationType.F32}
FILE_TYPES = {'q8_0': gguf.LlamaFileType.MOSTLY_Q8_0, 'f16': gguf.LlamaFileType.MOSTLY_F16, 'f32': gguf.LlamaFileType.ALL_F32}
NAMES = {
    'attn_norm': 'attn_norm', 'q': 'attn_q', 'k': 'attn_k', 'v': 'attn_v', 'o': 'attn_output', 'q_norm': 'attn_q_norm', 'k_norm': 'attn_k_norm',
    'kernel': 'shortconv.conv', 'in_proj': 'shortconv.in_proj', 'out_proj': 'shortconv.out_proj',
    'ffn_norm': 'ffn_norm', 'gate': 'ffn_gate', 'up': 'ffn_up', 'down': 'ffn_down',
}  # fmt: skip
OUTPUT_NORM = {'llama': 'output_norm', 'lfm2': 'token_embd_norm'}


def export(out, path, type_name):
    model, _ = load(out / 'checkpoint.pt', 'cpu')
    config = model.config
    tokenizer = json.loads((out / 'tokenizer.json').read_text())['model']
    writer = gguf.GGUFWriter(path, config.architecture)
    hybrid = config.architecture == 'lfm2'
    writer.add_name('Needle hybrid' if hybrid else 'Needle')
    writer.add_description('A small model that finds values by their keys in long synthetic texts; see models/README.md of llama-duo.')
    writer.add_license('mit')
    writer.add_file_type(FILE_TYPES[type_name])
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(len(config.layers))
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_heads)
    if hybrid:
        writer.add_head_count_kv([config.n_kv_heads if kind == 'a' else 0 for kind in config.layers])
        writer.add_shortconv_l_cache(config.kernel)
    else:
        writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.n_vocab)

    tokens = sorted(tokenizer['vocab'], key=tokenizer['vocab'].get)
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('gpt-2')
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in (BEGIN, END) else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else ' '.join(merge) for merge in tokenizer['merges']])
    writer.add_bos_token_id(tokenizer['vocab'][BEGIN])
    writer.add_eos_token_id(tokenizer['vocab'][END])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)

    def add(name, weight, matrix):
        data = weight.detach().float().numpy()
        kind = TYPES[type_name if matrix else 'f32']
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(data), kind), raw_dtype=kind)

    add('token_embd.weight', model.embed.weight[: config.n_vocab], matrix=True)  # the output matrix too
    add(f'{OUTPUT_NORM[config.architecture]}.weight', model.norm.weight, matrix=False)
    for i, block in enumerate(model.blocks):
        for name, weight in block.named_parameters():
            ours = name.removesuffix('.weight')
            add(f'blk.{i}.{NAMES[ours]}.weight', weight, matrix=weight.dim() == 2 and ours != 'kernel')
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f'{path}: {path.stat().st_size:,} bytes')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Writes a trained checkpoint as GGUF.')
    parser.add_argument('out', type=Path, help='the folder that train.py wrote')
    parser.add_argument('gguf', type=Path)
    parser.add_argument('--type', choices=TYPES, default='q8_0')
    args = parser.parse_args()
    export(args.out, args.gguf, args.type)
