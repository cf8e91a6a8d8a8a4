# SPDX-License-Identifier: Apache-2.0
"""The truth: apps and functions in SQLite (through aiosqlite) under /var/lib/boesfsd. docs/store.md has the layout."""

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from boesfsd import manifest
from boesfsd.errors import BoesError
from boesfsd.model import App, Function, PolicyBlock, PolicyFiles, PolicyProgram, PolicySource, new_id

FILE = "boesfsd.db"
VERSION = 4
SCHEMA = """
CREATE TABLE app (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, policy TEXT) STRICT;
CREATE TABLE function (
    id TEXT PRIMARY KEY, app_id TEXT NOT NULL REFERENCES app(id) ON DELETE CASCADE, name TEXT NOT NULL,
    uid INTEGER NOT NULL UNIQUE, digest TEXT NOT NULL, command TEXT NOT NULL, settings TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, policy TEXT, UNIQUE (app_id, name)) STRICT;
"""
UPGRADES = {
    1: "ALTER TABLE app ADD COLUMN policy TEXT; ALTER TABLE function ADD COLUMN policy TEXT;",
    2: "",  # a policy may be a program, which those before do not know
    3: "",  # system_calls may be set, which those before do not keep
}
"""From the layout of this number to the next."""
FUNCTIONS = """
SELECT f.id, f.name, f.uid, f.digest, f.command, f.settings, f.created_at, f.updated_at, f.policy,
       a.id, a.name, a.config, a.created_at, a.updated_at, a.policy
FROM function f JOIN app a ON a.id = f.app_id
"""


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Store:
    """One connection, one writer. Every method that changes something has it on the disk when it returns."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._db = connection

    @classmethod
    async def open(cls, directory: Path) -> "Store":
        """Open or create the database in DIRECTORY."""
        file = directory / FILE
        connection: aiosqlite.Connection | None = None
        try:
            connection = await aiosqlite.connect(file, isolation_level=None)
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute("PRAGMA synchronous = FULL")
            await connection.execute("PRAGMA foreign_keys = ON")
            await _upgrade(connection, file)
        except (sqlite3.Error, BoesError) as error:
            if connection:
                await connection.close()  # its thread would keep the process
            if isinstance(error, BoesError):
                raise
            raise _wrapped(error, f"Cannot open {file}") from error
        return cls(connection)

    async def close(self) -> None:
        """Close; nothing is pending."""
        await self._db.close()

    async def apps(self) -> list[App]:
        """All apps by name."""
        rows = await self._db.execute_fetchall(
            "SELECT id, name, config, created_at, updated_at, policy FROM app ORDER BY name"
        )
        return [_app(tuple(row)) for row in rows]

    async def functions(self) -> list[Function]:
        """All functions by app and name."""
        rows = await self._db.execute_fetchall(FUNCTIONS + "ORDER BY a.name, f.name")
        return [_function(tuple(row)) for row in rows]

    async def add_app(self, name: str, config: dict[str, str], policy: PolicySource | None = None) -> App:
        """A new app; AppExists."""
        now = now_ms()
        app = App(new_id(), name, config, now, now, policy)
        async with self._transaction(f"Cannot store app {name}"):
            try:
                await self._db.execute(
                    "INSERT INTO app VALUES (?, ?, ?, ?, ?, ?)",
                    (app.id, name, json.dumps(config), now, now, _written(policy)),
                )
            except sqlite3.IntegrityError as error:
                raise BoesError("AppExists", f"App {name} exists already") from error
        return app

    async def remove_app(self, app: App) -> None:
        """Remove the app with all its functions."""
        async with self._transaction(f"Cannot remove app {app.name}"):
            await self._db.execute("DELETE FROM app WHERE id = ?", (app.id,))

    async def put_app_policy(self, app: App) -> None:
        """Keep the app's policy, and when it changed."""
        async with self._transaction(f"Cannot store app {app.name}"):
            await self._db.execute(
                "UPDATE app SET policy = ?, updated_at = ? WHERE id = ?", (_written(app.policy), app.updated_at, app.id)
            )

    async def put_function(self, function: Function) -> None:
        """Add the function, or replace the one with its id."""
        row = (
            function.id,
            function.app.id,
            function.name,
            function.uid,
            function.digest,
            json.dumps(function.command),
            json.dumps(manifest.to_json(function.settings)),
            function.created_at,
            function.updated_at,
            _written(function.policy),
        )
        async with self._transaction(f"Cannot store function {function.label}"):
            await self._db.execute(
                "INSERT INTO function VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " digest = excluded.digest, command = excluded.command, settings = excluded.settings,"
                " updated_at = excluded.updated_at, policy = excluded.policy",
                row,
            )

    async def remove_function(self, function: Function) -> None:
        """Remove the function."""
        async with self._transaction(f"Cannot remove function {function.label}"):
            await self._db.execute("DELETE FROM function WHERE id = ?", (function.id,))

    async def free_uid(self, first: int, last: int) -> int:
        """A uid of the range that no function has; Unsupported when all are taken."""
        rows = await self._db.execute_fetchall("SELECT uid FROM function WHERE uid BETWEEN ? AND ?", (first, last))
        taken = {row[0] for row in rows}
        for uid in range(first, last + 1):
            if uid not in taken:
                return uid
        raise BoesError("Unsupported", f"All uids from {first} to {last} are taken", hint="widen uid-range")

    @asynccontextmanager
    async def _transaction(self, what: str) -> AsyncIterator[None]:
        try:
            await self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                await self._db.execute("COMMIT")
            except BaseException:
                await self._db.rollback()
                raise
        except sqlite3.Error as error:
            raise _wrapped(error, what) from error


async def _upgrade(connection: aiosqlite.Connection, file: Path) -> None:
    rows = [*await connection.execute_fetchall("PRAGMA user_version")]
    version = rows[0][0]
    if version > VERSION:
        raise BoesError(
            "Failed",
            f"{file} has layout {version}, this boesfsd knows {VERSION}",
            hint="install the newer boesfsd again",
        )
    if version < VERSION:
        steps = "".join(UPGRADES[old] for old in range(version, VERSION)) if version else SCHEMA
        await connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {VERSION}; COMMIT;")


def _written(policy: PolicySource | None) -> str | None:
    return json.dumps(policy._asdict()) if policy else None


def _policy(written: object) -> PolicySource | None:
    if written is None:
        return None
    data = json.loads(str(written))
    if "program" in data:
        return PolicyProgram(**data)
    return PolicyFiles(**data) if "model" in data else PolicyBlock(**{**data, "keys": tuple(data["keys"])})


def _app(row: tuple[str, str, str, int, int, str | None]) -> App:
    return App(row[0], row[1], json.loads(row[2]), row[3], row[4], _policy(row[5]))


def _function(row: tuple[object, ...]) -> Function:
    identity, name, uid, digest, command, settings, created, updated, policy, *app = row
    return Function(
        id=str(identity),
        app=_app(tuple(app)),  # type: ignore[arg-type]
        name=str(name),
        uid=int(str(uid)),
        digest=str(digest),
        command=tuple(json.loads(str(command))),
        settings=manifest.from_json(json.loads(str(settings))),
        created_at=int(str(created)),
        updated_at=int(str(updated)),
        policy=_policy(policy),
    )


def _wrapped(error: sqlite3.Error, what: str) -> BoesError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL or "disk I/O error" in str(error):
        return BoesError("NoSpace", f"{what}: {error}", hint="free space under /var/lib/boesfsd")
    return BoesError("Failed", f"{what}: {error}")
