"""Chat templates: a sandbox to render them in, and a bound on what one that comes with a model may cost.

A template is a program of whoever published the model. `check` first runs it in a process of its own, limited in time
and memory, so that one that never ends or writes gigabytes is refused; then `Template.render` may run it here. That
process executes this very file: nothing is imported but Jinja and the standard library.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from jinja2 import ext, meta, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_SOURCE = 1 << 20  # characters; the longest published templates have 20,000
MAX_OUTPUT = 1 << 20  # characters beyond what the conversation itself has
GROWTH = 64  # characters that a template may write for each that it is given
MEMORY, CPU_SECONDS, WALL_SECONDS = 1 << 30, 5, 120  # of `check`; the wall clock is generous to a busy machine
TOO_LARGE = 3  # exit status of `check`'s process

_INVALID = (TemplateError, RecursionError, SyntaxError, MemoryError)  # what parsing and compiling raise

Context = Mapping[str, Any]


class TemplateFailure(Exception):
    """A template refused what it was given, or is no valid template."""


class OutputTooLarge(TemplateFailure):
    """A template wrote much more than it was given."""


class _GenerationTag(ext.Extension):
    """`{% generation %}`, with which some templates mark the assistant's text; it writes what is inside."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


class _Namespace(Namespace):
    """Without underscored names, which are a way out of the sandbox."""

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise SecurityError(f"{name} is not allowed in a namespace")
        super().__setitem__(name, value)


def _namespace(*args: Any, **kwargs: Any) -> Namespace:
    space = _Namespace()
    for name, value in dict(*args, **kwargs).items():
        space[name] = value
    return space


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, ext.loopcontrols],
        optimized=False,  # which would compute constants while it compiles, also those that are never written
    )


def variables(source: str) -> set[str]:
    """The names that a template expects to be given; TemplateFailure where it is no template."""
    if len(source) > MAX_SOURCE:
        raise OutputTooLarge(f"it has {len(source):,} characters, more than {MAX_SOURCE:,}")
    try:
        return meta.find_undeclared_variables(_environment().parse(source))
    except _INVALID as error:
        raise TemplateFailure(f"{type(error).__name__}: {error}") from None


class Template:
    """A chat template as transformers renders it, on a fixed date and with nothing random in it."""

    def __init__(self, source: str, today: date):
        environment = _environment()
        moment = datetime.combine(today, datetime.min.time())
        environment.filters["tojson"] = _tojson
        del environment.filters["random"], environment.globals["lipsum"]
        environment.globals.update(
            raise_exception=_raise_exception,
            strftime_now=moment.strftime,
            dict=lambda *args, **kwargs: dict(*args, **kwargs),
            namespace=_namespace,
        )
        try:
            self._compiled = environment.from_string(source)
        except _INVALID as error:
            raise TemplateFailure(f"{type(error).__name__}: {error}") from None

    def render(self, context: Context) -> str:
        """The text of a context. Whatever a template raises is a TemplateFailure: it is foreign code."""
        room = MAX_OUTPUT + GROWTH * sum(len(str(turn["content"])) for turn in context["messages"])
        parts = list[str]()
        try:
            for part in self._compiled.generate(context):
                parts.append(part)
                room -= len(part)
                if room < 0:
                    raise OutputTooLarge("it writes much more than it is given")
        except TemplateFailure:
            raise
        except MemoryError:
            raise OutputTooLarge("it takes all memory") from None
        except Exception as error:
            raise TemplateFailure(str(error) or type(error).__name__) from None
        return "".join(parts)


@lru_cache(maxsize=64)
def check(source: str, contexts: str, today: date) -> None:
    """Raise TemplateFailure where rendering takes more time, memory or output than any real template does.

    contexts: a JSON list of contexts, each of which is rendered.
    """
    work = json.dumps({"source": source, "contexts": json.loads(contexts), "today": today.isoformat()})
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__], input=work, text=True, capture_output=True, timeout=WALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise TemplateFailure("it does not end") from None
    if done.returncode == 1:  # Python's own, of an exception: our mistake
        raise RuntimeError(f"checking a chat template failed:\n{done.stderr}")
    if done.returncode == TOO_LARGE:
        raise OutputTooLarge("it writes much more than it is given, or takes all memory")
    if done.returncode:
        raise TemplateFailure(f"it does not end, or takes more than {MEMORY >> 20} MiB")


def _limit() -> None:
    """Bound this process; where the system knows no such limits, the parent's clock is the only one."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _render_all(source: str, contexts: Sequence[Context], today: str) -> int:
    _limit()
    try:
        template = Template(source, date.fromisoformat(today))
    except TemplateFailure:
        return 0  # the caller finds out by itself
    for context in contexts:
        try:
            template.render(context)
        except OutputTooLarge:
            return TOO_LARGE
        except TemplateFailure:
            continue
    return 0


if __name__ == "__main__":
    sys.exit(_render_all(**json.load(sys.stdin)))
