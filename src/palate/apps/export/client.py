"""Asking a model that vLLM, SGLang or Palate serves what Palate would ask it.

    python -m palate.apps.export.client exports/ml-100k --engine vllm --url http://localhost:8000 --model palate \\
        --data data/ml-100k --history "Alien" --item "Heat" --item "Babe"

Read off the engines' sources: vLLM 0.32.0 (entrypoints/generate/generative_scoring, entrypoints/openai/completion) and
SGLang 0.5.23 (srt/entrypoints/openai/protocol.py: ScoringRequest, EmbeddingRequest; srt/managers/io_struct.py:
GenerateReqInput).
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer

from palate.errors import ConfigError, PalateError, RequestError, SourceError, did_you_mean
from palate.schema import Floats

if TYPE_CHECKING:
    from palate.apps.export.prompts import Asker, Overrides, Question

Json = dict[str, Any]
MOST = 64 << 20
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class Server:
    """An engine's address. key: sent as `Authorization: Bearer`. timeout: seconds a request may take."""

    url: str
    model: str
    key: str | None = None
    timeout: float = 120.0

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST JSON; the answer, read as JSON.

        Raises SourceError where nobody answers, RequestError where the server refuses.
        """
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError(f"--url: expected http://HOST:PORT, got {self.url!r}")
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        where = self.url.rstrip("/") + path
        request = urllib.request.Request(where, json.dumps(body).encode(), headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                return json.loads(answer.read(MOST))
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise RequestError(f"{where} refused the request ({error.code}): {said}") from None
        except (OSError, ValueError) as error:
            raise SourceError(f"{where}: expected a running server that answers in JSON: {error}") from None


# --- vLLM -------------------------------------------------------------------------------------------


def vllm_scoring(server: Server, question: Question) -> Json:
    """Body of POST /generative_scoring: text prompts as token ids. vLLM answers with the first label's probability."""
    return {
        "model": server.model,
        "query": question.prompt.tolist(),
        "items": [ids.tolist() for ids in question.branches],
        "label_token_ids": list(question.labels),
        "apply_softmax": True,
    }


def vllm_completion(server: Server, embeds: Sequence[Floats], labels: Sequence[int]) -> Json:
    """Body of POST /v1/completions with prompt embeddings (server: --enable-prompt-embeds).

    embeds: one [T, D] a prompt; vLLM casts them to its own dtype. The labels' log-probabilities come with the one token
    that is generated.
    """
    return {
        "model": server.model,
        "prompt_embeds": [tensor64(e) for e in embeds],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": len(labels),
        "logprob_token_ids": list(labels),
        "return_tokens_as_token_ids": True,
    }


def tensor64(embeds: Floats) -> str:
    """A [T, D] array as vLLM takes it: a tensor that torch.save wrote, in base64."""
    import torch

    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.ascontiguousarray(embeds)), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def read_completion(answer: Mapping[str, Any], labels: Sequence[int]) -> Floats:
    """Log-probabilities of the labels: float64 [C, L], of an answer to `vllm_completion`."""
    choices = sorted(answer["choices"], key=lambda c: int(c["index"]))
    first = [choice["logprobs"]["top_logprobs"][0] for choice in choices]
    return _table([{_token(k): v for k, v in row.items()} for row in first], labels)


def _token(name: str) -> int:
    return int(name.removeprefix("token_id:")) if name.startswith("token_id:") else -1


# --- SGLang -----------------------------------------------------------------------------------------


def sglang_score(server: Server, question: Question, overrides: Overrides | None = None) -> Json:
    """Body of POST /v1/score; with overrides, soft tokens take a placeholder's places. Palate serves it without."""
    body: Json = {
        "model": server.model,
        "query": question.prompt.tolist(),
        "items": [ids.tolist() for ids in question.branches],
        "label_token_ids": list(question.labels),
        "apply_softmax": False,
    }
    if overrides is not None:
        body |= {
            "query": overrides.query,
            "items": overrides.items,
            "embed_override_token_id": overrides.token,
            "query_embed_overrides": overrides.query_vectors.tolist() or None,
            "item_embed_overrides": [None if v is None else v.tolist() for v in overrides.item_vectors],
        }
        if not any(v is not None for v in overrides.item_vectors):
            body["item_embed_overrides"] = None
    return body


def sglang_generate(server: Server, embeds: Sequence[Floats], labels: Sequence[int], lora: bool = False) -> Json:
    """Body of POST /generate with whole prompts as embeddings (server: --disable-radix-cache)."""
    many = len(embeds)
    body: Json = {
        "input_embeds": [e.tolist() for e in embeds],
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": [True] * many,
        "token_ids_logprob": [list(labels)] * many,
    }
    return {**body, "lora_path": [server.model] * many} if lora else body


def sglang_embedding(server: Server, overrides: Overrides) -> Json:
    """Body of POST /v1/embeddings (server: --is-embedding): the last hidden state, at length one, for MatchingHead."""
    body: Json = {"model": server.model, "input": overrides.query}
    if len(overrides.query_vectors):
        body |= {
            "embed_override_token_id": overrides.token,
            "embed_overrides": [overrides.query_vectors.tolist()],
        }
    return body


