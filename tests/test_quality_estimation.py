from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from pipelines.filters.quality_estimation import QualityEstimation
from pipelines.schema import bitext_batch
from tests.test_embedding_similarity import ROWS, save


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp("judge"), auto=AutoModelForSequenceClassification, num_labels=1))


def logits(folder: str, sides: tuple[str, str]) -> list[float]:
    """One row at a time, and so without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [
            model(**tokenizer(row[sides[0]], row[sides[1]], return_tensors="pt")).logits.item()
            for row in ROWS.to_pylist()
        ]


@pytest.mark.parametrize(
    ("first", "sides"), [(None, ("src", "tgt")), ("de", ("src", "tgt")), ("en", ("tgt", "src")), ("fr", ("src", "tgt"))]
)
def test_scores_in_batches_are_the_logits_of_rows_one_by_one(
    judge: str, first: str | None, sides: tuple[str, str]
) -> None:
    item = QualityEstimation(model=judge, batch_size=7, device="cpu", first=first)
    scores = item.score(ROWS, item.open())
    assert np.std(scores.to_numpy()) > 0.01
    assert scores.to_pylist() == pytest.approx(logits(judge, sides), abs=1e-5)


def test_the_side_that_is_read_first_matters(judge: str) -> None:
    assert logits(judge, ("src", "tgt")) != pytest.approx(logits(judge, ("tgt", "src")), abs=1e-4)


def test_an_empty_side_scores_nothing_and_long_text_is_cut(judge: str) -> None:
    item = QualityEstimation(model=judge, device="cpu", min=-100)
    texts = ["eins", "", "sieben " * 500, "ไม่ 房 بيت"]
    scores = item.score(bitext_batch(texts, ["one", "one", "seven " * 500, "房"], "deu_Latn", "eng_Latn", "t/v1"))
    assert item.keep(scores).to_pylist() == [True, False, True, True]
    assert len(item.score(ROWS.slice(0, 0))) == 0


def test_a_model_of_several_classes_and_one_without_a_head_are_refused(tmp_path: Path) -> None:
    classes = save(tmp_path / "classes", auto=AutoModelForSequenceClassification, num_labels=3)
    with pytest.raises(ValueError, match=r"quality_estimation.model: .* has 3 outputs per row. Expected: one"):
        QualityEstimation(model=str(classes), device="cpu").open()
    headless = save(tmp_path / "headless", auto=AutoModel, num_labels=1)
    with pytest.raises(ValueError, match="has no weights for classifier.bias, .* which would be random"):
        QualityEstimation(model=str(headless), device="cpu").open()


def test_numbers_that_overflow_are_refused(judge: str) -> None:
    item = QualityEstimation(model=judge, device="cpu")
    handle = item.open()
    with torch.no_grad():
        handle.model.classifier.weight.fill_(float("inf"))
    with pytest.raises(ValueError, match="quality_estimation: the model's output is not finite on cpu"):
        item.score(ROWS, handle)


def test_it_ranks_and_an_unknown_language_is_refused(judge: str) -> None:
    item = QualityEstimation(model=judge, first="en")
    assert (item.judges_quality, item.min, item.first) == (True, None, "eng_Latn")
    with pytest.raises(ValueError, match="language 'english': not a known language"):
        QualityEstimation(model=judge, first="english")
