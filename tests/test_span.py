"""AlignX: spans are where they are said to be, each part of the loss is what its formula says, in one pass."""

import json
import math

import pytest
import torch

from alignment_train.config import TrainConfig
from alignment_train.layers import layer_index
from alignment_train.losses import same_language
from alignment_train.models.model import Model
from alignment_train.objectives.span import SOURCE, TARGET, Span, exercises, turned
from pipelines.config import validate
from tests.support.models import SHAPES, bitext, tiny
from tests.support.trained import trained

PROMPT = ("Translate", "What", "Please")  # words of the wordings that no number has
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def rows(count: int = 6) -> list[dict[str, str]]:
    return bitext(count).to_pylist()


def row(src: str, tgt: str, src_lang: str = "deu_Latn", tgt_lang: str = "eng_Latn") -> dict[str, str]:
    return {"src": src, "tgt": tgt, "src_lang": src_lang, "tgt_lang": tgt_lang}


def objective(**settings) -> Span:
    return Span.model_validate({"rows": 6, "layer": 2, "units": 5, **settings})


def opened(model: Model, item: Span):
    torch.manual_seed(1)
    return item.setup(model, bitext(120))


def text(model: Model, ids: torch.Tensor) -> str:
    return model.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_spans_decode_to_the_two_sentences_and_labels_to_the_target(template: str | None) -> None:
    model = tiny()
    model.tokenizer.chat_template = template
    some = rows(16)
    batch = objective().collate(some, model, 300)
    languages = []
    for i, item in enumerate(some):
        source, target, one, other, _ = turned(item)
        ids, span, labels = (batch[name][i] for name in ("input_ids", "span", "labels"))
        assert text(model, ids[span == SOURCE]) == source
        assert text(model, ids[span == TARGET]) == target
        assert text(model, labels[labels != -100]) == target
        assert model.tokenizer.eos_token_id == labels[labels != -100][-1]
        assert torch.equal(ids[labels != -100], labels[labels != -100])
        asked = text(model, ids)
        assert ("German" if other == "deu_Latn" else "English") in asked
        assert ("English" if other == "deu_Latn" else "German") not in asked
        assert any(word in asked for word in PROMPT)
        languages.append((one, other))
    assert 3 <= languages.count(("deu_Latn", "eng_Latn")) <= 13  # both directions
    codes = [one for one, _ in languages] + [other for _, other in languages]
    assert (batch["language"] == batch["language"][0]).tolist() == [code == codes[0] for code in codes]
    assert batch["whole"].all()
    assert batch["cut"] == 0
    assert objective().token_lengths(some, model) == batch["attention_mask"].sum(1).tolist()


def test_a_rows_exercise_hangs_on_its_text_alone() -> None:
    model, some = tiny(), rows(8)
    alone = [exercises([turned(item)], model.chat)[0] for item in some]
    assert alone == exercises([turned(item) for item in some], model.chat)
    assert {turned(item)[4] % 4 for item in rows(40)} == {0, 1, 2, 3}  # every wording


def test_chinese_and_arabic_spans_are_whole_although_pieces_are_bytes() -> None:
    model = tiny()
    some = [
        row("你好，世界。", "مرحبا بالعالم", "zho_Hans", "arb_Arab"),
        row("สวัสดี", "four", "tha_Thai", "eng_Latn"),
    ]
    batch = objective().collate(some, model, 600)
    for i, item in enumerate(some):
        source, target, *_ = turned(item)
        assert text(model, batch["input_ids"][i][batch["span"][i] == SOURCE]) == source
        assert text(model, batch["input_ids"][i][batch["span"][i] == TARGET]) == target


def test_a_template_that_rewrites_its_texts_is_refused() -> None:
    model = tiny()
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ValueError, match=r"chat template of .*: a turn is dropped, repeated or changed: .* Fix: "):
        objective().collate(rows(2), model, 300)


