"""`config.toml` and the tables of docs/configuration.md, written from the models, so that neither can go stale.

Run `python -m daemon.config_reference` after changing a setting; a test holds both files against this.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from daemon.config import Config

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table of the file with the model behind it, in order, outermost first."""
    yield path, model
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from sections(field.annotation, f"{path}.{name}" if path else name)


def settings(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The plain fields of one table, under the name the file uses."""
    for name, field in model.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            yield field.alias or name, field


def toml(value: Any) -> str:
    """A default as TOML; JSON's spelling is TOML's for everything the configuration holds."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def allowed(field: FieldInfo) -> str:
    """The bounds and alternatives of a setting, in words."""
    signs = {Ge: ("at least", "ge"), Gt: ("above", "gt"), Le: ("at most", "le"), Lt: ("below", "lt")}
    parts = [
        f"{signs[type(rule)][0]} {getattr(rule, signs[type(rule)][1]):g}"
        for rule in field.metadata
        if type(rule) in signs
    ]
    choices = [f"`{choice}`" for choice in literals(field.annotation)]
    return ", ".join([" or ".join(choices), *parts] if choices else parts)


def literals(annotation: Any) -> list[str]:
    """The words an annotation admits, those inside a tuple too."""
    inner = get_args(annotation)
    return [word for part in inner for word in ([part] if isinstance(part, str) else literals(part))]


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def config_toml() -> str:
    """The shipped file: every setting with its default and what it means."""
    lines = [
        "# honed's configuration. Every setting is shown with its default; docs/configuration.md is the reference.",
        "# HONED_<SECTION>__<KEY> in the environment overrides it, e.g. HONED_DAEMON__SCHEDULE__MIN_FEEDBACK=10.",
    ]
    for path, model in sections(Config):
        plain = list(settings(model))
        if not plain:
            continue
        lines += ["", f"[{path}]"]
        for name, field in plain:
            lines += [f"# {line.strip()}" for line in (field.description or "").splitlines()]
            unset = field.default is None
            lines.append(f"# {name} = (unset)" if unset else f"{name} = {toml(field.default)}")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The reference tables."""
    blocks = []
    for path, model in sections(Config):
        plain = list(settings(model))
        if not plain:
            continue
        rows = [
            f"| `{name}` | {'unset' if field.default is None else f'`{toml(field.default)}`'} | {allowed(field)} "
            f"| {one_line(field.description)} |"
            for name, field in plain
        ]
        heading = f"### `[{path}]`\n\n{one_line(model.__doc__)}\n"
        blocks.append(
            "\n".join([heading, "| key | default | allowed | meaning |", "|---|---|---|---|", *rows])
        )
    return "\n\n".join(blocks) + "\n"


def with_settings(page: str) -> str:
    """A page with its part between the two markers written anew."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{markdown()}\n{END}{after}"


def main(root: Path) -> None:
    """Write both files."""
    (root / "config.toml").write_text(config_toml(), encoding="utf-8")
    page = root / "docs" / "configuration.md"
    page.write_text(with_settings(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(__file__).resolve().parent.parent)
