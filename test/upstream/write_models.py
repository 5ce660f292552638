"""Writes the models that llama.cpp's server tests download, under their names: small ones of random weights, each with a vocabulary that llama.cpp's source
comes with.

    write_models.py LLAMA_CPP FOLDER
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter, GGUFValueType

Fields = dict[str, int | float | bool | str]
Shapes = dict[str, tuple[int, ...]]


def copy_vocabulary(writer: GGUFWriter, vocabulary: Path) -> int:
    """Returns the number of tokens."""
    reader = GGUFReader(vocabulary)
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        kind = field.types[0]
        sub_type = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=sub_type)
    return len(reader.fields["tokenizer.ggml.tokens"].data)


def write(path: Path, arch: str, vocabulary: Path, fields: Fields, tensors, seed: int, tensors_per_file: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, arch, split_max_tensors=tensors_per_file)
    n_vocab = copy_vocabulary(writer, vocabulary)
    for name, value in fields.items():
        key = name if "." in name and name.split(".")[0] in ("general", "tokenizer") else f"{arch}.{name}"
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)

    random = np.random.default_rng(seed)
    for name, shape in tensors(n_vocab).items():
        if "norm" in name:
            values = np.zeros(shape) if name.endswith(".bias") else np.ones(shape)
        else:
            values = random.standard_normal(shape) / np.sqrt(shape[-1])
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(n_layer: int, n_embd: int, n_ff: int, n_head: int, n_head_kv: int, n_ctx: int):
    """A model of llama's architecture."""
    fields: Fields = {
        "context_length": n_ctx,
        "embedding_length": n_embd,
        "block_count": n_layer,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": n_embd // n_head,
    }

    def tensors(n_vocab: int) -> Shapes:
        shapes: Shapes = {"token_embd.weight": (n_vocab, n_embd), "output_norm.weight": (n_embd,), "output.weight": (n_vocab, n_embd)}
        n_kv = n_embd // n_head * n_head_kv
        for il in range(n_layer):
            block = {
                "attn_norm": (n_embd,), "attn_q": (n_embd, n_embd), "attn_k": (n_kv, n_embd), "attn_v": (n_kv, n_embd), "attn_output": (n_embd, n_embd),
                "ffn_norm": (n_embd,), "ffn_gate": (n_ff, n_embd), "ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff),
            }
            shapes |= {f"blk.{il}.{name}.weight": shape for name, shape in block.items()}
        return shapes

    return fields, tensors


def bert(n_layer: int, n_embd: int, n_ff: int, n_head: int, n_ctx: int, pooling: int, rank: bool):
    """An encoder; rank: with a head that gives a score."""
    fields: Fields = {
        "context_length": n_ctx,
        "embedding_length": n_embd,
        "block_count": n_layer,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False,
        "pooling_type": pooling,
    }

    def tensors(n_vocab: int) -> Shapes:
        shapes: Shapes = {"token_embd.weight": (n_vocab, n_embd), "token_types.weight": (2, n_embd), "position_embd.weight": (n_ctx, n_embd)}
        layer: Shapes = {"token_embd_norm": (n_embd,)}
        for il in range(n_layer):
            layer |= {
                f"blk.{il}.attn_q": (n_embd, n_embd), f"blk.{il}.attn_k": (n_embd, n_embd), f"blk.{il}.attn_v": (n_embd, n_embd),
                f"blk.{il}.attn_output": (n_embd, n_embd), f"blk.{il}.attn_output_norm": (n_embd,),
                f"blk.{il}.ffn_up": (n_ff, n_embd), f"blk.{il}.ffn_down": (n_embd, n_ff), f"blk.{il}.layer_output_norm": (n_embd,),
            }
        if rank:
            layer |= {"cls": (n_embd, n_embd), "cls.output": (1, n_embd)}
        for name, shape in layer.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return shapes

    return fields, tensors


def main() -> None:
    llama_cpp, folder = map(Path, sys.argv[1:])
    folder = folder / "ggml-org"

    def model(name: str, arch: str, vocabulary: str, shape, tensors_per_file: int = 0, **more: int) -> None:
        fields, tensors = shape
        write(folder / name, arch, llama_cpp / f"models/ggml-vocab-{vocabulary}.gguf", fields | more, tensors, seed=1, tensors_per_file=tensors_per_file)

    stories260k = llama(5, 64, 172, 8, 4, n_ctx=2048)
    first = "test-model-stories260K/stories260K-F32.gguf"
    model(first, "llama", "llama-spm", stories260k)
    for name in (
        "test-model-router-download/model-F16.gguf",
        "models/tinyllamas/stories260K.gguf",
        "stories15M_MOE/stories15M_MOE-F16.gguf",
        "tinygemma3-GGUF/tinygemma3-Q8_0.gguf",
        "tiny-llamas/stories15M-q4_0.gguf",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / first, folder / name)
    model("models/tinyllamas/split/stories15M-q8_0.gguf", "llama", "llama-spm", stories260k, tensors_per_file=16)
    # the ids of <|fim_prefix|>, <|fim_middle|> and <|fim_suffix|>
    fim = {"tokenizer.ggml.fim_pre_token_id": 151659, "tokenizer.ggml.fim_mid_token_id": 151660, "tokenizer.ggml.fim_suf_token_id": 151661}
    model("test-model-stories260K-infill/stories260K-infill-F32.gguf", "llama", "qwen2", llama(2, 32, 64, 4, 2, n_ctx=2048), **fim)
    encoder = {"n_layer": 2, "n_embd": 384, "n_ff": 512, "n_head": 12, "n_ctx": 512}
    pooling_cls, pooling_rank = 2, 4
    model("models/bert-bge-small/ggml-model-f16.gguf", "bert", "bert-bge", bert(**encoder, pooling=pooling_cls, rank=False))
    model("models/jina-reranker-v1-tiny-en/ggml-model-f16.gguf", "bert", "bert-bge", bert(**encoder, pooling=pooling_rank, rank=True))

    # a repository that has models' options instead of a model
    presets = {"tinygemma3-preset": "tinygemma3-GGUF:Q8_0", "stories260K-test": "test-model-stories260K"}
    (folder / "test-preset-ci").mkdir(exist_ok=True)
    (folder / "test-preset-ci/preset.ini").write_text("".join(f"[{name}]\nhf-repo = ggml-org/{of}\n\n" for name, of in presets.items()))


if __name__ == "__main__":
    main()
