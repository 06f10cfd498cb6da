"""Model directories: what is read is what a torch Linear computes with; what is saved returns."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hf_directory import (
    LLAMA3,
    D,
    F,
    H,
    K,
    N,
    V,
    assert_same,
    config_json,
    d,
    load,
    tensors,
    write,
    write_sharded,
)
from safetensors.numpy import load_file

from dars_jax.policy import decoder, hf_layout, sharding, weights


def test_loaded_kernels_compute_what_the_stored_linears_do(tmp_path):
    arrays = tensors()
    params = load(write(tmp_path / "m", config_json(), arrays))
    rng = np.random.default_rng(1)
    x, heads, wide = (rng.standard_normal(n).astype(np.float32) for n in (D, H * d, F))
    for i in range(N):
        ours = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), params["layers"])
        name = f"model.layers.{i}."
        for which, count in (("q", H), ("k", K), ("v", K)):
            linear = arrays[f"{name}self_attn.{which}_proj.weight"] @ x
            linear += arrays[f"{name}self_attn.{which}_proj.bias"]
            got = np.einsum("D,DHd->Hd", x, ours[which]["kernel"]) + ours[which]["bias"]
            np.testing.assert_allclose(got, linear.reshape(count, d), atol=1e-5)
        got = np.einsum("Hd,HdD->D", heads.reshape(H, d), ours["o"]["kernel"])
        linear = arrays[f"{name}self_attn.o_proj.weight"] @ heads
        np.testing.assert_allclose(got, linear, atol=1e-5)
        for which, vector in (("gate", x), ("up", x), ("down", wide)):
            linear = arrays[f"{name}mlp.{which}_proj.weight"] @ vector
            np.testing.assert_allclose(vector @ ours[which]["kernel"], linear, atol=1e-5)
        for which, stored in (("attention", "input"), ("mlp", "post_attention")):
            norm = arrays[f"{name}{stored}_layernorm.weight"]
            np.testing.assert_array_equal(ours[f"{which}_norm"]["scale"], norm)
    np.testing.assert_array_equal(params["embedding"], arrays["model.embed_tokens.weight"])
    np.testing.assert_array_equal(params["head"], arrays["lm_head.weight"])
    np.testing.assert_array_equal(params["final_norm"]["scale"], arrays["model.norm.weight"])


def test_sharded_directory_equals_single_file(tmp_path):
    arrays = tensors()
    single = load(write(tmp_path / "one", config_json(), arrays))
    assert_same(single, load(write_sharded(tmp_path / "three", config_json(), arrays)))


@pytest.mark.parametrize("stored", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_stored_and_wanted_dtypes_may_differ(tmp_path, stored):
    arrays = tensors(dtype=stored)
    params = load(write(tmp_path / "m", config_json(), arrays), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    want = arrays["lm_head.weight"].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(np.asarray(params["head"]), want)


@pytest.mark.parametrize("read_bytes", [1, 1000, 2**20])
def test_any_part_of_a_leaf_is_the_slice_of_the_whole(tmp_path, monkeypatch, read_bytes):
    path = write(tmp_path / "m", config_json(), tensors())
    whole = load(path)
    monkeypatch.setattr(hf_layout, "_READ_BYTES", read_bytes)
    stored = weights._catalogue(path)
    rng = np.random.default_rng(2)
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(whole):
        for _ in range(4):
            part = tuple(range(*np.sort(rng.choice(n + 1, 2, replace=False))) for n in leaf.shape)
            layout = hf_layout.layout_of(key_path)
            got = hf_layout.read_part(stored, layout, leaf.shape, part, jnp.float32)
            np.testing.assert_array_equal(got, np.asarray(leaf)[np.ix_(*part)])


_SHARDED_LOAD = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from dars_jax.policy import decoder, weights

def high_water():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

directory = sys.argv[1]
config = weights.read_config(directory)
mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
rules = {"embed": "x", "heads": "y", "kv_heads": "y", "mlp": "y", "vocab": "y"}
def place(axes):
    return NamedSharding(mesh, PartitionSpec(*(rules.get(axis) for axis in axes)))
axes = decoder.logical_axes(config)
shardings = jax.tree.map(place, axes, is_leaf=lambda x: isinstance(x, PartitionSpec))
jnp.zeros(1).block_until_ready()
before = high_water()
params = weights.load_params(directory, config, shardings, jnp.bfloat16)
print((high_water() - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
one = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), shardings)
again = weights.load_params(directory, config, one, jnp.bfloat16)
jax.tree.map(np.testing.assert_array_equal, *jax.device_get((params, again)))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="needs /proc")
def test_four_devices_load_four_shards_within_1_3_times_the_size(tmp_path):
    config = decoder.ModelConfig(8192, 4, 1024, 8, 2, 128, 4096)
    sizes = {name: shape for name, shape in hf_layout.expected_shapes(config).items()}
    noise = np.random.default_rng(3).standard_normal(2**24).astype(ml_dtypes.bfloat16)
    arrays = {name: noise[: np.prod(shape)].reshape(shape) for name, shape in sizes.items()}
    document = config_json(
        "llama",
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=4,
        num_attention_heads=8,
        head_dim=128,
    )
    path = write_sharded(tmp_path / "m", document, arrays, files=4)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(pathlib.Path(weights.__file__).parents[2]),
    }
    command = [sys.executable, "-c", _SHARDED_LOAD, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.3


CONFIGS = {
    "qwen2 untied": {},
    "qwen2 tied": {"tie_word_embeddings": True},
    "llama3 rope, old spelling": {
        "family": "llama",
        "rope_scaling": {"rope_type": "llama3", **LLAMA3},
    },
    "llama3 rope, new spelling": {
        "family": "llama",
        "rope_theta": ...,
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 5000.0, **LLAMA3},
    },
    "llama, default rope": {"family": "llama", "rope_scaling": {"type": "default"}},
    "both spellings: the old one counts, and none of the new": {
        "family": "llama",
        "rope_scaling": {"rope_type": "llama3", **LLAMA3},
        "rope_parameters": {"rope_type": "default", "rope_theta": 7.0},
    },
    "an empty old spelling": {
        "rope_scaling": {},
        "rope_theta": 7.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    },
    "keys of other models that change nothing": {
        "use_mrope": False,
        "sliding_window": 8,
        "num_experts": None,
        "layer_types": ["full_attention"] * N,
        "use_sliding_window": True,
    },
}


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_config_says_the_same_in_every_spelling(tmp_path, changes):
    document = config_json(**changes)
    write(tmp_path / "m", document, {"x": np.zeros(1)})
    family = changes.get("family", "qwen2")
    scaled = any("llama3" in str(value) for value in changes.values())
    assert weights.read_config(tmp_path / "m") == decoder.ModelConfig(
        V,
        N,
        D,
        H,
        K,
        d,
        F,
        rope_theta=5000.0,
        rope_scaling=decoder.RopeScaling(8.0, 1.0, 4.0, 64) if scaled else None,
        norm_eps=1e-5,
        qkv_bias=family == "qwen2",
        tied_head=bool(changes.get("tie_word_embeddings")),
        family=family,
    )


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("qwen2", {"rms_norm_eps": ...}, {"norm_eps": 1e-6}),
        ("olmo2", {"rms_norm_eps": ...}, {"norm_eps": 1e-5}),
        ("qwen3", {"head_dim": ...}, {"head_dim": 128}),
        ("olmo2", {"head_dim": ...}, {"head_dim": D // H}),
        ("llama", {"num_key_value_heads": ...}, {"num_kv_heads": H}),
        ("qwen2", {"num_key_value_heads": None}, {"num_kv_heads": H}),
        ("qwen3", {"rope_theta": ...}, {"rope_theta": 10_000.0}),
        ("llama", {"tie_word_embeddings": ...}, {"tied_head": False}),
    ],
)
def test_what_a_config_leaves_out_is_what_its_family_means(tmp_path, family, changes, expected):
    write(tmp_path / "m", config_json(family, **changes), {"x": np.zeros(1)})
    config = weights.read_config(tmp_path / "m")
    assert {name: getattr(config, name) for name in expected} == expected


def test_head_dim_is_derived_where_config_does_not_give_it(tmp_path):
    write(tmp_path / "m", config_json(head_dim=...), {"x": np.zeros(1)})
    assert weights.read_config(tmp_path / "m").head_dim == D // H


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 8, "max_window_layers": N},
        {"sliding_window": 8},  # from layer 28 on
        {"sliding_window": None, "max_window_layers": 0},
    ],
)
def test_a_sliding_window_that_no_layer_uses_is_accepted(tmp_path, changes):
    write(tmp_path / "m", config_json(use_sliding_window=True, **changes), {"x": np.zeros(1)})
    assert weights.read_config(tmp_path / "m").num_layers == N


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3", "olmo2"])
@pytest.mark.parametrize("max_shard_bytes", [2**30, 9000])
def test_save_then_load_is_exact(tmp_path, family, tied, max_shard_bytes):
    source = write(
        tmp_path / "in", config_json(family, tie_word_embeddings=tied), tensors(family, tied)
    )
    config, params = weights.read_config(source), load(source)
    out = tmp_path / "new" / "out"
    weights.save_params(
        out, params, config, source=None, dtype=jnp.float32, max_shard_bytes=max_shard_bytes
    )
    assert weights.read_config(out) == config
    assert_same(params, load(out))
    files = sorted(out.glob("*.safetensors"))
    assert (len(files) > 1) == (max_shard_bytes == 9000)
    stored = {name: array for file in files for name, array in load_file(file).items()}
    for name, array in tensors(family, tied).items():
        np.testing.assert_array_equal(stored.pop(name), array)
    assert not stored
    if len(files) > 1:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == 4 * config.num_params()
        assert {out / file for file in index["weight_map"].values()} == set(files)
        biggest_alone = [f for f in files if len(load_file(f)) > 1 and f.stat().st_size > 12_000]
        assert not biggest_alone


def test_llama3_scaling_survives_a_save(tmp_path):
    scaling = decoder.RopeScaling(8.0, 1.0, 4.0, 64)
    config = decoder.ModelConfig(V, 1, D, H, K, d, F, rope_scaling=scaling)
    params = decoder.init_params(config, jax.random.key(0))
    weights.save_params(tmp_path / "out", params, config, source=None, dtype=jnp.bfloat16)
    assert weights.read_config(tmp_path / "out") == config


def test_the_source_gives_tokenizer_and_generation_config(tmp_path):
    document = config_json(eos_token_id=7, dtype="float32")
    source = write(tmp_path / "in", document, tensors())
    (source / "tokenizer.json").write_text("{}")
    (source / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    (source / "secret.txt").write_text("stays")
    config, params = weights.read_config(source), load(source)
    out = tmp_path / "out"
    weights.save_params(out, params, config, source=source, dtype=jnp.bfloat16)
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    written = json.loads((out / "config.json").read_text())
    assert (written["eos_token_id"], written["torch_dtype"]) == (7, "bfloat16")
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [7, 8]}
    assert load_file(out / "model.safetensors")["lm_head.weight"].dtype == ml_dtypes.bfloat16


def test_save_refuses_a_full_directory_and_another_model(tmp_path):
    source = write(tmp_path / "in", config_json(), tensors())
    config, params = weights.read_config(source), load(source)
    with pytest.raises(ValueError, match="not an empty directory"):
        weights.save_params(source, params, config, source=None, dtype=jnp.float32)
    other = write(tmp_path / "other", config_json(rope_theta=1.0), tensors())
    with pytest.raises(ValueError, match="another model"):
        weights.save_params(tmp_path / "o", params, config, source=other, dtype=jnp.float32)
    assert not (tmp_path / "o").exists()


def test_a_family_without_such_biases_is_refused(tmp_path):
    config = decoder.ModelConfig(V, 1, D, H, K, d, F, qkv_bias=True, family="llama")
    params = decoder.init_params(config, jax.random.key(0))
    with pytest.raises(ValueError, match="cannot hold qkv_bias=True"):
        weights.save_params(tmp_path / "o", params, config, source=None, dtype=jnp.float32)


@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
def test_norms_of_queries_and_keys_lie_with_their_heads(family):
    row = {"qwen3": ("head", False), "olmo2": ("projection", True)}[family]
    config = decoder.ModelConfig(V, 1, D, H, K, d, F, family=family, qk_norm=row[0],
                                 norm_after=row[1])  # fmt: skip
    mesh = jax.sharding.AbstractMesh((1, 2, 2), sharding.MESH_AXES)
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): placed.spec
        for path, placed in jax.tree_util.tree_leaves_with_path(
            sharding.param_shardings(config, mesh)
        )
    }
    if family == "qwen3":
        assert "tensor" not in specs["layers/q_head_norm/scale"]
    else:
        assert specs["layers/q_norm/scale"] == specs["layers/k_norm/scale"]
        assert specs["layers/q_norm/scale"][1] == "tensor"
