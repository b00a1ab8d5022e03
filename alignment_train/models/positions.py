"""The maximum text length of a model, by its configuration."""

from typing import Any

LIMITS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
"""Names of the limit in configurations, in order of preference."""
ROBERTA = ("roberta", "camembert", "xlm-roberta", "data2vec-text", "xmod")
"""Model types whose positions start after that of the padding token."""


def max_positions(config: Any) -> int | None:
    """The maximum number of tokens of a text; None without a limit (ALiBi, state-space models).

    Learned and tabulated positions cannot exceed it. Rotary ones can, but were not trained there.
    """
    kind, attention = str(config.model_type), getattr(config, "attn_config", None)
    is_alibi = any(getattr(part, "alibi", False) for part in (config, attention))
    if kind in ("bloom", "mpt") or is_alibi or getattr(config, "position_embedding_type", None) == "alibi":
        return None
    limit = next((value for name in LIMITS if (value := getattr(config, name, None))), None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    if kind.startswith(ROBERTA):
        return limit - 1 - (config.pad_token_id or 0)
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = [
        part["factor"] * part["original_max_position_embeddings"]
        for part in (rope, *rope.values())
        if isinstance(part, dict) and part.get("factor") and part.get("original_max_position_embeddings")
    ]
    if rope.get("rope_type") in ("linear", "dynamic"):  # the configuration has the limit before scaling
        scaled.append(limit * rope.get("factor", 1))
    return int(max([limit, *scaled]))
