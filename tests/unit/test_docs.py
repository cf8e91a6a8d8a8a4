# SPDX-License-Identifier: Apache-2.0
"""The documents say what the code says: every key, default, error and member is there, and the examples are right."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from boesfsd import config, ctl, errors, manifest, options
from boesfsd.bus.connection import read_xml
from boesfsd.model import PolicyFiles, PolicyProgram
from boesfsd.policy import operations, questions, sources

TOP = Path(__file__).resolve().parents[2]
MAN = TOP / "docs/man"


def page(name: str) -> str:
    """A man page as plain text: without the backslashes of roff."""
    return (MAN / name).read_text().replace("\\-", "-")


@pytest.mark.parametrize("option", options.TABLE.values(), ids=lambda option: option.key)
def test_every_option_is_described_with_its_default(option: options.Option) -> None:
    entry = re.search(rf"\.TP\n\.B {re.escape(option.key)}\n((?:(?!\.TP|\.SH).*\n)+)", page("boesfs-function.5"))
    assert entry
    assert option.meaning.replace("…", "...") in entry[1]
    assert f"Default: {option.default}." in entry[1]


@pytest.mark.parametrize("key", config.KEYS)
def test_every_setting_of_the_daemon_is_described_with_its_default(key: str) -> None:
    entry = re.search(rf"\.TP\n\.B {re.escape(key)}\n((?:(?!\.TP|\.SH).*\n)+)", page("boesfsd.conf.5"))
    assert entry
    written = re.search(r"Default: (\S+)\.\n", entry[1])
    assert written
    field = key.replace("-", "_")
    assert config.KEYS[key](written[1]) == getattr(config.Config(), field)


def test_the_commented_defaults_of_boesfsd_conf_are_the_defaults(tmp_path: Path) -> None:
    text = (TOP / "etc/boesfsd.conf").read_text()
    (tmp_path / "boesfsd.conf").write_text(re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.MULTILINE))
    assert config.load(tmp_path) == config.Config()
    keys = re.findall(r"^#([a-z-]+) = ", text, flags=re.MULTILINE)
    assert {key.replace("-", "_") for key in keys} == {field.name for field in dataclasses.fields(config.Config)}


@pytest.mark.parametrize("kind", errors.TABLE.values(), ids=lambda kind: kind.name)
def test_every_error_is_described(kind: errors.Kind) -> None:
    assert f".B {kind.name}\nHTTP {kind.http}, exit status {kind.exit}: {kind.when}." in page("boesfsd.8")


def test_every_member_on_the_bus_is_described() -> None:
    text = page("org.boesfs.Faas1.5")
    for interface in read_xml().values():
        assert f".SS {interface.name}\n" in text
        for name in interface.methods:
            assert f".B {name}(" in text, name
        for name, kind in interface.properties.items():
            assert f".B property {name} ({kind})" in text, name
        for name in interface.signals:
            assert f".B signal {name}(" in text, name


def test_every_option_of_a_mount_and_of_the_module_is_described() -> None:
    text, sources = page("boesfs.5"), "".join(file.read_text() for file in (TOP / "kmod").glob("*.c"))
    options = {name: kind for kind, name in re.findall(r'fsparam_(\w+)\("(\w+)"', sources)}
    assert len(options) > 5
    for name, kind in options.items():
        assert (f".B {name}\n" if kind == "flag" else f".BI {name}= ") in text, name
    listed = text[text.index(".SH OPTIONS") : text.index(".SH MODULE")]
    assert set(re.findall(r"^\.BI? (\w+)", listed, re.MULTILINE)) == set(options)
    parameters = set(re.findall(r"module_param(?:_cb)?\((\w+),", sources))
    listed = text[text.index(".SH MODULE") : text.index(".SH ERRORS")]
    assert set(re.findall(r"^\.B (\w+)", listed, re.MULTILINE)) == parameters


def test_every_use_of_the_agent_is_described() -> None:
    text = page("boesfs-agent.8").replace("\\", "")
    uses = re.findall(r'"boesfs-agent (\S+) ', (TOP / "agent/main.c").read_text())
    assert len(uses) == 3
    for use in uses:
        assert re.search(rf"boesfs-agent\n?(?:\.I )?\s?{use}\n", text), use


def test_each_page_has_its_name_and_what_it_refers_to_is_there() -> None:
    pages = {file.name: page(file.name) for file in (TOP / "docs/man").iterdir()}
    for name, text in pages.items():
        title, _, section = name.rpartition(".")
        assert f".TH {title.upper()} {section} " in text.replace("\\", ""), name
        for other, number in re.findall(r"^\.BR ([\w.\\-]*boesfs[\w.\\-]*) \((\d)\)", text, re.MULTILINE):
            assert f"{other.replace(chr(92), '')}.{number}" in pages, (name, other)


def test_the_example_of_the_man_page_is_a_manifest() -> None:
    example = re.search(r"\.SH EXAMPLE\n\.nf\n(.*?)\.fi", page("boesfs-function.5"), re.DOTALL)
    assert example
    found = manifest.settings(manifest.parse(example[1]), {})
    assert (found.memory, found.timeout, found.tmp_size, found.config) == (64, 10, 16, {"GREETING": "Hello"})


def test_the_examples_are_manifests() -> None:
    for file in (TOP / "examples").glob("*/func.yaml"):
        assert manifest.settings(manifest.read(file), {}).runtime


def test_every_path_that_the_documents_name_in_the_tree_is_there() -> None:
    for file in [TOP / "README.md", *(TOP / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_kernel_test_that_is_named_exists_and_every_deviation_is_one_of_ten() -> None:
    text = (TOP / "docs/boesfs.md").read_text()
    named = set(re.findall(r"`((?:test|full|debug)_\w+)\.(test_\w+)`", text))
    assert len(named) > 20
    for module, name in named:
        assert f"\ndef {name}(" in (TOP / f"tests/vm/kernel/guest/{module}.py").read_text(), f"{module}.{name}"
    deviations = text.partition("## How it differs from the lower filesystem")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\d+\. ", deviations, re.MULTILINE)) <= 10


# --- policies


def entry(name: str) -> str:
    """What boesfs-policy(5) says of an operation or a group, under OPERATIONS."""
    text = page("boesfs-policy.5")
    found = re.search(
        rf"\.TP\n\.B {re.escape(name)}\n((?:(?!\.TP|\.SH|\.PP).*\n)+)", text[text.index(".SH OPERATIONS") :]
    )
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", operations.GROUPS)
def test_every_group_of_operations_is_described(name: str) -> None:
    group, said = operations.GROUPS[name], entry(name)
    if group.does != operations.ALL:
        does, needs = (", ".join(operations.names(mask)) for mask in group)
        assert said == f"{does}.\nNeeds: {needs}.\n"


@pytest.mark.parametrize("row", operations.TABLE.values(), ids=lambda row: row.name)
def test_every_operation_is_described_with_its_arguments(row: operations.Operation) -> None:
    text = page("boesfs-policy.5")
    single = text[text.index("Single operations") :]
    found = re.search(rf"\.B {row.name}\n.+\.\n(?:Arguments: (.+)\.\n)?(?=\.)", single)
    assert found
    assert (found[1] or "") == ", ".join(row.order)


def policy_examples() -> list[tuple[str, str]]:
    """Title and text of each."""
    text = page("boesfs-policy.5")
    parts = re.split(
        r"^\.SS \d+\. (.+)\n", text[text.index(".SH EXAMPLES") : text.index(".SH SEE ALSO")], flags=re.MULTILINE
    )
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_there_are_ten_examples_of_policies() -> None:
    assert len(policy_examples()) == 10


@pytest.mark.parametrize(("title", "text"), policy_examples())
def test_the_examples_of_policies_allow_and_deny_what_they_say(title: str, text: str) -> None:
    blocks = re.findall(r"\.nf\n(.*?)\.fi\n", text, re.DOTALL)
    source = (
        PolicyFiles("model", blocks[0], "policy", blocks[1])
        if len(blocks) > 1
        else sources.open_block(blocks[0], title)
    )
    asked = 0
    for word, allowed in (("Allowed", True), ("Denied", False)):
        said = re.search(rf"^{word}: (.+)\.$", text, re.MULTILINE)
        assert said
        for question in said[1].split("; "):
            found = re.fullmatch(r"(\S+) (\S+)((?: \S+)*?)(?: by (\S+))?(?: as (\d+))?", question)
            assert found
            operation, path, words, program, uid = found.groups()
            programs = frozenset({program} - {None})
            compiled = sources.compile_sources(None, source, sources.Sandbox(ctl.policy.VARIABLES, programs))
            assert all("never match here" in finding.message for finding in compiled.findings)
            answers = [
                questions.answer(compiled, request).allowed
                for request in questions.parse(operation, path, words.split(), programs, int(uid or 0))
            ]
            assert all(answers) == allowed, question
            asked += 1
    assert asked > 2


def test_the_examples_of_boesfsctl_answer_as_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(TOP)
    example = re.search(r"\.SH EXAMPLES\n\.nf\n(.*?)\.fi", page("boesfsctl.1"), re.DOTALL)
    assert example
    runs = re.findall(r"\$ boesfsctl (.+)\n((?:(?!\$).*\n)*)", example[1])
    assert len(runs) == 4
    for words, answer in runs:
        assert ctl.main(shlex.split(words)) == answer.startswith("deny")
        assert capsys.readouterr().out == answer


def test_the_guide_to_programs_shows_the_example_as_it_is() -> None:
    guide, example = (TOP / "docs/programs.md").read_text(), (TOP / "examples/programs/quota.bpf.c").read_text()
    (code,) = re.findall(r"```c\n(.*?)```", guide, re.DOTALL)
    assert code in example
    (block,) = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert sources.open_block(block, "func.yaml") == PolicyProgram("func.yaml", "quota")
