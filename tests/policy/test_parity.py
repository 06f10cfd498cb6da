"""Our decoder against transformers' on the same directory, written by transformers itself."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_directory import assert_same, load

from dars_jax.policy import decoder, weights
from dars_jax.policy.attention import LayerCache, cached_attention, prompt_attention

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, PROMPT, NEW = 307, 23, 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
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
    "original_max_position_embeddings": 16,  # every frequency band occurs within the 87 tokens
}
MODELS = {
    "qwen2": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen2 tied": ("Qwen2", {"tie_word_embeddings": True}),
    "llama": ("Llama", {"tie_word_embeddings": False, "head_dim": 24}),
    "llama3 tied": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def theirs(request, tmp_path_factory):
    """(their model, its directory); 4 files, and biases and norms that are not the initial ones."""
    family, changes = request.param
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES | changes)
    network = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    path = tmp_path_factory.mktemp(family.lower())
    network.save_pretrained(path, max_shard_size="300KB")
    assert len(list(path.glob("*.safetensors"))) > 3
    return network, path


def our_logits(params, config, tokens):
    """int32[B,T] -> float32[B,T,V]"""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    with jax.default_matmul_precision("highest"):
        hidden, _ = decoder.forward(
            params, config, tokens, position, attention=prompt_attention, state=None
        )
        return hidden @ decoder.head_matrix(params).T


def our_greedy(params, config, prompt, count):
    """`count` tokens after `prompt` int32[B,T], by prefill and a cache -> int32[B,count]"""
    batch, length = prompt.shape
    position = jnp.broadcast_to(jnp.arange(length), prompt.shape)
    hidden, (key, value) = decoder.forward(
        params, config, prompt, position, attention=prompt_attention, state=None
    )
    room = [(0, 0), (0, 0), (0, count), (0, 0), (0, 0)]
    key, value = jnp.pad(key, room), jnp.pad(value, room)  # [N,B,C,K,d]
    caches = tuple(
        LayerCache(k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3))
        for k, v in zip(key, value, strict=True)
    )
    decode = decoder.unstack_layers(params, dtype=jnp.float32)

    @jax.jit
    def step(token, position, caches):
        hidden, caches = decoder.forward_token(
            decode,
            config,
            token,
            position,
            attention=cached_attention,
            states=tuple((cache, position) for cache in caches),
        )
        return jnp.argmax(hidden @ decoder.head_matrix(decode).T, axis=-1), caches

    out = [jnp.argmax(hidden[:, -1] @ decoder.head_matrix(params).T, axis=-1)]
    for i in range(count - 1):
        token, caches = step(out[-1], jnp.full(batch, length + i), caches)
        out.append(token)
    return jnp.stack(out, axis=1)


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


def test_greedy_generation_is_token_identical(theirs):
    network, path = theirs
    prompt = random_tokens((2, PROMPT))
    want = network.generate(
        torch.from_numpy(prompt),
        attention_mask=torch.ones_like(torch.from_numpy(prompt)),
        do_sample=False,
        max_new_tokens=NEW,
        pad_token_id=0,
    )[:, PROMPT:].numpy()
    got = our_greedy(load(path), weights.read_config(path), jnp.asarray(prompt), NEW)
    assert want.shape == (2, NEW)
    assert len(np.unique(want)) > NEW // 4  # no loop of two tokens
    np.testing.assert_array_equal(got, want)


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
