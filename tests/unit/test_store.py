# SPDX-License-Identifier: Apache-2.0
"""The database: what is in it, what it refuses, what survives."""

import asyncio
import dataclasses
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from samples import ROOT, full_function, function

from boesfsd.errors import BoesError
from boesfsd.model import App, Function, PolicyBlock, PolicyFiles, PolicyProgram, PolicySource, Settings
from boesfsd.store import FILE, VERSION, Store

Scene = Callable[[Store], Coroutine[Any, Any, Any]]


def play(directory: Path, scene: Scene) -> Any:
    """Open the store, play, close."""

    async def run() -> Any:
        store = await Store.open(directory)
        try:
            return await scene(store)
        finally:
            await store.close()

    return asyncio.run(run())


def of(app: App, name: str = "hello", **changes: Any) -> Function:
    return dataclasses.replace(function(), app=app, name=name, **changes)


def refused(directory: Path, scene: Scene, code: str) -> str:
    with pytest.raises(BoesError) as refusal:
        play(directory, scene)
    assert refusal.value.code == code
    return str(refusal.value)


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    async def scene(store: Store) -> tuple[list[App], list[Function]]:
        return await store.apps(), await store.functions()

    assert play(tmp_path, scene) == ([], [])


def test_what_was_put_is_there_after_opening_again(tmp_path: Path) -> None:
    async def write(store: Store) -> Function:
        app = await store.add_app("shop", {"A": "ü\n"})
        deployed = dataclasses.replace(full_function(), app=app)
        await store.put_function(deployed)
        return deployed

    async def read(store: Store) -> list[Function]:
        return await store.functions()

    written = play(tmp_path, write)
    assert play(tmp_path, read) == [written]


def test_apps_and_functions_come_by_name(tmp_path: Path) -> None:
    async def scene(store: Store) -> tuple[list[str], list[str]]:
        for number, name in enumerate(["b", "a"]):
            app = await store.add_app(name, {})
            await store.put_function(of(app, "z", id=f"{name}z", uid=10 + number))
            await store.put_function(of(app, "y", id=f"{name}y", uid=20 + number))
        return [app.name for app in await store.apps()], [deployed.label for deployed in await store.functions()]

    assert play(tmp_path, scene) == (["a", "b"], ["a/y", "a/z", "b/y", "b/z"])


def test_an_app_of_the_same_name_is_refused(tmp_path: Path) -> None:
    async def scene(store: Store) -> None:
        await store.add_app("shop", {})
        await store.add_app("shop", {})

    assert "shop" in refused(tmp_path, scene, "AppExists")


def test_the_store_goes_on_after_a_refusal(tmp_path: Path) -> None:
    async def scene(store: Store) -> list[str]:
        await store.add_app("shop", {})
        with pytest.raises(BoesError):
            await store.add_app("shop", {})
        await store.add_app("other", {})
        return [app.name for app in await store.apps()]

    assert play(tmp_path, scene) == ["other", "shop"]


def test_putting_again_replaces_code_and_settings_but_not_identity(tmp_path: Path) -> None:
    async def scene(store: Store) -> list[Function]:
        app = await store.add_app("shop", {})
        first = of(app)
        await store.put_function(first)
        await store.put_function(
            dataclasses.replace(
                first, digest="e" * 64, command=("x",), settings=Settings(memory=7), updated_at=9, created_at=9, uid=77
            )
        )
        return await store.functions()

    (found,) = play(tmp_path, scene)
    assert (found.digest, found.command, found.settings, found.updated_at) == ("e" * 64, ("x",), Settings(memory=7), 9)
    assert (found.created_at, found.uid) == (1, function().uid)


@pytest.mark.parametrize("change", [{"id": "OTHER", "uid": 5}, {"id": "OTHER", "name": "other"}])
def test_two_functions_share_neither_name_nor_uid(tmp_path: Path, change: dict[str, Any]) -> None:
    async def scene(store: Store) -> None:
        app = await store.add_app("shop", {})
        await store.put_function(of(app))
        await store.put_function(dataclasses.replace(of(app), **change))

    refused(tmp_path, scene, "Failed")