@pytest.mark.parametrize("direction", ["src_to_tgt", "both"])
@pytest.mark.parametrize("layer", [0, 1, "middle", -1])
def test_the_loss_is_that_of_a_loop_over_rows_pairs_and_tokens(direction: str, layer: int | str) -> None:
    model = tiny()
    item = objective(direction=direction, layer=layer, temperature=0.3, contrast_weight=0.7, match_weight=0.2)
    some = [*rows(5), *rows(1)]  # the last row repeats the first
    batch, held = item.collate(some, model, 300), opened(model, item)
    loss, metrics = item.loss(model, batch, held)

    states = model.lm(batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    middle, last = states.hidden_states[layer_index(layer, 3)], states.hidden_states[-1]
    nats, sources, targets, before = [], [], [], {SOURCE: [], TARGET: []}
    for i in range(6):
        row_labels, span = batch["labels"][i].tolist(), batch["span"][i].tolist()
        labelled = [t for t in range(1, len(span)) if row_labels[t] != -100]
        nats += [-states.logits[i, t - 1].log_softmax(-1)[row_labels[t]] for t in labelled]
        sources.append(torch.stack([middle[i, t] for t in range(len(span)) if span[t] == SOURCE]).mean(0))
        targets.append(torch.stack([middle[i, t] for t in range(len(span)) if span[t] == TARGET]).mean(0))
        for side in before:
            before[side].append(torch.stack([last[i, t - 1] for t in range(1, len(span)) if span[t] == side]).mean(0))
    translation = torch.stack(nats).mean()

    def ranked(one: list, other: list) -> torch.Tensor:
        found = []
        for i in range(6):
            near = [
                torch.cosine_similarity(one[i], other[j], dim=0) / 0.3 for j in range(6) if j == i or {i, j} != {0, 5}
            ]
            own = torch.cosine_similarity(one[i], other[i], dim=0) / 0.3
            found.append(torch.stack(near).logsumexp(0) - own)
        return torch.stack(found).mean()

    contrast = ranked(sources, targets) / 2
    if direction == "both":
        contrast = contrast + ranked(targets, sources) / 2
    every = before[SOURCE] + before[TARGET]
    spoken = [turned(r)[2] for r in some] + [turned(r)[3] for r in some]
    matches = []
    for i in range(12):
        for j in range(12):
            x = torch.cat([every[i], every[j]])
            gate = held["gate"].weight @ x
            logits = held["down"].weight @ (gate * gate.sigmoid() * (held["up"].weight @ x))
            matches.append(-logits.log_softmax(0)[int(spoken[i] == spoken[j])])
    match = torch.stack(matches).mean()

    assert metrics == pytest.approx(
        {"translation": translation.item(), "contrast": contrast.item(), "match": match.item()}, rel=1e-5
    )
    assert loss.item() == pytest.approx((translation + 0.7 * contrast + 0.2 * match).item(), rel=1e-5)
    mine = torch.autograd.grad(loss, list(model.lm.parameters()), allow_unused=True, retain_graph=True)
    loops = torch.autograd.grad(
        translation + 0.7 * contrast + 0.2 * match, list(model.lm.parameters()), allow_unused=True
    )
    for got, wanted in zip(mine, loops, strict=True):
        assert torch.allclose(got, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", SHAPES)
def test_recorded_states_are_those_of_a_pass_that_keeps_all_and_cost_no_pass_of_their_own(kind: str) -> None:
    model, some = tiny(kind), rows(3)
    batch = objective().collate(some, model, 300)
    wanted = model.hidden_states(batch["input_ids"], batch["attention_mask"])
    logits, _, _ = model.predictions(batch)  # also finds out about the head
    ran = []
    hook = model.blocks[0].register_forward_hook(lambda *_: ran.append(1))
    with model.recording({0, 1, 3}) as states:
        again, _, _ = model.predictions(batch)
    hook.remove()
    assert set(states) == {0, 1, 3}
    assert len(ran) == 1
    assert all(torch.equal(states[layer], wanted[layer]) for layer in states)
    assert torch.equal(again.materialize(), logits.materialize())
    model.hidden_states(batch["input_ids"][:1], batch["attention_mask"][:1])
    assert len(states[0]) == 3  # nothing is recorded any more
    assert math.isfinite(objective().loss(model, batch, opened(model, objective()))[0].item())


def test_any_sentence_in_common_makes_no_negatives() -> None:
    some = [row("eins", "one"), row("zwei", "two"), row("eins", "a one"), row("two", "deux", "eng_Latn", "fra_Latn")]
    same = objective().collate(some, tiny(), 300)["same"]
    assert (same.nonzero().tolist()) == [[0, 0], [0, 2], [1, 1], [1, 3], [2, 0], [2, 2], [3, 1], [3, 3]]


def test_a_cut_row_keeps_both_spans_or_is_left_out_of_contrast_and_match() -> None:
    model, item = tiny(), objective()
    some = rows(6)
    some[2] |= {"src": " ".join(["neun"] * 150), "tgt": " ".join(["nine"] * 150)}
    others = [found for i, found in enumerate(some) if i != 2]
    length = max(item.token_lengths(others, model))
    ids, _, span = exercises([turned(some[2])], model.chat)[0]
    held = opened(model, item)

    target = span.index(TARGET)
    assert target > length
    batch = item.collate(some, model, target + 2)  # two pieces of the target are left
    assert batch["cut"] == 1
    assert batch["whole"].all()
    assert (batch["span"][2] == TARGET).sum() == 2
    assert (batch["span"][2] == SOURCE).sum() == span.count(SOURCE)

    batch = item.collate(some, model, length)  # the prompt fills it: its beginning goes, and with it the source
    assert batch["cut"] == 1
    assert batch["input_ids"][2].tolist() == ids[-length:]
    assert batch["whole"].tolist() == [True, True, False, True, True, True]
    _, metrics = item.loss(model, batch, held)
    _, without = item.loss(model, item.collate(others, model, length), held)
    assert {part: metrics[part] for part in ("contrast", "match")} == pytest.approx(
        {part: without[part] for part in ("contrast", "match")}, rel=1e-5
    )
    assert metrics["translation"] != pytest.approx(without["translation"], rel=1e-5)  # it still counts there


@pytest.mark.parametrize("whole", [0, 1])
def test_with_no_or_one_whole_row_there_is_nothing_to_contrast(whole: int) -> None:
    model, item = tiny(), objective()
    batch, held = item.collate(rows(4), model, 300), opened(model, item)
    batch["whole"] = torch.arange(4) < whole
    loss, metrics = item.loss(model, batch, held)
    assert metrics["contrast"] == 0
    assert (metrics["match"] > 0) == (whole == 1)
    assert loss.item() == pytest.approx(metrics["translation"] + 0.4 * metrics["match"], rel=1e-5)
    loss.backward()


def test_an_empty_sentence_is_left_out_too() -> None:
    model = tiny()
    batch = objective().collate([*rows(3), row("", "one"), row("eins", " ")], model, 300)
    assert batch["whole"].tolist() == [True, True, True, False, False]


def test_predict_all_labels_the_prompt_but_not_bos() -> None:
    model = tiny()
    batch = objective(predict="all").collate(rows(3), model, 300)
    real = batch["attention_mask"].bool()
    assert (batch["labels"][:, 0] == -100).all()
    assert torch.equal(batch["labels"][:, 1:][real[:, 1:]], batch["input_ids"][:, 1:][real[:, 1:]])
    assert (batch["labels"][~real] == -100).all()


def test_each_part_reaches_what_it_trains() -> None:
    """A contrast at layer 1 moves the embeddings and block 0, a match all blocks and the classifier."""
    model = tiny(tie_word_embeddings=False)

    def reached(**settings) -> tuple[list[bool], bool]:
        item = objective(layer=1, **settings)
        held = opened(model, item)
        model.lm.zero_grad()
        batch = item.collate(rows(6), model, 300)
        loss = item.loss(model, batch, held)[0]
        # Less the translation's own gradient, which reaches everything.
        (loss - model.language_model_loss(batch)).backward()
        parts = [model.lm.get_input_embeddings(), *model.blocks, model.lm.get_output_embeddings(), held]
        return [any(moved(p) for p in part.parameters()) for part in parts], loss.requires_grad

    def moved(parameter: torch.nn.Parameter) -> bool:
        return parameter.grad is not None and parameter.grad.abs().max().item() > 1e-5

    assert reached(contrast_weight=1, match_weight=0) == ([True, True, False, False, False, False], True)
    assert reached(contrast_weight=0, match_weight=1) == ([True, True, True, True, False, True], True)


def test_one_gate_by_hand() -> None:
    src, tgt = torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0, 0.5]])
    gate, up = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    down = torch.tensor([[1.0], [-1.0]])
    pairs = [(src[0], src[0], 1), (src[0], tgt[0], 0), (tgt[0], src[0], 0), (tgt[0], tgt[0], 1)]
    wanted = []
    for a, b, same in pairs:
        g, u = (a[0] + b[1]).item(), (a[1] + b[0]).item()
        h = g / (1 + math.exp(-g)) * u
        wanted.append(math.log(1 + math.exp(-2 * h)) if not same else math.log(1 + math.exp(2 * h)))
    found = same_language(src, tgt, torch.tensor([0, 1]), gate, up, down)
    assert found.item() == pytest.approx(sum(wanted) / 4, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "falling"),
    # In a model this small a contrast takes the languages away faster than match gives them back: each for itself.
    [({"match_weight": 0.4}, ("translation", "contrast")), ({"contrast_weight": 0, "match_weight": 2}, ("match",))],
)
def test_it_trains_and_the_classifier_is_left_behind(settings: dict, falling: tuple[str, ...], tmp_path) -> None:
    item, before = objective(rows=16, layer=1, units=64, **settings), tiny().lm.state_dict()
    model, _, reporter = trained(tmp_path, item, bitext(120), 50, max_length=128)
    log = [json.loads(line) for line in reporter.log.open()]
    for part in falling:
        first, last = (sum(step[f"span/{part}"] for step in some) / 5 for some in (log[:5], log[-5:]))
        assert last < 0.8 * first, (part, first, last)
    assert set(model.lm.state_dict()) == set(before)
    assert all(not torch.equal(p, before[name]) for name, p in model.lm.named_parameters())


def test_the_paper_s_figures_are_the_defaults_and_the_control_goes_without() -> None:
    config = validate(TrainConfig, {"objectives": ["span", "language_model"]}, "x", "train")
    item = config.objectives[0]
    assert isinstance(item, Span)
    assert (item.contrast_weight, item.match_weight, item.temperature, item.units) == (0.3, 0.4, 0.1, 128)
    assert config.layer == "middle"
    assert [o.name for o in config.control] == ["language_model"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layer": 9}, "layer: found 9. Expected: 'middle', a fraction between 0 and 1, or -7 to 6"),
        ({"temperature": 0}, "temperature"),
        ({"units": 0}, "units"),
        ({"rows": 1}, "rows"),
        ({"contrast_weight": -1}, "contrast_weight"),
        ({"directions": "both"}, "unknown key. Did you mean 'direction'"),
    ],
)
def test_settings_out_of_range_are_told(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match="span") as caught:
        validate(TrainConfig, {"objectives": [{"span": settings}]}, "recipe x", "train")
    assert told in str(caught.value)
