"""The benchmarks run through their main functions on a tiny base, and their arithmetic is right."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import baselines, bases, engines, generate, masks, measure, memory, parity, profiling, scoring, workload

from facade import tiny_bundle
from palate.engine.pack import Job, pack
from palate.engine.trie import Trie, View
from palate.errors import ConfigError, PalateError, RequestError
from palate.schema import Branch, Prompt, Slot

TINY_SHAPE = {
    **bases.SHAPES["qwen3-0.6b"], "vocab_size": 300, "hidden_size": 32, "head_dim": 8, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def flags(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    adapter = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", tiny_base, tiny_data)
    named = ["--base", f"path:{tiny_base}", "--data", str(tiny_data), "--dtype", "float32", "--repeats", "1"]
    return [*named, "--adapter", str(adapter), "--prefix", "200", "--requests", "3", "--latency-requests", "2"]


def scoring_flags(flags: list[str]) -> list[str]:
    sizes = {"candidates": 6, "seconds": 0.1, "parity-requests": 2, "parity-candidates": 3}
    return [*flags, *(str(part) for name, value in sizes.items() for part in (f"--{name}", value))]


def test_scoring_writes_what_it_promises(flags: list[str], tmp_path: Path) -> None:
    path = tmp_path / "scoring.json"
    scoring.main([*scoring_flags(flags), "--only", "speed,parity,latency", "--profile", "--json", str(path)])
    found = json.loads(path.read_text(encoding="utf-8"))
    ratios = {"ratio_vs_naive", "ratio_vs_padded_prefix", "ratio_vs_padded_batch"}
    speeds = {"fraction_of_dense", "matmul_peak_flops", "fraction_of_matmul_peak", "distinct_tokens_per_s"}
    for key in ratios | speeds | {"p50_ms", "p99_ms", "logical_tokens_per_s"}:
        assert found[key] > 0, key
    assert found["contenders"].keys() >= {"packed", "naive", "padded_batch", "padded_prefix"}
    assert set(found["engines"]) == {"llama_cpp", "vllm", "sglang"}
    assert found["parity"]["packed_float32"]["max"] < 1e-4
    assert found["parity"]["soft"]["packed_float32"]["max"] < 1e-4
    assert found["parity"]["soft"]["soft_tokens"] > 0
    assert 0 < sum(found["profile"]["shares"].values()) <= 1.001
    assert str(tmp_path.parent.parent) not in path.read_text(encoding="utf-8")


def test_parity_in_bfloat16_stands_beside_the_other_ways(flags: list[str]) -> None:
    found = scoring.main([*scoring_flags(flags), "--dtype", "bfloat16", "--only", "parity"])["parity"]
    for block in (found, found["soft"]):
        assert block["packed_float32"]["max"] < 1e-4 < block["packed_bfloat16"]["max"] < 1
        assert isinstance(block["packed_no_worse_than_naive"], bool)
    assert {"naive_bfloat16", "padded_prefix_bfloat16", "padded_batch_bfloat16"} <= found.keys()


def test_memory_is_measured_in_a_fresh_process(flags: list[str]) -> None:
    found = memory.budgets(scoring.arguments([*flags, "--memory-candidates", "60"]), [256])
    [run] = found["runs"]
    assert (run["max_tokens"], run["candidates"], run["way"]) == (256, 60, "packed")
    assert run["peak_bytes"] >= 0


def test_a_measurement_that_fails_says_why(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(PalateError, match="the memory measurement of packed failed: exit code 1"):
        memory.budgets(scoring.arguments(flags), [256])
    done = subprocess.CompletedProcess([], 2, "", "Traceback\nSourceError: nothing there\n")
    assert measure.last_words(done) == "SourceError: nothing there"


@pytest.mark.parametrize("way", memory.WAYS)
def test_memory_of_each_way(way: str, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(["--base", f"path:{tiny_base}", "--dtype", "float32", "--way", way, "--count", "5", "--prefix", "20"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["way"], found["candidates"]) == (way, 5)


def test_generate_writes_what_it_promises(flags: list[str], tmp_path: Path) -> None:
    path = tmp_path / "generate.json"
    sizes = ["--beams", "6", "-k", "4", "--seconds", "0.1", "--check-beams", "60", "--check-prefix", "200"]
    generate.main([*flags, *sizes, "--million", "3000", "--json", str(path)])
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["invalid_items"] == 0
    assert found["beams_checked"] >= 60
    assert 0 < found["mask_share_of_step"] < 1
    assert found["trie_1m_seconds"] > 0
    assert found["trie_1m_bytes"] > 0
    assert found["requests_per_s"] > 0
    assert found["ratio_vs_transformers_generate"] > 0
    assert found["contenders"]["transformers_generate"]["beams_without_a_title"] == 0


def test_random_weights_of_a_published_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bases.SHAPES, "tiny", TINY_SHAPE)
    named = ["--model-shape", "tiny", "--dtype", "float32", "--prefix", "20", "--requests", "2", "--candidates", "4"]
    sizes = ["--title-tokens", "5", "--repeats", "1", "--seconds", "0.1", "--only", "speed,parity", "--no-engines"]
    found = scoring.main([*named, *sizes])
    assert found["base"]["weights"] == "random"
    assert found["work"]["workload"].startswith("random token ids")
    assert found["work"]["logical"] == 2 * 4 * 25
    assert found["parity"]["packed_float32"]["max"] < 1e-4
    assert found["parity"]["soft"] == "left out: random weights have no adapter"


@pytest.mark.parametrize(("shape", "billions"), [("qwen3-0.6b", 0.44), ("qwen3-1.7b", 1.4), ("qwen3-8b", 6.95)])
def test_shapes_have_the_published_sizes(shape: str, billions: float) -> None:
    """The model cards name the parameters without embeddings."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(Qwen3Config(**bases.SHAPES[shape]))
    apart = {id(lm.get_input_embeddings().weight), id(lm.get_output_embeddings().weight)}
    assert sum(p.numel() for p in lm.parameters() if id(p) not in apart) / 1e9 == pytest.approx(billions, abs=0.02)


