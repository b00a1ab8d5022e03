"""Losses as pure functions of tensors. Shapes: B pairs, N texts, T tokens, H hidden size, V vocabulary."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")
MAX_LOGITS = 1 << 25
"""How many logits exist at once where each position needs its own alone: 128 MiB in float32."""


class LazyLogits:
    """Logits [P, V] as the states [P, H] at P positions and the `head` that maps states to logits.

    `map_chunks` makes at most MAX_LOGITS of them at a time, so a large vocabulary takes no tensor of size [P, V].
    """

    def __init__(self, states: Tensor, head: Callable[[Tensor], Tensor], vocab_size: int):
        self.states, self.head, self.vocab_size = states, head, vocab_size

    def __len__(self) -> int:
        return len(self.states)

    @property
    def ndim(self) -> int:
        return 2

    def detach(self) -> "LazyLogits":
        """The same logits, through which no gradient reaches states or head."""
        return LazyLogits(self.states.detach(), torch.no_grad()(self.head), self.vocab_size)

    def materialize(self) -> Tensor:
        """[P, V], all at once."""
        return self.head(self.states)


def map_chunks(function: Callable[..., T], *rows: "Tensor | LazyLogits") -> list[T]:
    """Results of `function` for consecutive chunks of P positions, at most MAX_LOGITS logits in each.

    Where there are several, each is computed again in the backward pass in place of being kept (Chen et al. 2016,
    arXiv 1604.06174); its logits and what is made of them are all that exists at a time.

    Args:
        function: Gets the chunk of each of `rows`, logits [p, V] or labels [p].
        rows: Logits [P, V] of either kind, one at least, and labels [P].
    """
    width = sum(item.vocab_size if isinstance(item, LazyLogits) else item.shape[1] for item in rows if item.ndim == 2)
    size = max(1, MAX_LOGITS // width)

    def run(*parts: Tensor) -> T:
        pairs = zip(rows, parts, strict=True)
        return function(*(item.head(part) if isinstance(item, LazyLogits) else part for item, part in pairs))

    parts = [(item.states if isinstance(item, LazyLogits) else item).split(size) for item in rows]
    if len(parts[0]) == 1 or not torch.is_grad_enabled():
        return [run(*part) for part in zip(*parts, strict=True)]
    return [checkpoint(run, *part, use_reentrant=False) for part in zip(*parts, strict=True)]  # type: ignore[misc]


def info_nce(
    src: Tensor,
    tgt: Tensor,
    temperature: float,
    direction: Literal["both", "src_to_tgt"] = "both",
    same: Tensor | None = None,
) -> Tensor:
    """InfoNCE over cosine with in-batch negatives: row i of `tgt` is the translation of row i of `src`.

    src, tgt: [B, H], any norm. same: bool [B, B], true where row and column are no negatives of each other although
    they are two pairs (a repeated sentence, another translation of the same one); its diagonal is ignored.
    Returns a scalar in nats; identical rows everywhere give ln B.
    Source: van den Oord et al. 2018 (arXiv 1807.03748), eq. 4; `src_to_tgt` ranks targets only, as AFP
    (arXiv 2311.08089) and mid-align (arXiv 2502.14830) do, `both` is the mean of the two directions.
    """
    with torch.autocast(src.device.type, enabled=False):  # in bfloat16 a logit of 20 is off by up to 0.06
        logits = F.normalize(src.float(), dim=-1) @ F.normalize(tgt.float(), dim=-1).T / temperature  # [B, B]
    gold = torch.arange(len(logits), device=logits.device)
    if same is not None:
        eye = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~eye, float("-inf"))
    loss = F.cross_entropy(logits, gold)
    return loss if direction == "src_to_tgt" else (loss + F.cross_entropy(logits.T, gold)) / 2


class _Gathered(torch.autograd.Function):
    """All-gather whose gradient is the sum of what every process has for these rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].contiguous()
        dist.all_reduce(whole)
        return whole.chunk(dist.get_world_size())[dist.get_rank()]


def gathered(rows: Tensor) -> Tensor:
    """The rows [N, ...] of every process, those of process 0 first [N x processes, ...], with gradient; alone, `rows`.

    So each process has the whole batch and what is made of it, the loss too, is the same in all. The gradient of their
    mean is then that of one process with the whole batch.
    """
    return _Gathered.apply(rows) if dist.is_initialized() and dist.get_world_size() > 1 else rows  # type: ignore


