"""Base models that are GGUF files: the same model as the one that the file was written from."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment_train import card
from alignment_train.config import TrainConfig
from alignment_train.models import gguf as ggufs
from alignment_train.models.check import check
from alignment_train.models.load import load_base
from alignment_train.models.model import Model
from alignment_train.settings import Base
from assets.align import is_base_checked
from assets.locations import RunLocation
from tests.support.gguf_file import END, qwen, write
from tests.support.models import bitext
from tests.support.refused import problem
from tests.test_merge import CONTRAST, trainer

pytest.importorskip("gguf", reason="the extra gguf is not installed")
TEXTS = bitext(4)["tgt"].to_pylist()


@pytest.fixture(scope="module")
def made() -> Model:
    return qwen()


@pytest.fixture
def file(made: Model, tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.gguf", made)


def named(model: Path | str, **more: Any) -> Model:
    return load_base(Base.model_validate({"model": str(model), **more}))


def logits(model: Model) -> torch.Tensor:
    batch, _ = model.encode(TEXTS, 32)
    with torch.inference_mode():
        return model.lm.eval()(**batch).logits


@pytest.mark.parametrize(("kind", "error"), [("F32", 0.0), ("F16", 2e-3), ("Q8_0", 2e-2), ("Q4_1", 0.2)])
def test_a_gguf_file_has_the_logits_of_the_model_that_it_was_made_of(kind: str, error: float, made: Model, tmp_path):
    model = named(write(tmp_path / "tiny.gguf", made, kind))
    assert model.tokenizer(TEXTS)["input_ids"] == made.tokenizer(TEXTS)["input_ids"]
    assert {p.dtype for p in model.lm.parameters()} == {torch.float32}
    found, expected = logits(model), logits(made)
    assert (found - expected).abs().max() <= error * expected.abs().max()
    assert model.tokenizer.eos_token == END
    assert model.notes[0].startswith("tiny.gguf is dequantised to float32: its types are " + kind)


def test_it_is_saved_as_plain_weights_that_transformers_reads(file: Path, made: Model, tmp_path: Path):
    model = named(file)
    model.save(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(Model(again, model.tokenizer)), logits(made))


def test_it_is_trained_through_a_recipe(file: Path, made: Model, tmp_path: Path):
    own = trainer(tmp_path, "own", CONTRAST, base={"model": str(file)}, steps=2, adapter=None)
    own.base()
    manifest = own.store.require("base_model")
    assert manifest.numbers["base"] == f"local: {file}"
    assert manifest.numbers["notes"].startswith("tiny.gguf is dequantised to float32")
    assert (own.store.fetched("base_model") / "model.safetensors").is_file()
    assert torch.equal(logits(own.stored("base_model")), logits(made))
    assert own.align().numbers["steps"] == 2
    assert not torch.equal(logits(own.stored("align_model")), logits(made))
    assert own.base() == manifest, "nothing changed"
    write(file, qwen(seed=1))
    assert own.base().fingerprint != manifest.fingerprint


def test_lora_is_trained_on_it_and_the_card_names_the_file(file: Path, tmp_path: Path):
    own = trainer(tmp_path, "own", CONTRAST, base={"model": str(file)}, steps=2)
    own.base()
    own.align()
    said = (own.store.fetched("align_model") / card.FILE).read_text()
    assert "The base model is the GGUF file tiny.gguf, dequantised to float32." in said
    assert str(file) not in said.partition("## Training")[0]
    assert not torch.equal(logits(own.stored("align_model")), logits(own.stored("base_model")))


def test_the_card_of_an_adapter_of_a_hub_s_file_loads_that_file(file: Path, tmp_path: Path):
    own = trainer(tmp_path, "own", CONTRAST, base={"model": "some/model", "gguf": "tiny.Q8_0.gguf", "revision": "abc"})
    said = card.card(own.recipe, own.store, "align_model", {"steps": 2})
    assert "The base model is the GGUF file tiny.Q8_0.gguf of some/model, dequantised to float32." in said
    assert 'from_pretrained("some/model", gguf_file="tiny.Q8_0.gguf", revision="abc")' in said


def test_the_only_file_of_a_folder_needs_no_name(file: Path, made: Model):
    assert torch.equal(logits(named(file.parent)), logits(made))
    assert torch.equal(logits(named(file.parent, gguf="tiny.gguf")), logits(made))
    write(file.with_name("other.gguf"), made)
    found = problem(file.parent)
    assert "found 2 GGUF files in the folder: other.gguf, tiny.gguf. Expected: one model" in found
    assert f"Fix: name the file, such as {file.parent / 'other.gguf'}." in found
    assert "found no file none.gguf" in problem(file.parent, gguf="none.gguf")
    assert torch.equal(logits(named(file.parent, gguf="tiny.gguf")), logits(made))


def test_a_missing_file_is_no_hub_id():
    assert Base.model_validate({"model": "models/tiny.gguf"}).is_local
    assert "found no such file" in problem("models/tiny.gguf")
    with pytest.raises(ValueError, match=r"gguf: found 'b.gguf' with a.gguf. Expected: gguf only where model is"):
        Base.model_validate({"model": "a.gguf", "gguf": "b.gguf"})


def cut(size: int) -> Callable[[Path], Any]:
    return lambda file: file.write_bytes(file.read_bytes()[:size])


def rewritten(**settings: Any) -> Callable[[Path], Any]:
    return lambda file: write(
        file, qwen(), settings={name.replace("__", "."): value for name, value in settings.items()}
    )


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (cut(0), "is damaged: it is empty"),
    "other bytes": (lambda f: f.write_bytes(b"PK" * 99), "is damaged: it does not begin with the letters GGUF"),
    "a header cut short": (cut(20), "is damaged: "),
    "a vocabulary cut short": (cut(2000), "is damaged: "),
    "tensors cut short": (cut(-64), r"is damaged: it has [\d,]+ bytes, and its tensors end at byte [\d,]+"),
    "an old version": (lambda f: f.write_bytes(b"GGUF\x01" + f.read_bytes()[5:]), "is damaged: it is of version 1"),
    "tokens without end": (
        lambda f: f.write_bytes(f.read_bytes().replace(b"general.name\x08\0\0\0", b"general.name\x09\0\0\0")),
        "is damaged: ",
    ),
    "an architecture that is none": (rewritten(general__architecture="own_of_test"), "architecture own_of_test is not"),
    "an encoder": (rewritten(general__architecture="bert"), "cannot be loaded: ValueError: GGUF model with archit"),
    "layers without end": (rewritten(block_count=10**9), r"qwen2\.block_count: found 1000000000\. Expected: a whole n"),
    "more layers than there are": (rewritten(block_count=4), r"weights of Qwen2ForCausalLM are in no file: model\.la"),
    "a part": (rewritten(split__count=3), r"is one of 3 parts\. Expected: a model in one file\. Fix: join"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_in_a_sentence(name: str, file: Path):
    damage, expected = DAMAGE[name]
    damage(file)
    assert re.search(expected, problem(file))


def test_without_the_package_the_command_that_installs_it_is_named(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ggufs, "find_spec", lambda name: None)
    assert problem(file).endswith("Expected: gguf. Fix: pip install gguf.")


def test_check_reads_it(file: Path, capsys: pytest.CaptureFixture[str]):
    assert check(str(file)) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{file}: can be aligned\n")
    assert "  architecture    Qwen2ForCausalLM\n" in said
    assert check(str(file.parent), gguf="tiny.gguf", quiet=True) == 0


def test_a_changed_file_is_checked_again(file: Path, tmp_path: Path):
    own = trainer(tmp_path, "own", CONTRAST, base={"model": str(file)})
    own.base()
    used = RunLocation(Path("own.yaml"), str(tmp_path / "own"))
    assert is_base_checked(used, own.recipe, TrainConfig.of(own.recipe))
    later = (tmp_path / "own" / "base_model" / "manifest.json").stat().st_mtime + 1
    os.utime(file, (later, later))
    assert not is_base_checked(used, own.recipe, TrainConfig.of(own.recipe))
