"""A small controlled grammar: abstract sentences in, the same meaning in eight languages out.

An abstract sentence (`Act`, `Meal`, ...) names words by English keys and says nothing about any language. Each file
beside this one is one language: closed word tables and `linearise`, which does agreement, case, order and script.
All tables and rules are of our own making.

An id is a place in one fixed list of distinct abstract sentences, so it means the same in every language. Whatever
an abstract sentence can vary is a word in all eight languages (time words carry tense, numerals carry number), so
two ids never share a sentence in any language; a test checks it over the whole list.
"""

import importlib
import random
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, cast

from pipelines.errors import UserError

LANGUAGES = ("deu_Latn", "eng_Latn", "fra_Latn", "hin_Deva", "rus_Cyrl", "spa_Latn", "swh_Latn", "zho_Hans")
HELDOUT_IDS = range(1_000)
TRAIN_IDS = range(1_000, 25_000)
INSTRUCTION_COUNT = 3_000
SEED = 20_240_501  # fixes what an id means; never a setting, or training could meet the held-out ids of another seed

Tense = Literal["past", "present", "future"]
Mode = Literal["statement", "not", "whether", "who", "what", "where", "when"]
QUESTIONS: tuple[Mode, ...] = ("who", "what", "where", "when")  # with a short answer

PERSONS: dict[str, Literal["m", "f"]] = {
    "teacher": "m",
    "doctor": "m",
    "nurse": "f",
    "farmer": "m",
    "fisherman": "m",
    "student": "f",
    "neighbour": "m",
    "driver": "m",
    "cook": "m",
    "singer": "f",
    "writer": "m",
    "engineer": "m",
    "boy": "m",
    "girl": "f",
    "old man": "m",
    "old woman": "f",
    "mother": "f",
    "father": "m",
    "sister": "f",
    "brother": "m",
    "grandmother": "f",
    "friend": "m",
    "daughter": "f",
    "uncle": "m",
}
THINGS: dict[str, tuple[str, ...]] = {
    "text": ("book", "letter", "newspaper"),
    "kitchen": ("cup", "plate", "pot", "bottle", "knife", "spoon"),
    "clothes": ("shirt", "hat", "dress", "blanket"),
    "machine": ("bicycle", "car", "clock", "phone", "lamp", "boat", "umbrella", "guitar"),
    "furniture": ("table", "chair", "bed", "mirror", "carpet", "box"),
    "small": ("bag", "basket", "key", "picture"),
}
NOUNS = tuple(noun for group in THINGS.values() for noun in group)
VERBS: dict[str, tuple[str, ...]] = {  # a verb and the groups of things one can do that to
    "buy": tuple(THINGS),
    "sell": tuple(THINGS),
    "choose": tuple(THINGS),
    "see": tuple(THINGS),
    "look for": tuple(THINGS),
    "lose": ("text", "clothes", "small"),
    "hide": ("text", "kitchen", "small"),
    "read": ("text",),
    "repair": ("machine", "furniture"),
    "wash": ("kitchen", "clothes"),
    "break": ("kitchen",),
    "use": ("kitchen", "machine"),
}
ACCIDENTS = ("lose", "break")  # told of the past only: nobody plans to
INTENDED = tuple(verb for verb in VERBS if verb not in ACCIDENTS)
MEETINGS = ("help", "meet", "call", "wait for", "invite", "thank")
GIVINGS = ("give", "show", "send")
ACTIONS = ("work", "sleep", "sing", "play", "study", "dance", "cook", "wait")
MODALS = ("want", "can")
OPINIONS = ("think", "say", "know", "believe")
COLOURS = ("red", "white", "black", "blue", "green")
QUALITIES = ("big", "small", "new", "old", "expensive", "cheap", "beautiful", "heavy", "dirty", "clean")
ADJECTIVES = COLOURS + QUALITIES
COUNTS = (1, 1, 1, 2, 2, 3, 3, 4, 5, 10)  # drawn from evenly, so small numbers are common
FOODS = ("bread", "rice", "fish", "meat", "potatoes", "fruit", "vegetables", "beans")
DRINKS = ("tea", "coffee", "milk", "water", "juice")
PLACES = (
    "market",
    "school",
    "hospital",
    "village",
    "city",
    "garden",
    "kitchen",
    "library",
    "station",
    "harbour",
    "shop",
    "hotel",
    "office",
    "forest",
    "beach",
    "restaurant",
)
SHOPS = ("market", "village", "city", "station", "harbour", "shop")  # where one buys and sells
GATHERINGS = tuple(place for place in PLACES if place != "kitchen")  # places one goes to from home
TIMES: dict[str, Tense] = {
    "yesterday": "past",
    "last night": "past",
    "last week": "past",
    "last month": "past",
    "last year": "past",
    "every day": "present",
    "every morning": "present",
    "every week": "present",
    "every Monday": "present",
    "tomorrow": "future",
    "tomorrow morning": "future",
    "next week": "future",
    "next month": "future",
    "next year": "future",
}
MODES: dict[Mode, int] = {"statement": 6, "not": 3, "whether": 2, "who": 1, "what": 1, "where": 1, "when": 1}
LATELY = ("yesterday", "last night", "last week")
STATES = ("tired", "ill", "hungry", "thirsty", "sad", "busy", "angry")
WEATHERS = ("rain", "snow", "cold", "hot", "windy")


