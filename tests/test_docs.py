"""README and docs: every link leads somewhere, every module that is to be run is there."""

import importlib.util
import pathlib
import re

import pytest

REPO = pathlib.Path(__file__).resolve().parent.parent
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(REPO)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_a_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path = target.partition("#")[0]
        assert "://" in path or (page.parent / path).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_what_is_to_be_run_is_there(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("it has the names that commands had before, too")
    text = page.read_text()
    for module in re.findall(r"python -m (dars_jax[\w.]*)", text):
        assert importlib.util.find_spec(module), f"{page.name}: {module}"
    for script in re.findall(r"(?:python )?\b((?:launch|configs)/\w+\.(?:py|sh))", text):
        assert (REPO / script).exists(), f"{page.name}: {script}"


def test_the_readme_is_short():
    assert len((REPO / "README.md").read_text().splitlines()) <= 160
