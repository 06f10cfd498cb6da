"""A bad model directory is refused in one line that names what is wrong."""

import json

import numpy as np
import pytest
from hf_directory import (
    LLAMA3,
    D,
    V,
    assert_same,
    config_json,
    d,
    load,
    tensors,
    write,
    write_sharded,
)
from safetensors.numpy import save_file

from dars_jax.policy import weights

WINDOW = {"use_sliding_window": True}
SCALED = {"rope_type": "llama3", **LLAMA3}
UNSUPPORTED = {
    "GemmaForCausalLM": {"architectures": ["GemmaForCausalLM"]},
    "Qwen3MoeForCausalLM": {"architectures": ["Qwen3MoeForCausalLM"]},
    "none given": {"architectures": ...},
    "architectures is 'Qwen2ForCausalLM'": {"architectures": "Qwen2ForCausalLM"},
    "model_type 'qwen2_moe'": {"model_type": "qwen2_moe"},
    "use_sliding_window": {**WINDOW, "sliding_window": 8, "max_window_layers": 1},
    "max_window_layers 28": {**WINDOW, "num_hidden_layers": 29},  # their defaults
    "layer_types has 'sliding_attention'": {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"]
    },
    "layer_types is": {"layer_types": ["full_attention"]},
    r"sliding-window attention \(sliding_window\)": {"family": "llama", "sliding_window": 8},
    "rope_scaling: rotary embedding of type 'yarn'": {
        "rope_scaling": {"type": "yarn", "factor": 4.0}
    },
    "rope_parameters: rotary embedding of type 'longrope'": {
        "rope_parameters": {"rope_type": "longrope"}
    },
    "type 'dynamic'": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "type 'linear'": {"rope_scaling": {"rope_type": "linear", "type": "default"}},
    "type None": {"rope_scaling": {"rope_type": None, "factor": 2.0}},
    "type 'mrope'": {"rope_parameters": {"rope_type": "mrope"}, "rope_scaling": None},
    "mrope_section": {"rope_scaling": {"type": "default", "mrope_section": [8, 12]}},
    "full_attention": {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
    "rope_scaling is 'yarn'": {"rope_scaling": "yarn"},
    "partial_rotary_factor 0.5": {"rope_parameters": {"partial_rotary_factor": 0.5}},
    "partial_rotary_factor 0.25": {"partial_rotary_factor": 0.25},
    "low_freq_factor": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    "low_freq_factor is 4.0": {"rope_scaling": SCALED | {"low_freq_factor": 4}},
    "original_max_position_embeddings": {
        "rope_scaling": SCALED, "original_max_position_embeddings": 9
    },
    "rope_theta is None": {"rope_theta": None},
    "mlp_bias": {"family": "llama", "mlp_bias": True},
    "attention_bias": {"family": "llama", "attention_bias": True},
    "attention_bias in Qwen3": {"family": "qwen3", "attention_bias": True},
    "attention_bias in Olmo2": {"family": "olmo2", "attention_bias": True},
    "gelu": {"hidden_act": "gelu"},
    "hidden_act None": {"hidden_act": None},
    "quantization_config": {"quantization_config": {"bits": 4}},
    "num_experts 8": {"num_experts": 8},
    "num_local_experts": {"num_local_experts": 8},
    "clip_qkv": {"family": "olmo2", "clip_qkv": 8.0},
    "logits_scaling": {"logits_scaling": 8.0},
    "is_causal": {"is_causal": False},
    # malformed
    "hidden_size": {"hidden_size": ...},
    "hidden_size is None": {"hidden_size": None},
    "hidden_size is '24'": {"hidden_size": "24"},
    "hidden_size is 24.0": {"hidden_size": 24.0},
    "vocab_size is True": {"vocab_size": True},
    "vocab_size is 0": {"vocab_size": 0},
    "num_hidden_layers is 2147483648": {"num_hidden_layers": 2**31},
    "intermediate_size": {"intermediate_size": -4},
    "hidden_size is 26": {"hidden_size": 26, "head_dim": ...},
    "multiple of num_key_value_heads, 3": {"num_key_value_heads": 3},
    "multiple of num_key_value_heads, 32": {"num_key_value_heads": ...},  # Qwen2's default
    "head_dim is 9": {"head_dim": 9},
    "head_dim is None": {"family": "qwen3", "head_dim": None},
    "tie_word_embeddings is 'false'": {"tie_word_embeddings": "false"},
    "use_sliding_window is 'false'": {"use_sliding_window": "false"},
    "attention_bias is 'False'": {"attention_bias": "False"},
    "rms_norm_eps is '1e-5'": {"rms_norm_eps": "1e-5"},
    "rms_norm_eps is nan": {"rms_norm_eps": float("nan")},
    "max_position_embeddings": {"max_position_embeddings": "32768"},
}  # fmt: skip


@pytest.mark.parametrize("named", UNSUPPORTED)
def test_an_unsupported_or_malformed_model_is_named(tmp_path, named):
    write(tmp_path / "m", config_json(**UNSUPPORTED[named]), {"x": np.zeros(1)})
    with pytest.raises(ValueError, match=named) as caught:
        weights.read_config(tmp_path / "m")
    assert "\n" not in str(caught.value) and f"{tmp_path / 'm'}/config.json" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\xff"])
def test_a_config_that_is_no_json_object_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json (is not valid JSON|holds list)"):
        weights.read_config(tmp_path)


def refusal(path):
    with pytest.raises(ValueError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_directory_and_missing_weights_are_said(tmp_path):
    assert "no model directory" in refusal(tmp_path / "nowhere")
    assert "no file 'config.json'" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config_json()))
    assert "holds no weights" in refusal(tmp_path)


