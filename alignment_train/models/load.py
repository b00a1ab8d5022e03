"""Base models from a local folder or a hub, checked before their weights are used.

`load` reads a model that this program wrote or checked before; `load_base` reads one that a recipe names:

1. The folder (`models.folder`): configuration, weight files and tokenizer files are whole, and of possible sizes. Of a
   GGUF file (`models.gguf`), its header; transformers makes all three of it, the weights dequantised.
2. The shape that the configuration describes is built without memory and compared with what the files hold.
3. The weights are read; of a model for images or sound, its language model alone.
4. The model is run on a few tokens: it is causal, every block runs once, and all numbers are finite.
5. The tokenizer is made to fit: an end-of-text and a padding token, and an embedding for every token.

What a user can change about a model that fails is a UserError; what was changed or is worth knowing, a note.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils.logging import set_verbosity_error

from alignment_train.models import adapter as adapters
from alignment_train.models import folder as folders
from alignment_train.models import gguf as ggufs
from alignment_train.models.folder import Folder
from alignment_train.models.model import Model
from alignment_train.settings import HUB_ID, AdapterSettings, Base
from pipelines.errors import UserError

if "TRANSFORMERS_VERBOSITY" not in os.environ:
    set_verbosity_error()  # what it warns of is checked and explained here

TEXT_ONLY = {
    "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen2_5_omni_text": "qwen2", "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe", "qwen3_omni_moe_text": "qwen3_moe",
}  # fmt: skip
"""Language models inside others that have no class of their own: the model types that compute the same of text alone.

Each is verified by running both."""
HUB_FILES = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.py"]
HUB_IGNORED = ["*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors", "*/*.bin", "consolidated*"]
SLACK = 4  # how many times more numbers than its files hold a model may have: tied or missing weights are no attack
SMALL = 10**9  # buffers, in numbers, that any machine has room for
TOKENS = 8  # of the text by which a model is tried
SHOWN = 3  # names in a message


@dataclass
class Findings:
    """What is known of a base model, in words."""

    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Make a UserError one of the problems."""
        try:
            yield
        except UserError as error:
            self.problems.append(str(error))


