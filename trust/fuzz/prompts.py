"""Texts of items and people in every template and chat markup: no turn and no slot that the template did not put there."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from trust import mutate, tiny
from trust.fuzz import SilentChange, Target

MARKUP = (
    "<|im_start|>", "<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<|im_", "start|>", "<s>", "</s>", "[INST]",
    "[/INST]", "<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<start_of_turn>user\n", "<end_of_turn>", "<think>",
    "<tool_call>", "<|reserved_special_token_0|>", "<unused0>", "<repo_name>", "<filename>", "<jupyter_start>", "<empty_output>",
    "assistant", "system:", "\nuser\n", "### Response:", "{{ media }}", "{% endif %}", "{{ item.title }}", "\ue000", "\ue001",
    "\ue002", "\ue003", "\ue004", "\ufeff", "\u200b", "\u200d", "\u2060", "\u202e", "\u2066", "\u2069", "\U000e0041", "\u034f",
    "\u3164", "\u2800", "\ud800", "\udfff", "\x00", "\x1b[2J", "\r\n", "\t", "\u2028", "\x85", "&lt;|im_end|&gt;", "\\u003c|im_end|>",
    "<\u200b|im_end|>", "＜|im_end|＞",
)  # fmt: skip
ADDED = (
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
    "<|reserved_special_token_0|>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<unused0>", "<think>", "</think>",
    "<tool_call>", "<s>", "</s>", "[INST]", "[/INST]",
)  # fmt: skip
"""Tokens of other families that the second tokenizer reserves."""
LLAMA = (
    "<|begin_of_text|>{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content']"
    " | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "<bos>{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system') }}{% endif %}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
TEMPLATES = ("next_item", "yes_no", "letters", "sequence", "sequence_timed", "rating", "rated", "chat")
BRANCHED = ("next_item", "yes_no", "rating", "rated")
MEGABYTE = 0.002


class Prompts(Target):
    name = "prompts"
    about = "chat markup of three families, role words, slot marks, invisible and broken characters, up to 1 MB, in every text of a prompt"

    def setup(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        from palate import prompting, sources
        from palate.config import PromptConfig
        from palate.prompting import Serializer, ShowFields
        from palate.schema import Wording

        def writer(base: Path, chat: str = "") -> Serializer:
            tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
            if chat:
                tokenizer.chat_template = chat
                tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED[:12])})
                tokenizer.add_tokens(list(ADDED[12:]))  # reserved, though not special
            show, config = ShowFields(("year",), ("year", "genres")), PromptConfig(max_tokens=20_000)
            return Serializer(
                tokenizer, {}, Wording("movie", "movies", "watched", "viewer"), show, config, lambda item: ()
            )

        made, real = tiny.base(folder / "base"), "smollm2-135m-instruct"
        first = sources.base_model(real) if sources.cached(real) else made
        self.writers = {"chatml": writer(first), "llama": writer(made, LLAMA), "gemma": writer(made, GEMMA)}
        self.templates = {n: prompting.load(n) for n in TEMPLATES}
        self.harmless: dict[tuple[str, str], Any] = {}

    def make(self, rng: Random) -> tuple[str, str, list[str]]:
        family = rng.choice(("chatml", "chatml", "llama", "gemma"))
        return family, rng.choice(TEMPLATES), [self.text(rng) for _ in range(4)]

    @staticmethod
    def text(rng: Random) -> str:
        if rng.random() < MEGABYTE:
            unit = rng.choice(MARKUP) + mutate.text(rng) + "x"
            return (unit * ((1 << 20) // len(unit) + 1))[: 1 << 20]
        parts = [rng.choice(MARKUP) if rng.random() < 0.7 else mutate.text(rng) for _ in range(rng.randint(0, 4))]
        return "".join(parts)

    def judge(self, case: tuple[str, str, list[str]]) -> None:
        family, name, dirt = case
        if (family, name) not in self.harmless:
            self.harmless[family, name] = self.counted(family, name, ["", "", "", ""])
        found, wanted = self.counted(family, name, dirt), self.harmless[family, name]
        if found != wanted:
            raise SilentChange(f"{family}, {name}: markup and slots {found}, those of a harmless text {wanted}")

    def counted(self, family: str, name: str, dirt: list[str]) -> list[list[Any]]:
        """Marks of a prompt and its branches whose texts end in dirt."""
        from palate.prompting import Extras
        from palate.schema import Event, Item, Request

        title, field, said, key = dirt
        items = {
            "1": Item("1", f"Toy{title}", {"year": f"1995{field}", "genres": f"Comedy{field}"}),
            "2": Item("2", f"Heat{field}", {"genres": f"Crime{title}", f"plot{key}": said}),
            "3": Item("3", f"Jaws{said}"),
        }
        plans = {"1": (("image", 1), ("behaviour", 2)), "3": (("behaviour", 2),)}
        # one encoder for all inputs: reading a tokenizer takes a hundred times longer than a prompt
        shared = self.writers[family]
        writer = shared.over(items, lambda item: plans.get(item, ()), shared.config)
        history = (Event("1", 1.0, 4.0, review=f"good{said}"), Event("2", 2.0, 3.0), Event("3", 9.0e8))
        profile = {f"age{key}": f"24{said}"}
        request = Request("r", None, history, ("2", "3"), {"time": f"x{key}"}, profile, f"something{said}")
        turns = ((f"hi{said}", f"ho{title}"),) if name == "chat" else ()
        extras = Extras(turns=turns, facts=(f"fact{field}",))
        template = self.templates[name]
        pieces: list[Any] = [writer.prompt(template, request, extras=extras)]
        if name in BRANCHED:
            pieces += writer.branches(template, request, ("2", "3"))
        return [self.marks(p, writer.encoder.reserved) for p in pieces]

    @staticmethod
    def marks(piece: Any, reserved: Any) -> list[Any]:
        """Special tokens and slots of a prompt or branch, in the order in which they stand."""
        at = np.flatnonzero(np.isin(piece.token_ids, reserved))
        slots = {s.start: (s.modality, s.length) for s in piece.slots}
        pads = {n for s in piece.slots for n in range(s.start, s.start + s.length)}
        marks = {int(n): int(piece.token_ids[n]) for n in at if int(n) not in pads}
        return [found for _, found in sorted({**marks, **slots}.items())]
