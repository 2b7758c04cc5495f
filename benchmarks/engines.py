"""(d) Other engines on the same jobs, where they are installed: llama.cpp, vLLM, SGLang.

Each has `score(jobs)`, as the functions of `baselines`, and a `note` for the results. llama.cpp has been run; the
vLLM and SGLang classes follow their documentation and wait for a machine that has them.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.baselines import Scores
from benchmarks.bases import Base
from benchmarks.workload import Workload
from palate import sources
from palate.engine.pack import Job

MODULES = {"llama_cpp": "llama-cpp-python", "vllm": "vllm", "sglang": "sglang"}
GPU_SHARE = 0.4
"""Of the GPU's memory, for an engine that takes its share at the start: the other ways run on the same card."""


class Engine(Protocol):
    note: str

    def score(self, jobs: Sequence[Job]) -> Scores: ...


def find(base: Base, work: Workload) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines that can run this base, and what became of each: a note, or why it is not in the results."""
    make: dict[str, Callable[[Base, Workload], Engine]] = {"llama_cpp": LlamaCpp, "vllm": Vllm, "sglang": SGLang}
    found: dict[str, Engine] = {}
    said: dict[str, str] = {}
    for name, build in make.items():
        if importlib.util.find_spec(name) is None:
            said[name] = f"not installed ({MODULES[name]})"
            continue
        try:
            found[name] = build(base, work)
            said[name] = found[name].note
        except Exception as error:  # an engine of somebody else's that does not start costs its row, not the run
            said[name] = f"installed, but it did not start: {type(error).__name__}: {error}"
    return found, said


class LlamaCpp:
    """llama.cpp over the base's GGUF file: the prompt once, candidates as sequences that share its cache, one batch.

    This is the way llama.cpp's own batched examples go, and quicker than a call a candidate. At most 255 candidates
    a batch, which is llama.cpp's limit of sequences.
    """

    def __init__(self, base: Base, work: Workload) -> None:
        import llama_cpp

        path = sources.fetch(base.source) if base.source else Path()
        if path.suffix.lower() != ".gguf":
            raise ValueError("llama.cpp reads GGUF, and this base is none")
        self.api = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)  # kept: C holds a pointer to it
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        cuda = base.device.type == "cuda"
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 999 if cuda else 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self.model:
            raise ValueError(f"llama.cpp could not load {path.name}")
        self.sequences = min(255, max(len(j.branches) for j in work.jobs))
        longest = max(sum(len(b) for b in j.branches) for j in work.jobs)
        room = max(len(j.prompt) for j in work.jobs)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = room + longest + 64
        context.n_batch = max(room, longest)
        context.n_seq_max = self.sequences + 1
        context.kv_unified = True
        context.n_threads = context.n_threads_batch = torch.get_num_threads()
        if hasattr(context, "n_outputs_max"):
            context.n_outputs_max = context.n_batch
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        if not self.context:
            raise ValueError("llama.cpp could not make a context of this size")
        self.batch = llama_cpp.llama_batch_init(context.n_batch, 0, 1)
        self.width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.note = (
            f"llama-cpp-python {llama_cpp.__version__}, {path.name}: quantized weights and 8-bit activations, "
            "so another precision than the others"
        )

    def score(self, jobs: Sequence[Job]) -> Scores:
        return [self._request(job) for job in jobs]

    def _request(self, job: Job) -> list[np.ndarray]:
        memory = self.api.llama_get_memory(self.context)
        self.api.llama_memory_clear(memory, True)
        prompt = job.prompt.token_ids
        last = len(prompt) - 1
        start = self._decode([(int(t), n, 0, n == last) for n, t in enumerate(prompt)])[-1:]
        out: list[np.ndarray] = []
        for first in range(0, len(job.branches), self.sequences):
            part = job.branches[first : first + self.sequences]
            rows = []
            for n, branch in enumerate(part, 1):
                self.api.llama_memory_seq_rm(memory, n, -1, -1)
                self.api.llama_memory_seq_cp(memory, 0, n, -1, -1)
                rows += [(int(t), len(prompt) + i, n, True) for i, t in enumerate(branch.token_ids[:-1])]
            later = self._decode(rows)
            at = 0
            for branch in part:
                stop = at + len(branch) - 1
                logits = torch.cat([start, later[at:stop]])
                targets = torch.from_numpy(branch.token_ids)[:, None]
                out.append((logits.gather(1, targets)[:, 0] - logits.logsumexp(-1)).numpy())
                at = stop
        return out

    def _decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> torch.Tensor:
        """Run (token, position, sequence, wanted) rows; the wanted logits, float32 [n, V]."""
        batch = self.batch
        batch.n_tokens = len(rows)
        if not rows:
            return torch.empty(0, self.width)
        for n, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[n], batch.pos[n], batch.logits[n] = token, position, wanted
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, sequence
        code = self.api.llama_decode(self.context, batch)
        if code:
            raise RuntimeError(f"llama.cpp's decode failed with code {code}")
        count = sum(row[3] for row in rows)
        logits = np.ctypeslib.as_array(self.api.llama_get_logits(self.context), shape=(count * self.width,))
        return torch.from_numpy(logits.reshape(count, self.width).copy())


def _folder(base: Base) -> tuple[str, dict[str, Any]]:
    """What an engine loads: the base's folder, or a config alone with random weights."""
    if base.source is not None:
        return str(sources.base_model(base.source)), {}
    folder = tempfile.mkdtemp(prefix="palate-benchmark-")
    base.lm.config.save_pretrained(folder)
    return folder, {"load_format": "dummy", "skip_tokenizer_init": True}


