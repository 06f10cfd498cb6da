"""The notebooks as files; notebooks/test_execution.py runs them."""

import json
import pathlib

import pytest

NOTEBOOKS = pathlib.Path(__file__).resolve().parent.parent / "notebooks"


@pytest.mark.parametrize("name", sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb")))
def test_a_notebook_defines_nothing_and_has_its_pictures_saved(name):
    book = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())
    cells = [c for c in book["cells"] if c["cell_type"] == "code"]
    lines = [line for c in cells for line in c["source"]]
    assert lines and not any(line.startswith(("def ", "class ")) for line in lines)
    outputs = [o for c in cells for o in c["outputs"]]
    assert sum("image/png" in o.get("data", ()) for o in outputs) >= 5
    assert not [o for o in outputs if o["output_type"] == "error"]
