# SPDX-License-Identifier: Apache-2.0
"""D-Bus: `connection` speaks it, `objects` are what boesfsd has there."""
