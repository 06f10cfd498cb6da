"""Tokens of the environment are in nothing that a command writes or says."""

import shutil

import processes
import pytest
from huggingface_hub import constants

from dars_jax.commands import cli, train

NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY",
         "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip
MARK = "a_project_that_is_searched_for"  # a setting, which is recorded
REWARD = """
import os
KEY = "{secret}"
def even(response, gold):
    assert os.environ["OPENAI_API_KEY"]  # a judge would need it
    return sum(map(ord, response)) % 2 == 0
def broken(response, gold):
    raise RuntimeError("no judge")
"""
HANGS = """
import runpy, sys, time
from dars_jax.records import metrics
from dars_jax.training import watchdog
hours, write = 0, metrics.MetricsLog.write
def hang(self, step, values):
    global hours
    if step == 2:
        hours = 9
        time.sleep(1e6)
    write(self, step, values)
metrics.MetricsLog.write = hang
watchdog.Watchdog.__init__.__defaults__ = (lambda: time.monotonic() + 3600 * hours,)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def secret(name):
    return f"wandb_v1_{name.lower()}_0123456789abcdef0123456789"


def found(directory, text):
    """Files whose contents or names have a text."""
    files = [p for p in directory.rglob("*") if p.is_file()]
    return [p for p in files if text.encode() in p.read_bytes() or text in str(p)]


@pytest.fixture
def command(tmp_path, monkeypatch, prompt_files):
    """Runs a command that trains -> (exit code, all it said)."""
    for name in NAMES:
        monkeypatch.setenv(name, secret(name))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    (tmp_path / "own.py").write_text(REWARD.format(secret=secret("reward")))
    policy = tmp_path / "policy"
    policy.mkdir()
    processes.write_policy(policy)

    def run(*before, **settings):
        settings = prompt_files | {
            "policy.path": str(policy), "reward.name": f"{tmp_path}/own.py:even",
            "reward.in_process": False, "train.num_steps": 1, "watchdog.minutes": 1,
            "wandb.project": MARK, "wandb.mode": "offline",
        } | {key.replace("__", "."): value for key, value in settings.items()}  # fmt: skip
        (arguments,) = processes.commands(1, tmp_path / "run", settings)
        with processes.group([[*before, *arguments]]) as (process,):
            said = "".join(process.communicate(timeout=300))
        return process.returncode, said

    return run


def test_no_token_of_the_environment_is_written_or_said(command, tmp_path):
    code, hung = command("-c", HANGS, train__num_steps=2)
    assert code == cli.EXIT_STALLED, hung
    (tmp_path / "run").rename(tmp_path / "before")
    code, failed = command(reward__name=f"{tmp_path}/own.py:broken")
    assert code == cli.EXIT_REWARD, failed
    (tmp_path / "said").write_text(hung + failed)
    (tmp_path / "own.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # Python's own copy of it
    names = {str(p.relative_to(tmp_path)) for p in found(tmp_path, MARK)}
    assert {"before/config.json", "before/checkpoints/1/about/metadata"} <= names
    assert found(tmp_path / "before" / "journal", "completions")
    assert found(tmp_path / "before", "Current thread")  # stalled.txt
    assert len(found(tmp_path, "")) > 30
    for name in (*NAMES, "reward"):
        assert not found(tmp_path, secret(name))


@pytest.mark.parametrize(
    "setting",
    [
        "policy.path=org/model",
        "data.train=hf://org/rows/train",
        f"data.train=https://user:{secret('login')}@localhost/rows.jsonl?token={secret('query')}",
        f"policy.path=https://user:{secret('login')}@localhost/model?token={secret('query')}",
    ],
)
def test_addresses_are_told_without_their_login_and_query(setting, tmp_path, monkeypatch, capsys):
    for name in NAMES:
        monkeypatch.setenv(name, secret(name))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://user:{secret('login')}@127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    policy = tmp_path / "policy"
    policy.mkdir()
    processes.write_policy(policy)
    key, _, value = setting.partition("=")
    with pytest.raises(SystemExit) as ended:
        train.train(processes.config({"policy.path": str(policy)} | {key: value}), tmp_path / "run")
    said = capsys.readouterr()
    assert ended.value.code == cli.EXIT_USAGE
    assert said.err.splitlines()[-1].startswith("error: ")
    for name in (*NAMES, "login", "query"):
        assert secret(name) not in said.out + said.err
        assert not found(tmp_path, secret(name))
