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
from boesfsd.model import App, Function, new_id

FILE = "boesfsd.db"
VERSION = 1
SCHEMA = """
CREATE TABLE app (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, config TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL) STRICT;
CREATE TABLE function (
    id TEXT PRIMARY KEY, app_id TEXT NOT NULL REFERENCES app(id) ON DELETE CASCADE, name TEXT NOT NULL,
    uid INTEGER NOT NULL UNIQUE, digest TEXT NOT NULL, command TEXT NOT NULL, settings TEXT NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, UNIQUE (app_id, name)) STRICT;
"""
FUNCTIONS = """
SELECT f.id, f.name, f.uid, f.digest, f.command, f.settings, f.created_at, f.updated_at,
       a.id, a.name, a.config, a.created_at, a.updated_at
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
        rows = await self._db.execute_fetchall("SELECT id, name, config, created_at, updated_at FROM app ORDER BY name")
        return [_app(tuple(row)) for row in rows]

    async def functions(self) -> list[Function]:
        """All functions by app and name."""
        rows = await self._db.execute_fetchall(FUNCTIONS + "ORDER BY a.name, f.name")
        return [_function(tuple(row)) for row in rows]

    async def add_app(self, name: str, config: dict[str, str]) -> App:
        """A new app; AppExists."""
        now = now_ms()
        app = App(new_id(), name, config, now, now)
        async with self._transaction(f"Cannot store app {name}"):
            try:
                await self._db.execute(
                    "INSERT INTO app VALUES (?, ?, ?, ?, ?)", (app.id, name, json.dumps(config), now, now)
                )
            except sqlite3.IntegrityError as error:
                raise BoesError("AppExists", f"App {name} exists already") from error
        return app

    async def remove_app(self, app: App) -> None:
        """Remove the app with all its functions."""
        async with self._transaction(f"Cannot remove app {app.name}"):
            await self._db.execute("DELETE FROM app WHERE id = ?", (app.id,))

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
        )
        async with self._transaction(f"Cannot store function {function.label}"):
            await self._db.execute(
                "INSERT INTO function VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " digest = excluded.digest, command = excluded.command, settings = excluded.settings,"
                " updated_at = excluded.updated_at",
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
    if version == 0:
        await connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")


def _app(row: tuple[str, str, str, int, int]) -> App:
    return App(row[0], row[1], json.loads(row[2]), row[3], row[4])


def _function(row: tuple[object, ...]) -> Function:
    identity, name, uid, digest, command, settings, created, updated, *app = row
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
    )


def _wrapped(error: sqlite3.Error, what: str) -> BoesError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL or "disk I/O error" in str(error):
        return BoesError("NoSpace", f"{what}: {error}", hint="free space under /var/lib/boesfsd")
    return BoesError("Failed", f"{what}: {error}")
