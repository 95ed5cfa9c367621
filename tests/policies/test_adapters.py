import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from policies.adapters import CONFIG, FORBIDDEN, WEIGHTS, Shape, read_tensors, save_adapter, verify_adapter
from policies.spec import write_manifest
from store.errors import AdapterInvalid

MODULE = "model.layers.2.self_attn.q_proj"
SHAPE = Shape(rank=2, alpha=3.0, modules=("q_proj",), layers=(2,))


def tensors() -> dict[str, torch.Tensor]:
    key = f"base_model.model.{MODULE}"
    return {f"{key}.lora_A.weight": torch.ones(2, 5), f"{key}.lora_B.weight": torch.zeros(7, 2)}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, str]:
    directory = tmp_path / "adapter"
    return directory, save_adapter(tensors(), directory, shape=SHAPE, base="base")


def reseal(directory: Path) -> str:
    """Make the manifest true again, so that only the deeper check can object."""
    return write_manifest(directory, [WEIGHTS, CONFIG])


def test_what_was_saved_verifies_and_reads_back(saved: tuple[Path, str]) -> None:
    directory, digest = saved
    info = verify_adapter(directory, digest)
    assert (info.rank, info.alpha, info.scaling) == (2, 3.0, 1.5)
    assert (info.modules, info.layers, info.digest) == ((MODULE,), (2,), digest)
    torch.testing.assert_close(read_tensors(directory), tensors())


def test_saving_leaves_exactly_three_files_and_no_temporary(saved: tuple[Path, str]) -> None:
    directory, _ = saved
    names = {WEIGHTS, CONFIG, "manifest.json"}
    assert {entry.name for entry in directory.iterdir()} == names
    assert [entry.name for entry in directory.parent.iterdir()] == ["adapter"]


def test_the_same_weights_give_the_same_digest(saved: tuple[Path, str], tmp_path: Path) -> None:
    assert save_adapter(tensors(), tmp_path / "again", shape=SHAPE, base="base") == saved[1]


def test_a_saved_version_is_never_written_over(saved: tuple[Path, str]) -> None:
    with pytest.raises(OSError, match="not empty"):
        save_adapter(tensors(), saved[0], shape=SHAPE, base="base")
    verify_adapter(*saved)


def test_another_digest_is_refused(saved: tuple[Path, str]) -> None:
    with pytest.raises(AdapterInvalid, match="digest"):
        verify_adapter(saved[0], "0" * 64)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "manifest.json"])
def test_a_missing_file_is_refused(saved: tuple[Path, str], name: str) -> None:
    (saved[0] / name).unlink()
    with pytest.raises(AdapterInvalid, match="missing"):
        verify_adapter(*saved)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "manifest.json"])
def test_a_bit_flipped_anywhere_is_refused(saved: tuple[Path, str], name: str) -> None:
    file = saved[0] / name
    whole = file.read_bytes()
    for offset in range(len(whole)):
        data = bytearray(whole)
        data[offset] ^= 1 << offset % 8
        file.write_bytes(data)
        with pytest.raises(AdapterInvalid):
            verify_adapter(*saved)
    file.write_bytes(whole)
    verify_adapter(*saved)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "manifest.json"])
def test_a_file_cut_short_or_longer_is_refused(saved: tuple[Path, str], name: str) -> None:
    file = saved[0] / name
    whole = file.read_bytes()
    for data in (*(whole[:length] for length in range(len(whole))), whole + b"\0", bytes(len(whole))):
        file.write_bytes(data)
        with pytest.raises(AdapterInvalid):
            verify_adapter(*saved)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "README.md", "adapter_model.bin"])
def test_a_file_beyond_the_three_is_refused(saved: tuple[Path, str], name: str) -> None:
    (saved[0] / name).write_bytes(b"\x80\x04.")
    with pytest.raises(AdapterInvalid, match="no place"):
        verify_adapter(*saved)


def test_links_are_refused(saved: tuple[Path, str], tmp_path: Path) -> None:
    directory, digest = saved
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(AdapterInvalid, match="not a directory"):
        verify_adapter(tmp_path / "link", digest)
    (directory / WEIGHTS).rename(tmp_path / "weights")
    (directory / WEIGHTS).symlink_to(tmp_path / "weights")
    with pytest.raises(AdapterInvalid, match="no place"):
        verify_adapter(directory, digest)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterInvalid, match="not a directory"):
        verify_adapter(tmp_path / "none", "0" * 64)


@pytest.mark.parametrize("key", FORBIDDEN)
def test_settings_beyond_plain_lora_are_refused(saved: tuple[Path, str], key: str) -> None:
    config = json.loads((saved[0] / CONFIG).read_text())
    (saved[0] / CONFIG).write_text(json.dumps({**config, key: {"x": 1}}))
    with pytest.raises(AdapterInvalid, match=key):
        verify_adapter(saved[0], reseal(saved[0]))


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"r": 3},
        {"r": 0},
        {"lora_alpha": float("nan")},
        {"lora_alpha": -1},
        {"target_modules": "all-linear"},
        {"target_modules": ["k_proj"]},
    ],
)
def test_a_config_that_does_not_fit_is_refused(saved: tuple[Path, str], change: dict[str, object]) -> None:
    config = json.loads((saved[0] / CONFIG).read_text())
    (saved[0] / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(AdapterInvalid):
        verify_adapter(saved[0], reseal(saved[0]))


A, B = f"base_model.model.{MODULE}.lora_A.weight", f"base_model.model.{MODULE}.lora_B.weight"


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {A: torch.ones(2, 5)},
        {A: torch.ones(3, 5), B: torch.zeros(7, 3)},
        {A: torch.ones(2, 5), B: torch.zeros(7, 2, 1)},
        {A: torch.full((2, 5), float("nan")), B: torch.zeros(7, 2)},
        {A: torch.ones(2, 5), B: torch.full((7, 2), float("inf"))},
        {A: torch.ones(2, 5, dtype=torch.int64), B: torch.zeros(7, 2)},
        {**tensors(), "base_model.model.lm_head.weight": torch.ones(2, 2)},
    ],
    ids=["none", "no B", "rank", "axes", "nan", "inf", "integers", "extra"],
)
def test_weights_that_are_not_a_finite_lora_are_refused(
    saved: tuple[Path, str], weights: dict[str, torch.Tensor]
) -> None:
    save_file(weights, saved[0] / WEIGHTS)
    with pytest.raises(AdapterInvalid):
        verify_adapter(saved[0], reseal(saved[0]))


def test_an_adapted_output_head_is_refused(tmp_path: Path) -> None:
    head = {key.replace(MODULE, "lm_head"): value for key, value in tensors().items()}
    shape = Shape(rank=2, alpha=4.0, modules=("lm_head",), layers=None)
    digest = save_adapter(head, tmp_path / "adapter", shape=shape, base="base")
    with pytest.raises(AdapterInvalid, match="never adapted"):
        verify_adapter(tmp_path / "adapter", digest)


def test_a_pickle_named_like_weights_is_refused_unopened(saved: tuple[Path, str], tmp_path: Path) -> None:
    torch.save(tensors(), saved[0] / WEIGHTS)
    with pytest.raises(AdapterInvalid):
        verify_adapter(saved[0], reseal(saved[0]))


def test_a_manifest_that_reaches_outside_is_refused(saved: tuple[Path, str]) -> None:
    (saved[0].parent / "other").write_text("x")
    digest = write_manifest(saved[0], [WEIGHTS, CONFIG, "../other"])
    with pytest.raises(AdapterInvalid, match=r"names '\.\./other', which is not inside"):
        verify_adapter(saved[0], digest)