LOOSE = {
    "pytorch_model.bin": "save_pretrained",
    "pytorch_model-00001-of-00002.bin": "save_pretrained",
    "consolidated.00.pth": "save_pretrained",
    "model-q4.gguf": "dars_jax.policy.gguf",
    "model-00001-of-00002.safetensors": "name them in model.safetensors.index.json",
    "tf_model.h5": "save_pretrained",
}


@pytest.mark.parametrize("name", LOOSE)
def test_weights_of_another_form_are_named_with_the_way_out(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(config_json()))
    (tmp_path / name).write_bytes(b"\x80\x02")
    message = refusal(tmp_path)
    assert f"{tmp_path} holds no weights" in message
    assert name in message and LOOSE[name] in message


def test_an_adapter_is_no_model_with_or_without_one_beside_it(tmp_path):
    adapter = json.dumps({"base_model_name_or_path": "Qwen/Qwen3-0.6B", "r": 8})
    for path in (tmp_path / "a", write(tmp_path / "b", config_json(), tensors())):
        path.mkdir(exist_ok=True)
        (path / "adapter_config.json").write_text(adapter)
        message = refusal(path)
        assert f"{path} holds an adapter of Qwen/Qwen3-0.6B" in message and "merge" in message


def test_a_name_on_the_hub_is_told_how_to_become_a_directory():
    assert "hf download Qwen/Qwen3-0.6B" in refusal("Qwen/Qwen3-0.6B")


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    message = refusal(tmp_path / "model.gguf")
    assert "model.gguf is a file" in message and "dars_jax.policy.gguf" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_git_lfs_leaves_in_place_of_a_file_is_named(tmp_path, name):
    path = write(tmp_path / "m", config_json(), tensors())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (path / name).write_text(pointer)
    assert f"{path}/{name} is a git-lfs pointer" in refusal(path)


def test_a_broken_link_is_told_from_a_missing_file(tmp_path):
    path = write(tmp_path / "m", config_json(), tensors())
    (path / "config.json").unlink()
    (path / "config.json").symlink_to(path / "elsewhere.json")
    assert "elsewhere.json, which is not there" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.2.mlp.down_proj.weight", "model.norm.weight"],
)
def test_one_weight_that_is_not_finite_is_named(tmp_path, name, dtype, value):
    arrays = tensors(dtype=dtype)
    arrays[name].reshape(-1)[7] = value
    path = write(tmp_path / "m", config_json(), arrays)
    message = refusal(path)
    assert f"{path}/model.safetensors: {name} holds NaN or infinity" in message


def test_weights_whose_sum_overflows_are_finite_all_the_same(tmp_path):
    arrays = tensors()
    arrays["model.norm.weight"][:] = 3e38
    load(write(tmp_path / "m", config_json(), arrays))