def test_a_function_of_no_app_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, lambda store: store.put_function(function()), "Failed")


def test_removing_an_app_removes_its_functions_and_no_others(tmp_path: Path) -> None:
    async def scene(store: Store) -> list[str]:
        shop, other = await store.add_app("shop", {}), await store.add_app("other", {})
        await store.put_function(of(shop, "a", id="A", uid=1))
        await store.put_function(of(shop, "b", id="B", uid=2))
        await store.put_function(of(other, "c", id="C", uid=3))
        await store.remove_app(shop)
        return [deployed.label for deployed in await store.functions()]

    assert play(tmp_path, scene) == ["other/c"]


def test_a_uid_is_given_again_only_when_its_function_is_gone(tmp_path: Path) -> None:
    async def scene(store: Store) -> list[int]:
        app = await store.add_app("shop", {})
        given = []
        for number in range(3):
            given.append(await store.free_uid(100, 102))
            await store.put_function(of(app, f"f{number}", id=f"F{number}", uid=given[-1]))
        await store.remove_function(of(app, "f1", id="F1"))
        given.append(await store.free_uid(100, 102))
        return given

    assert play(tmp_path, scene) == [100, 101, 102, 101]


def test_when_all_uids_are_taken_the_setting_is_named(tmp_path: Path) -> None:
    async def scene(store: Store) -> None:
        app = await store.add_app("shop", {})
        await store.put_function(of(app, uid=100))
        await store.free_uid(100, 100)

    assert "uid-range" in refused(tmp_path, scene, "Unsupported")


def test_uids_outside_the_range_do_not_count(tmp_path: Path) -> None:
    async def scene(store: Store) -> int:
        app = await store.add_app("shop", {})
        await store.put_function(of(app, uid=100))
        return await store.free_uid(200, 201)

    assert play(tmp_path, scene) == 200


def test_the_database_is_written_through(tmp_path: Path) -> None:
    async def scene(store: Store) -> list[Any]:
        names = ("journal_mode", "synchronous", "foreign_keys", "user_version")
        return [[*await store._db.execute_fetchall(f"PRAGMA {name}")][0][0] for name in names]  # noqa: RUF015

    assert play(tmp_path, scene) == ["wal", 2, 1, VERSION]


# --- what can be wrong with the file; each in a process of its own, which must also end


def daemon_start(directory: Path) -> tuple[int, str]:
    """Open the store as daemon.main does: (exit status, standard error); a process that stays is a failure."""
    script = (
        "import asyncio, pathlib, sys\n"
        "from boesfsd.errors import BoesError\n"
        "from boesfsd.store import Store\n"
        "try:\n"
        "    asyncio.run(Store.open(pathlib.Path(sys.argv[1])))\n"
        "except BoesError as error:\n"
        "    print(error.code, error, file=sys.stderr)\n"
        "    sys.exit(error.kind.exit)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, directory], cwd=ROOT, capture_output=True, text=True, timeout=5, check=False
    )
    return process.returncode, process.stderr


