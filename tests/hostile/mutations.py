"""Files as somebody would write them who means harm: true ones, changed in ways that have broken readers before.

Every mutation follows from a `random.Random`, so that a case can be had again by its name and number.
"""

import json
import random
from collections.abc import Callable
from typing import Any

#: What stands in JSON where something else should: no number, no text, no end.
TOKENS = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"-1",
    b"0",
    b"0.5",
    b"18446744073709551616",
    b"9" * 400,
    b"1" * 4400,
    b"null",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b"[[]]",
    b'[{"": 0}]',
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\\u2028"',
    b'"../../../etc/passwd"',
    b'"/dev/zero"',
    b'"LORA"',
    b'"' + b"x" * 70_000 + b'"',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\x00",
)
#: Names that mean something to one reader or another.
KEYS = (
    "",
    "__metadata__",
    "__class__",
    "../x",
    "/x",
    "r",
    "bytes",
    "sha256",
    "use_dora",
    "shape",
    "\ud800",
    "a\0b",
)
MARK = "@@hostile@@"

Mutation = Callable[[random.Random, bytes], bytes]


def of_bytes(chance: random.Random, content: bytes) -> bytes:
    """A few bytes set, cut out, doubled, put in; or the rest missing."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randint(0, len(changed)), chance.choice((1, 1, 2, 8, 64))
        what = chance.randrange(6)
        if what == 0 and changed:
            changed[min(at, len(changed) - 1)] = chance.randrange(256)
        elif what == 1:
            changed[at:at] = chance.choice(TOKENS)
        elif what == 2:
            del changed[at : at + size]
        elif what == 3:
            changed[at:at] = changed[at : at + size]
        elif what == 4:
            del changed[at:]
        else:
            changed[at:at] = chance.randbytes(size)
    return bytes(changed)


def of_json(chance: random.Random, content: bytes) -> bytes:
    """One place of a JSON value is something else, is missing, is there twice, or has another name."""
    value = json.loads(content)
    holder: list[Any] = [value]
    token = change(chance, holder)
    text = json.dumps(holder[0], ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return text.replace(f'"{MARK}"'.encode(), token)


def change(chance: random.Random, holder: list[Any]) -> bytes:
    """Change one place below `holder`; returns what is to stand where `MARK` does."""
    at: Any = holder
    key: Any = 0
    while isinstance(at[key], dict | list) and at[key] and chance.random() < 0.8:
        at = at[key]
        key = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
    what = chance.randrange(6)
    if what == 0 and isinstance(at, dict):
        del at[key]
    elif what == 1 and isinstance(at, dict):
        at[chance.choice(KEYS)] = at.pop(key)
    elif what == 2 and isinstance(at, dict):
        at[chance.choice(KEYS)] = at[key]
    elif what == 3 and isinstance(at[key], int | float):
        at[key] = at[key] * chance.choice((-1, 2, 0.5, 2**31, 2**62)) + chance.choice((-1, 0, 1))
    elif what == 4:
        at[key] = [at[key]] * chance.choice((1, 2, 300))
    else:
        at[key] = MARK
    return chance.choice(TOKENS)


def of_lines(chance: random.Random, content: bytes) -> bytes:
    """One line of JSONL is changed, missing, or there again."""
    lines = content.split(b"\n")
    at = chance.randrange(max(1, len(lines) - 1))
    what = chance.randrange(4)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(at, lines[at])
    elif lines[at].strip():
        lines[at] = of_json(chance, lines[at])
    return b"\n".join(lines)


def of_tensors(chance: random.Random, content: bytes) -> bytes:
    """A safetensors file whose header lies: about types, shapes, places, its length; or whose numbers are none."""
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    what = chance.randrange(5)
    if what == 0:
        claimed = chance.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        return claimed.to_bytes(8, "little") + header + data
    if what == 1:
        at = chance.randrange(0, max(1, len(data) // 4)) * 4
        number = chance.choice((b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff\xff\xff\xff"))
        return content[: 8 + length] + data[:at] + number + data[at + 4 :]
    if what == 2:
        table = json.loads(header)
        one, other = (chance.choice([name for name in table if name != "__metadata__"]) for _ in range(2))
        part = chance.choice(("data_offsets", "shape", "dtype"))
        table[one][part] = chance.choice(
            (
                table[other][part],
                "F64",
                "U8",
                [0, 0],
                [0, len(data)],
                [len(data), 0],
                [2**40, 2**40],
                [0] * 20,
                [-1, 4],
            )
        )
        header = json.dumps(table).encode()
    elif what == 3:
        # The same name twice: which of them counts?
        header = header[:-1] + b"," + header[1:]
    else:
        header = of_json(chance, header)
    return len(header).to_bytes(8, "little") + header + data


def anything(chance: random.Random, _: bytes) -> bytes:
    """No relation to what should be there."""
    return chance.choice((b"", chance.randbytes(chance.randint(1, 300)), chance.choice(TOKENS), b"\n" * 1000))
