import io
import random
from pathlib import Path

import pytest

from pipelines.fetching import ranged
from pipelines.fetching.download import probe
from pipelines.fetching.ranged import Ranged, Unranged
from pipelines.fetching.transport import DownloadError
from tests.support.opus_server import FAULTS, Mirror

DATA = random.Random(0).randbytes(10_500)
PLACES = (0, 1, 999, 1_000, 5_500, 10_499, 10_500, 20_000)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranged, "BLOCK", 1_000)


def _open(mirror: Mirror, folder: Path) -> Ranged:
    mirror.files["/big.zip"] = DATA
    url = mirror.url + "/big.zip"
    return Ranged(probe(url), folder, lambda: url)


def _asked(mirror: Mirror) -> list[str]:
    return [wanted for method, _, wanted in mirror.requests if method == "GET"]


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_it_reads_like_the_file(opus_server: Mirror, tmp_path: Path, fault: str | None) -> None:
    opus_server.faults = {fault: 0.3 if fault == "stall" else 0.5} if fault else {}
    plain = io.BytesIO(DATA)
    with _open(opus_server, tmp_path) as file:
        buffered = io.BufferedReader(file, 16)
        for place in PLACES:
            for size in (1, 10, 1_500):
                assert (buffered.seek(place), buffered.read(size)) == (plain.seek(place), plain.read(size))
        assert buffered.seek(-5, io.SEEK_END) == 10_495
        assert buffered.read() == DATA[-5:]


def test_only_what_is_asked_for_comes_twice_and_stays(opus_server: Mirror, tmp_path: Path) -> None:
    with _open(opus_server, tmp_path) as file:
        file.seek(2_500)
        assert file.read(10) == DATA[2_500:2_510]
    assert _asked(opus_server) == ["bytes=2000-2999", "bytes=2000-2124", "bytes=2125-2999"]
    opus_server.close()
    with Ranged(file._remote, tmp_path, _nobody) as again:
        again.seek(2_990)
        assert again.read(10) == DATA[2_990:3_000]


def _nobody() -> str:
    raise AssertionError("the address is asked for though the block is here")


def test_a_damaged_block_is_fetched_again(opus_server: Mirror, tmp_path: Path) -> None:
    with _open(opus_server, tmp_path) as file:
        file.read(10)
    (block,) = tmp_path.iterdir()
    block.write_bytes(b"x" + DATA[1:1_000])
    with _open(opus_server, tmp_path) as file:
        assert file.read(10) == DATA[:10]
    assert block.read_bytes() == DATA[:1_000]


def test_a_server_without_ranges_is_named(opus_server: Mirror, tmp_path: Path) -> None:
    opus_server.ranges = False
    with _open(opus_server, tmp_path) as file, pytest.raises(Unranged, match=r"answers 200 to Range\. Needed: 206"):
        file.read(1)
    assert len(_asked(opus_server)) == ranged.WHOLE_ANSWERS


def test_another_file_at_the_address_is_refused(opus_server: Mirror, tmp_path: Path) -> None:
    with _open(opus_server, tmp_path) as file:
        opus_server.files["/big.zip"] = DATA[:-1]
        with pytest.raises(
            DownloadError, match=r"found 10,499 bytes with ETag .* Allowed: 10,500 bytes with .*lock file"
        ):
            file.read(1)


def test_a_server_that_never_says_the_same_twice_is_given_up(opus_server: Mirror, tmp_path: Path) -> None:
    with _open(opus_server, tmp_path) as file:
        file._copy = lambda *_: random.randbytes(9)  # type: ignore[method-assign]
        with pytest.raises(DownloadError, match="of 30 copies of bytes 0 to 1,000 no 2 are the same"):
            file.read(1)
