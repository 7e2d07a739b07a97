"""Who may use the service, and how much: bearer keys, from CRITIC_KEYS or from the file CRITIC_KEYS_FILE.

    # a key a line, or several with commas: its name, the key, and answers a minute if they are limited
    trainer:Lw0uKc1n8yQeVd3R
    web:pT7sJx9mZb2fGh5A:120

Without any, clients on this machine are served and no others. A proxy on this machine makes all the world look so:
set keys behind one. Keys themselves are nowhere shown; logs and metrics have their names.
"""

import re
import stat
import time
from collections.abc import Iterator, Mapping
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

_ENTRY = re.compile(  # a key's signs are all of ASCII's but : and ,
    r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<key>[!-+\--9;-~]{16,})(?::(?P<per_minute>[1-9][0-9]{0,8}))?"
)
_log = getLogger(__name__)


class KeysError(ValueError):
    """Keys that can't be used; the message names the place, and never a key."""


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: of the key.
        per_minute: answers in any minute; None without a limit.
    """

    name: str
    per_minute: int | None = None


LOCAL = Caller("local")
"""A client on this machine, where there are no keys."""


class Keys:
    """Tells callers by their keys, of which it has only hashes, and counts their answers in this process.

    Attributes:
        required: whether there are any keys: without them `LOCAL` is served.
    """

    def __init__(self, callers: Mapping[str, Caller]):
        """Args: callers by key."""
        self._callers = {sha256(key.encode()).digest(): caller for key, caller in callers.items()}
        self.required = bool(callers)
        self._counts = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._counts)

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """The keys of the environment and those of the file.

        Raises:
            KeysError: a line is no key, has the name or key of another, or either place is given and has none; the
                file can't be read.
        """
        callers: dict[str, Caller] = {}
        for where, key, caller in _given(settings):
            if key in callers or caller.name in {other.name for other in callers.values()}:
                raise KeysError(f"{where} has the name or the key of one before it: give each its own")
            callers[key] = caller
        return cls(callers)

    def who(self, authorization: str | None, host: str) -> Caller | None:
        """Who asks, None for one who isn't served. It takes the same time whichever key is compared.

        Args:
            authorization: the request's header of that name, "Bearer KEY".
            host: the client's address, which matters only without keys.
        """
        if not self.required:
            return LOCAL if is_loopback(host) else None
        scheme, _, key = (authorization or "").partition(" ")
        asked = sha256(key.strip().encode("utf-8", "surrogatepass")).digest()
        callers = [caller for digest, caller in self._callers.items() if compare_digest(digest, asked)]
        return callers[0] if callers and scheme.lower() == "bearer" else None

    def allow(self, caller: Caller, cost: int) -> float | None:
        """None if the caller may have so many answers now, and then they count; else how long to wait.

        Returns:
            Seconds until they could be had if nothing else is asked for; `inf` if they are more than a minute's.
        """
        if caller.per_minute is None:
            return None
        if cost > caller.per_minute:
            return inf
        limit = RateLimitItemPerMinute(caller.per_minute)
        if self._limiter.hit(limit, caller.name, cost=cost):
            return None
        newest_first = self._counts.events.get(limit.key_for(caller.name), [])
        in_the_way = newest_first[caller.per_minute - cost :][:1]
        return max([0.0, *(answer.expiry - time.time() for answer in in_the_way)])


def is_loopback(host: str) -> bool:
    """Whether an IP address is this machine's own, as 127.0.0.1, ::1 and ::ffff:127.0.0.1 are; no name is."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _given(settings: Settings) -> Iterator[tuple[str, str, Caller]]:
    """Each key with the place it is from."""
    if settings.keys is not None:
        yield from _parse("CRITIC_KEYS", settings.keys.get_secret_value())
    if settings.keys_file is not None:
        yield from _parse(f"CRITIC_KEYS_FILE {settings.keys_file}", _read(settings.keys_file))


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(
            f"CRITIC_KEYS_FILE {path} can't be read ({type(error).__name__}): give a text file"
        ) from None
    if mode & stat.S_IROTH:
        _log.warning("CRITIC_KEYS_FILE %s can be read by every user of this machine: chmod o-r it", path)
    return text


def _parse(place: str, text: str) -> list[tuple[str, str, Caller]]:
    keys: list[tuple[str, str, Caller]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        entries = [] if line.lstrip().startswith("#") else line.split(",")
        for entry in filter(None, map(str.strip, entries)):
            match = _ENTRY.fullmatch(entry)
            where = f"{place}, line {number}, key {len(keys) + 1}"
            if match is None:
                raise KeysError(
                    f"{where} is no NAME:KEY or NAME:KEY:PER_MINUTE, the name of letters, digits and ._-, the key "
                    "of at least 16 letters, digits and signs but : and , (`openssl rand -hex 32` makes one)"
                )
            per_minute = int(match["per_minute"]) if match["per_minute"] else None
            keys.append((where, match["key"], Caller(match["name"], per_minute)))
    if not keys:
        raise KeysError(
            f"{place} has no keys: write some in, or leave the variable out to serve this machine alone"
        )
    return keys
