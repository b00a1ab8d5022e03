# pyright: strict
"""What each figure of metrics.json measures, as the eval that gives it declares: how it is shown and judged."""

from functools import cache

from pipelines import registry
from pipelines.errors import UserError
from pipelines.evals import Eval, Measure
from pipelines.results.metric_key import MetricKey

EVALS = "pipelines.evals"


def measure(task: str, metric: str) -> Measure:
    """The declaration of `task/metric`, or of `metric` in any task; by default a rate of which more is better."""
    known = declared()
    return known.get(f"{task}/{metric}") or known.get(metric) or Measure()


def measure_of(key: str) -> Measure:
    """`measure` of a key, with or without a layer."""
    parsed = MetricKey.parse(key)
    return measure(parsed.task, parsed.metric)


def is_result(task: str, metric: str) -> bool:
    """Whether a figure counts for the verdict: of retrieval and translation it is one alone."""
    return measure(task, metric).role == "result"


def name(task: str, metric: str) -> str:
    """The name of a figure in a sentence: `recall@1`; of a figure that no eval names, `XNLI acc`."""
    words = task.replace("_", " ")
    return measure(task, metric).name or f"{words.upper() if len(task) < 8 else words} {metric.replace('_', ' ')}"


def label(task: str, metric: str) -> str:
    """The name of a figure in a table of several tasks: `nats per token`, `XNLI acc`."""
    return metric.replace("_", " ") if f"{task}/{metric}" in declared() else name(task, metric)


def title(task: str, metric: str) -> str:
    """The heading of a figure's table."""
    return measure(task, metric).title or f"{task.replace('_', ' ')}: {metric.replace('_', ' ')}"


def declared() -> dict[str, Measure]:
    """{`task/metric` or `metric`: what it measures} of the built-in evals and of those of users that were loaded."""
    return _declared(registry.loaded(EVALS))


@cache
def _declared(user: tuple[type[registry.Plugin], ...]) -> dict[str, Measure]:
    out: dict[str, Measure] = {}
    for plugin in (*(registry.load(EVALS, file) for file in registry.names(EVALS)), *user):
        assert issubclass(plugin, Eval)
        if repeated := out.keys() & plugin.measures.keys():
            raise UserError(
                f"measures: {plugin.__module__} declares {', '.join(sorted(repeated))}, which another eval declares "
                f"too. Expected: each once. Fix: rename the metric, or declare it as task/metric."
            )
        out |= plugin.measures
    return out
