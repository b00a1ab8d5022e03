"""Base models and data sets loaded from a hub: a server on loopback that speaks the hub's HTTP API."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from alignment_train.models.load import load_base
from alignment_train.models.model import Model
from alignment_train.settings import Base
from pipelines.errors import UserError
from pipelines.languages import Pair
from pipelines.sources.hub import Hub
from tests.support.gguf_file import qwen, write
from tests.support.hub_server import HubServer
from tests.support.models import ROOT, bitext, tiny
from tests.test_merge import CONTRAST, trainer

NAME = "tiny/llama"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)  # what HF_ENDPOINT sets before the first import
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.close()


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def saved(folder: Path, seed: int = 0) -> dict[str, bytes]:
    tiny(seed=seed).save(folder)
    return files(folder)


def named(**settings: str) -> Model:
    return load_base(Base.model_validate({"model": NAME, **settings}))


def logits(model: Model) -> torch.Tensor:
    batch, _ = model.encode(bitext(2)["tgt"].to_pylist(), 32)
    with torch.inference_mode():
        return model.lm.eval()(**batch).logits


def same(model: Model, seed: int) -> bool:
    return torch.equal(logits(model), logits(tiny(seed=seed)))


def test_a_pinned_commit_stays_what_it_is_and_the_manifest_names_it(hub: HubServer, tmp_path: Path):
    first = hub.publish(NAME, saved(tmp_path / "first"))
    newest = trainer(tmp_path, "newest", CONTRAST, base={"model": NAME})
    assert newest.base().numbers["base"] == f"hub: {NAME} at {first}"
    second = hub.publish(NAME, saved(tmp_path / "second", seed=1))
    assert same(newest.stored("base_model"), 0)
    asked = len(hub.requests)
    assert newest.base().numbers["base"] == f"hub: {NAME} at {first}", "a push changes no store"
    assert len(hub.requests) == asked
    assert same(named(), 1)
    pinned = trainer(tmp_path, "pinned", CONTRAST, base={"model": NAME, "revision": first})
    assert pinned.base().numbers["base"] == f"hub: {NAME} at {first}"
    assert same(pinned.stored("base_model"), 0)
    assert second != first


def test_a_download_that_was_cut_goes_on_where_it_ended(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5_000)  # what of a chunk is there is lost
    hub.publish(NAME, saved(tmp_path / "first"))
    hub.cut["model.safetensors"] = 10_000
    assert same(named(), 0)
    assert [span for _, path, span in hub.requests if path.endswith("model.safetensors") and span] == ["bytes=10000-"]


def test_a_gated_model_names_the_page_where_its_licence_is_accepted(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub.publish(NAME, saved(tmp_path / "first"))
    hub.gated.add(NAME)
    with pytest.raises(UserError) as error:
        named()
    assert str(error.value) == (
        f"train.base {NAME}: access to it has to be granted. Expected: an account that has accepted its licence. Fix: "
        f"accept it at {hub.url}/{NAME}, then log in with 'hf auth login', or set HF_TOKEN to a token that may read."
    )
    monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
    assert same(named(), 0)


def test_a_model_that_is_not_there_is_a_name_to_correct(hub: HubServer):
    with pytest.raises(UserError, match=f"{NAME}: {hub.url} has no such model, or hides it .* Fix: correct it"):
        named()


def test_without_a_network_what_is_in_the_cache_is_loaded_at_once(hub: HubServer, tmp_path: Path):
    commit = hub.publish(NAME, saved(tmp_path / "first"))
    assert same(named(), 0)
    asked = len(hub.requests)
    assert same(named(revision=commit), 0)
    assert len(hub.requests) == asked, "a commit whose files are here needs no hub"
    hub.close()
    huggingface_hub.close_session()  # as a new process, which has no connection
    began = time.monotonic()
    for settings in ({"revision": commit}, {}):
        assert same(named(**settings), 0)
    assert time.monotonic() - began < 5
    with pytest.raises(UserError, match=r"cannot be loaded: .* a hub id that this machine can reach\. Fix: download"):
        load_base(Base.model_validate({"model": "tiny/other"}))


def test_pickled_weights_are_read_as_weights_alone(hub: HubServer, tmp_path: Path):
    whole = saved(tmp_path / "first")
    model = tiny()
    torch.save(model.lm.state_dict(), tmp_path / "pytorch_model.bin")
    rest = {name: data for name, data in whole.items() if name != "model.safetensors"}
    hub.publish(NAME, {**rest, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    assert same(named(), 0)
    torch.save({**model.lm.state_dict(), "evil": Evil(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    hub.publish(NAME, {**rest, "pytorch_model.bin": (tmp_path / "pytorch_model.bin").read_bytes()})
    with pytest.raises(UserError, match=f"train.base {NAME}: cannot be loaded: "):
        named()
    assert not (tmp_path / "ran").exists()


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


def test_of_a_repository_of_gguf_files_one_is_named(hub: HubServer, tmp_path: Path):
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    for kind in ("F32", "Q8_0"):
        write(tmp_path / f"tiny.{kind}.gguf", qwen(), kind)
    content = {f"tiny.{kind}.gguf": (tmp_path / f"tiny.{kind}.gguf").read_bytes() for kind in ("F32", "Q8_0")}
    hub.publish(NAME, {**content, "README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(UserError, match=r"found GGUF files alone: tiny.F32.gguf, tiny.Q8_0.gguf. Expected: which of"):
        named()
    own = trainer(tmp_path, "own", CONTRAST, base={"model": NAME, "gguf": "tiny.F32.gguf"})
    assert own.base().numbers["base"].startswith(f"hub: {NAME} tiny.F32.gguf at ")
    assert torch.equal(logits(own.stored("base_model")), logits(qwen()))
    fetched = {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path}
    assert fetched == {"tiny.F32.gguf"}, "and nothing else was downloaded"


def rows_of(source: Hub, home: Path) -> list[tuple[str, str]]:
    source.prepare(Pair.parse("de-en"), home)
    return [
        row for batch in source.fetch(Pair.parse("de-en"), home)
        for row in zip(batch["src"].to_pylist(), batch["tgt"].to_pylist(), strict=True)
    ]  # fmt: skip


def test_a_data_set_is_read_at_the_commit_that_was_pinned(hub: HubServer, tmp_path: Path):
    def published(word: str) -> str:
        lines = f'{{"de": "{word} eins", "en": "{word} one"}}\n'
        return hub.publish("tiny/bitext", {"README.md": CARD, "data/de-en.jsonl": lines.encode()}, "datasets")

    first = published("first")
    source = Hub.model_validate({"path": "tiny/bitext", "data_files": "data/{src}-{tgt}.jsonl", "columns": COLUMNS})
    assert rows_of(source, tmp_path / "home") == [("first eins", "first one")]
    assert source.pin(Pair.parse("de-en"), tmp_path / "home")[0] == first
    second = published("second")
    assert rows_of(source, tmp_path / "home") == [("first eins", "first one")], "until it is refreshed"
    assert source.refresh([Pair.parse("de-en")], tmp_path / "home") == [Pair.parse("de-en")]
    assert rows_of(source, tmp_path / "home") == [("second eins", "second one")]
    pinned = Hub.model_validate({**source.model_dump(), "revision": first})
    assert rows_of(pinned, tmp_path / "elsewhere") == [("first eins", "first one")]
    assert second != first


CARD, COLUMNS = b"---\nlicense: mit\n---\n", {"de": "de", "en": "en"}


@pytest.mark.slow
def test_the_command_checks_a_model_of_hf_endpoint(hub: HubServer, tmp_path: Path):
    commit = hub.publish(NAME, saved(tmp_path / "first"))
    home: Mapping[str, str] = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_CACHE": ""}
    env = {name: value for name, value in {**os.environ, **home}.items() if value}
    command = [sys.executable, "-m", "alignment_train", "check", NAME]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[:2]) == (
        0,
        [f"{NAME}: can be aligned", f"  commit          {commit}"],
    )
