"""What a service does with files, without one: `python -m tests.power.small STATE` opens a store in a folder that is
not there yet, takes votes, seals an iteration's inputs, publishes an adapter and serves it. It prints the id of each
vote once it is stored.
"""

import sys
from pathlib import Path

import torch

from daemon.runtime import adapter_path, run_path
from daemon.state_files import DATABASE, SECRET
from policies import spec
from policies.adapters import Shape, save_adapter
from store.db import Store
from store.records import Adapter, AdapterStatus, Stage
from tests.store.conftest import completion, event

MODULE = "base_model.model.model.layers.2.self_attn.q_proj"


def main(state: Path) -> None:
    from daemon.config import Config
    from daemon.serve import make_directory, receipt_secret

    make_directory(Config.model_validate({"store": {"directory": str(state)}}))
    receipt_secret(state / SECRET)
    with Store.open(state / DATABASE) as store:
        store.completions.begin(completion("c1"))
        vote(store, range(8))
        begun = store.iterations.begin(trigger="test", incumbent=None, config={})
        told = spec.Spec(
            iteration=begun.id,
            version="it0001-0a0b0c0d",
            model="m",
            base_digest="d",
            incumbent=None,
            incumbent_digest=None,
        )
        run = state / run_path(begun.id)
        digest = spec.write_snapshot(run, spec.Snapshot(spec=told, examples=[], heldout=[], probes=[]))
        store.iterations.move(begun.id, Stage.TRAINING, changes={"snapshot_digest": digest})
        train(run)
        vote(store, range(8, 12))
        serve(store, state, begun.id)
        vote(store, range(12, 16))


def vote(store: Store, numbers: range) -> None:
    for number in numbers:
        print(store.feedback.add(event(f"vote-{number:04d}-x", principal=f"p{number}")).id, flush=True)


def train(run: Path) -> None:
    """What the trainer leaves."""
    tensors = {f"{MODULE}.lora_A.weight": torch.ones(2, 5), f"{MODULE}.lora_B.weight": torch.zeros(7, 2)}
    save_adapter(tensors, run / spec.ADAPTER, shape=Shape(2, 4.0, ("q_proj",), (2,)), base="m")


def serve(store: Store, state: Path, number: int) -> None:
    path = adapter_path(number)
    digest = spec.verify_manifest(state / path)
    adapter = Adapter("it0001-0a0b0c0d", None, number, path, digest, AdapterStatus.CANDIDATE, 1.0, 1.0)

    def commit(tx: Store) -> None:
        tx.adapters.add(adapter)
        tx.adapters.activate(adapter.version, actor="gate", reason="test")
        tx.iterations.move(number, Stage.ACTIVE)

    store.atomic(commit)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
