"""Models and datasets by name, from a small hub that speaks the real one's interface."""

import json
import resource
import sys

import hub_server
import pytest
from huggingface_hub import constants

from dars_jax.commands import cli
from dars_jax.data import hub, sources

FIRST, SECOND = "a" * 40, "b" * 40
MODEL = {"config.json": {"n": 1}, "model.safetensors": b"w", "tokenizer.json": {}}


@pytest.fixture
def there(monkeypatch, tmp_path):
    """A hub with nothing on it, and an empty cache."""
    served = hub_server.Hub()
    hub._fetch.cache_clear()
    with hub_server.serving(served) as address:
        files = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield served


def refusal(value):
    with pytest.raises(ValueError) as caught:
        hub.model_directory(hub.pin(value)) if "://" not in value else hub.pin(value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_is_pinned_to_the_commit_of_today_and_stays_at_it(there):
    there.add("models/org/m", MODEL, FIRST)
    assert hub.pin("org/m") == f"org/m@{FIRST}"
    there.add("models/org/m", MODEL, SECOND)
    assert hub.pin("org/m", before=f"org/m@{FIRST}") == f"org/m@{FIRST}"
    assert hub.pin(f"org/m@{FIRST}") == f"org/m@{FIRST}"
    # a new run, another revision than the name alone, another model
    assert hub.pin("org/m") == hub.pin("org/m@main", before=f"org/m@{FIRST}") == f"org/m@{SECOND}"
    there.add("models/org/other", MODEL, SECOND)
    assert hub.pin("org/other", before=f"org/m@{FIRST}") == f"org/other@{SECOND}"


def test_only_weights_json_and_tokenizer_come_and_they_come_once(there):
    unwanted = {
        "pytorch_model.bin": b"p", "modeling.py": b"p", "original/model.safetensors": b"w",
        "consolidated.safetensors": b"w", "README.md": b"",
    }  # fmt: skip
    there.add("models/org/m", MODEL | unwanted)
    pinned = hub.pin("org/m")
    directory = hub.model_directory(pinned, hub.CONFIG_FILES)
    assert {p.name for p in directory.iterdir()} == {"config.json"}
    assert hub.model_directory(pinned) == directory
    assert {str(p.relative_to(directory)) for p in directory.rglob("*")} == set(MODEL)
    assert json.loads((directory / "config.json").read_text()) == {"n": 1}
    asked = len(there.asked)
    hub._fetch.cache_clear()  # as in another process
    assert hub.model_directory(pinned) == directory
    assert not any("resolve" in path for path in there.asked[asked:])


def test_what_is_here_under_the_name_comes_first(there, tmp_path):
    (tmp_path / "org" / "m").mkdir(parents=True)
    assert hub.pin("org/m") == "org/m"
    assert str(hub.model_directory("org/m")) == "org/m"
    for path in ("", "/models/m", "./m", "a/b/c"):
        assert hub.pin(path) == path
    assert not there.asked


def test_shards_of_a_dataset_are_numbered_through(there):
    files = {
        "main/test-00001-of-00002.jsonl": b'\n{"n": 2}',
        "main/test-00000-of-00002.jsonl": b'{"n": 0}\n',
        "main/train-00000-of-00001.jsonl": b'{"n": 7}\n', "test.py": b"", "flat.jsonl": b"{}\n",
    }  # fmt: skip
    there.add("datasets/org/d", files, FIRST)
    source = hub.pin("hf://org/d/main/test")
    assert source == f"hf://org/d@{FIRST}/main/test" and sources.name_of(source) == "d_main_test"
    assert list(sources.read_rows(source)) == [(0, b'{"n": 0}\n'), (2, b'{"n": 2}')]
    for name in ("flat", "flat.jsonl"):
        assert list(sources.read_rows(hub.pin(f"hf://org/d/{name}"))) == [(0, b"{}\n")]
    assert len(list(sources.read_rows(f"hf://org/d@{FIRST}/main/"))) == 3
    assert not any("test.py" in path for path in there.asked)


def test_names_without_anything_usable_are_refused_before_a_download(there):
    there.add("models/org/pickles", {"config.json": {}, "pytorch_model.bin": b""})
    there.add("models/org/gguf", {"m.gguf": b""})
    there.add("datasets/org/d", {"train.jsonl": b"", "make.py": b""})
    assert "no weights as safetensors" in refusal("org/pickles")
    assert "no config.json, but m.gguf" in refusal("org/gguf")
    message = refusal("hf://org/d/test")
    assert "no test.parquet" in message and message.endswith("but train.jsonl")
    assert "has no revision 'v9'" in refusal("org/pickles@v9")
    assert "hf://ORG/NAME/FILES" in refusal("hf://org/d")
    assert not any("resolve" in path for path in there.asked)


def test_a_name_that_is_not_there_or_gated_is_told_what_to_do(there, monkeypatch):
    there.add("models/org/m", MODEL)
    there.gated.add("models/org/m")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    gated, absent = refusal("org/m"), refusal("org/nothing")
    assert "terms" in gated and "/org/m, and set HF_TOKEN" in gated
    assert "no such directory" in absent and "no model org/nothing" in absent
    assert "Bearer hf_mine" in there.tokens and "hf_mine" not in gated + absent


def test_without_a_network_a_pinned_name_is_taken_from_the_cache(there, monkeypatch):
    there.add("models/org/m", MODEL)
    pinned = hub.pin("org/m")
    directory = hub.model_directory(pinned)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub._fetch.cache_clear()
    assert hub.model_directory(pinned) == directory
    assert "http://127.0.0.1:9 cannot be reached" in refusal("org/m")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'dars_jax[hub]', or give a path" in refusal("org/m")


def test_a_full_disk_is_told_with_its_place_and_the_same_call_goes_on(there, tmp_path, capsys):
    weights = b"w" * 20_000
    there.add("models/org/m", MODEL | {"model.safetensors": weights})
    pinned = hub.pin("org/m")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(SystemExit) as ended, cli.one_line_errors():
            hub.model_directory(pinned)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.value.code == cli.EXIT_NOT_SAVED
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {tmp_path / 'cache'} could not be written (File too large)")
    found = hub.model_directory(pinned)
    assert (found / "model.safetensors").read_bytes() == weights


def test_a_login_in_the_hubs_address_is_not_shown(there, monkeypatch, capsys):
    address = constants.ENDPOINT.replace("://", "://user:secret@")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    with pytest.raises(SystemExit), cli.one_line_errors():
        hub.pin("org/nothing")
    told = capsys.readouterr().err
    assert "secret" not in told and "user" not in told and "http://127.0.0.1" in told