def read_generate(answer: Any, labels: Sequence[int]) -> Floats:
    """Log-probabilities of the labels: float64 [C, L], of an answer to `sglang_generate`."""
    rows = [one["meta_info"]["output_token_ids_logprobs"][0] for one in answer]
    return _table([{int(token): value for value, token, *_ in row} for row in rows], labels)


def _table(rows: Sequence[Mapping[int, float]], labels: Sequence[int]) -> Floats:
    for n, row in enumerate(rows):
        if missing := [t for t in labels if t not in row]:
            raise SourceError(
                f"answer {n}: expected log-probabilities of the labels {list(labels)}, {missing} are missing"
            )
    return np.array([[row[t] for t in labels] for row in rows], dtype=np.float64)


# --- answers ----------------------------------------------------------------------------------------


def ask_vllm(server: Server, asker: Asker, question: Question) -> Floats:
    """vLLM: /generative_scoring for text, /v1/completions with prompt embeddings where soft tokens are."""
    if question.soft:
        body = vllm_completion(server, asker.embeds(question), question.labels)
        return _against(read_completion(server.post("/v1/completions", body), question.labels))
    answer = server.post("/generative_scoring", vllm_scoring(server, question))
    return np.array([_odds(row["score"]) for row in sorted(answer["data"], key=lambda r: int(r["index"]))])


def ask_sglang(server: Server, asker: Asker, question: Question) -> Floats:
    """SGLang: /v1/score, soft tokens as embedding overrides."""
    return _scored(server.post("/v1/score", sglang_score(server, question, _overrides(asker, question))))


def ask_generate(server: Server, asker: Asker, question: Question) -> Floats:
    """SGLang: /generate with whole prompts as embeddings, with the adapter where the export has it apart."""
    lora = asker.note["model"]["lora"] == "adapter"
    body = sglang_generate(server, asker.embeds(question), question.labels, lora)
    return _against(read_generate(server.post("/generate", body), question.labels))


def ask_palate(server: Server, asker: Asker, question: Question) -> Floats:
    """`palate serve`: /v1/score with text prompts; it knows its own soft tokens, and takes none from outside."""
    if question.soft:
        raise RequestError("palate serve takes no soft tokens in raw prompts; leave them out (--text)")
    return _scored(server.post("/v1/score", sglang_score(server, question)))


ENGINES: dict[str, Callable[[Server, Asker, Question], Floats]] = {
    "vllm": ask_vllm,
    "sglang": ask_sglang,
    "sglang-generate": ask_generate,
    "palate": ask_palate,
}
"""What --engine may name. Each answers with the log-odds of the first label against the second: float64 [C]."""


def _overrides(asker: Asker, question: Question) -> Overrides | None:
    return asker.overrides(question) if question.soft else None


def _scored(answer: Mapping[str, Any]) -> Floats:
    shares = np.array(answer["scores"], dtype=np.float64)
    return _against(np.log(np.maximum(shares, 1e-300)))


def _against(logs: Floats) -> Floats:
    return np.asarray(logs[:, 0] - logs[:, 1])


def _odds(share: float) -> float:
    """Log-odds of a probability, bounded where it is 0 or 1 in the answer's digits."""
    p = min(max(share, 1e-12), 1 - 1e-12)
    return math.log(p / (1 - p))


# --- as a program -----------------------------------------------------------------------------------


def main(
    export: Annotated[str, typer.Argument(help="A folder that `palate export` wrote.", metavar="EXPORT")],
    item: Annotated[list[str], typer.Option("--item", "-i", help="An item to ask about, by title or id; repeat it.")],
    engine: Annotated[str, typer.Option("--engine", help="vllm, sglang, sglang-generate or palate.")] = "vllm",
    url: Annotated[str, typer.Option("--url", help="Where it listens.")] = "http://localhost:8000",
    model: Annotated[str, typer.Option("--model", help="What it calls the model or the adapter.")] = "palate",
    data: Annotated[str | None, typer.Option("--data", help="Data set folder; by default the adapter's.")] = None,
    history: Annotated[list[str] | None, typer.Option("--history", "-H", help="Past choices, oldest first.")] = None,
    text: Annotated[bool, typer.Option("--text", help="Leave soft tokens out.")] = False,
) -> None:
    """Ask a served export about items: the log-odds of Yes against No, highest first.

    Example: python -m palate.apps.export.client exports/ml-100k --engine vllm --history Alien --item Heat --item Babe
    """
    from palate.apps.export.prompts import Asker

    if engine not in ENGINES:
        raise ConfigError(f"--engine: no engine is called {engine!r}; {did_you_mean(engine, ENGINES)}")
    asker = Asker(export, data, soft=not text)
    question = asker.question(item, history or ())
    scores = ENGINES[engine](Server(url, model, os.environ.get("PALATE_ENGINE_KEY")), asker, question)
    for n in np.argsort(-scores, kind="stable"):
        typer.echo(f"{scores[n]:+9.4f}  {asker.shelf[question.item_ids[n]].title}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except PalateError as error:
        typer.echo(f"palate: {error}", err=True)
        sys.exit(2)
