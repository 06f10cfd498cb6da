"""Tiny Hugging Face model directories, written by hand, names and all.

Nothing of the table under test is used here.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from dars_jax.policy import decoder, weights

V, D, H, K, d, F, N = 37, 24, 4, 2, 10, 40, 3  # d is not D / H: config.json has to say so
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def config_json(family="qwen2", **changes):
    document = {
        "architectures": [f"{family.title()}ForCausalLM"],
        "vocab_size": V,
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": N,
        "num_attention_heads": H,
        "num_key_value_heads": K,
        "head_dim": d,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 5000.0,
        "tie_word_embeddings": False,
    }
    return {key: value for key, value in (document | changes).items() if value is not ...}


def tensors(family="qwen2", tied=False, dtype=np.float32):
    shapes = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    if not tied:
        shapes["lm_head.weight"] = (V, D)
    for i in range(N):
        layer = f"model.layers.{i}."
        for name, width in (("q", H * d), ("k", K * d), ("v", K * d)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (width, D)
            if family == "qwen2":
                shapes[f"{layer}self_attn.{name}_proj.bias"] = (width,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (D, H * d)
        shapes[f"{layer}mlp.gate_proj.weight"] = (F, D)
        shapes[f"{layer}mlp.up_proj.weight"] = (F, D)
        shapes[f"{layer}mlp.down_proj.weight"] = (D, F)
        shapes[f"{layer}post_attention_layernorm.weight"] = (D,)
        other = "post_feedforward" if family == "olmo2" else "input"
        shapes[f"{layer}{other}_layernorm.weight"] = (D,)
        if family in ("qwen3", "olmo2"):
            of_q, of_k = (d, d) if family == "qwen3" else (H * d, K * d)
            shapes[f"{layer}self_attn.q_norm.weight"] = (of_q,)
            shapes[f"{layer}self_attn.k_norm.weight"] = (of_k,)
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def write(path, document, arrays):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(document))
    save_file(arrays, path / "model.safetensors")
    return path


def write_sharded(path, document, arrays, files=3):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(document))
    names = sorted(arrays)
    weight_map = {name: f"part-{i % files}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({n: arrays[n] for n in names if weight_map[n] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def on_one_device(config):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: sharding, decoder.abstract_params(config))


def load(path, dtype=jnp.float32):
    config = weights.read_config(path)
    return weights.load_params(path, config, on_one_device(config), dtype)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)
