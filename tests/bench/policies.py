# SPDX-License-Identifier: Apache-2.0
"""Large policies and many: what it takes to compile and load 100,000 rules, how much memory a rule has in the kernel,
and whether the 10,000th policy takes longer than the tenth. Prints a table and writes build/bench/policies.json.

    build/venv/bin/python tests/bench/policies.py [RULES [POLICIES]]

It runs in build/root, on this machine's kernel. The maps are those of the policy program and filled as boesfsd fills
them, but made here, since the program itself needs the module; so exchanging a table (one pointer) is not part of it.
Seconds are of CPU, the system's for us included. The rules are those of generate(): components of 12 bytes in the mean.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "appliance"))
sys.path.insert(0, str(Path(__file__).parents[1] / "vm"))
from machine import BUILD, ROOT, build_root, install
from workshop import build_bpf

ROUNDS = 5
SAMPLES = 200  # policies at either end
INSIDE = r"""
import ctypes, gc, json, os, random, struct, sys, time
from pathlib import Path
sys.path.insert(0, "/usr/lib/boesfs/python")
rules, policies, rounds = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
CREATE, LOOKUP, PIN, BY_ID = 0, 1, 6, 14
HASH, ARRAY, OF_MAPS, RINGBUF, LRU = 1, 2, 12, 27, 9

def bpf(command, *parts):
    data = b"".join(parts).ljust(128, b"\0")
    buffer = ctypes.create_string_buffer(data, len(data))
    answer = libc.syscall(321, command, buffer, len(data))
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"bpf command {command}")
    return answer

def make(kind, key, value, entries, flags=0, inner=0):
    return bpf(CREATE, struct.pack("<6I", kind, key, value, entries, flags, inner))

# What a sandbox has mounted: what every one has, and the directories that the rules are about.
USUAL = {"/bin", "/dev", "/etc", "/function", "/lib", "/lib64", "/proc", "/run/fn", "/sbin", "/tmp", "/usr"}
mounts = set()

def generate(count, seed, spelling):
    # A path has three components of 4 to 20 bytes; there are 1,000 directories.
    rng = random.Random(seed)
    def name():
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789-_.", k=rng.randint(4, 20)))
    top = [name() for _ in range(10)]
    mounts.update(f"/{parent}" for parent in top)
    directories = [f"/{parent}/{name()}" for parent in top for _ in range(100)]
    for _ in range(count):
        path, operation = f"{rng.choice(directories)}/{name()}", rng.choice(("read", "write", "open", "unlink"))
        row, rule = f"p, {path}, {operation}, file, allow", f"  - {{allow: {operation}, on: {path}}}"
        yield row if spelling == "files" else rule

def source(count, seed, spelling):
    lines = "\n".join(generate(count, seed, spelling)) + "\n"
    if spelling == "block":
        return PolicyBlock("block", "rules:\n" + lines)
    model = "[request_definition]\nr = obj, act\n[policy_definition]\np = obj, act\n[policy_effect]\n"
    model += "e = some(where (p.eft == allow))\n[matchers]\nm = r.obj == p.obj && r.act == p.act\n"
    return PolicyFiles("model", model, "policy", lines)

from boesfsd import kernel
from boesfsd.model import PolicyBlock, PolicyFiles
from boesfsd.policy import sources
from boesfsd.policy.image import FORMATS, ROW, SHORT_KEY, pack
from boesfsd.policy.sources import Sandbox

