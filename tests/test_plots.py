import struct
from pathlib import Path

from alignment_train.plots import POINTS, gaps, loss_curves, read_log, recall_by_layer
from tests.evaluated import figures

METRICS = {
    "base": figures({"deu_Latn-eng_Latn": 0.1}, {}),
    "aligned": figures({"deu_Latn-eng_Latn": 0.4}, {}),
    "chance": {"retrieval/deu_Latn-eng_Latn/recall@1": 0.01},
    "trained_layer": 2,
}


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


def test_two_pictures_share_no_id(tmp_path: Path):
    path = log(tmp_path / "log.jsonl", ['{"step": 0, "loss": {"a": 2.0}}', '{"step": 1, "loss": {"a": 1.0}}'])
    pictures = [recall_by_layer(METRICS, svg=True), loss_curves({"base": path}, svg=True)]
    ids = [{part.split('"')[0] for part in (svg or b"").decode().split(' id="')[1:]} for svg in pictures]
    assert len(ids[0]) > 20
    assert not ids[0] & ids[1]


def test_without_figures_there_is_no_picture(tmp_path: Path):
    assert recall_by_layer({"base": {}, "aligned": {"loss/eng_Latn/nats_per_token": 4.0}}) is None
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
    metrics = {"control": {"x": 1}, "gaps": {"base": found, "aligned": found, "aligned-control": {}}}
    svg = (gaps(metrics, svg=True) or b"").decode()
    assert svg == (gaps(metrics, svg=True) or b"").decode()
    for label in ("Swahili", "Thai", "xcopa, acc", "Behind English"):
        assert label in svg
    assert "Mean" not in svg
    assert gaps({"gaps": {"aligned": {}}}) is None
    assert gaps({}) is None
