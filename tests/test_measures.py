"""The measures that an eval declares decide how its metrics are shown and judged."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from pipelines import registry
from pipelines.evals import POINTS, Eval, Measure
from pipelines.report.format import plain
from pipelines.results import measures
from pipelines.results.summary import word
from pipelines.results.verdict import verdict
from tests.support.fake_metrics import result


class Typing(Eval):
    """A plug-in of a user."""

    measures: ClassVar[dict[str, Measure]] = {
        "typing/errors": Measure(name="typing errors", unit="errors", lower_is_better=True, relative=True),
        "typing/pauses": Measure(name="pauses", unit="pauses", lower_is_better=True),
        "typing/speed": Measure(unit=POINTS, role="detail"),
    }

    def texts(self, *_: Any) -> Any: ...
    def run(self, *_: Any) -> Any: ...


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`typing` is one of the evals."""
    names, load = registry.names, registry.load
    monkeypatch.setattr(registry, "names", lambda package: [*names(package), "typing"])
    monkeypatch.setattr(registry, "load", lambda package, name: Typing if name == "typing" else load(package, name))
    measures._declared.cache_clear()
    yield
    measures._declared.cache_clear()


def test_by_task_by_name_alone_and_by_default():
    assert measures.measure("loss", "nats_per_token").lower_is_better
    assert measures.measure("massive", "valid").role == "detail"  # declared for every task
    assert measures.measure("xnli", "acc") == Measure()
    assert measures.measure_of("representation/deu_Latn/effective_rank/layer=3").unit == "directions"
    assert (measures.name("retrieval", "recall@1"), measures.name("xnli", "acc")) == ("recall@1", "XNLI acc")
    assert measures.title("xnli", "acc_norm") == "xnli: acc norm"
    assert measures.label("loss", "nats_per_token") == "nats per token"
    assert [measures.label(task, "acc") for task in ("xnli", "xcopa")] == ["XNLI acc", "XCOPA acc"]


@pytest.mark.usefixtures("known")
def test_a_new_evals_figure_is_judged_as_it_declares():
    figures = {name: {f"typing/eng_Latn/{metric}": {"value": value, "low": value - 1, "high": value + 1}
                      for metric in ("errors", "pauses", "speed")}
               for name, value in (("base", 20.0), ("control", 20.0), ("aligned", 10.0))}  # fmt: skip
    found = verdict(result(figures))
    assert (found.tone, found.headline) == ("better", "Better at typing errors and pauses")
    assert [line.replace("\u00a0", " ") for line in found.findings] == [
        "Typing errors of English: 10.00 errors (−50.0 % vs control, 95 % CI −57.1 to −42.9), significantly better",
        "Pauses of English: 10.00 pauses (−10.00 pauses vs control, 95 % CI −11.41 to −8.59), significantly better",
    ]
    assert not any("speed" in line for line in [*found.findings, *found.details])
    assert plain(12.345, measures.measure("typing", "errors")) == "12.35"
    assert plain(12.345, measures.measure("typing", "speed")) == "12.3"


def test_a_neutral_figure_is_higher_or_lower():
    probe, loss = measures.measure("representation", "language_probe"), measures.measure("loss", "nats_per_token")
    assert [word(result, probe) for result in ("better", "worse")] == ["higher", "lower"]
    assert word("worse", loss) == "worse"


@pytest.mark.usefixtures("known")
def test_two_evals_may_not_declare_one_figure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Typing, "measures", {"valid": Measure()})
    with pytest.raises(ValueError, match="tests.test_measures declares valid, which another eval declares too"):
        measures.declared()
