"""A task beside alignment: slots to fill, JSON to write, sentences to translate. The loss is on the answer alone.

Source: mid-align (Liu and Niehues 2025, arXiv 2502.14830), whose task loss it is: next-token cross-entropy on what the
prompt asks for, in turn with the contrast. The same as `instruction`, on the rows of `corpus.tasks`.
"""

from typing import ClassVar

from alignment_train.objectives import Reads
from alignment_train.objectives.instruction import Instruction


class Task(Instruction):
    """Next-token loss on the answers and their EOS."""

    reads: ClassVar[Reads] = "tasks"
