"""The notebooks run top to bottom on a CPU with the real parts, and are committed as a reader should meet them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 600
"""For one cell, on a machine that has other things to do as well."""


def cells(path: Path, kind: str) -> list[str]:
    """The cells of a kind, each as one text."""
    held = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in held if cell["cell_type"] == kind]


# --- as committed ---------------------------------------------------------------------------------------


def test_there_are_five_in_reading_order() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01-quickstart", "02-your-catalogue", "03-fine-tune", "04-evaluate-and-compare", "05-chat",
    ]  # fmt: skip


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_nothing_of_a_run_is_committed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        assert cell["metadata"] == {}
    assert not re.search(r"(^|[^a-zA-Z.])/(work|root|home|tmp|Users)/", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_opens_with_what_and_how_long_and_ends_with_where_next(path: Path) -> None:
    import nbformat

    held = nbformat.read(path, as_version=4)
    nbformat.validate(held)
    assert held.cells[0].cell_type == "markdown"
    first = held.cells[0].source
    assert first.startswith(f"# {int(path.stem[:2])}. ")
    assert re.search(r"(half a|a|two|three) minutes? on two CPU cores", first)
    last = held.cells[-1].source
    assert last.startswith("## Next\n")
    assert "`palate " in last
    for target in re.findall(r"\]\(([^)]+)\)", "\n".join(cells(path, "markdown"))):
        assert (path.parent / target).exists(), target
    assert "matplotlib" in "".join(cells(path, "code")), "a notebook has a plot"


def test_every_command_named_exists() -> None:
    from typer.main import get_command

    from palate.apps.cli import build

    known = set(get_command(build()).commands)  # type: ignore[attr-defined]
    used = {m for path in NOTEBOOKS for m in re.findall(r"`palate ([a-z][a-z-]*)", "\n".join(cells(path, "markdown")))}
    assert used >= {"recommend", "data", "train", "evaluate", "chat"}
    assert used <= known


# --- as run ---------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that looks like the repository's root, so that nothing is written into the real one."""
    for name in ("adapters", "configs", "data"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def executed(stem: str, place: Path) -> tuple[str, int]:
    """Run a notebook in a kernel of its own: everything it printed, and how many pictures it drew."""
    import nbformat
    from nbclient import NotebookClient

    held = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    where = {"metadata": {"path": str(place)}}
    NotebookClient(held, timeout=SECONDS, kernel_name="python3", resources=where).execute()
    outputs: list[Any] = [out for cell in held.cells if cell.cell_type == "code" for out in cell.outputs]
    printed = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
    return printed, sum("image/png" in out.get("data", {}) for out in outputs)


@pytest.mark.weights
@pytest.mark.timeout(900)
def test_quickstart(place: Path) -> None:
    printed, pictures = executed("01-quickstart", place)
    assert "1,682 films, 943 viewers" in printed
    years = re.findall(r"^\d  .{30} (\d{4})  (.+)$", printed, flags=re.M)
    assert len(years) == 5
    assert all(1960 <= int(year) <= 1985 and "Horror" not in genres for year, genres in years)
    assert len(re.findall(r"^after .*: [\d,]+ of 1,680$", printed, flags=re.M)) == 2
    assert all(f"{mode} " in printed for mode in ("embedding", "likelihood", "yes_no", "letters"))
    assert pictures == 2


@pytest.mark.weights
@pytest.mark.timeout(900)
def test_your_catalogue(place: Path) -> None:
    printed, pictures = executed("02-your-catalogue", place)
    assert "144 badges drawn" in printed
    assert "orders.csv, line 2152, column 'item_id': unknown item, got '999'" in printed
    assert "144 of 144 badges have a picture vector" in printed
    mean, drawn = map(int, re.findall(r"mean (\d+)%, by chance (\d+)%", printed)[0])
    assert mean > 2 * drawn, "pictures reach the model"
    assert pictures == 3
    assert (place / "runs" / "notebooks" / "badges-adapter" / "palate.json").is_file()


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fine_tune(place: Path) -> None:
    printed, pictures = executed("03-fine-tune", place)
    assert "unknown key 'trian'; did you mean 'train'?" in printed
    after, before = (
        float(re.findall(rf"^{name} +NDCG@10 ([\d.]+)", printed, flags=re.M)[0]) for name in ("after", "before")
    )
    assert after > before
    low = float(re.findall(r"after - before: \+[\d.]+ \[([+-][\d.]+)", printed)[0])
    assert low > 0, "n = 200 users can tell"
    assert pictures == 3


@pytest.mark.weights
@pytest.mark.timeout(900)
def test_evaluate_and_compare(place: Path) -> None:
    printed, pictures = executed("04-evaluate-and-compare", place)
    rows = re.findall(r"^(\S+) +\S+ \(embedding\) - (\S+): ([+-][\d.]+) .*n = 150$", printed, flags=re.M)
    assert [(metric, other) for metric, other, _ in rows] == [
        (metric, other) for metric in ("NDCG@10", "HR@10") for other in ("ease:recency=10", "ease", "popularity")
    ]
    assert float(rows[2][2]) > 0, "better than popularity"
    assert pictures == 3


@pytest.mark.weights
@pytest.mark.timeout(900)
def test_chat(place: Path) -> None:
    printed, pictures = executed("05-chat", place)
    assert "first film after" in printed
    assert "which shall it be?" in printed, "it asks back"
    assert "A fresh start" in printed
    named, good, twice = map(
        int, re.findall(r"(\d+) films named, (\d+) of them meet the wish, (\d+) named twice", printed)[0]
    )
    assert named == good > 100
    assert twice == 0
    assert pictures == 1
