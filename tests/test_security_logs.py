"""Logs hold no text and no ids of people: what real processes print while they are told secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from facade import tiny_bundle
from palate import Recommender
from palate.apps.serve import problems
from palate.apps.serve.app import create_app
from palate.store import Store
from served import serving

SECRET = "zebra-cantata"
PERSON = "person-31337"


@pytest.fixture(scope="module")
def bundle(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("logs") / "tiny", tiny_base, tiny_data)


def asked(url: str) -> list[int]:
    """Secrets in every kind of request, right and wrong; the statuses."""
    messages = [{"role": "user", "content": f"a comedy like {SECRET}, I am {PERSON}"}]
    session = httpx.post(f"{url}/v1/chat/sessions", json={"user": PERSON}, timeout=60).json()["session"]
    posts: list[tuple[str, Any]] = [
        ("chat/completions", {"messages": messages, "user": PERSON}),
        ("chat/completions", {"messages": messages, "session": session, "stream": True}),
        ("chat/completions", {"messages": [{"role": SECRET, "content": SECRET}]}),
        ("chat/completions", {"messages": messages, SECRET: SECRET}),
        ("recommend", {"user": PERSON, "k": 3}),
        ("recommend", {"history": [SECRET]}),
        ("recommend", {"user": PERSON, "filters": {SECRET: SECRET}}),
        ("score", {"user": PERSON, "items": ["1", SECRET]}),
        ("score", {"query": SECRET, "items": [SECRET, "other"]}),
        ("explain", {"user": PERSON, "item": SECRET}),
        ("events", {"user": PERSON, "item": "1", "kind": "like"}),
        ("events", {"user": PERSON, "item": SECRET, "kind": SECRET}),
    ]
    statuses = [httpx.post(f"{url}/v1/{path}", json=body, timeout=60).status_code for path, body in posts]
    headers = {"Content-Type": "application/json", "X-Odd": SECRET}
    statuses.append(httpx.post(f"{url}/v1/recommend", content=f'{{"user": "{SECRET}', headers=headers).status_code)
    statuses.append(httpx.get(f"{url}/v1/users/{PERSON}", timeout=30).status_code)
    statuses.append(httpx.get(f"{url}/v1/items/{SECRET}", timeout=30).status_code)
    statuses.append(httpx.get(f"{url}/v1/catalog", params={"q": SECRET}, timeout=30).status_code)
    statuses.append(httpx.delete(f"{url}/v1/users/{PERSON}", timeout=30).status_code)
    return statuses


def test_a_server_prints_nothing_of_what_it_is_told(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    with serving(bundle, tiny_data, tmp_path / "store.db") as server:
        statuses = asked(server.url)
        server.process.terminate()
        rest = server.process.communicate(timeout=60)[0] or ""
    assert {200, 422} < set(statuses)
    assert 500 not in statuses
    told = "".join(server.lines) + rest
    assert SECRET not in told
    assert PERSON not in told


def test_what_breaks_inside_is_logged_without_its_text(
    bundle: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise RuntimeError(f"no {SECRET} for {PERSON}") from error

    rec, store = Recommender.load(bundle, data=tiny_data, device="cpu"), Store.open(None)
    client = TestClient(create_app(rec, store), base_url="http://localhost", raise_server_exceptions=False)
    with client, caplog.at_level(logging.DEBUG):
        monkeypatch.setattr(type(rec), "score", broken)
        answer = client.post("/v1/score", json={"user": PERSON, "items": ["1"]})
        assert answer.status_code == 500
    assert "unexpected RuntimeError" in caplog.text
    assert "test_security_logs.py" in caplog.text  # where it happened is told
    assert "KeyError (its text is not logged)" in caplog.text
    assert SECRET not in caplog.text + answer.text
    assert PERSON not in caplog.text + answer.text


def test_uvicorns_own_tracebacks_lose_their_text_too() -> None:
    told: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(self.format(record))

    logger = logging.Logger("uvicorn.error")
    logger.addHandler(Kept())
    logger.addFilter(problems.Wordless())
    try:
        raise ValueError(SECRET)
    except ValueError:
        logger.exception("Exception in ASGI application")
    [line] = told
    assert "ValueError (its text is not logged)" in line
    assert SECRET not in line


def test_scoring_in_bulk_prints_no_request(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    rows = [
        {"request_id": f"r{n}", "user_id": PERSON, "history": ["1", "2"], "candidates": ["3", "4"]} for n in range(3)
    ]
    rows.append({"request_id": "bad", "user_id": PERSON, "history": [SECRET], "candidates": [SECRET]})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["score", tmp_path / "in.jsonl", "--data", tiny_data, "-a", bundle, "-o", tmp_path / "out.jsonl"]
    words += ["--max-rejects", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "palate", *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (tmp_path / "out.jsonl").exists(), done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert PERSON not in done.stdout + done.stderr
