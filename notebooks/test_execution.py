"""Every notebook runs from a fresh kernel, in a tiny form, and shows pictures.

pip install -e '.[test,notebooks]' && python -m pytest notebooks
"""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parent
TINY = {"train.num_steps": 2, "rollout.num_prompts": 16, "policy.warmup_steps": 51,
        "eval.num_samples": 8}  # fmt: skip


def run(name, directory, **parameters):
    """The outputs of all cells, with other values in the cell of parameters."""
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    (place,) = [i for i, c in enumerate(book.cells) if "parameters" in c.metadata.get("tags", ())]
    values = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    book.cells.insert(place + 1, nbformat.v4.new_code_cell(values))
    resources = {"metadata": {"path": str(directory)}}
    nbclient.NotebookClient(book, timeout=120, resources=resources).execute()
    return [o for c in book.cells if c.cell_type == "code" for o in c.outputs]


def pictures(outputs):
    return sum("image/png" in output.get("data", ()) for output in outputs)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks") / "runs" / "tiny"


def test_the_allocators_are_drawn(tmp_path):
    outputs = run("allocator", tmp_path, N_MAX=16)
    assert "hw [8 8 8 3 0 0 0 0 0]" in outputs[0].text
    assert pictures(outputs) == 5


def test_a_run_in_the_kernel_has_live_curves_and_a_report(workdir, tmp_path):
    outputs = run("dars_b_colab", tmp_path, CHANGES=TINY, WORKDIR=str(workdir))
    said = "".join(o.text for o in outputs if o.output_type == "stream")
    assert "Pass@1 before" in said and "step 2/2" in said and "E0000" not in said
    assert said.endswith("no TPU here: its preset is not run\n")
    assert len((workdir / "metrics.jsonl").read_text().splitlines()) == 2
    assert pictures(outputs) == 6  # the curves, then five of the report

    outputs = run("curves", tmp_path, WORKDIRS=[str(workdir)])
    assert pictures(outputs) == 5


def test_a_mistake_is_one_line_and_leaves_the_kernel_alive(tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError) as ended:
        run("dars_b_colab", tmp_path, CHANGES={"rollout.n_max": 4}, WORKDIR=str(tmp_path / "run"))
    assert str(ended.value).endswith("training ended with exit code 2\n")
    assert "error: rollout.n_max" in str(ended.value)
