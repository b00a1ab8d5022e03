"""Conversations have the same tokens in training and in generation, whatever the chat template.

The templates are our own, each with the traits of a family and nothing else of it.
"""

import json
import random
import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment_train.config import TrainConfig
from alignment_train.evaluation.lm import LM
from alignment_train.models import template as templates
from alignment_train.models.chat import DATE, ChatFormat, plain
from alignment_train.models.model import Model
from alignment_train.objectives.task import Task
from alignment_train.trainer import Trainer
from alignment_train.training.data import conversations
from pipelines.config import Recipe, validate
from pipelines.errors import UserError
from pipelines.storage.store import Store
from pipelines.text.reasoning import Reasoning
from tests.support.models import ROOT, tiny
from tests.support.trained import trained

Talk = list[dict[str, str]]
MARKS = re.findall(
    r"\S+",
    """
    <|im_start|> <|im_end|> <|im_sep|> <think> </think> <start_of_turn> <end_of_turn> <|start_header_id|>
    <|end_header_id|> <|eot_id|> <|user|> <|assistant|> <|system|> <|end|> [INST] [/INST] [SYSTEM] [/SYSTEM] [THINK]
    [/THINK] <User> <Assistant> <eos_sentence> <|TURN|> <|END_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|>
    <|START_RESPONSE|> <|END_RESPONSE|> <|start|> <|channel|> <|message|> <|return|> <|turn> <turn|> <|channel>
    <channel|> <|endoftext|> <S10> <S12> <scratch> </scratch> <end_of_utterance>
    """,
)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@cache
def bpe() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    lines = (ROOT / "tests/data/sample_sentences.txt").read_text().splitlines()
    backend.train_from_iterator(
        [*lines, *["one\n\n"] * 200],
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return backend.to_str()


def tokenizer(source: str | None, eos: str = "</s>") -> PreTrainedTokenizerFast:
    """GPT-2's way to split: `\\n\\n` alone is one token, before a word it is two."""
    out: Any = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bpe()), bos_token="<s>", eos_token="</s>")
    out.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    out.eos_token, out.pad_token, out.chat_template = eos, "<|endoftext|>", source
    return out


def pieces(source: str | None, eos: str = "</s>") -> PreTrainedTokenizerFast:
    """SentencePiece's way: a word has the space before it, and bytes stand for unknown characters."""
    out = tiny().tokenizer
    out.add_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    out.eos_token, out.chat_template = eos, source
    return out


def each(body: str, prompt: str, first: str = "") -> str:
    """A template of one body for all turns."""
    loop = "{% for m in messages %}" + body + "{% endfor %}"
    return first + loop + "{% if add_generation_prompt %}" + prompt + "{% endif %}"


ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
IF_SYSTEM, TAKE_RULE = (
    "{% if messages[0].role == 'system' %}",
    "{% set rule = messages[0].content %}{% set messages = messages[1:] %}",
)
NO_RULE = "{% else %}{% set rule = '' %}{% endif %}"
LOOP, END_LOOP = "{% for m in messages %}", "{% endfor %}"
IM = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
CHATML = each(IM, "<|im_start|>assistant\n")
OFF = "{% if enable_thinking is defined and enable_thinking is false %}"
EMPTY = "<think>\n\n</think>\n\n"
HEADER = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
ASSISTANT_HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
LAST_THINKS = (
    "{% if m.role == 'assistant' and loop.last %}<|im_start|>assistant\n"
    + EMPTY
    + "{{ m.content }}<|im_end|>\n{% else %}"
    + IM
    + "{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    + each(
        "{% if m.role == 'assistant' %}{% set content = m.content.split('</think>')[-1].lstrip('\n') %}"
        "<|im_start|>assistant\n{% if loop.index0 > ns.last %}" + EMPTY + "{% endif %}{{ content }}<|im_end|>\n"
        "{% else %}" + IM + "{% endif %}",
        "<|im_start|>assistant\n" + OFF + EMPTY + "{% endif %}",
    )
)


class Shape(NamedTuple):
    source: str
    end: str
    """The token that ends an answer."""
    lead: str
    """What a prompt has after the last user's text."""
    eos: str = "</s>"
    folds: bool = False
    """Whether the system text has to go before the user's."""
    stock: bool = True
    """Whether a prompt is, up to spaces at its end, what transformers renders with the same arguments."""


