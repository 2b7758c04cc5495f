"""`make audit`: what Palate depends on, and what is known of it; says what could be checked and what could not.

    lock          requirements.lock has the pins of constraints.txt, each with hashes
    installed     what is installed is what is pinned
    files         every installed file still has the hash its package recorded
    licences      of every dependency, written to docs/licences.md with --write; unknown ones are named
    SBOM          runs/audit/sbom.json, CycloneDX
    advisories    known vulnerabilities, by pip-audit; needs an index that hands out advisories

Exit code 0: all checked, nothing found; 1: something found; 3: nothing found, but not everything could be checked.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tools import ROOT, canonical, pins, say, tool

OUT = ROOT / "runs" / "audit"
LICENCES = ROOT / "docs" / "licences.md"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")
COPYLEFT = re.compile(r"\b[AL]?GPL|General Public Licen|\bMPL|Mozilla Public", re.IGNORECASE)
"""Strong and weak alike: a person has to look at them."""
PLAIN = {"palate", "pip", "setuptools", "wheel"}
"""Not dependencies: the project itself, and what every environment is made with."""
FOUND, UNCHECKED = 1, 3


@dataclass(frozen=True)
class Verdict:
    """What a check found. bad: what is wrong; unchecked: what nobody looked at, and why."""

    text: str
    bad: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def installed() -> dict[str, metadata.Distribution]:
    """Canonical name -> distribution of this environment, without PLAIN."""
    found = {canonical(d.name): d for d in metadata.distributions()}
    return {n: d for n, d in sorted(found.items()) if n not in PLAIN}


def lock() -> Verdict:
    """requirements.lock against constraints.txt."""
    from lock import LOCK, UNHASHED

    wanted = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    text = LOCK.read_text(encoding="utf-8")
    locked = pins(text)
    bad = [
        f"{n}: {wanted.get(n, 'nothing')} in constraints.txt, {locked.get(n, 'nothing')} in requirements.lock"
        for n in sorted(set(wanted) | set(locked))
        if wanted.get(n) != locked.get(n) and n not in UNHASHED
    ]
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)
    bad += [
        f"{b.split('==')[0]}: no hash" for b in blocks if "==" in b and not b.startswith("#") and not HASH.search(b)
    ]
    why = tuple(f"{n} has no hash: its build depends on the machine" for n in sorted(UNHASHED))
    return Verdict(f"{len(locked)} packages, {len(HASH.findall(text))} hashes", tuple(bad), why)


def same() -> Verdict:
    """What is installed against constraints.txt; a local part of a version (2.13.0+cpu) does not count."""
    wanted, found = pins((ROOT / "constraints.txt").read_text(encoding="utf-8")), installed()
    bad = [
        f"{n}: {d.version} is installed, {wanted[n]} is pinned"
        for n, d in found.items()
        if n in wanted and d.version.split("+")[0] != wanted[n]
    ]
    bad += [f"{n}: {d.version} is installed and pinned nowhere" for n, d in found.items() if n not in wanted]
    return Verdict(f"{len(found)} installed packages", tuple(bad))


def files() -> Verdict:
    """Every installed file against the sha256 in its package's RECORD."""
    bad, seen, unchecked = [], 0, []
    for name, dist in installed().items():
        listed = [f for f in dist.files or () if f.hash is not None and f.hash.mode == "sha256"]
        if not listed:
            unchecked.append(f"{name} has no record of its files")
        for file in listed:
            path, recorded = Path(str(dist.locate_file(file))), file.hash
            seen += 1
            if recorded is None or not path.is_file():
                bad.append(f"{name}: {file} is missing")
            elif _sha256(path) != recorded.value:
                bad.append(f"{name}: {file} was changed after it was installed")
    return Verdict(f"{seen:,} files", tuple(bad), tuple(unchecked))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return base64.urlsafe_b64encode(hashlib.file_digest(file, "sha256").digest()).rstrip(b"=").decode()


def licence(dist: metadata.Distribution) -> str:
    """A package's licence by its own metadata: the SPDX expression, else classifiers, else a short License field."""
    told = dist.metadata
    if told.get("License-Expression"):
        return str(told["License-Expression"])
    kinds = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier", []) if c.startswith("License ::")]
    kinds = [k for k in kinds if k != "OSI Approved"]
    if kinds:
        return ", ".join(kinds)
    text = " ".join(str(told.get("License") or "").split())
    return text if 0 < len(text) <= 60 else _first_line(dist) or "unknown"


def _first_line(dist: metadata.Distribution) -> str:
    """The title of the licence file that a package ships, if it is a short line that says so."""
    for file in dist.files or ():
        if re.match(r"(licen[cs]e|copying)", file.name, re.IGNORECASE):
            path = Path(str(dist.locate_file(file)))
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
            first = next((" ".join(line.split()) for line in lines if line.strip()), "")
            if re.search(r"licen[cs]e", first, re.IGNORECASE) and len(first) <= 60:
                return first
    return ""