class Thing(NamedTuple):
    """A noun phrase: `count` 1 is "a", more is a numeral, 0 is "the" (one, known to both speakers)."""

    noun: str
    adjective: str
    count: int  # pyright: ignore[reportIncompatibleMethodOverride]


@dataclass(frozen=True, slots=True)
class Act:
    """The teacher bought two red books at the market yesterday; also denied and asked about.

    A question leaves what it asks for empty: `subject` or `place` "", `thing` None, and `time` the bare tense.
    """

    mode: Mode
    subject: str
    verb: str
    thing: Thing | None
    place: str
    time: str

    @property
    def tense(self) -> Tense:
        return TIMES.get(self.time) or cast(Tense, self.time)


@dataclass(frozen=True, slots=True)
class Meet:
    """My sister helped the teacher at the station yesterday; `positive` False denies it."""

    positive: bool
    subject: str
    verb: str
    other: str
    place: str
    time: str


@dataclass(frozen=True, slots=True)
class Meal:
    """The doctor eats bread and drinks tea at the hotel every day."""

    subject: str
    food: str
    drink: str
    place: str
    time: str


@dataclass(frozen=True, slots=True)
class Trip:
    """Tomorrow the nurse will go to the city to buy a new lamp."""

    subject: str
    place: str
    time: str
    verb: str
    thing: Thing


@dataclass(frozen=True, slots=True)
class Because:
    """The boy did not work at the market yesterday because he was tired."""

    subject: str
    action: str
    place: str
    time: str
    state: str


@dataclass(frozen=True, slots=True)
class Both:
    """Last week the cook sold a big table and my uncle bought two chairs."""

    time: str
    subject: str
    verb: str
    thing: Thing
    other: str
    other_verb: str
    other_thing: Thing


@dataclass(frozen=True, slots=True)
class Arrival:
    """When the driver arrived at the harbour yesterday, the fisherman was sleeping."""

    subject: str
    place: str
    time: str
    other: str
    action: str


@dataclass(frozen=True, slots=True)
class Give:
    """Yesterday the old woman gave my daughter three white plates."""

    subject: str
    verb: str
    thing: Thing
    receiver: str
    time: str


@dataclass(frozen=True, slots=True)
class Compare:
    """This red car is more expensive than that blue bicycle."""

    noun: str
    colour: str
    quality: str
    other: str
    other_colour: str


@dataclass(frozen=True, slots=True)
class Exist:
    """There are three red chairs and two black tables in the kitchen; both counts are more than one."""

    place: str
    thing: Thing
    other: Thing


@dataclass(frozen=True, slots=True)
class Opinion:
    """My father thinks that this red car is very expensive."""

    subject: str
    verb: str
    noun: str
    colour: str
    quality: str


@dataclass(frozen=True, slots=True)
class Weather:
    """Yesterday it rained a lot, so the farmer did not go to the market with my brother."""

    weather: str
    time: str
    subject: str
    place: str
    companion: str


@dataclass(frozen=True, slots=True)
class Wish:
    """The student wants to buy a cheap guitar at the shop tomorrow."""

    subject: str
    modal: str
    verb: str
    thing: Thing
    place: str
    time: str