SHAPES = {
    "chatml": Shape(CHATML, "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n"),
    "qwen3": Shape(QWEN3, "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n" + EMPTY),
    "qwen3 without arguments": Shape(
        each(
            LAST_THINKS,
            "<|im_start|>assistant\n",
        ),
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n" + EMPTY,
        stock=False,
    ),
    "qwen3 thinking": Shape(  # the prompt opens what an answered turn has closed
        each(
            LAST_THINKS,
            "<|im_start|>assistant\n<think>\n",
        ),
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n" + EMPTY,
        stock=False,
    ),
    "qwen2.5": Shape(  # a system turn of its own
        each(
            IM,
            "<|im_start|>assistant\n",
            "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Q.<|im_end|>\n{% endif %}",
        ),
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n",
        eos="<|endoftext|>",
    ),
    "llama3": Shape(
        each(HEADER, ASSISTANT_HEADER, "{{ bos_token }}"), "<|eot_id|>", "<|eot_id|>" + ASSISTANT_HEADER
    ),
    "llama3.1": Shape(
        each(
            HEADER,
            ASSISTANT_HEADER,
            "{{ bos_token }}{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
            "{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}{% set messages = messages[1:] %}"
            "{% else %}{% set rule = '' %}{% endif %}<|start_header_id|>system<|end_header_id|>\n\n"
            "Today Date: {{ date_string }}\n\n{{ rule }}<|eot_id|>",
        ),
        "<|eot_id|>",
        "<|eot_id|>" + ASSISTANT_HEADER,
    ),
    "llama3.2": Shape(
        each(HEADER, ASSISTANT_HEADER, "{{ bos_token }}Today: {{ strftime_now('%d %b %Y %H:%M') }}\n"),
        "<|eot_id|>",
        "<|eot_id|>" + ASSISTANT_HEADER,
        stock=False,
    ),
    "llama2": Shape(
        IF_SYSTEM + TAKE_RULE + "{% set rule = '<<SYS>>' + rule + '<</SYS>> ' %}" + NO_RULE + ALTERNATE + LOOP
        + "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ rule if loop.first else '' }}{{ m.content.strip() }}"
        " [/INST]{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}" + END_LOOP,
        "</s>",
        " [/INST]",
    ),
    "gemma": Shape(
        each(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n",
            "<start_of_turn>model\n",
            "{{ bos_token }}" + NO_SYSTEM + ALTERNATE,
        ),
        "<end_of_turn>",
        "<end_of_turn>\n<start_of_turn>model\n",
        folds=True,
    ),
    "gemma3": Shape(  # folds the system text itself
        each(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ rule if loop.first else '' }}"
            "{{ m.content | trim }}<end_of_turn>\n",
            "<start_of_turn>model\n",
            "{{ bos_token }}" + IF_SYSTEM + TAKE_RULE + "{% set rule = rule + '\n\n' %}" + NO_RULE + ALTERNATE,
        ),
        "<end_of_turn>",
        "<end_of_turn>\n<start_of_turn>model\n",
    ),
    "gemma4": Shape(  # only the prompt has an empty block
        each(
            "<|turn>{{ m.role }}\n{{ m.content | trim }}<turn|>\n",
            "<|turn>model\n{% if not enable_thinking | default(false) %}<|channel>thought\n<channel|>{% endif %}",
        ).replace("<|turn>{{ m.role }}", "<|turn>{{ 'model' if m.role == 'assistant' else m.role }}"),
        "<turn|>",
        "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>",
    ),
    "mistral": Shape(
        "{{ bos_token }}" + NO_SYSTEM + ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}[INST] "
        "{{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
        " [/INST]",
        folds=True,
    ),
    "mistral nemo": Shape(  # the system text stands in the last user turn, and is lost once that is answered
        "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rule = messages[0].content %}"
        "{% set messages = messages[1:] %}{% endif %}" + ALTERNATE + "{% for m in messages %}{% if m.role == 'user' %}"
        "[INST]{% if loop.last and rule is defined %}{{ rule }}\n\n{% endif %}{{ m.content }}[/INST]"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "[/INST]",
        folds=True,
    ),
    "mistral small": Shape(
        "{{ bos_token }}{% set rule = 'Today is ' + strftime_now('%Y-%m-%d') %}{% if messages[0].role == 'system' %}"
        "{% set rule = messages[0].content %}{% set messages = messages[1:] %}{% endif %}[SYSTEM]{{ rule }}[/SYSTEM]"
        "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}"
        "{{ eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "[/INST]",
        stock=False,
    ),
    "r1": Shape(
        "{{ bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}{% for m in messages %}"
        "{% if m.role == 'user' %}<User>{{ m.content }}{% elif m.role == 'assistant' %}<Assistant>"
        "{{ m.content.split('</think>')[-1] }}<eos_sentence>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<Assistant><think>\n{% endif %}",
        "<eos_sentence>",
        "<Assistant>" + EMPTY,
        eos="<eos_sentence>",
        stock=False,
    ),
    "r1 without a system turn": Shape(
        "{% for m in messages %}{% if m.role == 'user' %}[U]{{ m.content }}{% elif m.role == 'assistant' %}[A]"
        "{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[A]<think>\n{% endif %}",
        "</s>",
        "[A]" + EMPTY,
        folds=True,
        stock=False,
    ),
    "deepseek v3.1": Shape(  # a closing tag alone
        "{{ bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}{% for m in messages %}"
        "{% if m.role == 'user' %}<User>{{ m.content }}{% elif m.role == 'assistant' %}<Assistant></think>"
        "{{ m.content }}<eos_sentence>{% endif %}{% endfor %}{% if add_generation_prompt %}<Assistant>"
        "{% if thinking | default(true) %}<think>{% else %}</think>{% endif %}{% endif %}",
        "<eos_sentence>",
        "<Assistant></think>",
    ),
    "nemotron": Shape(  # prompt and answered turn leave the block open
        each(
            "<S10>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n{% endif %}"
            "{{ m.content }}\n<S12>\n\n",
            "<S10>assistant\n<think>\n\n",
        ),
        "<S12>",
        "\n<S12>\n\n<S10>assistant\n" + EMPTY,
        stock=False,
    ),
    "unknown tag": Shape(
        each(IM, "<|im_start|>assistant\n<scratch>\n") + "{# </scratch> #}",
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n<scratch>\n\n</scratch>\n\n",
        stock=False,
    ),
    "unknown tags": Shape(  # the answered turn has an empty block
        each(
            "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<scratch></scratch>{% endif %}"
            "{{ m.content }}<|im_end|>\n",
            "<|im_start|>assistant\n",
        ),
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n<scratch></scratch>",
        stock=False,
    ),
    "wrapped": Shape(  # no reasoning: the answer stands between tags
        LOOP + "<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n" + END_LOOP + "{# </assistant> #}",
        "</s>",
        "</user>\n<assistant>",
        stock=False,
    ),
    "seed-oss": Shape(  # the prompt's block is not empty
        each(
            "<S10>{{ m.role }}\n{{ m.content }}<S12>\n",
            "<S10>assistant\n{% if thinking_budget == 0 %}<seed:think><seed:budget>none{% endif %}",
        ),
        "<S12>",
        "<S12>\n<S10>assistant\n<seed:think><seed:budget>none\n\n</seed:think>\n\n",
        stock=False,
    ),
    "only the prompt thinks not": Shape(
        each(IM, "<|im_start|>assistant\n" + OFF + "<think>No need.</think>\n{% endif %}"),
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n<think>No need.</think>\n",
    ),
    "magistral": Shape(
        each(IM, "<|im_start|>assistant\n[THINK]"),
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n[THINK]\n\n[/THINK]\n\n",
        stock=False,
    ),
    "phi3": Shape(  # EOS only after the whole conversation
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        "<|end|>",
        "<|end|>\n<|assistant|>\n",
        eos="<|endoftext|>",
    ),
    "command-r": Shape(
        each(
            "<|TURN|>{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}{{ m.content.strip() }}"
            "<|END_OF_TURN_TOKEN|>",
            "<|TURN|><|CHATBOT_TOKEN|>",
            "{{ bos_token }}" + IF_SYSTEM + TAKE_RULE + "<|TURN|><|system|>{{ rule }}<|END_OF_TURN_TOKEN|>{% endif %}"
            + ALTERNATE,
        ),
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|><|TURN|><|CHATBOT_TOKEN|>",
    ),
    "command-r7b": Shape(  # an answer is closed twice, and a generation prompt is always written
        LOOP + "<|TURN|>{% if m.role == 'assistant' %}<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}"
        "<|END_RESPONSE|>{% else %}<|{{ m.role | upper }}_TOKEN|>{{ m.content }}{% endif %}<|END_OF_TURN_TOKEN|>"
        + END_LOOP + "<|TURN|><|CHATBOT_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|><|TURN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",
        stock=False,
    ),
    "zephyr": Shape(
        each("<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n", "<|assistant|>\n"), "</s>", "</s>\n<|assistant|>\n"
    ),
    "smollm3": Shape(
        each(
            "{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n{% if not enable_thinking %}" + EMPTY
            + "{% endif %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% else %}" + IM + "{% endif %}",
            "<|im_start|>assistant\n{% if not enable_thinking %}" + EMPTY + "{% endif %}",
            "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
            "{% set mode = '/think' if enable_thinking else '/no_think' %}{% set rule = 'You are S.' %}"
            + IF_SYSTEM + TAKE_RULE + "{% endif %}<|im_start|>system\n## Metadata\n\nToday Date: "
            "{{ strftime_now('%d %B %Y') }}\nReasoning Mode: {{ mode }}\n\n{{ rule }}<|im_end|>\n",
        ),
        "<|im_end|>",
        "<|im_end|>\n<|im_start|>assistant\n" + EMPTY,
        stock=False,
    ),
    "gpt-oss": Shape(
        each(
            "{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
            "{{ '<|return|>' if loop.last else '<|end|>' }}"
            "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}",
            "<|start|>assistant",
            "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}<|end|>",
        ),
        "<|return|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        stock=False,
    ),
    "glm": Shape(  # nothing closes a turn
        each(
            "<|{{ m.role }}|>\n{% if m.role == 'assistant' %}<think></think>\n{% endif %}{{ m.content }}"
            "{{ '/nothink' if m.role == 'user' and enable_thinking is defined and not enable_thinking else '' }}",
            "<|assistant|>\n{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '' }}",
        ),
        "</s>",
        "/nothink<|assistant|>\n<think></think>\n",
        stock=False,
    ),
    "vicuna": Shape(  # roles are words
        LOOP + "{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}USER: {{ m.content }} "
        "{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        "</s>",
        " ASSISTANT:",
    ),
    "words alone": Shape(  # not even the end is a token
        each("{{ m.role }}: {{ m.content }}\n\n", "assistant:"), "</s>", "\n\nassistant:"
    ),
    "no generation prompt": Shape(
        each(IM, ""), "<|im_end|>", "<|im_end|>\n<|im_start|>assistant\n", stock=False
    ),
    "vision": Shape(  # content is a list of parts
        each(
            "{{ m.role | capitalize }}: {% for part in m.content %}{{ part.text }}{% endfor %}<end_of_utterance>\n",
            "Assistant:",
        ),
        "<end_of_utterance>",
        "<end_of_utterance>\nAssistant:",
        stock=False,
    ),
}  # fmt: skip
ONE = [turn("user", "How many hills?")]
SEVERAL = [*ONE, turn("assistant", "Seven, I think."), turn("user", "And rivers?")]
RULE = turn("system", "Answer in a word.")
TALKS = {"one turn": ONE, "several turns": SEVERAL, "system": [RULE, *ONE], "system, several turns": [RULE, *SEVERAL]}


