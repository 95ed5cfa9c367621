"""Votes on a disk that refuses to sync once: `python -m tests.power.failing STATE RUN (on|die)`.

It prints the ids of those that were stored, and either goes on after the refusal or is killed by it.
"""

import os
import signal
import sys
from pathlib import Path

from daemon.state_files import DATABASE
from store.db import Store
from store.errors import HonedError
from tests.store.conftest import completion, event

VOTES = {"a": 30, "b": 12}


def main(state: Path, run: str, after: str) -> None:
    store = Store.open(state / DATABASE)
    if store.completions.find("c1") is None:
        store.completions.begin(completion("c1"))
    for number in range(VOTES[run]):
        name = f"vote-{run}-{number:04d}-x"
        try:
            print(store.feedback.add(event(name, principal=f"p{run}{number}")).id, flush=True)
        except HonedError as error:
            print(f"{name[:-2]}: {error}", file=sys.stderr, flush=True)
            if after == "die":
                os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
