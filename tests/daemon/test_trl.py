"""TRL itself reads what `honed export` writes, unchanged, and trains on it."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.export import KTO, PREFERENCES, export
from judge.config import FeedbackConfig
from store.db import Store
from store.records import Choice, FeedbackKind, Message
from tests.store.conftest import completion, event

pytestmark = pytest.mark.slow


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Four votes and two edits, a system prompt and several turns among the prompts."""
    with Store.memory() as store:
        for number in range(4):
            talk = (Message("system", "Be brief."), Message("user", f"Is {number} even?\u2028"))
            if number % 2:
                talk = (*talk, Message("assistant", "No."), Message("user", "Sure?"))
            store.completions.begin(
                completion(
                    f"c{number}", messages=talk, choices=(Choice(0, f"It is {number} \U0001f600", "stop", 2),)
                )
            )
            store.feedback.add(event(f"v{number}", f"c{number}", number < 2))
            if number < 2:
                store.feedback.add(event(f"e{number}", f"c{number}", "Yes and no.", kind=FeedbackKind.EDIT))
        assert export(store, FeedbackConfig(), tmp_path / "out") == {KTO: 4, PREFERENCES: 2}
    return tmp_path / "out"


@pytest.fixture
def quiet() -> Iterator[None]:
    """TRL and what it loads warn of their own affairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def one_step(kind: str, file: Path, model: Path, output: Path) -> dict[str, Any]:
    """Train one step as TRL's own examples do; what the step reported."""
    import datasets
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(output / "cache"))
    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(output / "run"),
        max_steps=1,
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        learning_rate=1e-3,
    )
    trained = AutoModelForCausalLM.from_pretrained(model)
    before = {name: value.detach().clone() for name, value in trained.named_parameters()}
    trainer = getattr(trl, f"{kind}Trainer")(
        model=trained,
        args=arguments,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    assert trainer.state.global_step == 1
    assert any(not value.equal(before[name]) for name, value in trained.named_parameters())
    return next(entry for entry in trainer.state.log_history if "loss" in entry)


@pytest.mark.parametrize(("kind", "name"), [("KTO", KTO), ("DPO", PREFERENCES)])
def test_trl_takes_a_step_on_the_exported_file(
    kind: str, name: str, files: Path, tiny_model: Path, tmp_path: Path, quiet: None
) -> None:
    reported = one_step(kind, files / name, tiny_model, tmp_path)
    assert math.isfinite(reported["loss"]) and reported["loss"] > 0
    assert reported["grad_norm"] > 0
