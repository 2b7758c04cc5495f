"""The service as a real server: many clients, clients that leave, full queues, SIGTERM and SIGKILL."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from facade import tiny_bundle
from palate import Recommender
from palate.apps.commands.serve import read_keys
from palate.apps.serve.app import create_app
from palate.apps.serve.service import Service
from palate.apps.serve.settings import Settings
from palate.apps.serve.worker import Work
from palate.errors import ConfigError
from palate.store import Store
from served import serving

KEY = "a-key-of-some-length"
BODY = {"user": "7", "items": ["Alien", "Fargo"]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("live") / "tiny", tiny_base, tiny_data)


@pytest.fixture(scope="module")
def rec(bundle: Path, tiny_data: Path) -> Recommender:
    return Recommender.load(bundle, data=tiny_data, device="cpu")


class Live:
    """A server of this process: its worker can be held up."""

    def __init__(self, rec: Recommender, store: Store, **options: Any) -> None:
        self.settings = Settings(port=0, **options)
        self.app = create_app(rec, store, self.settings)
        self.service: Service = self.app.state.service
        config = uvicorn.Config(self.app, log_level="error", timeout_graceful_shutdown=20)
        self.server = uvicorn.Server(config)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The model is busy meanwhile."""
        entered, release = threading.Event(), threading.Event()

        def run(payloads: Sequence[Any]) -> list[Any]:
            entered.set()
            assert release.wait(60)
            return list(payloads)

        self.service.worker.submit(Work("hold", run, "hold"), None)
        assert entered.wait(30)
        try:
            yield
        finally:
            release.set()

    def until(self, waiting: int) -> None:
        """Wait until so many jobs wait."""
        deadline = time.monotonic() + 30
        while self.service.worker.waiting != waiting:
            assert time.monotonic() < deadline, self.service.worker.waiting
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)


@pytest.fixture
def live(rec: Recommender, tmp_path: Path) -> Iterator[Live]:
    with Store.open(tmp_path / "store.db") as store:
        running = Live(rec, store, queue=6, linger=0.0)
        yield running
        running.stop()


def test_clients_at_once_share_a_batch(live: Live) -> None:
    alone = httpx.post(f"{live.url}/v1/score", json=BODY).json()
    with ThreadPoolExecutor(6) as pool:
        with live.held():
            answers = [pool.submit(httpx.post, f"{live.url}/v1/score", json=BODY, timeout=60) for _ in range(6)]
            live.until(6)
        assert all(a.result().json()["scores"] == pytest.approx(alone["scores"], abs=1e-5) for a in answers)
    assert 'palate_batch_jobs_bucket{le="4.0",work="score"} 1.0' in httpx.get(f"{live.url}/metrics").text
    assert 'palate_batch_jobs_sum{work="score"} 7.0' in httpx.get(f"{live.url}/metrics").text


