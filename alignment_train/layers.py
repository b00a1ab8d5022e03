"""Which hidden state a layer setting names."""

from pipelines.errors import UserError


def layer_index(layer: int | str, blocks: int) -> int:
    """Index of `layer` in `hidden_states`: 0 the embeddings, `middle` half the blocks, -1 the normed last.

    blocks: number of blocks of the model. ValueError where there is no such layer.
    """
    if layer == "middle":
        return blocks // 2
    if isinstance(layer, int) and -blocks - 1 <= layer <= blocks:
        return layer % (blocks + 1)
    raise UserError(
        f"layer: found {layer!r}. Allowed: 'middle', or {-blocks - 1} to {blocks} for a model of {blocks} blocks "
        f"(0 is the embeddings, -1 the last). Choose one of them."
    )