class Vllm:
    """vLLM with automatic prefix caching: prompt and candidate as a prompt whose log-probabilities are asked for.

    vLLM does not read its prefix cache for requests that ask for prompt log-probabilities; that is its way.
    """

    def __init__(self, base: Base, work: Workload) -> None:
        import vllm

        folder, options = _folder(base)
        longest = max(len(j.prompt) + len(b) for j in work.jobs for b in j.branches)
        self.engine = vllm.LLM(
            model=folder, dtype=base.dtype, enable_prefix_caching=True, max_model_len=longest + 8,
            gpu_memory_utilization=GPU_SHARE, disable_log_stats=True, **options,
        )  # fmt: skip
        self.sampling = vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        self.note = f"vllm {vllm.__version__}, prompt_logprobs; adapter not run by its authors yet"

    def score(self, jobs: Sequence[Job]) -> Scores:
        prompts = [
            {"prompt_token_ids": [*j.prompt.token_ids.tolist(), *b.token_ids.tolist()]}
            for j in jobs
            for b in j.branches
        ]
        answers = iter(self.engine.generate(prompts, self.sampling, use_tqdm=False))
        out: Scores = []
        for job in jobs:
            rows = []
            for branch in job.branches:
                tail = next(answers).prompt_logprobs[-len(branch) :]
                values = [at[int(t)].logprob for at, t in zip(tail, branch.token_ids, strict=True)]
                rows.append(np.array(values, dtype=np.float32))
            out.append(rows)
        return out


class SGLang:
    """SGLang with its radix cache: log-probabilities of the input from the prompt's end on."""

    def __init__(self, base: Base, work: Workload) -> None:
        import sglang

        folder, options = _folder(base)
        self.engine = sglang.Engine(
            model_path=folder, dtype=base.dtype, mem_fraction_static=GPU_SHARE, log_level="error", **options
        )
        self.note = f"sglang {sglang.__version__}, input log-probabilities; adapter not run by its authors yet"

    def score(self, jobs: Sequence[Job]) -> Scores:
        pairs = [(j, b) for j in jobs for b in j.branches]
        answers = self.engine.generate(
            input_ids=[[*j.prompt.token_ids.tolist(), *b.token_ids.tolist()] for j, b in pairs],
            sampling_params={"max_new_tokens": 1, "temperature": 0.0},
            return_logprob=True,
            logprob_start_len=[len(j.prompt) - 1 for j, _ in pairs],
        )
        lists = iter(
            np.array([x[0] for x in answer["meta_info"]["input_token_logprobs"][-len(b) :]], dtype=np.float32)
            for answer, (_, b) in zip(answers, pairs, strict=True)
        )
        return [[next(lists) for _ in job.branches] for job in jobs]
