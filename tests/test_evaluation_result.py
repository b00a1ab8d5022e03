import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.errors import UserError
from pipelines.results.evaluation_result import FORMAT, EvaluationResult, read_result, write_result
from pipelines.results.metric_key import MetricKey
from pipelines.results.verdict import MAX_FINDINGS, verdict
from tests.support.models import ROOT

COMMITTED = sorted((ROOT / "benchmarks" / "results").glob("*metrics*.json"))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("loss/eng_Latn/nats_per_token", MetricKey("loss", "eng_Latn", "nats_per_token")),
        ("retrieval/deu_Latn-eng_Latn/recall@1/layer=12", MetricKey("retrieval", "deu_Latn-eng_Latn", "recall@1", 12)),
        ("retrieval/a-b/recall@1_from_src/shared", MetricKey("retrieval", "a-b", "recall@1_from_src/shared")),
        ("mgsm/deu_Latn/exact_match_flexible-extract", MetricKey("mgsm", "deu_Latn", "exact_match_flexible-extract")),
    ],
)
def test_keys_are_parsed_and_written(text: str, key: MetricKey):
    assert MetricKey.parse(text) == key
    assert str(key) == text


def test_keys_know_their_languages_and_whether_they_are_overall():
    assert MetricKey.parse("translation/deu_Latn>eng_Latn/chrF").languages == ["deu_Latn", "eng_Latn"]
    assert MetricKey.parse("harness/xcopa_it/acc").languages == []
    texts = ("x/y/z", "x/y/z/shared", "x/y/z/layer=3")
    assert [MetricKey.parse(text).is_overall for text in texts] == [True, False, False]
    assert str(MetricKey.parse("x/y/z").with_subject("all")) == "x/all/z"


@pytest.mark.parametrize("text", ["", "x", "x/y", "x//z", "/y/z"])
def test_what_is_no_key_is_refused(text: str):
    with pytest.raises(UserError, match="Expected: task/subject/metric"):
        MetricKey.parse(text)


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.stem)
def test_committed_results_are_read_unchanged(file: Path):
    content = json.loads(file.read_text())
    result = EvaluationResult.model_validate(content)
    assert result.to_json() == content
    assert result.models == ["base", "control", "aligned"]
    found = verdict(result, result.pivot)
    assert 1 <= len(found.findings) <= MAX_FINDINGS
    assert max(map(len, [found.headline, *found.findings])) < 200


def test_committed_results_are_there():
    assert len(COMMITTED) >= 4


def test_a_file_without_a_format_is_read_and_a_newer_one_is_refused():
    figures = {"loss/eng_Latn/nats_per_token": {"value": 1.0}}
    old = EvaluationResult.model_validate({"base": figures, "aligned": figures})
    assert (old.format, old.pivot, old.differences, old.contamination) == (0, "eng_Latn", {}, None)
    assert verdict(old).headline == "No significant effect"
    with pytest.raises(ValidationError, match=f"has format {FORMAT + 1}. Expected: at most {FORMAT}"):
        EvaluationResult.model_validate({"format": FORMAT + 1})


def test_models_baselines_and_numbers_that_are_not_finite():
    key = "loss/eng_Latn/nats_per_token"
    result = EvaluationResult.model_validate(
        {"aligned": {key: {"value": None}}, "base": {key: {"value": 1, "low": None}}, "mine": {}, "chance": {key: 0.5}}
    )
    assert (result.models, result.baselines) == (["base", "aligned"], ["mine"])
    assert result.figure("aligned", key) is None
    assert result.figure("base", key) == {"value": 1}
    assert result.figure("chance", key) == {"value": 0.5}
    assert result.figure("control", key) is None


def test_a_result_is_written_one_figure_per_line_and_read_back(tmp_path: Path):
    key = "loss/eng_Latn/nats_per_token"
    result = EvaluationResult.model_validate({"base": {key: {"value": 1.5, "n": 3}}, "format": 3})
    write_result(result, tmp_path)
    assert (tmp_path / "metrics.json").read_text() == (
        '{\n "base": {\n  "loss/eng_Latn/nats_per_token": {"n": 3, "value": 1.5}\n },\n "format": 3\n}\n'
    )
    assert read_result(tmp_path) == result
