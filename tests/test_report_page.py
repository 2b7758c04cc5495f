"""The page of a report: whole, harmless, the same every time, with examples and pictures within bounds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from palate.apps.report import build, examples, markdown, rated, slicing
from palate.apps.report.build import Asked
from palate.apps.report.page import page
from palate.apps.report.parts import Example
from palate.apps.report.results import read
from palate.apps.report.summary import summary
from palate.data import Dataset
from palate.errors import DataError
from palate.evaluate import protocol
from palate.evaluate.bench import Bench
from palate.evaluate.report import write
from reported import HOSTILE, Page, changed, files, harmless, write_results


@pytest.fixture(scope="module")
def where(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_results(tiny_data, folder)
    return folder


@pytest.fixture(scope="module")
def found(where: Path, tiny_data: Path) -> build.Material:
    return build.gather(Asked(files(where), tiny_data))


@pytest.fixture(scope="module")
def whole(found: build.Material):
    return build.report(found)


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_is_whole_and_harmless(whole, found):
    text = page(whole)
    shown = harmless(text).shown
    assert text.startswith("<!doctype html>")
    assert "://" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'content="width=device-width, initial-scale=1"' in text
    for part in (
        "Evaluation on tiny", "ease", "loo-20/1", "Paired differences: ease minus each other system", "For whom",
        "Beyond accuracy", "coverage", "Held out", "Movies watched, newest first", "palate evaluate tiny", "numpy",
        found.first.data_fingerprint, found.first.candidate_hash, "The learning curve: it needs",
    ):  # fmt: skip
        assert part in shown, part
    headings = [tag for tag, _ in Page(text).tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in pairwise(headings))


def test_the_same_input_gives_the_same_page(whole, found):
    assert page(build.report(build.gather(found.asked))) == page(whole)


def test_hostile_names_and_titles_are_only_text(where, tiny_data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    items = (folder / "items.csv").read_text().replace("Toy Story 2", '"' + HOSTILE.replace('"', '""') + '"')
    (folder / "items.csv").write_text(items.replace("GoldenEye", "<b>Golden</b>"), encoding="utf-8")
    data = Dataset.open(folder)
    bench = Bench(data, protocol("loo-full"))
    write(bench.run(bench.baselines(["popularity", "ease"])), tmp_path / "x.json")

    def evil(plain):
        plain["systems"][0] |= {"name": HOSTILE, "about": {"note": HOSTILE}}
        plain |= {"command": HOSTILE, "palate": HOSTILE, "candidate_policy": HOSTILE}

    path = changed(tmp_path / "x.json", tmp_path / "evil.json", evil)
    made = build.report(build.gather(Asked([path], folder, users=30, title=HOSTILE)))
    text = page(made)
    shown = harmless(text).shown
    assert "<script" not in text
    assert " ".join(HOSTILE.split()) in shown
    assert "<b>Golden</b>" in shown
    written = markdown.markdown(made)
    assert "<script" not in written
    assert "<b>" not in written
    for line in written.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) >= 3


def test_examples_show_history_lists_and_the_held_out_item(whole, found):
    [section] = [s for s in whole.sections if s.anchor == "examples"]
    shown = [p for p in section.parts if isinstance(p, Example)]
    assert len(shown) == 4
    column, data = found.columns[0], found.dataset
    asked = {c.user_id: c for c in slicing.cases(column, data)}
    hits = 0
    for example in shown:
        case = asked[example.heading.removeprefix("Viewer ")]
        title = data.catalog[data.catalog.item_ids[case.positive]].title
        history, held_out, *lists = example.shelves
        recent = [data.catalog[data.catalog.item_ids[i]].title for i in case.history[::-1][:10]]
        assert [c.title for c in history.cards] == recent
        assert [(c.title, c.held_out) for c in held_out.cards] == [(title, True)]
        assert [s.heading for s in lists] == ["ease", "popularity", "itemknn"]
        for shelf in lists:
            rank = float(re.search(r"rank ([\d.]+) of", shelf.note)[1])
            marked = [n for n, c in enumerate(shelf.cards, 1) if c.held_out]
            assert all(shelf.cards[n - 1].title == title for n in marked)
            if rank.is_integer() and rank <= len(shelf.cards):
                assert marked == [int(rank)]
            hits += bool(marked)
    assert hits
    text = page(whole)
    assert text.count("✓ held out") == hits
    pictures = Page(text).all("img")
    assert pictures
    assert {p["alt"] for p in pictures} <= {"Picture of Toy Story", "Picture of GoldenEye"}
    assert (
        build.report(build.gather(Asked(found.asked.files, found.asked.data, users=0))).sections[-1].anchor == "missing"
    )


def test_pictures_stay_within_bounds(tmp_path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (900, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    taker = examples.Pictures(most=3)
    assert [taker.take(tmp_path / "a.png") is None for _ in range(5)] == [False] * 3 + [True] * 2
    assert taker.take(None) is None
    assert taker.take(tmp_path / "bad.jpg") is None
    assert taker.notes()[0].startswith("1 pictures cannot be shown")
    assert "2 cards are without their picture" in taker.notes()[1]
    small = examples.Pictures(most_bytes=10)
    assert small.take(tmp_path / "a.png") is None
    assert taker.nbytes < 100_000


def test_a_training_is_drawn_and_a_broken_journal_named(found, tmp_path):
    run = tmp_path / "first"
    run.mkdir()
    lines = [{"step": n, "loss": 5 - n / 10} for n in range(1, 20)] + [{"step": 10, "valid/NDCG@10": 0.1}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = build.report(build.gather(Asked(found.asked.files, runs=[run])))
    assert "NDCG@10: best 0.100, last 0.100" in page(made)
    with pytest.raises(DataError, match=r"expected a run folder with metrics\.jsonl"):
        build.report(build.gather(Asked(found.asked.files, runs=[tmp_path])))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"loss": 3}\n')
    with pytest.raises(DataError, match="line 2: expected a step of a training"):
        build.report(build.gather(Asked(found.asked.files, runs=[run])))


# --- studies and ratings ----------------------------------------------------------------------------


def study(plain):
    i = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 30}
    d = {"diff": 0.05, "low": 0.01, "high": 0.09, "p": 0.02, "n": 30}
    names = [s["name"] for s in plain["systems"]]
    part = {
        "name": "all", "n": 30, "values": {n: {"NDCG@10": i} for n in names},
        "differences": {n: {"NDCG@10": d} for n in names[1:]},
    }  # fmt: skip
    plain["ablation"] = {"adapter": "mine", "metric": "NDCG@10", "slices": [part], "sentences": ["image adds +0.050."]}


def test_a_study_stands_apart_from_the_main_table(where, tmp_path):
    path = changed(where / "loo-full-1.json", tmp_path / "study.json", study)
    made = build.report(build.gather(Asked([where / "loo-20-1.json", path])))
    assert [name for name, _ in made.main.rows] == ["ease", "popularity"]
    shown = harmless(page(made)).shown
    assert "image adds +0.050." in shown
    assert "mine, loo-full/1: all, n = 30" in shown
    with pytest.raises(DataError, match="got studies of --ablate alone"):
        build.report(build.gather(Asked([path])))
    broken = changed(path, tmp_path / "broken.json", lambda p: p["ablation"]["slices"][0].pop("values"))
    with pytest.raises(DataError, match=r"broken.json: ablation.slices: expected name, n, values"):
        build.report(build.gather(Asked([where / "loo-20-1.json", broken])))


def ratings(fingerprint):
    def system(name, rmse):
        i = {"value": rmse, "low": rmse - 0.01, "high": rmse + 0.01, "n": 100}
        level = {"precision": 0.5, "recall": 0.4, "f1": 0.44, "support": 50}
        return {
            "name": name, "metrics": {"RMSE": i, "accuracy": {**i, "value": 1 - rmse / 2}},
            "confusion": [[40, 10], [20, 30]], "levels": [{"level": 1.0, **level}, {"level": 2.0, **level}],
            "worst": [{"user": "u7", "item": "i9", "title": HOSTILE, "rated": 1.0, "predicted": 1.9}],
        }  # fmt: skip

    return {
        "palate": "0.1.0", "dataset": "tiny", "data_fingerprint": fingerprint, "protocol": "rating",
        "protocol_version": 1, "part": "test", "n": 100, "seed": 1, "levels": [1.0, 2.0], "learned_from": 900,
        "liked_from": 2.0, "systems": [system("bias", 0.95), system("mine", 0.92)],
        "differences": [
            {"a": "mine", "b": "bias", "metric": "RMSE", "diff": -0.03, "low": -0.04, "high": -0.02, "p": 0.001},
        ],
    }  # fmt: skip


def test_ratings_have_a_section_and_less_error_is_better(where, tmp_path, found):
    path = tmp_path / "rating.json"
    path.write_text(json.dumps(ratings(found.first.data_fingerprint)))
    made = build.report(build.gather(Asked([where / "loo-full-1.json", path])))
    shown = harmless(page(made)).shown
    for part in ("RMSE (less is better)", "mine − bias", "−0.030", "predicted 2", "u7", " ".join(HOSTILE.split())):
        assert part in shown, part
    alone = rated.main(read(path).results)
    assert [[c.best for c in cells] for _, cells in alone.rows] == [[False, False], [True, True]]
    assert build.gather(Asked([path])).main == alone
    kept = summary([], read(path).results, "")
    assert "u7" not in kept
    assert "i9" not in kept
    (tmp_path / "kept.json").write_text(kept)
    assert build.gather(Asked([tmp_path / "kept.json"])).main == alone
    changed(path, path, lambda p: p["systems"][0]["confusion"].pop())
    with pytest.raises(DataError, match="confusion of bias: expected a row and a column for each rating level"):
        read(path)


def test_a_real_browser_shows_it_on_a_phone(whole, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    (tmp_path / "r.html").write_text(page(whole), encoding="utf-8")
    command = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=390,900", f"--screenshot={tmp_path / 'r.png'}", (tmp_path / "r.html").as_uri(),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium did not start within two minutes")
    if not (tmp_path / "r.png").is_file():
        pytest.skip(f"Chromium cannot draw here: {done.stderr[-200:]}")
    from PIL import Image

    colours = Image.open(tmp_path / "r.png").convert("RGB").getcolors(1_000_000)
    assert colours is not None
    assert len(colours) > 20
