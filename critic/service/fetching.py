"""Download of pictures, only from hosts that the operator allows and never from inside the operator's network."""

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
    """Download a file of at most `settings.max_image_bytes` bytes in at most ten seconds.

    `settings.url_hosts` must list the host's name in lower case, an international one in its xn-- form; addresses
    are refused. The name is resolved once, all its addresses must be public, and the connection goes to the first,
    so that a later DNS answer can't redirect it. The certificate must be the name's. Redirects, compression, and
    the environment's proxies and .netrc aren't used.

    Raises:
        Refused: 400, an invalid URL; 403, a host that isn't allowed or isn't public; 413, too many bytes; 502, the
            host doesn't send the file; 504, timeout.
    """
    host, target = _check(url, settings.url_hosts)
    try:
        async with asyncio.timeout(_SECONDS):
            return await _get(target, host, await _address(host), settings.max_image_bytes)
    except TimeoutError:
        raise Refused(504, "url_timed_out", f"{host} took over {_SECONDS} s: send the picture itself") from None
    except httpx.HTTPError as error:
        raise Refused(502, "url_failed", f"the connection to {host} failed: {error}") from None


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet. Of an IPv6 address that embeds IPv4, the latter counts."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is None:
            return ip in _GLOBAL_V6 and ip.is_global and not any(ip in tunnel for tunnel in _TUNNELS)
        ip = inner
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _check(url: str, hosts: frozenset[str]) -> tuple[str, httpx.URL]:
    if not hosts:
        raise Refused(403, "urls_off", "this service fetches no URLs: send the picture as base64 or a data URL")
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused(400, "bad_url", f"invalid URL: {error}") from None
    if target.scheme != "https" or target.userinfo or target.port not in (None, 443):
        raise Refused(400, "bad_url", "a URL must be https://HOST/..., without a user, password or port")
    host = target.raw_host.decode()
    if host not in hosts or not _NAME.fullmatch(host):
        raise Refused(403, "host_refused", f"the host {host[:80]!r} isn't allowed: send the picture itself")
    return host, target


async def _address(host: str) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(502, "url_failed", f"{host} can't be resolved: {error}") from None
    addresses = [str(where[0]) for *_, where in found]
    if not addresses or not all(map(is_public, addresses)):
        raise Refused(403, "host_refused", f"{host} has an address that isn't public: send the picture itself")
    return addresses[0]


async def _get(target: httpx.URL, host: str, address: str, limit: int) -> bytes:
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
            message = f"{host} answered {answer.status_code}: send the URL of the file itself"
            raise Refused(502, "url_failed", message)
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise Refused(502, "url_failed", f"{host} compresses the file: send the picture itself")
        data = bytearray()
        async for chunk in answer.aiter_raw():
            data += chunk
            if len(data) > limit:
                message = f"the file at {host} has over {limit} bytes: send a smaller one"
                raise Refused(413, "picture_too_big", message)
        return bytes(data)
