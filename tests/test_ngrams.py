import numpy as np
import pytest

from pipelines.evals._ngrams import cosines
from pipelines.evals.retrieval import found

GERMAN = ["Angela Merkel besuchte 2016 Paris.", "Der Hund schläft.", "แมว", "东京"]
ENGLISH = ["In 2016 Angela Merkel visited Paris.", "The dog sleeps.", "cat", "东京 Tokyo"]


def test_names_and_numbers_alone_find_a_translation():
    cosine = cosines(GERMAN, ENGLISH)
    assert cosine.shape == (4, 4)
    assert cosine[0].argmax() == 0
    assert cosine[0, 0] > 0.4
    assert (cosine[2] == 0).all(), "no trigram in common: as near to all"
    assert found(cosine)[0][[0, 2]].tolist() == [1, 1 / 4]


def test_a_text_is_its_own_likeness_whatever_case_and_spaces():
    texts = [*GERMAN[:2], "AB  cd"]
    assert np.diag(cosines(texts, [text.upper().replace(" ", "   ") for text in texts])) == pytest.approx([1, 1, 1])
    assert cosines(["", "a"], ["", "b"]).tolist() == [[0, 0], [0, 0]]


def test_the_cosine_is_that_of_a_loop():
    src, tgt = ["abcab cab", "xyz"], ["abca", "cab xyz xyz"]

    def grams(text: str) -> list[str]:
        text = f" {text} "
        return [text[i : i + 3] for i in range(len(text) - 2)]

    def weights(text: str) -> dict[str, float]:
        with_it = {gram: sum(gram in grams(other) for other in (*src, *tgt)) for gram in grams(text)}
        return {gram: grams(text).count(gram) * np.log(5 / (1 + with_it[gram])) for gram in grams(text)}

    def length(vector: dict[str, float]) -> float:
        return sum(number**2 for number in vector.values()) ** 0.5

    expected = [
        [sum(a[g] * b.get(g, 0) for g in a) / length(a) / length(b) for b in map(weights, tgt)]
        for a in map(weights, src)
    ]
    assert cosines(src, tgt) == pytest.approx(np.array(expected))
