"""`palate doctor`: is this machine ready? Versions, devices, cache, prompts and a tiny computation."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from palate import sources

NEEDED = ("torch", "transformers", "peft", "accelerate", "safetensors", "datasets", "pyarrow", "numpy")
OPTIONAL = {
    "bitsandbytes": "nf4 and int8",
    "sentence-transformers": "text encoders",
    "timm": "picture encoders",
    "gguf": "bases in GGUF, the default one too",
    "cornac": "baselines to compare with",
    "faiss-cpu": "approximate index of large catalogues",
    "opacus": "private training",
    "ray": "scoring on many machines",
    "psycopg": "PostgreSQL as the store",
    "vllm": "serving an exported adapter",
}
"""Package -> what it is for."""


def versions() -> dict[str, str | None]:
    """Installed version per package; None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("palate", *NEEDED, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def devices() -> list[dict[str, Any]]:
    """Every device torch can use: name, memory in bytes (None unknown), whether bf16 is native."""
    import torch

    from palate.model.hardware import cpu_bf16, native

    found: list[dict[str, Any]] = []
    for n in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(n)
        found.append(
            {
                "device": f"cuda:{n}",
                "name": properties.name,
                "memory": properties.total_memory,
                "bf16": native("bfloat16", torch.device("cuda", n)),
            }
        )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU", "memory": None, "bf16": True})
    capability = torch.backends.cpu.get_cpu_capability()
    name = f"{platform.machine()}, {torch.get_num_threads()} threads, {capability}"
    return [*found, {"device": "cpu", "name": name, "memory": _memory(), "bf16": cpu_bf16()}]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def compute(device: str, dtype: str) -> float:
    """Largest relative error of a small product and softmax on `device` against float64 on the CPU."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 128, generator=generator, dtype=torch.float64)
    b = torch.randn(128, 32, generator=generator, dtype=torch.float64)
    exact = torch.softmax(a @ b / 128**0.5, -1)
    kind = getattr(torch, dtype)
    got = torch.softmax(a.to(device, kind) @ b.to(device, kind) / 128**0.5, -1).double().cpu()
    return float(((got - exact).abs().amax() / exact.amax()).item())


def prompts_folder() -> Path | None:
    """Where the prompt templates are: inside the installed package, or at the top of the repository."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "prompts", package.parents[1] / "prompts"):
        if folder.is_dir():
            return folder
    return None


def _packages() -> str:
    found = versions()
    missing = [n for n in NEEDED if found[n] is None]
    if missing:
        raise RuntimeError(f"missing: {', '.join(missing)}; run `pip install palate` in this Python")
    return f"{len(NEEDED)} needed packages are installed"


def _arithmetic() -> str:
    parts = []
    for row in devices():
        for dtype, bound in (("float32", 1e-4), ("bfloat16", 5e-2)):
            error = compute(row["device"], dtype)
            if not error <= bound:
                raise RuntimeError(f"{row['device']} in {dtype} is off by {error:.1e}, at most {bound:.0e} expected")
            parts.append(f"{row['device']} {dtype} {error:.0e}")
    return "relative error: " + ", ".join(parts)


def _cache() -> str:
    folder = sources.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".doctor-{os.getpid()}"
    probe.write_bytes(b"palate")
    probe.unlink()
    return f"{folder} can be written"


def _entries() -> str:
    wrong = sources.damaged()
    if wrong:
        told = "; ".join(f"{source}: {what}" for source, what in wrong.items())
        raise RuntimeError(f"{told}; run `palate models fetch SOURCE --verify`, or delete the folder, to fetch it anew")
    return f"{sum(1 for _ in sources.entries())} entries have the hashes they were stored with"


def _disk() -> str:
    folder = sources.cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = {"cache": shutil.disk_usage(folder).free, "here": shutil.disk_usage(Path.cwd()).free}
    return ", ".join(f"{place}: {size / 1e9:,.1f} GB free" for place, size in free.items())


def _folders() -> str:
    from palate.data import Dataset
    from palate.model import bundle

    opened, wrong = [], []
    for mark, read in (("adapters/*/palate.json", bundle.read_meta), ("data/*/dataset.yaml", Dataset.open)):
        for file in sorted(Path().glob(mark)):
            try:
                read(file.parent)
            except Exception as error:
                wrong.append(f"{file.parent}: {error}")
            else:
                opened.append(str(file.parent))
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return f"opened {', '.join(opened)}" if opened else "no adapters/* or data/* in this folder"


def _prompts() -> str:
    folder = prompts_folder()
    count = sum(1 for f in folder.rglob("*") if f.is_file()) if folder else 0
    if folder is None or not count:
        raise RuntimeError("no prompt templates found; install palate again")
    return f"{count} files in {folder}"


def _engine() -> str:
    from palate.apps.selftest import engine

    return "; ".join(engine(row["device"]) for row in devices())


CHECKS: dict[str, Callable[[], str]] = {
    "packages": _packages,
    "arithmetic": _arithmetic,
    "engine": _engine,
    "cache": _cache,
    "cache entries": _entries,
    "disk": _disk,
    "folders": _folders,
    "prompts": _prompts,
}


def examine() -> dict[str, Any]:
    """Everything the command shows, as plain values; `ok` is False where any check failed."""
    checks = {}
    for name, check in CHECKS.items():
        try:
            checks[name] = {"ok": True, "text": check()}
        except Exception as error:
            checks[name] = {"ok": False, "text": f"{type(error).__name__}: {error}"}
    try:
        found = devices()
    except (ImportError, RuntimeError):
        found = []  # the packages or arithmetic check above says why
    return {
        "ok": all(c["ok"] for c in checks.values()),
        "versions": versions(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "devices": found,
        "cache": {
            "folder": str(sources.cache_dir()),
            "size": sum(m.size for _, m in sources.entries()),
            "entries": [m.source for _, m in sources.entries()],
            "cached": [name for name in sources.ALIASES if sources.cached(name) is not None],
        },
        "offline": sources.offline(),
        "checks": checks,
    }


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    typer.echo(report["platform"])
    table = Table("package", "version")
    for name, version in report["versions"].items():
        table.add_row(name, version or f"not installed: {OPTIONAL.get(name, 'needed')}")
    console.print(table)
    table = Table("device", "name", "memory", "bf16")
    for row in report["devices"]:
        memory = f"{row['memory'] / 1e9:,.1f} GB" if row["memory"] else "?"
        table.add_row(row["device"], row["name"], memory, {True: "native", False: "slow", None: "?"}[row["bf16"]])
    console.print(table)
    cache = report["cache"]
    typer.echo(f"cache: {cache['folder']}, {cache['size'] / 1e6:,.1f} MB in {len(cache['entries'])} entries")
    typer.echo(f"cached short names: {', '.join(cache['cached']) or 'none'}")
    if report["offline"]:
        typer.echo("PALATE_OFFLINE is set: nothing will be fetched")
    for name, check in report["checks"].items():
        typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'} {name}: {check['text']}")


def register(app: typer.Typer) -> None:
    """Add `palate doctor` to `app`."""

    @app.command("doctor")
    def doctor(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    ) -> None:
        """Check this machine: versions, devices, disk, cache, and the engine against plain forwards.

        Every cached file is hashed, adapters/* and data/* of this folder are opened. Exit code 1 if a check fails.

        Example: palate doctor --json
        """
        report = examine()
        if as_json:
            typer.echo(json.dumps(report, indent=2))
        else:
            _show(report)
        if not report["ok"]:
            raise typer.Exit(1)
