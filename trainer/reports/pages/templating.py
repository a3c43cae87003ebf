"""The templates of HTML pages, in which no text can become markup, a script or a style.

Jinja escapes every value; before that, control characters and marks of direction become visible. A
page loads nothing, and its policy names its style sheet and its script by their SHA-256, so that
nothing else in it can run, wherever the page is opened.

    html = templating.render("trainer.reports", "run.html.j2", context, scripts=("copy.js",))
    templating.write(path, html)
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any

import jinja2
import markupsafe

from trainer.storage import files
from trainer.system import text

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Mapping, Sequence

_BASE = "trainer.reports"


@functools.cache
def environment(package: str = _BASE) -> jinja2.Environment:
    """Returns the templates of a package, and behind them the base that all pages share."""
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, _BASE))]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """Makes control characters of a value visible; what is markup already stays as it is."""
    return value if isinstance(value, markupsafe.Markup) else text.printable(str(value))


def render(
    package: str,
    template: str,
    context: Mapping[str, Any],
    *,
    scripts: Sequence[str] = (),
    refresh_s: int | None = None,
) -> str:
    """Returns a page.

    Args:
      package: whose `templates` folder has the template.
      template: a template that extends `base.html.j2`.
      context: its variables; an undefined one is an error.
      scripts: names of scripts in the folder, which become one.
      refresh_s: seconds until the browser loads the page again; None: never.
    """
    templates = environment(package)
    style = "".join(_source(templates, name) for name in ("style.css", *context.get("styles", ())))
    script = "".join(_source(templates, name) for name in scripts)
    policy = ["default-src 'none'", f"style-src '{_hash(style)}'", "img-src data:"]
    policy += [f"script-src '{_hash(script)}'"] if script else []
    page = templates.get_template(template).render(
        context,
        policy="; ".join([*policy, "base-uri 'none'", "form-action 'none'"]),
        # HTML does not decode entities inside these elements; both are files of ours.
        style=markupsafe.Markup(style),
        script=markupsafe.Markup(script),
        refresh_s=refresh_s,
    )
    return page.rstrip("\n") + "\n"


def write(path: pathlib.Path, page: str) -> None:
    """Writes a page; a reader sees the old one or the new one."""
    # Not into a new folder: that of a run may have been removed while it trained.
    with files.replacing(path, makes_folder=False) as partial:
        partial.write_text(page, encoding="utf-8", newline="\n")


def island(value: Any) -> markupsafe.Markup:
    """Returns JSON for `<script type="application/json">`, which no text in it can end."""
    written = json.dumps(_cleaned(value), separators=(",", ":"), allow_nan=False)
    for character in "<>&'":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(written)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return text.visible(value)
    if isinstance(value, dict):
        return {text.visible(key): _cleaned(item) for key, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def _source(templates: jinja2.Environment, name: str) -> str:
    if templates.loader is None:
        raise ValueError("The environment has no templates.")
    return templates.loader.get_source(templates, name)[0]


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
