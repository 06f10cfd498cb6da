"""Chat templates of Hugging Face directories: jinja programs, compiled in jinja's sandbox."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Template = Callable[..., str]


def read(directory: Path, configured: object) -> Template | None:
    """The directory's template as a function of its variables; None if it has none.

    Args:
      configured: chat_template of tokenizer_config.json, for which chat_template.jinja stands in.
        One template, or several by name, as an object or a list of {name, template}; of several
        that called default is meant.

    Raises:
      ValueError: names the file and what is wrong.
    """
    file = directory / "chat_template.jinja"
    if file.is_file():
        try:
            return _compile(file.read_text(encoding="utf-8"), file)
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8: {error}") from error
    file = directory / "tokenizer_config.json"
    if isinstance(configured, list):
        configured = dict(_entry(entry, file) for entry in configured)
    if isinstance(configured, Mapping):
        if "default" not in configured:
            raise ValueError(f"{file}: chat_template names {sorted(configured)}, but no 'default'")
        configured = configured["default"]
    if configured is None:
        return None
    if not isinstance(configured, str):
        raise ValueError(f"{file}: chat_template is {configured!r:.60}, expected a text")
    return _compile(configured, file)


def _entry(entry: object, file: Path) -> tuple[str, object]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f"{file}: an entry of chat_template has no name: {entry!r:.60}")
    return entry["name"], entry.get("template")


def _compile(source: str, file: Path) -> Template:
    """The environment is the one that templates are written for, without `strftime_now`:

    templates then write a fixed date, and a prompt is the same text every day.
    """
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.parser
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, which marks an assistant's words for trainers that mask: no more."""

        tags = {"generation"}  # noqa: RUF012, jinja's

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **form: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **form)  # jinja's escapes < and >

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    try:
        return environment.from_string(source).render
    except Exception as error:  # as it parses, jinja also computes what is constant
        raise ValueError(f"{file}: broken chat template: {error}") from error