def test_a_newer_layout_is_refused_and_the_process_ends(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    status, says = daemon_start(tmp_path)
    assert status == 70
    assert f"{tmp_path / FILE} has layout {VERSION + 1}, this boesfsd knows {VERSION}" in says


def test_a_file_that_is_no_database_is_named_and_the_process_ends(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"hello" * 1000)
    status, says = daemon_start(tmp_path)
    assert status == 70
    assert f"Cannot open {tmp_path / FILE}" in says


def test_a_directory_that_is_missing_is_named_and_the_process_ends(tmp_path: Path) -> None:
    status, says = daemon_start(tmp_path / "nowhere")
    assert status == 70
    assert f"Cannot open {tmp_path}/nowhere/{FILE}" in says


OLDEST = """
CREATE TABLE app (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL) STRICT;
CREATE TABLE function (
    id TEXT PRIMARY KEY, app_id TEXT NOT NULL REFERENCES app(id) ON DELETE CASCADE, name TEXT NOT NULL,
    uid INTEGER NOT NULL UNIQUE, digest TEXT NOT NULL, command TEXT NOT NULL, settings TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, UNIQUE (app_id, name)) STRICT;
INSERT INTO app VALUES ('a', 'shop', '{"A": "b"}', 1, 2);
INSERT INTO function VALUES ('f', 'a', 'hello', 7, 'd', '["x"]', '{"runtime": "python"}', 3, 4);
PRAGMA user_version = 1;
"""


def test_an_older_layout_is_upgraded_and_nothing_is_lost(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as database:
        database.executescript(OLDEST)
    block = PolicyBlock("func.yaml", "policy: {}", ("policy",))

    async def scene(store: Store) -> None:
        (app,), (deployed,) = await store.apps(), await store.functions()
        assert app == App("a", "shop", {"A": "b"}, 1, 2)
        assert (deployed.id, deployed.app, deployed.uid, deployed.policy) == ("f", app, 7, None)
        await store.put_function(dataclasses.replace(deployed, policy=block))
        assert (await store.functions())[0].policy == block

    play(tmp_path, scene)
    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)


@pytest.mark.parametrize(
    "policy",
    [
        None,
        PolicyBlock("option policy", "default: deny # ü\n"),
        PolicyBlock("func.yaml", "policy: {}\n", ("policy",)),
        PolicyFiles("m.conf", "[model]", "p.csv", "p, /a\n"),
        PolicyFiles("m.conf", "", "p.csv", "", 5),
        PolicyProgram("func.yaml", "quota"),
    ],
)
def test_a_policy_is_kept_as_it_was_written(tmp_path: Path, policy: PolicySource | None) -> None:
    async def write(store: Store) -> None:
        app = await store.add_app("shop", {}, policy)
        await store.put_function(of(app, policy=policy))

    async def read(store: Store) -> list[PolicySource | None]:
        return [*(app.policy for app in await store.apps()), *(f.policy for f in await store.functions())]

    play(tmp_path, write)
    assert play(tmp_path, read) == [policy, policy]


def test_a_crash_while_the_layout_is_made_leaves_an_empty_store(tmp_path: Path) -> None:
    """All of the layout is one transaction: a file without it has user_version 0 and is begun anew."""
    sqlite3.connect(tmp_path / FILE).close()

    async def scene(store: Store) -> list[App]:
        return await store.apps()

    assert play(tmp_path, scene) == []


def test_a_full_disk_is_no_space(tmp_path: Path) -> None:
    async def scene(store: Store) -> None:
        pages = [*await store._db.execute_fetchall("PRAGMA page_count")][0][0]  # noqa: RUF015
        await store._db.execute_fetchall(f"PRAGMA max_page_count = {pages}")
        for number in range(100):
            await store.add_app(f"app{number}", {"A": "x" * 1000})

    assert "free space under /var/lib/boesfsd" in refused(tmp_path, scene, "NoSpace")


# --- kill -9

WRITER = """
import asyncio, pathlib, sys
from samples import function
from boesfsd.store import Store
import dataclasses

async def main():
    store = await Store.open(pathlib.Path(sys.argv[1]))
    template = dataclasses.replace(function(), app=await store.add_app("shop", {}))
    for number in range(100_000):
        await store.put_function(dataclasses.replace(template, id=f"F{number}", name=f"f{number}", uid=number))
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 7, 40])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, lines: int) -> None:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests/unit"}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True, env=environment
    ) as writer:
        assert writer.stdout
        acknowledged = [int(writer.stdout.readline()) for _ in range(lines)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout]

    async def read(store: Store) -> set[int]:
        return {deployed.uid for deployed in await store.functions()}

    found = play(tmp_path, read)
    assert set(acknowledged) <= found
    assert found - set(acknowledged) <= {max(acknowledged) + 1}  # one may be on the disk and not yet acknowledged
