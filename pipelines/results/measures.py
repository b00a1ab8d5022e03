"""What each figure of metrics.json measures, as the eval that gives it declares: how it is shown and judged."""

from functools import cache

from pipelines import registry
from pipelines.errors import UserError
from pipelines.evals import Eval, Measure

EVALS = "pipelines.evals"


def measure(task: str, metric: str) -> Measure:
    """What an eval declares of `task/metric`, or of `metric` in any task; of any other, a rate where more is better."""
    found = declared()
    return found.get(f"{task}/{metric}") or found.get(metric) or Measure()


def measure_of(key: str) -> Measure:
    """`measure` of a key `task/language, pair or group/metric`, with or without a layer."""
    task, _, metric = [*key.split("/"), "", ""][:3]
    return measure(task, metric)


def name(task: str, metric: str) -> str:
    """What a figure is called in a sentence: `recall@1`; of a figure that no eval names, `XNLI acc`."""
    said = task.replace("_", " ")
    return measure(task, metric).name or f"{said.upper() if len(task) < 8 else said} {metric.replace('_', ' ')}"


def label(task: str, metric: str) -> str:
    """What a figure is called in a table of several tasks: `nats per token`, `XNLI acc`."""
    return metric.replace("_", " ") if f"{task}/{metric}" in declared() else name(task, metric)


def title(task: str, metric: str) -> str:
    """What a figure is called above its table."""
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