@pytest.mark.parametrize("talk", TALKS.values(), ids=TALKS)
@pytest.mark.parametrize("make", [tokenizer, pieces])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_prompts_are_the_same_in_training_and_generation(shape: Shape, make: Any, talk: Talk) -> None:
    tokens = make(shape.source, shape.eos)
    chat = ChatFormat(tokens)
    answer = "Twelve."
    encoded = chat.encode([[*talk, turn("assistant", answer)]])[0]
    prompt = chat.prompts([talk])[0]

    assert encoded.ids[: len(prompt)] == prompt
    assert encoded.prompt_tokens == len(prompt)
    assert encoded.labels == [-100] * len(prompt) + encoded.ids[len(prompt) :]

    end = tokens.convert_tokens_to_ids(shape.end)
    assert encoded.ids[-1] == chat.end_id == end
    assert end in chat.stop_ids
    assert encoded.ids.count(end) == encoded.ids[: len(prompt)].count(end) + 1
    learnt = tokens.decode(encoded.ids[len(prompt) : -1]).strip()
    assert learnt == answer + ("<|END_RESPONSE|>" if "<|END_RESPONSE|>" in shape.source else "")

    text = encoded.text[: encoded.prompt_chars]
    assert all(text.count(said["content"]) == 1 for said in talk)
    assert text.endswith(talk[-1]["content"] + shape.lead)
    if talk[0] is RULE:
        folded = f"{RULE['content']}\n\n{ONE[0]['content']}"
        assert (folded in text) == (shape.folds or shape is SHAPES["gemma3"])
    if shape.stock and not (shape.folds and talk[0] is RULE):
        stock = tokens.apply_chat_template(talk, tokenize=False, add_generation_prompt=True, **chat.arguments)
        assert text == stock.rstrip(" ")

    again = ChatFormat(make(shape.source, shape.eos))
    assert again.encode([[*talk, turn("assistant", answer)]])[0] == encoded


