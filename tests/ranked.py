"""What the processes of tests/test_distributed.py do; alone, the same on one: python tests/ranked.py FOLDER."""

import sys
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator

from alignment_train import ranks
from alignment_train.data import segments
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.report import Reporter
from alignment_train.train import Plan, train
from pipelines.progress import silent
from tests.models import bitext, tiny
from tests.test_train import CPU, plan


def repeated() -> pa.Table:
    """Pairs of unequal length, in which every sentence occurs with two translations."""
    table = bitext(24)
    src = [text for text in table["src"].to_pylist()[:12] for _ in (0, 1)]
    tgt = [f"{text} nine nine nine" if i % 3 else text for i, text in enumerate(table["tgt"].to_pylist())]
    return table.set_column(0, "src", pa.array(src)).set_column(1, "tgt", pa.array(tgt))


PARTS = {"bitext": repeated(), "segments": segments(repeated())}


def what(steps: int, **more) -> Plan:
    objectives = [
        Contrastive.model_validate({"rows": 12, "layer": 2, **more}),
        LanguageModel.model_validate({"rows": 8, "weight": 0.5}),
    ]
    return plan(steps, objectives=objectives, accumulation=2, checkpoint_every=2, gradients_every=2)


def go(folder: Path, steps: int, **more) -> dict[str, torch.Tensor]:
    model = tiny(seed=ranks.rank())  # the first one's weights count
    train(model, what(steps, **more), PARTS, folder, Reporter("test", folder / "log.jsonl", silent), CPU)
    return model.lm.state_dict()


def main(folder: Path) -> None:
    """`first.pt`: the gradient of a step; `whole.pt`, `resumed.pt`: weights after five."""
    found: dict[str, torch.Tensor] = {}
    clip, prepare = Accelerator.clip_grad_norm_, Accelerator.prepare_model

    def keep(self, parameters, most):
        named = {n: p.grad.clone() for n, p in models[-1].named_parameters() if p.grad is not None}
        found.update(named if not found else {})
        return clip(self, parameters, most)

    models: list[torch.nn.Module] = []
    Accelerator.prepare_model = lambda self, lm, **how: models.append(lm) or prepare(self, lm, **how)  # type: ignore
    Accelerator.clip_grad_norm_ = keep  # type: ignore[method-assign]
    go(folder / "first", 1, chunk=8)
    Accelerator.clip_grad_norm_ = clip  # type: ignore[method-assign]
    whole = go(folder / "whole", 5)
    step = Reporter.step

    def die(self, number, *rest):
        step(self, number, *rest)
        if number == 3:
            raise KeyboardInterrupt

    Reporter.step = die  # type: ignore[method-assign]
    try:
        go(folder / "broken", 5)
    except KeyboardInterrupt:
        Reporter.step = step  # type: ignore[method-assign]
    resumed = go(folder / "broken", 5)
    if ranks.first():
        torch.save(found, folder / "first.pt")
        torch.save(whole, folder / "whole.pt")
        torch.save(resumed, folder / "resumed.pt")
    ranks.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
