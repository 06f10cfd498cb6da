"""GGUF -> Hugging Face directory, once; everything else then reads only that.

    python -m dars_jax.policy.gguf FILE.gguf OUT_DIR

For Llama models with SmolLM's tokenizer.  Needs the `gguf` package, which decodes the container
and its quantised blocks.  A GGUF has a model's rotary pairs interleaved (feature 2i with 2i + 1),
where Hugging Face and this trainer keep halves (i with i + d/2): the rows of q and k are put back.
"""

import argparse
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from dars_jax.policy import hf_config
from dars_jax.policy.decoder import ModelConfig
from dars_jax.policy.hf_layout import expected_shapes
from dars_jax.policy.weights import write_directory

# GGUF name -> Hugging Face name; {} is the layer.
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    "blk.{}.attn_q.weight": "model.layers.{}.self_attn.q_proj.weight",
    "blk.{}.attn_k.weight": "model.layers.{}.self_attn.k_proj.weight",
    "blk.{}.attn_v.weight": "model.layers.{}.self_attn.v_proj.weight",
    "blk.{}.attn_output.weight": "model.layers.{}.self_attn.o_proj.weight",
    "blk.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "blk.{}.ffn_gate.weight": "model.layers.{}.mlp.gate_proj.weight",
    "blk.{}.ffn_up.weight": "model.layers.{}.mlp.up_proj.weight",
    "blk.{}.ffn_down.weight": "model.layers.{}.mlp.down_proj.weight",
}
_CONTROL, _USER_DEFINED = 3, 4  # token types
_SHARD_BYTES = 5 * 2**30


def convert(file: str | pathlib.Path, directory: str | pathlib.Path) -> None:
    """Writes a GGUF model as a directory: float32 safetensors, configs, tokenizer, chat template.

    Raises:
      ModuleNotFoundError: the `gguf` package is not installed.
      ValueError: the file is no GGUF, or holds a model or tokenizer that is not supported; or
        `directory` is not empty.
    """
    try:
        import gguf
    except ModuleNotFoundError:
        message = "reading a GGUF file needs the gguf package: pip install gguf"
        raise ModuleNotFoundError(message) from None
    if not pathlib.Path(file).is_file():
        raise ValueError(f"no file {file}")
    try:
        reader = gguf.GGUFReader(file)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file} is not a GGUF file, or a damaged one: {error}") from None
    fields = {name: field.contents() for name, field in reader.fields.items()}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
        config = _config(fields, tied="output.weight" not in stored)
        files = _json_files(fields, config)
    except KeyError as error:
        raise ValueError(f"{file} has no field {error}") from None
    numbers = range(config.num_layers)
    names = {theirs.format(i): ours.format(i) for ours, theirs in _NAMES.items() for i in numbers}
    unknown = stored.keys() - names.values()
    shapes = expected_shapes(config)
    missing = {name for name in shapes if names[name] not in stored}
    if unknown or missing:
        raise ValueError(f"{file}: unknown tensors {sorted(unknown)}, missing {sorted(missing)}")

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name, shape in shapes.items():
            tensor = stored[names[name]]
            array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
            if array.shape != shape:
                raise ValueError(f"{file}: {tensor.name} has shape {array.shape}, not {shape}")
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                array = halves_from_pairs(array, config.head_dim)
            yield name, np.ascontiguousarray(array)

    write_directory(directory, config, tensors(), files, _SHARD_BYTES)


def halves_from_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Row 2i + j of each head goes to j * d/2 + i.  [heads * d, D] -> the same shape."""
    heads = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def _config(fields: dict[str, Any], tied: bool) -> ModelConfig:
    found = {
        "general.architecture": fields.get("general.architecture"),
        "tokenizer.ggml.model": fields.get("tokenizer.ggml.model"),
        "tokenizer.ggml.pre": fields.get("tokenizer.ggml.pre"),
        "llama.rope.scaling.type": fields.get("llama.rope.scaling.type", "none"),
        "tokenizer.ggml.add_bos_token": fields.get("tokenizer.ggml.add_bos_token", False),
    }
    for (key, value), supported in zip(
        found.items(), ("llama", "gpt2", "smollm", "none", False), strict=True
    ):
        if value != supported:
            raise ValueError(f"GGUF: {key} {value!r} is not supported; supported: {supported!r}")
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return ModelConfig(
        vocab_size=len(fields["tokenizer.ggml.tokens"]),
        num_layers=fields["llama.block_count"],
        d_model=width,
        num_heads=heads,
        num_kv_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=fields.get("llama.attention.key_length", width // heads),
        d_ff=fields["llama.feed_forward_length"],
        rope_theta=fields.get("llama.rope.freq_base", 10_000.0),
        # Stored as float32: 9.99999974e-06 means 1e-05.
        norm_eps=float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        tied_head=tied,
        family="llama",
    )


def _json_files(fields: dict[str, Any], config: ModelConfig) -> dict[str, dict[str, Any]]:
    """File name -> content of everything but the weights."""
    keys = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    ids = {role: fields.get(f"tokenizer.ggml.{key}_token_id") for role, key in keys.items()}
    tokens = fields["tokenizer.ggml.tokens"]
    ending = {f"{role}_token_id": ids[role] for role in ("bos", "eos", "pad")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields.get("tokenizer.chat_template"),
    }
    named = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
    model = hf_config.build(config, "float32") | ending
    return {
        "config.json": model | {"max_position_embeddings": fields["llama.context_length"]},
        "generation_config.json": ending,
        "tokenizer.json": _tokenizer(fields),
        "tokenizer_config.json": settings | named,
    }


def _tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE, each digit a word of its own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    tokenizer.add_tokens(added)  # these are in the vocabulary and keep their ids
    return json.loads(tokenizer.to_str())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="GGUF file to Hugging Face model directory")
    parser.add_argument("file")
    parser.add_argument("directory")
    arguments = parser.parse_args()
    try:
        convert(arguments.file, arguments.directory)
    except (ValueError, ModuleNotFoundError) as error:
        parser.exit(1, f"{error}\n")
    print(f"wrote {arguments.directory}")


if __name__ == "__main__":
    main()
