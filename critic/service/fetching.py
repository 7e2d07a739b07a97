"""Pictures by URL, from the hosts that the operator allows, and from no place inside the operator's network.

data = await fetch("https://pictures.example/cat.png", settings)
"""

import asyncio
import ipaddress
import re
import socket

import httpx

from critic.service.errors import Refused
from critic.service.settings import Settings

_PORT = 443
_SECONDS = 10
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z][a-z0-9-]*")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_TUNNELS = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))
"""6to4 and Teredo: an IPv4 address is in these, and a relay would connect to it."""


async def fetch(url: str, settings: Settings) -> bytes:
    """The file at an `https://` URL, of at most `settings.max_image_bytes` bytes, within ten seconds in all.

    `settings.url_hosts` must list the host, in lower case, a name beyond ASCII in its xn-- form; never an address.
    The name is looked up once, all its addresses must be public ones, and the first is connected to, so that no
    later answer of a name server can lead elsewhere; the certificate must be the name's. Nothing is followed,
    unpacked, or taken from the environment (proxies, .netrc).

    Raises:
        Refused: 400, not such a URL; 403, the host isn't allowed, or is inside a network; 413, too many bytes;
            502, the host gives no such file; 504, not in time.
    """
    host, target = _check(url, settings.url_hosts)
    try:
        async with asyncio.timeout(_SECONDS):
            return await _get(target, host, await _address(host), settings.max_image_bytes)
    except TimeoutError:
        raise Refused(504, "url_timed_out", f"{host} took over {_SECONDS} s: send the picture itself") from None
    except httpx.HTTPError as error:
        raise Refused(502, "url_failed", f"{host} can't be read: {error}") from None


def is_public(address: str) -> bool:
    """Whether an IP address is one of the whole internet; an IPv4 address inside an IPv6 one counts as itself."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is None:
            return ip in _GLOBAL_V6 and ip.is_global and not any(ip in tunnel for tunnel in _TUNNELS)
        ip = inner
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _check(url: str, hosts: frozenset[str]) -> tuple[str, httpx.URL]:
    if not hosts:
        raise Refused(403, "urls_off", "this service fetches nothing: send the picture as base64 or a data URL")
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused(400, "bad_url", f"this is no URL: {error}") from None
    if target.scheme != "https" or target.userinfo or target.port not in (None, 443):
        raise Refused(400, "bad_url", "a URL must be https://HOST/..., without a user, a password or a port")
    host = target.raw_host.decode()
    if host not in hosts or not _NAME.fullmatch(host):
        raise Refused(403, "host_refused", f"{host[:80]!r} isn't among the hosts that may be fetched from")
    return host, target


async def _address(host: str) -> str:
    """The address to connect to."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(502, "url_failed", f"{host} can't be found: {error}") from None
    addresses = [str(where[0]) for *_, where in found]
    if not addresses or not all(map(is_public, addresses)):
        raise Refused(403, "host_refused", f"{host} is at an address that isn't public: nothing is fetched there")
    return addresses[0]


async def _get(target: httpx.URL, host: str, address: str, most: int) -> bytes:
    async with (
        httpx.AsyncClient(trust_env=False, timeout=None) as client,
        client.stream(
            "GET",
            target.copy_with(host=address, port=_PORT),
            headers={"Host": host, "Accept": "image/png, image/jpeg, image/webp", "Accept-Encoding": "identity"},
            extensions={"sni_hostname": host},
        ) as answer,
    ):
        if answer.status_code != 200:
            raise Refused(
                502, "url_failed", f"{host} answered {answer.status_code}: give the URL of the file itself"
            )
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise Refused(502, "url_failed", f"{host} sends the file compressed: send the picture itself")
        data = bytearray()
        async for chunk in answer.aiter_raw():
            data += chunk
            if len(data) > most:
                raise Refused(
                    413, "picture_too_big", f"the file at {host} has over {most} bytes: use a smaller one"
                )
        return bytes(data)
