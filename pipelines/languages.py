"""What people and servers write (`de`, `zh-Hant`, `swh`) to our codes (`deu_Latn`, as in FLORES), and back."""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import langcodes
from langcodes.data_dicts import LANGUAGE_ALPHA3_BIBLIOGRAPHIC
from langcodes.tag_parser import LanguageTagError

from pipelines.errors import UserError

# ISO 639-3 macrolanguage -> the member that FLORES (and so we) mean by it.
MEMBER = {
    "ara": "arb", "aym": "ayr", "aze": "azj", "din": "dik", "fas": "pes", "ful": "fuv", "kau": "knc", "kur": "kmr",
    "lav": "lvs", "mlg": "plt", "mon": "khk", "msa": "zsm", "nep": "npi", "nor": "nob", "ori": "ory", "orm": "gaz",
    "pus": "pbt", "que": "quy", "sqi": "als", "swa": "swh", "uzb": "uzn", "yid": "ydd", "cmn": "zho", "fil": "tgl",
}  # fmt: skip
MACRO = {member: macro for macro, member in MEMBER.items() if macro not in ("cmn", "fil")}

# ISO 639-2's bibliographic codes -> those of ISO 639-3.
BIBLIOGRAPHIC = {
    written: langcodes.Language.get(short).to_alpha3() for short, written in LANGUAGE_ALPHA3_BIBLIOGRAPHIC.items()
}

# Scripts that CLDR's likely subtags, which langcodes uses, do not give as FLORES has them.
SCRIPT = {
    "zho": "Hans", "kor": "Hang", "kmr": "Latn", "ckb": "Arab", "khk": "Cyrl", "uig": "Arab", "kas": "Arab",
    "knc": "Latn", "acm": "Arab", "acq": "Arab", "ajp": "Arab", "azb": "Arab", "crh": "Latn", "tzm": "Tfng",
    "mey": "Arab",
}  # fmt: skip

# Scripts whose words do not stand apart. Tibetan parts syllables, by a mark that is no space.
SPACELESS = frozenset({"Hani", "Hans", "Hant", "Hrkt", "Jpan", "Khmr", "Laoo", "Mymr", "Thai", "Tibt"})

# One of our codes may be several of a server's; the first is the usual one.
OPUS = {
    "zho_Hans": ("zh", "zh_CN", "zh_cn"), "zho_Hant": ("zh_TW", "zh_tw", "zh_Hant"), "yue_Hant": ("yue",),
    "por_Latn": ("pt", "pt_BR", "pt_br"), "spa_Latn": ("es", "es_MX"), "fra_Latn": ("fr", "fr_CA"),
    "nob_Latn": ("nb", "no"), "tgl_Latn": ("tl", "fil"), "kmr_Latn": ("kmr", "ku"),
    "tir_Ethi": ("ti", "ti_ER", "ti_ET"), "srp_Cyrl": ("sr",), "srp_Latn": ("sr_Latn", "sr_latn"),
    "eng_Latn": ("en", "en_GB"), "fuv_Latn": ("ff", "fuv"), "prs_Arab": ("prs",),
}  # fmt: skip

# Labels of identifiers that are wider or older than our code: fastText lid.176 and HeLI (heliport). The two-letter ones
# of Croatian, Serbian and Bosnian, and of Indonesian and Malay, are lid.176's, which guesses among them (NTREX-128:
# .72 of Malay is `id`). Northern Sotho is not to go by `sot`, though NTREX-128's nso does: that file is Southern Sotho.
LABELS = {
    "hrv": ("hbs", "sh", "hr", "bs", "sr"), "srp": ("hbs", "sh", "hr", "bs", "sr"),
    "bos": ("hbs", "sh", "hr", "bs", "sr"), "ind": ("msa", "id", "ms"), "zsm": ("msa", "id", "ms"),
    "zho": ("cmn", "zh"), "pes": ("pes", "fa"), "prs": ("pes", "fa", "prs"), "nob": ("nob", "nor", "no"),
    "tgl": ("tgl", "fil", "tl"), "yue": ("yue", "zh", "cmn"), "kmr": ("kmr", "ku"), "est": ("ekk", "et"),
    "als": ("als", "sqi", "sq"), "lvs": ("lvs", "lav", "lv"),
    **dict.fromkeys(("acm", "acq", "aeb", "ajp", "apc", "ars", "ary", "arz", "mey"), ("ara", "ar")),  # spoken Arabic
}  # fmt: skip