@pytest.mark.parametrize("name", ["llama3.1", "llama3.2", "mistral small", "smollm3"])
def test_the_date_is_the_recipe_s(name: str) -> None:
    tokens = tokenizer(SHAPES[name].source)
    texts = [
        ChatFormat(tokens, day).encode([[*ONE, turn("assistant", "x")]])[0].text for day in (DATE, date(2031, 1, 2))
    ]
    assert "2024" in texts[0]
    assert "2031" in texts[1]
    assert not any(str(date.today().year) in text for text in texts if date.today().year not in (2024, 2031))
    settings: dict[str, Any] = {"objectives": ["task"]}
    default, other = (
        validate(TrainConfig, {**settings, **more}, "x", "train").settings()
        for more in ({}, {"chat_date": "2031-01-02"})
    )
    assert (default["chat_date"], other["chat_date"]) == ("2024-07-26", "2031-01-02")


def contents(chat: ChatFormat, talk: Talk) -> str:
    """The prompt without what gemma's template writes around turns."""
    text = chat.encode([[*talk, turn("assistant", "!")]])[0].text[:-1]
    for mark, short in (("<start_of_turn>", ""), ("<end_of_turn>\n", "|"), ("user\n", "U:"), ("model\n", "M:")):
        text = text.replace(mark, short)
    return text.removeprefix("<s>")


