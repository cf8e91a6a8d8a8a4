# SPDX-License-Identifier: Apache-2.0
"""The one table of errors: what each is called on D-Bus, over HTTP and as an exit status, and what to do about it."""

from dataclasses import dataclass

PREFIX = "org.boesfs.Faas1.Error."
STANDARD = "org.freedesktop.DBus.Error."


@dataclass(frozen=True, slots=True)
class Kind:
    """One row: D-Bus name, HTTP status, exit status, when it happens."""

    name: str
    http: int
    exit: int
    when: str


TABLE = {
    kind.name.rsplit(".", 1)[1]: kind
    for kind in (
        Kind(PREFIX + "NoSuchApp", 404, 4, "the app does not exist"),
        Kind(PREFIX + "NoSuchFunction", 404, 4, "the function does not exist"),
        Kind(PREFIX + "NoSuchCall", 404, 4, "no such call is being served"),
        Kind(PREFIX + "NotFound", 404, 4, "the HTTP path does not exist"),
        Kind(PREFIX + "MethodNotAllowed", 405, 2, "the HTTP path takes another method"),
        Kind(PREFIX + "AppExists", 409, 1, "an app of this name exists"),
        Kind(PREFIX + "FunctionExists", 409, 1, "a function of this name exists and replace is not set"),
        Kind(PREFIX + "InvalidManifest", 400, 2, "func.yaml cannot be used; the message says where"),
        Kind(PREFIX + "InvalidPolicy", 400, 2, "a policy cannot be used; the message has file, line and rule"),
        Kind(PREFIX + "InvalidCode", 400, 2, "the source tree or archive cannot be used; the message has the path"),
        Kind(PREFIX + "RequestTooLarge", 413, 2, "the request body is over max-request-size"),
        Kind(PREFIX + "NoSpace", 507, 75, "the disk under /var/lib/boesfsd is full"),
        Kind(PREFIX + "Unsupported", 501, 69, "this host cannot do what is asked"),
        Kind(PREFIX + "Busy", 503, 75, "no instance was free before the deadline, or the function learns already"),
        Kind(PREFIX + "Stopped", 503, 75, "the function was stopped during the call"),
        Kind(PREFIX + "Cancelled", 503, 75, "the call was cancelled"),
        Kind(PREFIX + "Timeout", 504, 75, "the call's deadline passed; the instance was killed"),
        Kind(PREFIX + "FunctionFailed", 502, 1, "the function failed, crashed or was killed"),
        Kind(PREFIX + "InvalidResponse", 502, 1, "the function's answer breaks the FDK contract"),
        Kind(PREFIX + "InitFailed", 502, 1, "the function ended before it listened"),
        Kind(PREFIX + "InitTimeout", 504, 75, "the function did not listen within init-timeout"),
        Kind(PREFIX + "InvalidConfiguration", 500, 78, "boesfsd.conf cannot be used"),
        Kind(PREFIX + "Failed", 500, 70, "a fault of boesfsd or of the host; see journalctl -u boesfsd"),
        Kind(STANDARD + "InvalidArgs", 400, 2, "a name, an option or a value is not allowed"),
        Kind(STANDARD + "AccessDenied", 403, 77, "polkit, or without it the uid, does not allow it"),
        Kind(STANDARD + "InteractiveAuthorizationRequired", 403, 77, "polkit would have to ask a person"),
        Kind(STANDARD + "UnknownMethod", 404, 2, "no such member"),
        Kind(STANDARD + "UnknownObject", 404, 4, "no such object"),
        Kind(STANDARD + "UnknownProperty", 404, 2, "no such property"),
        Kind(STANDARD + "PropertyReadOnly", 403, 2, "properties are changed by methods"),
    )
}


class BoesError(Exception):
    """An expected failure. CODE is a key of TABLE; HINT says what to do, when something can be done."""

    def __init__(self, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.kind = TABLE[code]
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. Hint: {self.hint}" if self.hint else self.message
