"""The bundle's card: a README.md that says what the adapter is, what it was measured on and how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card(name: str, meta: Mapping[str, Any]) -> str:
    """Markdown with the Hugging Face card header, written from the bundle's own `palate.json`."""
    model = meta["model"]
    lora = model["lora"]
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {meta['base']}",
        "tags: [recommendation, sequential-recommendation, lora, multimodal]",
        "---",
        f"# {name}",
        "",
        f"A Palate adapter: LoRA of rank {lora['rank']} on {lora['targets']}, projectors for "
        f"{', '.join(sorted(meta['fingerprints']))} ({model['fusion']}-level fusion, {model['soft_tokens']} soft "
        f"token{'s' if model['soft_tokens'] > 1 else ''}), and a matching head {model['matching']} wide.",
        "",
        "| | |",
        "|---|---|",
        f"| base | `{meta['base']}`, sha256 `{meta['base_sha256'][:16]}` |",
    ]
    data = meta.get("data") or {}
    if data:
        lines.append(f"| data | {data.get('name', '?')}, fingerprint `{str(data.get('fingerprint', '?'))[:16]}` |")
    for key, value in (meta.get("training") or {}).items():
        lines.append(f"| {key} | {_cell(value)} |")
    lines += ["", *_metrics(meta.get("metrics") or []), *_use(name)]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "; ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _metrics(rows: list[Mapping[str, Any]]) -> list[str]:
    """A table of measured numbers: each row has system, protocol, metric, value, low, high, n, seed."""
    if not rows:
        return []
    out = [
        "## Measured",
        "",
        "| system | protocol | metric | value | 95% interval | n | seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        out.append(
            f"| {r['system']} | {r['protocol']} | {r['metric']} | {r['value']:.3f} | "
            f"{r['low']:.3f} to {r['high']:.3f} | {r['n']} | {r['seed']} |"
        )
    return [*out, ""]


def _use(name: str) -> list[str]:
    return [
        "## Use",
        "",
        "```python",
        "from palate import Recommender",
        "",
        f'rec = Recommender.load("adapters/{name}")',
        'for film in rec.recommend(history=["Alien", "Heat"], k=10):',
        "    print(film)",
        "```",
        "",
        "The LoRA files load in plain `peft` too: `PeftModel.from_pretrained(base, folder)`. Without Palate the "
        "soft tokens are missing, so only text prompts make sense there.",
        "",
        "`features.safetensors` holds item vectors computed by the encoders named in `palate.json`; it holds no "
        "pictures and no text of the data set.",
    ]
