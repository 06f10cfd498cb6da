"""Adapters out: a directory that PEFT loads beside the model they belong to.

Its names are those of peft 0.21: `base_model.model.`, the name in the model's checkpoint, and
lora_A.weight [r, in] or lora_B.weight [out, r].
"""

import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.experimental import multihost_utils

from dars_jax.policy.decoder import Params
from dars_jax.policy.hf_layout import LAYOUT
from dars_jax.policy.lora import Lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def _module(name: str) -> str:
    """What a projection is called in the checkpoints of all families; {} stands for the layer."""
    return LAYOUT[f"layers/{name}/kernel"].name.removesuffix(".weight")


def _tensors(adapters: Params, lora: Lora) -> dict[str, np.ndarray]:
    """Their names -> float32[r,in] or float32[out,r]."""
    tensors = {}
    for name in lora.targets:
        for side, stacked in sorted(adapters["layers"]["adapters"][name].items()):
            whole = stacked.is_fully_addressable
            host = jax.device_get(stacked) if whole else multihost_utils.process_allgather(
                stacked, tiled=True)  # fmt: skip
            shape = (math.prod(host.shape[1:-1]), lora.rank) if side == "a" else (lora.rank, -1)
            for layer, ours in enumerate(host):
                key = f"base_model.model.{_module(name).format(layer)}.lora_{side.upper()}.weight"
                tensors[key] = np.ascontiguousarray(ours.reshape(shape).T)
    return tensors


def save_adapters(
    directory: str | pathlib.Path,
    adapters: Params,
    lora: Lora,
    *,
    base: str | pathlib.Path,
    dtype: jnp.dtype,
) -> None:
    """Writes adapter_config.json and the adapters; the directory appears when it is complete.

    Every process of a multi-host run must call this; the first one writes.

    Args:
      adapters: unscaled, as they learn; alpha / r is in the configuration.
      base: directory of the model they belong to, which the configuration names.
      dtype: of the tensors on disk, float32 or bfloat16.
    """
    directory = pathlib.Path(directory)
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": [_module(name).rpartition(".")[2] for name in lora.targets],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    tensors = {name: x.astype(dtype) for name, x in _tensors(adapters, lora).items()}
    if jax.process_index():
        return
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    safetensors.numpy.save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # else nobody but the owner may read
    partial.replace(directory)
