"""The configuration: shipped file, overrides, and errors that name key, value and what is allowed."""

import subprocess
import sys
from pathlib import Path

import pytest

from daemon.config import Config, environment_overrides, load
from store.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_shipped_file_loads_and_changes_no_default() -> None:
    assert load(ROOT / "config.toml", {}) == Config()


def test_the_environment_outranks_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[daemon.schedule]\nmin_feedback = 7\n[api]\nport = 9001\n")
    config = load(file, {"HONED_DAEMON__SCHEDULE__MIN_FEEDBACK": "9", "HONED_STORE__DIRECTORY": "/srv/honed"})
    assert config.daemon.schedule.min_feedback == 9
    assert config.api.port == 9001
    assert config.store.directory == Path("/srv/honed")


def test_values_in_the_environment_are_read_as_toml_or_as_text() -> None:
    found = environment_overrides(
        {"HONED_A__B": "[1, 2]", "HONED_A__C": "plain words", "HONED_URL": "http://x", "X": "1"}
    )
    assert found == {"a": {"b": [1, 2], "c": "plain words"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[daemon.gate]\nkl_step_sofd = 1", ["daemon.gate.kl_step_sofd", "unknown key"]),
        ("[api]\nport = 70000", ["api.port", "70000", "65535"]),
        ("[daemon.schedule]\ncron = 'every day'", ["daemon.schedule.cron", "every day"]),
        ("[daemon.schedule]\ncron = '0 0 30 2 *'", ["daemon.schedule.cron", "never comes"]),
        ("[daemon.gate]\nkl_step_soft = 0.5", ["daemon.gate", "kl_step_soft 0.5 is above kl_step_hard 0.3"]),
        (
            "[daemon.gate]\ncapability_soft = -0.5",
            ["daemon.gate", "capability_soft -0.5 is below capability_hard -0.1"],
        ),
        ("[daemon.gate]\nlength_ratio_soft = [2.0, 0.5]", ["daemon.gate", "rising pair"]),
        ("[daemon.gate]\nkl_base_hard = inf", ["daemon.gate.kl_base_hard", "finite"]),
        ("[daemon.schedule]\nquiet_hours = ['8-9']", ["daemon.schedule.quiet_hours", "HH:MM-HH:MM"]),
        ("[daemon.gate]\nscales = [0.5, 1.0]", ["daemon.gate.scales", "begin with 1.0"]),
        ("[daemon.gate]\non_inconclusive = 'shrug'", ["daemon.gate.on_inconclusive", "shrug", "hold"]),
        ("[policies.train]\nlearning_rate = -1", ["policies.train.learning_rate", "-1", "greater than 0"]),
        ("[policies.engine]\nkind = 'magic'", ["policies.engine.kind", "magic", "hf"]),
        ("[nonsense]\na = 1", ["nonsense", "unknown key"]),
        ("this is not toml", ["not valid TOML"]),
    ],
)
def test_a_bad_file_names_key_value_and_what_is_allowed(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("urls", ['["http://ann:s3cret@host:8001"]', '"http://ann:s3cret@host:8001"'])
def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path: Path, urls: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[policies.engine]\nurls = {urls}\n")
    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert "policies.engine.urls" in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.toml"):
        load(tmp_path / "nowhere.toml", {})


def test_every_field_has_a_description() -> None:
    def bare(model: type, path: str) -> list[str]:
        missing = []
        for name, field in model.model_fields.items():
            if not field.description:
                missing.append(f"{path}{name}")
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                missing += bare(field.annotation, f"{path}{name}.")
        return missing

    assert bare(Config, "") == []


def test_reading_the_configuration_loads_no_tensor_library() -> None:
    code = "import sys, daemon.config; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
