# SPDX-License-Identifier: Apache-2.0
"""What a sandbox is made of, and what its policy knows of that."""

import dataclasses
from pathlib import Path

import pytest
from samples import CODE, bare_host, command, commands_runtime, full_function, full_host, function, made, python_runtime

from boesfsd import host, layout, plan
from boesfsd.errors import BoesError
from boesfsd.layout import DEVICES, LOADER_CACHE, confined, distinct, sandbox, sandbox_of_command
from boesfsd.model import Command, Function, PolicyBlock, PolicyFiles
from boesfsd.policy import operations, oracle, sources
from boesfsd.policy.landlock import Confined
from boesfsd.policy.places import split
from boesfsd.policy.sources import Compiled, Sandbox
from boesfsd.policy.table import Request

NOTHING = PolicyBlock("p.yaml", "default: deny\n")


def sandbox_of(deployed: Function, *, full: bool = True) -> Sandbox:
    return sandbox(deployed, python_runtime(), made(deployed, full_host() if full else bare_host()))


def compiled(text: str, deployed: Function | None = None) -> Compiled:
    return sources.compile_sources(None, PolicyBlock("p.yaml", text), sandbox_of(deployed or function()))


def allowed(policy: Compiled, operation: str, path: str) -> bool:
    request = Request(operation, split(path.encode()))
    by_rules, _ = oracle.decide(policy.policy, request)
    assert policy.table.decide(request)[0] == by_rules
    return by_rules


def test_to_each_mount_everybody_may_walk_and_do_nothing_else_there() -> None:
    deployed = function(network="host")
    policy, there = compiled("default: deny\n", deployed), made(deployed, full_host())
    others = [name for name in operations.TABLE if name != "lookup"]
    for place in there.mounts:
        for path in [*map(str, Path(place).parents), place]:
            assert path == "/" or allowed(policy, "lookup", path), path
        assert not any(allowed(policy, name, place) for name in others), place
    assert not allowed(policy, "lookup", "/usr/bin")
    assert not allowed(policy, "lookup", "/function/func.py")


def test_links_of_the_root_can_be_followed_and_the_loader_s_cache_be_read() -> None:
    policy = compiled("default: deny\n")
    for link in ("/bin", "/lib64", "/dev/fd", "/dev/stdout"):
        assert all(allowed(policy, name, link) for name in ("lookup", "readlink", "getattr")), link
    assert all(allowed(policy, name, LOADER_CACHE) for name in ("lookup", "open", "read", "mmap", "getattr"))
    assert not any(allowed(policy, name, LOADER_CACHE) for name in ("write", "unlink", "chmod"))
    assert not allowed(policy, "read", "/etc/passwd")
    for name in ("/etc/ld.so.preload", "/etc/localtime"):
        assert allowed(policy, "probe", name)
        assert not any(allowed(policy, other, name) for other in ("lookup", "open", "create", "access"))
    assert not allowed(policy, "probe", "/usr/x")


def test_a_rule_that_names_the_same_place_comes_before_the_platform_s() -> None:
    assert not allowed(compiled(f"rules: [{{deny: read, on: {LOADER_CACHE}}}]"), "read", LOADER_CACHE)
    assert allowed(compiled("rules: [{deny: read, on: /etc/**}]"), "read", LOADER_CACHE)
    assert not allowed(compiled("rules: [{deny: readlink, on: /bin}]"), "readlink", "/bin")


@pytest.mark.parametrize("place", ["/usr", "/usr/lib/python3", "/function", "/tmp", "/dev/null", "/run", "/proc"])
def test_who_denies_the_way_to_a_mount_is_refused_with_the_rule_and_the_remedy(place: str) -> None:
    with pytest.raises(BoesError) as refused:
        compiled(f"default: allow\nrules:\n  - {{deny: [read, lookup], on: {place}}}\n")
    assert str(refused.value).startswith(
        f"p.yaml, line 3, column 5: {place}: lookup is denied where the sandbox has something mounted"
    )
    assert f"{place}/*" in refused.value.hint


