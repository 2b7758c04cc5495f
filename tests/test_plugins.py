"""Adding one of each kind is one new file: each is written here, found by its folder and used through a public door."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from facade import tiny_bundle
from palate import Recommender
from palate.apps import cli
from palate.apps.export.targets import names as targets
from palate.apps.serve.app import create_app
from palate.chat.languages import languages
from palate.config import CaptionConfig, EncoderConfig
from palate.data import Dataset, import_dataset
from palate.features import captions, compute
from palate.features.store import FeatureStore
from palate.features.textstore import TextStore
from palate.store import Store

ROOT = Path(__file__).parents[1]
Add = Callable[[str, str, str], None]

ENCODER = """
import numpy as np
from palate.features.encoders import ContentEncoder, Encoded

class Length(ContentEncoder):
    \"\"\"How long a title is.\"\"\"
    name = "length"
    width = 2

    def identity(self, item):
        return item.title.encode()

    def encode(self, items):
        vectors = np.array([[len(i.title), 1.0] for i in items], dtype=np.float32)
        return Encoded(vectors, np.ones(len(items), dtype=bool), [])
"""
CAPTIONER = """
from palate.features.captioners import Captioned, Captioner

class Shout(Captioner):
    \"\"\"The title, loudly.\"\"\"
    name = "shout"

    def identity(self, item):
        return item.title.encode()

    def caption(self, items):
        return Captioned([i.title.upper() for i in items], [])
"""
READER = """
from palate.data import tables
from palate.data.readers import Layout, Reader
from palate.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec

class Shelf(Reader):
    \"\"\"books.csv and lent.csv.\"\"\"
    name = "shelf"
    about = "books.csv, lent.csv"

    def sniff(self, path):
        return (path / "books.csv").is_file()

    def read(self, path):
        spec = DatasetSpec(
            name="shelf",
            items=ItemsSpec(path="books.csv", id="isbn", title="name", text=("author",)),
            interactions=InteractionsSpec(path="lent.csv", user="reader", item="isbn"),
        )
        return Layout(spec, tables.source(path, spec.items), tables.source(path, spec.interactions))
"""
RETRIEVER = """
import numpy as np
from palate.retrieve import Retriever

class Alphabet(Retriever):
    \"\"\"The last of the catalogue first.\"\"\"
    name = "alphabet"

    def _fit(self, interactions, features):
        pass

    def _scores(self, histories):
        return np.tile(np.arange(len(self.item_ids), dtype=np.float32), (len(histories), 1))
"""
MODE = """
import numpy as np
from palate.engine.modes import Mode

class Brevity(Mode):
    \"\"\"Short titles first; asks no model.\"\"\"
    name = "brevity"
    default_template = "yes_no"

    def _score(self, runner, serializer, requests):
        return [np.array([-len(serializer.items[c].title) for c in r.candidates], dtype=np.float32) for r in requests]
"""
ROUTE = """
from fastapi import APIRouter
from palate.apps.serve.service import Here

router = APIRouter()

@router.get("/v1/count")
async def count(here: Here):
    return {"adapters": len(here.rec.adapters)}
"""
LANGUAGE = """
from palate.chat.languages.en import English

class Pirate(English):
    \"\"\"English with an ahoy before it.\"\"\"
    name = "pirate"

    def speaks(self, text):
        return text.startswith("ahoy")

    def plain(self, text, known):
        return text.removeprefix("ahoy").strip().replace("mirth", "comedy")
"""
TARGET = """
from palate.apps.export.targets import Export, Target

class Card(Target):
    \"\"\"The adapter's card alone.\"\"\"
    name = "card"

    def write(self, bundle, folder, options):
        (folder / "card.md").write_text((bundle / "README.md").read_text())
        made = {"layers": 2, "dtype": "float32", "lora": "merged", "architecture": "none"}
        return Export(made, ("weights",), "Read it.")
"""
COMMAND = """
import typer

def register(app):
    @app.command()
    def hello() -> None:
        \"\"\"Greet.\"\"\"
        typer.echo("hello from a file")
"""
FUZZ = """
from palate.errors import PalateError
from trust.fuzz import Target