U, A, S = (lambda text, role=role: turn(role, text) for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("talk", "wanted"),
    [
        ([U("a"), U("b")], "U:a\n\nb|M:"),
        ([U("a"), A("b"), U("c"), U("d")], "U:a|M:b|U:c\n\nd|M:"),
        ([S("s"), U("a"), U("b")], "U:s\n\na\n\nb|M:"),
        ([S("s"), S("t"), U("a")], "U:s\n\nt\n\na|M:"),
        ([U("a"), A("b"), S("s"), U("c")], "U:a|M:b|U:s\n\nc|M:"),
        ([U("a"), S("s")], "U:a\n\ns|M:"),
        ([A("a"), U("b")], "U:|M:a|U:b|M:"),
        ([S("s"), A("a"), U("b")], "U:s|M:a|U:b|M:"),
        ([S("s")], "U:s|M:"),
        ([U("a"), A("b"), A("c"), U("d")], "U:a|M:b|U:|M:c|U:d|M:"),
        ([U("a"), A("b")], "U:a|M:b|U:|M:"),
    ],
)
def test_roles_alternate_where_they_must_and_no_text_is_lost(talk: Talk, wanted: str) -> None:
    chat = ChatFormat(tokenizer(SHAPES["gemma"].source))
    before = json.dumps(talk)
    assert contents(chat, talk) == wanted
    assert json.dumps(talk) == before, "the caller's messages are not touched"
    assert (
        chat.encode([[*talk, turn("assistant", "!")]])[0].ids[: len(chat.prompts([talk])[0])] == chat.prompts([talk])[0]
    )


def test_roles_stay_as_they_are_where_the_template_takes_them() -> None:
    chat = ChatFormat(tokenizer(CHATML))
    talk = [S("s"), U("a"), U("b"), A("c"), A("d"), S("t"), U("e")]
    text = chat.encode([[*talk, turn("assistant", "!")]])[0].text
    assert (
        text
        == "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in talk) + "<|im_start|>assistant\n!"
    )


def test_random_conversations_have_equal_prompts() -> None:
    rng = random.Random(0)
    words = ["sieben", " acht", "neun\n", "\n\n", "1 000", "東京", "  ", "a.", "\n", "x</s>", "é"]
    for name in ("qwen3", "gemma", "mistral", "r1", "glm", "vicuna", "llama2"):
        for make in (tokenizer, pieces):
            chat = ChatFormat(make(SHAPES[name].source, SHAPES[name].eos))
            talks = [
                [
                    turn(rng.choice(["user", "user", "assistant", "system"]), "q" + "".join(rng.choices(words, k=4)))
                    for _ in range(rng.randint(1, 5))
                ]
                for _ in range(30)
            ]
            answers = ["".join(rng.choices(words, k=3)) + "z" for _ in talks]
            encoded = chat.encode([[*talk, turn("assistant", said)] for talk, said in zip(talks, answers, strict=True)])
            for one, prompt, said in zip(encoded, chat.prompts(talks), answers, strict=True):
                assert one.ids[: one.prompt_tokens] == prompt, (name, one.text)
                learnt = chat.tokenizer.decode(one.ids[one.prompt_tokens : -1])
                assert plainly(learnt) == plainly(said), (name, one.text)


def plainly(text: str) -> str:
    """Without spaces, which SentencePiece's normaliser changes, and special tokens."""
    return "".join(text.replace("</s>", "").split())


def test_a_border_that_tokens_cross_is_kept() -> None:
    """`</think>\\n\\n` ends in one token; before a word GPT-2 splits it in two."""
    tokens = tokenizer(SHAPES["qwen3"].source)
    encoded = ChatFormat(tokens).encode([[*ONE, turn("assistant", "Twelve.")]])[0]
    joined = tokens(encoded.text, add_special_tokens=False)["input_ids"]
    assert joined != encoded.ids[:-1]
    assert tokens.decode(joined) == tokens.decode(encoded.ids[:-1]) == encoded.text
    assert tokens.convert_ids_to_tokens(encoded.ids[encoded.prompt_tokens - 1]) == "ĊĊ"
    assert "".join(encoded.text[start:end] for start, end in encoded.offsets[encoded.prompt_tokens :]) == "Twelve."


def test_without_a_template_it_is_afp_s_plain_form() -> None:
    model = tiny()
    talk = [U("one two"), A("drei"), U("three"), A("vier fünf")]
    assert plain(talk) == ("one two drei three ", "vier fünf")
    encoded = model.chat.encode([talk])[0]
    whole = model.tokenizer("one two drei three vier fünf")["input_ids"]
    assert encoded.ids == [*whole, model.tokenizer.eos_token_id]
    assert model.chat.prompts([talk[:-1]])[0] == model.tokenizer("one two drei three")["input_ids"]
    assert model.tokenizer.decode(encoded.ids[encoded.prompt_tokens : -1]).strip() == "vier fünf"
    assert model.chat.describe() == "plain text, for there is no chat template"


def test_a_space_that_is_a_token_of_its_own_is_learnt_for_generation_has_to_write_it() -> None:
    model = tiny()
    talk = [U("one"), A("東京")]  # unknown: the space before it is a piece by itself
    encoded = model.chat.encode([talk])[0]
    labels = [token for token in encoded.labels if token != -100]
    assert model.tokenizer.convert_ids_to_tokens(labels)[0] == "▁"
    assert model.chat.prompts([talk[:1]])[0] + labels == encoded.ids


