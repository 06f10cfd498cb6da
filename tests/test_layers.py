"""Who may import whom.  Data flows one way, and heavy libraries stay where they belong."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "dars_jax"

# A module imports from layers below its own, or from an earlier name of its own line.
LAYERS = [
    ["allocator", "objective", "passk"],
    ["types", "config", "distributed"],
    ["model", "page_kernels", "attention", "sharding", "hf_config", "hf_layout", "weights", "gguf",
     "text", "countdown", "countdown_tfds", "word_problems", "sources", "data", "rewards",
     "progress", "benchmarks", "manifest", "hlo", "hlo_traffic", "flops", "memory"],
    ["cache", "slots", "sampler", "decode", "programs", "session", "engine", "serving"],
    ["exchange", "schedule", "rollout", "simulate", "batch", "loss", "gradient", "update"],
    ["plan", "presets", "warmup", "build", "metrics", "checkpoint",
     "figures", "evaluation_report", "evaluate", "trainer", "topology", "aot", "aot_report"],
    ["cli", "generations", "run", "serve", "bench", "soak", "crash_drill", "compile_step"],
]  # fmt: skip

# Libraries that only these modules import at all, whether at the top or inside a function.
HOMES = {
    "jetstream": {"engine", "serving"},
    "grpc": {"serving"},
    # linen is the model's; sharding resolves its logical axes; engine's states are flax.struct's,
    # since JetStream's ResultTokens is one
    "flax": {"model", "sharding", "engine"},
    "optax": {"update", "build", "warmup", "bench"},
    "orbax": {"checkpoint"},
    "clu": {"metrics"},
    "absl": {"cli"},
    "ml_collections": {"config", "plan", "cli", "generations"},
    "matplotlib": {"evaluation_report"},
    "tensorflow_datasets": {"sources", "countdown_tfds"},
    "sentencepiece": {"text", "countdown"},
    "safetensors": {"weights", "hf_layout"},
    "sympy": {"rewards"},
    "math_verify": {"rewards"},
}
NEVER = {"tensorflow", "torch", "transformers"}

# More than 400 lines usually hold two ideas.  File: the reason why it holds one.
LONG: dict[str, str] = {}


def modules():
    """(Name of the module or package under dars_jax, file) of every source file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.name != "__init__.py" or len(relative.parts) > 1:
            yield (relative.parts[0].removesuffix(".py"), path)


def imports(path):
    """Absolute names of all that a file imports: `dars_jax.model`, `jax.numpy`, …"""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module in ("dars_jax", "dars_jax.rewards"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                names.add(node.module)
    return names


ORDER = {name: (i, j) for i, line in enumerate(LAYERS) for j, name in enumerate(line)}
SOURCES = [pytest.param(name, path, id=str(path.relative_to(PACKAGE))) for name, path in modules()]


@pytest.mark.parametrize(("module", "path"), SOURCES)
def test_a_module_imports_only_from_below(module, path):
    assert module in ORDER, f"{module} has no place in LAYERS yet"
    for name in imports(path):
        if name.startswith("dars_jax."):
            other = name.split(".")[1]
            assert other in ORDER, f"{path}: {name}?"
            assert other == module or ORDER[other] < ORDER[module], f"{module} imports {other}"


@pytest.mark.parametrize(("module", "path"), SOURCES)
def test_a_library_is_imported_only_where_it_belongs(module, path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & NEVER
    strangers = {lib for lib in tops & HOMES.keys() if module not in HOMES[lib]}
    assert not strangers, f"{module} imports {strangers}"


@pytest.mark.parametrize("module", LAYERS[0])
def test_the_mathematics_needs_jax_and_numpy_only(module):
    tops = {name.split(".")[0] for name in imports(PACKAGE / f"{module}.py")}
    assert tops <= {"jax", "numpy", "typing", "dataclasses", "functools", "collections"}
    assert {"jax", "numpy"} & tops


def test_the_plain_package_has_what_the_plain_installation_has():
    # `import dars_jax` must work where only jax and numpy are installed
    tops = {name.split(".")[0] for name in imports(PACKAGE / "__init__.py")}
    assert tops - set(sys.stdlib_module_names) <= {"jax", "numpy"}


@pytest.mark.parametrize(("module", "path"), SOURCES)
def test_a_file_stays_within_400_lines(module, path):
    lines = len(path.read_text().splitlines())
    name = str(path.relative_to(PACKAGE))
    if name in LONG:
        assert lines > 400, f"{name} is short now: take it off the list"
    else:
        assert lines <= 400
