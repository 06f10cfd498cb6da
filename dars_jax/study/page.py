"""A report as blocks, and the two forms it takes: Markdown with pictures beside it, one HTML file.

Everything that is not a block's own markup is escaped in HTML: answers of a policy may hold
anything.
"""

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path

from dars_jax.records import storage


@dataclasses.dataclass(frozen=True)
class Heading:
    """Of a section (level 2) or of the page (level 1)."""

    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """The first column is text, the others are numbers unless `words`."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture, and a sentence that says what to see."""

    name: str  # of the file, without its ending
    png: bytes
    caption: str


@dataclasses.dataclass(frozen=True)
class Verbatim:
    """Text whose every character counts."""

    text: str


Block = Heading | Text | Table | Figure | Verbatim


def write(directory: Path, name: str, blocks: Sequence[Block]) -> list[Path]:
    """NAME.md with its pictures, and NAME.html that holds everything -> the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = [directory / f"{name}.md", directory / f"{name}.html"]
    for block in blocks:
        if isinstance(block, Figure):
            written.append(directory / f"{block.name}.png")
            storage.replace(written[-1], block.png)
    storage.replace(written[0], to_markdown(blocks))
    storage.replace(written[1], to_html(blocks))
    return written


def to_markdown(blocks: Sequence[Block]) -> str:
    """Pictures are links to NAME.png beside the page."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Verbatim):
        fence = "```"
        while fence in block.text:
            fence += "`"
        return f"{fence}text\n{block.text}\n{fence}"
    if isinstance(block, Figure):
        return f"![{block.caption}]({block.name}.png)\n\n*{block.caption}*"
    rule = ["---" if i == 0 or block.words else "---:" for i in range(len(block.header))]
    rows = [block.header, rule, *block.rows]
    cells = lambda row: (cell.replace("|", "\\|") for cell in row)  # noqa: E731
    return "\n".join("| " + " | ".join(cells(row)) + " |" for row in rows)


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2 { line-height: 1.2; margin-top: 2em; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
table.numbers td + td, table.numbers th + th { text-align: right; white-space: nowrap; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; }
figcaption { color: #555; font-size: .9rem; }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
"""


def to_html(blocks: Sequence[Block]) -> str:
    """One file that needs no other."""
    titles = [block.text for block in blocks if isinstance(block, Heading) and block.level == 1]
    body = "\n".join(map(_html, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(titles[0] if titles else 'report')}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Verbatim):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Figure):
        caption = html.escape(block.caption)
        source = base64.b64encode(block.png).decode()
        return (
            f'<figure>\n<img alt="{caption}" src="data:image/png;base64,{source}">\n'
            f"<figcaption>{caption}</figcaption>\n</figure>"
        )
    row = lambda cells, tag: (  # noqa: E731
        "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"
    )
    kind = "words" if block.words else "numbers"
    rows = "\n".join(row(cells, "td") for cells in block.rows)
    return (
        f'<table class="{kind}">\n<thead>{row(block.header, "th")}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>"
    )
