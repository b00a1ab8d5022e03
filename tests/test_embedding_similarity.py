import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from alignment_train.models.seed import train_tokenizer
from pipelines.filters.embedding_similarity import EmbeddingSimilarity
from pipelines.languages import Pair
from pipelines.schema import bitext_batch
from tests.support.models import bitext

TABLE = bitext(40)
SRC, TGT = [  # one to four words, so that batches need padding and sorting
    [" ".join(text.split()[: 1 + (row * step) % 4]) for row, text in enumerate(TABLE[side].to_pylist()[:16])]
    for side, step in (("src", 1), ("tgt", 3))
]
ROWS = bitext_batch(SRC, TGT, "deu_Latn", "eng_Latn", "numbers/v1")


def save(folder: Path, kind: str = "bert", auto: type = AutoModel, **more: object) -> Path:
    """A random two-layer model with a tokenizer for the numbers, as `save_pretrained` writes it."""
    tokenizer = train_tokenizer(iter(TABLE["src"].to_pylist() + TABLE["tgt"].to_pylist()), 320)
    shape = {"num_attention_heads": 2, "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32}
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "initializer_range": 0.5}  # texts differ
    config = AutoConfig.for_model(kind, **shape, **size, pad_token_id=tokenizer.pad_token_id, **more)
    torch.manual_seed(0)
    auto.from_config(config).save_pretrained(folder)  # type: ignore[attr-defined]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save(tmp_path_factory.mktemp("bert")))


def expected(folder: str, pooling: str) -> list[float]:
    """The cosines, one text at a time and so without padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    cosines = []
    for row in ROWS.to_pylist():
        vectors = []
        for side in ("src", "tgt"):
            with torch.inference_mode():
                output = model(**tokenizer(row[side], return_tensors="pt"))
            states = output.last_hidden_state[0]
            vectors.append(
                {"mean": states.mean(dim=0), "first": states[0], "last": states[-1]}[pooling]
                if pooling != "pooler"
                else output.pooler_output[0]
            )
        cosines.append(torch.cosine_similarity(*vectors, dim=0).item())
    return cosines


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "pooler"])
def test_scores_in_batches_are_the_cosines_of_texts_one_by_one(bert: str, pooling: str) -> None:
    item = EmbeddingSimilarity.model_validate({"model": bert, "pooling": pooling, "batch_size": 7, "device": "cpu"})
    scores = item.score(ROWS, item.open())
    assert scores.type == pa.float64()
    assert np.std(scores.to_numpy()) > 0.01  # else any order of the rows would pass
    assert scores.to_pylist() == pytest.approx(expected(bert, pooling), abs=1e-5)


def test_a_decoder_without_padding_token_serves_too(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "llama"))
    item = EmbeddingSimilarity(model=folder, pooling="last", device="cpu")
    assert item.score(ROWS).to_pylist() == pytest.approx(expected(folder, "last"), abs=1e-5)
    with pytest.raises(ValueError, match="found 'pooler', but .* has no such layer. Expected: mean, first"):
        EmbeddingSimilarity(model=folder, pooling="pooler", device="cpu").score(ROWS)


def test_a_copy_scores_1_an_empty_side_nothing_and_long_text_is_cut(bert: str) -> None:
    item = EmbeddingSimilarity(model=bert, device="cpu", min=0.9)
    texts = ["eins zwei", "", "", "sieben " * 500, "ไม่ 房 بيت"]
    batch = bitext_batch(texts, ["eins zwei", "one", "", "sieben " * 600, "ไม่ 房 بيت"], "deu_Latn", "eng_Latn", "t/v1")
    scores = item.score(batch)
    assert scores.to_numpy()[[0, 3, 4]] == pytest.approx(1)
    assert np.isnan(scores.to_numpy()[[1, 2]]).all()
    assert item.keep(scores).to_pylist() == [True, False, False, True, True]
    assert len(item.score(batch.slice(0, 0))) == 0


def test_one_handle_serves_two_threads_and_survives_pickling(bert: str) -> None:
    item = EmbeddingSimilarity(model=bert, device="cpu", batch_size=4)
    handle = item.open()
    once = item.score(ROWS, handle)
    with ThreadPoolExecutor(2) as pool:
        assert all(scores.equals(once) for scores in pool.map(lambda _: item.score(ROWS, handle), range(8)))
    assert item.score(ROWS, pickle.loads(pickle.dumps(handle))).equals(once)


def test_a_gpu_that_is_not_there_is_told_before_work_starts(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pairs = [Pair("deu_Latn", "eng_Latn")]
    for device in ("cuda", "cuda:1"):
        with pytest.raises(
            ValueError, match=f"device: found '{device}', but torch sees 0 GPUs. Expected: an available GPU"
        ):
            EmbeddingSimilarity(model=bert, device=device).notes(pairs)
    with pytest.raises(ValueError, match="found 'gpu'. Expected: auto, cpu, cuda"):
        EmbeddingSimilarity(model=bert, device="gpu").notes(pairs)
    assert EmbeddingSimilarity(model=bert).open().device == "cpu"


def test_what_cannot_be_loaded_is_told_with_the_cure(tmp_path: Path, bert: str) -> None:
    with pytest.raises(ValueError, match="embedding_similarity.model: .*nothing cannot be loaded .* Expected: the id"):
        EmbeddingSimilarity(model=str(tmp_path / "nothing")).open()
    bare = save(tmp_path / "bare", add_pooling_layer=False)
    weights = {key: value for key, value in AutoModel.from_pretrained(bare).state_dict().items() if "pooler" not in key}
    AutoModel.from_pretrained(bare).save_pretrained(bare, state_dict=weights)
    assert len(EmbeddingSimilarity(model=str(bare), device="cpu").score(ROWS)) == 16
    with pytest.raises(ValueError, match=r"has no weights for pooler.dense.bias, .* which would be random"):
        EmbeddingSimilarity(model=str(bare), pooling="pooler", device="cpu").open()


def test_code_that_a_model_brings_along_is_not_run(tmp_path: Path) -> None:
    folder = save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ValueError, match="cannot be loaded"):
        EmbeddingSimilarity(model=str(folder), device="cpu").open()
    assert not (tmp_path / "ran").exists()


def test_a_model_s_files_count_and_a_hub_id_without_revision_is_told(bert: str) -> None:
    pairs = [Pair("deu_Latn", "eng_Latn")]
    assert {path.name for path in EmbeddingSimilarity(model=bert).files()} >= {"config.json", "model.safetensors"}
    assert EmbeddingSimilarity(model=bert).notes(pairs) == []
    assert EmbeddingSimilarity(model="some/model", revision="a1b2").notes(pairs) == []
    [note] = EmbeddingSimilarity(model="some/model", device="cpu").notes(pairs)
    assert note.startswith("embedding_similarity: some/model has no revision")
    assert EmbeddingSimilarity(model="some/model").files() == []


def test_the_score_ranks_and_has_no_bound_unless_given(bert: str) -> None:
    item = EmbeddingSimilarity(model=bert, device="cpu")
    assert (item.judges_quality, item.min, item.max) == (True, None, None)
    assert item.keep(item.score(ROWS)).to_pylist() == [True] * 16
