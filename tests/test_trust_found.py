"""What `python -m trust` found, one small case each: refused in a line that says what is wrong."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet as pq
from safetensors import torch as tensors
from safetensors.numpy import save_file

from facade import tiny_bundle
from palate import Recommender
from palate.apps.candidates import Cutter, find_tables
from palate.apps.candidates.cells import parse_context, parse_history, parse_ids
from palate.apps.candidates.rejects import Rejects
from palate.apps.scoring import Job, score_file
from palate.apps.serve.problems import response
from palate.apps.serve.wire import ScoreBody, filters
from palate.config import read_yaml
from palate.data import Dataset, check
from palate.data.columns import times
from palate.data.spec import TableSpec
from palate.data.tables import source
from palate.errors import BundleError, ConfigError, DataError, RequestError, SourceError, TemplateError
from palate.features.problem import Unusable
from palate.features.sound import _averaged
from palate.model import bundle
from palate.prompting import template as templates
from palate.recommender.filters import condition_test, describe, number
from palate.sources.unpack import extract, opened, select

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
)

# --- YAML -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 3000, "nested too deeply"),
        ("- " * 60 + "x", "nested at most 50 deep, got 61 values .* 61 deep"),
        (BOMB, "expected at most 100,000 values"),
        ("&a [*a]", "an anchor stands inside what it names"),
        ("name: 2020-13-45", "month must be in 1..12; quote it"),
        ("name: !!int ''", "not what its form or tag promises"),
        ("name: !!timestamp x", "not what its form or tag promises"),
        ("name: x\n" * 200_000, "at most 1,000,000 bytes"),
    ],
)
def test_yaml_that_is_monstrous(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=told):
        read_yaml(tmp_path / "x.yaml")
    assert time.process_time() - began < 3


def test_yaml_with_aliases_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}")
    assert read_yaml(tmp_path / "x.yaml") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


def test_an_error_shows_the_start_of_a_long_value(tiny: Path) -> None:
    (tiny / "dataset.yaml").write_text(yaml.safe_dump({"name": ["x" * 50] * 1000, **{f"k{n}": 1 for n in range(100)}}))
    with pytest.raises(ConfigError, match=r"key 'name'.*\.\.\.\n") as caught:
        Dataset.open(tiny)
    assert len(str(caught.value)) < 6000
    assert "and 83 more" in str(caught.value)


# --- tables -----------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set that may be spoilt."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    for name in ("items.csv", "interactions.csv", "users.csv", "dataset.yaml"):
        (folder / name).write_bytes((tiny_data / name).read_bytes())
    return folder


def instead(folder: Path, table: str, path: str, data: bytes, **more: Any) -> Path:
    """Let another file be one of the tables."""
    spec = yaml.safe_load((folder / "dataset.yaml").read_text())
    spec[table] = {**spec[table], "path": path, **more}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    (folder / path).write_bytes(data)
    return folder


def test_a_damaged_gzip_table(tiny: Path) -> None:
    data = bytearray(gzip.compress(bytes(range(48, 112)) * 200))
    data[20:40] = b"\xff" * 20
    with pytest.raises(DataError, match=r"odd\.csv\.gz: cannot be read as csv: Error -3"):
        check(instead(tiny, "users", "odd.csv.gz", bytes(data)))


@pytest.mark.parametrize(
    "data", [b"PAR1 no more than that PAR1", b"not at all", b"PAR1" + b"\x15\x04" * 20 + b"\x08\0\0\0PAR1"]
)
def test_interactions_that_are_no_parquet(tiny: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"odd\.parquet: cannot be read as parquet"):
        check(instead(tiny, "interactions", "odd.parquet", data))


def test_a_json_value_nested_too_deeply_is_one_bad_row(tiny: Path) -> None:
    deep = '{"user_id": "7", "age": ' + "[" * 700 + "]" * 700 + "}"
    report = check(
        instead(tiny, "users", "odd.jsonl", f'{{"user_id": "8", "age": 3, "occupation": "x"}}\n{deep}'.encode())
    )
    assert report.rejected[1:] == [("row", "odd.jsonl", "a value is nested too deeply", 1)]


def test_a_lone_carriage_return_in_the_header(tiny: Path) -> None:
    with pytest.raises(DataError, match=r"odd\.csv: cannot be read as csv: new-line character"):
        check(instead(tiny, "users", "odd.csv", b"user_id,age\rx,occupation\n1,2,3\n"))


# --- archives ---------------------------------------------------------------------------------------


def unpack(tmp_path: Path, data: bytes) -> None:
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    archive.write_bytes(data)
    out.mkdir()
    with opened(archive, "a.zip") as zipped:
        extract(zipped, select(zipped, "pkg", True, "a.zip"), out, strip="pkg/", label="a.zip")


def zipped(names: list[str], how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as file:
        for name in names:
            file.writestr(name, b"some bytes " * 20)
    return out.getvalue()


def spoilt(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (zipped(["pkg/" + "n" * 300]), "is longer than 1000 bytes, or a part than 255"),
        (zipped(["pkg/" + "d/" * 600 + "x"]), "is longer than 1000 bytes"),
        (zipped(["pkg/a", "pkg/a/b"]), "is a file and a folder"),
        (zipped(["pkg/a/b", "pkg/A"]), "is a file and a folder"),
        (spoilt(zipped(["pkg/a"], zipfile.ZIP_BZIP2), b"1AY&SY", b"1AX&SY"), "not a readable zip archive"),
        (spoilt(zipped(["pkg/a"], zipfile.ZIP_LZMA), b"]\0\0\x80\0", b"\xff\0\0\x80\0"), "not a readable zip archive"),
        (zipped(["pkg/a"])[:-6] + b"\xff\xff\xff\x7f\0\0", "not a readable zip archive"),
    ],
)
def test_archives_that_cannot_be_unpacked(tmp_path: Path, data: bytes, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        unpack(tmp_path, data)


def test_a_full_disk_is_not_called_a_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> object:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.zip").write_bytes(zipped(["pkg/a"]))
    with opened(tmp_path / "a.zip", "a.zip") as file:
        members = select(file, "pkg", True, "a.zip")
        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            extract(file, members, tmp_path, strip="pkg/", label="a.zip")


def test_an_archive_whose_bytes_end_early(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as zipped:
        zipped.writestr("pkg/a.txt", b"abc" * 400)
    data = path.read_bytes()
    central = data.index(b"PK\x01\x02")
    longer = (1200 + 7).to_bytes(4, "little")
    path.write_bytes(data[: central + 24] + longer + data[central + 28 :])  # the directory says more than there is
    with pytest.raises(SourceError, match=r"a\.zip"), opened(path, "a.zip") as zipped:
        extract(zipped, select(zipped, "pkg", True, "a.zip"), tmp_path / "out", strip="pkg/", label="a.zip")


# --- sound and tables -------------------------------------------------------------------------------


def test_channels_that_no_frame_can_name() -> None:
    class Frame:
        layout = type("Layout", (), {"nb_channels": 14})
        format = type("Format", (), {"is_planar": True})

    with pytest.raises(Unusable, match="14 channels, each by itself; expected at most 8"):
        _averaged(Frame())  # type: ignore[arg-type]


def test_durations_are_no_times_and_fine_times_are() -> None:
    values, bad = times(pa.array([5], pa.duration("ms")))
    assert bad.all()
    values, bad = times(pa.array([1_500_000_001], pa.timestamp("ns", tz="Europe/Berlin")))
    assert values.tolist() == [1.5]
    assert not bad.any()


def test_parquet_text_that_is_no_text(tiny_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    raw = pa.array([b"1", b"x\xff"], pa.binary())
    odd = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"user_id": odd, "age": ["1", "2"], "occupation": ["a", "b"]}), folder / "users.parquet")
    spec = yaml.safe_load((folder / "dataset.yaml").read_text())
    spec["users"]["path"] = "users.parquet"
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(DataError, match=r"users\.parquet"):
        Dataset.open(folder)


def test_parquet_whose_column_names_are_no_text(tiny_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    table = pa.table({"user_id": ["1"], "age": ["1"], "occupation": ["a"]}).replace_schema_metadata(None)
    pq.write_table(table, folder / "users.parquet", store_schema=False)
    raw = (folder / "users.parquet").read_bytes()
    (folder / "users.parquet").write_bytes(raw.replace(b"occupation", b"occup\xfftion"))
    spec = yaml.safe_load((folder / "dataset.yaml").read_text())
    spec["users"]["path"] = "users.parquet"
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(DataError, match=r"users\.parquet: cannot be read"):
        Dataset.open(folder)


@pytest.mark.parametrize("encoding", ["punycode", "idna"])
def test_encodings_with_errors_of_their_own(tiny_data: Path, tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    (folder / "items.csv").write_bytes(b"item_id,title-,,,\xff\n1,x\n")
    spec = yaml.safe_load((folder / "dataset.yaml").read_text())
    spec["items"]["encoding"] = encoding
    (folder / "dataset.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(DataError, match=r"items\.csv"):
        Dataset.open(folder)


def test_half_a_character_in_an_error_s_text() -> None:
    assert response("nothing is x\ud800", "invalid", 400).body.endswith(b'"param":null}}')


# --- templates --------------------------------------------------------------------------------------

PIECES = {"name": "mine", "mode": "embedding", "history_item": "{{ item.title }}"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{% set x = history %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}", "`set` is not allowed"),
        ("{% macro f() %}x{% endmacro %}", "Macro is not allowed"),
        ("{% for c in history recursive %}{{ loop(history) }}{% endfor %}", "a recursive loop is not allowed"),
        ("{% for a in range(9) %}x{% endfor %}", "a call is not allowed here"),
        ("{{ '{:>999999999}'.format(1) }}", "a call is not allowed here"),
        ("{{ 'a' | center(999999999) }}", "No filter named 'center'"),
        ("{{ 1.5 | round(999999999, 'ceil') }}", "cannot be filled"),
        ("{{ '%999999999d' % 1 }}", "operator '%' is not allowed"),
        ("{{ history" + " | join(history)" * 5 + " }}", "more than 2,000,000"),
        ("{{ history" + " | replace('', history)" * 5 + " }}", "more than 2,000,000"),
        ("{% for a in history %}{% for b in history %}{% for c in history %}x" + "{% endfor %}" * 3, "100,000 turns"),
        ("{{ " + "-" * 3000 + "1 }}", "nested too deeply"),
        ("{{ 1 " + "+ 1 " * 4000 + "}}", "nested too deeply"),
        ("{% if 1 %}" * 60 + "{% endif %}" * 60, "nested too deeply"),
        ("x" * 20_001, "at most 20,000 characters"),
        ("{{ history.upper }}", "a method is not text"),
        ("{{ history.title ~ 'x' }}", "a method is not text"),
        ("{{ [history['title']] | join }}", "a method is not text"),
        ("{{ history.title | string }}", "a method is not text"),
        ("a\ud800", "half of a character"),
    ],
)
def test_templates_that_blow_up(text: str, told: str) -> None:
    began = time.process_time()
    with pytest.raises(TemplateError, match=told):
        templates.parse({**PIECES, "user": "{{ history }}" + text}, "mine.yaml").render(
            "user", {"history": "abc " * 200}
        )
    assert time.process_time() - began < 3


def test_what_templates_may_do_still_works() -> None:
    text = "{% for k, v in profile.items() %}{{ loop.index }}{{ k | upper }}={{ v or '-' }} {% endfor %}"
    text += "{{ history[:2] ~ 3 * 2 }}"
    template = templates.parse({**PIECES, "user": text}, "mine.yaml")
    assert template.render("user", {"history": "abc", "profile": {"age": "24", "job": ""}}) == "1AGE=24 2JOB=- ab6"


# --- candidate files --------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", ["gz", "xz", "bz2"])
def test_a_damaged_packed_candidate_file(tmp_path: Path, packed: str) -> None:
    pack = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}[packed]
    rows = "".join(json.dumps({"request_id": f"r{n}", "candidates": [str(n * n)]}) + "\n" for n in range(500))
    data = bytearray(pack(rows.encode()))
    data[30:60] = b"\xff" * 30
    (tmp_path / f"c.jsonl.{packed}").write_bytes(data)
    with pytest.raises(DataError, match=rf"c\.jsonl\.{packed}: cannot be read"):
        list(Cutter(find_tables(tmp_path / f"c.jsonl.{packed}")))


def test_half_a_character_in_a_bad_row_can_be_written_down(tmp_path: Path) -> None:
    rejects = Rejects("c.jsonl")
    rejects.add(2, "a\udfff", "x\ud800", "unknown item 'x\ud800'")
    told = json.dumps(rejects[0].told(), ensure_ascii=False).encode()
    assert json.loads(told)["value"] == r"x\ud800"
    assert str(rejects[0]) == r"c.jsonl, line 2, column a\udfff: unknown item 'x\ud800'"


@pytest.mark.parametrize("column", ["request_id", "user_id"])
def test_half_a_character_in_a_name_is_a_bad_row(tiny_base: Path, tiny_data: Path, tmp_path: Path, column: str) -> None:
    rec = Recommender.load(tiny_bundle(tmp_path / "tiny", tiny_base, tiny_data), data=tiny_data, device="cpu")
    rows = [{"request_id": f"r{n}", "user_id": "1", "candidates": ["1", "2"]} for n in range(2)]
    rows[1][column] = "x\ud800"
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "out.parquet"
    done = score_file(rec, Job(tmp_path / "c.jsonl", out, max_rejects=1))
    assert done.rejected == 1
    assert out.exists()


@pytest.mark.parametrize("path", ["x\ud800.csv", "x" * 5000, "a\x00b"])
def test_a_table_whose_path_no_file_system_can_spell(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="expected the path of a table"):
        source(tmp_path, TableSpec(path=path))


def test_a_raw_query_without_items() -> None:
    with pytest.raises(ValueError, match="expected at least one, got none"):
        ScoreBody.model_validate({"query": "fun", "items": []})


def test_cells_of_depth_and_of_size() -> None:
    with pytest.raises(ValueError, match="not a JSON list: maximum recursion depth"):
        parse_ids("[" * 5000)
    with pytest.raises(ValueError, match="expected a mapping"):
        parse_context('{"a":' * 5000)
    with pytest.raises(ValueError, match="expected a number as timestamp, got '1000"):
        parse_history([{"item_id": "1", "timestamp": 10**400}])


def test_filters_of_a_body_are_not_endless() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    with pytest.raises(RequestError, match="filters: nested too deeply"):
        filters({"year": deep})


def test_filters_of_numbers_beyond_float() -> None:
    huge = 10**400
    assert number("9" * 400 + " h") == float("inf")
    assert not condition_test(huge, "year")("1995")
    assert condition_test((None, huge), "year")("1995")
    with pytest.raises(RequestError, match=r"from low to high, got 0x.*\.\.\. to 5"):
        condition_test((huge, 5), "year")
    assert describe({"year": {"min": huge}, "age": (5, huge)}).startswith("year at least 0x")
    with pytest.raises(RequestError, match="'all': expected a list of conditions, got 5"):
        condition_test({"all": 5}, "year")


# --- bundles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"), [("model", None), ("base_sha256", 10**30), ("fingerprints", [1]), ("base", 7)]
)
def test_a_bundle_whose_json_lacks_what_it_needs(tmp_path: Path, key: str, value: object) -> None:
    for name in bundle.FILES:
        (tmp_path / name).write_bytes(b"")
    told = {"format": 1, "base": "x", "base_sha256": "y", "model": {}, "fingerprints": {}}
    (tmp_path / "palate.json").write_text(json.dumps({**told, key: value}))
    with pytest.raises(BundleError, match=f"palate.json: expected '{key}' as a"):
        bundle.read_meta(tmp_path)


def test_item_vectors_that_are_not_finite(tmp_path: Path) -> None:
    vectors = np.array([[1.0, np.nan]], np.float16)
    save_file({"image.vectors": vectors, "image.present": np.array([True])}, tmp_path / "features.safetensors")
    with pytest.raises(BundleError, match="the image vectors hold NaN or infinity"):
        bundle._load_features(tmp_path / "features.safetensors", {"image": "f"})


@pytest.mark.parametrize("ids", ["[]", '["a", "a"]', '["a", 1]', '["a", "b", "c"]', '{"a": 1, "b": 2}', '"ab"'])
def test_item_vectors_of_other_items(tmp_path: Path, ids: str) -> None:
    arrays = {"image.vectors": np.ones((2, 3), np.float16), "image.present": np.array([True, True])}
    save_file(arrays, tmp_path / "features.safetensors", {"item_ids": ids})
    with pytest.raises(BundleError, match="expected a row for each of its item ids"):
        bundle._load_features(tmp_path / "features.safetensors", {"image": "f"})


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    ("key", "value", "kind"), [("alora_invocation_tokens", [1], "ALora"), ("lora_bias", True, "lora_bias")]
)
def test_lora_of_another_kind_is_refused(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, key: str, value: object, kind: str, merge: bool
) -> None:
    folder = tiny_bundle(tmp_path / "tiny", tiny_base, tiny_data)
    told = folder / "adapter_config.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), key: value}))
    weights = tensors.load_file(folder / "adapter_model.safetensors")
    if key == "lora_bias":
        weights |= {n.replace("weight", "bias"): w[:, 0].clone() for n, w in weights.items() if "lora_B" in n}
    tensors.save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(BundleError, match=f"expected plain LoRA, got {kind} of .*train a new adapter"):
        bundle.load(folder, device="cpu", merge=merge)


@pytest.mark.filterwarnings("default:Found missing adapter keys")
def test_lora_that_lacks_a_layer_is_refused(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> None:
    file = tiny_bundle(tmp_path / "tiny", tiny_base, tiny_data) / "adapter_model.safetensors"
    weights = tensors.load_file(file)
    weights.pop(next(n for n in weights if "lora_B" in n))
    tensors.save_file(weights, file)
    with pytest.raises(BundleError, match="damaged or belong to another base: Found missing adapter keys"):
        bundle.load(file.parent, device="cpu")
