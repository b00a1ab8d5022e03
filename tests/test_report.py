import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alignment_train.training.progress_log import Reporter
from pipelines.progress import no_progress


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def step(reporter: Reporter, number: int, loss: float, **more: float) -> None:
    reporter.step(number, 4, {"a": loss}, 10, more, {"a": 8 * number}, 0.0)


def test_tensorboard_has_each_figure_of_the_log_and_none_of_what_a_killed_run_did_in_vain(tmp_path):
    reporter = Reporter("test", tmp_path / "log.jsonl", no_progress)
    reporter.rewind(0)
    for number in range(3):
        step(reporter, number, 9.0 - number, **{"gradient_norm/a": 0.5})
    reporter.close()
    reporter = Reporter("test", tmp_path / "log.jsonl", no_progress)
    reporter.rewind(1)  # its last checkpoint was that after the first step
    for number in (1, 2):
        step(reporter, number, 2.0 - number)
    reporter.close()
    found = curves(tmp_path)
    assert found["loss/a"] == [(0, 9), (1, 1), (2, 0)]
    assert found["gradient_norm/a"] == [(0, 0.5)]
    assert found["rows/a"] == [(0, 0), (1, 8), (2, 16)]
    assert set(found) == {"loss/a", "gradient_norm/a", "rows/a", "tokens", "tokens_per_second"}


def test_the_line_shows_mfu_where_it_is_known_and_the_last_figures_go_to_the_manifest(tmp_path):
    told: list[str] = []
    reporter = Reporter("test", tmp_path / "log.jsonl", lambda done, total=0, note="": told.append(note))
    reporter.step(0, 4, {"a": 1.0}, 10, {"gradient_norm": 3.0, "gradient_cosine/a/b": 0.25}, {"a": 8})
    reporter.step(1, 4, {"a": 1.0}, 10, {"gradient_norm": 2.0, "learning_rate": 0.1}, {"a": 8}, 1e-9)
    assert ["MFU" in note for note in told] == [False, True]
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["mfu"] < 1
    assert reporter.last() == {
        "gradient_norm": 2.0, "gradient_cosine/a/b": 0.25, "mfu": last["mfu"],
        "tokens_per_second": last["tokens_per_second"],
    }  # fmt: skip


def test_more_than_the_peak_is_a_peak_measured_wrong_and_not_shown(tmp_path):
    told: list[str] = []
    reporter = Reporter("test", tmp_path / "log.jsonl", lambda done, total=0, note="": told.append(note))
    reporter.step(0, 4, {"a": 1.0}, 10, {}, {"a": 8}, 1e6)
    assert "MFU" not in told[0]
    assert "mfu" not in json.loads((tmp_path / "log.jsonl").read_text())
