"""A bad model directory is refused in one line that names what is wrong."""

import json

import numpy as np
import pytest
from hf_directory import D, V, assert_same, config_json, d, load, tensors, write, write_sharded

from dars_jax.policy import weights

UNSUPPORTED = {
    "GemmaForCausalLM": {"architectures": ["GemmaForCausalLM"]},
    "none given": {"architectures": ...},
    "sliding-window": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "sliding": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "partial_rotary_factor 0.5": {"rope_parameters": {"partial_rotary_factor": 0.5}},
    "low_freq_factor": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    "mlp_bias": {"family": "llama", "mlp_bias": True},
    "attention_bias": {"family": "llama", "attention_bias": True},
    "gelu": {"hidden_act": "gelu"},
    "quantization_config": {"quantization_config": {"bits": 4}},
    "hidden_size": {"hidden_size": ...},
}


@pytest.mark.parametrize("named", UNSUPPORTED)
def test_an_unsupported_model_is_named(tmp_path, named):
    write(tmp_path / "m", config_json(**UNSUPPORTED[named]), {"x": np.zeros(1)})
    with pytest.raises(ValueError, match=named) as caught:
        weights.read_config(tmp_path / "m")
    assert "\n" not in str(caught.value)


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
