"""Pushing bundles: only a bundle's files leave the machine, in one commit, to a hub that lets them in; and back again.

The hub is `hub.local_hub`, a real HTTP server; huggingface_hub's own client talks to it, in processes of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from exported import counting_bundle
from hub import READS, WRITES, Hub, local_hub
from palate import Recommender
from palate.apps import push as pushing
from palate.apps.cli import run as cli
from palate.errors import BundleError, ConfigError, SourceError
from palate.recommender import loading

BASE = "hub:shop/tiny-base"
LOAD = """
import os, sys
from palate import Recommender
for offline in "01":
    os.environ["PALATE_OFFLINE"] = offline
    rec = Recommender.load(sys.argv[1], data=sys.argv[2], device="cpu")
    print(rec.adapter, [r.item_id for r in rec.recommend(history=["Alien", "Heat"], k=3)])
"""
"""Loads a bundle twice, the second time with no network allowed."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return counting_bundle(tmp_path_factory.mktemp("push") / "films", tiny_base, tiny_data)


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "films")
    return tmp_path / "films"


@pytest.fixture(scope="module")
def hub(tiny_base: Path) -> Iterator[Hub]:
    with local_hub() as found:
        found.put("shop/tiny-base", tiny_base)
        yield found


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Python in a process of its own, with nothing but this hub and a key."""

    def start(*command: str, key: str | None = WRITES, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PALATE_", "HUGGING"))}
        told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        told |= {"PALATE_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", **more}
        if key:
            told["HF_TOKEN"] = key
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env={**kept, **told}, check=False, timeout=200
        )

    return start


# --- there and back ---------------------------------------------------------------------------------


def test_there_and_back(bundle: Path, tiny_data: Path, hub: Hub, run: Run) -> None:
    """Pushed, loaded from the hub by another process with an empty cache, and it recommends the same."""
    done = run("-m", "palate", "push", str(bundle), "shop/films", "--base", BASE, "-m", "First films", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    held = hub.repositories["shop/films"]
    assert held.private
    assert held.messages == ["", "First films"]
    assert sorted(held.commits[told["commit"]]) == sorted(pushing.FILES)
    assert (
        held.commits[told["commit"]]["adapter_model.safetensors"] == (bundle / "adapter_model.safetensors").read_bytes()
    )
    assert told["source"] == f"hub:shop/films@{told['commit']}"
    assert WRITES not in done.stdout + done.stderr
    fetched = run("-c", LOAD, told["source"], str(tiny_data))
    assert fetched.returncode == 0, fetched.stderr
    rec = Recommender.load(bundle, data=tiny_data, device="cpu")
    here = f"films {[r.item_id for r in rec.recommend(history=['Alien', 'Heat'], k=3)]}\n"
    assert fetched.stdout == here * 2


@pytest.fixture
def here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """This process talks to the local hub, with a key that may write and a cache of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants._HF_DEFAULT_ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    return hub


