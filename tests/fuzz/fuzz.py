# SPDX-License-Identifier: Apache-2.0
"""Texts that follow the readers' branches (libFuzzer), for an hour or as many seconds as are given.

    build/venv/bin/python tests/fuzz/fuzz.py [SECONDS]

It begins with the specification's samples, random pairs of the original's files, and the blocks of boesfs-policy(5) and
of the examples. What a text must be read to is told in reading.py. Found texts are left in build/fuzz; the exit status
is then 1. A text that takes over twenty seconds hangs.
"""

import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import atheris

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "tests" / "unit")]
with atheris.instrument_imports(include=["boesfsd", "yaml.composer", "yaml.constructor", "yaml.resolver"]):
    import reading

    from boesfsd.policy import block, operations

OUT = TOP / "build" / "fuzz"
HANGS = 20  # seconds
LONGEST = 4096  # bytes
tally: Counter[str] = Counter()
begun = time.monotonic()


def words() -> list[str]:
    """What the languages are made of."""
    of_blocks = ("policy:", "default:", "allow", "deny", "on:", "rules:", "roles:", "role:", "when:", "audit:", "kill:")
    conditions = ("equal:", "min:", "max:", "mask:", "uid:", "program:", "0o", "${CODE}", "${TMP}", "/**", "/*", "**")
    of_files = ("[matchers]", "[policy_effect]", "r.obj", "p.obj", "r.act", "r.args", "g(r.sub, p.sub)", "p, ", "g, ")
    more = ("a, ", "_, _", "file", "dir", "(*, *)", "some(where (p.eft == allow))", "!some(where (p.eft == deny))")
    return [*block.NAMES, *operations.TABLE, *of_blocks, *conditions, *of_files, *more, "\f", "&a", "*a", "<<: ", "!!"]


WORDS = words()


def _escaped(word: str) -> str:
    """As libFuzzer's dictionaries have it."""
    return re.sub(r"[^ -!#-[\]-~]", lambda match: f"\\x{ord(match[0]):02x}", word)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Bytes as libFuzzer changes them, or whole words and lines, which leaves more that can be read."""
    rng = random.Random(seed)
    if rng.random() < 0.4:
        return bytes(atheris.Mutate(data, most))
    lines = rng.random() < 0.4
    parts = re.split(rb"(\n)" if lines else rb"([ \n,\[\]{}:/*()=]+)", data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(0, len(parts), 2)
        other = rng.choice(parts[::2])
        if lines:
            parts[at] = rng.choice((b"", other, parts[at] + b"\n" + other))
        else:
            parts[at] = rng.choice((other, rng.choice(WORDS).encode()))
    return b"".join(parts)[:most]


def one(data: bytes) -> None:
    """One text; libFuzzer ends the process without a word, so the count is written down on the way."""
    tally[reading.try_text(data)] += 1
    if tally.total() % 1000 == 0:
        told = {"seconds": round(time.monotonic() - begun), "texts": tally.total(), **tally}
        (OUT / "last.json").write_text(json.dumps(told) + "\n")


def main() -> None:
    """Seconds are given, or an hour."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 3600
    corpus = OUT / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("found-*"):
        old.unlink()
    for number, text in enumerate(reading.seeds()):
        (corpus / f"seed-{number}").write_bytes(text)
    (OUT / "words").write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS))
    options = [f"-max_total_time={seconds}", f"-timeout={HANGS}", f"-max_len={LONGEST}", f"-dict={OUT / 'words'}"]
    options += ["-rss_limit_mb=4096", "-use_value_profile=1", f"-artifact_prefix={OUT}/found-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), *options], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
