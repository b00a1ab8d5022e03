"""Settings of generation_config.json: the tokens at which generation stops, and values that transformers can save."""

from transformers import GenerationConfig

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
"""Settings that have no effect without do_sample; transformers refuses to save them without it."""


def stop_tokens(eos_token_id: int | list[int] | None) -> list[int]:
    """The tokens of an `eos_token_id` setting as a list."""
    return [] if eos_token_id is None else [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)


def add_stop_token(config: GenerationConfig, token: int) -> None:
    """Make generation also stop at `token`."""
    stops = stop_tokens(config.eos_token_id)
    if token in stops:
        return
    config.eos_token_id = [*stops, token] if stops else token
    config._from_model_config = False  # transformers would recreate it from config.json
    if not config.do_sample and any(getattr(config, name) is not None for name in SAMPLING):
        config.do_sample = True  # evidently intended


def savable(config: GenerationConfig) -> tuple[GenerationConfig, list[str]]:
    """A configuration that transformers can save, and notes on what was changed.

    Many checkpoints have a temperature without do_sample: they can be loaded, but not saved after a change.
    """
    if _is_consistent(config):
        return config, []
    if not config.do_sample:
        config.do_sample = True
        if _is_consistent(config):
            return config, ["generation_config.json has sampling settings but no do_sample, which is set to true"]
    kept = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**kept), ["contradictory settings of generation_config.json are left out"]


def _is_consistent(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
