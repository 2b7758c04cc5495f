"""sglang: a base with its LoRA beside it, or merged, and the soft tokens for embedding overrides."""

from __future__ import annotations

from pathlib import Path

from palate.apps.export import served
from palate.apps.export.targets import Export, Options, Target

LORA = """\
```bash
python -m sglang.launch_server --model-path DIR/base --enable-lora --lora-paths palate=DIR/adapter \\
    --max-lora-rank {rank} --disable-radix-cache
python -m palate.apps.export.client DIR --engine sglang-generate --url http://localhost:30000 --model palate \\
    --data DATA --history "Alien" --item "Heat"
```

SGLang 0.5.23 scores without LoRA: `/v1/score` does not read an adapter's name. The client therefore sends whole prompts
to `/generate` as `input_embeds` (which needs `--disable-radix-cache`). Export with `--merge` to use `/v1/score`.
"""
MERGED = """\
```bash
python -m sglang.launch_server --model-path DIR/model --served-model-name palate
python -m palate.apps.export.client DIR --engine sglang --url http://localhost:30000 --model palate \\
    --data DATA --history "Alien" --item "Heat"
```

`/v1/score` takes soft tokens as embedding overrides: a placeholder token in the ids, one vector for each place.
"""


class Sglang(Target):
    """What `sglang.launch_server --enable-lora` takes, or with --merge one model for /v1/score."""

    name = "sglang"
    takes = frozenset({"merge"})

    def write(self, bundle: Path, folder: Path, options: Options) -> Export:
        """base/ and adapter/, or model/, and the tables of soft tokens and matching."""
        model, more = served.write(bundle, folder, options)
        use = MERGED if options.merge else LORA.format(rank=more["adapter"]["max_lora_rank"])
        return Export(model, served.LOST, use, more)
