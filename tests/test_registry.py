from pathlib import Path

import pytest

from pipelines import registry
from pipelines.config import CorpusConfig, Recipe, validate
from pipelines.filters.length_ratio import LengthRatio
from tests.support.bitext_fixtures import Planted

FILTERS = "pipelines.filters"


def test_a_plug_in_is_named_by_its_file_and_built_from_what_a_recipe_says() -> None:
    for spec in ({"length_ratio": {"max": 2.0}}, LengthRatio(max=2.0)):
        built = registry.build(FILTERS, spec)
        assert built == LengthRatio(max=2.0)
        assert built.name == "length_ratio"
    assert registry.build(FILTERS, "length_ratio") == registry.build(FILTERS, {"length_ratio": None}) == LengthRatio()


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        ValueError, match=r"no filter 'lenght_ratio'\. Did you mean 'length_ratio'\? Expected: .*char_length, .*script"
    ):
        registry.load(FILTERS, "lenght_ratio")
    with pytest.raises(ValueError, match=r"no filter 'xyz'\. Expected: alpha_ratio, char_length"):
        registry.load(FILTERS, "xyz")


def test_private_modules_are_no_plug_ins() -> None:
    assert not [name for name in registry.names("pipelines.instructions") if name.startswith("_")]


@pytest.mark.parametrize("spec", [{}, {"lid": {}, "script": {}}, 3, None, ["lid"]])
def test_anything_but_one_name_is_refused(spec: object) -> None:
    with pytest.raises(ValueError, match="Expected: one name with its settings"):
        registry.build(FILTERS, spec)


def test_the_place_of_a_mistake_is_named_down_to_the_setting() -> None:
    corpus = {"pairs": ["en-de"], "sources": [Planted()], "filters": ["script", {"length_ratio": {"mx": 3}}]}
    with pytest.raises(ValueError, match="unknown key") as error:
        validate(Recipe, {"name": "x", "corpus": corpus}, "my.yaml")
    assert str(error.value) == (
        "my.yaml:\n  corpus.filters[1].length_ratio.mx: unknown key. Did you mean 'max'? Expected: max, min, per. Fix: "
        "rename or remove it."
    )


def test_every_mistake_is_listed() -> None:
    raw = {"pairs": ["en-de"], "sources": [Planted()], "filters": ["nope", {"script": {"min": "x"}}], "dev_rows": -1}
    with pytest.raises(ValueError, match="no filter 'nope'") as error:
        validate(CorpusConfig, raw, "recipe", "corpus")
    places = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]]
    assert places == ["corpus.filters[0]", "corpus.filters[1].script.min", "corpus.dev_rows"]


def test_settings_write_out_defaults_and_the_names_of_nested_plug_ins() -> None:
    built = registry.build("pipelines.instructions", {"answer_across": {"source": {"sample": {"rows": 40}}}})
    settings = built.settings()["answer_across"]
    assert settings["cross_probability"] == 0.5
    assert settings["source"]["sample"]["rows"] == 40
    assert list(built.nested()) == ["source"]
    assert registry.build("pipelines.instructions", built.settings()) == built


def test_a_module_with_two_plug_ins_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "doubles"
    package.mkdir()
    (package / "__init__.py").touch()
    body = "from pipelines.registry import Plugin\nclass A(Plugin): ...\nclass B(Plugin): ...\n"
    (package / "two.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"two\.py defines 2 subclasses of Plugin\. Expected: one\."):
        registry.load("doubles", "two")