Sentence = Act | Meet | Meal | Trip | Because | Both | Arrival | Give | Compare | Exist | Opinion | Weather | Wish


class Language(Protocol):
    """What each language file offers."""

    TASKS: dict[str, str]  # task name to the instruction in this language; "retime" has a place for {time}

    def linearise(self, sentence: Sentence) -> str: ...

    def answer(self, sentence: Act, asked: Mode) -> str:
        """The short answer to a question about `sentence`: only the part asked for."""
        ...

    def time_phrase(self, time: str) -> str: ...


@lru_cache
def language(code: str) -> Language:
    """The grammar of one language, by code such as "eng_Latn"."""
    if code not in LANGUAGES:
        raise UserError(
            f"grammar: no language {code!r}. Available: {', '.join(LANGUAGES)}. "
            "Choose one of these, or add a file to pipelines/grammar."
        )
    return cast(Language, importlib.import_module(f"pipelines.sample_grammar.{code}"))


def sentence_case(text: str, stop: str = ".") -> str:
    """Upper-case the first letter only, and close the sentence."""
    return text[0].upper() + text[1:] + stop


# --- sampling -----------------------------------------------------------------------------------------------------


def _two(rng: random.Random, choices: Sequence[str]) -> tuple[str, str]:
    first, second = rng.sample(choices, 2)
    return first, second


def _time(rng: random.Random, *tenses: Tense) -> str:
    return rng.choice([time for time, tense in TIMES.items() if not tenses or tense in tenses])


def _verb_and_thing(rng: random.Random, verbs: Sequence[str] = tuple(VERBS)) -> tuple[str, Thing]:
    verb = rng.choice(verbs)
    noun = rng.choice([noun for group in VERBS[verb] for noun in THINGS[group]])
    return verb, Thing(noun, rng.choice(ADJECTIVES), rng.choice(COUNTS))


def _place(rng: random.Random, verb: str) -> str:
    return rng.choice(SHOPS if verb in ("buy", "sell") else PLACES)


def _time_of(rng: random.Random, *verbs: str) -> str:
    return _time(rng, "past") if any(verb in ACCIDENTS for verb in verbs) else _time(rng)


def ask(act: Act, asked: Mode) -> Act:
    """The question that `act`, a statement, answers."""
    return Act(
        asked,
        "" if asked == "who" else act.subject,
        act.verb,
        None if asked == "what" else act.thing,
        "" if asked == "where" else act.place,
        TIMES[act.time] if asked == "when" else act.time,
    )


def _statement(rng: random.Random, verbs: Sequence[str] = tuple(VERBS)) -> Act:
    verb, thing = _verb_and_thing(rng, verbs)
    return Act("statement", rng.choice(list(PERSONS)), verb, thing, _place(rng, verb), _time_of(rng, verb))


def _act(rng: random.Random) -> Act:
    (mode,) = rng.choices(list(MODES), list(MODES.values()))
    act = _statement(rng)
    if mode == "not":
        assert act.thing is not None
        return replace(act, mode=mode, thing=act.thing._replace(count=0))
    if mode == "when" and act.tense == "present":
        act = replace(act, time=_time(rng, "past", "future"))
    return ask(act, mode)


def _meet(rng: random.Random) -> Meet:
    subject, other = _two(rng, list(PERSONS))
    return Meet(rng.random() < 0.7, subject, rng.choice(MEETINGS), other, rng.choice(PLACES), _time(rng))


def _meal(rng: random.Random) -> Meal:
    return Meal(rng.choice(list(PERSONS)), rng.choice(FOODS), rng.choice(DRINKS), rng.choice(PLACES), _time(rng))


def _trip(rng: random.Random) -> Trip:
    verb, thing = rng.choice(("buy", "sell", "look for", "choose")), _verb_and_thing(rng)[1]
    place = rng.choice(SHOPS if verb in ("buy", "sell") else GATHERINGS)
    return Trip(rng.choice(list(PERSONS)), place, _time(rng), verb, thing)


def _because(rng: random.Random) -> Because:
    return Because(
        rng.choice(list(PERSONS)), rng.choice(ACTIONS), rng.choice(PLACES), rng.choice(LATELY), rng.choice(STATES)
    )


