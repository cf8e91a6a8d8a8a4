# SPDX-License-Identifier: Apache-2.0
"""A host without Landlock: here one whose functions' units get ENOSYS for it, as such a kernel answers."""

from conftest import OwnLab
from lab import HELLO, PROBE

PREPARE = """
mkdir -p /etc/systemd/system/boesfs-fn@.service.d
printf '[Service]\\nSystemCallFilter=~landlock_create_ruleset\\nSystemCallErrorNumber=ENOSYS\\n' \
    > /etc/systemd/system/boesfs-fn@.service.d/no-landlock.conf
systemctl daemon-reload
"""


def test_a_host_without_landlock_starts_functions_only_if_the_configuration_says_so(own_lab: OwnLab) -> None:
    with own_lab("no-landlock", prepare=PREPARE) as own:
        function = own.deploy(own.app(), PROBE, concurrency=1)
        answer = function.call(b"result = 1")
        assert (answer.status, answer.error) == (502, "InitFailed")
        assert "Landlock" in answer.json["detail"]
        own.machine.shell(
            "echo 'landlock = optional' > /etc/boesfsd/conf.d/x.conf; systemctl reload boesfsd; sleep 0.5"
        )
        assert function.probe("result = 1") == 1
        # the minimal root is the wall that is left
        assert function.probe("import os; result = os.path.exists('/etc/shadow')") is False


def test_ports_are_refused_where_landlock_cannot_restrict_them(own_lab: OwnLab) -> None:
    with own_lab("no-ports", prepare=PREPARE) as own:
        own.machine.shell(
            "echo 'landlock = optional' > /etc/boesfsd/conf.d/x.conf; systemctl reload boesfsd; sleep 0.5"
        )
        function = own.deploy(own.app(), HELLO, network="host", ports={"connect": [443]})
        answer = function.call(b"x")
        assert (answer.status, answer.error) == (502, "InitFailed")
        assert "Landlock" in answer.json["detail"]
