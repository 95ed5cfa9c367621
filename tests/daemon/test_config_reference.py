"""Shipped configuration and its reference are what the models say."""

import tomllib
from pathlib import Path

from daemon.config import Config
from daemon.config_reference import config_toml, sections, settings, with_settings

ROOT = Path(__file__).parents[2]


def test_config_toml_is_current() -> None:
    """If this fails: python -m daemon.config_reference"""
    assert (ROOT / "config.toml").read_text(encoding="utf-8") == config_toml()


def test_the_reference_page_is_current() -> None:
    """If this fails: python -m daemon.config_reference"""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == with_settings(page)


def test_every_setting_is_in_both() -> None:
    table, page = config_toml(), (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for path, model in sections(Config):
        for name, _ in settings(model):
            assert f"{name} = " in table, f"{path}.{name}"
            assert f"| `{name}` |" in page, f"{path}.{name}"


def test_the_shipped_file_is_toml_that_the_models_accept() -> None:
    assert Config.model_validate(tomllib.loads(config_toml())) == Config()
