"""What is built and installed: archives, licence, types, version, and the command `dars-jax`."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import dars_jax
from dars_jax.commands import console

REPO = pathlib.Path(__file__).resolve().parents[2]
COMMAND = ("-c", "from dars_jax.commands.console import main; main()")
BUILD = """
import os, sys
from setuptools import build_meta
out = sys.argv.pop()
sdist = build_meta.build_sdist(out)
import shutil
shutil.unpack_archive(os.path.join(out, sdist), os.path.join(out, "source"))
os.chdir(os.path.join(out, "source", sdist.removesuffix(".tar.gz")))
build_meta.build_wheel(out)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory with the source archive, and the wheel that was built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    for name in ("dars_jax", "launch", "configs"):
        shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-c", BUILD, out], cwd=source, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Runs python with the installed wheel, far from the checkout -> CompletedProcess."""
    prefix = tmp_path_factory.mktemp("prefix")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index",
           "--ignore-installed", "--prefix", prefix, wheel]  # fmt: skip
    subprocess.run(pip, check=True, capture_output=True)
    (package,) = prefix.glob("lib/python*/site-packages")

    def run(*arguments, bare=False):
        flags = ["-S"] if bare else []
        return subprocess.run(
            [sys.executable, *flags, *arguments], capture_output=True, text=True, check=False,
            cwd=prefix, env={"PYTHONPATH": str(package), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    return run


def test_the_archives_hold_what_a_user_needs(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with tarfile.open(sdist) as inside:
        source = inside.getnames()
    with zipfile.ZipFile(wheel) as inside:
        names = inside.namelist()
        (metadata,) = [inside.read(n).decode() for n in names if n.endswith("dist-info/METADATA")]
    assert f"Version: {dars_jax.__version__}\n" in metadata
    assert "License-Expression: Apache-2.0" in metadata and "Requires-Python: >=3.11" in metadata
    plain = [x for x in metadata.splitlines() if x.startswith("Requires-Dist") and ";" not in x]
    assert [x.split()[1].partition(">")[0] for x in plain] == ["jax", "numpy"]
    for end in ("dars_jax/py.typed", "licenses/LICENSE", "configs/dars_b.py", "launch/tpu_run.py"):
        assert any(n.endswith(end) for n in names), end
        assert any(n.endswith(end.removeprefix("licenses/")) for n in source), end


def test_the_library_alone_imports_fast(installed):
    code = "import time, jax, jax.numpy; t = time.perf_counter()\n"
    code += "import dars_jax.allocator, dars_jax.objective; print(time.perf_counter() - t)"
    assert min(float(installed("-c", code).stdout) for _ in range(3)) < 0.3


def test_the_installed_command_finds_its_arms(installed):
    done = installed(*COMMAND, "train", "--config", "configs/dars_b.py:qwen3")
    assert done.returncode == 2
    assert "qwen3" in done.stderr and "qwen2.5-math-7b" in done.stderr


def test_help_needs_nothing_but_python(installed):
    done = installed(*COMMAND, "--help", bare=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in console.COMMANDS)
    assert installed(*COMMAND, "--version", bare=True).stdout.strip() == dars_jax.__version__


def test_without_the_extra_it_is_named_in_a_line(installed):
    done = installed(*COMMAND, "train", bare=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "dars_jax[train]" in done.stderr


def test_an_unknown_command_is_told_those_there_are(installed):
    done = installed(*COMMAND, "trian", bare=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown command 'trian': expected one of train, evaluate")


def test_every_script_of_the_directory_has_a_command():
    scripts = {path.stem for path in (REPO / "launch").glob("*.py")}
    assert {script for script, _ in console.COMMANDS.values()} == scripts
    assert console.home() == REPO


def test_a_configuration_that_is_here_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "grpo.py").write_text("")
    monkeypatch.chdir(tmp_path)
    given = ["--config=configs/dars_b.py:et", "--config", "configs/grpo.py", "--config.seed=1"]
    assert console.with_known_configs(given, REPO) == [
        f"--config={REPO}/configs/dars_b.py:et", *given[1:],
    ]  # fmt: skip


@pytest.mark.parametrize("script", ["tpu_run", "evaluate", "plot"])
def test_a_script_without_the_train_extra_says_so_in_a_line(script):
    code = "import sys, runpy; sys.modules['absl'] = None; sys.argv = ['x', '--help'];"
    code += f"runpy.run_path({str(REPO / 'launch' / script)!r} + '.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: absl is missing: pip install '.[train]'")


def test_another_missing_module_is_not_blamed_on_the_extra():
    with pytest.raises(ModuleNotFoundError, match="pandas"):
        console.end_without(ModuleNotFoundError("No module named 'pandas'", name="pandas"))