def _both(rng: random.Random) -> Both:
    subject, other = _two(rng, list(PERSONS))
    verb, thing = _verb_and_thing(rng)
    other_verb, other_thing = _verb_and_thing(rng)
    return Both(_time_of(rng, verb, other_verb), subject, verb, thing, other, other_verb, other_thing)


def _arrival(rng: random.Random) -> Arrival:
    subject, other = _two(rng, list(PERSONS))
    return Arrival(subject, rng.choice(PLACES), rng.choice(LATELY), other, rng.choice(ACTIONS))


def _give(rng: random.Random) -> Give:
    subject, receiver = _two(rng, list(PERSONS))
    return Give(subject, rng.choice(GIVINGS), _verb_and_thing(rng)[1], receiver, _time(rng))


def _compare(rng: random.Random) -> Compare:
    noun, other = _two(rng, NOUNS)
    return Compare(noun, rng.choice(COLOURS), rng.choice(QUALITIES), other, rng.choice(COLOURS))


def _exist(rng: random.Random) -> Exist:
    noun, other = _two(rng, NOUNS)
    things = [Thing(word, rng.choice(ADJECTIVES), rng.choice(COUNTS[3:])) for word in (noun, other)]
    return Exist(rng.choice(PLACES), *things)


def _opinion(rng: random.Random) -> Opinion:
    return Opinion(
        rng.choice(list(PERSONS)),
        rng.choice(OPINIONS),
        rng.choice(NOUNS),
        rng.choice(COLOURS),
        rng.choice(QUALITIES),
    )


def _weather(rng: random.Random) -> Weather:
    subject, companion = _two(rng, list(PERSONS))
    return Weather(rng.choice(WEATHERS), rng.choice(LATELY), subject, rng.choice(GATHERINGS), companion)


def _wish(rng: random.Random) -> Wish:
    verb, thing = _verb_and_thing(rng, INTENDED)
    return Wish(rng.choice(list(PERSONS)), rng.choice(MODALS), verb, thing, _place(rng, verb), _time(rng, "future"))


KINDS: dict[Callable[[random.Random], Sentence], int] = {  # how often each kind is drawn, relative to the others
    _act: 8,
    _meet: 3,
    _meal: 2,
    _trip: 3,
    _because: 2,
    _both: 3,
    _arrival: 2,
    _give: 3,
    _compare: 2,
    _exist: 2,
    _opinion: 2,
    _weather: 2,
    _wish: 3,
}


@lru_cache
def sentences() -> tuple[Sentence, ...]:
    """The meaning of every id: `HELDOUT_IDS`, then `TRAIN_IDS`; no two are equal."""
    rng = random.Random(SEED)
    found: dict[Sentence, None] = {}
    kinds, weights = list(KINDS), list(KINDS.values())
    while len(found) < TRAIN_IDS.stop:
        (kind,) = rng.choices(kinds, weights)
        found.setdefault(kind(rng))
    return tuple(found)


def text(identifier: int, code: str) -> str:
    """The sentence with this id in one language."""
    return language(code).linearise(sentences()[identifier])


# --- noise --------------------------------------------------------------------------------------------------------

NOISES = ("untranslated", "wrong_language", "swapped", "duplicate", "length", "markup", "misaligned", "near_duplicate")
REPEATS = ("duplicate", "near_duplicate")  # noises that repeat a clean row before them
NEAR = 0.8  # Jaccard similarity of each side of a near duplicate to the same side of what it repeats, at the least
LENGTH_SLACK = 0.1  # of a misaligned target beside the true one, in either direction
_MARKUP = (
    '<a href="https://example.org/page?id={}&amp;ref=home">',
    "</a>",
    "<b>",
    "</b>",
    "&nbsp;&nbsp;",
    "{{{}}}",
    "%s",
    "<br/>",
    '<span class="c{}">',
    "</span>",
    "&lt;&gt;",
    "%({}$d)",
)


class Row(NamedTuple):
    """One row of bitext, with the noise it carries: one of `NOISES`, or "clean"."""

    src: str
    tgt: str
    label: str


