"""Pages for people: one HTML file each that loads nothing; its one script, which sorts tables, is allowed by its hash.

Corpus text is hostile: the templates escape all that they show.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from pipelines.errors import printable
from pipelines.progress import clock
from pipelines.report.format import count, size

BASE, SCRIPT = "base.html", "report.js"


def render(template: str, **context: Any) -> str:
    """A template of this package with its context; the same context gives the same text."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=displayed,
    )  # fmt: skip
    environment.filters.update(count=count, clock=clock, size=size)
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return environment.get_template(template).render(script=Markup(script()), script_hash=digest, **context)


def sources(template: str) -> str:
    """Everything that decides how a page looks, for fingerprints."""
    return _source(BASE) + script() + _source(template)


def script() -> str:
    """The script that sorts the tables of a page."""
    return _source(SCRIPT)


def safe_svg(svg: bytes | str) -> Any:
    """An SVG made by this package, whose labels are escaped, as markup."""
    from markupsafe import Markup

    return Markup(svg if isinstance(svg, str) else svg.decode())


def displayed(item: Any) -> Any:
    """Text of a page without the characters that HTML cannot hold."""
    if type(item) is not str:
        return item
    return re.sub(r"[\ufdd0-\ufdef\ufffe\uffff]", "\ufffd", printable(item, keep_direction=True))


@cache
def _source(name: str) -> str:
    return files("pipelines.report").joinpath(name).read_text(encoding="utf-8")
