"""Headers of safetensors files: read within bounds, without a tensor library, and held against the file's size."""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from store.errors import HonedError
from store.reading import first_problem, open_plain, read_object, validated

#: Bytes of an element by the format's name of its type.
BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
BYTES |= {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
#: Bytes of a header at the most. The largest models' have a few MiB.
MOST_HEADER = 32 * 2**20
BUNDLED_PREFIX = "bundled:"


class Entry(BaseModel):
    """What a header says of one tensor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    shape: list[Annotated[int, Field(ge=0, le=2**40)]] = Field(max_length=16)
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Header:
    """`tensors`: by name. `size`: bytes of the file."""

    tensors: dict[str, Entry]
    size: int


_HEADER: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_ENTRIES: TypeAdapter[dict[str, Entry]] = TypeAdapter(dict[str, Entry])


def read_header(path: Path, *, most: int = MOST_HEADER) -> Header:
    """The header of a safetensors file, whose tensors fill the rest of the file one after the other.

    Raises:
        HonedError: it is none; names the file and the tensor.
    """
    with os.fdopen(open_plain(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(most, size - 8):
            raise HonedError(
                f"{path}: its header would be {length} bytes long, of {max(0, size - 8)} there are"
            )
        raw = file.read(length)
    table = validated(_HEADER, raw, path)
    table.pop("__metadata__", None)
    try:
        entries = _ENTRIES.validate_python(table)
    except ValidationError as error:
        raise HonedError(f"{path}: {first_problem(error)}") from None
    end = 0
    for name, entry in sorted(entries.items(), key=lambda pair: pair[1].data_offsets):
        if entry.dtype not in BYTES:
            raise HonedError(f"{path}: {name} has the type {entry.dtype!r}")
        first, last = entry.data_offsets
        if first != end or last - first != prod(entry.shape) * BYTES[entry.dtype]:
            raise HonedError(
                f"{path}: {name} lies at {first} to {last}, which its type and shape do not fill"
            )
        end = last
    if 8 + length + end != size:
        raise HonedError(f"{path} is {size} bytes long, and its header tells of {8 + length + end}")
    return Header(entries, size)


def local_model(name: str, state_directory: Path) -> Path | None:
    """Where a model's files are on this machine; None where they are yet to be fetched or converted."""
    folder = (
        state_directory / "models" / name.removeprefix(BUNDLED_PREFIX)
        if name.startswith(BUNDLED_PREFIX)
        else Path(name)
    )
    return folder if (folder / "config.json").is_file() else None


def check_weights(folder: Path) -> int:
    """Hold a model's weight files against their headers, and its configuration against JSON. Returns their bytes.

    Raises:
        HonedError: there are none, or one is damaged.
    """
    read_object(folder / "config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise HonedError(f"{folder} has no weights (*.safetensors)")
    return sum(read_header(file).size for file in files)
