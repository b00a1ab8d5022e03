import pytest

from alignment_train.layers import layer_index
from alignment_train.objectives.contrastive import Contrastive
from pipelines.errors import UserError


@pytest.mark.parametrize(
    ("layer", "blocks", "index"),
    [
        (0, 18, 0), (18, 18, 18), (-1, 18, 18), (-19, 18, 0), ("middle", 18, 9), ("middle", 5, 2),
        (0.5, 32, 16), (0.6, 18, 11), (0.03, 32, 1), (0.99, 6, 6), (0.01, 6, 0),
    ],
)  # fmt: skip
def test_a_layer_is_an_index_or_a_fraction_of_the_depth(layer: int | float | str, blocks: int, index: int) -> None:
    assert layer_index(layer, blocks) == index


@pytest.mark.parametrize("layer", [19, -20, 1.5, -0.5, "last"])
def test_a_layer_that_is_not_there_is_refused(layer: int | float | str) -> None:
    with pytest.raises(UserError, match=r"Expected: 'middle', a fraction between 0 and 1, or -19 to 18 for a model of"):
        layer_index(layer, 18)


@pytest.mark.parametrize("layer", [3, 0.6, "auto", "middle", -1])
def test_recipes_keep_a_layer_as_it_is_written(layer: int | float | str) -> None:
    kept = Contrastive.model_validate({"layer": layer}).layer
    assert (kept, type(kept)) == (layer, type(layer))


@pytest.mark.parametrize("layer", [1.5, 0.0, "last"])
def test_recipes_refuse_what_is_no_layer(layer: float | str) -> None:
    if layer == 0.0:
        assert Contrastive.model_validate({"layer": layer}).layer == 0
        return
    with pytest.raises(ValueError, match="layer"):
        Contrastive.model_validate({"layer": layer})
