# SPDX-License-Identifier: Apache-2.0
"""boesfsd: functions as socket-activated systemd units."""

__version__ = "0.1.0"
