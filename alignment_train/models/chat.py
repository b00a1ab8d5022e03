"""The one place that renders conversations: in training and in generation a prompt has the same tokens.

A prompt is what the tokenizer's chat template writes with `add_generation_prompt`, as inference servers use it. The
answer and the token that ends an assistant's turn follow it, in training as labels; generation stops at that token.
`ChatFormat` finds out by rendering a few short conversations what this takes with a template:

1. The template's arguments: those that switch reasoning off come first (`enable_thinking=False`), then none.
2. What stands between the generation prompt and an answer once it is given (an empty reasoning block, a channel) goes
   into the prompt. A reasoning block that only the generation prompt opens (R1 distills) is closed there.
3. What an answered turn ends with, and which token of it is its end.
4. Which conversations the template takes. Where it refuses or drops a system turn, its text goes before that of the
   first user turn. Where roles must alternate, user turns in a row become one, and an assistant turn that follows no
   user turn gets an empty one before it.

A template by which an answered conversation does not begin with its prompt is refused. Without a template a
conversation is plain text (`plain`), as in AFP.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from typing import Any

from alignment_train.models import template as templates
from alignment_train.models.template import Template, TemplateFailure
from pipelines.errors import UserError, printable
from pipelines.text.reasoning import ANY_TAG, Reasoning, closing_tag

Turn = dict[str, str]
Talk = Sequence[Turn]

DATE = date(2024, 7, 26)
"""What templates that write today's date write: the one that Llama 3.1's template has where it is given none."""

SWITCHES: Mapping[str, Any] = {
    "enable_thinking": False,
    "thinking": False,
    "enable_reasoning": False,
    "reasoning": False,
    "skip_think": True,
    "thinking_budget": 0,
}
"""Template arguments that switch reasoning off."""
CHOICES: Mapping[str, Sequence[str]] = {
    "reasoning_effort": ("none", "minimal", "low"),
    "thinking_mode": ("off", "disabled", "chat"),
}
"""Others that may; tried where nothing else makes prompts agree."""

SYSTEM, ANSWER = "Zqx rule", "Zqx answer"
USERS, REPLIES = ("Zqx ask one", "Zqx ask two", "Zqx ask three"), ("Zqx reply one", "Zqx reply two")
SEPARATOR = "\n\n"  # between a system text and the user's, and between turns that become one
SHOWN = 60  # characters of a rendered text in an error message
BASIC = (("user",), ("user", "assistant", "user"))
"""Conversations that every template must take, as the roles before an answer."""
SYSTEM_FIRST = tuple(("system", *roles) for roles in BASIC)
SYSTEM_LATER = (("user", "assistant", "system", "user"), ("user", "assistant", "user", "system"))
USERS_IN_A_ROW = (("user", "user"), ("user", "assistant", "user", "user"))
ASSISTANT_ALONE = (("assistant", "user"), ("user", "assistant", "assistant", "user"), ("user", "assistant"))
SHAPES = (*BASIC, *SYSTEM_FIRST, *SYSTEM_LATER, *USERS_IN_A_ROW, *ASSISTANT_ALONE)


@dataclass(frozen=True)
class Encoded:
    """One conversation with its answer, ready to train on."""

    text: str
    """Prompt and answer; without the token that ends the turn."""
    ids: list[int]
    offsets: list[tuple[int, int]]
    """Of each token in `text`; that of the end is empty."""
    prompt_tokens: int
    """How many of `ids` are the prompt: generation is given exactly these."""
    prompt_chars: int
    """How many characters of `text` are the prompt."""

    @property
    def labels(self) -> list[int]:
        return [-100] * self.prompt_tokens + self.ids[self.prompt_tokens :]


@dataclass(frozen=True)
class _Fit:
    """How a rendered prompt becomes one that an answer can follow: `drop` is cut off its end, `add` put there."""

    drop: str
    add: str
    after: str
    """What the template writes after an answer."""


class _Mismatch(Exception):
    """An answered conversation does not begin with its prompt, or lacks a turn."""

    def __init__(self, prompt: str, answered: str, reason: str = "an answered conversation begins in another way"):
        self.prompt, self.answered, self.reason = prompt, answered, reason


def plain(talk: Talk) -> tuple[str, str]:
    """(prompt, response) in AFP's plain form: messages joined by spaces (arXiv 2311.08089, section 3.2)."""
    return " ".join(message["content"] for message in talk[:-1]) + " ", talk[-1]["content"]


