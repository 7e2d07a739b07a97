"""Locks of a checkout: one command or flow at a time makes critics in it, and one releases them."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from critic.release.git import CheckoutError

CHECKOUT = Path("runs/checkout.lock")
RELEASES = Path("runs/releases.lock")
"""Held while tags are made or moved. That takes minutes; a training holds `CHECKOUT` for hours."""
JOURNAL = Path("runs/promotion.json")
"""Exists while a promotion or a rollback runs, or if one was killed: see `critic.release.journal`."""


class CheckoutInUse(CheckoutError):
    """Another process holds the lock."""


@contextmanager
def hold_lock(repository: Path, holder: str, lock: Path = CHECKOUT) -> Iterator[int]:
    """Hold a lock of a checkout; gives the file descriptor that holds it. `holder` is shown to who finds it taken.

    The lock is free once the file descriptor is closed in all processes. Children of a killed process may still
    have it open.
    """
    path = repository / lock
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CheckoutInUse(
                f"{repository} is in use by {file.read().strip() or 'another process'}: wait until it ends, or "
                "stop it"
            ) from None
        file.truncate(0)
        file.write(f"{holder} (process {os.getpid()})\n")
        file.flush()
        yield file.fileno()


def require_no_dvc(repository: Path) -> None:
    """Raise a `CheckoutInUse` if a DVC command writes here, since its outputs may be incomplete."""
    path = repository / ".dvc/tmp/rwlock"
    try:
        writers = json.loads(path.read_text()).get("write", {}).values() if path.exists() else ()
    except ValueError:
        raise CheckoutInUse(f"{path} is incomplete: try again, or remove it if DVC isn't running") from None
    for pid in {writer["pid"] for writer in writers}:
        if psutil.pid_exists(pid):
            raise CheckoutInUse(f"{repository} is in use by DVC (process {pid}): wait until it ends, or stop it")
