# SPDX-License-Identifier: Apache-2.0
"""The walk of promise.py, beside all that runs on the machine of the other checks."""

from bench import Bench, check
from promise import tour


@check
def what_the_product_promises_is_kept(bench: Bench) -> None:
    tour(bench.lab.machine)
