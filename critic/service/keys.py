"""API keys, which say who may use the service and how much: from CRITIC_KEYS and the file CRITIC_KEYS_FILE.

    # one key per line, or several with commas: its name, the key, and optionally its limit in answers per minute
    trainer:Lw0uKc1n8yQeVd3R
    web:pT7sJx9mZb2fGh5A:120

Without keys the service answers only clients on this machine. Behind a proxy on this machine every client looks
like one: set keys there. Logs, metrics and errors have the names of keys, never the keys.
"""

import base64
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv6Address, ip_address
from logging import getLogger
from math import inf
from pathlib import Path
from typing import Self

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from critic.service.settings import Settings

_ENTRY = re.compile(  # a key may have all visible ASCII characters except : and ,
    r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<key>[!-+\--9;-~]{16,})(?::(?P<per_minute>[1-9][0-9]{0,8}))?"
)
_log = getLogger(__name__)


class KeysError(ValueError):
    """Invalid keys; the message says where and shows no key."""


@dataclass(frozen=True)
class Caller:
    """The name of a key, and the most answers that it allows in any minute; None for no limit."""

    name: str
    per_minute: int | None = None


LOCAL = Caller("local")
"""A client on this machine, if there are no keys."""


class Keys:
    """Identifies callers by their keys and limits their answers. It holds only hashes of the keys."""

    def __init__(self, callers: Mapping[str, Caller]):
        """Args: the callers by key."""
        self._callers = {sha256(key.encode()).digest(): caller for key, caller in callers.items()}
        self.required = bool(callers)
        self._counts = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._counts)

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read the keys of the environment variable and of the file.

        Raises:
            KeysError: an invalid key, a key or name that occurs twice, a variable or file without keys, or a file
                that can't be read.
        """
        given = []
        if settings.keys is not None:
            given += _parse("CRITIC_KEYS", settings.keys.get_secret_value())
        if settings.keys_file is not None:
            given += _parse(f"CRITIC_KEYS_FILE {settings.keys_file}", _read(settings.keys_file))
        callers: dict[str, Caller] = {}
        for where, key, caller in given:
            if key in callers or caller.name in {other.name for other in callers.values()}:
                raise KeysError(f"{where} has the name or the key of an earlier one: both must be unique")
            callers[key] = caller
        return cls(callers)

    def authenticate(self, authorization: str | None, host: str) -> Caller | None:
        """The caller, None if it isn't authorised. Takes the same time for every key.

        `authorization` is the request's header: "Bearer KEY", or "Basic" and base64 of "anything:KEY", as clients
        send it whose only setting is the URL, http://anything:KEY@host. `host` is the client's address, used only
        without keys.
        """
        if not self.required:
            return LOCAL if is_loopback(host) else None
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() == "basic":
            scheme, key = "bearer", _password(key)
        given = sha256(key.strip().encode("utf-8", "surrogatepass")).digest()
        callers = [caller for digest, caller in self._callers.items() if compare_digest(digest, given)]
        return callers[0] if callers and scheme.lower() == "bearer" else None

    def allow(self, caller: Caller, cost: int) -> float | None:
        """Count `cost` answers against the caller's limit, if they fit.

        Returns:
            None if they fit; otherwise the seconds until they will, `inf` if they exceed the limit per minute.
        """
        if caller.per_minute is None:
            return None
        if cost > caller.per_minute:
            return inf
        limit = RateLimitItemPerMinute(caller.per_minute)
        if self._limiter.hit(limit, caller.name, cost=cost):
            return None
        newest_first = self._counts.events.get(limit.key_for(caller.name), [])
        blocking = newest_first[caller.per_minute - cost :][:1]
        return max([0.0, *(answer.expiry - time.time() for answer in blocking)])


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback IP address: 127.0.0.1, ::1, ::ffff:127.0.0.1. A name isn't."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _password(credentials: str) -> str:
    """The password of RFC 7617's credentials; "" if they aren't valid."""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        message = f"CRITIC_KEYS_FILE {path} can't be read ({type(error).__name__}): give the path of a text file"
        raise KeysError(message) from None
    if mode & stat.S_IROTH:
        _log.warning("every user of this machine can read CRITIC_KEYS_FILE %s: run `chmod o-r` on it", path)
    return text


def _parse(place: str, text: str) -> list[tuple[str, str, Caller]]:
    """Each key with the place that it comes from."""
    keys: list[tuple[str, str, Caller]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        entries = [] if line.lstrip().startswith("#") else line.split(",")
        for entry in filter(None, map(str.strip, entries)):
            match = _ENTRY.fullmatch(entry)
            where = f"{place}, line {number}, key {len(keys) + 1}"
            if match is None:
                raise KeysError(
                    f"{where} isn't NAME:KEY or NAME:KEY:PER_MINUTE. A name has letters, digits and ._-; a key "
                    "has at least 16 visible ASCII characters except : and , (`openssl rand -hex 32` makes one)"
                )
            per_minute = int(match["per_minute"]) if match["per_minute"] else None
            keys.append((where, match["key"], Caller(match["name"], per_minute)))
    if not keys:
        raise KeysError(f"{place} has no keys: add one, or unset the variable to serve this machine only")
    return keys
