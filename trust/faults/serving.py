"""`palate serve`, killed in the middle of an answer."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from trust import procs, tiny
from trust.faults import Fault, Missed

STARTED = 60.0
DONE = "data: [DONE]"


class ServingKilled(Fault):
    name = "kill-serving"
    fault = "SIGKILL of a server in the middle of a streamed answer, then another on the same store"
    promise = (
        "the client is told at once that the stream broke, and no line is half; every answered turn, question, feedback "
        "and event told as stored is there, and the conversation goes on"
    )
    times = 8

    def setup(self, folder: Path) -> None:
        _, self.data, self.adapter = tiny.all_of(folder)

    def serve(self, store: Path) -> None:
        from palate import Recommender
        from palate.apps.serve.run import run
        from palate.apps.serve.settings import Settings
        from palate.store import Store

        load = lambda: Recommender.load(self.adapter, data=self.data, device="cpu")  # noqa: E731
        run(load, Store.open(store), Settings(port=0))

    @contextmanager
    def running(self, folder: Path, name: str) -> Iterator[tuple[str, int]]:
        """(address, process) of a server on the folder's store."""
        log = folder / name
        pid = procs.start(lambda: self.serve(folder / "store.db"), log)
        try:
            yield self.address(log, pid), pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    @staticmethod
    def address(log: Path, pid: int) -> str:
        until = time.monotonic() + STARTED
        while time.monotonic() < until:
            told = log.read_text() if log.exists() else ""
            if found := re.search(r"http://\S+:\d+", told):
                return found[0]
            status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            assert status is None, f"the server ended: {told[-300:]}"
            time.sleep(0.02)
        raise AssertionError(f"the server did not start in {STARTED:g} s: {told[-300:]}")

    def once(self, folder: Path, rng: Random) -> None:
        import httpx

        wanted, asks = rng.randint(1, 8), [{"role": "user", "content": f"a comedy, please, {rng.random()}"}]
        with self.running(folder, "first") as (url, pid):
            post = lambda path, body: httpx.post(f"{url}/v1/{path}", json=body, timeout=60)  # noqa: E731
            session = post("chat/sessions", {"user": "4"}).json()["session"]
            told = post("chat/completions", {"messages": [{"role": "user", "content": "hello"}], "session": session})
            assert told.status_code == 200, told.text
            assert post("events", {"session": session, "item": "12", "kind": "dislike"}).json() == {"stored": 1}
            assert post("events", {"user": "4", "item": "9", "kind": "interaction"}).json() == {"stored": 1}
            turns = httpx.get(f"{url}/v1/chat/sessions/{session}", timeout=30).json()["turns"]
            assert [t["role"] for t in turns] == ["user", "assistant"], turns
            self.cut(f"{url}/v1/chat/completions", {"messages": asks, "session": session}, pid, wanted)
        with self.running(folder, "second") as (url, _):
            self.kept(url, session, turns, asks[0]["content"])

    @staticmethod
    def cut(url: str, body: dict[str, Any], pid: int, wanted: int) -> None:
        """Read a stream whose server is killed after so many lines. Raises Missed where it had ended before."""
        import httpx

        lines: list[str] = []
        try:
            with httpx.stream("POST", url, json={**body, "stream": True, "k": 20}, timeout=20) as answer:
                assert answer.status_code == 200, f"no stream: {answer.status_code}"
                for line in answer.iter_lines():
                    lines.append(line)
                    if len(lines) == wanted:
                        os.kill(pid, signal.SIGKILL)
            if DONE in lines:
                raise Missed
            raise AssertionError("the stream ended as if it were whole")
        except httpx.TimeoutException:
            raise AssertionError("the client was left waiting") from None
        except httpx.TransportError:
            pass
        if DONE in lines:
            raise Missed
        for line in lines:
            if line:
                assert json.loads(line.removeprefix("data: "))["choices"], f"half a line: {line!r}"

    @staticmethod
    def kept(url: str, session: str, turns: list[dict[str, Any]], asked: str) -> None:
        """Everything that the killed server had told as stored is there."""
        import httpx

        read = httpx.get(f"{url}/v1/chat/sessions/{session}", timeout=30).json()
        assert read["turns"][:2] == turns, "an answered turn is lost or changed"
        assert [(t["role"], t["text"]) for t in read["turns"][2:3]] == [("user", asked)], "the question is lost"
        assert read["disliked"] == ["12"], "feedback is lost"
        events = httpx.get(f"{url}/v1/users/4/export", timeout=30).json()["events"]
        assert {e.get("item") for e in events} >= {"9"}, f"an event is lost: {events}"
        body = {"messages": [{"role": "user", "content": "more"}], "session": session}
        more = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        assert more.status_code == 200, f"no answer afterwards: {more.text}"