REFUSED = {
    "counts turns": (
        each(IM, "<|im_start|>assistant\n", "{{ messages | length }} turns\n"), '"1 turns\\n', '"2 turns\\n',
    ),
    "rewrites": (each("{{ m.content | upper }}</s>", "A:"), '"ZQX ASK ONE</s>A:"', '"ZQX ASK ONE</s>ZQX ANSWER</s>"'),
    "forgets": ("{{ messages[-1].content }}</s>", "a turn is dropped", '"Zqx answer</s>"'),
    "another header": (
        "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        '<|assistant|>"',
        '<|user|>Zqx answer<|end|>"',
    ),
    "last turn first": (
        "{% for m in messages | reverse %}{{ m.role }} {{ m.content }}</s>{% endfor %}",
        "generation would be given",
        "training would see",
    ),
    "refuses all": ("{{ raise_exception('not today') }}", "not today", "Expected"),
    "no template": ("{% for m in messages %}", "TemplateSyntaxError", "Fix"),
    "calls nothing": ("{{ messages.nothing.at_all }}", "has no attribute 'nothing'", "Expected"),
    "random": ("{{ ['a', 'b'] | random }}" + CHATML, "random", "Expected"),
    "writes much": ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "much more than it is given", "Fix"),
    "doubles": (
        "{% set ns = namespace(x='xxxx') %}{% for i in range(50) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "all memory",
        "Fix",
    ),
    "a large constant": ("{% if false %}{{ 'x' * 10 ** 11 }}{% endif %}{{ 'x' * 10 ** 11 }}", "all memory", "Fix"),
    "a long range": ("{{ range(10 ** 10) | length }}", "Range too big", "Fix"),
    "a long source": ("{# " + "x" * (1 << 20) + " #}" + CHATML, "characters, more than", "Fix"),
    "deep": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError", "Fix"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "one", "other"), REFUSED.values(), ids=REFUSED)
def test_a_template_that_cannot_be_used_is_refused_with_both_texts(source: str, one: str, other: str) -> None:
    with pytest.raises(UserError) as caught:
        ChatFormat(tokenizer(source))
    text = str(caught.value)
    assert one in text
    assert other in text
    assert "\n" not in text
    assert len(text) < 800


def test_a_template_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "WALL_SECONDS", 2)
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(UserError, match=r"it does not end.* Expected: .* Fix: "):
        ChatFormat(tokenizer(endless + CHATML))


def test_several_templates_need_a_default() -> None:
    tokens = tokenizer(None)
    tokens.chat_template = {"default": CHATML, "tool_use": "{{ raise_exception('tools') }}"}
    assert ChatFormat(tokens).source == CHATML
    tokens.chat_template = {"a": CHATML, "b": CHATML}
    with pytest.raises(UserError, match="several chat templates, a, b. Expected: one, or one that is named default"):
        ChatFormat(tokens)


def test_reasoning_in_earlier_turns_goes_where_the_template_takes_it_out() -> None:
    talk = [U("a"), A("<think>\nbecause\n</think>\n\nb"), U("c")]
    for name, kept in (("qwen3", False), ("r1", False), ("chatml", True)):
        chat = ChatFormat(tokenizer(SHAPES[name].source))
        encoded = chat.encode([[*talk, A("d")]])[0]
        assert encoded.ids[: encoded.prompt_tokens] == chat.prompts([talk])[0]
        assert ("because" in encoded.text) == kept


READ = [
    ("red", "red"),
    ("<think>\nIt is a colour.\n</think>\n\nred", "red"),
    ("<think></think>red", "red"),
    ("\n</think>\n\nred", "red"),
    ("It is\n</think>\n\nred", "red"),
    ("<think>\nIt is a colour and", ""),
    ("<think>a</think> red <think>b</think>", "red "),
    ("<think>a <think>b</think> c</think> red", "red"),
    ("<thinking>a</thinking>red", "red"),
    ("<THINK>a</THINK>red", "red"),
    ("<reasoning>\na\n</reasoning>\nred", "red"),
    ("<seed:think>a</seed:think>red", "red"),
    ("<thought>a</thought>red", "red"),
    ("[THINK]a[/THINK]red", "red"),
    ("[THINK]a", ""),
    ("<|START_THINKING|>a<|END_THINKING|>red", "red"),
    ("<|begin_of_thought|>a<|end_of_thought|>red", "red"),
    ("◁think▷a◁/think▷red", "red"),
    ("<|channel>thought\na<channel|>red", "red"),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>red", "red"),
    ("<|channel|>analysis<|message|>a", ""),
    ("<b>red</b> I think", "<b>red</b> I think"),
]


@pytest.mark.parametrize(("text", "wanted"), READ)
def test_what_stands_between_reasoning_tags_is_no_part_of_an_answer(text: str, wanted: str) -> None:
    assert ChatFormat(tokenizer(CHATML)).read(text)[0] == wanted


def test_a_stop_inside_a_reasoning_block_ends_nothing() -> None:
    read = ChatFormat(tokenizer(CHATML)).read
    assert read("<think>\na\n", ["\n"]) == ("", False)
    assert read("<think>\na\n</think>\n\n", ["\n"]) == ("", False)
    assert read("<think>\na\n</think>\n\nred\nblue", ["\n"]) == ("red", True)
    assert read("red\nblue", ["\n"]) == ("red", True)
    assert read("\nred", ["\n"]) == ("", True)  # as of a model that was not taught this form


