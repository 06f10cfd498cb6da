"""The JSON files of a Hugging Face model directory: what we read from them and what we write.

Nothing in such a directory is trusted to stay inside it: a file name is followed only to a place
under the directory (or, in a Hugging Face cache, to the blob the cache itself links to).
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from dars_jax.data.sources import is_lfs_pointer
from dars_jax.policy.decoder import ModelConfig, RopeScaling
from dars_jax.policy.families import FAMILIES, Family
from dars_jax.policy.hf_fields import Fields

_ADAPTER = "adapter_config.json"
_MAX_JSON_BYTES = 64 * 2**20
_MOST_LAYERS = 1000

# Keys of other models, which a config of these families may carry all the same.
_FOREIGN = {
    "quantised weights": ("quantization_config", "compression_config"),
    "a mixture of experts": (
        "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
        "moe_intermediate_size", "n_shared_experts",
    ),
    "another rotary embedding": (
        "use_mrope", "mrope_section", "rope_interleaved", "rotary_pct", "rotary_dim",
        "no_rope_layers", "no_rope_layer_interval", "alibi",
    ),
    "attention of another kind": (
        "attention_chunk_size", "attn_logit_softcapping", "query_pre_attn_scalar",
        "attention_multiplier", "use_qk_norm", "qk_layernorm", "clip_qkv", "kv_lora_rank",
    ),
    "scaling of activations": (
        "final_logit_softcapping", "logits_scaling", "logit_scale", "residual_multiplier",
        "embedding_multiplier", "scale_emb", "scale_depth",
    ),
}  # fmt: skip
# Values with which such a key changes nothing.
_NEUTRAL = {
    "rotary_pct": 1.0, "logits_scaling": 1.0, "logit_scale": 1.0, "residual_multiplier": 1.0,
    "embedding_multiplier": 1.0, "scale_emb": 1.0,
}  # fmt: skip


def existing(directory: str | pathlib.Path) -> pathlib.Path:
    """The directory as a Path.  Raises ValueError where there is none, or one of an adapter."""
    path = pathlib.Path(directory).expanduser()
    if path.is_file():
        how = ": convert it, python -m dars_jax.policy.gguf" if path.suffix == ".gguf" else ""
        raise ValueError(f"{path} is a file; a policy is a directory in Hugging Face's layout{how}")
    if not path.is_dir():
        hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(directory))
        how = f"; from the Hugging Face hub: hf download {directory} --local-dir DIR" if hub else ""
        raise ValueError(f"no model directory at {path}{how}")
    if (path / _ADAPTER).is_file():
        base = read_json(path, _ADAPTER).get("base_model_name_or_path")
        raise ValueError(
            f"{path} holds an adapter of {base} ({_ADAPTER}), not a model: merge the two "
            "(merge_and_unload of the peft package) and give that directory"
        )
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
        raise ValueError(
            f"{directory}: {name!r} points outside the directory (to {path}): refused; copy the "
            "file there, or give the directory it lies in"
        )
    if not path.is_file():
        broken = f": its link leads to {path}, which is not there" if path != root / name else ""
        raise ValueError(f"{directory} has no file {name!r}{broken}")
    if is_lfs_pointer(path):
        raise ValueError(f"{directory}/{name} is a git-lfs pointer, not the file: run git lfs pull")
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


def parse(document: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """config.json -> sizes, read as transformers reads it.

    Args:
      where: names the file in messages.

    Raises:
      ValueError: a model this trainer would run wrongly, or values that are none; names the key.
    """
    fields = Fields(where, document)
    family = _family(fields)
    row = FAMILIES[family]
    _refuse_unsupported(fields, row)
    theta, scaling = _rope(fields)
    heads, width = fields.count("num_attention_heads"), fields.count("hidden_size")
    kv = row.num_kv_heads or heads
    if fields.given("num_key_value_heads") or "num_key_value_heads" not in document:
        kv = fields.count("num_key_value_heads", kv)
    else:  # null
        kv = heads
    if heads % kv:
        fields.refuse("num_attention_heads", heads, f"a multiple of num_key_value_heads, {kv}")
    if fields.given("head_dim") or row.head_dim:
        head_dim = fields.count("head_dim", row.head_dim or 0)
    elif width % heads:
        fields.refuse("hidden_size", width, f"a multiple of num_attention_heads, {heads}")
    else:
        head_dim = width // heads
    if head_dim % 2:
        fields.refuse("head_dim", head_dim, "an even number: features turn in pairs")
    return ModelConfig(
        vocab_size=fields.count("vocab_size"),
        num_layers=fields.count("num_hidden_layers", most=_MOST_LAYERS),
        d_model=width,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=head_dim,
        d_ff=fields.count("intermediate_size"),
        rope_theta=theta,
        rope_scaling=scaling,
        norm_eps=fields.number("rms_norm_eps", row.norm_eps),
        tied_head=fields.flag("tie_word_embeddings"),
        family=family,
        max_positions=fields.count("max_position_embeddings")
        if fields.given("max_position_embeddings")
        else None,
        **_differences(row),
    )


def _differences(row: Family) -> dict[str, Any]:
    """The fields of a ModelConfig that follow from its family."""
    return {name: getattr(row, name) for name in ("qkv_bias", "qk_norm", "norm_after")}


def _family(fields: Fields) -> str:
    """The key of FAMILIES; architectures and model_type must agree."""
    known = {row.architecture: name for name, row in FAMILIES.items()}
    names = fields.values.get("architectures") or ["(none given)"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        fields.refuse("architectures", names, "a list of names")
    if names[0] not in known:
        raise ValueError(
            f"{fields.where}: architecture {names[0]} is not supported; "
            f"supported: {', '.join(known)}"
        )
    family = known[names[0]]
    kind = fields.values.get("model_type", family)
    if kind != family:
        raise ValueError(
            f"{fields.where}: model_type {kind!r} is not that of {names[0]}, which is {family!r}"
        )
    return family


def _refuse_unsupported(fields: Fields, row: Family) -> None:
    """Settings that would change the computation, whether transformers heeds or ignores them."""
    activation = fields.values.get("hidden_act", "silu")
    if activation != "silu":
        _unsupported(fields, f"hidden_act {activation!r}", "silu")
    if (key := _window(fields, row)) is not None:
        _unsupported(fields, f"sliding-window attention ({key})", "full attention")
    for key in ("attention_bias", "mlp_bias"):
        # Qwen2's class has biases on q, k and v whatever attention_bias says
        if fields.flag(key) and not (key == "attention_bias" and row.qkv_bias):
            _unsupported(fields, f"{key} in {row.architecture}", "no biases but Qwen2's on q, k, v")
    if fields.values.get("is_causal") is False:
        _unsupported(fields, "is_causal false", "causal attention")
    for meaning, keys in _FOREIGN.items():
        for key in keys:
            value = fields.values.get(key)
            if value not in (None, False, 0, {}, []) and value != _NEUTRAL.get(key):
                shown = "" if isinstance(value, dict | list) else f" {value!r:.40}"
                _unsupported(fields, f"{meaning} ({key}{shown})", "models without it")


def _unsupported(fields: Fields, what: str, supported: str) -> NoReturn:
    raise ValueError(f"{fields.where}: {what} is not supported; supported: {supported}")


def _window(fields: Fields, row: Family) -> str | None:
    """The key by which some layer attends through a window; None if all see everything.

    As Qwen2Config has it: layer_types decides if it is there, else layers from max_window_layers
    on, 28 if that is absent, where use_sliding_window is set and sliding_window, 4,096 if that is
    absent, is not null.
    """
    layers = fields.count("num_hidden_layers", most=_MOST_LAYERS)
    types = fields.values.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            fields.refuse("layer_types", types, f"a list of {layers} names, one for each layer")
        other = [kind for kind in types if kind != "full_attention"]
        return f"layer_types has {other[0]!r}" if other else None
    used = fields.flag("use_sliding_window")
    if not row.windows:
        key = "use_sliding_window" if used else "sliding_window"
        return key if used or fields.given("sliding_window") else None
    if not used or fields.values.get("sliding_window", 4096) is None:
        return None
    first = fields.values.get("max_window_layers", 28)
    if type(first) is not int or first < 0:
        fields.refuse("max_window_layers", first, "a whole number from 0")
    return f"use_sliding_window with max_window_layers {first}" if first < layers else None


def _rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary embedding, in the old spelling or transformers 5's.

    Where a file has both, transformers takes `rope_scaling` and nothing of `rope_parameters`.
    """
    key = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
    rope = fields.part(key)
    for where in (rope, fields):
        if where.given("partial_rotary_factor") and where.number("partial_rotary_factor") != 1:
            factor = where.values["partial_rotary_factor"]
            _unsupported(where, f"partial_rotary_factor {factor}", "1")
    for name, value in rope.values.items():
        if isinstance(value, dict | list):
            _unsupported(rope, f"{name} (a rotary embedding in parts)", "one for all")
    place = rope if "rope_theta" in rope.values else fields
    theta = place.number("rope_theta", 10_000.0)
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind not in ("default", "llama3"):
        _unsupported(rope, f"rotary embedding of type {kind!r}", "default, llama3")
    if kind == "default":
        return theta, None
    scaling = RopeScaling(
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_max_position=rope.count("original_max_position_embeddings"),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        rope.refuse("low_freq_factor", scaling.low_freq_factor, "less than high_freq_factor")
    outer = fields.values.get("original_max_position_embeddings")
    if outer not in (None, scaling.original_max_position):
        fields.refuse(
            "original_max_position_embeddings",
            outer,
            f"{scaling.original_max_position} as in {key}",
        )
    return theta, scaling


def build(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json of a model made here, in the spelling that old and new readers understand.

    Raises:
      ValueError: the family's transformers class computes otherwise.
    """
    row = FAMILIES[config.family]
    for name, value in _differences(row).items():
        if getattr(config, name) != value:
            raise ValueError(
                f"a {config.family} checkpoint cannot hold {name}={getattr(config, name)!r}: "
                f"{row.architecture} has {value!r}"
            )
    document: dict[str, Any] = {
        "architectures": [row.architecture],
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
    if config.max_positions is not None:
        document["max_position_embeddings"] = config.max_positions
    if (scaling := config.rope_scaling) is not None:
        longest = int(scaling.factor * scaling.original_max_position)
        document.setdefault("max_position_embeddings", longest)
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
    if parse(document, f"{source}/config.json") != config:
        raise ValueError(f"{source}/config.json describes another model than the one to save")
    document.pop("dtype", None)
    if (source / "generation_config.json").exists():
        generation = read_json(source, "generation_config.json")
    return {
        "config.json": document | {"torch_dtype": dtype},
        "generation_config.json": generation,
    }