sizes, numbers = kernel.ffi.sizeof, kernel.NUMBERS
tables, step = numbers["BOESFS_TABLES"], FORMATS["boesfs_step"].size
names = make(HASH, SHORT_KEY.size, step, 1)
made = {
    "table_rows": make(OF_MAPS, 4, 4, tables, 0, make(ARRAY, 4, ROW, 1, 1 << 12)),
    "table_names": make(OF_MAPS, 4, 4, tables, 0, names),
    "table_long_names": make(OF_MAPS, 4, 4, tables, 0, make(HASH, FORMATS["boesfs_key"].size, step, 1)),
    "tables": make(ARRAY, 4, sizes("struct boesfs_table"), tables),
    "programs": make(HASH, sizes("struct boesfs_program_key"), 8, numbers["BOESFS_PROGRAMS"], 1),
    "counts": names, "kills": names, "replace": names, "look": names,  # not used
    "records": make(RINGBUF, 0, 0, 4 << 20),
}
pins = Path("/sys/fs/bpf/bench")
pins.mkdir()
for name, fd in made.items():
    place = ctypes.create_string_buffer(str(pins / name).encode())
    bpf(PIN, struct.pack("<QI", ctypes.addressof(place), fd))
kernel.check_module = lambda: None
loader = kernel.Policies(pins)

def memory(table):
    total = 0
    for name in ("table_rows", "table_names", "table_long_names"):
        key, value = ctypes.c_uint32(table), ctypes.c_uint32()
        try:
            bpf(LOOKUP, struct.pack("<I4xQQ", made[name], ctypes.addressof(key), ctypes.addressof(value)))
        except OSError:
            continue
        fd = bpf(BY_ID, struct.pack("<I", value.value))
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        total += int(next(line.split()[1] for line in info.splitlines() if line.startswith("memlock:")))
        os.close(fd)
    return total

found = {}
for spelling in ("files", "block"):
    times = {"read": [], "read and compile": [], "pack": [], "load": []}
    for number in range(rounds if spelling == "files" else 1):
        written = source(rules, number, spelling)
        sandbox = Sandbox({}, mounts=tuple(sorted(USUAL | mounts)))
        marks = [time.process_time()]
        gc.disable()  # as compile_sources does
        sources.read(written, sandbox)
        gc.enable()
        marks.append(time.process_time())
        compiled = sources.compile_sources(None, written, sandbox)
        marks.append(time.process_time())
        image = pack(compiled.table, numbers)
        marks.append(time.process_time())
        loader.put(1, image, policy=1, kill=0)
        marks.append(time.process_time())
        for (name, taken), begun, ended in zip(times.items(), marks, marks[1:]):
            taken.append(ended - begun)
        found["bytes a rule"] = [memory(1) / rules]
        loader.take_away(1)
    found[spelling] = times
image = pack(sources.compile_sources(None, source(20, 1, "files"), Sandbox({})).table, numbers)
taken = []
for number in range(1, policies + 1):
    begun = time.process_time()
    loader.put(number, image, policy=number, kill=0)
    taken.append(time.process_time() - begun)
found["policies"] = taken
print(json.dumps(found))
"""


def main() -> None:
    """Measure, and print."""
    rules, policies = map(int, [*sys.argv[1:], *("100000", "10000")[len(sys.argv) - 1 :]])
    build_root()
    install(build_bpf())
    script = (
        'mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && mount -t bpf bpf "$0/sys/fs/bpf" &&'
        ' exec chroot "$0" python3 -c "$@"'
    )
    words = ["unshare", "--mount", "sh", "-c", script, str(ROOT), INSIDE, *map(str, (rules, policies, ROUNDS))]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    for spelling in ("files", "block"):
        parts = {name: statistics.median(values) for name, values in found[spelling].items()}
        reading = parts.pop("read")  # once more by itself
        told = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
        print(f"{rules} rules ({spelling}): {sum(parts.values()):.2f} s of CPU: {told}; reading alone {reading:.2f}")
    print(f"memory in the kernel: {found['bytes a rule'][0]:.0f} bytes a rule")
    taken = found["policies"]
    first, last = statistics.median(taken[10:][:SAMPLES]), statistics.median(taken[-SAMPLES:])
    each = f"{first * 1000:.2f} and {last * 1000:.2f} ms of CPU"
    print(f"policy {policies} against the tenth: {last / first:.2f} ({each})")
    (BUILD / "bench").mkdir(exist_ok=True)
    (BUILD / "bench/policies.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
