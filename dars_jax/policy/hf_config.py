"""The JSON files of a Hugging Face model directory: what we read from them and what we write.

Nothing in such a directory is trusted to stay inside it: a file name is followed only to a place
under the directory (or, in a Hugging Face cache, to the blob the cache itself links to).
"""

import json
import pathlib
from typing import Any

from dars_jax.policy.decoder import ModelConfig, RopeScaling

FAMILIES = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama"}
_MAX_JSON_BYTES = 64 * 2**20


def existing(directory: str | pathlib.Path) -> pathlib.Path:
    """The directory as a Path.  Raises ValueError where there is none."""
    path = pathlib.Path(directory).expanduser()
    if not path.is_dir():
        raise ValueError(f"no model directory at {path}")
    return path


def inside(directory: pathlib.Path, name: str) -> pathlib.Path:
    """The file `name` of a directory.  Raises ValueError if that lies elsewhere, or nowhere.

    A snapshot in a Hugging Face cache is made of links into the `blobs` beside it: allowed.
    """
    root = directory.resolve()
    path = (root / name).resolve()
    blobs = root.parent.parent / "blobs"
    cached = root.parent.name == "snapshots" and path.is_relative_to(blobs)
    if not (path.is_relative_to(root) or cached):
        raise ValueError(f"{directory}: {name!r} points outside the directory (to {path}): refused")
    if not path.is_file():
        raise ValueError(f"{directory} has no file {name!r}")
    return path


def read_json(directory: pathlib.Path, name: str) -> dict[str, Any]:
    """One JSON object.  Raises ValueError, naming the file, for anything else."""
    path = inside(directory, name)
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{directory}/{name} is larger than {_MAX_JSON_BYTES:,} bytes: refused")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{directory}/{name} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{directory}/{name} holds {type(document).__name__}, not a JSON object")
    return document


def parse(document: dict[str, Any]) -> ModelConfig:
    """config.json -> sizes.  Raises ValueError for a model this trainer would run wrongly."""
    names = document.get("architectures") or ["(none given)"]
    if names[0] not in FAMILIES:
        raise ValueError(
            f"config.json: architecture {names[0]} is not supported; "
            f"supported: {', '.join(FAMILIES)}"
        )
    family = FAMILIES[names[0]]
    _refuse_unsupported(document, family)
    theta, scaling = _rope(document)
    try:
        heads, width = document["num_attention_heads"], document["hidden_size"]
        return ModelConfig(
            vocab_size=document["vocab_size"],
            num_layers=document["num_hidden_layers"],
            d_model=width,
            num_heads=heads,
            num_kv_heads=document.get("num_key_value_heads") or heads,
            head_dim=document.get("head_dim") or width // heads,
            d_ff=document["intermediate_size"],
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=document.get("rms_norm_eps", 1e-6),
            qkv_bias=family == "qwen2",
            tied_head=bool(document.get("tie_word_embeddings", False)),
            family=family,
        )
    except KeyError as error:
        raise ValueError(f"config.json has no {error}") from None


def _refuse_unsupported(document: dict[str, Any], family: str) -> None:
    """Settings of the two architectures that would change the computation."""
    layers = document.get("num_hidden_layers", 0)
    windowed = "sliding_attention" in (document.get("layer_types") or ())
    if document.get("use_sliding_window") and document.get("sliding_window"):
        windowed |= document.get("max_window_layers", layers) < layers
    activation = document.get("hidden_act", "silu")
    refused = {
        "sliding-window attention": windowed,
        "mlp_bias": document.get("mlp_bias"),
        "attention_bias in a Llama model (its output projection has one too)": family == "llama"
        and document.get("attention_bias"),
        f"hidden_act {activation!r}": activation != "silu",
        "quantised weights (quantization_config)": document.get("quantization_config"),
    }
    for name, found in refused.items():
        if found:
            raise ValueError(
                f"config.json: {name} is not supported; supported: full attention, silu, "
                "no biases but Qwen2's on q, k and v, float weights"
            )


def _rope(document: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary embedding, in the old spelling or transformers 5's."""
    rope = document.get("rope_parameters") or document.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or document.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    partial = rope.get("partial_rotary_factor") or document.get("partial_rotary_factor") or 1.0
    if kind not in ("default", "llama3") or partial != 1.0:
        kind = f"partial_rotary_factor {partial}" if partial != 1.0 else f"type {kind!r}"
        raise ValueError(
            f"config.json: rotary embedding of {kind} is not supported; supported: default, llama3"
        )
    if kind == "default":
        return theta, None
    try:
        return theta, RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_position=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise ValueError(f"config.json: rope scaling llama3 has no {error}") from None


def build(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json of a model made here, in the spelling that old and new readers understand.

    Raises:
      ValueError: the family's transformers class has no such biases.
    """
    if config.qkv_bias != (config.family == "qwen2"):
        raise ValueError(
            f"a {config.family} checkpoint cannot hold qkv_bias={config.qkv_bias}: "
            "Qwen2 always has biases on q, k and v, Llama never"
        )
    architecture = next(name for name, family in FAMILIES.items() if family == config.family)
    document = {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": dtype,
    }
    if (scaling := config.rope_scaling) is not None:
        document["max_position_embeddings"] = int(scaling.factor * scaling.original_max_position)
        document["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        }
    return document


def files_to_save(
    config: ModelConfig, source: str | pathlib.Path | None, dtype: str
) -> dict[str, dict[str, Any]]:
    """config.json and generation_config.json for saved weights: the source's, where there is one.

    Raises:
      ValueError: the source is another model, or the family cannot hold these sizes.
    """
    generation = {"_from_model_config": True}
    if source is None:
        return {"config.json": build(config, dtype), "generation_config.json": generation}
    source = existing(source)
    document = read_json(source, "config.json")
    if parse(document) != config:
        raise ValueError(f"{source}/config.json describes another model than the one to save")
    document.pop("dtype", None)
    if (source / "generation_config.json").exists():
        generation = read_json(source, "generation_config.json")
    return {
        "config.json": document | {"torch_dtype": dtype},
        "generation_config.json": generation,
    }