def test_a_stranger_cannot_load_what_is_private(bundle: Path, here: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put("shop/secret", bundle)
    here.repositories["shop/secret"].private = True
    assert loading.resolve("hub:shop/secret").name == "secret"
    monkeypatch.setenv("HF_TOKEN", "hf_Nonsense")
    monkeypatch.setenv("PALATE_CACHE", str(bundle.parent / "another"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(bundle.parent / "another"))
    with pytest.raises(SourceError, match=r"hub:shop/secret cannot be fetched: .*your access \(`hf auth login`\)"):
        loading.resolve("hub:shop/secret")


def test_a_hub_source_is_a_bundle_or_a_base(here: Hub, tiny_base: Path) -> None:
    assert loading.resolve(BASE) == loading.Target(None, BASE)
    with pytest.raises(SourceError, match="hub:shop/nothing cannot be fetched"):
        loading.resolve("hub:shop/nothing")


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's own use of its client
def test_a_public_repository_is_not_pushed_to_by_default(bundle: Path, here: Hub) -> None:
    here.put("shop/open", bundle)
    before = dict(here.repositories["shop/open"].branches)
    chosen = pushing.plan(bundle, BASE)
    with pytest.raises(ConfigError, match="shop/open is public; push there with --public"):
        pushing.push(chosen, "shop/open")
    assert here.repositories["shop/open"].branches == before
    done = pushing.push(chosen, "shop/open", private=False, revision="next")
    assert here.repositories["shop/open"].branches == {**before, "next": done.commit}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "no key, or one the hub does not know: run `hf auth login`, or set HF_TOKEN"),
        ("hf_Nonsense", "no key, or one the hub does not know"),
        (READS, "the key may not write there: use one with write access"),
    ],
)
def test_keys_that_may_not_write(
    bundle: Path, here: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", key or "")
    monkeypatch.setenv("HF_TOKEN_PATH", str(bundle / "none"))
    assert cli(["push", str(bundle), "shop/locked", "--base", BASE]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert not key or key not in said.out + said.err
    assert "shop/locked" not in here.repositories


# --- without a hub ----------------------------------------------------------------------------------


def test_no_network_is_one_clear_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    chosen = pushing.plan(bundle, BASE)

    class Unreachable:
        def __init__(self, **options: Any) -> None:
            pass

        def repo_info(self, repository: str) -> Any:
            raise ConnectionError(f"no route to {repository}\nwith key {WRITES}")

    monkeypatch.setenv("HF_TOKEN", WRITES)
    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    with pytest.raises(SourceError, match=r"cannot push to a/b: no route to a/b; check the network and HF_ENDPOINT"):
        pushing.push(chosen, "a/b")
    monkeypatch.setenv("PALATE_OFFLINE", "1")
    with pytest.raises(SourceError, match="PALATE_OFFLINE forbids the network"):
        pushing.push(chosen, "a/b")
    with pytest.raises(ConfigError, match="expected a repository as ORG/NAME, got 'films'"):
        pushing.push(chosen, "films")


def test_a_key_is_never_in_an_error() -> None:
    assert pushing._first(ValueError(f"bad header Bearer {WRITES}"), WRITES) == "bad header Bearer ***"


def test_a_dry_run_lists_and_sends_nothing(bundle: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / ".DS_Store").write_text("finder")
    asked = list(hub.asked)
    assert cli(["push", str(bundle), "shop/films", "--base", BASE, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"].keys() == set(pushing.FILES)
    assert told["files"]["features.safetensors"] == (bundle / "features.safetensors").stat().st_size
    assert (told["left_out"], told["private"]) == ([".DS_Store"], True)
    assert cli(["push", str(bundle), "shop/films", "--base", BASE, "--dry-run"]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    assert hub.asked == asked


# --- what may leave the machine ---------------------------------------------------------------------


def edit(bundle: Path, **changes: Any) -> None:
    file = bundle / "palate.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("name", ["histories.parquet", "model.pt", "train.log", "people/users.csv"])
def test_other_files_are_refused(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("user 7 watched Alien")
    with pytest.raises(BundleError, match=f"it also holds {name}; move them away, nothing was sent"):
        pushing.plan(bundle, BASE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"histories": {"7": ["1", "2"]}}, "expected what training writes, got the key 'histories'"),
        ({"data": {"name": "tiny", "people": ["Ann", "Bob"]}}, "data.people: expected the data set's name and numbers"),
        ({"data": {"name": "tiny", "users": ["Ann", "Bob"]}}, "data.users: expected the data set's name and numbers"),
        (
            {"encoders": {"image": {"source": "path:/srv/models/clip"}}},
            "encoders.image.source is 'path:/srv/models/clip'",
        ),
        ({"training": {"log": "/var/log/train.txt"}}, "training.log is '/var/log/train.txt', a place of this machine"),
    ],
)
def test_people_and_places_are_refused(bundle: Path, changes: dict[str, Any], words: str) -> None:
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=words):
        pushing.plan(bundle, BASE)


def test_a_base_that_nobody_else_has_is_refused(bundle: Path) -> None:
    with pytest.raises(
        BundleError, match="a place of this machine that nobody else has; push with --base hub:ORG/NAME"
    ):
        pushing.plan(bundle)
    files = {f.name: f.content for f in pushing.plan(bundle, BASE).files}
    for name in ("palate.json", "adapter_config.json", "README.md"):
        content = files[name]
        assert isinstance(content, bytes)
        assert BASE in content.decode()
        assert str(loading.resolve(bundle).bundle) not in content.decode()
    with pytest.raises(SourceError, match="unknown source 'tiny'"):
        pushing.plan(bundle, "tiny")


def test_tables_of_people_are_refused(bundle: Path) -> None:
    file = bundle / "features.safetensors"
    tables = load_file(file)
    save_file({**tables, "users.vectors": np.zeros((2, 3), np.float32)}, file)
    with pytest.raises(BundleError, match=r"expected vectors of items alone, got the table 'users\.vectors'"):
        pushing.plan(bundle, BASE)
    save_file(tables, file, {"item_ids": "[]", "histories": "{}"})
    with pytest.raises(BundleError, match="its header says 'histories'"):
        pushing.plan(bundle, BASE)
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(BundleError, match="expected safetensors"):
        pushing.plan(bundle, BASE)


def test_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    (bundle / "README.md").unlink()
    (bundle / "README.md").symlink_to(secret)
    with pytest.raises(BundleError, match=r"README\.md: expected a file, got a link"):
        pushing.plan(bundle, BASE)


def test_the_shipped_adapter_may_be_pushed() -> None:
    chosen = pushing.plan(Path("adapters/ml-100k"))
    assert {f.name for f in chosen.files} == set(pushing.FILES)
    assert chosen.size == sum(p.stat().st_size for p in Path("adapters/ml-100k").iterdir())
