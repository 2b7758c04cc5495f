"""The report: numbers recomputed from ranks, one harmless page, Markdown, summaries, errors that say what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.apps import cli
from palate.apps.report import build, markdown, slicing, tables
from palate.apps.report.build import Asked
from palate.apps.report.columns import best, columns
from palate.apps.report.page import page
from palate.apps.report.parts import Cell, Table
from palate.apps.report.results import read
from palate.apps.report.summary import summary
from palate.data import Dataset
from palate.errors import ConfigError, DataError
from palate.evaluate import protocol
from palate.evaluate.bench import Bench
from palate.evaluate.metrics import intervals, paired, per_user
from palate.evaluate.report import write
from palate.evaluate.slices import COLD, by_history_length, by_popularity
from reported import changed, files, harmless, write_results

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def where(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_results(tiny_data, folder)
    return folder


@pytest.fixture(scope="module")
def found(where: Path, tiny_data: Path) -> build.Material:
    return build.gather(Asked(files(where), tiny_data))


# --- numbers ----------------------------------------------------------------------------------------


def test_the_main_table_holds_every_system_and_protocol(found):
    table = found.main
    assert [name for name, _ in table.rows] == ["ease", "popularity", "itemknn"]
    assert table.headings == ["system", "NDCG@10, loo-full/1", "HR@10, loo-full/1", "HR@1, loo-20/1", "HR@5, loo-20/1"]
    assert [cell.text for cell in dict(table.rows)["itemknn"]][2:] == ["not run", "not run"]
    full = json.loads((found.asked.files[0]).read_text())
    for system in full["systems"]:
        i = system["metrics"]["NDCG@10"]
        cell = dict(table.rows)[system["name"]][0]
        assert (cell.text, cell.small) == (f"{i['value']:.3f}", f"[{i['low']:.3f}, {i['high']:.3f}]")
    for n in range(1, 5):
        values = {name: float(c[n - 1].text) for name, c in table.rows if c[n - 1].text != "not run"}
        assert {name for name, c in table.rows if c[n - 1].best} <= {
            k for k, v in values.items() if v == max(values.values())
        }
    assert "mean over seeds 1 and 2" in table.note
    assert "n = 30 users" in table.note


def test_several_seeds_are_averaged_per_user_first(found, where):
    column = found.columns[1]
    plain = [json.loads((where / f"loo-20-{seed}.json").read_text()) for seed in (1, 2)]
    rows = [per_user("HR@1", np.array(p["systems"][0]["ranks"]), np.array(p["sizes"])) for p in plain]
    expected = intervals({"x": np.mean(rows, axis=0)}, 1)["x"]
    got = column.value("ease", "HR@1")
    assert got is not None
    assert (got.value, got.low, got.high, got.runs) == (expected.value, expected.low, expected.high, 2)
    each = tables.per_seed(column)
    assert each is not None
    assert [name for name, _ in each.rows][:3] == ["ease, seed 1", "ease, seed 2", "ease, mean"]
    assert float(each.rows[0][1][0].text) == pytest.approx(rows[0].mean(), abs=5e-4)
    assert tables.per_seed(found.columns[0]) is None


def test_differences_are_recomputed_from_ranks(found, where):
    plain = json.loads((where / "loo-full-1.json").read_text())
    ranks = {s["name"]: np.array(s["ranks"]) for s in plain["systems"]}
    a, b = (per_user("NDCG@10", ranks[n], np.array(plain["sizes"])) for n in ("ease", "popularity"))
    assert found.columns[0].compare("ease", "popularity", "NDCG@10") == paired(a, b, 1)
    table = tables.differences(found.columns, "ease")
    assert table is not None
    assert [name for name, _ in table.rows] == ["−\N{NO-BREAK SPACE}popularity", "−\N{NO-BREAK SPACE}itemknn"]
    d = paired(a, b, 1)
    assert table.rows[0][1][0].text == tables.signed(d.diff)
    assert table.rows[0][1][0].best == (d.low > 0 or d.high < 0)
    assert table.rows[1][1][2].text == "not run"


def test_users_that_differ_between_seeds_have_a_mean_without_interval(tiny_data, tmp_path):
    for seed in (1, 2):
        bench = Bench(Dataset.open(tiny_data), protocol("loo-20"), 9, seed)
        write(bench.run(bench.baselines(["popularity", "ease"])), tmp_path / f"{seed}.json")
    [column] = columns([read(tmp_path / f"{seed}.json") for seed in (1, 2)])
    value = column.value("ease", "HR@1")
    assert value is not None
    assert (value.low, value.interval, value.runs) == (None, "", 2)
    assert column.compare("ease", "popularity", "HR@1") is None
    made = build.report(build.gather(Asked([tmp_path / "1.json", tmp_path / "2.json"], tiny_data)))
    assert "mean of 2 runs" in harmless(page(made)).shown


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"a": 1.0, "b": 2.0}, {"b"}), ({"a": 1.0, "b": 1.0}, set()), ({"a": 1.0}, {"a"}), ({}, set())],
)
def test_nothing_is_best_where_all_are_equal(values, expected):
    assert best(values) == expected


def test_slices_part_the_users_and_add_up(found, tiny_data):
    data = found.dataset
    asked = slicing.cases(found.columns[0], data)
    train = protocol("loo-full").split(data.histories.interactions).train
    counts = np.bincount(train.items, minlength=24)
    for parts in (by_history_length(asked), by_popularity(asked, train)):
        assert np.sum([p.mask for p in parts], axis=0).tolist() == [1] * 30
    for part in by_popularity(asked, train):
        seen = [counts[c.positive] for c, inside in zip(asked, part.mask, strict=True) if inside]
        if part.name.startswith("cold"):
            assert max(seen) <= COLD
        else:
            low, high = re.fullmatch(r"\w+ \((?:>= )?(\d+)(?: to (\d+))?\)", part.name).groups()
            assert int(low) <= min(seen)
            assert high is None or max(seen) <= int(high)
    lengths = [[len(c.history) for c, m in zip(asked, p.mask, strict=True) if m] for p in by_history_length(asked)]
    assert all(max(a) < min(b) for a, b in pairwise(lengths))
    for kind in slicing.sliced(found.columns[0], asked, data):
        for name, values in kind.values.items():
            total = sum(i.value * p.n for i, p in zip(values, kind.slices, strict=True)) / 30
            assert total == pytest.approx(found.columns[0].value(name, kind.metric).value)


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(1, 6))
def test_history_slices_of_any_lengths(lengths, parts):
    from palate.evaluate.protocol import EvalCase

    asked = [EvalCase(n, str(n), np.zeros(length, dtype=np.int64), 0) for n, length in enumerate(lengths)]
    found = by_history_length(asked, parts)
    assert len(found) <= parts
    assert np.sum([p.mask for p in found], axis=0).tolist() == [1] * len(lengths)


# --- a summary, Markdown, a table in a file ---------------------------------------------------------


def test_a_summary_gives_the_same_main_table_and_holds_no_user_or_item(found, tmp_path):
    text = summary(found.columns, found.ratings, "ease")
    plain = json.loads(text)
    (tmp_path / "summary.json").write_text(text)
    again = build.gather(Asked([tmp_path / "summary.json"]))
    assert again.main == found.main
    assert tables.differences(again.columns, "ease") == tables.differences(found.columns, "ease")
    keys = {key for result in plain["results"] for key in [*result, *(k for s in result["systems"] for k in s)]}
    assert keys.isdisjoint({"user_ids", "sizes", "positives", "ranks", "top", "worst", "beyond", "about"})
    assert summary(again.columns, [], "ease") == text
    assert "no ranks" not in harmless(page(build.report(again))).shown.split("Not in this report")[0]


def test_names_replace_and_average(where, tmp_path):
    args = Asked(files(where), names=["ease=EASE, plain", "itemknn=EASE, plain"])
    found = build.gather(args)
    assert tables.systems(found.columns) == ["EASE, plain", "popularity"]
    each = tables.per_seed(found.columns[0])
    assert each is not None
    assert [n for n, _ in each.rows][:3] == [
        "EASE, plain, ease, seed 1",
        "EASE, plain, itemknn, seed 1",
        "EASE, plain, mean",
    ]
    (tmp_path / "s.json").write_text(summary(found.columns, [], "EASE, plain"))
    assert build.gather(Asked([tmp_path / "s.json"])).main == found.main
    for wrong in ("eas=x", "ease=", "ease"):
        with pytest.raises(ConfigError, match="--name: expected SYSTEM=NAME"):
            build.gather(Asked(files(where), names=[wrong]))


@settings(deadline=None)
@given(st.text(), st.text(), st.booleans())
def test_markdown_shows_any_text_in_one_cell(name, value, bold):
    text = markdown.table(Table("c", ["system", "x"], [(name, [Cell(value, best=bold)])]))
    assert len(text.splitlines()) == 3  # headings, rule, one row
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", text.split("\n")[2])) == 3
    assert "<" not in text


def test_a_table_goes_between_the_markers_and_nothing_else_changes(where, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_bytes(f"before é\r\n{markdown.BEGIN}\nold\n{markdown.END}\nafter\n".encode())
    assert cli.run(["report", *map(str, files(where)), "--into", str(readme)]) == 0
    text = readme.read_bytes().decode()
    assert text.startswith(f"before é\r\n{markdown.BEGIN}\n| system |")
    assert text.endswith(f"{markdown.END}\nafter\n")
    assert markdown.between(text, "x") == markdown.table(build.gather(Asked(files(where))).main)
    for wrong in ("nothing", markdown.BEGIN, f"{markdown.END} {markdown.BEGIN}", f"{markdown.BEGIN}{markdown.END}" * 2):
        with pytest.raises(ConfigError, match="each once and in this order"):
            markdown.between(wrong, "README.md")


def test_the_readmes_table_is_what_report_writes():
    """docs/results/*.json are summaries; `palate report docs/results/*.json --into README.md` writes the table."""
    kept = sorted((ROOT / "docs" / "results").glob("*.json"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if not kept and markdown.BEGIN not in readme:
        pytest.skip("there is no docs/results/*.json and no marker in the README yet")
    assert markdown.between(readme, "README.md") == markdown.table(build.gather(Asked(kept)).main)
    for path in kept:
        keys = {
            key for r in json.loads(path.read_text())["results"] for key in [*r, *(k for s in r["systems"] for k in s)]
        }
        assert keys.isdisjoint({"user_ids", "positives", "ranks", "top", "worst"}), path


# --- the command and its errors ---------------------------------------------------------------------


def test_the_command_writes_all_forms(where, tiny_data, tmp_path, capsys):
    out = ["-o", str(tmp_path / "r.html"), "-o", str(tmp_path / "r.json"), "-o", str(tmp_path / "folder")]
    assert cli.run(["report", *map(str, files(where)), "--data", str(tiny_data), *out]) == 0, capsys.readouterr().err
    harmless((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert (tmp_path / "folder" / "report.html").read_text() == (tmp_path / "r.html").read_text()
    assert (tmp_path / "folder" / "report.md").read_text(encoding="utf-8").startswith("# Evaluation on tiny\n")
    assert json.loads((tmp_path / "r.json").read_text())["palate_report"] == 1
    assert "wrote" in capsys.readouterr().out


def test_wrong_inputs_are_one_clear_line(where, tiny_data, tmp_path, capsys):
    good = where / "loo-full-1.json"
    (tmp_path / "x.md").write_text("# no JSON")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"a": 1, "b": 2}')
    (tmp_path / "empty.json").write_text('{"palate_report": 1}')
    other = changed(good, tmp_path / "other-data.json", lambda p: p.update(data_fingerprint="f" * 64))
    edited = changed(good, tmp_path / "edited.json", lambda p: p["systems"][0]["metrics"]["MRR"].update(value=0.9))
    short = changed(good, tmp_path / "short.json", lambda p: p["systems"][0]["ranks"].pop())
    nan = changed(good, tmp_path / "nan.json", lambda p: p["systems"][0]["metrics"]["MRR"].update(value=float("nan")))
    lists = changed(good, tmp_path / "lists.json", lambda p: p.update(candidate_hash="0" * 64))
    far = changed(good, tmp_path / "far.json", lambda p: p["systems"][0].update(ranks=[99.0] * 30, metrics={}))
    twice = changed(good, tmp_path / "twice.json", lambda p: p["systems"][1].update(name="ease"))
    html = ["-o", str(tmp_path / "r.html")]
    cases = [
        ([good], "there is nothing to write"),
        ([good, "-o", tmp_path / "r.pdf"], "expected a folder or a file that ends in .html, .md or .json"),
        ([good, "-o", tmp_path / "no" / "r.html"], "expected an existing folder"),
        ([tmp_path / "none.json", *html], "found nothing there"),
        ([tmp_path / "x.md", *html], "write it with -o FILE.json"),
        ([tmp_path / "list.json", *html], "expected a JSON object"),
        ([tmp_path / "other.json", *html], "got JSON with the keys a, b"),
        ([tmp_path / "empty.json", *html], "got JSON with the keys palate_report"),
        ([good, other, *html], "2 fingerprints: tiny ("),
        ([edited, *html], "MRR of ease is written as 0.900000 and its ranks give"),
        ([short, *html], "ranks of ease: expected one a user, 30, got 29"),
        ([nan, *html], "finite number"),
        ([far, *html], "systems.0.metrics"),
        ([twice, *html], "each system needs a name of its own"),
        ([good, lists, *html], "asked about different lists (n = 30 and 30"),
        ([lists, "--data", tiny_data, *html], "this Palate draws others; evaluate again"),
        ([other, "--data", tiny_data, *html], "expected the data set of the results"),
        ([good, "--reference", "eas", *html], "did you mean 'ease'?"),
        ([good, "-a", tmp_path, *html], "expected an adapter bundle"),
        ([good, "--into", tmp_path / "none.md"], "--into: expected a text file"),
    ]
    for args, said in cases:
        assert cli.run(["report", *map(str, args)]) == 2, args
        err = capsys.readouterr().err
        assert said in err, (args, err)
        assert len(err.strip().splitlines()) == 1, err
    with pytest.raises(DataError, match=r"in loo-full-1\.json; tiny \(f+\) in other-data\.json"):
        build.gather(Asked([good, other]))
    assert not (tmp_path / "r.html").exists()


def test_one_system_in_two_files_is_the_same_or_an_error(where, tmp_path):
    good = where / "loo-full-1.json"
    shutil.copy(good, tmp_path / "copy.json")
    found = build.gather(Asked([good, tmp_path / "copy.json"]))
    assert all(len(runs) == 1 for runs in found.columns[0].runs.values())

    def worse(plain):
        plain["systems"][0] |= {"metrics": plain["systems"][1]["metrics"], "ranks": plain["systems"][1]["ranks"]}

    changed(good, tmp_path / "worse.json", worse)
    with pytest.raises(DataError, match="hold different numbers of 'ease' for loo-full/1, seed 1"):
        build.gather(Asked([good, tmp_path / "worse.json"]))


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["systems", "protocol", "palate_report", "results", "means", "name", "metrics", "n"]), inner
        ),
        max_leaves=12,
    )
)  # fmt: skip
def test_any_json_is_read_or_refused(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("any") / "x.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.json"):
        read(path)
