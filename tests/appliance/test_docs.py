# SPDX-License-Identifier: Apache-2.0
"""What README tells people to type works as it stands."""

import re
from pathlib import Path

from conftest import OwnLab

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_commands_of_the_readme_work(own_lab: OwnLab) -> None:
    block = re.search(r"<!-- tested: [^\n]*test_docs.py[^\n]*-->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert block
    with own_lab("docs") as own:
        out = own.machine.run("sh", "-euc", block[1]).stdout
        assert '{"message": "Hello all"}' in out
        assert '{"message": "Hello you"}' in out
        own.machine.run("journalctl", "--sync")
        assert "called with {'name': 'you'}" in own.machine.shell("journalctl --no-pager BOESFS_APP=demo")


def test_the_man_pages_are_installed_where_the_units_say(own_lab: OwnLab) -> None:
    with own_lab("man") as own:
        said = own.machine.shell("grep -rhoE 'man:[a-z.-]+\\([0-9]\\)' /usr/lib/systemd/system/boesfs*").split()
        assert said
        for name, section in re.findall(r"man:([a-z.-]+)\((\d)\)", " ".join(said)):
            assert (own.machine.root / f"usr/share/man/man{section}/{name}.{section}").exists()
