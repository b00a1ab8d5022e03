import numpy as np
import pytest
import torch

from alignment_train.evaluation import lm, measure, scoring
from alignment_train.evaluation.lm import LM
from alignment_train.evaluation.scoring import Group, groups
from alignment_train.training.data import conversations
from tests.support.models import SHAPES, bitext, sentence, tiny

TEXTS = [*bitext(30)["src"].to_pylist(), "neun", "eins zwei " * 9]


@pytest.fixture(params=[8192, 60], ids=["one batch", "many batches"])
def model(request, monkeypatch) -> LM:
    monkeypatch.setattr(lm, "TOKENS", request.param)
    return LM(tiny(), trained_layer=1, max_length=64, device=torch.device("cpu"))


def test_states_come_in_the_order_of_the_texts_whatever_the_batches(model: LM):
    got = model.embed(TEXTS, [0, 3], "mean")
    for i in (0, 17, 30, 31):
        batch, _ = model.model.encode([TEXTS[i]], 64)
        states = model.model.hidden_states(batch["input_ids"], batch["attention_mask"])
        for layer in (0, 3):
            assert np.allclose(got[layer][i], states[layer][0, 1:].mean(0).detach().numpy(), atol=1e-5)  # no BOS


def test_last_pooling_takes_the_last_real_token(model: LM):
    got = model.embed(TEXTS, [2], "last")[2]
    batch, _ = model.model.encode([TEXTS[30]], 64)
    state = model.model.hidden_states(batch["input_ids"], batch["attention_mask"])[2][0, -1]
    assert np.allclose(got[30], state.detach().numpy(), atol=1e-5)


def test_loss_is_the_sum_over_all_tokens_and_eos(model: LM):
    nats, counts = model.loss(TEXTS)
    for i in (0, 30, 31):
        ids = torch.tensor([[*model.model.tokenizer(TEXTS[i])["input_ids"], model.model.tokenizer.eos_token_id]])
        logits = model.model.lm(input_ids=ids).logits[0, :-1].log_softmax(-1)
        assert counts[i] == ids.shape[1] - 1
        assert nats[i] == pytest.approx(-logits.gather(1, ids[0, 1:, None]).sum().item(), rel=1e-5)


def requests() -> list[tuple[str, str]]:
    """Choices after one context, of one token and of several; whole texts that begin alike; a text alone."""
    out = [("", "sieben acht"), ("neun ", "neun")]
    for number in (12345678, 1234567890):
        context = sentence(number, "deu_Latn")
        out += [(context, " " + sentence(n, "eng_Latn")) for n in (7, 71, 777)]
        out += [(context + " ", letter) for letter in "abcd"]
        out += [("", f"{context}, {word} {sentence(42, 'eng_Latn')}") for word in ("ja", "nein", "auch")]
    return out


def alone(model: LM, context: str, continuation: str) -> tuple[float, bool]:
    """One request, by one forward pass over all of its tokens."""
    tokenizer, bare = model.model.tokenizer, context.rstrip()
    ids = tokenizer(context + continuation, add_special_tokens=bool(bare))["input_ids"]
    begin = len(tokenizer(bare)["input_ids"]) if bare else 1
    if not bare:
        ids = [tokenizer.bos_token_id, *ids]
    ids = torch.tensor([ids])
    logits = model.model.lm(input_ids=ids).logits[0, begin - 1 : -1].log_softmax(-1)
    wanted = ids[0, begin:]
    own = logits.gather(1, wanted[:, None]).double().sum().item()
    return own, bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize(
    ("kind", "tokens", "rows"), [("llama", 8192, None), *((kind, 200, 3) for kind in SHAPES if kind != "mistral")]
)
def test_log_likelihoods_are_those_of_each_request_alone(kind: str, tokens: int, rows: int | None, monkeypatch):
    monkeypatch.setattr(lm, "TOKENS", tokens)
    monkeypatch.setattr(scoring, "SHARED", 3)
    model = LM(tiny(kind), 1, 64, torch.device("cpu"), rows)
    nats, greedy = model.loglikelihood(requests())
    expected = [alone(model, *request) for request in requests()]
    assert nats == pytest.approx(np.array([own for own, _ in expected]), abs=1e-4)
    assert greedy.tolist() == [likeliest for _, likeliest in expected]


