# SPDX-License-Identifier: Apache-2.0
"""Golden files: `pytest --update-golden` writes them anew, to be read in the diff. Event loops: of both kinds."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from agents import Run, Scene

GOLDEN = Path(__file__).with_name("golden")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/unit/golden anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the golden file of that name."""

    def compare(name: str, text: str) -> None:
        file = GOLDEN / name
        if request.config.getoption("--update-golden"):
            file.write_text(text)
        assert text == file.read_text()

    return compare


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Plays a scene within five seconds, in each kind of loop."""

    def play(scene: Scene) -> None:
        async def limited() -> None:
            async with asyncio.timeout(5):
                await scene()

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(limited())

    return play
