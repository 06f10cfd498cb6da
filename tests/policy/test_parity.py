"""Our decoder against transformers' on the same directory, written by transformers itself."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_directory import assert_same, load

from dars_jax.engine.programs import Programs
from dars_jax.engine.session import Request, SamplingConfig, Session
from dars_jax.engine.state import DecodeConfig
from dars_jax.policy import decoder, sharding, weights
from dars_jax.policy.attention import prompt_attention

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, PROMPT, NEW = 307, 23, 32
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,  # far from uniform: a wrong layout moves the argmax
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,  # every frequency band occurs within the 55 tokens
}
MODELS = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}),
    "llama": ("Llama", {"tie_word_embeddings": False, "head_dim": 24}),
    "llama3 tied": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": False, "head_dim": 20}),
    "qwen3 tied": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
    "olmo2": ("Olmo2", {"tie_word_embeddings": False, "pad_token_id": None}),
    "olmo2 tied": (
        "Olmo2", {"tie_word_embeddings": True, "pad_token_id": None, "num_key_value_heads": 6}
    ),
}  # fmt: skip

ENGINE = ("qwen2", "llama3 tied", "qwen3", "olmo2")  # compiling an engine takes seconds


def far_from_initial(family, changes):
    """Their network, with biases and norms that are not the initial ones."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | changes)
    network = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def theirs(request, tmp_path_factory):
    """(their model, its directory of 4 files)."""
    network = far_from_initial(*request.param)
    path = tmp_path_factory.mktemp(request.param[0].lower())
    network.save_pretrained(path, max_shard_size="150KB")
    assert len(list(path.glob("*.safetensors"))) > 3
    return network, path


def our_logits(params, config, tokens):
    """int32[B,T] -> float32[B,T,V]"""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    with jax.default_matmul_precision("highest"):
        return _logits(params, config, tokens, position)


@functools.partial(jax.jit, static_argnames="config")
def _logits(params, config, tokens, position):
    hidden, _ = decoder.forward(
        params, config, tokens, position, attention=prompt_attention, state=None
    )
    return hidden @ decoder.head_matrix(params).T


def our_answers(params, config, prompts, samplings):
    """What the engine that serves rollouts answers: one list of (tokens, logprob) per sampling."""
    mesh = sharding.make_mesh(1, 1, 1, jax.devices()[:1])
    static = DecodeConfig(
        slots=8, prefixes=8, requests=64, prompt_tokens=PROMPT, response_tokens=NEW,
        eos_ids=(VOCAB + 1,), filters=False, dtype=jnp.dtype("float32"),
    )  # fmt: skip
    programs = Programs(static, config, mesh)
    session = Session(programs, programs.publish(params), len(prompts))
    session.prefill([(0, i, prompt) for i, prompt in enumerate(prompts)])
    count = len(prompts)
    for first, sampling in enumerate(samplings):
        requests = [
            Request(0, first * count + i, i, (0, 0, first, i, 0), NEW) for i in range(count)
        ]
        session.enqueue(requests, sampling)
    finished = []
    while len(finished) < count * len(samplings):
        session.start(NEW)
        finished += session.finish().finished
    answers = session.drain(finished)
    return [
        [answers[0, first * count + i] for i in range(count)] for first in range(len(samplings))
    ]


def random_tokens(shape):
    return np.random.default_rng(1).integers(0, VOCAB, shape)


def test_logits_agree_within_1e_4(theirs):
    network, path = theirs
    tokens = random_tokens((2, PROMPT + NEW))
    with torch.no_grad():
        want = network(torch.from_numpy(tokens)).logits.numpy()
    got = our_logits(load(path), weights.read_config(path), jnp.asarray(tokens))
    print("largest difference", np.abs(got - want).max(), "largest logit", np.abs(want).max())
    assert np.abs(want).max() > 1  # else 1e-4 would say little
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("theirs", [MODELS[name] for name in ENGINE], indirect=True, ids=ENGINE)
def test_the_engine_answers_as_their_generate_does_with_their_log_probs(theirs):
    network, path = theirs
    prompts = random_tokens((2, PROMPT))
    (greedy, sampled) = our_answers(
        load(path), weights.read_config(path), prompts.astype(np.int32),
        [SamplingConfig(0.0, max_tokens=NEW), SamplingConfig(0.7, max_tokens=NEW)],
    )  # fmt: skip
    want = network.generate(
        torch.from_numpy(prompts),
        attention_mask=torch.ones_like(torch.from_numpy(prompts)),
        do_sample=False,
        max_new_tokens=NEW,
        pad_token_id=0,
    )[:, PROMPT:].numpy()
    assert want.shape == (2, NEW)
    assert len(np.unique(want)) > NEW // 4  # no loop of two tokens
    np.testing.assert_array_equal([tokens for tokens, _ in greedy], want)
    for answers, temperature in ((greedy, 1.0), (sampled, 0.7)):
        tokens, ours = map(np.array, zip(*answers, strict=True))
        whole = torch.from_numpy(np.concatenate([prompts, tokens], 1))
        with torch.no_grad():
            logits = network(whole).logits[:, PROMPT - 1 : -1] / temperature
        log_probs = torch.log_softmax(logits, -1).numpy()
        theirs_of = np.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
        print("temperature", temperature, "largest difference", np.abs(ours - theirs_of).max())
        np.testing.assert_allclose(ours, theirs_of, atol=1e-4)
    assert not np.array_equal(sampled[0][0], greedy[0][0])


@pytest.mark.parametrize("with_source", [True, False])
def test_transformers_loads_what_we_save(theirs, tmp_path, with_source):
    network, path = theirs
    config, params = weights.read_config(path), load(path)
    out = tmp_path / "out"
    weights.save_params(
        out,
        params,
        config,
        source=path if with_source else None,
        dtype=jnp.float32,
        max_shard_bytes=200_000,
    )
    assert weights.read_config(out) == config
    assert_same(params, load(out))
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", output_loading_info=True
    )
    assert not any(report.values()), report
    assert again.dtype == torch.float32
    tokens = torch.from_numpy(random_tokens((1, 9)))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, network(tokens).logits)


def test_bfloat16_export_has_the_dtype_transformers_asks_for(theirs, tmp_path):
    network, path = theirs
    out = tmp_path / "out"
    config = weights.read_config(path)
    weights.save_params(out, load(path), config, source=path, dtype=jnp.bfloat16)
    again = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert again.dtype == torch.bfloat16
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.to(torch.bfloat16)), name
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
