"""Export of adapters: PEFT and transformers compute from the files what our policy computes."""

import functools
import json
from pathlib import Path

import hf_directory
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dars_jax.commands import export
from dars_jax.config import defaults, flatten
from dars_jax.learner import update
from dars_jax.policy import decoder, lora, sharding, weights
from dars_jax.policy.attention import prompt_attention
from dars_jax.records.checkpoint import Checkpoints
from dars_jax.setup import build

RANK, ALPHA = 2, 5.0
TOKENS = np.random.default_rng(1).integers(0, hf_directory.V, (2, 11))


@pytest.fixture(scope="module", params=["q,k,v,o,gate,up,down", "v,down"])
def run(request, tmp_path_factory):
    """A run's configuration, its working directory, and the adapters of its step 3."""
    root = tmp_path_factory.mktemp("run")
    config = defaults()
    tensors = {name: x * np.float32(0.5) for name, x in hf_directory.tensors().items()}
    document = hf_directory.config_json(model_type="qwen2")
    config.policy.path = str(hf_directory.write(root / "base", document, tensors))
    config.lora.rank, config.lora.alpha, config.lora.targets = RANK, ALPHA, request.param
    plan = build.make_plan(config)
    mesh = sharding.make_mesh(*plan.mesh_shape)
    optimizer = update.make_optimizer(plan.optimizer)
    shardings = build.state_shardings(plan, optimizer, mesh)
    rng = np.random.default_rng(0)
    shapes = lora.learning(plan.model, plan.update.lora)
    adapters = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    about = flatten(config) | build.policy_content(config, Path(config.policy.path))
    checkpoints = Checkpoints(root / "work" / "checkpoints", about, 2)
    state = update.init_state(jax.device_put(adapters, shardings.params), optimizer, shardings)
    checkpoints.save(3, state)
    checkpoints.close()
    return config, root / "work", adapters


@functools.partial(jax.jit, static_argnames="config")
def logits(params, config):
    position = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    with jax.default_matmul_precision("highest"):
        hidden, _ = decoder.forward(params, config, TOKENS, position, attention=prompt_attention,
                                    state=None)  # fmt: skip
        return hidden @ decoder.head_matrix(params).T


def ours(config, adapters):
    """Logits of the base, and of the base with adapters beside it."""
    plan, params = build.make_plan(config), hf_directory.load(config.policy.path)
    whole = lora.whole(plan.update.lora, params, adapters)
    return [np.asarray(logits(p, plan.model)) for p in (params, whole)]


def test_the_files_are_those_of_peft(run, tmp_path, capsys):
    config, workdir, adapters = run
    assert export.export(config, workdir, tmp_path / "out", step=None, dtype=None) == 0
    assert "step 3" in capsys.readouterr().out
    about = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (about["peft_type"], about["r"], about["lora_alpha"]) == ("LORA", RANK, ALPHA)
    assert about["base_model_name_or_path"] == config.policy.path
    names = config.lora.targets.split(",")
    assert about["target_modules"] == [f"{name}_proj" for name in names]
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert len(found) == 2 * hf_directory.N * len(names)
    down = adapters["layers"]["adapters"]["down"]
    stem = "base_model.model.model.layers.1.mlp.down_proj.lora_{}.weight"
    np.testing.assert_array_equal(found[stem.format("A")], down["a"][1].T)
    np.testing.assert_array_equal(found[stem.format("B")], down["b"][1].T)
    v = adapters["layers"]["adapters"]["v"]["b"][2].reshape(RANK, -1)
    key = "base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight"
    np.testing.assert_array_equal(found[key], v.T)


def test_peft_and_transformers_compute_what_our_policy_does(run, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config, workdir, adapters = run
    export.export(config, workdir, tmp_path / "adapters", step=3, dtype=None)
    export.export(config, workdir, tmp_path / "model", step=3, dtype="float32", merged=True)
    load = functools.partial(transformers.AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    beside = peft.PeftModel.from_pretrained(load(config.policy.path), tmp_path / "adapters")
    missing = [n for n, p in beside.named_parameters() if "lora_" in n and not p.any()]
    assert not missing  # PEFT only warns of names it does not find, and leaves B at zero
    base, want = ours(config, adapters)
    assert np.abs(want - base).max() > 0.1
    for network in (beside, load(tmp_path / "model")):
        with torch.no_grad():
            got = network(torch.from_numpy(TOKENS)).logits.numpy()
        print("largest difference", np.abs(got - want).max(), "largest logit", np.abs(want).max())
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_base_that_has_changed_is_refused_in_one_line(run, tmp_path, capsys):
    config, workdir, _ = run
    path = config.policy.path + "/model.safetensors"
    before = load_file(path)
    try:
        name = "model.layers.1.mlp.up_proj.weight"
        save_file(before | {name: before[name] * np.float32(1.001)}, path)
        for merged in (False, True):
            with pytest.raises(SystemExit) as error:
                export.export(
                    config, workdir, tmp_path / "out", step=None, dtype=None, merged=merged
                )
            message = capsys.readouterr().err
            assert error.value.code == 2 and len(message.splitlines()) == 1
            assert f"policy.path: the contents of '{config.policy.path}' have changed" in message
            assert not (tmp_path / "out").exists()
    finally:
        save_file(before, path)


def test_merging_without_adapters_is_refused(run, tmp_path, capsys):
    config = run[0].copy_and_resolve_references()
    config.lora.rank = 0
    with pytest.raises(SystemExit):
        export.export(config, run[1], tmp_path / "out", step=None, dtype=None, merged=True)
    assert "--merged is for adapters, but lora.rank is 0" in capsys.readouterr().err


def test_a_merged_model_is_read_back_as_the_sum(run, tmp_path):
    config, workdir, adapters = run
    export.export(config, workdir, tmp_path / "model", step=None, dtype="float32", merged=True)
    plan = build.make_plan(config)
    whole = lora.whole(plan.update.lora, hf_directory.load(config.policy.path), adapters)
    got = weights.load_params(
        tmp_path / "model", plan.model, hf_directory.on_one_device(plan.model)
    )
    hf_directory.assert_same(got, lora.merged(whole))
