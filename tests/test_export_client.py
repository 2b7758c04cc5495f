"""The client of exported models: Palate's own prompts and soft tokens, as vLLM, SGLang and `palate serve` take them.

The engines here are `exported.engine`, over stock transformers with the exported weights; the last test is the real
`palate serve`. Against a real vLLM 0.32.0 the same client was compared by hand (docs/exporting.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exported import Engine, close, counting_bundle, engine
from palate import Recommender
from palate.apps.export import client
from palate.apps.export.client import ENGINES, Server
from palate.apps.export.prompts import Asker, MatchingHead, Question
from palate.apps.export.run import export
from palate.apps.export.soft import SoftTable
from palate.apps.export.targets import Options
from palate.engine.modes.yes_no import YesNo
from palate.engine.pack import concat
from palate.errors import BundleError, ConfigError, RequestError, SourceError, TemplateError
from palate.model import bundle as bundles
from palate.schema import Event, Prompt, Request
from served import serving

HISTORY = ["Toy Story", "Alien", "Heat"]
ITEMS = ["GoldenEye", "Fargo", "Toy Story", "Babe"]
CLOSE = 2e-4
"""Largest difference of log-odds over a wire: float32 sums in another order."""


@pytest.fixture(scope="module", params=["model", "feature"])
def fusion(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(fusion: str, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    folder = tmp_path_factory.mktemp(fusion) / "films"
    return counting_bundle(folder, tiny_base, tiny_data, fusion=fusion, soft_tokens=2)


@pytest.fixture(scope="module")
def merged(bundle: Path) -> Path:
    export(str(bundle), "sglang", bundle.parent / "merged", Options(merge=True))
    return bundle.parent / "merged"


@pytest.fixture(scope="module")
def asker(merged: Path, tiny_data: Path) -> Asker:
    return Asker(merged, tiny_data)


@pytest.fixture(scope="module")
def rec(bundle: Path, tiny_data: Path) -> Recommender:
    return Recommender.load(bundle, data=tiny_data, device="cpu")


@pytest.fixture(scope="module")
def served(merged: Path) -> Iterator[Engine]:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(merged / "model", dtype=torch.float32, attn_implementation="eager").eval()
    with engine(lm) as found:
        yield found


def own(rec: Recommender, asker: Asker, question: Question) -> np.ndarray[Any, Any]:
    """What Palate's mode yes_no says of the question's items."""
    ids = question.item_ids
    history = tuple(Event(asker.shelf.find(h)) for h in HISTORY)
    request = Request("r", history=history, candidates=ids)
    return np.asarray(YesNo().scores(rec.runner, asker.serializer, [request])[0].scores)


# --- prompts and soft tokens ------------------------------------------------------------------------


def test_the_table_holds_what_the_projectors_make(merged: Path, bundle: Path) -> None:
    soft = bundles.load(bundle, device="cpu").model.soft
    assert soft is not None
    table = SoftTable(merged / "soft_tokens.safetensors")
    assert table.item_ids == soft.item_ids
    for item in soft.item_ids:
        assert table.slots(item) == soft.slots(item)
        for kind, count in table.slots(item):
            mine = soft.vectors(kind, [item])[0].detach()
            assert mine.shape[0] == count
            assert close(table.vectors(kind, item), mine) < 1e-6
    assert table.slots("no such item") == ()


def test_questions_are_palates_own(asker: Asker, rec: Recommender) -> None:
    question = asker.question(ITEMS, HISTORY)
    history = tuple(Event(asker.shelf.find(h)) for h in HISTORY)
    request = Request("r", history=history, candidates=question.item_ids)
    template = YesNo().template(rec.serializer)
    prompt = rec.serializer.prompt(template, request)
    assert question.soft
    assert question.prompt.tolist() == prompt.token_ids.tolist()
    assert question.slots == tuple(prompt.slots)
    branches = rec.serializer.branches(template, request, question.item_ids)
    assert [b.tolist() for b in question.branches] == [b.token_ids.tolist() for b in branches]
    assert question.labels == rec.serializer.labels(template)


def test_embeddings_are_what_the_model_would_read(asker: Asker, bundle: Path) -> None:
    question = asker.question(ITEMS, HISTORY)
    model = bundles.load(bundle, device="cpu").model
    for n, embeds in enumerate(asker.embeds(question)):
        moved = [s.shifted(len(question.prompt)) for s in question.branch_slots[n]]
        whole = Prompt(np.concatenate([question.prompt, question.branches[n]]), (*question.slots, *moved))
        assert close(embeds, model.embed(concat([whole])).detach()) < 1e-6


def test_placeholders_stand_nowhere_else(asker: Asker) -> None:
    question = asker.question(ITEMS, HISTORY)
    found = asker.overrides(question)
    embeds = asker.embeds(question)
    assert found.query.count(found.token) == len(found.query_vectors) == sum(s.length for s in question.slots)
    assert found.token not in question.labels
    for n, (ids, vectors) in enumerate(zip(found.items, found.item_vectors, strict=True)):
        assert ids.count(found.token) == (0 if vectors is None else len(vectors))
        at = [i for i, t in enumerate([*found.query, *ids]) if t == found.token]
        placed = [*found.query_vectors, *(() if vectors is None else vectors)]
        assert close(embeds[n][at], np.array(placed)) == 0


def test_text_alone_has_no_slots(merged: Path, tiny_data: Path) -> None:
    question = Asker(merged, tiny_data, soft=False).question(ITEMS, HISTORY)
    assert not question.soft


def test_the_matching_head_reads_hidden_states_of_any_length(merged: Path, bundle: Path, rec: Recommender) -> None:
    model = bundles.load(bundle, device="cpu").model
    head = MatchingHead(merged)
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(2)) * 3
    with torch.inference_mode():
        mine = model.queries(hidden) @ model.item_vectors().T
    assert head.item_ids == model.soft.item_ids  # type: ignore[union-attr]
    assert close(head.scores(hidden.numpy()), mine) < 1e-3 * float(mine.abs().max())
    unit = torch.nn.functional.normalize(hidden, dim=-1).numpy()
    assert close(head.scores(unit), head.scores(hidden.numpy())) < 1e-5 * float(mine.abs().max())


# --- over the wire ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vllm", "sglang", "sglang-generate"])
@pytest.mark.parametrize("soft", [True, False])
def test_engines_answer_as_palate_does(
    name: str, soft: bool, merged: Path, tiny_data: Path, rec: Recommender, served: Engine
) -> None:
    asker = Asker(merged, tiny_data, soft=soft)
    question = asker.question(ITEMS, HISTORY)
    served.asked.clear()
    scores = ENGINES[name](Server(served.url, "palate"), asker, question)
    mine = own(rec, asker, question)
    assert close(scores, mine) < CLOSE
    assert mine.max() - mine.min() > 100 * CLOSE, "this test must be able to fail"
    path = {"vllm": "/v1/completions" if soft else "/generative_scoring", "sglang": "/v1/score"}
    assert [p for p, _ in served.asked] == [path.get(name, "/generate")]


def test_an_adapter_apart_is_named_in_the_request(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    export(str(bundle), "sglang", tmp_path / "lora", Options())
    asker = Asker(tmp_path / "lora", tiny_data)
    question = asker.question(ITEMS[:2], HISTORY)
    body = client.sglang_generate(Server("http://x", "films"), asker.embeds(question), question.labels, lora=True)
    assert body["lora_path"] == ["films", "films"]
    assert np.shape(body["input_embeds"][0]) == (len(question.prompt) + len(question.branches[0]), 32)
    assert body["sampling_params"] == {"max_new_tokens": 1, "temperature": 0}


def test_matching_over_the_wire(asker: Asker, rec: Recommender, served: Engine, merged: Path) -> None:
    """SGLang's embeddings route with soft tokens, and the exported matching head, give Palate's mode `embedding`."""
    history = tuple(Event(asker.shelf.find(h)) for h in HISTORY)
    wanted = rec.score([Request("r", history=history, candidates=rec.shelf.item_ids)], mode="embedding")[0]
    found = asker.sequence(HISTORY)
    answer = Server(served.url, "palate").post(
        "/v1/embeddings", client.sglang_embedding(Server("", "palate"), asker.overrides(found))
    )
    scores = MatchingHead(merged).scores([answer["data"][0]["embedding"]])[0]
    assert close(scores, wanted.scores) < 2e-3 * float(np.abs(wanted.scores).max())


def test_answers_without_the_labels_are_refused() -> None:
    answer = {"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"token_id:5": -1.0, "Yes": -2.0}]}}]}
    assert client.read_completion(answer, [5]).tolist() == [[-1.0]]
    with pytest.raises(SourceError, match=r"answer 0: expected log-probabilities of the labels \[5, 7\], \[7\] are"):
        client.read_completion(answer, [5, 7])


def test_servers_that_refuse_or_are_not_there(asker: Asker, served: Engine) -> None:
    question = asker.question(ITEMS[:1], HISTORY)
    with pytest.raises(RequestError, match=r"/v1/nothing refused the request \(400\): .*does not know"):
        Server(served.url, "m").post("/v1/nothing", {"a": 1})
    with pytest.raises(SourceError, match="expected a running server that answers in JSON"):
        ENGINES["vllm"](Server("http://127.0.0.1:9", "m", timeout=2), asker, question)
    with pytest.raises(ConfigError, match="--url: expected http://HOST:PORT, got 'file:///etc/passwd'"):
        Server("file:///etc/passwd", "m").post("", {})


def test_what_cannot_be_asked(asker: Asker, merged: Path, bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no item of the catalogue has the id or title 'Hete'"):
        asker.question(["Hete"], HISTORY)
    with pytest.raises(RequestError, match="expected at least one item to ask about"):
        asker.question([], HISTORY)
    with pytest.raises(TemplateError, match="expected a template with branches and labels"):
        asker.question(ITEMS, HISTORY, template="next_item")
    export(str(bundle), "hf", tmp_path / "hf", Options())
    with pytest.raises(BundleError, match="a hf export has no soft tokens; ask with soft=False"):
        Asker(tmp_path / "hf", tiny_data)
    plain = Asker(tmp_path / "hf", tiny_data, soft=False)
    plain.note["templates"]["yes_no"]["hash"] = "0" * 64
    with pytest.raises(BundleError, match="template 'yes_no' has changed since the export"):
        plain.question(ITEMS, HISTORY)
    with pytest.raises(RequestError, match="palate serve takes no soft tokens in raw prompts"):
        ENGINES["palate"](Server("http://x", "m"), asker, asker.question(ITEMS, HISTORY))


def test_rating_labels_can_be_asked_too(asker: Asker) -> None:
    question = asker.question(ITEMS[:1], HISTORY, template="rating")
    assert len(question.labels) == 5
    assert client.vllm_scoring(Server("", "m"), question)["label_token_ids"] == list(question.labels)


def test_the_program(
    merged: Path, tiny_data: Path, served: Engine, asker: Asker, rec: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    client.main(str(merged), ITEMS, engine="vllm", url=served.url, data=str(tiny_data), history=HISTORY)
    question = asker.question(ITEMS, HISTORY)
    best = sorted(zip(-own(rec, asker, question), ITEMS, strict=True))
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(None, 1)[1] for line in shown] == [title for _, title in best]
    with pytest.raises(ConfigError, match=r"no engine is called 'vlm'; did you mean 'vllm'\?"):
        client.main(str(merged), ["Alien"], engine="vlm")


def test_palate_serve_takes_the_same_requests(
    merged: Path, bundle: Path, tiny_data: Path, tmp_path: Path, rec: Recommender, fusion: str
) -> None:
    if fusion == "feature":
        pytest.skip("text prompts are the same for both")
    asker = Asker(merged, tiny_data, soft=False)
    question = asker.question(ITEMS, HISTORY)
    with serving(bundle, tiny_data, tmp_path / "store.sqlite") as server:
        scores = ENGINES["palate"](Server(server.url, bundle.name), asker, question)
        share = Server(server.url, bundle.name).post(
            "/generative_scoring", client.vllm_scoring(Server("", bundle.name), question)
        )
    mine = own(rec, asker, question)
    assert close(scores, mine) < CLOSE
    assert close([client._odds(row["score"]) for row in share["data"]], mine) < CLOSE