def test_every_way_gives_the_same_scores(tiny_base: Path) -> None:
    options = scoring.arguments(["--base", f"path:{tiny_base}", "--dtype", "float32"])
    base = bases.load(options)
    work = workload.random_workload(300, 2, 30, 7, seed=4)
    one = baselines.naive(base.lm, work.jobs)
    others = {
        "packed": parity.packed(base.model, work.jobs),
        "in concat": parity.one_at_a_time(base.model, work.jobs),
        "padded batch": baselines.padded_batch(base.lm, work.jobs, 3),
        "padded prefix": baselines.padded_prefix(base.lm, work.jobs),
    }
    for name, scores in others.items():
        assert parity.apart(scores, one)["max"] < 1e-5, name
    assert parity.apart(one, one)["tokens"] == work.counts()["targets"]
    # the twins hold one set of tensors
    assert base.lm.model.layers[0].mlp.up_proj.weight.data_ptr() in {p.data_ptr() for p in base.model.lm.parameters()}


def test_an_engine_that_does_not_start_costs_its_row_alone(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases.load(scoring.arguments(["--base", f"path:{tiny_base}", "--dtype", "float32"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "llama_cpp" or None)
    monkeypatch.setitem(sys.modules, "llama_cpp", types.ModuleType("llama_cpp"))
    found, said = engines.find(base, workload.random_workload(300, 1, 5, 2, seed=1))
    assert found == {}
    assert said["llama_cpp"] == (
        "installed, but it did not start: ValueError: llama.cpp reads GGUF, and this base is none"
    )
    assert said["vllm"] == "not installed (vllm)"


def test_counts_are_those_of_the_packs() -> None:
    rng = np.random.default_rng(0)
    branches = [Branch(str(n), rng.integers(0, 3, size=rng.integers(1, 5))) for n in range(20)]
    work = workload.Workload([Job(Prompt(rng.integers(0, 9, size=11)), "tokens", tuple(branches))], "toy")
    [packed] = pack(work.jobs, 4096)
    assert work.counts()["distinct"] == len(packed.pack)
    assert work.counts()["logical"] == sum(11 + len(b) for b in branches)


def test_cut_takes_the_oldest_history() -> None:
    prompt = Prompt(
        np.arange(12), (Slot(4, 1, "image", "a"), Slot(8, 1, "image", "b")), ("a", "b"), (5, 9), start=2, dropped=1
    )
    shorter = workload.cut(prompt, 9)
    assert shorter.token_ids.tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11]
    assert shorter.slots == (Slot(5, 1, "image", "b"),)
    assert (shorter.history, shorter.item_ends, shorter.dropped) == (("b",), (6,), 2)
    with pytest.raises(RequestError, match="expected a prompt with 4 tokens or more and history to cut"):
        workload.cut(prompt, 4)
    with pytest.raises(RequestError, match="slots of one token"):
        workload.cut(Prompt(np.arange(6), (Slot(3, 2, "image", "a"),), ("a",), (4,), 1), 4)


def test_samples_are_spread_over_the_requests() -> None:
    jobs = workload.random_workload(50, 10, 5, 8, seed=1).jobs
    assert [len(j.branches) for j in baselines.thin(jobs, 20)] == [2] * 10
    assert [len(j.branches) for j in baselines.thin(jobs, 4)] == [1] * 4
    assert baselines.thin(jobs, 1000) == jobs
    assert baselines.whole(jobs, 5) == jobs[::2]


def test_synthetic_titles_end_where_they_should() -> None:
    tokens, bounds = workload.synthetic_titles(100, 500, seed=2, words=[[1], [2, 3], [4, 5, 6]], end=99)
    titles = [tokens[a:b].tolist() for a, b in pairwise(bounds)]
    assert all(t[-1] == 99 and 99 not in t[:-1] for t in titles)
    assert {len(t) for t in titles} <= set(range(2, 20))
    assert all(t[n + 1] == 3 for t in titles for n, token in enumerate(t) if token == 2)


def test_the_clock_counts_mask_work_once_and_goes_away() -> None:
    trie = Trie.build([np.array([1, 2]), np.array([1, 3])])
    legal, restrict = View.legal, Trie.restrict
    with masks.Clock(torch.device("cpu")) as clock:
        view = trie.restrict(np.array([True, False]))
        view.legal(np.array([0]))
    assert 0 < clock.steps <= clock.decode
    assert clock.filters > 0
    assert (View.legal, Trie.restrict) == (legal, restrict)


@pytest.mark.parametrize(
    ("name", "sizes", "group"),
    [
        ("aten::mm", {300, 64}, "linear"),
        ("aten::mm", {49152, 64}, "head"),
        ("aten::logsumexp", {512, 49152}, "head"),
        ("aten::embedding", {49152, 64}, "elementwise"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", {9}, "attention"),
        ("aten::copy_", {9}, "copies"),
        ("aten::silu", {9}, "elementwise"),
    ],
)
def test_operators_are_sorted_into_groups(name: str, sizes: set[int], group: str) -> None:
    assert profiling.kind(name, sizes, 49152) == group


def test_mistakes_in_the_flags_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--requests: expected 1 or more, got 0"):
        scoring.main(["--requests", "0"])
    with pytest.raises(SystemExit):
        scoring.main(["--only", "speeed"])
    assert "expected sections out of speed, parity, latency, memory, got speeed" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch sees none; run with --device cpu"):
            generate.main(["--device", "cuda"])


def test_too_long_prompts_are_said(flags: list[str]) -> None:
    long: list[Any] = [*flags, "--prefix", "5000", "--candidates", "5"]
    with pytest.raises(RequestError, match="expected 3 prompts of 5000 tokens, the data set's histories give 0"):
        scoring.main(long)