def load(where: str | Path, revision: str | None = None, trust_remote_code: bool = False) -> Model:
    """The model at a local path or of a hub id, in float32.

    Code that lies beside its weights is run where `trust_remote_code` says so, else only transformers' own. UserError
    where it cannot be loaded, or where weights are missing.
    """
    place = f"model {where}"
    folder = folders.inspect(_fetched(where, revision, place), place)
    config = _config(folder, place, trust_remote_code)
    tokenizer = _tokenizer(folder, place, trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    reading = _read(folder, config, place, trust_remote_code)
    reading.check_whole(place)
    return Model(reading.lm, tokenizer)


def untrained(where: str | Path, seed: int, trust_remote_code: bool = False) -> Model:
    """A model of the shape and with the tokenizer of the one at `where`, its weights random, by `seed`."""
    config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")  # random weights are plain ones
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
        return Model(lm, tokenizer)


def load_base(base: Base, adapter: AdapterSettings | None = None) -> Model:
    """The model that a recipe names by path or hub id, checked; UserError with every problem that it has.

    adapter: what is trained in place of all weights, which decides whether they may be quantised.
    """
    model, findings = examine(base, adapter)
    if findings.problems or model is None:
        raise UserError("\n".join(findings.problems))
    return model


def examine(base: Base, adapter: AdapterSettings | None = None) -> tuple[Model | None, Findings]:
    """The model and all that the checks found; None where it cannot be used."""
    if base.model is None:
        raise AssertionError("a seed model is made, not loaded")
    findings = Findings()
    model = None
    with findings.collecting():
        model = _examine(base, adapter, findings)
        model.notes, model.commit = findings.notes, findings.facts.get("commit")
    return None if findings.problems else model, findings


def _examine(base: Base, adapter: AdapterSettings | None, findings: Findings) -> Model:
    place, facts = f"train.base {base.model}", findings.facts
    path = _fetched(base.model or "", base.revision, place, base.gguf)
    if base.hub and path.parent.name == "snapshots":
        facts["commit"] = path.name
    folder = folders.inspect(path, place, base.gguf)
    facts["weights"] = f"{folder.bytes / 1e6:,.1f} MB in {len(folder.files)} file(s)" + (
        f", {', '.join(folder.dtypes[:2])}" if folder.dtypes else ""
    )
    config = _config(folder, place, base.trust_remote_code)
    tokenizer = _tokenizer(folder, place, base.trust_remote_code)
    check_quantization(folder.quantization, adapter, place)
    reading = _read(folder, config, place, base.trust_remote_code)
    lm = reading.lm
    facts["architecture"] = type(lm).__name__ + (f", inside {reading.wrapper}" if reading.wrapper else "")
    count = sum(p.numel() for p in lm.parameters())
    facts["parameters"] = f"{count:,}, {4 * count / 1e6:,.1f} MB in float32"
    if folder.gguf:
        findings.notes.append(f"{folder.gguf} is dequantised to float32: its types are {', '.join(folder.dtypes)}")
    findings.notes += reading.notes()
    check_finite(lm, place)
    model = Model(lm, tokenizer)
    check_causal(model, place)
    facts["causal"] = "yes: no position depends on a later one"
    reading.check_whole(place)
    check_blocks(model, place)
    widths = sorted({model.width(layer) for layer in range(len(model.blocks) + 1)})
    facts["blocks"], facts["width"] = str(len(model.blocks)), " and ".join(map(str, widths))
    facts["positions"] = f"{model.positions:,}" if model.positions else "no limit"
    with findings.collecting():
        findings.notes += fit_special_tokens(lm, tokenizer, place)
    with findings.collecting():
        findings.notes += fit_embeddings(lm, tokenizer, place)
    rows, _ = _rows(lm)
    facts["vocabulary"] = f"{len(tokenizer):,} tokens, {rows:,} rows of embeddings"
    tied = lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    facts["output head"] = "tied to the embeddings" if tied else "its own"
    facts["special tokens"] = ", ".join(
        f"{name} {getattr(tokenizer, f'{name}_token') or 'none'}" for name in ("bos", "eos", "pad")
    )
    try:
        facts["conversations"] = model.chat.describe()
    except UserError as error:  # a problem of recipes that have some
        facts["conversations"] = f"cannot be used. {error}"
    facts["LoRA targets"] = ", ".join(adapters.linear_layers(model)) or "none"
    return model


def check_quantization(method: str | None, adapter: AdapterSettings | None, place: str) -> None:
    """UserError where weights are quantised in a way that cannot be trained on here."""
    if method is None:
        return
    plain = "name the checkpoint that it was quantised from"
    if method != "bitsandbytes":
        raise UserError(
            f"{place}: found weights quantised by {method}. Expected: float weights, or bitsandbytes with an adapter. "
            f"Fix: {plain}, or one quantised by bitsandbytes with train.adapter: {{lora: {{}}}}."
        )
    if adapter is None or adapter.lora is None:
        raise UserError(
            f"{place}: found weights quantised by bitsandbytes, which cannot be trained. Expected: float weights for "
            f"training all of them. Fix: {plain}, or train an adapter on it (train.adapter: {{lora: {{}}}}) with "
            f"bitsandbytes installed."
        )
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"{place}: found weights quantised by bitsandbytes, which is not installed. Expected: the package. Fix: "
            f"pip install bitsandbytes, or {plain}."
        )


@torch.no_grad()
def check_finite(lm: nn.Module, place: str) -> None:
    """UserError where a weight has a NaN or an infinity."""
    bad = [name for name, p in lm.named_parameters() if p.is_floating_point() and not torch.isfinite(p).all()]
    if bad:
        raise UserError(
            f"{place}: found NaN or infinite numbers in {_some(bad)}. Expected: finite weights. Fix: download the "
            f"model again, or take an earlier checkpoint of it."
        )