@cache
def parse(code: str) -> str:
    """Our code of the language that `code` names: `en`, `deu`, `zh-Hant`, `pt_BR`, `swh`, `eng_Latn`.

    A macrolanguage becomes the member FLORES has (`sw` -> `swh_Latn`, `no` -> `nob_Latn`); a region is dropped, but
    decides the script (`zh_TW` -> `zho_Hant`). ValueError where the language is not known.
    """
    if not isinstance(code, str):
        raise UserError(f"language {code!r}: found {type(code).__name__}. Allowed: a text such as 'en'. Quote it.")
    try:
        written = code.strip().replace("_", "-")
        tag = langcodes.Language.get(written, normalize=False)
        known = bool(tag.language) and langcodes.Language.get(written).is_valid()  # normalised: eng-Latn is en-Latn
        alpha3 = tag.to_alpha3() if known else ""
        if alpha3 == tag.language:  # three letters were given: `ger` is what ISO 639-2 also calls `deu`
            alpha3 = BIBLIOGRAPHIC.get(alpha3, alpha3)
    except (LanguageTagError, LookupError, ValueError):
        known, alpha3 = False, ""
    if not known or not alpha3.isalpha() or alpha3 in ("und", "mul", "zxx", "mis") or "qaa" <= alpha3 <= "qtz":
        raise UserError(
            f"language '{code}': not a known language. Allowed: ISO 639 or BCP 47 codes such as en, deu, zh-Hant, "
            f"swh, eng_Latn. Look the code up in ISO 639-3."
        )
    alpha3 = MEMBER.get(alpha3, alpha3)
    script = tag.script
    if not script and tag.territory:
        script = {"Kore": "Hang"}.get(found := tag.maximize().script or "", found)
    if not script:
        script = SCRIPT.get(alpha3) or langcodes.Language.get(MACRO.get(alpha3, alpha3)).maximize().script
    if not script:
        script = langcodes.Language.get(alpha3).maximize().script or "Latn"
    return f"{alpha3}_{script}"


def iso(code: str) -> str:
    """`deu_Latn` -> `deu`, ISO 639-3."""
    return code.partition("_")[0]


def script(code: str) -> str:
    """`deu_Latn` -> `Latn`, ISO 15924."""
    return code.partition("_")[2]


def spaceless(code: str) -> bool:
    """Whether the language is written without spaces between words, so that a run of letters is no word."""
    return script(code) in SPACELESS


@cache
def alpha2(code: str) -> str:
    """`deu_Latn` -> `de`: ISO 639-1 of the language or its macrolanguage, else ISO 639-3."""
    three = iso(code)
    short = langcodes.Language.get(MACRO.get(three, three)).language or three
    return {"tl": "tl", "fil": "tl", "cmn": "zh"}.get(short, short)


@cache
def name(code: str) -> str:
    """The English name, with the script where a language of ours has two: `German`, `Chinese (Traditional)`."""
    label = langcodes.Language.get(alpha2(code)).display_name()
    return {"zho_Hans": "Chinese", "zho_Hant": "Chinese (Traditional)"}.get(code, label)


@cache
def autonym(code: str) -> str:
    """The language's own name: `Deutsch`."""
    return langcodes.Language.get(alpha2(code)).autonym()


@cache
def opus_codes(code: str) -> tuple[str, ...]:
    """Codes under which an OPUS server may hold the language, the usual one first."""
    return OPUS.get(code, (alpha2(code),))


@cache
def identifier_labels(code: str) -> frozenset[str]:
    """Every label by which fastText's lid.176, GlotLID or heliport may name the language."""
    three = iso(code)
    own = {code, three, alpha2(code)}
    return frozenset(own | {MACRO.get(three, three)} | set(LABELS.get(three, ())))


class Pair(NamedTuple):
    """Two of our codes in sorted order; prints as `deu_Latn-eng_Latn` in partition keys, folders and metrics."""

    src: str
    tgt: str

    def __str__(self) -> str:
        return f"{self.src}-{self.tgt}"

    @property
    def languages(self) -> tuple[str, str]:
        return (self.src, self.tgt)

    @classmethod
    def parse(cls, spec: Any) -> "Pair":
        """`en-sw`, `eng_Latn-swh_Latn` or `[en, zh-Hant]`, in any order; ValueError where it is not two languages."""
        if isinstance(spec, Pair):
            return spec
        parts = _split(spec) if isinstance(spec, str) else spec
        if not isinstance(parts, list | tuple) or len(parts) != 2:
            raise UserError(
                f"pair {spec!r}: found {len(parts) if isinstance(parts, list | tuple) else 1} languages. Allowed: two, "
                f"as 'en-sw' or [en, zh-Hant]. Write a code that holds a hyphen in the list form."
            )
        src, tgt = sorted(parse(part) for part in parts)
        if src == tgt:
            raise UserError(f"pair {spec!r}: both sides are {src}. Allowed: two different languages. Change one side.")
        return cls(src, tgt)


def pivot(pairs: Sequence[Pair]) -> str:
    """The language in most of the pairs; English where several are, else the last in the alphabet."""
    counts = Counter(code for pair in pairs for code in pair)
    return max(counts, key=lambda code: (counts[code], code == "eng_Latn", code))


def _split(text: str) -> list[str]:
    """The two codes of `text`. `zh-Hant-en` is read as `zh-Hant` and `en`: the only split with two known codes."""
    parts = text.split("-")
    if len(parts) <= 2:
        return parts
    splits = []
    for cut in range(1, len(parts)):
        halves = ["-".join(parts[:cut]), "-".join(parts[cut:])]
        try:
            [parse(half) for half in halves]
        except ValueError:
            continue
        splits.append(halves)
    return splits[0] if len(splits) == 1 else parts