@pytest.mark.parametrize(
    "rule", ["{allow: [read, list], on: [/function, /function/**], audit: true}", "{allow: read, on: /usr, uid: 5}",
             "{deny: read, on: /usr}"]
)  # fmt: skip
def test_who_denies_no_lookup_there_is_not_refused(rule: str) -> None:
    assert allowed(compiled(f"rules: [{rule}]"), "lookup", "/usr")


def test_who_denies_all_below_is_not_refused() -> None:
    policy = compiled("default: allow\nrules:\n  - {deny: all, on: /usr/**}\n")
    assert not allowed(policy, "read", "/usr")
    assert not allowed(policy, "lookup", "/usr/bin")


def test_variables_are_the_function_s_directories() -> None:
    assert sandbox_of(function()).variables == {"CODE": "/function", "TMP": "/tmp", "HOME": "/tmp"}
    for settings in ({"environment": {"HOME": "/a"}}, {"environment": {"HOME": "/b"}, "config": {"HOME": "/a"}}):
        assert sandbox_of(function(**settings)).variables["HOME"] == "/a"


def test_the_original_s_subject_is_the_program_that_is_started() -> None:
    assert "/usr/bin/python3" in sandbox_of(function()).subjects
    assert sandbox_of(function(command=("/function/run", "x"))).subjects == {"/function/run", "run"}


def test_the_platform_s_rules_are_no_findings() -> None:
    assert compiled("default: allow\nrules: [{deny: read, on: /etc/passwd}]\n").findings == ()
    (finding,) = compiled("default: allow\nrules: [{deny: read, on: /srv/x}]\n").findings
    assert "the sandbox has nothing there" in finding.message


def test_a_bare_host_has_no_optional_pieces() -> None:
    there = made(function(network="host"), bare_host())
    assert there.trees == {**python_runtime().binds, "/function": str(CODE)}
    assert (there.copies, there.hidden) == ({}, ())
    assert {f"/dev/{name}" for name in DEVICES} <= set(there.mounts)


def test_a_function_without_network_gets_neither_certificates_nor_a_resolver() -> None:
    there = made(function(), full_host())
    assert set(there.copies) == {LOADER_CACHE}
    assert "/etc/ssl/certs" not in there.trees
    assert "/etc/resolv.conf" in made(full_function(), full_host()).copies


# --- without BoesFS


