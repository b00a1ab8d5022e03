"""What people and servers write (`de`, `zh-Hant`, `swh`) to our codes (`deu_Latn`, as in FLORES), and back."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import langcodes
from langcodes.data_dicts import LANGUAGE_ALPHA3_BIBLIOGRAPHIC
from langcodes.tag_parser import LanguageTagError

from pipelines.errors import UserError
from pipelines.likely_scripts import SCRIPT_OF

# ISO 639-3 macrolanguage -> the member that FLORES (and so we) mean by it.
MEMBER = {
    "ara": "arb", "aym": "ayr", "aze": "azj", "din": "dik", "fas": "pes", "ful": "fuv", "kau": "knc", "kur": "kmr",
    "lav": "lvs", "mlg": "plt", "mon": "khk", "msa": "zsm", "nep": "npi", "nor": "nob", "ori": "ory", "orm": "gaz",
    "pus": "pbt", "que": "quy", "sqi": "als", "swa": "swh", "uzb": "uzn", "yid": "ydd", "cmn": "zho", "fil": "tgl",
    "mol": "ron",
}  # fmt: skip
MACRO = {member: macro for macro, member in MEMBER.items() if macro not in ("cmn", "fil", "mol")}

# ISO 639-2's bibliographic codes -> those of ISO 639-3.
BIBLIOGRAPHIC = {
    written: langcodes.Language.get(short).to_alpha3() for short, written in LANGUAGE_ALPHA3_BIBLIOGRAPHIC.items()
}

# Scripts that CLDR's likely subtags do not give as FLORES has them, or as corpora do: Old Norse is printed in Latin
# letters, Classical Chinese in traditional ones.
SCRIPT = {
    "zho": "Hans", "kor": "Hang", "kmr": "Latn", "ckb": "Arab", "khk": "Cyrl", "uig": "Arab", "kas": "Arab",
    "knc": "Latn", "acm": "Arab", "acq": "Arab", "ajp": "Arab", "azb": "Arab", "crh": "Latn", "tzm": "Tfng",
    "mey": "Arab", "non": "Latn", "lzh": "Hant",
}  # fmt: skip

# Ancient languages whose corpora are in their own script or in another one: which, the recipe must say.
SEVERAL_SCRIPTS = {
    "akk": ("Xsux", "Latn"), "sux": ("Xsux", "Latn"), "hit": ("Xsux", "Latn"), "peo": ("Xpeo", "Latn"),
    "ave": ("Avst", "Latn"), "egy": ("Egyp", "Latn"), "uga": ("Ugar", "Latn"), "arc": ("Syrc", "Hebr", "Armi"),
}  # fmt: skip

# Scripts whose words do not stand apart. Tibetan parts syllables, by a mark that is no space.
SPACELESS = frozenset({"Hani", "Hans", "Hant", "Hrkt", "Jpan", "Khmr", "Laoo", "Mymr", "Thai", "Tibt"})

# One of our codes may be several of a server's or of a data set's; the first is the usual one.
CODES = {
    "zho_Hans": ("zh", "zh_CN", "zh_cn"), "zho_Hant": ("zh_TW", "zh_tw", "zh_Hant"), "yue_Hant": ("yue",),
    "por_Latn": ("pt", "pt_BR", "pt_br"), "spa_Latn": ("es", "es_MX"), "fra_Latn": ("fr", "fr_CA"),
    "nob_Latn": ("nb", "no"), "tgl_Latn": ("tl", "fil"), "kmr_Latn": ("kmr", "ku"),
    "tir_Ethi": ("ti", "ti_ER", "ti_ET"), "srp_Cyrl": ("sr",), "srp_Latn": ("sr_Latn", "sr_latn"),
    "eng_Latn": ("en", "en_GB"), "fuv_Latn": ("ff", "fuv"), "prs_Arab": ("prs",), "hbs_Latn": ("sh", "hbs"),
    "hbs_Cyrl": ("sh", "hbs"), "azb_Arab": ("azb",), "pan_Arab": ("pnb", "pa"), "pnb_Arab": ("pnb",),
}  # fmt: skip

# Codes of OPUS whose packages hold several of our languages, which differ in their script: each is read for all of
# them, beside the codes of its own (as OpenSubtitles has Serbian in both scripts under `sr`).
SHARED = {
    "sr": ("srp_Cyrl", "srp_Latn", "hbs_Latn", "hbs_Cyrl"), "sh": ("hbs_Latn", "hbs_Cyrl", "srp_Latn", "srp_Cyrl"),
    "bs": ("bos_Latn", "bos_Cyrl"), "zh": ("zho_Hans", "zho_Hant"), "mo": ("ron_Latn", "ron_Cyrl"),
    "pa": ("pan_Guru", "pan_Arab", "pnb_Arab"), "ku": ("kmr_Latn", "kmr_Arab", "ckb_Arab"),
    "az": ("azj_Latn", "azj_Cyrl", "azb_Arab", "azj_Arab"), "uz": ("uzn_Latn", "uzn_Cyrl", "uzn_Arab"),
    "kk": ("kaz_Cyrl", "kaz_Latn", "kaz_Arab"), "tt": ("tat_Cyrl", "tat_Latn"), "tk": ("tuk_Latn", "tuk_Cyrl"),
    "crh": ("crh_Latn", "crh_Cyrl"), "ks": ("kas_Arab", "kas_Deva"),
}  # fmt: skip

# Labels of identifiers that are wider or older than our code: fastText lid.176 and HeLI (heliport). The two-letter ones
# of Croatian, Serbian and Bosnian, and of Indonesian and Malay, are lid.176's, which guesses among them (NTREX-128:
# .72 of Malay is `id`). Northern Sotho is not to go by `sot`, though NTREX-128's nso does: that file is Southern Sotho.
LABELS = {
    "hrv": ("hbs", "sh", "hr", "bs", "sr"), "srp": ("hbs", "sh", "hr", "bs", "sr"),
    "bos": ("hbs", "sh", "hr", "bs", "sr"), "ind": ("msa", "id", "ms"), "zsm": ("msa", "id", "ms"),
    "zho": ("cmn", "zh"), "pes": ("pes", "fa"), "prs": ("pes", "fa", "prs"), "nob": ("nob", "nor", "no"),
    "tgl": ("tgl", "fil", "tl"), "yue": ("yue", "zh", "cmn"), "kmr": ("kmr", "ku"), "est": ("ekk", "et"),
    "hbs": ("hbs", "sh", "hr", "bs", "sr"), "cnr": ("hbs", "sh", "hr", "bs", "sr"), "pan": ("pan", "pa", "pnb"),
    "als": ("als", "sqi", "sq"), "lvs": ("lvs", "lav", "lv"), "azj_Arab": ("azb",),
    **dict.fromkeys(("acm", "acq", "aeb", "ajp", "apc", "ars", "ary", "arz", "mey"), ("ara", "ar")),  # spoken Arabic
}  # fmt: skip


@cache
def parse(code: str) -> str:
    """Our code of the language that `code` names: `en`, `deu`, `zh-Hant`, `pt_BR`, `swh`, `eng_Latn`.

    A macrolanguage becomes the member FLORES has (`sw` -> `swh_Latn`, `no` -> `nob_Latn`); a region is dropped, but
    decides the script (`zh_TW` -> `zho_Hant`). UserError where the language is not known, or is written in several
    scripts of which none is the usual one.
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
        tag, known, alpha3 = langcodes.Language.make(), False, ""
    if not known or not alpha3.isalpha() or alpha3 in ("und", "mul", "zxx", "mis") or "qaa" <= alpha3 <= "qtz":
        raise UserError(
            f"language '{code}': not a known language. Allowed: ISO 639 or BCP 47 codes such as en, deu, zh-Hant, "
            f"swh, eng_Latn. Look the code up in ISO 639-3."
        )
    alpha3 = MEMBER.get(alpha3, alpha3)
    script = tag.script
    if not script and tag.territory:
        script = {"Kore": "Hang"}.get(found := tag.maximize().script or "", found)
    script = script or usual_script(alpha3)
    if not script:
        known = " or ".join(f"{code.strip()}-{one}" for one in SEVERAL_SCRIPTS[alpha3])
        raise UserError(
            f"language '{code}': found {tag.display_name()}, which is written in several scripts. Allowed: the code "
            f"with its script. Write {known}, as your data are."
        )
    return f"{alpha3}_{script}"