def token_loss(logits: Tensor | LazyLogits, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats: logits [P, V] at the positions that predict `labels` [P]."""

    def total(chunk: Tensor, gold: Tensor) -> Tensor:
        return F.cross_entropy(chunk.float(), gold, reduction="sum")

    return torch.stack(map_chunks(total, logits, labels)).sum() / len(labels)


def token_logprobs(logits: Tensor | LazyLogits, labels: Tensor) -> tuple[Tensor, Tensor]:
    """ln p of each of `labels` [P], float64 on the CPU, and whether it is the likeliest token, bool on the CPU.

    logits: [P, V], of which no gradient is needed.
    """

    def each(chunk: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
        chunk = chunk.float()
        own = chunk.gather(1, gold[:, None])[:, 0]
        return (own - chunk.logsumexp(-1)).double().cpu(), (chunk.argmax(-1) == gold).cpu()

    nats, likeliest = zip(*map_chunks(each, logits, labels), strict=True)
    return torch.cat(nats), torch.cat(likeliest)


def pooling_mask(batch: dict[str, Tensor], special_tokens: bool = False) -> Tensor:
    """0/1 mask [N, T] of the tokens of a batch from `Model.encode` to pool over: those of text, or also special ones.

    A special token can be an attention sink. In Gemma 3 the state of BOS is up to 40 times as long as others and nearly
    the same in every text, so a mean over it is too.
    """
    return batch["attention_mask" if special_tokens else "text_mask"]


def pool(hidden: Tensor, mask: Tensor, pooling: Literal["mean", "last"]) -> Tensor:
    """[N, T, H] and a 0/1 mask [N, T] to [N, H]: the mean over, or the last of, the positions where the mask is 1.

    Every row must have a 1. Right or left padding.
    """
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)  # [N]
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def effective_rank(states: Tensor) -> float:
    """How many directions states [N, H] spread over, from 1 (all parallel) to min(N, H): exp of the entropy of the
    singular values, which sum to 1.

    Source: Roy & Vetterli 2007 (The effective rank, EUSIPCO), definition 1.
    """
    values = torch.linalg.svdvals(states.float())
    return float(torch.special.entr(values / values.sum().clamp(min=1e-12)).sum().exp())


def language_means(
    states: Tensor, language: Tensor, means: Tensor, counts: Tensor, memory: int
) -> tuple[Tensor, Tensor]:
    """The mean state of each language after one more batch [L, H], and the rows it rests on [L].

    states: [N, H]; language: [N], from 0 to L - 1; means [L, H] and counts [L] (0: never seen) are what came back for
    the batch before. A mean over at most `memory` rows and the batch's n: an exponential moving average that keeps
    memory / (memory + n) of the old mean, so that a language with few rows in a batch is not averaged over few rows.
    The batch's part carries gradient. A language seen first begins with one row at the mean of the whole batch:
    otherwise a single row, less its own mean, would be 0 and have no direction.
    """
    states = states.float()
    sums = torch.zeros_like(means).index_add(0, language, states)
    fresh = torch.bincount(language, minlength=len(means)).to(counts)
    old = torch.where(counts[:, None] > 0, means, states.detach().mean(0))
    weight = counts.clamp(min=1)
    new = (weight[:, None] * old + sums) / (weight + fresh)[:, None]
    return torch.where(fresh[:, None] > 0, new, means), (counts + fresh).clamp(max=memory).where(fresh > 0, counts)


def batch_language_means(states: Tensor, language: Tensor) -> Tensor:
    """The mean state of each language in a batch, one row for each text [N, H], with gradient.

    states: [N, H]; language: [N], any integers. The mean of a language with a single row is halfway to the mean of the
    whole batch, through which no gradient goes: less its own mean that row would be 0 and have no direction.
    """
    states = states.float()
    language, counts = language.unique(return_inverse=True, return_counts=True)[1:]
    sums = torch.zeros(len(counts), states.shape[1], device=states.device).index_add(0, language, states)
    single = (counts == 1).float()[:, None]
    means = (sums + single * states.detach().mean(0)) / (counts[:, None] + single)
    return means[language]


def language_subspaces(means: Tensor) -> tuple[Tensor, Tensor]:
    """The direction that all languages share, [H] of norm 1, and an orthonormal basis of what differs [H, L - 1].

    means: [L, H], the mean state of each language, L <= H. The basis spans the differences of means; the direction
    goes from the origin to the nearest point of the plane that the means lie in, at right angles to the basis. LSAR's
    two decompositions with a pseudo-inverse between them (arXiv 2401.05792, algorithm 1) give the same at rank L - 1.
    """
    means = means.double()
    centre = means.mean(0)
    specific = torch.linalg.svd(means - centre, full_matrices=False).Vh[: len(means) - 1].T
    shared = centre - specific @ (specific.T @ centre)
    return F.normalize(shared, dim=0).float(), specific.float()


def kl_divergence(teacher: Tensor | LazyLogits, student: Tensor | LazyLogits, temperature: float = 1.0) -> Tensor:
    """Mean over P positions of KL(teacher || student) in nats, logits [P, V] each divided by `temperature`.

    No gradient reaches `teacher`; no position gives 0.
    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2, less the entropy of the teacher; it is not times T^2 here.
    """

    def total(taught: Tensor, learnt: Tensor) -> Tensor:
        taught, learnt = (F.log_softmax(logits.float() / temperature, dim=-1) for logits in (taught, learnt))
        return F.kl_div(learnt, taught, reduction="sum", log_target=True)

    return torch.stack(map_chunks(total, teacher.detach(), student)).sum() / max(1, len(student))


def same_language(src: Tensor, tgt: Tensor, language: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Cross-entropy in nats of whether two of 2B states are of one language, over all 4 B^2 ordered pairs.

    src, tgt: [B, H]; language: [2B], src first. The classifier reads a pair as one vector x [2H]; its logits for
    different and same are down (silu(gate x) * up x); gate, up: [U, 2H]; down: [2, U].
    Source: AlignX (arXiv 2509.24338), language matching, with the gated layer of its code.
    """
    states = torch.cat([src, tgt])

    def pairs(weight: Tensor) -> Tensor:
        """[2B, 2B, U], from the two halves of `weight`: the pairs themselves [2B, 2B, 2H] are never made."""
        first, second = (F.linear(states, half) for half in weight.chunk(2, dim=1))
        return first[:, None] + second[None]

    logits = F.linear(F.silu(pairs(gate)) * pairs(up), down)  # [2B, 2B, 2]
    return F.cross_entropy(logits.float().flatten(0, 1), (language[:, None] == language[None]).long().flatten())


def prompt_mixture(query: Tensor, keys: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """The share of each prompt [N, M], softmax(q . k / sqrt(H)), and their sum so weighted [N, length, H].

    query: [N, H]; keys: [M, H]; prompts: [M, length, H].
    Source: XLM-P (arXiv 2306.07610), which sums prompts as attention sums values.
    """
    share = F.softmax(query @ keys.T / keys.shape[1] ** 0.5, dim=-1)
    return share, torch.einsum("nm,mlh->nlh", share, prompts)
