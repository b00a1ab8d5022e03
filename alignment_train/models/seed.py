"""A tokenizer and a small base model from the corpus itself, for machines that reach no model hub."""

import io
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import sentencepiece
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment_train.losses import token_logprobs
from alignment_train.models.model import Model
from alignment_train.settings import SeedModel
from alignment_train.training.data import texts
from pipelines.config import Recipe
from pipelines.schema import BITEXT
from pipelines.storage.store import Store
from pipelines.text.segments import keys

DEV_TEXTS = 10_000  # most segments by which a seed model is compared with the unigram
DEV_BATCH = 64
SENTENCES = 120_000  # that SentencePiece sees: more change the pieces little and cost seconds
UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"


def make(settings: SeedModel, bitext: pa.Table, seed: int) -> Model:
    """An untrained model with a tokenizer fitted to `bitext`, a table of BITEXT rows."""
    tokenizer = train_tokenizer(sentences(bitext, SENTENCES, seed), settings.vocab_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=8 * math.ceil(settings.hidden_size / 3),  # SwiGLU's 8/3 (arXiv 2002.05202)
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    torch.manual_seed(seed)
    return Model(LlamaForCausalLM(config), tokenizer)


def unigram_loss(tokenizer: PreTrainedTokenizerFast, seen: list[str], held_out: list[str]) -> float:
    """Nats per token, EOS included, of the unigram of `seen` on `held_out`: what a model without context reaches.

    Each count has one added to it (Laplace), so that no token is impossible.
    """

    def tokens(texts: list[str]) -> np.ndarray:
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        return np.concatenate([[*row, tokenizer.eos_token_id] for row in ids]).astype(np.int64)

    counts = 1 + np.bincount(tokens(seen), minlength=len(tokenizer))
    return float(-np.log(counts / counts.sum())[tokens(held_out)].mean())


def bitext(recipe: Recipe, store: Store) -> pa.Table:
    """What a seed model learns from: all decontaminated bitext without the rows that have a segment in `dev`."""
    dev = store.table("training_mix", part="dev")
    held_out = np.concatenate([keys(dev[side]) for side in ("src", "tgt")])
    tables = []
    for pair in recipe.corpus.pairs:
        table = store.table("decontaminated_bitext", pair).select(BITEXT.names)
        seen = np.isin(keys(table["src"]), held_out) | np.isin(keys(table["tgt"]), held_out)
        tables.append(table.filter(pa.array(~seen)))
    return pa.concat_tables(tables)


@torch.inference_mode()
def dev_loss(model: Model, dev: pa.Table, trained_on: pa.Table, context: int, seed: int) -> dict[str, float]:
    """Nats per token of dev text, and those of the unigram of the training text beside it; {} without dev rows.

    dev, trained_on: tables of `data.segments`.
    """
    if not dev.num_rows:
        return {}
    rng = np.random.default_rng(seed)
    held_out, seen = (
        table["text"].take(pa.array(rng.permutation(table.num_rows)[:DEV_TEXTS])).to_pylist()
        for table in (dev, trained_on)
    )
    nats, tokens = 0.0, 0
    training = model.lm.training
    model.lm.eval()
    by_length = sorted(held_out, key=len)
    for start in range(0, len(by_length), DEV_BATCH):
        logits, labels, _ = model.predictions(texts(by_length[start : start + DEV_BATCH], model, context))
        nats -= float(token_logprobs(logits, labels)[0].sum())
        tokens += len(labels)
    model.lm.train(training)
    return {
        "dev/nats_per_token": round(nats / tokens, 4),
        "dev/unigram_nats_per_token": round(unigram_loss(model.tokenizer, seen, held_out), 4),
    }


def sentences(bitext: pa.Table, most: int, seed: int) -> Iterator[str]:
    """At most `most` segments, drawn evenly over languages and in an order that the seed alone decides."""
    rng = np.random.default_rng(seed)
    pools: dict[str, list[str]] = {}
    for side in ("src", "tgt"):
        languages = bitext[f"{side}_lang"].combine_chunks().dictionary_encode()
        codes = languages.indices.to_numpy()
        for index, language in enumerate(languages.dictionary.to_pylist()):
            pool = pools.setdefault(language, [])
            pool += bitext[side].take(pa.array(np.flatnonzero(codes == index))).to_pylist()
    each = most // len(pools)
    for _, pool in sorted(pools.items()):
        for i in rng.permutation(len(pool))[:each]:
            yield pool[i]


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A SentencePiece unigram model as a stock fast tokenizer: BOS first, bytes for what no piece covers.

    Two runs over the same texts give the same pieces: neither paths nor the machine's threads enter.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
        sentence_iterator=texts,
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        model_type="unigram",
        character_coverage=0.9995,
        byte_fallback=True,
        normalization_rule_name="identity",
        num_threads=2,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        unk_piece=UNK,
        bos_piece=BOS,
        eos_piece=EOS,
        pad_piece=PAD,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    tokenizer = Tokenizer(tokenizer_models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always"), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in (UNK, BOS, EOS, PAD)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=UNK, bos_token=BOS, eos_token=EOS, pad_token=PAD, padding_side="right"
    )
