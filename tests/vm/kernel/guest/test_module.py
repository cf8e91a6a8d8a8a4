# SPDX-License-Identifier: Apache-2.0
"""Who may mount in a user namespace, and what the module itself tells and refuses."""

import os
import subprocess
from pathlib import Path

from scene import ABI, ALL, Policy, Scene, T, bits, reload_module, remove_module, run, user_files


def as_user(policy: Policy | None, script: str) -> subprocess.CompletedProcess[str]:
    """A script of uid 1000 in a user and mount namespace of its own; `{}` is the program's link."""
    link = [T / "loader", "link", policy.name, "--"] if policy else []
    user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
    return run(*link, *user, "unshare", "-Urm", "sh", "-ec", script, check=False)


def test_a_user_namespace_may_not_mount(s: Scene) -> None:
    user_files(s)
    policy = s.policy()
    for option in ("policy=test", "policy_fd={}", "nopolicy"):
        done = as_user(policy, f"mount -i -t boesfs -o {option} {s.lower} {s.upper}; echo mounted")
        assert "mounted" not in done.stdout, option
        assert "permission denied" in done.stderr.lower() or "not permitted" in done.stderr.lower(), done.stderr


def test_a_user_namespace_may_mount_by_descriptor_if_the_module_says_so(s: Scene) -> None:
    user_files(s)
    reload_module("userns_mount=1")
    try:
        policy = s.policy()
        policy.rule("/shut", deny=bits("open"), record=ALL)
        policy.rule("/mine", record=ALL, nocache=ALL)
        for option in ("policy=test", "nopolicy"):
            done = as_user(policy, f"mount -i -t boesfs -o {option} {s.lower} {s.upper}; echo mounted")
            assert "mounted" not in done.stdout, option
        done = as_user(
            policy,
            f"mount -i -t boesfs -o policy_fd={{}} {s.lower} {s.upper}\ncd {s.upper}\n"
            "stat -c '%u %g' mine roots\ncat mine\ncat shut || echo denied\n"
            "cat roots || echo roots\necho new >new; chown 0:0 new\n"
            "mknod null c 1 3 || echo no device\nchown 5:5 mine || echo no chown",
        )
        said = done.stdout + done.stderr
        assert done.stdout.split("\n")[:2] == ["0 0", "65534 65534"], said
        assert done.stdout.split("\n")[2].startswith("minedenied"), said
        assert done.stdout.split("\n")[3:6] == ["roots", "no device", "no chown"], said
        assert "shut: Operation not permitted" in done.stderr, said
        assert "roots: Permission denied" in done.stderr, said
        assert (os.stat(s.lower / "new").st_uid, os.stat(s.lower / "new").st_gid) == (1000, 1000)
        records = policy.records()
        assert {r["uid"] for r in records} == {1000}, records
        assert ("/shut", "open", -1) in [(r["path"], r["op"], r["verdict"]) for r in records]
    finally:
        for policy in s.policies:
            policy.unload()
        reload_module()


def test_the_module_tells_the_abi_of_the_header(s: Scene) -> None:
    said = Path("/sys/module/boesfs/parameters/abi").read_text().strip()
    assert said == "1.0"
    assert said == f"{ABI['BOESFS_ABI_MAJOR']}.{ABI['BOESFS_ABI_MINOR']}"
    assert os.stat("/sys/module/boesfs/parameters/abi").st_mode & 0o222 == 0
    assert Path("/sys/module/boesfs/parameters/userns_mount").read_text().strip() == "N"


def test_a_module_without_btf_refuses_to_load_and_says_why(s: Scene) -> None:
    """no-btf.ko is made by who builds the guest.

    The recipe: `objcopy --remove-section .BTF --remove-section .BTF.base boesfs.ko no-btf.ko`.
    """
    remove_module()
    try:
        Path("/dev/kmsg").write_text("no BTF from here\n")
        done = run("insmod", T / "no-btf.ko", check=False)
        assert done.returncode
        assert not Path("/sys/module/boesfs").exists()
        assert "boesfs" not in Path("/proc/filesystems").read_text()
        said = run("dmesg").stdout.rpartition("no BTF from here")[2]
        assert "built without BTF" in said, said
    finally:
        remove_module()
        run("insmod", T / "boesfs.ko")
    s.policy()
    s.mount()
