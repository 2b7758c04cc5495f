"""vllm: a base with its LoRA beside it, or merged, and the soft tokens for prompt embeddings."""

from __future__ import annotations

from pathlib import Path

from palate.apps.export import served
from palate.apps.export.targets import Export, Options, Target

LORA = """\
```bash
vllm serve DIR/base --served-model-name base --enable-lora --max-lora-rank {rank} --lora-modules palate=DIR/adapter
python -m palate.apps.export.client DIR --engine vllm --model palate --data DATA --history "Alien" --item "Heat" --text
```

The client asks `POST /generative_scoring` about text prompts (`--text`: no soft tokens). With soft tokens it sends
`prompt_embeds` to `POST /v1/completions`; start the server with `--enable-prompt-embeds` for that. On Llama models
vLLM 0.32 crashes where LoRA and prompt embeddings meet under load
(https://github.com/vllm-project/vllm/issues/51122): export with `--merge` to use soft tokens.
"""
MERGED = """\
```bash
vllm serve DIR/model --served-model-name palate --enable-prompt-embeds
python -m palate.apps.export.client DIR --engine vllm --model palate --data DATA --history "Alien" --item "Heat"
```
"""


class Vllm(Target):
    """What `vllm serve --enable-lora` takes, or with --merge one model; soft tokens go in as prompt embeddings."""

    name = "vllm"
    takes = frozenset({"merge"})

    def write(self, bundle: Path, folder: Path, options: Options) -> Export:
        """base/ and adapter/, or model/, and the tables of soft tokens and matching."""
        model, more = served.write(bundle, folder, options)
        use = MERGED if options.merge else LORA.format(rank=more["adapter"]["max_lora_rank"])
        return Export(model, served.LOST, use, more)