def test_beyond_the_queue_429_then_as_before(live: Live) -> None:
    session = httpx.post(f"{live.url}/v1/chat/sessions", json={"user": "4"}).json()["session"]
    with ThreadPoolExecutor(6) as pool:
        with live.held():
            answers = [pool.submit(httpx.post, f"{live.url}/v1/score", json=BODY, timeout=60) for _ in range(6)]
            live.until(6)
            for path, body in (
                ("/v1/score", BODY),
                ("/v1/recommend", {"user": "7"}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a comedy"}], "stream": True}),
            ):
                refused = httpx.post(f"{live.url}{path}", json=body)
                assert refused.status_code == 429
                assert int(refused.headers["retry-after"]) >= 1
                assert refused.json()["error"]["code"] == "overloaded"
            refused = httpx.post(
                f"{live.url}/v1/chat/completions",
                json={"messages": [{"role": "user", "content": "a comedy"}], "session": session},
            )
            assert refused.status_code == 429
            ready = httpx.get(f"{live.url}/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "full")
            assert httpx.get(f"{live.url}/healthz").status_code == 200
        assert [a.result().status_code for a in answers] == [200] * 6
    assert httpx.post(f"{live.url}/v1/score", json=BODY).status_code == 200
    assert httpx.get(f"{live.url}/readyz").status_code == 200
    assert httpx.get(f"{live.url}/v1/chat/sessions/{session}").json()["turns"] == [], "a refused message is not kept"


def test_a_client_that_leaves_takes_its_job_along(live: Live) -> None:
    with live.held():
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{live.url}/v1/score", json=BODY, timeout=0.3)
        late = httpx.post(f"{live.url}/v1/score", json=BODY, headers={"X-Request-Timeout": "0.3"}, timeout=30)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        deadline = time.monotonic() + 30
        while 'palate_requests_total{route="/v1/score",status="499"} 1.0' not in httpx.get(f"{live.url}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert httpx.post(f"{live.url}/v1/score", json=BODY).status_code == 200
    assert 'palate_batch_jobs_sum{work="score"} 1.0' in httpx.get(f"{live.url}/metrics").text


def test_a_stream_that_is_left_keeps_what_it_told(live: Live) -> None:
    session = httpx.post(f"{live.url}/v1/chat/sessions", json={"user": "4"}).json()["session"]
    body = {"messages": [{"role": "user", "content": "a comedy"}], "session": session, "stream": True}
    with live.held(), httpx.stream("POST", f"{live.url}/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        next(answer.iter_lines())
        # left before the model was asked; the question is kept, the next turn is not held up
    turns = httpx.get(f"{live.url}/v1/chat/sessions/{session}").json()["turns"]
    assert [t["role"] for t in turns][:1] == ["user"]
    again = httpx.post(f"{live.url}/v1/chat/completions", json={**body, "stream": False}, timeout=30)
    assert again.status_code == 200
    assert again.json()["choices"][0]["message"]["palate"]["items"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_nobody_waits_for_does_not_hold_the_next_up(live: Live, stream: bool) -> None:
    session = httpx.post(f"{live.url}/v1/chat/sessions", json={"user": "4"}).json()["session"]
    body = {"messages": [{"role": "user", "content": "a comedy"}], "session": session, "k": 2}
    url = f"{live.url}/v1/chat/completions"
    with live.held():
        if stream:  # gone before the first byte
            with (
                pytest.raises(httpx.ReadTimeout),
                httpx.stream("POST", url, json={**body, "stream": True}, timeout=0.2) as a,
            ):
                a.read()
        else:
            late = httpx.post(url, json=body, headers={"X-Request-Timeout": "0.2"}, timeout=30)
            assert late.status_code == 504
    assert httpx.post(url, json=body, headers={"X-Request-Timeout": "soon"}, timeout=20).status_code == 400
    again = httpx.post(url, json=body, timeout=20)
    assert again.status_code == 200
    assert again.json()["choices"][0]["message"]["palate"]["items"]


def test_turns_of_one_session_wait_for_each_other(live: Live) -> None:
    session = httpx.post(f"{live.url}/v1/chat/sessions", json={"user": "4"}).json()["session"]
    body = {"messages": [{"role": "user", "content": "surprise me"}], "session": session, "k": 2}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(httpx.post, f"{live.url}/v1/chat/completions", json=body, timeout=60) for _ in range(4)]
        answers = [a.result() for a in asked]
    assert [a.status_code for a in answers] == [200] * 4
    named = [i["item_id"] for a in answers for i in a.json()["choices"][0]["message"]["palate"]["items"]]
    assert len(named) == len(set(named)) == 8
    turns = httpx.get(f"{live.url}/v1/chat/sessions/{session}").json()["turns"]
    assert [t["role"] for t in turns] == ["user", "assistant"] * 4


def test_a_stop_finishes_what_has_begun(rec: Recommender, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        live = Live(rec, store)
        with ThreadPoolExecutor(1) as pool:
            with live.held():
                asked = pool.submit(httpx.post, f"{live.url}/v1/score", json=BODY, timeout=60)
                live.until(1)
                live.server.should_exit = True
                time.sleep(0.3)
                with pytest.raises(httpx.TransportError):
                    httpx.get(f"{live.url}/healthz", timeout=5)
            assert asked.result().status_code == 200
        live.stop()
        assert not live.thread.is_alive()


# --- processes --------------------------------------------------------------------------------------


def test_killed_in_the_middle_of_a_stream(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    sessions: list[str] = []
    cut = 0
    for attempt in range(3):
        with serving(bundle, tiny_data, store) as server:
            for n, session in enumerate(sessions):
                read = httpx.get(f"{server.url}/v1/chat/sessions/{session}", timeout=30).json()
                assert read["turns"][0] == {**read["turns"][0], "role": "user", "text": f"a comedy, please, {n}"}
                assert read["disliked"] == ["12"]
                body = {"messages": [{"role": "user", "content": "more"}], "session": session}
                more = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
                assert more.status_code == 200
            assert len(httpx.get(f"{server.url}/v1/users/4/export", timeout=30).json()["events"]) == attempt
            session = httpx.post(f"{server.url}/v1/chat/sessions", json={"user": "4"}, timeout=60).json()["session"]
            sessions.append(session)
            told = {"session": session, "item": "12", "kind": "dislike"}
            assert httpx.post(f"{server.url}/v1/events", json=told, timeout=30).json() == {"stored": 1}
            ask = [{"role": "user", "content": f"a comedy, please, {attempt}"}]
            body = {"messages": ask, "session": session, "stream": True, "k": 20}
            lines = []
            try:
                with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as answer:
                    for line in answer.iter_lines():
                        lines.append(line)
                        server.process.kill()
            except httpx.TransportError:
                pass
            cut += "data: [DONE]" not in lines
    assert cut, "no stream was cut: the test shows nothing"


def test_the_openai_client(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    with serving(bundle, tiny_data, tmp_path / "store.db", PALATE_API_KEYS=KEY) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
        assert [m.id for m in client.models.list()] == ["tiny"]
        messages: list[Any] = [{"role": "user", "content": "a comedy"}]
        whole = client.chat.completions.create(model="tiny", messages=messages, user="4", extra_body={"k": 3})
        text = whole.choices[0].message.content
        assert text is not None
        items = (whole.choices[0].message.model_extra or {})["palate"]["items"]
        assert 0 < len(items) <= 3
        assert all(i["title"] in text for i in items)
        assert whole.usage is not None
        stream = client.chat.completions.create(
            model="tiny", messages=messages, user="4", temperature=0.5, stream=True, extra_body={"k": 3}
        )
        assert "".join(c.choices[0].delta.content or "" for c in stream) == text
        with pytest.raises(openai.NotFoundError, match="no model is called 'gpt'"):
            client.chat.completions.create(model="gpt", messages=messages)
        with pytest.raises(openai.AuthenticationError, match="expected a key"):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
        client.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(["curl", "-sS", "-N", *arguments], capture_output=True, text=True, check=True).stdout

    with serving(bundle, tiny_data, tmp_path / "store.db") as server:
        post = ("-H", "Content-Type: application/json", "-d")
        scores = json.loads(curl(f"{server.url}/v1/score", *post, json.dumps(BODY)))
        assert len(scores["scores"]) == 2
        body = {"messages": [{"role": "user", "content": "a comedy"}], "user": "4", "stream": True}
        lines = curl(f"{server.url}/v1/chat/completions", *post, json.dumps(body)).split("\n\n")
        assert lines[-2] == "data: [DONE]"
        assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"


def test_sigterm_stops_with_code_0(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    with serving(bundle, tiny_data, tmp_path / "store.db") as server:
        assert httpx.post(f"{server.url}/v1/score", json=BODY, timeout=60).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def test_mistakes_at_the_start_are_one_line(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    def told(*more: str) -> str:
        command = [sys.executable, "-m", "palate", "serve", "-a", str(bundle), "--data", str(tiny_data)]
        store = ["--store", str(tmp_path / "s.db")]
        done = subprocess.run([*command, *store, *more], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    assert "can be reached from other machines: give API keys" in told("--host", "0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "choose another --port" in told("--port", port)
    short = tmp_path / "keys"
    short.write_text("secret\n", encoding="utf-8")
    assert "expected at least 16 characters" in told("--keys", str(short))


def test_keys_are_read(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# for the shop\n{KEY}\n\n  another-key-of-length \n", encoding="utf-8")
    assert read_keys(file, f"{KEY}, third-key-of-a-length") == (KEY, "third-key-of-a-length", "another-key-of-length")
    with pytest.raises(ConfigError, match="got one with ';'"):
        read_keys(None, "a;key-of-some-length")
    file.write_text("# none\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a key a line, got an empty file"):
        read_keys(file, "")
    with pytest.raises(ConfigError, match="expected a text file of keys"):
        read_keys(tmp_path / "missing", "")
