"""Output for terminals, read by tests."""

import re

CONTROL_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def without_control_sequences(text: str) -> str:
    """Return `text` without the sequences by which `rich` colours and redraws lines."""
    return CONTROL_SEQUENCES.sub("", text)
