"""What sources on data sets of the Hugging Face hub share: a hub id or a local path -> Arrow tables of a pinned state.

Format: https://huggingface.co/docs/datasets. Code of a data set is never run: `datasets` no longer does, and here
nothing asks it to.
"""

import fnmatch
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import pyarrow as pa
from pydantic import AfterValidator, Field, TypeAdapter, field_validator, model_validator

from pipelines.errors import UserError
from pipelines.fetching import lock
from pipelines.fetching.paths import content_hash, expand
from pipelines.files import is_relative
from pipelines.languages import Pair, alpha2, dedicated_codes, iso, parse, script, usual_script
from pipelines.registry import Strict
from pipelines.text.text_files import PACKED, file_lines, objects, reading, streams

ROWS = 20_000  # per table; decides the bytes of the shards
LOCK = "hub"  # the section of the lock file: sources that name the same data set share its state
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
READERS = {"parquet": "parquet", "json": "json", "jsonl": "json", "csv": "csv", "tsv": "csv", "arrow": "arrow"}
SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` leaves in a folder


def _relative(name: str) -> str:
    if name and not is_relative(name):
        raise UserError(f"names {name!r}, which is no path within a data set")
    return name


class State(Strict):
    """An entry of the lock file."""

    revision: str = Field(pattern=r"^[\w.-]+$")
    licence: str
    chosen: dict[str, list[Annotated[str, AfterValidator(_relative)]] | None]
    """The configuration or the files that were found for each pair of codes."""


STATE = TypeAdapter(State)


class HubData(Strict):
    """A data set and what of it: settings of the sources that read one."""

    libraries: ClassVar[tuple[str, ...]] = ("datasets", "pyarrow")

    path: str = Field(min_length=1)
    """A hub id such as `Helsinki-NLP/opus-100`, or a local file, folder or glob; a folder of `save_to_disk` too."""
    config: str = ""
    """The data set's configuration. `{src}` and `{tgt}`, or `{lang}`, stand for the codes that the data set uses."""
    data_files: str = ""
    """Files below `path` rather than a configuration: parquet, json, jsonl, csv, tsv or arrow; placeholders, globs."""
    split: str = "train"
    revision: str = ""
    """A commit, branch or tag of the hub. Without one, the latest when first asked for, until a refresh."""
    streaming: bool = False
    """Read a configuration from the hub without keeping a copy; nothing is then there for work offline."""
    corpus: str = Field("", pattern=r"^([A-Za-z0-9][\w.+-]*)?$")
    """The name under which the rows are counted; by default the last part of `path`."""
    licence: str = "not stated"
    """Where the data set's card names none. Best as SPDX has it: CC-BY-4.0."""
    cite: str = ""
    """Who made the data and where they are described."""
    languages: dict[str, str] = {}
    """{what the data say: the language} where that is no code of ISO 639 or BCP 47, such as {gr: el}."""

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: dict[str, str]) -> dict[str, str]:
        return {code: parse(lang) for code, lang in languages.items()}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.local and not HUB_ID.fullmatch(self.path):
            raise UserError(
                f"path: found '{self.path}', which is no file or folder here. Allowed: a local path, or a hub id such "
                f"as 'Helsinki-NLP/opus-100'. Correct it."
            )
        if self.config and self.data_files:
            raise UserError("found both config and data_files. Allowed: one of them. Remove the other.")
        return self

    @property
    def local(self) -> bool:
        """Whether the data lie on this machine; a folder here goes before a hub id of the same name."""
        return os.path.exists(self._here) or any(mark in self.path for mark in "*?[")

    @property
    def named(self) -> str:
        last = re.sub(r"[^\w.+-]+", "-", Path(self.path.rstrip("/")).name).lstrip("-._")
        return self.corpus or last.partition(".")[0] or "hub"

    def corpus_version(self, home: Path) -> str:
        return f"{self.named}/{'local' if self.local else self.state(home)['revision'][:12]}"

    def state(self, home: Path) -> dict[str, Any]:
        """{revision, licence, chosen} of a hub's data set as the lock file has it; asked of the hub the first time."""
        key = f"{self.path} {self.revision}".strip()
        if not (held := lock.read(home, LOCK, STATE).get(key)):
            with lock.editing(home, LOCK, STATE) as entries:
                held = entries[key] = entries.get(key) or self._asked()
        return held

    def moved(self, home: Path) -> bool:
        """Move the lock to what the hub has now, unless the recipe names a revision; whether that changed anything."""
        if self.local or self.revision:
            return False
        with lock.editing(home, LOCK, STATE) as entries:
            new = self._asked()
            if entries.get(self.path, {}).get("revision") == new["revision"]:
                return False
            entries[self.path] = new
            return True

    def identity(self, home: Path, codes: dict[str, list[str]]) -> Any:
        """What identifies the data: hashes of local files; commit and what was chosen for `codes` else."""
        if self.local:
            return [[os.path.basename(path), content_hash(path)] for path in self._local_files(codes)]
        return [self.state(home)["revision"], self.chosen(home, codes)]

    def about(self, home: Path, codes: dict[str, list[str]]) -> dict[str, Any]:
        """Version, licence, address and citation."""
        if self.local:
            stated = _card_licence(Path(self._here) / "README.md")
            files = [{"url": path, "sha256": content_hash(path)} for path in self._local_files(codes)]
            facts = {"version": "local", "licence": stated or self.licence, "url": self.path, "files": files}
        else:
            state = self.state(home)
            url = f"https://huggingface.co/datasets/{self.path}/tree/{state['revision']}"
            facts = {"version": state["revision"], "licence": state["licence"] or self.licence, "url": url}
        return {**facts, "citation": self.cite}

    def chosen(self, home: Path, codes: dict[str, list[str]]) -> list[str] | None:
        """The configuration, or the files, that `codes` mean; None where the data set has none for them.

        codes: {placeholder: what the data set may call it}. Found once, then kept in the lock file.
        """
        pattern = self.data_files or self.config
        if not any(f"{{{name}}}" in pattern for name in codes) and not self.data_files:
            return [self.config]
        if self.local:
            return self._offered(None, _filled(pattern, codes))
        label = f"{pattern} {' '.join(names[0] for names in codes.values())}"
        state = self.state(home)
        if label not in state["chosen"]:
            found = self._offered(state["revision"], _filled(pattern, codes))
            with lock.editing(home, LOCK, STATE) as entries:
                entries[f"{self.path} {self.revision}".strip()]["chosen"][label] = found
            return found
        return state["chosen"][label]

    def paths(self, home: Path, codes: dict[str, list[str]]) -> list[str]:
        """The files that `data_files` means, on this machine: those of a hub are downloaded once a commit."""
        if self.local:
            return self._local_files(codes)
        revision = self.state(home)["revision"]
        return [self._downloaded(name, revision) for name in self.chosen(home, codes) or []]

    def tables(self, home: Path, codes: dict[str, list[str]]) -> Iterator[pa.Table]:
        """The rows as Arrow tables of up to ROWS, in their order; none where the data set has none for `codes`."""
        import datasets

        datasets.disable_progress_bars()
        if self.data_files or (self.local and not os.path.isdir(self._here)):
            found = self.paths(home, codes)
            if found and all(map(_is_json_lines, found)):
                yield from _json_tables(found)
                return
            data = _packaged(found) if found else None
        else:
            data = self._configuration(home, codes)
        if data is not None:
            with _said(f"{self.path} {self.data_files}".strip()):
                yield from data.with_format("arrow").iter(ROWS)

    def _configuration(self, home: Path, codes: dict[str, list[str]]) -> Any:
        import datasets

        if self.local and any((Path(self._here) / name).exists() for name in SAVED):
            with _said(self.path):
                data = datasets.load_from_disk(self._here)
                return data[self.split] if isinstance(data, datasets.DatasetDict) else data
        names = self.chosen(home, codes)
        if names is None:
            return None
        if self.local:
            with _said(self.path):  # streamed, so that no copy of local data is made
                return datasets.load_dataset(self._here, names[0] or None, split=self.split, streaming=True)
        revision = self.state(home)["revision"]
        with _said(self.path):
            data = datasets.load_dataset(
                self.path, names[0] or None, split=self.split, revision=revision, streaming=self.streaming
            )
        # Offline, `datasets` takes the state it kept last, whichever was asked for.
        kept = [file["filename"] for file in getattr(data, "cache_files", [])]
        if kept and not any(revision in name for name in (*kept, *(data.info.download_checksums or ()))):
            raise UserError(
                f"hub, {self.path}: the hub cannot be reached, and what is kept here is another state than {revision}: "
                f"{kept[0]}. Needed: that of the lock file. Run again with a network."
            )
        return data

    def _asked(self) -> dict[str, Any]:
        """What the hub says of the data set now."""
        from huggingface_hub import HfApi

        try:
            with _said(self.path):
                info = HfApi().dataset_info(self.path, revision=self.revision or None)
        except ValueError:
            if COMMIT.fullmatch(self.revision):  # a commit stays what it is: what is cached can be used without asking
                return {"revision": self.revision, "licence": "", "chosen": {}}
            raise
        return {"revision": info.sha, "licence": _licence(info.card_data), "chosen": {}}

    def _offered(self, revision: str | None, wanted: list[str]) -> list[str] | None:
        """The first of `wanted` that the hub has: [configuration], or the files that match."""
        if self.data_files:
            from huggingface_hub import HfApi

            with _said(self.path):
                there = HfApi().list_repo_files(self.path, repo_type="dataset", revision=revision)
            return next((found for name in wanted if (found := sorted(fnmatch.filter(there, name)))), None)
        import datasets

        with _said(self.path):
            there = datasets.get_dataset_config_names(self._here, revision=revision)
        return next(([name] for name in wanted if name in there), None)

    def _downloaded(self, name: str, revision: str) -> str:
        from huggingface_hub import hf_hub_download

        with _said(self.path):
            return hf_hub_download(self.path, name, repo_type="dataset", revision=revision)

    @property
    def _here(self) -> str:
        return os.path.expanduser(self.path)

    def _local_files(self, codes: dict[str, list[str]]) -> list[str]:
        """Files of local data: those that `data_files` means for `codes`, else all."""
        if self.data_files:
            for name in _filled(self.data_files, codes):
                pattern = os.path.join(self._here, name)
                try:
                    return expand(pattern)
                except ValueError:
                    continue
            return []
        if os.path.isdir(self._here):
            found = sorted(str(file) for file in Path(self._here).rglob("*") if file.is_file())
            return [file for file in found if not os.path.basename(file).startswith((".", "cache-"))]
        return expand(self._here)


def codes_of(pair: Pair, languages: dict[str, str]) -> dict[str, list[str]]:
    """Placeholders of a pair: either side under every code that a data set may use."""
    return {"src": names_of(pair.src, languages), "tgt": names_of(pair.tgt, languages)}


def names_of(lang: str, languages: dict[str, str]) -> list[str]:
    """What a data set may call a language, the recipe's own word for it first: `zh`, `zh_CN`, `zho_Hans`, `zho`."""
    own = [code for code, meant in languages.items() if meant == lang]
    written = [f"{alpha2(lang)}{mark}{script(lang)}" for mark in "-_"]
    known = [*dedicated_codes(lang), lang, iso(lang)]
    both = [*known, *written] if script(lang) == usual_script(iso(lang)) else [*written, *known]
    return list(dict.fromkeys([*own, *both]))


def _filled(pattern: str, codes: dict[str, list[str]]) -> list[str]:
    """`pattern` with every code in its place, the two of a pair in either order."""
    rows = [dict(zip(codes, names, strict=True)) for names in itertools.product(*codes.values())]
    if len(codes) == 2:
        rows = [turned for row in rows for turned in (row, dict(zip(codes, [*row.values()][::-1], strict=True)))]
    filled = []
    for row in rows:
        name = pattern
        for key, code in row.items():
            name = name.replace(f"{{{key}}}", code)
        filled.append(name)
    return list(dict.fromkeys(filled))


def _packaged(paths: list[str]) -> Any:
    """Files of one kind, streamed."""
    import datasets

    endings = {_ending(path) for path in paths}
    if len(endings) != 1 or not endings <= set(READERS):
        raise UserError(
            f"hub: found files that end in {', '.join(sorted(endings))}. Allowed: files of one kind, of "
            f"{', '.join(READERS)}, packed or not. Narrow `path` or `data_files`."
        )
    [ending] = endings
    more: dict[str, Any] = {"delimiter": "\t"} if ending == "tsv" else {}
    with _said(paths[0]):
        return datasets.load_dataset(READERS[ending], data_files=paths, split="train", streaming=True, **more)


def _is_json_lines(path: str) -> bool:
    """Whether a file is JSON lines, whatever its name ends in: then it is read here, which `datasets` is not made for
    where encodings differ or half a surrogate pair is in a text."""
    if READERS.get(_ending(path)) != "json":
        return False
    if _ending(path) == "jsonl":
        return True
    first = next((line.strip() for _, line in file_lines(path) if line.strip()), "")
    return first[:1] == "{" and first[-1:] == "}"


def _json_tables(paths: list[str]) -> Iterator[pa.Table]:
    """The objects of JSON lines as tables of up to ROWS, each with the fields that have occurred."""
    fields: dict[str, None] = {}
    for path in paths:
        for where, stream in streams(path):
            with reading(where):
                rows = (row for _, row in objects(where, stream))
                while some := list(itertools.islice(rows, ROWS)):
                    fields |= dict.fromkeys(key for row in some for key in row)
                    yield pa.table({name: _column(where, name, [row.get(name) for row in some]) for name in fields})


def _column(where: str, name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise UserError(
            f"{where}: field '{name}' has values of several types: {error}. Expected: one type. Fix: correct the file."
        ) from None


def _ending(path: str) -> str:
    name = os.path.basename(path).lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return name.rpartition(".")[2]


def _licence(card: Any) -> str:
    """The licence that a card's metadata name, or ""."""
    stated = getattr(card, "license", None)
    if stated == "other":
        stated = getattr(card, "license_name", None) or stated
    return ", ".join(stated) if isinstance(stated, list) else str(stated or "")


def _card_licence(file: Path) -> str:
    if not file.is_file():
        return ""
    from huggingface_hub import DatasetCard

    try:
        return _licence(DatasetCard.load(file, ignore_metadata_errors=True).data)
    except ValueError:  # a README without metadata
        return ""


@contextmanager
def _said(path: str) -> Iterator[None]:
    """Turns what the hub's libraries raise, which may be almost anything, into a sentence."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"hub, {path}: {type(error).__name__}: {said}. Needed: a data set of files (where it has code of its own, "
            f"which is never run, name its data in `data_files`), and a network or what was kept of an earlier run. "
            f"Check path, config, data_files, split and revision, and $HF_TOKEN where it is not public."
        ) from None