def template_of(tokenizer: Any) -> str | None:
    """The source of the chat template that conversations are written by; of several the one named `default`."""
    if not tokenizer.chat_template:
        return None
    try:
        return tokenizer.get_chat_template()
    except ValueError:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: found several chat templates, {names}. Expected: one, or one that is "
            f"named default. Fix: rename the one for conversations."
        ) from None


class ChatFormat:
    """How conversations are written for one tokenizer, in training and in generation alike.

    `end_id` is the token that ends an answer; `stop_ids` are those at which generation stops.
    """

    def __init__(self, tokenizer: Any, today: date = DATE):
        """Raise UserError for a template that writes prompts and answered conversations differently.

        today: the date for templates that write one.
        """
        self.tokenizer, self.source, self.today = tokenizer, template_of(tokenizer), today
        self.arguments: dict[str, Any] = {}
        self.reasoning = Reasoning()
        self.end_id, self.end_text = tokenizer.eos_token_id, ""
        self._stops: list[int | None] = []
        if self.source is not None:
            self._learn(self.source, today)
        if self.end_id is None:
            raise UserError(
                f"tokenizer {tokenizer.name_or_path}: found neither an end-of-sequence token nor a chat template that "
                f"ends a turn with one. Expected: a token at which generation stops. Fix: set eos_token."
            )

    @property
    def stop_ids(self) -> list[int]:
        """The end of an answer, what may stand there in earlier turns, and the tokenizer's own end of text."""
        ids = dict.fromkeys([self.end_id, *self._stops, self.tokenizer.eos_token_id])
        return [number for number in ids if number is not None]

    def encode(self, talks: Sequence[Talk]) -> list[Encoded]:
        """Conversations whose last turn is the assistant's answer."""
        texts = [self._write(talk[:-1], talk[-1]["content"]) for talk in talks]
        prompts = self._tokens([prompt for prompt, _ in texts])
        wholes = self._tokens([prompt + rest for prompt, rest in texts])
        return [self._joined(text, *prompt, *whole) for text, prompt, whole in zip(texts, prompts, wholes, strict=True)]

    def prompts(self, talks: Sequence[Talk]) -> list[list[int]]:
        """What generation is given for conversations that end before the answer."""
        return [ids for ids, _ in self._tokens([self._write(talk, "")[0] for talk in talks])]

    def read(self, text: str, stop: Sequence[str] = ()) -> tuple[str, bool]:
        """The answer in what a model wrote, without reasoning and cut at `stop`; and whether it is complete.

        Complete is what a text in `stop` ends. One inside a reasoning block ends nothing.
        """
        answer, is_open = self.reasoning.without(text)
        if answer != text:
            answer = answer.lstrip()
        ends = [place for end in (*stop, self.end_text) if end and (place := answer.find(end)) >= 0]
        return answer[: min(ends, default=None)], bool(ends) and not is_open

    def describe(self) -> str:
        """How conversations are written, in a few words."""
        if self.source is None:
            return "plain text, for there is no chat template"
        parts = [f"{name}={value}" for name, value in self.arguments.items()]
        if self._base.add.strip():
            parts.append(f"prompts go on with {json.dumps(self._base.add, ensure_ascii=False)}")
        parts.append(f"turns end with {self.tokenizer.convert_ids_to_tokens(self.end_id)}")
        if not self._takes_system:
            parts.append("system text goes before the first user turn")
        if not (self._takes_users_in_a_row and self._takes_assistant_alone):
            parts.append("roles alternate")
        return f"chat template, {', '.join(parts)}"

    def _learn(self, source: str, today: date) -> None:
        """Find arguments, prompt, end of turn and the conversations that a template takes."""
        try:
            names = templates.variables(source)
        except TemplateFailure as error:
            raise self._refused(str(error)) from None
        tries = _arguments(names)
        base = {**self.tokenizer.special_tokens_map, "tools": None, "documents": None}
        if "date_string" in names:
            base["date_string"] = today.strftime("%d %b %Y")
        contexts = [
            {**base, **arguments, "messages": _messages(talk, parts), "add_generation_prompt": prompt}
            for parts in (False, True)
            for arguments in tries
            for roles in SHAPES
            for talk, prompt in ((_talk(roles), True), (_answered(_talk(roles)), False))
        ]
        try:
            templates.check(source, json.dumps(contexts, default=str), today)
            self._template = Template(source, today)
        except TemplateFailure as error:
            raise self._refused(str(error)) from None
        self._base = self._first_fit(base, tries)
        self._takes_system = all(map(self._takes, SYSTEM_FIRST))
        self._takes_system_later = self._takes_system and all(map(self._takes, SYSTEM_LATER))
        self._takes_users_in_a_row = all(map(self._takes, USERS_IN_A_ROW))
        self._takes_assistant_alone = all(map(self._takes, ASSISTANT_ALONE))
        self._find_end()

    def _first_fit(self, base: Mapping[str, Any], tries: Sequence[dict[str, Any]]) -> _Fit:
        """Set the arguments, and the form of a message, with which prompts and answered conversations agree."""
        first: TemplateFailure | _Mismatch | None = None
        for parts, arguments in product((False, True), tries):
            self._context, self._parts, self.arguments = {**base, **arguments}, parts, arguments
            try:
                fit, *others = (self._fit(_talk(roles)) for roles in BASIC)
                if others.count(fit) == len(others):
                    return fit
                talk = _talk(BASIC[-1])
                raise _Mismatch(self._render(talk, True), self._render(_answered(talk)))
            except (TemplateFailure, _Mismatch) as error:
                first = first or error
        raise self._differs(first) if isinstance(first, _Mismatch) else self._refused(str(first))

    def _takes(self, roles: Sequence[str]) -> bool:
        """Whether the template writes such a conversation as it does the basic ones."""
        try:
            return self._fit(_talk(roles)) == self._base
        except (TemplateFailure, _Mismatch):
            return False

    def _fit(self, talk: Talk) -> _Fit:
        """How prompt and answered conversation agree; _Mismatch where they do not, or a turn is dropped or changed."""
        prompt, answered = self._render(talk, True), self._render(_answered(talk))
        before, _, after = answered.partition(ANSWER)
        spoken = [turn["content"] for turn in talk]
        once = all(text.count(turn) == 1 for turn in spoken for text in (prompt, before))
        if ANSWER not in answered or ANSWER in after or not once:
            raise _Mismatch(prompt, answered, "a turn is dropped, repeated or changed")
        tail = max(prompt.find(turn) + len(turn) for turn in spoken)  # after all that is the user's
        places = [prompt.find(turn["content"]) for turn in talk if turn["role"] != "system" or turn is not talk[0]]
        if places != sorted(places):
            raise _Mismatch(prompt, answered, "turns change places")
        drop = add = ""
        if before.startswith(prompt):
            add = before[len(prompt) :]
            self._notice(add, is_closed=True)
        else:
            self._notice(prompt[_shared(prompt, before) :], is_closed=False)
            (head, block), (other_head, other_block) = map(self.reasoning.split, (prompt, before))
            if head != other_head or len(head) < tail:
                raise _Mismatch(prompt, answered)
            if self.reasoning.is_closed(other_block):
                drop, add = block, other_block
        written = prompt[: len(prompt) - len(drop)] + add
        return _Fit(drop, add + self.reasoning.close(written[tail:]), after)

    def _notice(self, text: str, is_closed: bool) -> None:
        """Take for one of reasoning a tag of any name that stands alone, or is closed at once, before an answer."""
        match = ANY_TAG.match(text.strip())
        if match is None or self.source is None:
            return
        closing, rest = closing_tag(match), text.strip()[match.end() :].strip()
        if rest == closing or (not rest and not is_closed and closing in self.source):
            self.reasoning.add(match[0], closing)

    def _find_end(self) -> None:
        """Which token ends an answer: the last one of those that end every assistant turn, else EOS."""
        after = self._base.after
        later = self._render(_answered(_talk(BASIC[-1]))).partition(REPLIES[0])[2].partition(USERS[1])[0]
        marks, common = self._marks(after), _shared(after, later)
        shared = [mark for mark in marks if mark[1] <= common]
        if len(shared) > 1 and after[common:].strip() not in ("", self.tokenizer.eos_token):
            shared.pop()  # it opens the next turn: the template writes a generation prompt always
        ending = shared[-1:] or marks[:1]
        if ending:
            start, _, self.end_id = ending[0]
            self._closing = after[:start]
        else:
            self._closing = ""
        self.end_text = self._closing.strip() if ending else after.strip()
        self._stops = [number for _, _, number in self._marks(later)[:1]]

    def _marks(self, text: str) -> list[tuple[int, int, int]]:
        """(start, end, id) of the special and added tokens in a text; or of the text itself, where it is one token."""
        tokenizer = self.tokenizer
        special = {number for name, number in tokenizer.get_added_vocab().items() if name.strip()}
        special.update(tokenizer.all_special_ids)
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        marks = [
            (start, end, number)
            for number, (start, end) in zip(coded["input_ids"], coded["offset_mapping"], strict=True)
            if number in special
        ]
        whole = tokenizer.get_vocab().get(text.strip()) if not marks and text.strip() else None
        return marks if whole is None else [(text.index(text.strip()), len(text.rstrip()), whole)]

    def _write(self, talk: Talk, answer: str) -> tuple[str, str]:
        """The prompt, and what follows it up to the end of the turn.

        Spaces that the prompt ends in are left to the answer: tokenizers join them to its first word.
        """
        if self.source is None:
            prompt, answer = plain([*talk, {"role": "assistant", "content": answer}])
            closing = ""
        else:
            prompt, closing, answer = self._prompt(talk), self._closing, answer.strip()
        bare = prompt.rstrip(" ")
        return bare, prompt[len(bare) :] + answer + closing

    def _prompt(self, talk: Talk) -> str:
        talk = self._regular(talk)
        try:
            text = self._render(talk, True)
        except TemplateFailure as error:
            roles = ", ".join(turn["role"] for turn in talk)
            raise self._refused(f"it fails on a conversation of {roles}: {error}") from None
        if not text.endswith(self._base.drop):
            raise self._differs(_Mismatch(text, f"{text}{self._base.drop}"))
        return text[: len(text) - len(self._base.drop)] + self._base.add

    def _regular(self, talk: Talk) -> list[Turn]:
        """The conversation in roles that the template takes; no text is lost or said twice."""
        turns = [dict(turn) for turn in talk]
        first = next((i for i, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
        system = SEPARATOR.join(turn["content"] for turn in turns[:first])
        turns = turns[first:]
        if not self._takes_system_later:
            turns = [{**turn, "role": "user"} if turn["role"] == "system" else turn for turn in turns]
        if system and not self._takes_system:
            if turns and turns[0]["role"] == "user":
                turns[0]["content"] = system + SEPARATOR + turns[0]["content"]
            else:
                turns.insert(0, {"role": "user", "content": system})
        out = [{"role": "system", "content": system}] if system and self._takes_system else []
        for turn in [*turns, {"role": "assistant", "content": ""}]:  # the answer's turn, to be taken off again
            last = out[-1]["role"] if out else "system"
            if turn["role"] == last == "user" and not self._takes_users_in_a_row:
                out[-1]["content"] += SEPARATOR + turn["content"]
                continue
            if turn["role"] == "assistant" and last != "user" and not self._takes_assistant_alone:
                out.append({"role": "user", "content": ""})
            out.append(turn)
        return out[:-1]

    def _render(self, talk: Talk, prompt: bool = False) -> str:
        context = {**self._context, "messages": _messages(talk, self._parts), "add_generation_prompt": prompt}
        return self._template.render(context)

    def _tokens(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids and offsets of each text. Plain ones get what the tokenizer puts first, and no EOS yet."""
        if not texts:
            return []
        is_plain = self.source is None
        coded = self.tokenizer(texts, add_special_tokens=is_plain, return_offsets_mapping=True, verbose=False)
        out = list(zip(coded["input_ids"], coded["offset_mapping"], strict=True))
        if is_plain:
            eos = self.tokenizer.eos_token_id
            out = [(ids[:-1], places[:-1]) if ids[-1:] == [eos] else (ids, places) for ids, places in out]
        return out

    def _joined(
        self,
        text: tuple[str, str],
        prompt: list[int],
        prompt_offsets: list[tuple[int, int]],
        ids: list[int],
        offsets: list[tuple[int, int]],
    ) -> Encoded:
        """The prompt's own tokens and those of the rest, although together they may be split in other places."""
        before, rest = text
        size, border = len(prompt), len(before)
        if ids[:size] != prompt:
            first = next((i for i, (_, end) in enumerate(offsets) if end > border), len(ids))
            if first < len(ids) and offsets[first][0] < border:  # a token that reaches across
                ids, offsets = self._tokens_alone(rest, border)
            else:
                ids, offsets = ids[first:], offsets[first:]
            ids, offsets = [*prompt, *ids], [*prompt_offsets, *offsets]
        end = border + len(rest)
        return Encoded(before + rest, [*ids, self.end_id], [*offsets, (end, end)], size, border)

    def _tokens_alone(self, text: str, shift: int) -> tuple[list[int], list[tuple[int, int]]]:
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return coded["input_ids"], [(start + shift, end + shift) for start, end in coded["offset_mapping"]]

    def _refused(self, reason: str) -> UserError:
        return UserError(
            f"chat template of {self.tokenizer.name_or_path or 'the tokenizer'}: {printable(reason)[:300]}. Expected: "
            f"one that writes a conversation of user and assistant. Fix: correct chat_template in the model's folder, "
            f"or remove it: conversations are then plain text."
        )

    def _differs(self, mismatch: _Mismatch) -> UserError:
        start = max(0, _shared(mismatch.prompt, mismatch.answered) - SHOWN // 2)
        prompt, answered = (
            json.dumps(("…" if start else "") + printable(text[start : start + SHOWN]), ensure_ascii=False)
            for text in (mismatch.prompt, mismatch.answered)
        )
        return UserError(
            f"chat template of {self.tokenizer.name_or_path or 'the tokenizer'}: {mismatch.reason}: generation would "
            f"be given {prompt}, but training would see {answered}. Expected: an answered conversation that begins "
            f"with its prompt and has every turn once as it is, at least with enable_thinking=False. Fix: correct "
            f"chat_template in the model's folder, or remove it: conversations are then plain text."
        )


def _talk(roles: Sequence[str]) -> list[Turn]:
    """A conversation of these roles, each turn with a text that occurs nowhere else."""
    texts = {"system": iter((SYSTEM,)), "user": iter(USERS), "assistant": iter(REPLIES)}
    return [{"role": role, "content": next(texts[role])} for role in roles]


def _answered(talk: Talk) -> list[Turn]:
    return [*talk, {"role": "assistant", "content": ANSWER}]


def _messages(talk: Talk, parts: bool) -> list[dict[str, Any]]:
    """Turns as a template is given them; in parts, as those of vision models have them."""
    return [
        {**turn, "content": [{"type": "text", "text": turn["content"]}] if parts else turn["content"]} for turn in talk
    ]


def _shared(one: str, other: str) -> int:
    """The length of the beginning that two texts share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _arguments(names: Collection[str]) -> list[dict[str, Any]]:
    """The arguments to try with a template that knows these names, in order."""
    off = {name: value for name, value in SWITCHES.items() if name in names}
    tries = [off, *({name: value} for name, value in off.items()), {}]
    tries += [{name: value} for name, values in CHOICES.items() if name in names for value in values]
    return [arguments for i, arguments in enumerate(tries) if arguments not in tries[:i]]
