# SPDX-License-Identifier: Apache-2.0
"""boesfsd as boesfsctl's verbs ask it: about one app or function, over D-Bus."""

from typing import Any

from boesfsd.bus.connection import NAME, ROOT, Client
from boesfsd.errors import BoesError

MANAGER, APP, FUNCTION = (f"{NAME}.{kind}" for kind in ("Manager", "App", "Function"))


class Daemon:
    """boesfsd, as its objects on the bus."""

    def __init__(self, whose: str) -> None:
        self.app, slash, self.function = whose.partition("/")
        if not self.app or (slash and not self.function):
            raise BoesError("InvalidArgs", f"{whose}: this is neither APP nor APP/FN", hint="write it as shop/hello")
        self._client = Client(NAME)
        self.close = self._client.close

    def ask(self, member: str, *arguments: Any) -> Any:
        """A call to the function, or to the app if no function is named."""
        if self.function:
            return self._client.call(self.path(self.function), FUNCTION, member, *arguments)
        path = next((path for name, path in self._client.call(ROOT, MANAGER, "ListApps") if name == self.app), None)
        if path is None:
            raise BoesError("NoSuchApp", f"There is no app {self.app}")
        return self._client.call(path, APP, member, *arguments)

    def path(self, function: str) -> str:
        """Of a function's object."""
        path: str = self._client.call(ROOT, MANAGER, "GetFunction", self.app, function)
        return path

    def functions(self) -> dict[str, str]:
        """Names and objects' paths of those that are meant."""
        if self.function:
            return {self.function: self.path(self.function)}
        return {row[1]: row[4] for row in self._client.call(ROOT, MANAGER, "ListFunctions", self.app)}

    def ask_at(self, path: str, member: str, *arguments: Any) -> Any:
        """A call to a function's object."""
        return self._client.call(path, FUNCTION, member, *arguments)

    def must_be_function(self) -> None:
        """InvalidArgs."""
        if not self.function:
            raise BoesError("InvalidArgs", f"{self.app}: this is no APP/FN", hint="write it as shop/hello")

    def about_function(self, name: str) -> Any:
        """A property."""
        return self._client.get(self.path(self.function), FUNCTION, name)

    def about_itself(self, name: str) -> Any:
        """A property of the Manager."""
        return self._client.get(ROOT, MANAGER, name)
