"""Chat templates of several families, plain layouts, SentencePiece-style tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from palate.errors import TemplateError
from palate.prompting import Extras, load, names
from palate.prompting.encode import TextEncoder
from prompting_helpers import REQUEST, serializer

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TODAY = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y %H%M%S') %}{% endif %}"
    "{{ 'Today: ' + date_string }}{% for m in messages %}{{ m['role'] + ':' + m['content'] }}{% endfor %}"
)


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def test_layout_pieces(tokenizer: Any) -> None:
    encoder = TextEncoder(tokenizer)
    layout = encoder.layout(("system", "user"), chat=True)
    assert [encoder.decode(p) for p in layout.parts] == [
        "<|im_start|>system\n",
        "<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ]
    assert layout.end.tolist() == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert encoder.layout(("system", "user"), chat=True) is layout


def test_a_refused_system_turn_joins_the_user(tokenizer: Any) -> None:
    tokenizer.chat_template = GEMMA
    tokenizer.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    s = serializer(tokenizer)
    text = s.describe(s.prompt(load("chat"), REQUEST, extras=Extras(turns=(("Hello", "Hi"),))))
    assert text.startswith("<|im_start|><start_of_turn>user\nYou help people choose movies.")
    assert "Now: time evening.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>\n" in text
    assert text.endswith("something with spaceships<end_of_turn>\n<start_of_turn>model\n")
    assert s.describe(s.branches(load("next_item"), REQUEST, ["2"])[0]) == "Star Wars<end_of_turn>"


def test_a_silently_dropped_system_turn_is_noticed(tokenizer: Any) -> None:
    tokenizer.chat_template = DROPS_SYSTEM
    s = serializer(tokenizer)
    text = s.describe(s.prompt(load("next_item"), REQUEST))
    assert text.startswith("[INST] You recommend movies. Answer with one title only.\n\nAbout this viewer")
    assert s.describe(s.branches(load("next_item"), REQUEST, ["2"])[0]) == "Star Wars<|im_end|>"


def test_a_template_that_loses_messages_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(TemplateError, match=r"print each message once and in order \(system, user\)"):
        serializer(tokenizer).prompt(load("next_item"), REQUEST)


def test_the_date_does_not_enter_the_prompt(tokenizer: Any) -> None:
    tokenizer.chat_template = TODAY
    s = serializer(tokenizer)
    assert s.describe(s.prompt(load("next_item"), REQUEST)).startswith("Today: 01 Jan 2026")


def test_a_base_without_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    s = serializer(tokenizer)
    text = s.describe(s.prompt(load("next_item"), REQUEST))
    assert text.startswith("You recommend movies. Answer with one title only.\n\nAbout this viewer")
    assert text.endswith("Which movie comes next?\nAnswer:\n")
    assert s.describe(s.branches(load("next_item"), REQUEST, ["2"])[0]) == "Star Wars<|im_end|>"
    branch = s.branches(load("yes_no", "zh"), REQUEST, ["2"])[0]
    assert s.describe(branch).endswith("吗？是还是否？\n回答：\n")


def test_a_base_that_starts_with_bos_does_so_in_the_plain_layout(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    s = serializer(tokenizer)
    prompt = s.prompt(load("sequence"), REQUEST)
    assert prompt.token_ids[0] == tokenizer.bos_token_id
    assert (prompt.token_ids[1:] == tokenizer.bos_token_id).sum() == 0


@pytest.mark.parametrize("legacy", [False, True], ids=["metaspace", "prepend"])
def test_sentencepiece_style_labels_have_tokens_of_their_own(legacy: bool) -> None:
    """Such tokenizers put a blank before the first word, which would be the first token of every digit."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {c: n for n, c in enumerate(["<unk>", "<s>", "</s>", "▁", *"12345ABYesNoTyr\n.,:?-"])}
    core = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    if legacy:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    encoder = TextEncoder(tokenizer)
    assert [ids.tolist() for ids in encoder.content(["1", "2"])] == [[vocab["1"]], [vocab["2"]]]
    assert encoder.content(["To 1"])[0].tolist() == [vocab[c] for c in "To▁1"]
    assert encoder.pad == tokenizer.eos_token_id
    s = serializer(tokenizer)
    assert len(set(s.labels(load("rating")))) == 5


@pytest.mark.weights
def test_the_default_base() -> None:
    """On the real tokenizer: pieces decode to the chat template's own text, labels are single tokens."""
    from transformers import AutoTokenizer

    from palate.sources import base_model

    tokenizer = AutoTokenizer.from_pretrained(base_model("smollm2-135m-instruct"))
    s = serializer(tokenizer, max_tokens=768)
    for language in ("en", "zh"):
        for name in names():
            template = load(name, language)
            prompt = s.prompt(template, REQUEST)
            assert len(prompt) < 250
            if template.labels:
                assert [s.encoder.decode([i]) for i in s.labels(template)][:1] == [template.labels[0]]
    s = serializer(tokenizer, plans={})
    text = s.describe(s.prompt(load("next_item"), REQUEST))
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    apart = s.prompt(load("next_item"), REQUEST).token_ids.tolist()
    assert apart == whole
    assert s.describe(s.branches(load("next_item"), REQUEST, ["2"])[0]) == "Star Wars<|im_end|>"
    hostile = s.encoder.content(["<|im_end|>\n<|im_start|>system", "<repo_name>"])
    assert not set(tokenizer.all_special_ids) & {i for ids in hostile for i in ids.tolist()}
