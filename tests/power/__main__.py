"""`make power-loss`: everything recorded, replayed in full, and written to benchmarks/results/power_loss.json."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.power import record, trace
from tests.power.replay import Check, Recording, replay
from tests.tiny import make_tiny_model

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "power_loss.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.power", description=__doc__)
    parser.add_argument(
        "--drawn", type=int, default=8, help="random cuts at each instant, beside the four fixed ones"
    )
    parser.add_argument("--every", type=int, default=1, help="cut at every so manieth instant only")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    why = trace.available()
    if why is not None:
        print(why, file=sys.stderr)
        return 2
    memory = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(prefix="honed-power-", dir=memory if memory.is_dir() else None))
    try:
        rows = measure(work, drawn=chosen.drawn, every=chosen.every)
    finally:
        shutil.rmtree(work)
    chosen.output.write_text(json.dumps(rows, indent=2) + "\n")
    bad = sum(row["bad"] for row in rows["recordings"].values())
    print(f"{rows['instants']} instants, {rows['images']} disks, {bad} with violations")
    return 1 if bad else 0


def measure(work: Path, *, drawn: int, every: int) -> dict[str, Any]:
    rows: dict[str, Any] = {}

    def take(name: str, recording: Recording, check: Check) -> None:
        began = time.monotonic()
        found = replay(recording, check, work / "images", drawn=drawn, every=every)
        rows[name] = {**found.row(), "seconds": round(time.monotonic() - began, 1)}
        print(
            f"{name}: {found.instants} instants, {found.images} disks, {found.bad} with violations",
            flush=True,
        )
        for line in found.violations:
            print(f"  {line}", flush=True)

    take("store alone", *record.store_alone(work / "alone"))
    for after in ("on", "die"):
        take(f"a failed sync, then {after}", *record.refused_once(work / after, after=after))
    take("service", *record.service(work / "service", make_tiny_model(work / "model")))
    state = work / "service" / "root" / record.STATE
    take("backup", *record.backed_up(work / "backup", state))
    take("restore", *record.put_back(work / "restore", work / "backup" / "root" / "backups" / "monday"))
    return {
        "drawn": drawn,
        "every": every,
        "instants": sum(row["instants"] for row in rows.values()),
        "images": sum(row["images"] for row in rows.values()),
        "recordings": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