def check_causal(model: Model, place: str) -> None:
    """UserError where a position depends on later ones: in an encoder, or a decoder that reads in both directions.

    Tokens after a cut are changed; what comes before it must stay the same, and did not in an encoder.
    """
    ids = _text(model)
    before = _run(model, ids, place)
    for cut in (1, TOKENS // 2):
        other = ids.clone()
        other[:, cut:] = (ids[:, cut:] + 7) % _rows(model.lm)[0]
        change = (before - _run(model, other, place))[:, :cut].abs().max()
        scale = before[:, :cut].abs().max()
        if not change <= 1e-4 * scale + 1e-6:
            raise UserError(
                f"{place}: in {type(model.lm).__name__} a token sees later ones: changing the tokens after position "
                f"{cut - 1} changes the state there by {float(change / scale):.1%}. Expected: a decoder (a causal "
                f"language model). Fix: encoders such as BERT or XLM-R are not aligned here; take a generative base "
                f"model."
            )


def check_blocks(model: Model, place: str) -> None:
    """UserError where the state before each block is not one vector for each token, computed once."""
    ids, blocks = _text(model).repeat(2, 1), model.blocks
    runs = dict.fromkeys(range(len(blocks)), 0)

    def count(layer: int) -> Any:
        def hook(*_: Any) -> None:
            runs[layer] += 1

        return hook

    hooks = [block.register_forward_hook(count(layer)) for layer, block in enumerate(blocks)]
    try:
        with model.recording(range(len(blocks) + 1)) as states:
            _run(model, ids, place)
    finally:
        for hook in hooks:
            hook.remove()
    shapes = [tuple(states[layer].shape) if layer in states else None for layer in range(len(blocks) + 1)]
    regular = all(shape is not None and len(shape) == 3 and shape[:2] == tuple(ids.shape) for shape in shapes)
    if regular and set(runs.values()) == {1}:
        return
    raise UserError(
        f"{place}: the {len(blocks)} blocks of {type(model.lm).__name__} do not pass on one state of each token: found "
        f"shapes {', '.join(sorted({str(shape) for shape in shapes}))} for {ids.shape[0]} texts of {ids.shape[1]} "
        f"tokens. Expected: a model whose blocks run one after the other. Fix: take another base model."
    )


def fit_special_tokens(lm: Any, tokenizer: Any, place: str) -> list[str]:
    """Give the tokenizer an end-of-text and a padding token, and generation the ends that it stops at; notes.

    UserError where no token is known to end a text.
    """
    notes, generation = [], lm.generation_config
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = added | {*tokenizer.all_special_ids}
    named = [id for config in (generation, lm.config) for id in _ids(getattr(config, "eos_token_id", None))]
    ends = [id for id in dict.fromkeys(named) if id in special and id != tokenizer.unk_token_id]
    if tokenizer.eos_token_id is None:
        if not ends:
            raise UserError(
                f"{place}: its tokenizer has no end-of-text token. Expected: one, to end texts and answers with. Fix: "
                f'name it in the folder\'s tokenizer_config.json, such as "eos_token": "</s>", if the model was '
                f"trained with one; else take another base model."
            )
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
        notes.append(f"the tokenizer names no end-of-text token: {tokenizer.eos_token!r} of the configuration is used")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(f"the tokenizer has no padding token: {tokenizer.pad_token!r} pads, masked out everywhere")
    stops = list(dict.fromkeys([tokenizer.eos_token_id, *ends]))
    if generation is not None and _ids(generation.eos_token_id) != stops:
        if wrong := [id for id in _ids(generation.eos_token_id) if id not in stops]:
            notes.append(f"generation stops at {tokenizer.eos_token!r}: {_some(wrong)} in the configuration is no end")
        generation.eos_token_id = stops[0] if len(stops) == 1 else stops
    if tokenizer.eos_token_id not in _ids(lm.config.eos_token_id):
        lm.config.eos_token_id = tokenizer.eos_token_id
    return [*notes, *_savable(lm)]


def _savable(lm: Any) -> list[str]:
    """Make the settings of generation ones that transformers saves; notes.

    Many checkpoints have a temperature and no do_sample. They load, and cannot be saved once anything is changed.
    """
    config = lm.generation_config
    if config is None or _is_consistent(config):
        return []
    if not config.do_sample:
        config.do_sample = True
        if _is_consistent(config):
            return ["generation_config.json has settings of sampling but not do_sample, which is set to true"]
    kept = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    lm.generation_config = GenerationConfig(**kept)
    return ["settings of generation_config.json that contradict each other are left out"]


def _is_consistent(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True


@torch.no_grad()
def fit_embeddings(lm: Any, tokenizer: Any, place: str) -> list[str]:
    """Give every token of the tokenizer a row of the embeddings and of the head: the mean of those there; notes."""
    rows, needed = _rows(lm)[0], max(tokenizer.get_vocab().values()) + 1
    if needed <= min(_rows(lm)):
        return []
    if needed > 2 * rows:
        raise UserError(
            f"{place}: found a tokenizer of {needed:,} tokens and {rows:,} rows of embeddings. Expected: the tokenizer "
            f"of this model. Fix: put it into the folder."
        )
    with torch.random.fork_rng(devices=[]):
        lm.resize_token_embeddings(needed, mean_resizing=False)
    for layer in {id(m): m for m in (lm.get_input_embeddings(), lm.get_output_embeddings())}.values():
        for weights in (layer.weight, getattr(layer, "bias", None)):
            if weights is not None:
                weights[rows:] = weights[:rows].mean(0)
    return [
        f"the tokenizer has {needed:,} tokens and the embeddings had {rows:,} rows: {needed - rows:,} were added, each "
        f"the mean of the others"
    ]


@dataclass
class _Reading:
    """A language model as its files have it."""

    lm: Any
    missing: list[str]
    mismatched: list[str]
    unexpected: list[str]
    wrapper: str = ""
    """The class of the model around it, for images or sound."""

    def check_whole(self, place: str) -> None:
        """UserError where weights are not in the files: transformers makes random ones of them."""
        if self.mismatched:
            raise UserError(
                f"{place}: found weights of another shape than {folders.CONFIG} describes: {_some(self.mismatched)}. "
                f"Expected: files of one model. Fix: download the model again."
            )
        if self.missing:
            raise UserError(
                f"{place}: {len(self.missing)} weights of {type(self.lm).__name__} are in no file: "
                f"{_some(self.missing)}. Expected: all of them. Fix: download the whole model, or take a checkpoint "
                f"with a language-model head."
            )

    def notes(self) -> list[str]:
        notes = []
        if self.wrapper:
            notes.append(f"only the language model inside {self.wrapper} is used: {type(self.lm).__name__}")
        elif self.unexpected:
            notes.append(f"left out, weights in the files that are no part of the model: {_some(self.unexpected)}")
        return notes


def _read(folder: Folder, config: Any, place: str, trust_remote_code: bool) -> _Reading:
    """The language model in a folder. UserError where there is none, or none that can be built."""
    text = _text_part(config)
    if config.is_encoder_decoder or text.is_encoder_decoder:
        raise _no_decoder(place, f"an encoder-decoder ({config.model_type})")
    remote = trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if remote or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        auto: Any = AutoModelForCausalLM
    elif text is not config:
        auto = AutoModelForMultimodalLM
    else:
        raise _no_decoder(place, f"a model of type {config.model_type}")
    with _reading(place, gguf=folder.gguf):
        _check_size(folder, config, auto, place, trust_remote_code)
        lm, info = auto.from_pretrained(
            folder.path,
            config=config,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # `check_whole` refuses them
            output_loading_info=True,
            **_dequantised(folder),
        )
        if folder.gguf and getattr(lm, "hf_quantizer", None):
            lm.hf_quantizer.remove_quantization_config(lm)  # its weights are plain, and can be trained and saved
    mismatched = [f"{name} {list(found)} for {list(wanted)}" for name, found, wanted in info["mismatched_keys"]]
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    reading = _Reading(lm, missing, sorted(mismatched), unexpected)
    if _text_part(lm.config) is not lm.config:
        with _reading(place):
            reading = _language_model(reading, place)
    if getattr(reading.lm.config, "rescale_every", 0):
        reading.lm.config.rescale_every = 0  # RWKV would divide its weights in place whenever it is evaluated
    return reading


def _dequantised(folder: Folder) -> dict[str, Any]:
    """Arguments by which transformers reads a GGUF file as plain weights, also where it could keep them quantised."""
    settings = getattr(transformers, "GgufConfig", None)  # older versions never keep them
    return {
        **folder.gguf_file,
        **({"quantization_config": settings(dequantize=True)} if folder.gguf and settings else {}),
    }


def _config(folder: Folder, place: str, trust_remote_code: bool) -> Any:
    if "auto_map" in folder.config and not trust_remote_code and folder.config.get("model_type") not in CONFIG_MAPPING:
        raise _own_code(place)
    with _reading(place, gguf=folder.gguf):
        config = AutoConfig.from_pretrained(folder.path, trust_remote_code=trust_remote_code, **folder.gguf_file)
    for part in (config, _text_part(config)):
        rows, pad = getattr(part, "vocab_size", None), getattr(part, "pad_token_id", None)
        if isinstance(rows, int) and isinstance(pad, int) and not 0 <= pad < rows:
            part.pad_token_id = None  # no embedding can be built for it
    return config


def _check_size(folder: Folder, config: Any, auto: Any, place: str, trust_remote_code: bool) -> None:
    """UserError where a configuration describes a model far larger than the files: before memory is taken for it."""
    if folder.quantization:
        return
    with torch.device("meta"):
        shape = auto.from_config(config, trust_remote_code=trust_remote_code)
    described, buffers = sum(p.numel() for p in shape.parameters()), sum(b.numel() for b in shape.buffers())
    if described > SLACK * folder.elements or buffers > max(SMALL, SLACK * folder.elements):
        raise UserError(
            f"{place}: {folders.CONFIG} describes {described + buffers:,} numbers, and the weight files hold "
            f"{folder.elements:,}. Expected: files of one model. Fix: copy {folders.CONFIG} again from where the "
            f"weights come from, or download the missing weights."
        )


def _language_model(whole: _Reading, place: str) -> _Reading:
    """The language model inside one that reads images or sound too, as a model of its own: the same logits."""
    outer = whole.lm
    decoder, head = outer.get_decoder(), outer.get_output_embeddings()
    tied = head.weight is outer.get_input_embeddings().weight
    inner = next(name for name, module in outer.named_modules() if module is decoder)
    top = next(name for name, module in outer.named_modules() if module is head)
    config = _text_config(outer.config, place)
    config.tie_word_embeddings = tied
    cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        shape: Any = cls(config)
    own_head = next(name for name, module in shape.named_modules() if module is shape.get_output_embeddings())
    state = {f"{shape.base_model_prefix}.{name}": weight for name, weight in decoder.state_dict().items()}
    if not tied:
        state |= {f"{own_head}.{name}": weight for name, weight in head.state_dict().items()}
    lm, info = cls.from_pretrained(None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True)
    lm.generation_config = outer.generation_config
    ids = torch.arange(5, 5 + TOKENS)[None] % config.vocab_size
    with torch.no_grad():
        expected, found = (model.eval()(**_call(ids)).logits for model in (outer, lm))
    same = torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    if info["missing_keys"] or not same:
        raise UserError(
            f"{place}: the language model inside {type(outer).__name__} does not compute the same by itself. Expected: "
            f"a model for text. Fix: take its text-only sister."
        )
    ours = (f"{inner}.", f"{top}.")
    return _Reading(
        lm,
        [name for name in whole.missing if name.startswith(ours)],
        [name for name in whole.mismatched if name.startswith(ours)],
        [],
        type(outer).__name__,
    )


def _text_config(config: Any, place: str) -> Any:
    """The configuration of the language model inside another model, for a class of its own."""
    text = _text_part(config)
    if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return text
    if text.model_type not in TEXT_ONLY:
        raise UserError(
            f"{place}: found {config.model_type}, whose language model ({text.model_type}) has no class of its own in "
            f"transformers. Expected: a causal language model. Fix: take its text-only sister."
        )
    like = TEXT_ONLY[text.model_type]
    known = {*AutoConfig.for_model(like).to_dict()} - {"model_type", "architectures", "transformers_version"}
    return AutoConfig.for_model(like, **{name: value for name, value in text.to_dict().items() if name in known})


def _tokenizer(folder: Folder, place: str, trust_remote_code: bool) -> Any:
    with _reading(f"{place}: its tokenizer", "the tokenizer files of this model", folder.gguf):
        tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=trust_remote_code, **folder.gguf_file)
        ids = tokenizer("Isogloss 12")["input_ids"]
    if not {*ids} - {*tokenizer.all_special_ids}:
        raise UserError(
            f"{place}: its tokenizer knows no letters: {len(tokenizer):,} tokens. Expected: the tokenizer of this "
            f"model. Fix: put its files into the folder."
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"{place}: tokenizer {type(tokenizer).__name__} has no offsets. Expected: a fast tokenizer. Fix: convert "
            f"it to tokenizer.json."
        )
    return tokenizer


def _fetched(where: str | Path, revision: str | None, place: str, gguf: str | None = None) -> Path:
    """The local folder, or that of the hub's files once they are here: of weights, safetensors where there are."""
    path = Path(where)
    if path.exists():
        return path
    if path.suffix == ggufs.SUFFIX or not HUB_ID.fullmatch(str(where)):
        raise UserError(
            f"{place}: found no such {'file' if path.suffix == ggufs.SUFFIX else 'folder'}. Expected: 'seed', a local "
            f"folder or GGUF file, or a hub id such as Qwen/Qwen3-0.6B. Fix: correct the path."
        )
    return _downloaded(str(where), revision, place, gguf)


def _downloaded(name: str, revision: str | None, place: str, gguf: str | None) -> Path:
    """The folder of the hub's cache; of a commit whose files are there, without asking the hub."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    def fetched(*patterns: str) -> Path:
        chosen = [escape(gguf)] if gguf else [*HUB_FILES, *patterns]
        ignored = None if gguf else HUB_IGNORED
        return Path(snapshot_download(name, revision=revision, allow_patterns=chosen, ignore_patterns=ignored))

    try:
        path = fetched("*.safetensors")
        if not gguf and not any(path.glob("*.safetensors")):
            path = fetched("*.bin")
        if gguf or any(path.glob("*.safetensors")) or any(path.glob("*.bin")):
            return path
        files = [file for file in HfApi().list_repo_files(name, revision=revision) if file.endswith(ggufs.SUFFIX)]
    except GatedRepoError:
        raise UserError(
            f"{place}: access to it has to be granted. Expected: an account that has accepted its licence. Fix: accept "
            f"it at {constants.ENDPOINT}/{name}, then log in with 'hf auth login', or set HF_TOKEN to a token that may "
            f"read."
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{place}: {constants.ENDPOINT} has no such model, or hides it from this account. Expected: a hub id such "
            f"as Qwen/Qwen3-0.6B. Fix: correct it; of a private model, log in with 'hf auth login' or set HF_TOKEN."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise  # a disk, not the hub
        raise UserError(
            f"{place}: cannot be loaded: {_sentence(str(error).splitlines()[0])} Expected: 'seed', a local folder, or "
            f"a hub id that this machine can reach. Fix: download it and name its folder, or take 'seed'."
        ) from None
    if files:
        raise UserError(
            f"{place}: found GGUF files alone: {_some(files)}. Expected: which of them. Fix: write base: {{model: "
            f"{name}, gguf: {files[0]}}}."
        )
    if not path.is_dir():
        raise UserError(
            f"{place}: found no file of a model in the repository. Expected: {folders.CONFIG}, a tokenizer and "
            f"weights. Fix: correct the hub id or the revision."
        )
    return path


@contextmanager
def _reading(
    place: str, expected: str = "a causal language model that this transformers reads", gguf: str | None = None
) -> Iterator[None]:
    """What transformers and tokenizers raise while they read a user's files becomes a UserError.

    They raise all sorts for files that are damaged or describe no model: KeyError, TypeError, ZeroDivisionError,
    AssertionError, and tokenizers bare Exceptions.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise  # a disk
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = _sentence(f"{type(error).__name__}: {' '.join(lines[:2])}")
        fix = f"download it again, or install the transformers version that its {folders.CONFIG} names."
        if gguf:
            fix = "take the checkpoint that the GGUF file was made of, or install a newer transformers and gguf."
        raise UserError(f"{place}: cannot be loaded: {reason} Expected: {expected}. Fix: {fix}") from error


def _run(model: Model, ids: torch.Tensor, place: str) -> torch.Tensor:
    """[N, T, H]: the last states. UserError where the model does not run: code beside weights may do anything."""
    try:
        with model.measuring():
            return model.body(**_call(ids)).last_hidden_state
    except Exception as error:
        raise UserError(
            f"{place}: {type(model.lm).__name__} does not run on text alone: {type(error).__name__}: "
            f"{_sentence(str(error))} Expected: a causal language model. Fix: take another base model."
        ) from error


def _text_part(config: Any) -> Any:
    """The configuration of the language model inside; `config` itself where it is one."""
    text = config.get_text_config(decoder=True)
    return config if type(text) is type(config) else text


def _no_decoder(place: str, found: str) -> UserError:
    return UserError(
        f"{place}: found {found}. Expected: a decoder (a causal language model of transformers). Fix: encoders and "
        f"encoder-decoders such as BERT, T5 or mBART are not aligned here; take a generative base model."
    )


def _own_code(place: str) -> UserError:
    name = place.removeprefix("train.base ")
    return UserError(
        f"{place}: found code of its own beside the weights, which was not run. Expected: a model of transformers, or "
        f"trust_remote_code: true. Fix: read the code, and where you trust it write base: {{model: {name}, "
        f"trust_remote_code: true}}."
    )


def _text(model: Model) -> torch.Tensor:
    """[1, TOKENS]: ids that are no special token in most vocabularies."""
    return torch.arange(5, 5 + TOKENS, device=model.device)[None] % _rows(model.lm)[0]


def _call(ids: torch.Tensor) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}


def _rows(lm: Any) -> tuple[int, int]:
    """Rows of the input embeddings and of the head."""
    embeddings, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    return embeddings.weight.shape[0], (embeddings if head is None else head).weight.shape[0]


def _ids(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _sentence(text: str) -> str:
    return text[:400].rstrip(" .:,") + "."


def _some(names: Sequence[Any]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more
