# SPDX-License-Identifier: Apache-2.0
"""The kernel module on a real kernel: each function of kernel/guest/test_*.py runs in a machine, and is a test here."""

import ast
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from machines import Run, boot_all
from workshop import (
    BUILDER,
    KERNEL,
    KMOD,
    SOURCE,
    WORKSHOP,
    Kernel,
    build,
    build_builder,
    build_debug_kernel,
    build_module,
    build_workshop,
    inside,
    kernels,
)

from boesfsd import __version__

DEBUG = os.environ.get("BOESFS_KERNEL") == "debug"
FULL = "BOESFS_FULL" in os.environ
PREFIXES = ("test_", *(["full_"] if FULL else []), *(["debug_"] if DEBUG else []))
MODULES = sorted(path.stem for path in (KERNEL / "guest").glob("*.py") if path.stem.startswith(PREFIXES))
DEADLINE = 10800 if FULL else 5400 if DEBUG else 900  # seconds for one machine


def functions(module: str) -> list[str]:
    """The names of a guest module's tests, by what stands in it and what it makes of it (TESTS = …)."""
    tree = ast.parse((KERNEL / f"guest/{module}.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


GROUPS: dict[str, Sequence[str]] = {module: [f"{module}.{name}" for name in functions(module)] for module in MODULES}
NAMES = [name for names in GROUPS.values() for name in names]
# Enough to see that the newest kernel's interfaces are used as they are meant; all the rest on Debian 13's own.
NEWEST: list[str] = (
    []
    if DEBUG
    else [
        *GROUPS["test_first"],
        "test_policy.test_every_operation_is_asked_with_the_documented_arguments",
        "test_policy.test_every_operation_is_denied_as_the_policy_says_and_nothing_changes_below",
        "test_labels.test_the_new_name_of_a_directory_counts_for_all_below_it",
        "test_generations.test_detaching_closes_everything_and_attaching_again_opens_it",
        "test_names.test_names_behave_the_same",
        "test_data.test_data_behaves_the_same",
        "test_data.test_mappings_behave_the_same",
    ]
)


def chosen(session: pytest.Session) -> set[str]:
    """The machines that the chosen tests want."""
    items = [item for item in session.items if isinstance(item, pytest.Function) and "runs" in item.fixturenames]
    newest = {"newest" for item in items if item.originalname == "test_in_the_newest_kernel"}
    params = [item.callspec.params for item in items if item.originalname != "test_in_the_newest_kernel"]
    return newest | {str(value).partition(".")[0] for param in params for value in param.values()}


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest) -> dict[str, Run]:
    """A machine per module of tests."""
    wanted = chosen(request.session)
    build()
    extra = {}
    if FULL:
        build_builder()
        extra["fsx"] = BUILDER / "usr/local/bin/fsx"
    debug = build_debug_kernel() if DEBUG else None

    def on(name: str) -> Kernel:
        return debug or kernels()[name == "newest"]

    groups = {**GROUPS, **({"newest": NEWEST} if NEWEST else {})}
    return boot_all({name: tests for name, tests in groups.items() if name in wanted}, on, extra, DEADLINE)


@pytest.mark.parametrize("name", NAMES)
def test_in_the_kernel(runs: dict[str, Run], name: str) -> None:
    run = runs[name.partition(".")[0]]
    end = "\n".join(run.console.splitlines()[-40:])
    assert name in run.results, f"no result: the machine ended after {run.seconds:.0f} s\n{end}"
    assert run.results[name]["ok"], run.results[name]["detail"]


@pytest.mark.parametrize("name", NEWEST)
def test_in_the_newest_kernel(runs: dict[str, Run], name: str) -> None:
    run = runs["newest"]
    end = "\n".join(run.console.splitlines()[-40:])
    assert name in run.results, f"no result: the machine ended after {run.seconds:.0f} s\n{end}"
    assert run.results[name]["ok"], run.results[name]["detail"]


@pytest.mark.parametrize("module", [*MODULES, *(["newest"] if NEWEST else [])])
def test_the_kernel_has_nothing_to_complain_of(runs: dict[str, Run], module: str) -> None:
    assert "the tests are over" in runs[module].console
    assert runs[module].broken == []


def test_the_module_builds_without_warnings_of_gcc_and_sparse_on_every_kernel_there_are_headers_of() -> None:
    build_workshop()
    assert len(kernels()) == 2, "Debian 13's own kernel and the newest of backports"
    for kernel in kernels():
        assert build_module(kernel, KMOD, "C=2", like=build_module(kernel)).stat().st_size


def test_the_folder_alone_is_enough_for_make_and_for_dkms(tmp_path: Path) -> None:
    """make as docs/boesfs.md has it; dkms as a package would do it, for a kernel that does not run."""
    build_workshop()
    release = kernels()[0].release
    shutil.copytree(KMOD, tmp_path / "kmod")
    inside(WORKSHOP, "make", "-s", "-C", "/src/module", f"KVER={release}", module=tmp_path / "kmod")
    assert (tmp_path / "kmod/boesfs.ko").exists()
    version = re.findall(r'^PACKAGE_VERSION="(.+)"', (KMOD / "dkms.conf").read_text(), re.MULTILINE)[0]
    assert version == __version__
    source = WORKSHOP / f"usr/src/boesfs-{version}"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(KMOD, source)
    try:
        for kernel in kernels():
            said = inside(WORKSHOP, "dkms", "install", f"boesfs/{version}", "-k", kernel.release)
            (module,) = (WORKSHOP / f"usr/lib/modules/{kernel.release}/updates/dkms").glob("boesfs.ko*")
            told = inside(WORKSHOP, "modinfo", "-F", "vermagic", f"/{module.relative_to(WORKSHOP)}")
            assert told.startswith(f"{kernel.release} "), said
    finally:
        inside(WORKSHOP, "dkms", "remove", f"boesfs/{version}", "--all")
        shutil.rmtree(source)


if FULL or DEBUG:  # the kernel's source is there

    def test_checkpatch_has_nothing_to_say_of_the_module() -> None:
        build_builder()
        checkpatch = f"{BUILDER}{SOURCE}/scripts/checkpatch.pl"
        files = sorted(KMOD.glob("*.[ch]"))
        command = ["perl", checkpatch, "--no-tree", "--terse", "--max-line-length=100", "-f", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stdout + done.stderr


def test_the_module_carries_btf_that_can_be_relocated() -> None:
    build_workshop()
    data = build_module(kernels()[0]).read_bytes()
    assert b".BTF.base\0" in data
    assert b"bpf_struct_ops_boesfs_policy_ops\0" in data