@cache
def usual_script(three: str) -> str:
    """The script that a language is meant to be in where none is named; empty where there are several."""
    if three in SEVERAL_SCRIPTS:
        return ""
    found = SCRIPT.get(three) or SCRIPT_OF.get(three)
    found = found or langcodes.Language.get(MACRO.get(three, three)).maximize().script
    return found or langcodes.Language.get(three).maximize().script or "Latn"


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
    three = MACRO.get(iso(code), iso(code))
    short = langcodes.Language.get(three).language or three
    # langcodes puts `fa` for Dari, `sr` for Montenegrin and Serbo-Croatian: languages of their own.
    merged = langcodes.Language.get(short).to_alpha3() != three
    return {"tgl": "tl", "zho": "zh", "hbs": "sh"}.get(three, iso(code) if merged else short)


@cache
def name(code: str, among: tuple[str, ...] = ()) -> str:
    """The English name: `German`, `Chinese (Traditional)`; with the script where that is not the usual one.

    among: languages of which it must be told; where one is the same in another script, both have theirs (`Serbian
    (Cyrillic)`, `Serbian (Latin)`).
    """
    return _name(code, "en", among)


@cache
def name_in(code: str, language: str, among: tuple[str, ...] = ()) -> str:
    """`name` in another of our languages; in English where CLDR has no name of it there."""
    prompt = alpha2(language)
    base = _language(code).display_name(prompt)
    unknown = langcodes.Language.get("qaa").display_name(prompt).partition("[")[0].strip()
    if base in (alpha2(code), iso(code), MACRO.get(iso(code))) or base.startswith(("Unknown", unknown)):
        return name(code, among)
    return _name(code, prompt, among)


