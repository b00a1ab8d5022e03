"""A LanguageModel that nothing may be asked of: what tests plant in its place answers only what its eval needs."""

from collections.abc import Sequence

import numpy as np

from pipelines.tasks import Message


class Unasked:
    """Every question is an error; a fake of a test overrides those that it answers."""

    num_layers: int = 2
    trained_layer: int = 1

    def embed(self, texts: list[str], layers: list[int], pooling: str) -> dict[int, np.ndarray]:
        raise AssertionError("no states are to be asked for")

    def loss(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("no loss is to be asked for")

    def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("no likelihood is to be asked for")

    def generate(self, prompts: Sequence[str], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        raise AssertionError("no text is to be asked for")

    def reply(self, talks: Sequence[list[Message]], stop: Sequence[str], max_new_tokens: int) -> list[str]:
        raise AssertionError("no answer is to be asked for")
