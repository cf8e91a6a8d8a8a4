# SPDX-License-Identifier: Apache-2.0
"""What removing the package leaves in the kernel. Runs inside the VM, as the last of all: nothing is there to check
afterwards."""

from pathlib import Path

from bench import Bench, check

MODULE, PINS = Path("/sys/module/boesfs"), Path("/sys/fs/bpf/boesfs")


@check
def removing_the_package_ends_functions_and_takes_module_and_programs_out_of_the_kernel(bench: Bench) -> None:
    machine = bench.lab.machine
    assert MODULE.exists()
    assert list(PINS.iterdir())
    bench.neighbour.probe("result = 1")
    said = machine.run("dpkg", "--remove", "boesfsd", timeout=300)
    assert not MODULE.exists(), said.stdout + said.stderr
    assert not PINS.exists()
    units = machine.shell("systemctl list-units --all --no-legend --plain 'boesfs*'").splitlines()
    assert [unit for unit in units if "not-found" not in unit and "boesfs-checks.service" not in unit] == []
    left = [*Path("/run/systemd/system").glob("boesfs-*"), *Path("/run/systemd/system.control").glob("boesfs-*")]
    assert left == []
