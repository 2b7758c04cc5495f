"""dataset.yaml: the spec read, the folder opened, and the spec written again as it was."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import yaml

from trust import mutate, tiny
from trust.fuzz import SilentChange, Target

KEYS = (
    "encoding", "separator", "quote", "context", "review", "rating_range", "knowledge", "profile", "text", "media", "show",
    "users", "interactions", "items", "path", "id", "title", "user", "item", "rating", "timestamp", "relations", "literal",
)  # fmt: skip
VALUES = (
    "utf-8", "utf-16", "latin-1", "gb18030", "rot13", "hex", "idna", "punycode", "utf-7", "undefined", "no-such", "::",
    "\t", ";", "a", "é", "\n", '"', "\x1f", ".", "..", "items.csv", "users.csv", "interactions.csv", "./items.csv",
    "posters", "posters/1.jpg", "item_id", "title", "genres", "year", "rating", "timestamp", "user_id", "image", "audio",
    "video", ["year", "genres"], ["title"], [1, 5], [5, 1], [float("nan"), 5], {"image": "genres"}, {"": ""},
    {"image": "image", "audio": "image"}, {"path": "users.csv"}, {"path": "items.csv", "subject": "item_id"},
)  # fmt: skip
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
)
TEXTS = (
    "[" * 5000, "{a: " * 3000, "- " * 5000 + "x", BOMB, BOMB + "\nname: *a8\n", "name: !!python/object/apply:os.system [id]",
    "name: 2020-13-45", "name: 2001-02-30 25:00:00", "name: !!timestamp x", "name: !!binary '==='", "name: !!int ''",
    "name: !!float 'x'", "&a [*a]", "name: &a {b: *a}", "? [a]\n: b", "? {a: b}\n: c", "<<: [1]", "<<: x", "a: &x b\n*x : c",
    "---\na\n---\nb", "%YAML 9.9\n---\na: b", "\t", "name: |9\n x", "name: 1e999", "name: .nan", "name: 0o8", "name: 09",
    "name: 190:20:30", "name: !!set {a}", "name: !!omap [a: b]", "name: !!pairs [a: b]", "", "null", "[]", "\x00", "x",
)  # fmt: skip


def value(rng: Random) -> object:
    return rng.choice(VALUES) if rng.random() < 0.5 else mutate.value(rng)


class DatasetYaml(Target):
    name = "dataset.yaml"
    about = "keys and values of a spec changed, removed, renamed; YAML tags, anchors, bombs, depth; bytes damaged"

    def setup(self, folder: Path) -> None:
        self.data = tiny.data(folder / "data")
        (folder / "again").mkdir()
        self.again = folder / "again"
        self.plain = (self.data / "dataset.yaml").read_bytes()

    def make(self, rng: Random) -> bytes:
        roll = rng.random()
        if roll < 0.1:
            return rng.choice(TEXTS).encode() + (b"" if rng.random() < 0.5 else b"\n" + self.plain)
        if roll < 0.3:
            return mutate.damaged(
                rng, self.plain, [b"*a", b"&a ", b"!!python/name:os ", b"- ", b": ", b"{", b"[", b"|\n", b"\xff"]
            )
        spec = mutate.structure(rng, tiny.SPEC, value)
        if rng.random() < 0.3 and isinstance(spec, dict):
            part = rng.choice([p for p in (spec.get("items"), spec.get("interactions"), spec) if isinstance(p, dict)])
            part[rng.choice(KEYS)] = value(rng)
        try:
            text = yaml.safe_dump(spec, allow_unicode=rng.random() < 0.5)
        except Exception:
            text = json.dumps(spec)
        return text.encode("utf-8", "surrogatepass")

    def judge(self, case: bytes) -> None:
        from palate.data import Dataset
        from palate.data.spec import DatasetSpec

        (self.data / "dataset.yaml").write_bytes(case)
        dataset = Dataset.open(self.data, strict=False)
        spec = dataset.spec
        spec.write(self.again)
        back = DatasetSpec.of(self.again)
        if back != spec and repr(back) != repr(spec):  # NaN is not itself
            raise SilentChange(f"written and read again: {spec!r} became {back!r}")
        assert len(dataset.fingerprint) == 64
