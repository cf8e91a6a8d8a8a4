# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells systemd about itself, through sdnotify (sd_notify(3))."""

import asyncio
import os
import time

import sdnotify


class Notifier:
    """READY, STATUS, RELOADING, STOPPING, and WATCHDOG at half its interval."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is complete."""
        self._notifier.notify(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """One line for systemctl status."""
        self._notifier.notify(f"STATUS={status}")

    def reloading(self) -> None:
        """Settings are being read again."""
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Shutting down."""
        self._notifier.notify("STOPPING=1\nSTATUS=Finishing the calls that are being served")

    async def watchdog(self) -> None:
        """Keep the watchdog quiet for as long as the event loop runs."""
        interval = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
        while interval:
            self._notifier.notify("WATCHDOG=1")
            await asyncio.sleep(interval)
