"""The routes over a tiny random model: what comes out is what the recommender says, and what is wrong is told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facade import tiny_bundle
from palate import Recommender, Request
from palate.apps.serve.app import create_app
from palate.apps.serve.settings import Settings
from palate.errors import ConfigError
from palate.store import Store

KEY = "a-key-of-some-length"


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Recommender:
    folder = tmp_path_factory.mktemp("served")
    first = tiny_bundle(folder / "one", tiny_base, tiny_data)
    second = tiny_bundle(folder / "two", tiny_base, tiny_data, {"name": "two"})
    return Recommender.load({"one": first, "two": second}, data=tiny_data, device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db") as opened:
        yield opened


@pytest.fixture
def client(rec: Recommender, store: Store) -> Iterator[TestClient]:
    with serve(rec, store) as opened:
        yield opened


def serve(rec: Recommender, store: Store, **options: Any) -> TestClient:
    return TestClient(create_app(rec, store, Settings(**options)), base_url="http://localhost")


def post(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def message(answer: Any) -> str:
    error = answer["error"]
    assert set(error) == {"message", "type", "code", "param"}
    return str(error["message"])


# --- scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["embedding", "likelihood", "yes_no"])
def test_scores_are_the_recommenders(client: TestClient, rec: Recommender, mode: str) -> None:
    got = post(client, "/v1/score", user="7", items=["Alien", "5", "Fargo"], mode=mode)
    ids = tuple(rec.shelf.find(t) for t in ("Alien", "5", "Fargo"))
    [want] = rec.score(Request("r", "7", candidates=ids), mode)
    assert got["scores"] == pytest.approx(want.scores.tolist(), abs=1e-5)
    assert [d["item_id"] for d in got["data"]] == list(ids)
    assert [d["rank"] for d in got["data"]] == want.ranks().tolist()
    assert got["model"] == "one"
    assert got["mode"] == mode


def test_scores_for_a_stranger_with_a_history_and_by_another_adapter(client: TestClient, rec: Recommender) -> None:
    history = ["Heat", {"item": "Seven", "timestamp": 5.0, "rating": 4}]
    got = post(client, "/v1/score", history=history, items=["Alien", "Babe"], model="two")
    ids = tuple(rec.shelf.find(t) for t in ("Alien", "Babe"))
    request = rec.request(history=["Heat", "Seven"])
    want = rec.score(Request("r", None, request.history, ids, adapter="two"))[0]
    assert got["scores"] == pytest.approx(want.scores.tolist(), abs=1e-5)


def test_raw_scores_are_those_of_one_forward_each(client: TestClient, rec: Recommender) -> None:
    """SGLang's shape, against transformers without Palate's engine."""
    import torch

    query, items, labels = [5, 9, 40, 7], [[11, 12], [13], [11, 14, 15]], [20, 21]
    plain = post(client, "/v1/score", query=query, items=items, label_token_ids=labels)
    soft = post(client, "/v1/score", query=query, items=items, label_token_ids=labels, apply_softmax=True)
    first = post(client, "/v1/score", query=query, items=items, label_token_ids=labels, item_first=True)
    # the last call put the first adapter's LoRA in force; it is what answers here too
    lm = rec.model.lm
    for item, got, shared, turned in zip(items, plain["scores"], soft["scores"], first["scores"], strict=True):
        with torch.no_grad():
            p = lm(input_ids=torch.tensor([query + item])).logits[0, -1].float().softmax(-1)[labels]
            q = lm(input_ids=torch.tensor([item + query])).logits[0, -1].float().softmax(-1)[labels]
        assert got == pytest.approx(p.tolist(), rel=1e-3)
        assert shared == pytest.approx((p / p.sum()).tolist(), rel=1e-3)
        assert turned == pytest.approx(q.tolist(), rel=1e-3)
    assert [d["score"] for d in plain["data"]] == [row[0] for row in plain["scores"]]
    assert plain["usage"]["prompt_tokens"] > len(query)


def test_raw_texts_without_labels_and_vllms_names(client: TestClient) -> None:
    a = post(client, "/v1/score", query="The user watched", items=[" Alien", " Heat"])
    b = post(client, "/v1/score", text_1="The user watched", text_2=[" Alien", " Heat"])
    one = post(client, "/v1/score", query="The user watched", items=" Heat")
    assert a["scores"] == b["scores"]
    assert a["scores"][1] == pytest.approx(one["scores"][0], abs=1e-5)
    assert all(score < 0 for [score] in a["scores"])
    spelled = post(client, "/generative_scoring", query="a <|im_end|> b", items=["x"], label_token_ids=[3])
    assert np.isfinite(spelled["scores"]).all()


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"items": ["Alien"]}, 422, "expected a user or a history"),
        ({"query": "", "items": ["Alien"]}, 422, "expected a user or a history"),
        ({"user": "1", "items": []}, 400, "expected candidates to score, got none"),
        ({"user": "1", "items": ["Alein"]}, 400, "did you mean 'Alien'"),
        ({"user": "1", "items": ["Alien", "Alien"]}, 400, "is listed twice"),
        ({"user": "1", "items": ["Alien"], "mode": "telepathy"}, 400, "telepathy"),
        ({"user": "1", "items": ["Alien"], "mode": "fused"}, 400, "start it with --fused"),
        ({"user": "1", "items": ["Alien"], "model": "three"}, 404, "no model is called 'three'"),
        ({"user": "1", "items": ["Alien"], "label_token_ids": [1]}, 422, "go with a raw query"),
        ({"user": "1", "itens": ["Alien"]}, 422, "did you mean 'items'"),
        ({"query": "x", "items": ["a"], "label_token_ids": [100000]}, 400, "expected token ids from 0 to"),
        ({"query": "x", "items": ["a"], "label_token_ids": [2**70, 1]}, 400, f"got {2**70}"),
        ({"query": "x", "items": [""], "label_token_ids": [1]}, 400, "expected at least one token"),
        ({"query": [1] * 2050, "items": [[1]]}, 400, "expected query and item of at most 2,048 tokens"),
        ({"query": "x", "items": ["a"], "item_first": True}, 400, "item_first needs label_token_ids"),
        ({"history": ["Alien"] * 2001, "items": ["Heat"]}, 400, "history: expected at most 2,000, got 2,001"),
    ],
)
def test_what_is_wrong_with_a_score_request_is_told(client: TestClient, body: Any, status: int, told: str) -> None:
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == status, answer.text
    assert told in message(answer.json())


# --- lists and reasons ------------------------------------------------------------------------------


def test_lists_are_the_recommenders(client: TestClient, rec: Recommender) -> None:
    got = post(client, "/v1/recommend", history=["Alien", "Heat"], k=4, filters={"year": [1970, 1985]})
    want = rec.recommend(history=["Alien", "Heat"], k=4, filters={"year": (1970, 1985)})
    assert [i["item_id"] for i in got["items"]] == [r.item_id for r in want]
    assert [i["reason"] for i in got["items"]] == [r.reason for r in want]
    assert all(1970 <= int(i["text"]["year"]) <= 1985 for i in got["items"])
    assert [i["rank"] for i in got["items"]] == [1, 2, 3, 4]
    diverse = post(client, "/v1/recommend", user="3", k=4, diversity=1.0)
    assert {i["item_id"] for i in diverse["items"]} == {r.item_id for r in rec.recommend("3", k=4, diversity=1.0)}


def test_filters_in_json_mean_what_they_say(client: TestClient) -> None:
    def genres(**filters: Any) -> set[str]:
        found = post(client, "/v1/recommend", history=["Alien"], k=24, filters=filters)
        return {i["text"]["genres"] for i in found["items"]}

    assert genres(genres="Comedy") == {"Comedy"}
    assert genres(genres=["Comedy", "Crime"]) == {"Comedy", "Crime"}
    assert "Comedy" not in genres(genres={"not": "Comedy"})
    years = post(client, "/v1/recommend", history=["Alien"], k=24, filters={"year": {"min": 1980, "not": [1985, 1990]}})
    assert {int(i["text"]["year"]) for i in years["items"]} == {*range(1980, 1985), *range(1991, 1995)} - {
        1982
    }  # Alien's
    assert "no movie of the catalogue satisfies" in message(
        post(client, "/v1/recommend", 400, history=["Alien"], filters={"year": [1800, 1801]})
    )
    assert "unknown word" in message(post(client, "/v1/recommend", 400, filters={"year": {"least": 3}}))


def test_reasons_have_numbers(client: TestClient, rec: Recommender) -> None:
    got = post(client, "/v1/explain", item="Aliens", history=["Alien", "Heat"])
    assert got["title"] == "Aliens"
    assert {c["title"] for c in got["contributions"]} == {"Alien", "Heat"}
    assert set(got["groups"]) == {"history", "fields", "modalities"}
    assert "no item of the catalogue" in message(post(client, "/v1/explain", 400, item="Nothing", history=[]))


# --- events -----------------------------------------------------------------------------------------


def test_an_event_counts_at_once(client: TestClient, rec: Recommender) -> None:
    before = post(client, "/v1/recommend", user="newcomer", k=24)
    assert not before["known"]
    chosen = before["items"][0]["item_id"]
    assert post(client, "/v1/events", user="newcomer", item=chosen) == {"stored": 1}
    after = post(client, "/v1/recommend", user="newcomer", k=24)
    assert after["known"]
    assert chosen not in [i["item_id"] for i in after["items"]]
    want = rec.recommend(history=[chosen], k=23)
    assert [i["item_id"] for i in after["items"]] == [r.item_id for r in want]


def test_feedback_and_history_of_a_user(client: TestClient, rec: Recommender) -> None:
    held = [e.item_id for e in rec.dataset.histories.events("5")]
    free = [i for i in rec.shelf.item_ids if i not in held]
    events = [
        {"user": "5", "item": free[0], "kind": "like"},
        {"user": "5", "item": free[1], "kind": "dislike"},
        {"user": "5", "item": free[2], "kind": "seen"},
    ]
    assert post(client, "/v1/events", events=events) == {"stored": 3}
    person = client.get("/v1/users/5").json()
    assert [i["item_id"] for i in person["history"]] == [*held, free[0], free[2]]
    assert person["liked"] == [free[0]]
    assert person["disliked"] == [free[1]]
    items = [i["item_id"] for i in post(client, "/v1/recommend", user="5", k=24)["items"]]
    assert not set(items) & {*held, *free[:3]}
    post(client, "/v1/events", user="5", item=free[1], kind="like")
    assert client.get("/v1/users/5").json()["disliked"] == []


def test_bad_events_store_nothing(client: TestClient, store: Store) -> None:
    good, bad = {"user": "u", "item": "Alien"}, {"user": "u", "item": "Alein"}
    assert "did you mean" in message(post(client, "/v1/events", 400, events=[good, bad]))
    assert "needs a user or a session" in message(post(client, "/v1/events", 400, item="Alien"))
    assert "milliseconds" in message(post(client, "/v1/events", 400, user="u", item="Alien", timestamp=1.8e12))
    post(client, "/v1/events", 422, user="u", item="Alien", kind="hug")
    assert store.events("u") == []


def test_to_be_forgotten(client: TestClient, rec: Recommender) -> None:
    known = post(client, "/v1/recommend", user="9", k=24)
    assert known["known"]
    session = post(client, "/v1/chat/sessions", user="9")["session"]
    post(client, "/v1/events", user="9", item="Alien", kind="dislike")
    held = client.get("/v1/users/9/export").json()
    assert len(held["events"]) == len(held["sessions"]) == 1
    assert len(held["dataset"]) == len(rec.dataset.histories.events("9"))
    gone = client.delete("/v1/users/9").json()
    assert gone["removed"] == {"events": 1, "sessions": 1, "turns": 0}
    assert gone["dataset_rows"] == len(held["dataset"])
    assert client.get(f"/v1/chat/sessions/{session}").status_code == 404
    stranger = post(client, "/v1/recommend", user="9", k=24)
    assert not stranger["known"]
    assert [i["item_id"] for i in stranger["items"]] == [r.item_id for r in rec.recommend(k=24)]
    held = client.get("/v1/users/9/export").json()
    assert held["forgotten"]
    assert held["events"] == held["sessions"] == []


# --- conversation -----------------------------------------------------------------------------------


def say(client: TestClient, text: str, **more: Any) -> Any:
    return post(client, "/v1/chat/completions", messages=[{"role": "user", "content": text}], **more)


def streamed(client: TestClient, **body: Any) -> list[Any]:
    answer = client.post("/v1/chat/completions", json={**body, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [json.loads(e) for e in events[:-1]]


def test_a_chat_answer_is_the_chats(client: TestClient, rec: Recommender) -> None:
    got = say(client, "a comedy", user="4", k=3)
    chat = rec.chat("4")
    chat.k = 3
    want = chat.ask("a comedy")
    choice = got["choices"][0]
    assert choice["message"]["content"] == want.text
    assert [i["item_id"] for i in choice["message"]["palate"]["items"]] == [r.item_id for r in want.items]
    assert choice["finish_reason"] == "stop"
    assert got["object"] == "chat.completion"
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] + got["usage"]["completion_tokens"]


def test_a_stream_joins_to_the_answer(client: TestClient) -> None:
    whole = say(client, "a thriller", user="4", k=3)["choices"][0]["message"]
    body = {"messages": [{"role": "user", "content": "a thriller"}], "user": "4", "k": 3}
    chunks = streamed(client, **body, stream_options={"include_usage": True})
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert "".join(d.get("content", "") for d in deltas) == whole["content"]
    assert [d["palate"]["item"] for d in deltas if "palate" in d] == whole["palate"]["items"]
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert len({c["id"] for c in chunks}) == 1


def test_messages_replay_what_came_before(client: TestClient) -> None:
    first = say(client, "a comedy", user="4", k=2)["choices"][0]["message"]
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "a comedy"},
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [{"type": "text", "text": "more"}]},
    ]
    more = post(client, "/v1/chat/completions", messages=messages, user="4", k=2)["choices"][0]["message"]["palate"]
    named = {i["item_id"] for i in first["palate"]["items"]}
    assert more["items"]
    assert not named & {i["item_id"] for i in more["items"]}
    assert all("Comedy" in i["text"]["genres"] for i in more["items"])


def test_a_session_remembers(client: TestClient, store: Store) -> None:
    session = post(client, "/v1/chat/sessions", user="4")["session"]
    first = say(client, "a comedy", session=session, k=2)["choices"][0]["message"]["palate"]["items"]
    liked = first[0]["item_id"]
    assert post(client, "/v1/events", session=session, item=liked, kind="like") == {"stored": 1}
    more = say(client, "more", session=session, k=2)["choices"][0]["message"]["palate"]["items"]
    assert not {i["item_id"] for i in first} & {i["item_id"] for i in more}
    read = client.get(f"/v1/chat/sessions/{session}").json()
    assert [(t["role"], t["text"][:8]) for t in read["turns"]][::2] == [("user", "a comedy"), ("user", "more")]
    assert [i["item_id"] for i in read["turns"][1]["items"]] == [i["item_id"] for i in first]
    assert read["liked"] == [liked]
    assert store.events("4")[0].kind == "like"


def test_a_session_outlives_the_server(rec: Recommender, store: Store) -> None:
    with serve(rec, store) as client:
        session = post(client, "/v1/chat/sessions", history=["Alien"])["session"]
        first = say(client, "a thriller", session=session, k=2)["choices"][0]["message"]["palate"]["items"]
        post(client, "/v1/events", session=session, item=first[0]["item_id"], kind="dislike")
        # what the same conversation would answer next, had the server gone on
        want = say(client, "more", session=session, k=2)["choices"][0]["message"]["content"]
    with Store.open(Path(store.engine.url.database or "")) as again, serve(rec, again) as client:
        fresh = post(client, "/v1/chat/sessions", history=["Alien"])["session"]
        assert say(client, "a thriller", session=fresh, k=2)["choices"][0]["message"]["palate"]["items"] == first
    with Store.open(Path(store.engine.url.database or "")) as again, serve(rec, again) as client:
        post(client, "/v1/events", session=fresh, item=first[0]["item_id"], kind="dislike")
        assert say(client, "more", session=fresh, k=2)["choices"][0]["message"]["content"] == want
        assert client.get(f"/v1/chat/sessions/{session}").json()["disliked"] == [first[0]["item_id"]]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "expected the last one to be the user's"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "pictures cannot be read"),
        ({"messages": [{"role": "user", "content": "x"}], "tools": []}, 422, "unknown key 'tools'"),
        ({"messages": [{"role": "user", "content": "x"}], "n": 2}, 422, "n:"),
        ({"messages": [{"role": "user", "content": "x"}], "model": "gpt-4o"}, 404, "no model is called 'gpt-4o'"),
        ({"messages": [{"role": "user", "content": "x"}], "session": "none"}, 404, "no session has the id"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, 422, "at most 8192"),
    ],
)
def test_what_is_wrong_with_a_chat_request_is_told(client: TestClient, body: Any, status: int, told: str) -> None:
    for stream in (False, True):
        answer = client.post("/v1/chat/completions", json={**body, "stream": stream})
        assert answer.status_code == status, answer.text
        assert told in message(answer.json())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=300))
def test_any_text_is_answered(client: TestClient, text: str) -> None:
    answer = client.post(
        "/v1/chat/completions",
        content=json.dumps({"messages": [{"role": "user", "content": text}], "user": "4"}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in (200, 400, 422), answer.text
    if answer.status_code == 200:
        told = answer.json()["choices"][0]["message"]
        assert all(i["title"] in told["content"] for i in told["palate"]["items"])
    else:
        message(answer.json())


# --- catalogue --------------------------------------------------------------------------------------


def test_titles_are_found_as_they_are_typed(client: TestClient) -> None:
    def titles(q: str, limit: int = 8) -> list[str]:
        return [i["title"] for i in client.get("/v1/catalog", params={"q": q, "limit": limit}).json()["items"]]

    assert titles("ali")[:2] == ["Alien", "Aliens"]
    assert titles("alien")[0] == "Alien"
    assert set(titles("sto")[:2]) == {"Toy Story", "Toy Story 2"}
    assert "Toy Story" in titles("toy stroy")
    assert len(titles("", 5)) == 5
    assert set(titles("\u0000‮")) <= set(titles("", 50)), "nothing that a title is like, and no error"
    assert client.get("/v1/catalog", params={"limit": 1000}).status_code == 422


def test_items_and_their_pictures(client: TestClient, rec: Recommender) -> None:
    shown = client.get("/v1/items/1").json()
    assert shown == {
        "item_id": "1",
        "title": "Toy Story",
        "text": dict(rec.shelf["1"].text),
        "image": "/v1/items/1/image",
    }
    picture = client.get(shown["image"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content == rec.shelf["1"].media["image"].read_bytes()
    assert client.get("/v1/items/5").json()["image"] is None
    assert client.get("/v1/items/5/image").status_code == 404
    assert client.get("/v1/items/nothing").status_code == 404
    assert client.get("/v1/items/..%2F..%2Fdataset.yaml/image").status_code == 404


# --- doors ------------------------------------------------------------------------------------------


def test_keys(rec: Recommender, store: Store) -> None:
    with serve(rec, store, keys=(KEY, "another-key-of-length")) as client:
        for path in ("/healthz", "/readyz", "/v1/about", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert client.get("/v1/about").json()["needs_key"]
        for headers in ({}, {"Authorization": KEY}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": "Bearer "}):
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
        for path in ("/metrics", "/v1/users/1", "/v1/items/1/image"):
            assert client.get(path).status_code == 401, path
        good = {"Authorization": f"Bearer {KEY}"}
        assert client.get("/v1/models", headers=good).status_code == 200
        assert client.get("/v1/items/1/image", headers={"Cookie": f"palate_key={KEY}"}).status_code == 200
        assert client.get("/v1/models", headers={"Cookie": f"palate_key={KEY}"}).status_code == 401
        answer = client.delete("/v1/users/1/image", headers={"Cookie": f"palate_key={KEY}"})
        assert answer.status_code == 401


def test_hosts_sizes_and_headers(rec: Recommender, store: Store) -> None:
    with serve(rec, store, body=500) as client:
        answer = client.get("/v1/models", headers={"Host": "evil.example"})
        assert answer.status_code == 421
        assert "does not answer to that host name" in message(answer.json())
        assert client.get("/v1/models", headers={"Host": "127.0.0.1:80"}).status_code == 200
        assert client.get("/v1/models", headers={"Host": "[::1]:80"}).status_code == 200
        long = json.dumps({"user": "1", "items": ["Alien"], "context": {"x": "y" * 600}})
        kind = {"content-type": "application/json"}
        assert client.post("/v1/score", content=long, headers=kind).status_code == 413
        pieces = iter([long[:300].encode(), long[300:].encode()])  # chunked: no length is announced
        answer = client.post("/v1/score", content=pieces, headers=kind)
        assert answer.status_code == 413
        assert "at most 500 bytes" in message(answer.json())
        answer = client.get("/v1/models")
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in client.get("/v1/models", headers={"Origin": "http://x.y"}).headers


def test_json_comes_as_json(client: TestClient) -> None:
    """A form on another site can send text/plain without asking; it must not act."""
    answer = client.post("/v1/events", content='{"user":"1","item":"1"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert client.post("/v1/score", content="{", headers={"content-type": "application/json"}).status_code == 422
    deep = "[" * 5000 + "]" * 5000
    answer = client.post("/v1/score", content=deep, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


def test_long_answers_are_compressed_and_streams_are_not(client: TestClient) -> None:
    script = client.get("/docs/swagger-ui-bundle.js", headers={"Accept-Encoding": "gzip"})
    assert script.headers["content-encoding"] == "gzip"
    short = client.post("/v1/score", json={"user": "1", "items": ["Alien"]}, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in short.headers
    body = {"messages": [{"role": "user", "content": "a comedy"}], "user": "4", "k": 20, "stream": True}
    stream = client.post("/v1/chat/completions", json=body, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in stream.headers


def test_unknown_paths_and_timeouts(client: TestClient) -> None:
    assert "Not Found" in message(client.get("/v1/nothing").json())
    assert client.put("/v1/score", json={}).status_code == 405
    body = {"user": "1", "items": ["Alien"]}
    for value in ("0", "-1", "nan", "soon", "1e9"):
        answer = client.post("/v1/score", json=body, headers={"X-Request-Timeout": value})
        assert "expected seconds from 0 to 600" in message(answer.json())
    assert client.post("/v1/score", json=body, headers={"X-Request-Timeout": "20"}).status_code == 200


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="queue: expected a number above 0, got 0"):
        Settings(queue=0)
    with pytest.raises(ConfigError, match="port: expected a number from 0 to 65535"):
        Settings(port=70000)
    assert Settings(host="0.0.0.0").allowed_hosts == ()
    assert not Settings(host="0.0.0.0").loopback
    assert Settings(host="::1").loopback
    assert Settings(host="localhost").loopback


# --- operations -------------------------------------------------------------------------------------


def test_metrics_count_and_tell_nothing_of_people(client: TestClient) -> None:
    post(client, "/v1/score", user="secret-user", items=["Alien"])
    client.get("/v1/users/secret-user")
    client.get("/v1/secret-path")
    text = client.get("/metrics").text
    assert 'palate_requests_total{route="/v1/score",status="200"} 1.0' in text
    assert 'palate_requests_total{route="other",status="404"} 1.0' in text
    assert 'palate_batch_jobs_count{work="score"} 1.0' in text
    assert "palate_queue_jobs 0.0" in text
    assert "secret" not in text


def test_models_about_and_documentation(client: TestClient) -> None:
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["one", "two"]
    about = client.get("/v1/about").json()
    assert about["wording"]["item"] == "movie"
    assert about["modes"][0] == about["default_mode"] == "embedding"
    assert about["fields"]["year"]["low"] == 1971
    assert "Comedy" in about["fields"]["genres"]["values"]
    schema = client.get("/openapi.json").json()
    assert {"/v1/score", "/v1/recommend", "/v1/explain", "/v1/events", "/v1/chat/completions"} <= set(schema["paths"])
    for path, methods in schema["paths"].items():
        for method, told in methods.items():
            assert told.get("description"), f"{method} {path} says nothing of itself"
    docs = client.get("/docs").text
    linked = re.findall(r'(?:href|src)="([^"]+)"', docs)
    assert len(linked) == 3
    for link in linked:
        assert link.startswith("/docs/"), "documentation works without a network"
        assert client.get(link).status_code == 200
    assert client.get("/docs/..%2Fcore.py").status_code == 404


def test_ready_until_it_drains(rec: Recommender, store: Store) -> None:
    client = serve(rec, store)
    with client:
        assert client.get("/readyz").json()["status"] == "ready"
        client.app.state.service.draining = True  # type: ignore[attr-defined]
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    answer = client.post("/v1/score", json={"user": "1", "items": ["Alien"]})
    assert answer.status_code == 503


def test_what_goes_wrong_inside_stays_inside(rec: Recommender, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("password=hunter2")

    client = TestClient(create_app(rec, store), base_url="http://localhost", raise_server_exceptions=False)
    with client:
        monkeypatch.setattr(type(rec), "score", broken)
        answer = client.post("/v1/score", json={"user": "1", "items": ["Alien"]})
        assert answer.status_code == 500
        assert "hunter2" not in answer.text
        assert answer.json()["error"]["code"] == "internal"
        monkeypatch.undo()
        assert client.post("/v1/score", json={"user": "1", "items": ["Alien"]}).status_code == 200
