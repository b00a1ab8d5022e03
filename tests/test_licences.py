import re
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.licences import allowed, gathered, require
from pipelines.storage.store import Store
from tests.support.opus_server import Mirror, lines


@pytest.mark.parametrize(
    ("stated", "globs", "verdict"),
    [
        ("CC0-1.0", ["CC0-1.0"], True),
        ("cc0-1.0", ["CC0-*"], True),
        ("CC0-1.0", ["cc0-1.0"], True),
        ("CC-BY-2.0-FR", ["CC-BY*"], True),
        ("CC-BY-NC-4.0", ["CC-BY*"], True),
        ("CC-BY-NC-4.0", ["CC-BY-[0-9]*", "CC-BY-SA-*"], False),
        ("CC-BY-4.0", ["CC-BY-[0-9]*"], True),
        ("MPL-2.0", ["CC*"], False),
        ("GPL-2.0 or later", ["GPL-2.0"], True),
        ("CC0-1.0 (translations); PSF-2.0 (English documentation)", ["CC0-*"], False),
        ("CC0-1.0 (translations); PSF-2.0 (English documentation)", ["CC0-*", "PSF-*"], True),
        ("GPL-2.0-or-later / GFDL-1.1 (manuals)", ["GPL-*"], False),
        ("GPL-2.0-or-later / GFDL-1.1 (manuals)", ["GPL-*", "GFDL-*"], True),
        ("CC-BY-4.0 AND MIT", ["MIT"], False),
        ("MIT OR Apache-2.0", ["Apache-*"], True),
        ("MIT or Apache-2.0; CC0-1.0", ["Apache-*"], False),
        ("CC-BY-SA-4.0 (compilation); Tanzil terms of use (non-commercial)", ["CC-BY-SA-*"], False),
        ("CC-BY-SA-4.0 (compilation); Tanzil terms of use (non-commercial)", ["CC-BY-SA-*", "Tanzil*"], True),
        ("none stated (research data; captions from Flickr30k)", ["none stated"], True),
        ("none stated (research data; captions from Flickr30k)", ["CC*"], False),
        ("https://creativecommons.org/licenses/by/2.0/fr/", ["*creativecommons.org/licenses/by/*"], True),
        ("free for research, and more", ["Free for  research, and more"], False),
        ("free for research, and more", ["Free for research, and more"], True),
        ("not stated in the package", ["CC*"], False),
        ("", ["CC*"], False),
        ("(CC0-1.0)", ["CC*"], False),
        ("", None, True),
    ],
)
def test_every_licence_that_is_stated_must_be_allowed(stated: str, globs: list[str] | None, verdict: bool) -> None:
    assert allowed(stated, globs) is verdict


def test_data_of_another_licence_are_refused_by_name() -> None:
    corpora = {"A/v1": {"licence": "MIT"}, "B/v1": {"licence": "CC-BY-NC-4.0"}}
    require(corpora, None, "here")
    require(corpora, ["MIT", "CC-*"], "here")
    with pytest.raises(
        ValueError, match=r"corpus\.licences, here: found B/v1: CC-BY-NC-4\.0\. Allowed: MIT\. Allow the"
    ):
        require(corpora, ["MIT"], "here")


def test_gathered_corpora_keep_all_files_and_licences() -> None:
    one = {"A/v1": {"licence": "MIT", "url": "x", "files": [{"url": "x"}]}, "B": {"licence": "MIT", "url": ""}}
    two = {"A/v1": {"licence": "CC0-1.0", "url": "y", "files": [{"url": "x"}, {"url": "y"}]}}
    assert gathered([one, two, one]) == {
        "A/v1": {"licence": "MIT; CC0-1.0", "url": "x", "files": [{"url": "x"}, {"url": "y"}]},
        "B": {"licence": "MIT", "url": ""},
    }
    assert one["A/v1"]["files"] == [{"url": "x"}]


RECIPE = """
corpus:
  pairs: [de-en, en-fr]
  sources: [{opus: {corpora: [Docs/v1]}}]
  licences: [CC0-*, LICENCE]
  instructions: [translate, {answer_across: {source: {sample: {rows: 400}}}}]
  budget: {rows: 500}
  dev_rows: 5
"""


def _made(mirror: Mirror, folder: Path, licence: str) -> int:
    for pair in ("de-en", "en-fr"):
        mirror.add("Docs/v1", pair, lines(60, f"{pair} src"), lines(60, f"{pair} tgt"))
    (folder / "docs.yaml").write_text(RECIPE.replace("LICENCE", licence))
    return main([str(folder / "docs.yaml"), "--store", str(folder / "store")])


def test_the_mix_says_where_every_row_comes_from(opus_server: Mirror, tmp_path: Path) -> None:
    assert _made(opus_server, tmp_path, "Apache-2.0") == 0
    store = Store(tmp_path / "store")
    corpora = store.require("training_mix").corpora
    for part in ("bitext", "instructions", "dev"):
        assert set(store.table("training_mix", part=part)["corpus"].to_pylist()) <= set(corpora)
    assert {name: facts["licence"] for name, facts in corpora.items()} == {
        "Docs/v1": "CC0-1.0",
        "sample/v1": "Apache-2.0",
    }
    assert {file["url"] for file in corpora["Docs/v1"]["files"]} == {
        opus_server.url + path for path in opus_server.files
    }


def test_instruction_data_need_an_allowed_licence_too(
    opus_server: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _made(opus_server, tmp_path, "MIT") == 1
    text = (
        "corpus.licences, instruction type 'answer_across', (deu_Latn-eng_Latn|eng_Latn-fra_Latn): found sample/v1: Apa"
    )
    assert re.search(text, capsys.readouterr().err)  # pairs are made side by side: either may be the first to fail