@cache
def autonym(code: str) -> str:
    """The language's own name in its script: `Deutsch`; the English one where CLDR has none in that script."""
    if code in AUTONYMS:
        return AUTONYMS[code]
    own = _language(code)
    if script(code) == usual_script(iso(code)):
        return own.autonym()
    own = own.update_dict({"script": script(code)})
    return name(code) if own.autonym() == own.display_name() else re.split(r" \(|（", own.autonym())[0]


SCRIPT_NAMES = {"pan_Arab": "Shahmukhi", "zsm_Arab": "Jawi"}
"""What English calls a script of one language, where CLDR says `Arabic`."""


AUTONYMS = {
    "prs_Arab": "دری", "zsm_Arab": "بهاس ملايو", "tzm_Tfng": "ⵜⴰⵎⴰⵣⵉⵖⵜ", "div_Thaa": "ދިވެހި", "pnb_Arab": "پنجابی",
}  # fmt: skip
"""Those that CLDR has not, or in another script."""


def _language(code: str) -> langcodes.Language:
    short = alpha2(code)
    return langcodes.Language.get({"tl": "fil"}.get(short, short), normalize=False)


def _name(code: str, prompt: str, among: tuple[str, ...]) -> str:
    label = _language(code).display_name(prompt).partition(" (")[0]
    several = any(iso(other) == iso(code) and other != code for other in among)
    if script(code) == usual_script(iso(code)) and not several:
        return label
    if prompt == "en" and code in SCRIPT_NAMES:
        return f"{label} ({SCRIPT_NAMES[code]})"
    written = _language(code).update_dict({"script": script(code)}).display_name(prompt)
    if written != label:
        return written
    return f"{label} ({langcodes.Language.make(script=script(code)).script_name(prompt)})"


@cache
def dedicated_codes(code: str) -> tuple[str, ...]:
    """Codes by which a server or a data set may call the language and no other, the usual one first."""
    return CODES.get(code, (alpha2(code),))


@cache
def opus_codes(code: str) -> tuple[str, ...]:
    """Codes under which an OPUS server may have the language: its own, then those SHARED with other scripts."""
    own = dedicated_codes(code)
    if code not in CODES and script(code) != usual_script(iso(code)):
        own = (f"{alpha2(code)}_{script(code)}", *own)
    return tuple(dict.fromkeys([*own, *(shared for shared, languages in SHARED.items() if code in languages)]))


@cache
def in_other_scripts(code: str, opus_code: str) -> tuple[str, ...]:
    """The languages in other scripts that packages under `opus_code` may hold beside `code`."""
    found = SHARED.get(opus_code, ())
    if opus_code == alpha2(code):
        found = (*found, f"{iso(code)}_{usual_script(iso(code))}")
    return tuple(dict.fromkeys(other for other in found if script(other) not in ("", script(code))))


@cache
def identifier_labels(code: str) -> frozenset[str]:
    """Every label by which fastText's lid.176, GlotLID or heliport may name the language, in whatever script."""
    three = iso(code)
    own = {code, three, alpha2(code)}
    return frozenset(own | {MACRO.get(three, three)} | {*LABELS.get(three, ()), *LABELS.get(code, ())})


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
