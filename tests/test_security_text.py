"""Text of strangers on its way out: to a terminal, to a log."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pytest

from palate.apps import cli
from palate.data import Dataset
from palate.data import columns as col

EVIL = {
    "escape": "\x1b[31mred\x1b[0m",
    "title of the window": "\x1b]0;owned\x07mine",
    "c1": "\x9b31mred\x9d0;owned\x9c",
    "backspace": "good\x08\x08\x08\x08evil",
    "turned round": "\u202egpj.exe\u202c",
    "isolated": "\u2066one\u2069\u2067two\u2069",
    "separator": "one\u2028two\u2029three",
}
BAD = {c for text in EVIL.values() for c in text if not c.isprintable()}


@pytest.mark.parametrize("text", EVIL.values(), ids=EVIL.keys())
def test_no_text_of_an_item_commands_a_terminal(text: str) -> None:
    [title] = col.titles(pa.array([text])).to_pylist()
    [prose] = col.prose(pa.array([f"first\n\tsecond {text}"])).to_pylist()
    assert title.isprintable()
    assert title
    assert not BAD & set(prose)
    assert prose.startswith("first\n\tsecond ")


def test_letters_marks_and_joiners_stay() -> None:
    kept = ["Amélie", "שלום עולם", "می‌خواهم", "👩‍👩‍👧", "naïve\u0301", "زبان\u200fفارسی"]
    assert col.titles(pa.array(kept)).to_pylist() == kept
    assert col.prose(pa.array(kept)).to_pylist() == kept


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A data set whose titles, fields and users are hostile to terminals."""
    with (tmp_path / "items.csv").open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["item_id", "title", "year", "genres"])
        for n, text in enumerate([*EVIL.values(), "[red]markup[/red] [link=x]y[/link]", "Plain"], 1):
            rows.writerow([n, text, 1990, f"Drama|{text}"])
    with (tmp_path / "interactions.csv").open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["user_id", "item_id", "timestamp"])
        rows.writerows([u, 1 + (u + i) % 9, 1000 + 10 * u + i] for u in range(1, 6) for i in range(4))
    (tmp_path / "dataset.yaml").write_text(
        "name: evil\n"
        "items: {path: items.csv, id: item_id, title: title, text: [year, genres]}\n"
        "interactions: {path: interactions.csv, user: user_id, item: item_id, timestamp: timestamp}\n"
    )
    return tmp_path


def printed(out: str) -> None:
    """No command to the terminal, and markup as it was written."""
    assert not (BAD - {"\n"}) & set(out)


def test_commands_print_hostile_titles_as_they_look(
    evil: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["-a", f"path:{tiny_base}", "--data", str(evil), "--mode", "yes_no"]
    for words in (
        ["data", "stats", str(evil)],
        ["recommend", "-u", "1", *model],
        ["recommend", "-u", "1", "--json", *model],
        ["chat", "like Plain", "-u", "1", *model],
        ["explain", "Plain", "-u", "1", *model],
    ):
        assert cli.run(words) == 0, capsys.readouterr().err
        told = capsys.readouterr()
        printed(told.out)
        printed(told.err)
        if words[0] == "recommend":
            assert "[red]markup" in told.out
    titles = [Dataset.open(evil).catalog[str(n)].title for n in range(1, 10)]
    assert all(t.isprintable() for t in titles)
