"""Who may import whom.  Data flows one way, and heavy libraries stay where they belong."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "dars_jax"

# The rooms of the house from the ground up, each with its files from the bottom up.  A file imports
# from rooms above its own in this list, and from files before it in its own room.
HOUSE = {
    "": ["placement", "objective", "ratios", "passk", "types", "config", "distributed"],
    "allocator": ["integers", "checks", "chances", "rows", "asking", "sharing", "gaining",
                  "registry", "pull", "expected", "__init__"],
    "tasks": ["countdown", "countdown_tfds", "word_problems"],
    "data": ["disk", "hub", "sources", "chat_template", "tokenizer", "prompts"],
    "policy": ["products", "decoder", "lora", "page_kernels", "attention", "sharding", "families",
               "hf_fields", "hf_config", "hf_layout", "weights", "fingerprint", "adapter_files",
               "gguf"],
    "rewards.equality": ["vocabulary", "unicode", "latex", "trees", "numerals", "expression",
                         "evaluator", "applications", "units", "qualifiers", "forms", "reading",
                         "finite_field", "exponentials", "identities", "same_value", "real_sets",
                         "lists", "relations", "rules", "generated_code",
                         "by_math_verify", "authors_call"],
    "rewards": ["grader", "extract", "fast_path", "guard", "lifeline", "worker", "pool",
                "math_grader", "functions", "function_worker",
                "function_grader", "sum_grader", "__init__", "__main__"],
    "engine": ["kv_cache", "state", "memory", "sampler", "decode", "programs", "session",
               "jetstream_engine", "text", "driver", "server", "client", "openai_requests",
               "http_limits", "openai_replies", "openai_server"],
    "rollout": ["exchange", "scheduler", "stages", "simulation"],
    "learner": ["packing", "loss", "gradient", "update", "memory"],
    "records": ["storage", "progress", "tracker", "metrics", "manifest", "checkpoint", "journal"],
    "setup": ["presets", "arms", "base_policy", "mesh", "fit", "remedy", "plan", "build",
              "saved_state"],
    "evaluation": ["benchmarks", "scores", "answering", "second", "report"],
    "study": ["arms", "runs", "resampling", "compare", "loudness", "claims", "page", "figures",
              "allocation", "reproduction", "variants", "paper", "look"],
    "training": ["assemble", "stop", "watchdog", "loop"],
    "tpu": ["topology", "flops", "hlo", "hlo_traffic", "profile", "aot", "cost"],
    "commands": ["console", "cli", "startup", "train", "evaluate", "generations", "export", "serve",
                 "compile_tpu", "reproduce", "plot", "notebook"],
    "bench": ["profile", "work", "steps", "allocators", "compare", "hosts", "scale_parts",
              "scale_runs", "scale", "__main__"],
    "drills": ["soak", "long_run", "doomed", "crash", "damage", "grading", "by_value",
               "rewrites", "decisions", "tpu_programs", "supply", "http_client", "grpc_client",
               "servers"],
}  # fmt: skip

# What a room keeps to itself; everything else in it may be imported from above.
PRIVATE = {
    "data": {"chat_template"},
    "policy": {
        "products",
        "page_kernels",
        "families",
        "hf_fields",
        "hf_config",
        "hf_layout",
        "gguf",
    },
    "rewards.equality": set(HOUSE["rewards.equality"])
    - {"rules", "by_math_verify", "authors_call", "evaluator", "trees", "forms"},
    "rewards": set(HOUSE["rewards"]) - {"__init__"},
    "engine": {
        "sampler",
        "decode",
        "text",
        "driver",
        "openai_requests",
        "http_limits",
        "openai_replies",
    },
    "records": {"manifest"},
    "training": {"assemble", "stop"},
    "allocator": {"integers", "checks"},
    "tpu": {"flops", "hlo", "hlo_traffic", "profile"},
}

# Libraries that only these files import at all, whether at the top or inside a function.
HOMES = {
    # archived: nothing outside of the engine's room knows of it
    "jetstream": {"engine.jetstream_engine", "engine.driver", "engine.server", "engine.client"},
    "grpc": {"engine.server", "engine.client", "drills.grpc_client"},
    "starlette": {"engine.openai_server", "engine.http_limits"},
    "uvicorn": {"engine.openai_server", "engine.http_limits"},
    "pydantic": {"engine.openai_requests"},
    # linen is the decoder's; sharding resolves its logical axes; the engine's states are
    # flax.struct's, since JetStream's ResultTokens is one
    "flax": {"policy.decoder", "policy.sharding", "engine.jetstream_engine"},
    "optax": {"learner.update", "setup.build", "setup.base_policy"},
    "huggingface_hub": {"data.hub"},
    "orbax": {"records.checkpoint"},
    "clu": {"records.metrics"},
    "wandb": {"records.tracker"},
    "absl": {"commands.cli"},
    "ml_collections": {"config", "setup.plan", "commands.cli", "commands.generations"},
    "scipy": {"study.resampling"},
    "matplotlib": {"evaluation.report", "study.figures"},
    "IPython": {"commands.notebook"},
    "tensorflow_datasets": {"data.sources", "tasks.countdown_tfds"},
    "sentencepiece": {"data.tokenizer", "tasks.countdown"},
    "safetensors": {"policy.weights", "policy.hf_layout", "policy.adapter_files"},
    "sympy": {
        "rewards.equality.by_math_verify",
        "rewards.equality.generated_code",
        "rewards.worker",
    },
    "math_verify": {"rewards.equality.by_math_verify", "rewards.equality.authors_call"},
}
NEVER = {"tensorflow", "torch", "transformers"}
MATHEMATICS = (
    "placement", "objective", "ratios", "passk",
    *(f"allocator.{file}" for file in HOUSE["allocator"])
)  # fmt: skip

# More than 400 lines usually hold two ideas.  File: the reason why it holds one.
LONG: dict[str, str] = {}

ROOMS = list(HOUSE)


def place(name):
    """`rollout.stages` -> (floor, position in the room), the larger the higher up."""
    room, _, file = name.rpartition(".")
    if name in HOUSE:  # a package: what its __init__ hands on
        room, file = name, "__init__"
    return ROOMS.index(room), HOUSE[room].index(file)


def imports(path):
    """Absolute names of all that a file imports: `dars_jax.policy.decoder`, `jax.numpy`, …"""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            ours = [f"{node.module}.{alias.name}" for alias in node.names]
            files = {name for name in ours if name.removeprefix("dars_jax.") in FILES}
            names |= files if len(files) == len(ours) else files | {node.module}
    return names


FILES = {
    str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Those of `rewards` and `allocator` hand on what the room is for.
FOLDERS = {name for name in FILES if name.endswith("__init__")}
FOLDERS -= {"rewards.__init__", "allocator.__init__"}
SOURCES = [pytest.param(name, id=name) for name in FILES if name not in FOLDERS]


def ours(path):
    """The files and packages of the house that a file imports."""
    names = {n.removeprefix("dars_jax.") for n in imports(path) if n.startswith("dars_jax.")}
    return {n.removesuffix(".__init__") for n in names}


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_imports_only_from_below(name):
    room, _, file = name.rpartition(".")
    assert room in HOUSE and file in HOUSE[room], f"{name} has no place in HOUSE yet"
    for other in ours(FILES[name]):
        assert place(other) < place(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_room_keeps_to_itself_is_not_imported_from_outside(name):
    room = name.rpartition(".")[0]
    for other in ours(FILES[name]) - HOUSE.keys():
        theirs, _, file = other.rpartition(".")
        assert theirs == room or file not in PRIVATE.get(theirs, ()), f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(FOLDERS - {"__init__"}))
def test_a_room_says_what_it_is_and_loads_nothing(name):
    path = FILES[name]
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert not imports(path)


def test_every_file_of_the_house_is_there():
    listed = {f"{room}.{file}".removeprefix(".") for room in HOUSE for file in HOUSE[room]}
    assert listed == FILES.keys() - FOLDERS


@pytest.mark.parametrize("name", SOURCES)
def test_a_library_is_imported_only_where_it_belongs(name):
    tops = {other.split(".")[0] for other in imports(FILES[name])}
    assert not tops & NEVER
    strangers = {lib for lib in tops & HOMES.keys() if name not in HOMES[lib]}
    assert not strangers, f"{name} imports {strangers}"


def test_only_the_engines_room_knows_jetstream():
    assert all(name.startswith("engine.") for name in HOMES["jetstream"])
    assert not [n for n in FILES if "jetstream" in {i.split(".")[0] for i in imports(FILES[n])}
                and not n.startswith("engine.")]  # fmt: skip


@pytest.mark.parametrize("name", MATHEMATICS)
def test_the_mathematics_needs_jax_and_numpy_only(name):
    tops = {other.split(".")[0] for other in imports(FILES[name])}
    assert tops <= {"jax", "numpy", "typing", "dataclasses", "functools", "collections", "dars_jax"}
    assert ours(FILES[name]) <= set(MATHEMATICS)


def test_the_plain_package_has_what_the_plain_installation_has():
    # `import dars_jax` must work where only jax and numpy are installed
    tops = {other.split(".")[0] for other in imports(FILES["__init__"])}
    assert tops - set(sys.stdlib_module_names) <= {"jax", "numpy"}


def test_nothing_leans_on_private_parts_of_jax():
    for name, path in FILES.items():
        text = path.read_text()
        assert "jax._src" not in text and "args_res" not in text, name


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_stays_within_400_lines(name):
    lines = len(FILES[name].read_text().splitlines())
    if name in LONG:
        assert lines > 400, f"{name} is short now: take it off the list"
    else:
        assert lines <= 400


def test_a_test_stands_in_the_room_of_what_it_tests():
    tests = PACKAGE.parent / "tests"
    rooms = {room.split(".")[0] for room in ROOMS if room}
    found = {path.parent.name for path in tests.rglob("test_*.py") if path.parent != tests}
    assert found <= rooms | {"embedding"}  # that of docs/embedding, in others' trainers