def runtime() -> set[str]:
    """Canonical names of all that `pip install palate` brings, by the metadata of what is installed."""
    from packaging.requirements import Requirement

    found, todo = set[str](), ["palate"]
    known = {canonical(d.name): d for d in metadata.distributions()}
    while todo:
        name = todo.pop()
        if name in found or name not in known:
            continue
        found.add(name)
        needs = [Requirement(r) for r in known[name].requires or ()]
        todo += [canonical(r.name) for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found - PLAIN


def licences() -> Verdict:
    """The licence of every dependency; unknown ones count as unchecked, copyleft ones are named."""
    found = {n: licence(d) for n, d in installed().items()}
    unknown = tuple(f"{n}: its metadata name no licence" for n, text in found.items() if text == "unknown")
    strong = [f"{n} ({text})" for n, text in found.items() if COPYLEFT.search(text)]
    told = f"{len(found)} packages; copyleft: {', '.join(strong) or 'none'}"
    return Verdict(told, (), unknown)


def licence_page() -> str:
    """docs/licences.md: name, licence and what needs it, of every installed dependency."""
    needed = runtime()
    rows = [
        f"| {n} | {licence(d).replace('|', '/')} | {'run' if n in needed else 'develop'} |"
        for n, d in installed().items()
    ]
    head = (
        "# Licences of what Palate depends on\n\nBy the packages' own metadata, as installed by `make check`. Written "
        "by `python scripts/audit.py --write`.\n*run*: `pip install palate` brings it; *develop*: extras do.\n\n"
        "| package | licence | to |\n|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n"


def sbom() -> Verdict:
    """The bill of materials of this environment, as CycloneDX JSON."""
    out = OUT / "sbom.json"
    command = [
        tool("cyclonedx-py"),
        "environment",
        "--output-reproducible",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
    ]
    done = _run([*command, "-o", str(out), sys.executable])
    if done.returncode:
        return Verdict("not written", (done.stderr.strip()[-300:],))
    held = len(json.loads(out.read_text(encoding="utf-8"))["components"])
    missing = len(installed()) - held
    return Verdict(
        f"{out.relative_to(ROOT)}, {held} components", (f"{missing} packages are not in it",) * (missing > 0)
    )


def advisories() -> Verdict:
    """Known vulnerabilities. A run that could look up nothing, which pip-audit calls clean, is not checked here."""
    out = OUT / "advisories.json"
    out.unlink(missing_ok=True)
    command = [tool("pip-audit"), "--path", _site_packages(), "--skip-editable", "--progress-spinner", "off"]
    done = _run([*command, "--timeout", "20", "-f", "json", "-o", str(out)])
    try:
        rows = json.loads(out.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError, KeyError):
        last = " ".join(done.stderr.split())[-200:]
        return Verdict(
            "nothing could be looked up", (), (f"all packages: pip-audit ended with {done.returncode}: {last}",)
        )
    return judged(rows)


def judged(rows: list[dict[str, object]]) -> Verdict:
    """pip-audit's rows as a verdict."""
    bad, unchecked, looked_up = [], [], 0
    for row in rows:
        name = str(row["name"])
        if "skip_reason" in row:
            if canonical(name) not in PLAIN:
                unchecked.append(f"{name}: {row['skip_reason']}")
            continue
        looked_up += 1
        found = row.get("vulns")
        for one in found if isinstance(found, list) else []:
            fixed = ", ".join(one.get("fix_versions") or ()) or "no version"
            bad.append(f"{name} {row.get('version')}: {one.get('id')}, mended in {fixed}")
    return Verdict(f"{looked_up} of {len(rows)} packages looked up", tuple(bad), tuple(unchecked))


def _site_packages() -> str:
    import sysconfig

    return sysconfig.get_paths()["purelib"]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (no input of others)


CHECKS: dict[str, Callable[[], Verdict]] = {
    "lock": lock, "installed": same, "files": files, "licences": licences, "SBOM": sbom, "advisories": advisories,
}  # fmt: skip


def report(found: dict[str, Verdict], shown: int = 5) -> int:
    """Print the verdicts and return the exit code; the last line says in words what the code means."""
    for name, verdict in found.items():
        word = "FOUND" if verdict.bad else "not all checked" if verdict.unchecked else "ok"
        say(f"{word:15} {name}: {verdict.text}")
        for head, rows in (("", verdict.bad), ("not checked: ", verdict.unchecked)):
            for row in rows[:shown]:
                say(f"{'':15}   {head}{row}")
            if len(rows) > shown:
                say(f"{'':15}   {head}and {len(rows) - shown} more")
    bad = [n for n, v in found.items() if v.bad]
    open_ = [f"{n} ({len(v.unchecked)})" for n, v in found.items() if v.unchecked]
    if bad:
        say(f"audit: something was found: {', '.join(bad)}")
        return FOUND
    if open_:
        say(f"audit: nothing was found, but NOT everything was checked: {', '.join(open_)}")
        return UNCHECKED
    say("audit: everything was checked and nothing was found")
    return 0


def main() -> int:
    """Run the checks asked for; see the module."""
    parser = argparse.ArgumentParser(description="Audit what Palate depends on.")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; all if absent")
    parser.add_argument("--write", action="store_true", help="write docs/licences.md and stop")
    given = parser.parse_args()
    if odd := [c for c in given.checks if c not in CHECKS]:
        parser.error(f"no check is called {odd[0]!r}; choose from {', '.join(CHECKS)}")
    if given.write:
        LICENCES.write_text(licence_page(), encoding="utf-8")
        say(f"{LICENCES.relative_to(ROOT)}: {len(installed())} packages")
        return 0
    OUT.mkdir(parents=True, exist_ok=True)
    return report({name: check() for name, check in CHECKS.items() if not given.checks or name in given.checks})


if __name__ == "__main__":
    sys.exit(main())