def _with_markup(segment: str, rng: random.Random) -> str:
    """Tags and placeholders around the segment and within it, at least as many characters as the segment has."""
    target, pieces, added = len(segment), [segment], 0
    while added < target:
        piece = rng.choice(_MARKUP).format(rng.randrange(100))
        pieces.insert(rng.randrange(len(pieces) + 1), piece)
        added += len(piece)
    return "".join(pieces)


def _with_wrong_length(segment: str, more: Sequence[str], rng: random.Random) -> str:
    """Two or three characters are left, or the sentences `more` are appended."""
    return segment[: rng.choice((2, 3))] if rng.random() < 0.5 else " ".join((segment, *more))


def similarity(a: str, b: str, code: str) -> float:
    """Jaccard similarity in [0, 1] of the shingles of two texts of one language, the lower for two ways to count them.

    Shingles are of 5 characters, of 3 in a script without spaces; of all of the text in small letters, and of its
    letters and digits only.
    """
    size = 3 if code == "zho_Hans" else 5
    found = []
    for texts in ((a.lower(), b.lower()), (_letters(a), _letters(b))):
        first, second = ({one[at : at + size] for at in range(max(1, len(one) - size + 1))} for one in texts)
        found.append(len(first & second) / len(first | second))
    return min(found)


def _letters(text: str) -> str:
    return "".join(character for character in text.lower() if unicodedata.category(character)[0] in "LMN")


def _with_typo(segment: str, code: str, rng: random.Random) -> str:
    """One letter is doubled or lost, where that keeps the segment NEAR; else the segment as it is."""
    places = [at for at, character in enumerate(segment) if character.isalpha()]
    for at in rng.sample(places, len(places)):
        edited = segment[:at] + segment[at] * rng.choice((0, 2)) + segment[at + 1 :]
        if _letters(edited) != _letters(segment) and similarity(segment, edited, code) >= NEAR:
            return edited
    return segment


def _nearly(src: str, tgt: str, src_code: str, tgt_code: str, rng: random.Random) -> Row:
    """A typo in one side or in both, as far as they are long enough for one."""
    sides = rng.choice(("src", "tgt", "both"))
    edited = _with_typo(src, src_code, rng), _with_typo(tgt, tgt_code, rng)
    assert edited != (src, tgt), "one side of each pair is long enough"
    keep_src = sides == "tgt" and edited[1] != tgt
    keep_tgt = sides == "src" and edited[0] != src
    return Row(src if keep_src else edited[0], tgt if keep_tgt else edited[1], "near_duplicate")


def _elsewhere(identifier: int, identifiers: Sequence[int], code: str, rng: random.Random) -> str:
    """The sentence of another id that is as long, to LENGTH_SLACK; the most alike in length of 200 where none is."""
    length, closest = len(text(identifier, code)), ""
    for _ in range(200):
        other = rng.choice(identifiers)
        found = text(other, code)
        if other != identifier and (not closest or abs(len(found) - length) < abs(len(closest) - length)):
            closest = found
        if closest and abs(len(closest) - length) <= LENGTH_SLACK * length:
            break
    return closest


def _noisy(
    identifier: int, label: str, src_code: str, tgt_code: str, identifiers: Sequence[int], rng: random.Random
) -> Row:
    src, tgt = text(identifier, src_code), text(identifier, tgt_code)
    if label == "untranslated":
        return Row(src, src, label)
    if label == "swapped":
        return Row(tgt, src, label)
    if label == "misaligned":
        return Row(src, _elsewhere(identifier, identifiers, tgt_code, rng), label)
    if label == "near_duplicate":
        return _nearly(src, tgt, src_code, tgt_code, rng)
    side = rng.randrange(2)
    if label == "wrong_language":
        third = rng.choice([code for code in LANGUAGES if code not in (src_code, tgt_code)])
        other = text(identifier, third)
        return Row(src, other, label) if side else Row(other, tgt, label)
    if label == "length":
        more = [text(i, tgt_code if side else src_code) for i in rng.sample(TRAIN_IDS, 4)]
        changed = _with_wrong_length(tgt if side else src, more, rng)
        return Row(src, changed, label) if side else Row(changed, tgt, label)
    if label == "markup":
        sides = rng.choice(("src", "tgt", "both"))
        return Row(
            src if sides == "tgt" else _with_markup(src, rng),
            tgt if sides == "src" else _with_markup(tgt, rng),
            label,
        )
    return Row(src, tgt, label)


