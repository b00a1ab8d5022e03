import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from alignment_train.__main__ import main
from alignment_train.push import push
from pipelines.storage.store import Store
from tests.support.fake_metrics import figures
from tests.test_card import recipe

LORA = {"adapter": {"lora": {}}}
METRICS = {"base": figures({"deu_Latn-eng_Latn": 0.1}, {}), "aligned": figures({"deu_Latn-eng_Latn": 0.4}, {})}


class Hub:
    """As much of a hub as takes one commit; it keeps what it was sent."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.tokens.add(self.headers["Authorization"])
                status, answer = hub.answer(self.path, body)
                sent = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuses:
            return 403, {"error": "You may not write here"}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/it", "name": "me/it"}
        if path == "/api/validate-yaml":  # asked of every card
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/api/models/me/it/preupload/"):
            asked = json.loads(body)["files"]
            return 200, {
                "files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            }
        assert path.startswith("/api/models/me/it/commit/"), path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{self.url}/me/it/commit/0123456789abcdef", "commitOid": "0123456789abcdef"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An evaluated store; its adapter is made up."""
    store = Store.open(tmp_path / "store", "planted")
    for asset in ("training_mix", "base_model"):
        with store.writing(asset) as out:
            (out.path / "log.jsonl").write_text(asset)
            out.commit(asset, {})
    with store.writing("align_model") as out:
        for name in ("adapter_model.safetensors", "adapter_config.json", "log.jsonl", "README.md"):
            (out.path / name).write_text(f"{name} as it was trained")
        out.commit("aligned", {}, numbers={"steps": 200})
    with store.writing("evaluation") as out:
        (out.path / "metrics.json").write_text(json.dumps(METRICS))
        out.commit("evaluation", {}, inputs={"align_model": "aligned"})
    return store


def test_a_model_goes_up_in_one_commit_with_the_evaluation_on_its_card(hub: Hub, store: Store):
    where = push(recipe(**LORA, base={"model": "a/b"}), store, "me/it", private=True)
    assert where == f"{hub.url}/me/it"
    assert hub.created == [{"name": "it", "organization": "me", "visibility": "private"}]
    assert sorted(hub.files) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "log.jsonl"]
    assert hub.files["adapter_model.safetensors"] == b"adapter_model.safetensors as it was trained"
    card = hub.files["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "me/it")' in card
    assert "| German – English | recall@1 | 10.0 % | – | 40.0 % | – |" in card
    assert hub.tokens == {"Bearer hf_secret"}
    assert (store.folder("align_model") / "README.md").read_text() == "README.md as it was trained"


def test_an_adapter_of_a_seed_takes_its_base_along(hub: Hub, store: Store):
    push(recipe(**LORA), store, "me/it")
    assert hub.files["base_model/log.jsonl"] == b"base_model"
    assert 'from_pretrained("me/it", subfolder="base_model")' in hub.files["README.md"].decode()


def test_an_adapter_of_a_local_folder_is_not_uploaded(hub: Hub, store: Store, tmp_path: Path):
    with pytest.raises(ValueError, match="an adapter of .*, on this machine, which nobody else has"):
        push(recipe(**LORA, base={"model": str(tmp_path)}), store, "me/it")
    assert not hub.files


def test_an_evaluation_of_another_model_stays_off_the_card(hub: Hub, store: Store):
    with store.writing("evaluation") as out:
        (out.path / "metrics.json").write_text(json.dumps(METRICS))
        out.commit("evaluation", {}, inputs={"align_model": "an older one"})
    push(recipe(**LORA, base={"model": "a/b"}), store, "me/it")
    assert "Not part of this card." in hub.files["README.md"].decode()


def test_what_hinders_is_said_in_one_sentence(hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    hub.refuses = True
    with pytest.raises(ValueError, match="push to me/it: the hub could not be written to: .*403"):
        push(recipe(), store, "me/it")
    with pytest.raises(ValueError, match="push to no name/at all: the hub could not be written to: Repo id"):
        push(recipe(), store, "no name/at all")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="the hub could not be written to: .*refused.* Needed: a network"):
        push(recipe(), store, "me/it")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="push to me/it: found no token. Needed: one that may write"):
        push(recipe(), store, "me/it")


def test_the_command_asks_nothing(hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: sample.yaml\n")
    assert main(["push", str(file), "--store", str(tmp_path / "empty"), "--to", "me/it"]) == 1
    assert "nothing is in it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["push", str(file), "--store", str(tmp_path / "empty")])
    assert "push needs --to" in capsys.readouterr().err