def test_a_tensor_in_two_files_is_refused(tmp_path):
    arrays = tensors()
    path = write_sharded(tmp_path / "m", config_json(), arrays)
    save_file(arrays, path / "part-1.safetensors")
    assert "is in part-0.safetensors and in part-1.safetensors" in refusal(path)


def test_a_head_that_is_not_there_and_not_tied_is_told_so(tmp_path):
    message = refusal(write(tmp_path / "m", config_json(), tensors(tied=True)))
    assert "lm_head.weight; tie_word_embeddings in config.json is not true" in message


def test_missing_and_unknown_tensors_are_named(tmp_path):
    arrays = tensors()
    gone = arrays.pop("model.layers.1.mlp.up_proj.weight")
    message = refusal(write(tmp_path / "a", config_json(), arrays))
    assert "lacks 1 tensor(s): model.layers.1.mlp.up_proj.weight" in message
    arrays = tensors() | {"model.layers.3.mlp.up_proj.weight": gone}
    message = refusal(write(tmp_path / "b", config_json(), arrays))
    assert "has unknown 1 tensor(s): model.layers.3.mlp.up_proj.weight" in message


def test_old_rotary_buffers_are_ignored(tmp_path):
    arrays = tensors()
    path = write(tmp_path / "a", config_json(), arrays)
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(d // 2, np.float32)
    assert_same(load(path), load(write(tmp_path / "b", config_json(), arrays)))


def test_wrong_shape_names_both(tmp_path):
    message = refusal(write(tmp_path / "m", config_json(vocab_size=V + 1), tensors()))
    assert f"({V}, {D})" in message and f"({V + 1}, {D})" in message and "embed_tokens" in message


def test_integer_weights_are_refused(tmp_path):
    arrays = tensors() | {"lm_head.weight": np.zeros((V, D), np.int8)}
    assert "lm_head.weight is I8" in refusal(write(tmp_path / "m", config_json(), arrays))


def test_a_tied_head_may_be_stored_but_not_differ(tmp_path):
    document, arrays = config_json(tie_word_embeddings=True), tensors(tied=True)
    head = arrays["model.embed_tokens.weight"].copy()
    params = load(write(tmp_path / "a", document, arrays | {"lm_head.weight": head}))
    assert "head" not in params
    head[3, 5] += 1
    message = refusal(write(tmp_path / "b", document, arrays | {"lm_head.weight": head}))
    assert "tie_word_embeddings" in message


@pytest.mark.parametrize("keep", [4, 100, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, keep):
    file = write(tmp_path / "m", config_json(), tensors()) / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    message = refusal(tmp_path / "m")
    assert "model.safetensors is damaged or truncated" in message


@pytest.mark.parametrize("escape", ["relative", "absolute", "link"])
def test_weights_outside_the_directory_are_refused(tmp_path, escape):
    arrays = tensors()
    write(tmp_path / "elsewhere", config_json(), arrays)
    path, outside = tmp_path / "m", tmp_path / "elsewhere" / "model.safetensors"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config_json()))
    file = {
        "relative": "../elsewhere/model.safetensors",
        "absolute": str(outside),
        "link": "part.safetensors",
    }[escape]
    (path / "part.safetensors").symlink_to(outside)
    index = {"weight_map": dict.fromkeys(arrays, file)}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "points outside the directory" in refusal(path)


def test_a_hugging_face_cache_is_read_through_its_links(tmp_path):
    real = write(tmp_path / "real", config_json(), tensors())
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for number, name in enumerate(("config.json", "model.safetensors")):
        (blobs / str(number)).write_bytes((real / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert_same(load(snapshot), load(real))


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}])
def test_an_index_without_a_map_is_named(tmp_path, index):
    (tmp_path / "config.json").write_text(json.dumps(config_json()))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "has no weight_map" in refusal(tmp_path)


def test_an_index_that_names_a_file_that_is_not_there(tmp_path):
    path = write_sharded(tmp_path / "m", config_json(), tensors())
    (path / "part-1.safetensors").unlink()
    assert "no file 'part-1.safetensors'" in refusal(path)
