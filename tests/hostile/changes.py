"""Changes to valid files: bytes, lines of text, values of JSON."""

import json
import random
import re
from typing import Any

NUMBERS = (
    0, 1, 2, 3, 7, 8, 16, 17, 64, 100, 255, 256, 999, 1000, 65535, 2**20, 2**31 - 1, 2**31, 2**32,
    10**10, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -1, -2, -8, -32, -64, -(2**31), -(2**63),
)  # fmt: skip
WORDS = (
    None, True, False, "", "x", "../..", "\0", "nan", [], {}, [[]], 0.5, 1e308, -1.5, float("nan"),
    float("inf"), "float64", "complex64", "|O", "<f8", "S1000000000", "bytes", "gzip", "pickle",
    "blosc", "sharding_indexed", "<script>", "é" * 40,
)  # fmt: skip
LINES = (
    "a: &a [1]", "b: *a", "<<: *a", "x: !!python/object/apply:os.system ['true']", "name: [", "{",
    "? [a]", "held_out: .nan", "path: ~nobody/x", "samples: 1e400", "seed: -1", "- a", "%TAG ! !",
    "---", "...", "name: !!int x", "name: 2001-13-45", "\t", "base: 'a", "name: |", "targets: *x",
)  # fmt: skip


def change(data: bytes, rng: random.Random) -> bytes:
    """Change bytes in one of many ways that know nothing of the format but its numbers."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(8)))
    at, length = rng.randrange(len(data)), rng.choice((1, 2, 8, 80, 512, 2880))
    piece = data[at : at + length]
    match rng.randrange(8):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at] + data[at + length :]
        case 3:
            return data[:at] + piece * rng.choice((2, 3, 50)) + data[at + length :]
        case 4:
            return data[:at]
        case 5:
            to = rng.randrange(len(data))
            return data[:to] + piece + data[to + len(piece) :]
        case 6:
            size = rng.choice((1, 2, 4, 8))
            value = rng.choice(NUMBERS) % 256**size
            order = rng.choice(("little", "big"))
            return data[:at] + value.to_bytes(size, order) + data[at + size :]
    found = [m for m in re.finditer(rb" *-?\d+", data[:20000])]
    if not found:
        return data
    old = rng.choice(found)
    new = str(rng.choice(NUMBERS)).encode().rjust(len(old[0]))  # a card keeps its columns
    return data[: old.start()] + new + data[old.start() + max(len(new), len(old[0])) :]


def change_text(text: str, rng: random.Random) -> str:
    """Add, drop, double or indent lines, or change bytes."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            lines.insert(at, " " * rng.choice((0, 2, 4)) + rng.choice(LINES))
        case 1:
            lines[at] = lines[at].partition(":")[0] + ": " + str(rng.choice(NUMBERS + WORDS))
        case 2:
            lines.insert(at, lines[rng.randrange(len(lines))])
        case 3:
            lines[at] = rng.choice(("[", "{a: ", "- ", "? ", '"', "  ")) * rng.choice((1, 9, 900))
        case _:
            return change(text.encode(), rng).decode(errors="replace")
    return "\n".join(lines)


def change_json(text: bytes, rng: random.Random) -> bytes:
    """Replace, drop or double one value somewhere in a JSON document, or change bytes."""
    if rng.random() < 0.15:
        return change(text, rng)
    tree = json.loads(text)
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        for key in keys:
            spots.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    node, key = rng.choice(spots)
    match rng.randrange(4):
        case 0 if isinstance(node, dict):
            del node[key]
        case 1:
            other, where = rng.choice(spots)
            node[key] = json.loads(json.dumps(other[where])) if where in _keys(other) else None
        case 2:
            node[key] = rng.choice(NUMBERS)
        case _:
            node[key] = rng.choice(WORDS)
    return json.dumps(tree).encode()


def _keys(node: Any) -> Any:
    return node if isinstance(node, dict) else range(len(node))


def change_often(data: bytes, rng: random.Random) -> bytes:
    """Change bytes one to three times."""
    for _ in range(rng.randrange(1, 4)):
        data = change(data, rng)
    return data
