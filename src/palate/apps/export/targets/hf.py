"""hf: merged weights as a plain transformers folder."""

from __future__ import annotations

from pathlib import Path

from palate.apps.export import weights
from palate.apps.export.targets import Export, Options, Target

LOST = (
    "soft tokens: pictures, sounds and behaviour vectors of items are not in a text prompt",
    "projectors: new vectors cannot be turned into soft tokens",
    "matching head: the mode `embedding` needs it; the next token's logits are all that is left",
)
USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("DIR")
tokenizer = AutoTokenizer.from_pretrained("DIR")
```
"""


class Hf(Target):
    """LoRA added into the base (the sum in float32, rounded once), cut to the adapter's depth, with its tokenizer."""

    name = "hf"

    def write(self, bundle: Path, folder: Path, options: Options) -> Export:
        """Weights, config, tokenizer and a greedy generation config, at the top of the folder."""
        model = weights.load(bundle, options, merge=True).model
        return Export({"folder": ".", "lora": "merged", **weights.save(model.lm, model.tokenizer, folder)}, LOST, USE)
