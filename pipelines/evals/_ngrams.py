"""How alike two texts are without any model: shared character trigrams, as names, numbers and loans leave them.

Source: character n-grams for retrieval across European languages (McNamee and Mayfield 2004, doi
10.1023/B:INRT.0000009441.78971.be), weighted by tf-idf (Spärck Jones 1972, doi 10.1108/eb026526).
"""

from collections.abc import Sequence

import numpy as np

N = 3  # characters


def cosines(src: Sequence[str], tgt: Sequence[str]) -> np.ndarray:
    """float64 [N, N]: cosine of the tf-idf vectors of text i of `src` and text j of `tgt`; 0 with a text of none.

    Case is folded, and a text begins and ends with a space. A trigram counts ln((1 + 2N) / (1 + texts with it)).
    """
    rows, grams = _trigrams([*src, *tgt])
    vocabulary, column = np.unique(grams, return_inverse=True)
    each, counts = np.unique(rows * len(vocabulary) + column, return_counts=True)
    row, column = np.divmod(each, max(len(vocabulary), 1))
    texts = np.bincount(column, minlength=len(vocabulary))
    weight = counts * np.log((1 + len(src) + len(tgt)) / (1 + texts))[column]
    weight = weight / np.sqrt(np.maximum(np.bincount(row, weight**2, len(src) + len(tgt)), 1e-300))[row]
    first = row < len(src)
    both = np.zeros((2, len(vocabulary)), bool)
    both[0, column[first]] = both[1, column[~first]] = True
    shared = both[0] & both[1]  # only what stands on both sides adds to a product
    place = np.cumsum(shared) - 1
    left, right = (np.zeros((len(side), int(shared.sum()))) for side in (src, tgt))
    here = shared[column]
    left[row[first & here], place[column[first & here]]] = weight[first & here]
    right[row[~first & here] - len(src), place[column[~first & here]]] = weight[~first & here]
    return left @ right.T


def _trigrams(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(number of the text, trigram as one uint64) of every trigram of every text."""
    padded = [f" {' '.join(text.casefold().split())} " for text in texts]
    lengths = np.array([len(text) for text in padded])
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    of = np.repeat(np.arange(len(texts)), lengths)
    whole = np.equal(of[: -(N - 1)], of[N - 1 :])
    grams = (points[:-2] << np.uint64(42)) | (points[1:-1] << np.uint64(21)) | points[2:]  # a character has 21 bits
    return of[: -(N - 1)][whole], grams[whole]