def test_the_greedy_continuation_is_known_as_such(model: LM):
    nats, _ = model.loglikelihood([("eins zwei", f" {digit}") for digit in ("drei", "vier")])
    assert nats.max() < 0
    ids = torch.tensor([model.model.tokenizer("eins zwei")["input_ids"]])
    best = int(model.model.lm(input_ids=ids).logits[0, -1].argmax())
    asked = [scoring.Request((*ids[0].tolist(), token), ids.shape[1]) for token in (best, best - 1)]
    with torch.inference_mode():
        found = scoring.loglikelihood(model.model, asked, 8192)
    assert found[1].tolist() == [True, False]
    assert found[0][0] > found[0][1]


def test_a_request_longer_than_the_window_loses_its_start():
    short = LM(tiny("gpt2", n_positions=16), 1, 64, torch.device("cpu"))
    assert short.window == 16
    context, answer = sentence(123456789012345678, "deu_Latn"), " eins"
    ids = short.model.tokenizer(context + answer)["input_ids"]
    kept = torch.tensor([ids[-17:]])
    begin = len(short.model.tokenizer(context)["input_ids"]) - len(ids)
    logits = short.model.lm(input_ids=kept[:, :-1]).logits[0].log_softmax(-1)[begin:]
    expected = logits.gather(1, kept[0, begin:, None]).sum().item()
    assert short.loglikelihood([(context, answer)])[0][0] == pytest.approx(expected, abs=1e-4)


def test_a_continuation_of_no_tokens_is_refused(model: LM):
    with pytest.raises(ValueError, match="found no token after 'eins' in 'eins'. Needed: at least one."):
        model.loglikelihood([("eins", "")])


def test_rows_are_grouped_so_that_the_fewest_tokens_are_run():
    first, second = tuple(range(10, 50)), tuple(range(10, 22))
    rows = sorted([(*first, 1), (*first, 2), (*second, 3, 3), (*second, 4, 4), (5, 6)])
    assert groups(rows, 8) == [
        Group(0, [(5, 6)]),
        Group(11, [(*second, 3, 3), (*second, 4, 4)]),
        Group(39, [(*first, 1), (*first, 2)]),
    ]
    assert groups(rows, 1) == [Group(0, [row]) for row in rows]
    assert groups([(1, 2, 3, 4), (1, 2, 3, 5)], 8) == [Group(0, [(1, 2, 3, 4)]), Group(0, [(1, 2, 3, 5)])]  # too short


def test_generation_is_greedy_stops_and_keeps_the_order_of_the_prompts(monkeypatch):
    monkeypatch.setattr(lm, "TOKENS", 60)
    model = LM(tiny("gpt_neox"), 1, 64, torch.device("cpu"))
    prompts = ["eins zwei drei vier fünf sechs", "neun", "zwei null"]
    whole = []
    for prompt in prompts:
        ids = torch.tensor([model.model.tokenizer(prompt)["input_ids"]])
        new = []
        for _ in range(8):
            new.append(
                int(model.model.lm(input_ids=torch.cat([ids, torch.tensor([new]).long()], 1)).logits[0, -1].argmax())
            )
        whole.append(model.model.tokenizer.decode(new, skip_special_tokens=True))
    assert model.generate(prompts, [], 8) == whole
    end = whole[0][4:7]
    assert model.generate(prompts, [end], 8) == [text.partition(end)[0] for text in whole]
    with pytest.raises(ValueError, match="max_new_tokens: found 9,999. Allowed: fewer than the model's 2,048 tokens."):
        model.generate(prompts, [], 9999)


