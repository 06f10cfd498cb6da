"""Links in the pages lead to files, as GitHub wants them; in the site, to the reference."""

import re

_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """`[loop.py](../dars_jax/training/loop.py)` becomes a reference to `dars_jax.training.loop`."""
    return _LINK.sub(_reference, markdown)


def _reference(match: re.Match) -> str:
    label, path = match[1].strip("`"), match[2].rstrip("/")
    if path.startswith("dars_jax/"):
        return f"[{label}][{path.removesuffix('.py').replace('/', '.')}]"
    return f"`{label}`"
