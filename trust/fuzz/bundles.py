"""Adapter bundles: palate.json, adapter_config.json and tensors changed, of other shapes, types, bases, not finite."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

from trust import mutate, tiny
from trust.fuzz import SilentChange, Target

FILES = (
    "palate.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "projectors.safetensors",
    "features.safetensors",
)
TYPES = ("F32", "F16", "BF16", "I8", "I64", "BOOL", "F64", "U8", "F8_E4M3", "X")


class Bundles(Target):
    name = "bundles"
    about = "keys of both JSON files, headers and tensors of three safetensors: shapes, types, NaN, cuts, another base, pickles"

    def setup(self, folder: Path) -> None:
        from palate.data import Dataset

        _, data, adapter = tiny.all_of(folder)
        self.adapter = adapter
        self.other = tiny.base(folder / "other", width=48, seed=3)
        self.items = Dataset.open(data).catalog.item_ids
        self.plain = {n: (adapter / n).read_bytes() for n in FILES}

    def make(self, rng: Random) -> dict[str, bytes | None]:
        name = rng.choice(FILES)
        data, roll = self.plain[name], rng.random()
        if roll < 0.02:
            return {name: None}
        if roll < 0.05:
            return {name: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93."}
        if roll < 0.3:
            return {name: mutate.damaged(rng, data, [b'"', b"{", b"NaN", b"[" * 2000])}
        if name.endswith(".json"):
            tree = json.loads(data)
            if name == "palate.json" and rng.random() < 0.05:
                tree["base"] = tree["model"]["base"] = f"path:{self.other}"
                return {name: json.dumps(tree).encode()}
            return {name: json.dumps(mutate.structure(rng, tree)).encode()}
        return {name: self._tensors(rng, data)}

    def _tensors(self, rng: Random, data: bytes) -> bytes:
        """The header says something else, or values are not finite."""
        length = int.from_bytes(data[:8], "little")
        header, body = json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])
        roll = rng.random()
        if roll < 0.3 and body:
            at = rng.randrange(0, len(body), 2)
            body[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\xc0\x7f\xc0\x7f", b"\x80\x7f\x80\x7f", b"\x00\x7c\x00\x7e")
            )
        elif roll < 0.7:
            tensor = header[rng.choice([k for k in header if k != "__metadata__"])]
            if rng.random() < 0.3:
                tensor["dtype"] = rng.choice(TYPES)
            elif rng.random() < 0.5:
                tensor["shape"] = rng.choice(
                    (tensor["shape"][::-1], [], [0], [2**40], [-1], [1, *tensor["shape"]], tensor["shape"][:1])
                )
            else:
                tensor["data_offsets"] = [rng.choice((0, 4, 2**40, -1)), rng.choice((0, 8, len(body), 2**62))]
        else:
            header = mutate.structure(rng, header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", rng.choice((len(text), len(text), len(text), 2**40, 0))) + text + bytes(body)

    def judge(self, case: dict[str, bytes | None]) -> None:
        import torch

        from palate.model import bundle

        try:
            for name, data in case.items():
                if data is None:
                    (self.adapter / name).unlink()
                else:
                    (self.adapter / name).write_bytes(data)
            model = bundle.load(self.adapter, items=self.items, device="cpu").model
            vectors = model.item_vectors()
            if not torch.isfinite(vectors).all() or not all(torch.isfinite(p).all() for p in model.parameters()):
                raise SilentChange("a bundle with values that are not finite was taken")
            if len(vectors) != len(self.items):
                raise SilentChange(f"{len(vectors)} item vectors of {len(self.items)} items")
        finally:
            for name in case:
                (self.adapter / name).write_bytes(self.plain[name])
