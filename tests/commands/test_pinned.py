"""Names on the hub become commits when a run begins, and stay what they became."""

import json

import pytest

from dars_jax.commands import startup
from dars_jax.config import defaults
from dars_jax.data import hub

NAMES = {"policy.path": "org/m", "data.train": "hf://org/d/train", "data.test": "hf://org/d/test"}


@pytest.fixture
def today(monkeypatch):
    """Lets names have the commit of the list's last entry."""
    commits = ["a" * 40]

    def pin(value, before=""):
        name = hub.parse(value)
        repo = f"{name.repo}@"
        return before if repo in before else value.replace(name.repo, repo + commits[-1])

    monkeypatch.setattr(hub, "pin", pin)
    return commits


def named():
    config = defaults()
    config.update_from_flattened_dict(NAMES)
    return config


def test_a_run_keeps_the_commits_that_its_directory_tells(today, tmp_path):
    config = named()
    first = startup.pinned(config, tmp_path)
    assert first.policy.path == f"org/m@{today[0]}"
    assert first.data.train == f"hf://org/d@{today[0]}/train"
    assert config.policy.path == "org/m"  # the caller's stays as it is
    settings = {"policy.path": first.policy.path, "data.train": first.data.train}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    today.append("b" * 40)
    again = startup.pinned(config, tmp_path)
    assert (again.policy.path, again.data.train) == (first.policy.path, first.data.train)
    assert again.data.test == f"hf://org/d@{today[1]}/test"  # which it did not tell


def test_settings_without_names_are_left_alone(today, tmp_path):
    config = defaults()
    assert startup.pinned(config, tmp_path) is config


def test_a_directory_of_some_processes_only_is_refused(monkeypatch, today, tmp_path):
    monkeypatch.setattr(startup.distributed, "gather_texts", lambda text: [text, "{}"])
    with pytest.raises(ValueError, match=r"policy\.path = 'org/m' is a directory for some"):
        startup.pinned(named(), tmp_path)
