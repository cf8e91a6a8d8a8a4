# SPDX-License-Identifier: Apache-2.0
"""Does what a function should not be able to do, and tells how it went. What is asked for in `do` is attack (as often
as `times` says), keep (a file open, for a later call), read (it, and the same opened anew) or nothing."""

import errno
import io
import json
import os

from fdk import response

HOME = os.environ["HOME"]
PUBLIC = "/function/public.txt"
NEW = os.O_WRONLY | os.O_CREAT
kept = {}
ATTEMPTS = {
    # the nine rules that BoesFS-FaaS published, by what they are against
    "execution: cron": ("/var/spool/cron", os.stat),
    "persistence: .bashrc": (f"{HOME}/.bashrc", lambda path: os.open(path, NEW)),
    "persistence: .bash_profile": (f"{HOME}/.bash_profile", lambda path: os.open(path, NEW)),
    "privilege escalation: a library": (f"{HOME}/libboesfs.so", lambda path: os.open(path, NEW)),
    "defence evasion: a policy": (f"{HOME}/policy.txt", lambda path: os.open(path, NEW)),
    "credential access: keys": (f"{HOME}/.ssh/authorized_keys", os.stat),
    "discovery: .bash_history": (f"{HOME}/.bash_history", lambda path: os.open(path, os.O_RDONLY)),
    "collection: logs": (f"{HOME}/log", os.listdir),
    "impact: backups": ("/var/backups/dpkg.status.0", os.unlink),
    # and what this platform has besides
    "code of others": ("/var/lib/boesfsd/code", os.listdir),
    "passwords": ("/etc/shadow", lambda path: os.open(path, os.O_RDONLY)),
    "crontab": ("/etc/crontab", lambda path: os.open(path, os.O_RDONLY)),
    "a library of the host": ("/usr/lib/x86_64-linux-gnu/libpam.so.0", lambda path: os.open(path, os.O_RDWR)),
    "its own policy": ("/function/func.yaml", lambda path: os.open(path, os.O_RDWR)),
    "the policy of all": ("/etc/boesfsd/policy.yaml", lambda path: os.open(path, os.O_RDWR)),
}


def outcome(work, *arguments):
    """The name of the error that it ends with, or "done"."""
    try:
        work(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def handler(ctx, data: io.BytesIO):
    asked = json.loads(data.getvalue() or b"{}")
    told = {}
    if asked.get("do") == "attack":
        for _ in range(asked.get("times", 1)):
            told = {name: {"path": path, "outcome": outcome(work, path)} for name, (path, work) in ATTEMPTS.items()}
    elif asked.get("do") == "keep":
        kept["file"] = os.open(PUBLIC, os.O_RDONLY)
    elif asked.get("do") == "read":
        told = {"kept": outcome(os.pread, kept["file"], 1, 0), "anew": outcome(os.open, PUBLIC, os.O_RDONLY)}
    return response.Response(ctx, response_data=json.dumps(told), headers={"Content-Type": "application/json"})
