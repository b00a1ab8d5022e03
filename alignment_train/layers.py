"""The hidden state that a layer setting refers to."""

from pipelines.errors import UserError


def layer_index(layer: int | float | str, blocks: int) -> int:
    """Index of `layer` in `hidden_states` of a model with `blocks` blocks.

    Args:
        layer: An index (0 for the embeddings, -1 for the last, normalised state), a fraction of the depth between 0 and
            1, or `middle`, half of the depth.
        blocks: Number of blocks of the model.

    Raises:
        UserError: The model has no such layer.
    """
    if layer == "middle":
        return blocks // 2
    if isinstance(layer, float) and 0 < layer < 1:
        return round(layer * blocks)
    if isinstance(layer, int) and -blocks - 1 <= layer <= blocks:
        return layer % (blocks + 1)
    raise UserError(
        f"layer: found {layer!r}. Expected: 'middle', a fraction between 0 and 1, or {-blocks - 1} to {blocks} for a "
        f"model of {blocks} blocks (0 is the embeddings, -1 the last). Fix: use one of them."
    )
