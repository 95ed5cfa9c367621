"""The two sides of the training bench, each in a process of its own: honed's trainer, and TRL's.

Both read one sealed run directory, so model, tokens, LoRA, rate, epochs and batches are the same. Each works in
pieces (the reference, then one optimiser step after the other) and waits for a line on stdin before each, so that the
parent lets them take turns. What it tells is a JSON object a line: after each piece its wall and CPU seconds, at the
end its memory. After each epoch it leaves an adapter, and `judge` tells what all of them are worth.
"""

import argparse
import asyncio
import ctypes
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gate_answers import Setting, ask_all
from benchmarks.training_work import reference_flop, train_flop
from daemon.people import has_list, prompts
from policies.adapters import read_tensors, save_adapter
from policies.anchor import Watch
from policies.balance import class_weights
from policies.batches import Encoder, Item, Pair, Thumb
from policies.chat import load_tokenizer
from policies.config import EngineConfig
from policies.engine import AdapterRef
from policies.engines import build_engine
from policies.heldout import heldout_metrics
from policies.learn import learn
from policies.learner import load_learner
from policies.objective import prepare
from policies.spec import Snapshot, Spec, read_snapshot

ADAPTER = "adapter"
#: Answers to each question that satisfaction is measured on.
DRAWS = 4


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1e3
    raise KeyError(name)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Turns:
    """This side's pieces of work."""

    def begin(self, name: str) -> None:
        """Say that the next piece is ready and wait for its turn."""
        self.say(ready=name)
        if not sys.stdin.readline():
            raise SystemExit("the bench is gone")
        self._name, self._cpu, self._wall = name, cpu_seconds(), time.perf_counter()

    def end(self) -> None:
        wall, cpu = time.perf_counter() - self._wall, cpu_seconds() - self._cpu
        self.say(piece=self._name, wall=wall, cpu=cpu)

    @contextmanager
    def piece(self, name: str) -> Iterator[None]:
        self.begin(name)
        yield
        self.end()

    def say(self, **line: Any) -> None:
        print(json.dumps(line), flush=True)

    def loaded(self) -> None:
        """Tell the memory of the loaded model and what it was at most, and count the most from here on anew."""
        self.say(loaded_mb=memory("VmRSS"), loading_peak_mb=memory("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")


def honed(turns: Turns, run_dir: Path, snapshot: Snapshot) -> None:
    """The pieces of `policies.train.run` up to the finished adapter."""
    spec = snapshot.spec
    encoder = Encoder(load_tokenizer(Path(spec.model)), spec.max_length)
    items = encoder.items(snapshot.examples)
    learner = load_learner(spec)
    turns.loaded()
    with turns.piece("reference"):
        lesson = prepare(learner, items, spec)
        watch = Watch(learner, [row for item in items for row in item.rows])

    def on_step(done: int, total: int, _: dict[str, float]) -> None:
        turns.end()
        epoch, rest = divmod(done * spec.optim.epochs, total)
        if rest == 0:
            keep = run_dir / "honed" / f"{ADAPTER}-{epoch}"
            save_adapter(learner.tensors(), keep, shape=learner.shape, base=spec.model)
        if done < total:
            turns.begin("train")

    turns.begin("train")
    outcome = learn(learner, lesson, spec, watch=watch, on_step=on_step)
    config = learner.causal.config
    turns.say(
        finished=outcome.steps,
        peak_mb=memory("VmHWM"),
        train_gflop=train_flop(lesson, spec, config, steps=outcome.steps) / 1e9,
        reference_gflop=reference_flop(lesson, config, blocks=config.num_hidden_layers) / 1e9,
    )


def columns(items: Sequence[Item], batch: int) -> dict[str, list[Any]]:
    """What TRL's trainers make of a data set before they train: the same token ids as honed's.

    KTO's mismatched answers are rotated by one inside each batch, as `KTOTrainer._prepare_dataset` does.
    """
    if isinstance(items[0], Pair):
        pairs = [item for item in items if isinstance(item, Pair)]
        return {
            "prompt_ids": [list(pair.chosen.prompt) for pair in pairs],
            "chosen_ids": [list(pair.chosen.answer) for pair in pairs],
            "rejected_ids": [list(pair.rejected.answer) for pair in pairs],
        }
    votes = [item for item in items if isinstance(item, Thumb)]
    spoken = [list(thumb.row.answer) for thumb in votes]
    rotated: list[list[int]] = []
    for at in range(0, len(spoken), batch):
        part = spoken[at : at + batch]
        rotated += [part[-1], *part[:-1]]
    return {
        "prompt_ids": [list(thumb.row.prompt) for thumb in votes],
        "completion_ids": spoken,
        "KL_completion_ids": rotated,
        "label": [thumb.label for thumb in votes],
    }


def trl_arguments(spec: Spec, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """TRL's arguments for the same optimisation, and over them `settings`."""
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "num_train_epochs": spec.optim.epochs,
        "per_device_train_batch_size": spec.optim.batch_size,
        "learning_rate": spec.optim.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": spec.optim.warmup,
        "max_grad_norm": spec.optim.max_grad_norm,
        "weight_decay": 0.0,
        "beta": spec.loss.beta,
        "max_length": spec.max_length,
        "seed": spec.seed,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_strategy": "no",
        "precompute_ref_log_probs": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    return {**arguments, **settings}


def trl_model(spec: Spec, layers: int) -> Any:
    """The base with a LoRA of the run's rank on its top layers (0: all), as PEFT makes it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(spec.model, dtype=torch.float32)
    torch.manual_seed(spec.seed)
    depth = causal.config.num_hidden_layers
    names = {
        name.rsplit(".", 1)[-1] for name, part in causal.model.named_modules() if type(part) is nn.Linear
    }
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,
        lora_dropout=0.0,
        target_modules=sorted(names),
        layers_to_transform=list(range(depth - (layers or depth), depth)),
        layers_pattern="layers",
    )
    return get_peft_model(causal, config)


def trl_trainer(turns: Turns, kind: str) -> Any:
    """TRL's trainer of that kind, which waits for its turn before the reference."""
    import trl as library

    class Trainer(getattr(library, f"{kind}Trainer")):  # type: ignore[misc]  # a class without types
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # tokens already

        def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
            with turns.piece("reference"):
                return super()._precompute_ref_logps(*args, **kwargs)

    return Trainer


def trl(turns: Turns, keep: Path, snapshot: Snapshot, settings: dict[str, Any], layers: int) -> None:
    """TRL's trainer for the same run, as its documentation has one use it. `layers`: as in `trl_model`."""
    import datasets
    import trl as library
    from transformers import AutoTokenizer, TrainerCallback

    class Steps(TrainerCallback):  # type: ignore[misc]  # transformers gives it no types
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            turns.begin("train")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.end()

        def on_epoch_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            model.save_pretrained(keep / f"{ADAPTER}-{round(state.epoch)}")

    spec = snapshot.spec
    items = Encoder(load_tokenizer(Path(spec.model)), spec.max_length).items(snapshot.examples)
    kind = "KTO" if isinstance(items[0], Thumb) else "DPO"
    arguments = trl_arguments(spec, keep, settings)
    if kind == "KTO":
        ups = sum(item.label for item in items if isinstance(item, Thumb))
        weights = class_weights(
            ups, len(items) - ups, ratio=spec.loss.kto_ratio, cap=spec.loss.kto_weight_cap
        )
        arguments |= {"desirable_weight": weights[0], "undesirable_weight": weights[1]}
    model = trl_model(spec, layers)
    turns.loaded()
    trainer = trl_trainer(turns, kind)(
        model=model,
        args=getattr(library, f"{kind}Config")(**arguments),
        train_dataset=datasets.Dataset.from_dict(columns(items, arguments["per_device_train_batch_size"])),
        processing_class=AutoTokenizer.from_pretrained(spec.model),
        callbacks=[Steps()],
    )
    trainer.train()
    turns.say(finished=trainer.state.global_step, peak_mb=memory("VmHWM"))


def judge(turns: Turns, run_dir: Path, snapshot: Snapshot) -> None:
    """Tell of each side's adapters, measured by the same code, on questions that nobody trained on: the AUC of the
    change of votes' log-probability with its 90% interval, the distance from base on some of base's answers (`Watch`,
    nats per token), and the share of new answers that people would like.
    """
    spec = snapshot.spec
    # TRL's may be on more layers than honed's.
    everywhere = spec.lora.model_copy(update={"top_layers": None})
    learner = load_learner(spec.model_copy(update={"lora": everywhere}))
    encoder = Encoder(load_tokenizer(Path(spec.model)), spec.max_length)
    votes = [vote for vote in map(encoder.thumb, snapshot.heldout) if vote.row.answer]
    rows = [vote.row for vote in votes]
    base = learner.sums(rows, view="base")
    found: dict[str, dict[str, Any]] = {"base-0": {"side": "base", "epoch": 0}}
    refs: dict[str, AdapterRef | None] = {"base-0": None}
    watch = Watch(learner, rows)
    kept_by = {
        (path.parent.name, int(path.name.rpartition("-")[2])): path for path in run_dir.glob(f"*/{ADAPTER}-*")
    }
    for (side, epoch), kept in sorted(kept_by.items()):
        name = f"{side}-{epoch}"
        learner.read(filled(read_tensors(kept), learner.tensors()))
        change = (learner.sums(rows) - base).tolist()
        told = heldout_metrics([(vote.label, value) for vote, value in zip(votes, change, strict=True)])
        found[name] = {"side": side, "epoch": epoch, **told, "mean_change": statistics.fmean(change)}
        found[name]["kl"] = watch.measure().base
        ready = run_dir / "judged" / name
        digest = save_adapter(learner.tensors(), ready, shape=learner.shape, base=spec.model)
        refs[name] = AdapterRef(name, ready, digest)
    del learner
    shares = asyncio.run(satisfied(spec, refs))
    for name, line in found.items():
        turns.say(**line, satisfied=shares[name], answers=DRAWS * len(prompts().never_asked))


def filled(tensors: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter on all layers, doing nothing on those it was not on."""
    return {name: tensors.get(name, torch.zeros_like(tensor)) for name, tensor in shapes.items()}


async def satisfied(spec: Spec, refs: Mapping[str, AdapterRef | None]) -> dict[str, float]:
    """Of each adapter (None: base) the share of answers with a list, `DRAWS` to each question."""
    engine = build_engine(EngineConfig(), Path(spec.model), spec.base_digest)
    await engine.start()
    shares = {}
    for name, ref in refs.items():
        version = None if ref is None else ref.version
        if ref is not None:
            await engine.load(ref)
        setting = Setting(samples=DRAWS)
        drawn = await ask_all(engine, prompts().never_asked, setting, adapter=version, seed=spec.seed)
        shares[name] = statistics.fmean(has_list(answer.text) for answer in drawn)
        if version is not None:
            await engine.unload(version)
    await engine.close()
    return shares


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["honed", "trl", "judge"])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--name", help="what its adapters are kept under; by default the side")
    parser.add_argument("--settings", type=json.loads, default={}, help="further arguments of TRL's trainer")
    parser.add_argument("--layers", type=int, default=0, help="blocks from the top that TRL adapts; 0 is all")
    arguments = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # TRL and what it loads warn of their own affairs
    ctypes.CDLL(None).prctl(1, 15)  # die with the bench
    snapshot = read_snapshot(arguments.run_dir)
    if snapshot.spec.threads is not None:
        torch.set_num_threads(snapshot.spec.threads)
    turns = Turns()
    if arguments.side == "trl":
        keep = arguments.run_dir / (arguments.name or "trl")
        trl(turns, keep, snapshot, arguments.settings, arguments.layers)
    elif arguments.side == "honed":
        honed(turns, arguments.run_dir, snapshot)
    else:
        judge(turns, arguments.run_dir, snapshot)


if __name__ == "__main__":
    main()
