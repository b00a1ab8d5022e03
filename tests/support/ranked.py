"""What the processes of tests/test_distributed.py do; alone, the same on one: python tests/support/ranked.py FOLDER."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import torch
from accelerate import Accelerator

from alignment_train import losses
from alignment_train.losses import gathered
from alignment_train.models.adapter import Adapter
from alignment_train.models.model import Model
from alignment_train.objectives import Objective
from alignment_train.objectives.contrastive import Contrastive
from alignment_train.objectives.language_model import LanguageModel
from alignment_train.settings import Base, Lora
from alignment_train.training import distributed, trainable
from alignment_train.training.data import segments
from alignment_train.training.loop import train
from alignment_train.training.plan import Plan
from alignment_train.training.progress_log import Reporter
from pipelines.progress import no_progress
from tests.support.models import bitext, tiny
from tests.support.projected import Projected
from tests.test_train import CPU, plan


def repeated() -> pa.Table:
    """Pairs of unequal length, in which every sentence occurs with two translations."""
    table = bitext(24)
    src = [text for text in table["src"].to_pylist()[:12] for _ in (0, 1)]
    tgt = [f"{text} nine nine nine" if i % 3 else text for i, text in enumerate(table["tgt"].to_pylist())]
    return table.set_column(0, "src", pa.array(src)).set_column(1, "tgt", pa.array(tgt))


PARTS = {"bitext": repeated(), "segments": segments(repeated())}


def what(steps: int, parallel: str, objectives: Sequence[Objective] = (), **more) -> Plan:
    both = [
        Contrastive.model_validate({"rows": 12, "layer": 2, **more}),
        LanguageModel.model_validate({"rows": 8, "weight": 0.5}),
    ]
    given = {"objectives": objectives or both, "parallel": parallel, "checkpoint_every": 2, "gradients_every": 2}
    return plan(steps, accumulation=2, **given)


def go(folder: Path, made: Model, plan: Plan) -> dict[str, torch.Tensor]:
    """The weights after a training, in this process."""
    train(made, plan, PARTS, folder, Reporter("test", folder / "log.jsonl", no_progress), CPU)
    return made.lm.state_dict()


def model() -> Model:
    return tiny(seed=distributed.rank())  # the first one's weights count


def adapted() -> Model:
    """Gemma, whose head is tied and capped, with LoRA."""
    made = tiny("gemma2")
    Adapter.create(made, Lora.model_validate({"dropout": 0}), Base.model_validate({"seed": {}}), 7)
    return made


def frozen() -> Model:
    """Gemma, whose embeddings and head stay as they are."""
    made = tiny("gemma2")
    trainable.freeze(made, "blocks")
    return made


@contextmanager
def first_gradient() -> Iterator[dict[str, torch.Tensor]]:
    """Filled with that of the first step taken within, and `held`, the share of all weights that this process has."""
    found: dict[str, torch.Tensor] = {}
    models: list[torch.nn.Module] = []
    clip, prepare = Accelerator.clip_grad_norm_, Accelerator.prepare_model

    def keep(self, parameters, most):
        named = {
            n: distributed.full_tensor(p.grad).clone() for n, p in models[-1].named_parameters() if p.grad is not None
        }
        share = sum(getattr(p, "to_local", p.detach)().numel() for p in parameters) / sum(p.numel() for p in parameters)
        found.update({**named, "held": torch.tensor(share)} if not found else {})
        return clip(self, parameters, most)

    Accelerator.prepare_model = lambda self, lm, **how: models.append(lm) or prepare(self, lm, **how)  # type: ignore
    Accelerator.clip_grad_norm_ = keep  # type: ignore[method-assign]
    yield found
    Accelerator.prepare_model, Accelerator.clip_grad_norm_ = prepare, clip  # type: ignore[method-assign]


@contextmanager
def language_means() -> Iterator[dict[str, torch.Tensor]]:
    """Filled after a training within with the language means of its contrast, of each process [processes, L, H]."""
    found: dict[str, torch.Tensor] = {}
    modules: list[torch.nn.Module] = []
    begin = Contrastive.setup

    def keep(self, model, table):
        modules.append(begin(self, model, table))
        return modules[-1]

    Contrastive.setup = keep  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Contrastive.setup = begin  # type: ignore[method-assign]
    (module,) = modules
    found.update({name: gathered(value[None]) for name, value in module.named_buffers()})


@contextmanager
def dying_at(last: int) -> Iterator[None]:
    step = Reporter.step

    def die(self, number, *rest):
        step(self, number, *rest)
        if number == last:
            raise KeyboardInterrupt

    Reporter.step = die  # type: ignore[method-assign]
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        Reporter.step = step  # type: ignore[method-assign]


def main(folder: Path) -> None:
    """For each way to be parallel: `first.pt`, the gradient of a step, `whole.pt`, `resumed.pt`, weights after five,
    `means.pt` and `means_resumed.pt`, the language means of these.

    For `fsdp` also `continued.pt`, weights after five, of which two were undivided, and `parts.pt`, after three, of a
    model where adapters and a part of an objective are trained, and `blocks.pt`, after three, of a model with frozen
    embeddings and checkpointed blocks.
    """
    if distributed.num_processes() > 1:
        losses.MAX_LOGITS = 1 << 12  # a dozen positions at a time
    found: dict[str, dict[str, torch.Tensor]] = {}
    for way in ("data", "fsdp"):
        own = folder / way
        with first_gradient() as found[f"{way}/first"]:
            go(own / "first", model(), what(1, way, chunk=8))
        with language_means() as found[f"{way}/means"]:
            found[f"{way}/whole"] = go(own / "whole", model(), what(5, way))
        with dying_at(3):
            go(own / "broken", model(), what(5, way))
        with language_means() as found[f"{way}/means_resumed"]:
            found[f"{way}/resumed"] = go(own / "broken", model(), what(5, way))
    with dying_at(2):
        go(own / "continued", model(), what(5, "data"))
    found["fsdp/continued"] = go(own / "continued", model(), what(5, "fsdp"))
    parts = what(3, "fsdp", [Projected.model_validate({"rows": 12, "layer": 2}), what(3, "fsdp").objectives[1]])
    with dying_at(2):
        go(own / "parts", adapted(), parts)
    found["fsdp/parts"] = go(own / "parts", adapted(), parts)
    blocks = what(3, "fsdp")
    blocks.checkpointing = True
    found["fsdp/blocks"] = go(own / "blocks", frozen(), blocks)
    if distributed.is_main_process():
        for name, tensors in found.items():
            torch.save(tensors, folder / f"{name}.pt")
    distributed.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