def test_a_tag_that_only_a_template_has_is_one_of_reasoning_too() -> None:
    chat = ChatFormat(tokenizer(SHAPES["unknown tag"].source))
    assert chat.read("<scratch>\na\n</scratch>\n\nred") == ("red", False)
    assert ChatFormat(tokenizer(CHATML)).read("<scratch>a</scratch>red")[0] == "<scratch>a</scratch>red"
    assert ChatFormat(tokenizer(SHAPES["unknown tags"].source)).read("<scratch>a</scratch>red")[0] == "red"
    assert len(ChatFormat(tokenizer(SHAPES["wrapped"].source)).reasoning.tags) == len(Reasoning().tags)


def llama(tokens: Any, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, pad_token_id=tokens.pad_token_id,
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.convert_tokens_to_ids("</s>"),
    )  # fmt: skip
    return Model(LlamaForCausalLM(config).eval(), tokens)


def scripted(model: Model, monkeypatch: pytest.MonkeyPatch, *texts: str) -> LM:
    """The model writes these texts one after the other, whatever it is asked, and then the word `endless`."""
    tokens: Any = model.tokenizer
    script = [token for text in texts for token in tokens(text, add_special_tokens=False)["input_ids"]]
    rest = tokens("endless", add_special_tokens=False)["input_ids"]
    begin: list[int] = []

    def forward(input_ids: torch.Tensor, **more: Any) -> Any:
        place = int(more["attention_mask"].shape[1])
        begin[:] = begin or [place]
        step = place - begin[0]
        token = script[step] if step < len(script) else rest[step % len(rest)]
        logits = torch.zeros(len(input_ids), input_ids.shape[1], model.lm.config.vocab_size)
        logits[..., token] = 1
        out = original(input_ids=input_ids, **more)
        out.logits = logits[:, -out.logits.shape[1] :]
        return out

    original = model.lm.forward
    monkeypatch.setattr(model.lm, "forward", forward)
    return LM(model, 1, 64, torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "texts", "stop", "wanted"),
    [
        ("chatml", ["red<|im_end|>\n<|im_start|>user\nblue"], [], "red"),
        ("qwen3", ["red<|im_end|>blue"], ["\n"], "red"),
        ("qwen3", ["<think>\nIt is\n</think>\n\n", "red\nblue"], ["\n"], "red"),
        ("qwen3", ["<think>\nIt is\n"], ["\n"], ""),
        ("glm", ["red<|user|>blue"], [], "red"),
        ("gpt-oss", ["red<|end|>blue"], [], "red"),
        ("command-r7b", ["red<|END_RESPONSE|><|END_OF_TURN_TOKEN|>blue"], [], "red"),
        ("words alone", ["red\n\nuser: blue</s>"], ["\n"], "red"),
        ("llama2", [" red </s>blue"], [], " red "),
    ],
)
def test_a_reply_ends_where_a_turn_does(
    name: str, texts: list[str], stop: list[str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SHAPES[name]
    model = scripted(llama(tokenizer(shape.source, shape.eos)), monkeypatch, *texts)
    assert model.reply([ONE], stop, 24) == [wanted]


def test_replies_are_greedy_whatever_the_generation_config_says() -> None:
    model = llama(tokenizer(CHATML))
    lm = LM(model, 1, 64, torch.device("cpu"))
    talks = [ONE, SEVERAL]
    greedy = lm.reply(talks, [], 12)
    own = GenerationConfig(
        do_sample=True, temperature=9.0, top_k=5, repetition_penalty=9.0, min_new_tokens=11, suppress_tokens=[5, 6, 7],
        eos_token_id=model.tokenizer.eos_token_id,
    )  # fmt: skip
    model.lm.generation_config = own
    assert LM(model, 1, 64, torch.device("cpu")).reply(talks, [], 12) == greedy
    assert model.lm.generation_config is own


@pytest.mark.parametrize(
    ("source", "named", "wanted"),
    [(CHATML, 1, [1, "<|im_end|>"]), (CHATML, None, "<|im_end|>"), (CHATML, [1, 7], [1, 7, "<|im_end|>"]),
     (SHAPES["zephyr"].source, 1, 1), (None, 1, 1), ("{{ raise_exception('no') }}", 1, 1)],
)  # fmt: skip
def test_a_saved_model_stops_at_the_end_of_a_turn(source: str | None, named: Any, wanted: Any, tmp_path: Path) -> None:
    model = llama(tokenizer(source))
    model.lm.generation_config.eos_token_id = named
    model.save(tmp_path)
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    wanted = [end if stop == "<|im_end|>" else stop for stop in wanted] if isinstance(wanted, list) else wanted
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["eos_token_id"] == (end if wanted == "<|im_end|>" else wanted)
    model.save(tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == saved


def test_sampling_settings_without_sampling_do_not_keep_a_model_from_being_saved(tmp_path: Path) -> None:
    first = llama(tokenizer(CHATML))
    first.lm.save_pretrained(tmp_path)
    own = json.loads((tmp_path / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**own, "temperature": 0.6, "top_p": 0.9}))
    model = Model(LlamaForCausalLM.from_pretrained(tmp_path), tokenizer(CHATML))
    model.save(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert (saved["temperature"], saved["top_p"], saved["do_sample"]) == (0.6, 0.9, True)


COLOURS, AGES = ("red", "green", "blue"), ("old", "new", "young")


def classified(first: int, rows: int) -> list[tuple[str, str]]:
    rng = random.Random(first)
    nouns = ["ship", "paper", "window", "winter", "river", "baker"]
    out = []
    for number in range(first, first + rows):
        word = rng.choice((*COLOURS, *AGES))
        out.append((f"the {word} {rng.choice(nouns)} {number}", "colour" if word in COLOURS else "age"))
    return out


THINKING = SHAPES["qwen3 without arguments"].source


@pytest.mark.parametrize(
    "source", [CHATML, QWEN3, THINKING, SHAPES["r1"].source], ids=["chatml", "qwen3", "case 22", "r1"]
)
def test_a_task_is_learnt_as_well_with_any_template(source: str, tmp_path: Path) -> None:
    rows = [{"messages": [turn("user", text), turn("assistant", label)]} for text, label in classified(0, 200)]
    item = Task.model_validate({"rows": 16})
    model, *_ = trained(
        tmp_path, item, pa.Table.from_pylist(rows), 60, make=lambda: llama(tokenizer(source, "<|endoftext|>"))
    )
    held_out = classified(1000, 40)
    answers = LM(model, 1, 64, torch.device("cpu")).reply([[turn("user", text)] for text, _ in held_out], ["\n"], 12)
    assert answers == [label for _, label in held_out]


def test_an_answer_ends_where_training_ended_it_although_eos_is_another(tmp_path: Path) -> None:
    """Case 23."""
    rows = [{"messages": [turn("user", f"repeat {word}"), turn("assistant", word)]} for word in (*COLOURS, *AGES)] * 8
    item = Task.model_validate({"rows": 16})
    model, *_ = trained(
        tmp_path, item, pa.Table.from_pylist(rows), 120, make=lambda: llama(tokenizer(CHATML, "<|endoftext|>"))
    )
    answers = LM(model, 1, 64, torch.device("cpu")).reply(
        [[turn("user", f"repeat {word}")] for word in COLOURS], (), 24
    )
    assert answers == list(COLOURS)
    batch = conversations([[turn("user", "repeat red"), turn("assistant", "red")]], model, 64)
    end = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert batch["labels"][0, -1] == batch["input_ids"][0, -1] == end, "a newline after it is no label"


def test_a_base_model_whose_template_cannot_be_used_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    llama(tokenizer(REFUSED["counts turns"][0])).save(tmp_path / "model")
    (tmp_path / "tasks.jsonl").write_text('{"prompt": "one", "answer": "eins"}\n')
    corpus = {
        "pairs": ["en-de"], "sources": ["sample"], "filters": ["char_length"], "budget": {"rows": 10},
        "tasks": [{"messages": {"path": str(tmp_path / "tasks.jsonl"), "train": ["en"]}}],
    }  # fmt: skip

    def base(name: str, objective: str) -> Any:
        train = {"base": {"model": str(tmp_path / "model")}, "objectives": [objective]}
        recipe = validate(Recipe, {"name": name, "corpus": corpus, "train": train}, name)
        store = Store.open(tmp_path / name, name)
        return store, lambda: Trainer(recipe, store, "cpu").base()

    store, make = base("talks", "task")
    with pytest.raises(UserError, match=r"chat template of .*model: an answered conversation begins in another way: "):
        make()
    assert store.manifest("base_model") is None
    _, make = base("pairs", "contrastive")  # has no conversations
    assert "conversations" not in make().numbers


def test_an_end_that_is_no_token_gives_way_to_eos() -> None:
    """A ChatML template on a tokenizer that was not taught its marks, which are words to it then."""
    tokens = tiny().tokenizer
    tokens.chat_template = CHATML
    chat = ChatFormat(tokens)
    encoded = chat.encode([[*ONE, turn("assistant", "one")]])[0]
    assert chat.end_id == encoded.ids[-1] == tokens.eos_token_id
    assert chat.stop_ids == [tokens.eos_token_id]
    assert encoded.text.endswith("<|im_start|>assistant\none")
    assert chat.read("one<|im_end|>\n<|im_start|>user") == ("one", True)


def test_a_tokenizer_without_any_end_is_refused() -> None:
    tokens = tokenizer(None)
    tokens.eos_token = None
    with pytest.raises(UserError, match="found neither an end-of-sequence token nor .* Fix: set eos_token"):
        ChatFormat(tokens)
    tokens.chat_template = CHATML
    assert ChatFormat(tokens).end_id == tokens.convert_tokens_to_ids("<|im_end|>")
