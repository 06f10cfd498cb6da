"""Another policy in a directory is told from the same one in another place."""

import shutil

import hf_directory
import numpy as np
import pytest

from dars_jax.policy.fingerprint import fingerprint


@pytest.fixture
def policy(tmp_path):
    directory = hf_directory.write(
        tmp_path / "policy", hf_directory.config_json(), hf_directory.tensors()
    )
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


def test_a_copy_elsewhere_is_the_same(policy, tmp_path):
    shutil.copytree(policy, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "README.md").write_text("not part of the policy")
    assert fingerprint(policy) == fingerprint(tmp_path / "elsewhere")


def test_trained_weights_are_others(policy):
    before = fingerprint(policy)
    trained = {k: v + np.float32(1e-6) * (v != 0) for k, v in hf_directory.tensors().items()}
    hf_directory.write(policy, hf_directory.config_json(), trained)
    assert fingerprint(policy) != before


@pytest.mark.parametrize("name", ["config.json", "chat_template.jinja"])
def test_every_small_file_counts(policy, name):
    before = fingerprint(policy)
    (policy / name).write_text((policy / name).read_text() + " ")
    assert fingerprint(policy) != before


def test_a_file_that_leads_out_of_the_directory_is_refused(policy, tmp_path):
    (tmp_path / "secret").write_text("x")
    (policy / "chat_template.jinja").unlink()
    (policy / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="points outside the directory"):
        fingerprint(policy)