def bitext(
    src_code: str, tgt_code: str, identifiers: Sequence[int], counts: dict[str, int], seed: int
) -> Iterator[Row]:
    """One row for each id, in an order that `seed` shuffles; `counts` rows carry each noise and the rest are clean.

    A "duplicate" repeats a clean row that comes before it, so keeping first occurrences removes the labelled one; a
    "near_duplicate" does so with a typo. No two repeat the same row.
    """
    rng = random.Random(f"{src_code}-{tgt_code}-{seed}")
    order = list(identifiers)
    rng.shuffle(order)
    labels = [label for label, count in counts.items() for _ in range(count)]
    labels += ["clean"] * (len(order) - len(labels))
    rng.shuffle(labels)
    clean = [at for at, label in enumerate(labels) if label == "clean"]
    repeats = [at for kind in REPEATS for at, label in enumerate(labels) if label == kind]
    for at, copied in zip(repeats, rng.sample(clean, len(repeats)), strict=True):
        order[at] = order[copied]
        labels[max(at, copied)], labels[min(at, copied)] = labels[at], "clean"
    for identifier, label in zip(order, labels, strict=True):
        yield _noisy(identifier, label, src_code, tgt_code, identifiers, rng)


# --- instructions -------------------------------------------------------------------------------------------------


class Exercise(NamedTuple):
    """An instruction with its input and its right output, in one language; `id` means the same in every language."""

    id: int
    task: str
    instruction: str
    input: str
    output: str


class _Abstract(NamedTuple):
    """`written` is the question in "answer", the sentence made from `given` in "negate" and "retime"."""

    task: str
    given: Sentence
    asked: Mode | Literal[""]
    written: Sentence | None
    shown: tuple[Sentence, ...]  # `given`, for a question with another sentence before or after it


def _exercise(rng: random.Random) -> _Abstract:
    task = rng.choice(("answer", "answer", "answer", "negate", "retime", "count"))
    if task == "answer":
        act, other = _statement(rng), rng.choice((_opinion, _exist, _compare, _weather))(rng)
        asked = rng.choice(QUESTIONS)
        shown = (act, other) if rng.random() < 0.5 else (other, act)
        return _Abstract(task, act, asked, ask(act, asked), shown)
    if task == "negate":
        meet = replace(_meet(rng), positive=True)
        return _Abstract(task, meet, "", replace(meet, positive=False), (meet,))
    if task == "retime":
        act = _statement(rng, INTENDED)
        time = rng.choice([time for time, tense in TIMES.items() if tense != act.tense])
        return _Abstract(task, act, "", replace(act, time=time), (act,))
    exist = _exist(rng)
    return _Abstract(task, exist, "", None, (exist,))


@lru_cache
def _exercises() -> tuple[_Abstract, ...]:
    rng = random.Random(f"instructions-{SEED}")
    heldout = {sentences()[identifier] for identifier in HELDOUT_IDS}
    found: dict[_Abstract, None] = {}
    while len(found) < INSTRUCTION_COUNT:
        exercise = _exercise(rng)
        if heldout.isdisjoint((*exercise.shown, exercise.written)):
            found.setdefault(exercise)
    return tuple(found)


def exercises(code: str) -> Iterator[Exercise]:
    """All exercises in one language. No held-out sentence is read, asked or written in any of them."""
    grammar = language(code)
    space = "" if code == "zho_Hans" else " "
    for identifier, (task, given, asked, written, shown) in enumerate(_exercises()):
        instruction, text_shown = grammar.TASKS[task], space.join(grammar.linearise(sentence) for sentence in shown)
        match task, given, written:
            case "answer", Act(), Act():
                assert asked
                text_shown, output = f"{text_shown}\n{grammar.linearise(written)}", grammar.answer(given, asked)
            case "count", Exist(), None:
                output = str(given.thing.count + given.other.count)
            case "retime", Act(), Act():
                instruction = instruction.format(time=grammar.time_phrase(written.time))
                output = grammar.linearise(written)
            case _:
                assert written is not None
                output = grammar.linearise(written)
        yield Exercise(identifier, task, instruction, text_shown, output)
