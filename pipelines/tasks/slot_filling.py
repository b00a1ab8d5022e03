"""Slot filling: which parts of a command are a date, a song, a place? MASSIVE's rows, or CoNLL columns as in xSID.

Sources: mid-align (Liu and Niehues 2025, arXiv 2502.14830), its prompt and its form of the answer; data in the formats
of MASSIVE (FitzGerald et al. 2023, arXiv 2204.08582) and xSID (van der Goot et al. 2021, arXiv 2105.07316).
"""

from pipelines.tasks._slots import Slots
from pipelines.tasks._spans import SpanData


class SlotFilling(SpanData, Slots):
    """MASSIVE: `{path: AmazonScience/massive, revision: refs/convert/parquet, data_files: '{lang}/train/*.parquet'}`.

    Its own JSON lines are read as well (`{path: 1.1/data, data_files: '{lang}.jsonl'}`), and CoNLL files such as
    `{lang}.train.conll`. An example is the same as those of other languages with its `id`.
    """
