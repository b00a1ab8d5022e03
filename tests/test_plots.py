import struct
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pipelines.report import plot_states, plots
from pipelines.report.plot_states import _mapped, _pca, language_map, ways
from pipelines.report.plot_training import POINTS, loss_curves, read_log
from tests.support.fake_metrics import figures, result

METRICS = {
    "base": figures({"deu_Latn-eng_Latn": 0.1}, {}),
    "aligned": figures({"deu_Latn-eng_Latn": 0.4}, {}),
    "chance": {"retrieval/deu_Latn-eng_Latn/recall@1": 0.01},
    "trained_layer": 2,
}


def recall_by_layer(metrics: dict, svg: bool = False) -> bytes | None:
    return plots.recall_by_layer(result(metrics), svg)


def gaps(metrics: dict, svg: bool = False) -> bytes | None:
    return plots.gaps(result(metrics), svg)


def guards(metrics: dict, svg: bool = False) -> bytes | None:
    return plots.guards(result(metrics), svg)


def heat_map(metrics: dict, svg: bool = False) -> bytes | None:
    return plots.heat_map(result(metrics), svg)


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def log(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_picture_is_the_same_bytes_twice():
    first = recall_by_layer(METRICS)
    assert first is not None
    assert size(first) == (1000, 640)
    assert first == recall_by_layer(METRICS)
    assert first != recall_by_layer({**METRICS, "trained_layer": 3})
    assert recall_by_layer(METRICS, svg=True) == recall_by_layer(METRICS, svg=True)


def test_recall_of_centered_states_has_a_panel_of_its_own_where_it_was_measured():
    def centered(key: str) -> str:
        return key.replace("/recall@1/", "/recall@1_centered/")

    both = {
        name: {**own, **{centered(key): item for key, item in own.items()}} if name in ("base", "aligned") else own
        for name, own in METRICS.items()
    }
    one, two = ((recall_by_layer(metrics, svg=True) or b"").decode() for metrics in (METRICS, both))
    for title in ("States as they are", "States minus the mean of each language"):
        assert two.count(title) == 1
        assert title not in one


def test_an_svg_follows_the_page():
    svg = (recall_by_layer(METRICS, svg=True) or b"").decode()
    assert svg.startswith("<svg")
    assert 'viewBox="0 0 360 230.4"' in svg
    assert "currentColor" in svg
    assert "var(--c0072b2, #0072b2)" in svg
    assert "DejaVu" not in svg
    for label in ("base", "aligned", "chance (1 %)", "trained", "Layer (0 is the embeddings)"):
        assert label in svg
    assert "control" not in svg


def crossed(value: float, shared: bool) -> dict[str, dict[str, float]]:
    """Recall@1 each way of three languages: of all their pairs, or of those with English."""
    pairs = ["deu_Latn-eng_Latn", "eng_Latn-swh_Latn", *(["deu_Latn-swh_Latn"] if shared else [])]
    keys = [f"retrieval/{pair}/recall@1_from_{way}" for pair in pairs for way in ("src", "tgt")]
    return {key + ("/shared" if shared else ""): {"value": value + i / 100} for i, key in enumerate(keys)}


def test_the_heat_map_has_a_cell_for_each_direction_that_was_measured():
    svg = (heat_map({"base": crossed(0.1, True), "aligned": crossed(0.4, True)}, svg=True) or b"").decode()
    assert [f">{number}<" in svg for number in (10, 15, 40, 45)] == [True] * 4
    assert svg.count(">Swahili<") == 4
    some = {"base": crossed(0.1, False), "aligned": crossed(0.4, False)}
    svg = (heat_map(some, svg=True) or b"").decode()
    assert ">43<" in svg
    assert ">45<" not in svg
    assert heat_map(METRICS) is None
    assert heat_map({"base": dict(list(crossed(0.1, False).items())[:2])}) is None, "of one pair there is no map"


def test_guards_are_drawn_by_layer_where_they_were_measured():
    def of(rank: float) -> dict[str, dict[str, float]]:
        langs, key = ("deu_Latn", "eng_Latn"), "representation/{}/effective_rank/layer={}"
        return {
            key.format(lang, n): {"value": rank + n, "low": rank, "high": rank + 9} for lang in langs for n in range(4)
        }

    svg = (guards({"base": of(90), "aligned": of(2)}, svg=True) or b"").decode()
    assert ">Effective rank<" in svg
    assert "Uniformity" not in svg
    assert guards({"base": of(90)}) != guards({"base": of(2)})
    assert guards(METRICS) is None


def states(**shift: float) -> dict[str, dict[str, np.ndarray]]:
    """Two languages apart by `shift` in each model."""
    rows = np.random.default_rng(0).normal(size=(2, 30, 6))
    return {
        name: {"deu_Latn": rows[0], "eng_Latn": rows[1] + far * np.eye(6)[0]} for name, far in shift.items()
    }  # fmt: skip


def test_the_map_shows_the_same_sentences_on_the_same_axes():
    both = states(base=20, aligned=0)
    svg = language_map(both, svg=True).decode()
    for label in ("before: base", "after: aligned", "German", "English", "of variance)"):
        assert label in svg
    assert language_map(both, svg=True).decode() == svg
    assert language_map(states(base=0, aligned=20), svg=True).decode() != svg
    assert ways({"base": both["base"]}) == []
    assert ways(both) == ["pca"], "too few for neighbourhoods of 15"


def test_principal_axes_are_those_of_the_variance_and_keep_their_sense():
    rows = np.random.default_rng(1).normal(size=(50, 5)) * [1, 7, 1, 3, 1]
    places, labels = _pca(rows)
    centred = rows - rows.mean(axis=0)
    assert abs(np.corrcoef(places[:, 0], centred[:, 1])[0, 1]) > 0.98
    assert places.var(axis=0)[0] > places.var(axis=0)[1] > rows[:, 0].var()
    assert labels[0].startswith("First axis (")
    turned = _pca(rows * [1, -1, 1, 1, 1])[0]
    assert np.abs(places).max(axis=0) == pytest.approx(places.max(axis=0))
    assert turned == pytest.approx(places)


def test_umap_is_drawn_where_it_is_there_and_has_enough_sentences(monkeypatch: pytest.MonkeyPatch):
    seen = []

    class Umap(ModuleType):
        def UMAP(self, random_state: int):
            return SimpleNamespace(fit_transform=lambda rows: seen.append((random_state, rows.shape)) or rows[:, :2])

    found = Umap("umap")
    found.__spec__ = ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", found)
    monkeypatch.setattr(plot_states, "UMAP_FROM", 120)
    both = states(base=20, aligned=0)
    assert ways(both) == ["pca", "umap"]
    assert "UMAP 1" in language_map(both, "umap", svg=True).decode()
    assert seen == [(0, (120, 6))]
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setattr(plot_states.importlib.util, "find_spec", lambda _: None)
    assert ways(both) == ["pca"]


def test_a_map_of_many_languages_shows_fewer_of_each():
    many = {f"l{i}": np.ones((200, 2)) for i in range(40)}
    assert {len(rows) for rows in _mapped(many).values()} == {30}
    assert {len(rows) for rows in _mapped(dict(list(many.items())[:2])).values()} == {60}


def test_baselines_are_lines_beside_chance():
    key = "retrieval/deu_Latn-eng_Latn/recall@1"
    svg = recall_by_layer({**METRICS, "random": {key: {"value": 0.02}}, "ngrams": {key: {"value": 0.05}}}, svg=True)
    for label in ("chance (1 %)", "random model (2 %)", "n-grams (5 %)"):
        assert label in (svg or b"").decode()


def test_two_pictures_share_no_id(tmp_path: Path):
    path = log(tmp_path / "log.jsonl", ['{"step": 0, "loss": {"a": 2.0}}', '{"step": 1, "loss": {"a": 1.0}}'])
    pictures = [recall_by_layer(METRICS, svg=True), loss_curves({"base": path}, svg=True)]
    ids = [{part.split('"')[0] for part in (svg or b"").decode().split(' id="')[1:]} for svg in pictures]
    assert len(ids[0]) > 20
    assert not ids[0] & ids[1]


def test_without_figures_there_is_no_picture(tmp_path: Path):
    assert recall_by_layer({"base": {}, "aligned": {"loss/eng_Latn/nats_per_token": {"value": 4.0}}}) is None
    assert loss_curves({"base": tmp_path / "none.jsonl"}) is None


def test_a_log_is_read_in_step_order_with_resumed_and_broken_lines(tmp_path: Path):
    lines = [
        '{"step": 0, "loss": {"contrastive": 3.0, "instruction": 2.0}}',
        '{"step": 1, "loss": {"contrastive": 2.5, "instruction": null}}',
        '{"step": 1, "loss": {"contrastive": 2.0}}',
        '{"step": 2, "loss": {"contr',
    ]
    assert read_log(log(tmp_path / "log.jsonl", lines)) == {
        "contrastive": [(0, 3.0), (1, 2.0)],
        "instruction": [(0, 2.0)],
    }


def test_a_long_curve_is_thinned_to_means(tmp_path: Path):
    lines = [f'{{"step": {step}, "loss": {{"a": {step % 2}}}}}' for step in range(10 * POINTS)]
    path = log(tmp_path / "log.jsonl", lines)
    svg = loss_curves({"base": path, "aligned": path}, svg=True) or b""
    assert len(svg) < 100_000
    assert size(loss_curves({"base": path, "aligned": path}) or b"")[0] == 1000


def test_gaps_are_drawn_a_row_a_language_and_the_same_twice():
    found = {f"xcopa/{lang}/acc": {"value": 0.2} for lang in ("all", "swh_Latn", "tha_Thai")}
    metrics = {
        "control": {"xcopa/swh_Latn/acc": {"value": 1}},
        "gaps": {"base": found, "aligned": found, "aligned-control": {}},
    }
    svg = (gaps(metrics, svg=True) or b"").decode()
    assert svg == (gaps(metrics, svg=True) or b"").decode()
    for label in ("Swahili", "Thai", "xcopa, acc", "Behind English"):
        assert label in svg
    assert "Mean" not in svg
    assert gaps({"gaps": {"aligned": {}}}) is None
    assert gaps({}) is None
