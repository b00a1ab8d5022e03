"""Text -> the key under which two texts count as the same; duplicates and evaluation overlap are found by it."""

import pyarrow as pa
import pyarrow.compute as pc


def match_key(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """`texts` in NFC without case, punctuation, spaces and invisible characters; symbols such as + and € stay.

    Case goes by upper and then lower case, which, unlike lower case alone, joins Greek final and other sigmas. The
    key is empty where a text has nothing else.
    """
    bare = pc.replace_substring_regex(texts, r"[\p{P}\p{Z}\p{C}]+", "")
    return pc.utf8_normalize(pc.utf8_lower(pc.utf8_upper(bare)), form="NFC")
