"""A report in Markdown and in HTML."""

import html.parser

import pytest

from dars_jax.study import page
from dars_jax.study.page import Figure, Heading, Table, Text, Verbatim

HOSTILE = "<script>alert('x')</script> & | ``` \x07"
BLOCKS = [
    Heading(HOSTILE, 1), Text(HOSTILE), Verbatim(HOSTILE), Table(["a", HOSTILE], [[HOSTILE, "1"]]),
    Figure("picture", b"\x89PNG", HOSTILE),
]  # fmt: skip


class _Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def read():
    reader = _Reader()
    reader.feed(page.to_html(BLOCKS))
    return reader


def test_what_a_policy_says_is_never_markup(read):
    assert "script" not in read.tags
    # title, heading, text, verbatim, two cells, a caption
    assert "".join(read.text).count(HOSTILE) == 7


def test_the_html_needs_no_other_file(read):
    assert read.sources == ["data:image/png;base64,iVBORw=="]


def test_a_bar_in_a_cell_does_not_end_it():
    (table,) = [b for b in BLOCKS if isinstance(b, Table)]
    row = page.to_markdown([table]).splitlines()[2]
    assert row.replace("\\|", "").count("|") == 3


def test_a_fence_is_longer_than_what_it_holds():
    text = page.to_markdown([Verbatim("```\nx\n```")])
    assert text.startswith("````text\n") and text.rstrip().endswith("\n````")


def test_the_pictures_lie_beside_the_page(tmp_path):
    files = page.write(tmp_path, "report", BLOCKS)
    assert sorted(p.name for p in files) == ["picture.png", "report.html", "report.md"]
    assert (tmp_path / "picture.png").read_bytes() == b"\x89PNG"
    assert "(picture.png)" in (tmp_path / "report.md").read_text()