def test_a_prompt_is_answered_once_and_again_as_before(model: LM, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    generate = model.model.lm.generate
    monkeypatch.setattr(
        model.model.lm, "generate", lambda **rest: (asked.append(len(rest["input_ids"])), generate(**rest))[1]
    )
    first = model.generate([*TEXTS[:2], TEXTS[0]], [], 12)
    assert first[0] == first[2] != first[1]
    assert sum(asked) == 2
    assert model.generate(TEXTS[1::-1], [], 12) == first[1::-1]
    assert model.generate([], [], 12) == []
    assert sum(asked) == 2
    assert model.generate(TEXTS[:1], [first[0][2:4]], 12) == [first[0].partition(first[0][2:4])[0]]
    assert len(model.generate(TEXTS[:1], [], 3)[0]) < len(first[0])
    assert sum(asked) == 4


def test_one_layer_is_what_it_is_among_all(model: LM):
    """It is had without the blocks above it."""
    every = model.embed(TEXTS, [0, 1, 2, 3], "mean")
    for layer in range(4):
        assert np.allclose(model.embed(TEXTS, [layer], "mean")[layer], every[layer], atol=1e-6)


TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }} {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
def test_a_conversation_is_put_as_in_training(template: str | None, monkeypatch):
    model = LM(tiny(), 1, 64, torch.device("cpu"))
    model.model.tokenizer.chat_template = template
    talks = [
        [{"role": "system", "content": "eins zwei"}, {"role": "user", "content": "drei vier fünf"}],
        [{"role": "user", "content": "neun"}],
    ]
    put: list[list[int]] = []
    monkeypatch.setattr(model, "_generated", lambda rows, stop, most, chat: put.extend(rows) or [""] * len(rows))
    model.reply(talks, ["\n"], 8)
    answered = [[*talk, {"role": "assistant", "content": "sieben acht"}] for talk in talks]
    batch = conversations(answered, model.model, 64)
    for row, ids, labels in zip(put, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        first = next(place for place, label in enumerate(labels) if label != -100)
        assert row == ids[:first]
        assert labels[first] == ids[first]


def test_a_reply_is_the_greedy_continuation_of_what_was_put():
    model = LM(tiny("gpt_neox"), 1, 64, torch.device("cpu"))
    talks = [[{"role": "user", "content": text}] for text in ("eins zwei drei", "neun")]
    assert model.reply(talks, [], 8) == model.generate(["eins zwei drei", "neun"], [], 8)
    assert model.reply([], [], 8) == []


def test_every_question_says_how_many_items_are_done(monkeypatch):
    monkeypatch.setattr("alignment_train.evaluation.lm.TOKENS", 40)
    own = LM(tiny(), 1, 64, torch.device("cpu"))
    texts = bitext(20)["tgt"].to_pylist()
    found: list[tuple[int, int, float]] = []
    own.on_items = lambda *item: found.append(item)
    questions = [
        lambda: own.embed(texts, [1], "mean"),
        lambda: own.loss(texts),
        lambda: own.loglikelihood([(text, " nine") for text in texts]),
        lambda: own.generate(texts, [], 3),
    ]
    for ask in questions:
        found.clear()
        ask()
        assert len(found) >= 3
        assert found[-1] == (20, 20, pytest.approx(1))
        assert [done for done, _, _ in found] == sorted(done for done, _, _ in found)
        assert [share for _, _, share in found] == sorted(share for _, _, share in found)
    found.clear()
    own.generate(texts, [], 3)
    assert not found, "answers are kept"


def test_the_time_left_is_that_of_the_question_at_hand_and_told_once_a_second(monkeypatch):
    now, told = [100.0], list[tuple[float, float, str]]()
    monkeypatch.setattr(measure.time, "monotonic", lambda: now[0])
    on_items = measure._ItemProgress(
        lambda done, total=0, note="": told.append((done, total, note)), 2, 6, "base · loss"
    )
    for seconds, done, share in ((0.5, 10, 0.05), (10, 200, 0.25), (10.4, 220, 0.3), (20, 700, 0.5), (40, 1000, 1.0)):
        now[0] = 100 + seconds
        on_items(done, 1000, share)
    assert told == [
        (2, 6, "base · loss: 200 of 1,000 items, 30 s left of these"),
        (2, 6, "base · loss: 700 of 1,000 items, 20 s left of these"),
    ]
    now[0] = 150
    on_items(5, 10, 0.5)
    assert told[-1][2] == "base · loss: 5 of 10 items, 10 s left of these"