class Numbers(Target):
    \"\"\"Odd numbers are refused.\"\"\"
    name = "numbers"
    about = "whole numbers"

    def make(self, rng):
        return rng.randrange(100)

    def judge(self, case):
        if case % 2:
            raise PalateError(f"expected an even number, got {case}")
"""
FAULT = """
from trust.faults import Fault

class Nothing(Fault):
    \"\"\"Nothing goes wrong.\"\"\"
    name, fault, promise, times = "nothing", "nothing", "nothing happens", 2

    def once(self, folder, rng):
        assert folder.is_dir()
"""
TEMPLATE = """
name: plainly
mode: yes_no
language: en
system: Answer Yes or No.
user: |
  {% if history %}
  {{ history }}
  {% endif %}
history_item: "* {{ item.title }}{{ media }}\\n"
branch: "{{ item.title }}{{ media }}?"
labels: ["Yes", "No"]
"""


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """add(package, name, source): a file that lies in a plug-in folder as far as Python can tell."""

    def added(package: str, name: str, source: str) -> None:
        folder = tmp_path / "plugins" / package
        folder.mkdir(parents=True)
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        home = importlib.import_module(package)
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package}.{name}", raising=False)
        importlib.invalidate_caches()

    yield added
    for name, module in list(sys.modules.items()):
        if str(tmp_path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def bundle(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny", tiny_base, tiny_data)


def kinds() -> set[str]:
    """Every package that the code searches for plug-ins: `registry.plugin(PACKAGE, ...)`, and two that list modules."""
    found = {"palate.apps.commands"}  # `cli.build` takes the package as an argument
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "trust").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        inside = file.relative_to(ROOT / "src" if (ROOT / "src") in file.parents else ROOT)
        name = ".".join(inside.parent.parts if inside.name == "__init__.py" else inside.with_suffix("").parts)
        for package in re.findall(r"\bplugins?\(([\w.\"]+), [A-Z]", text):
            if package.startswith('"'):
                found.add(package.strip('"'))
            elif package == "__name__":
                found.add(name)
            elif hasattr(home := importlib.import_module(name), package):  # imported in a function: told at its home
                found.add(str(getattr(home, package)))
        for package in re.findall(r"iter_modules\((\w+)\.__path__", text):
            if package not in ("pkg", "package"):  # the registry itself, and `cli.build`
                found.add(str(getattr(importlib.import_module(name), package).__name__))
    return found


def test_the_table_names_every_kind_there_is() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## To add ...")[1]
    named = set(re.findall(r"`([^`]+?)(?:/LANGUAGE)?/NAME\.(?:py|yaml)`", text))
    assert named == {
        p.replace(".", "/") if p.startswith("trust") else "src/" + p.replace(".", "/") for p in kinds()
    } | {"prompts"}
    for place in named:
        assert (ROOT / place).is_dir()
    tested = Path(__file__).read_text(encoding="utf-8")
    for place in named - {"prompts"}:
        assert f'add("{place.removeprefix("src/").replace("/", ".")}"' in tested, place


def test_a_modality(add: Add, tiny_data: Path, tmp_path: Path) -> None:
    add("palate.features.encoders", "length", ENCODER)
    items = list(Dataset.open(tiny_data).catalog.values())
    found = compute(items, None, {"length": EncoderConfig()}, store=FeatureStore(tmp_path / "store"), progress=False)
    assert found.tables["length"].vectors[:, 0].tolist() == [len(i.title) for i in items]


def test_a_captioner(add: Add, tiny_data: Path, tmp_path: Path) -> None:
    add("palate.features.captioners", "shout", CAPTIONER)
    items = list(Dataset.open(tiny_data).catalog.values())[:3]
    config = {"loud": CaptionConfig(captioner="shout")}
    found = captions(items, config, store=TextStore(tmp_path / "store"), progress=False)
    assert found.texts["loud"] == {i.item_id: i.title.upper() for i in items if "image" in i.media}
    assert len(found.texts["loud"]) == 2


def test_a_table_layout(add: Add, tmp_path: Path) -> None:
    add("palate.data.readers", "shelf", READER)
    source = tmp_path / "library"
    source.mkdir()
    (source / "books.csv").write_text("isbn,name,author\n1,Emma,Austen\n2,Ulysses,Joyce\n")
    (source / "lent.csv").write_text("reader,isbn\nann,1\nann,2\nbob,2\n")
    made = import_dataset(str(source), tmp_path / "out")
    assert made.catalog["1"].title == "Emma"
    assert [e.item_id for e in made.histories.events("ann")] == ["1", "2"]


def test_a_retriever(add: Add, tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add("palate.retrieve", "alphabet", RETRIEVER)
    assert cli.run(["evaluate", str(tiny_data), "--against", "alphabet,popularity"]) == 0
    assert "alphabet" in capsys.readouterr().out


def test_a_scoring_mode(add: Add, bundle: Path, tiny_data: Path) -> None:
    add("palate.engine.modes", "brevity", MODE)
    rec = Recommender.load(bundle, data=tiny_data, device="cpu")
    best = [r.title for r in rec.recommend(user="1", k=5, mode="brevity")]
    assert [len(t) for t in best] == sorted(len(t) for t in best)


def test_a_template(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> None:
    (tmp_path / "plainly.yaml").write_text(TEMPLATE, encoding="utf-8")
    prompt = {"max_tokens": 700, "max_history": 20, "templates": {"yes_no": str(tmp_path / "plainly.yaml")}}
    folder = tiny_bundle(tmp_path / "tiny", tiny_base, tiny_data, {"prompt": prompt, "templates": {}})
    rec = Recommender.load(folder, data=tiny_data, device="cpu")
    plain = Recommender.load(tiny_bundle(tmp_path / "other", tiny_base, tiny_data), data=tiny_data, device="cpu")
    mine, shipped = (r.recommend(user="1", k=24, mode="yes_no") for r in (rec, plain))
    assert {r.item_id: r.score for r in mine} != {r.item_id: r.score for r in shipped}


def test_a_route(add: Add, bundle: Path, tiny_data: Path) -> None:
    add("palate.apps.serve.routes", "count", ROUTE)
    app = create_app(Recommender.load(bundle, data=tiny_data, device="cpu"), Store.open(None))
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/v1/count").json() == {"adapters": 1}
        assert "/v1/count" in client.get("/openapi.json").json()["paths"]


def test_a_language_of_the_chat(add: Add, bundle: Path, tiny_data: Path) -> None:
    add("palate.chat.languages", "pirate", LANGUAGE)
    languages.cache_clear()
    try:
        rec = Recommender.load(bundle, data=tiny_data, device="cpu")
        chat = rec.chat(user="1")
        found = chat.ask("ahoy some mirth").items
        assert found
        assert all("Comedy" in rec.dataset.catalog[i.item_id].text["genres"] for i in found)
    finally:
        languages.cache_clear()


def test_an_export_target(add: Add, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add("palate.apps.export.targets", "card", TARGET)
    assert "card" in targets()
    out = tmp_path / "out"
    assert cli.run(["export", str(bundle), "--to", "card", "-o", str(out)]) == 0, capsys.readouterr().err
    assert (out / "card.md").read_text().startswith("---")


def test_a_command(add: Add) -> None:
    add("palate.apps.commands", "hello", COMMAND)
    done = CliRunner().invoke(cli.build(), ["hello"])
    assert done.output == "hello from a file\n"
    assert "hello" in CliRunner().invoke(cli.build(), ["--help"]).output


def test_a_fuzz_target_and_a_fault(add: Add, tmp_path: Path) -> None:
    from trust.__main__ import arguments
    from trust.pool import inline

    add("trust.fuzz", "numbers", FUZZ)
    add("trust.faults", "nothing", FAULT)
    asked = arguments(["--only", "numbers,nothing"])
    tally = inline(asked.targets["numbers"](), 1, range(50))
    assert tally.counts.total() == 50
    assert tally.broken == 0
    assert len(tally.counts) == 2  # even ones taken, odd ones refused
    outcome = asked.faults["nothing"]().run(1)
    assert (outcome.tried, outcome.held) == (2, 2)