def test_what_is_hidden_is_empty_and_nothing_of_it_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    for name in ("file", "hidden/secret"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("hidden/secret")
    (tmp_path / "twin").hardlink_to(tmp_path / "file")
    look = host.looking({"/t": str(tmp_path)}, ["/t/hidden"])
    assert look((b"t",)) == [b"file", b"hidden", b"link", b"twin"]
    assert (look((b"t", b"file")), look((b"t", b"link"))) == (2, b"hidden/secret")
    assert look((b"t", b"hidden")) == []
    for path in ((b"t", b"hidden", b"secret"), (b"t", b"no"), (b"t", b"file", b"no")):
        with pytest.raises(FileNotFoundError):
            look(path)


def test_a_directory_that_is_in_two_places_is_empty_in_the_outer_one() -> None:
    trees = {"/usr": "/usr", "/python": "/usr/lib/python", "/usrlocal": "/usrlocal", "/function": "/srv/code"}
    plain = dataclasses.replace(made(function(), full_host()), trees=trees, hidden=("/usr/local",))
    assert distinct(plain).hidden == ("/usr/local", "/usr/lib/python")


def test_what_a_policy_leaves_is_what_the_agent_is_told_to_make() -> None:
    whole = made(function(), full_host())
    kept = Confined(
        pieces={(b"usr", b"bin"): True, (b"usr", b"lib", b"x.so"): False},
        made=[(b"usr",), (b"usr", b"lib")],
        links={(b"usr", b"y"): b"bin"},
        files=[(b"etc", b"hosts")],
        rights={(b"usr", b"bin"): "rx"},
    )
    steps = plan.render(function(), python_runtime(), confined(whole, kept), full_host()).splitlines()
    for step in (
        *("bind\t/usr/bin\t/usr/bin\tnofollow", "bind\t/usr/lib/x.so\t/usr/lib/x.so\tnofollow", "landlock\tpolicy"),
        *("file\t/usr/lib/x.so\t0444\t", "link\tbin\t/usr/y", "hide\t/tmp", "hide\t/dev/shm", "allow\trx\t/usr/bin"),
    ):
        assert step in steps, step
    for beginning in ("tmpfs", "file\t/etc/passwd", "link\tusr/bin", "bind\t/usr\t", "allow\trl\t/etc", "allow\trlx"):
        assert not [step for step in steps if step.startswith(beginning)], beginning


# --- commands

BLACK, WHITE = ("!some(where (p.eft == deny))", "some(where (p.eft == allow))")
MODEL = "[request_definition]\nr = obj, act\n[policy_definition]\np = obj, act\n[policy_effect]\ne = {}\n"
MODEL += "[matchers]\nm = r.obj == p.obj && r.act == p.act\n"


def judged(of: Command) -> Compiled:
    """What its policy comes to."""
    there = layout.of_command(of, commands_runtime(), full_host())
    return sources.compile_sources(None, of.judged.policy, sandbox_of_command(of, there))


def test_the_original_s_files_are_about_a_command_s_directories_alone() -> None:
    for effect, kind, otherwise in ((BLACK, "deny", True), (WHITE, "allow", False)):
        files = PolicyFiles("m", MODEL.format(effect), "p", f"p, /usr/job/x, read, file, {kind}\n")
        policy = judged(command(directories=("/usr/job",), policy=files))
        assert allowed(policy, "read", "/usr/job/x") is not otherwise
        assert allowed(policy, "read", "/usr/job/y") is otherwise
        assert allowed(policy, "write", "/usr/job/y") is otherwise
        for path in ("/usr/bin/sh", "/etc/passwd", "/etc/ssl/certs/x", "/etc/ld.so.cache"):
            assert allowed(policy, "read", path)
        assert allowed(policy, "iterate", "/")
        assert all(allowed(policy, name, "/tmp/x") for name in ("read", "write", "create", "chmod", "unlink"))
        if not otherwise:
            assert not allowed(policy, "write", "/usr/bin/sh")


def test_a_block_says_all_and_code_is_the_first_directory() -> None:
    block = PolicyBlock(
        "p.yaml", "default: deny\nrules: [{allow: read, on: '${CODE}/**'}, {allow: read, on: '${HOME}/x'}]\n"
    )
    policy = judged(command(directories=("/srv/b", "/srv/a"), policy=block))
    assert allowed(policy, "read", "/srv/b/x")
    assert allowed(policy, "read", "/tmp/x")
    for path in ("/srv/a/x", "/usr/bin/sh", "/tmp/y", "/etc/passwd"):
        assert not allowed(policy, "read", path)


def test_what_is_said_of_killing_comes_before_the_policy() -> None:
    block = PolicyBlock("p.yaml", "kill: 3\nrules: [{allow: read, on: /usr/**}]\n")
    assert [judged(command(policy=block, kill=kill)).policy.kill for kill in (None, 0, 7)] == [3, 0, 7]


def test_what_a_directory_covers_is_not_there_twice() -> None:
    there = layout.of_command(command(directories=("/etc", "/usr")), commands_runtime(), full_host())
    assert there.trees == {"/etc": "/etc", "/usr": "/usr"}
    assert not [path for path in (*there.copies, *there.texts) if path.startswith("/etc")]
    assert "/bin" in there.links
    inner = layout.of_command(command(directories=("/usr/local/x",)), commands_runtime(), full_host())
    assert distinct(inner).hidden == ()
