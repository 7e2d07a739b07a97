"""Pictures by URL: only from allowed hosts at public addresses, only the file itself, with a timeout."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hostile import GOOD, URLS
from hypothesis import given
from hypothesis import strategies as st

from critic.service import fetching
from critic.service.errors import Refused
from critic.service.fetching import fetch, is_public
from critic.service.settings import Settings

HOST = "pictures.example"
URL = f"https://{HOST}/cats/cat.png?size=large"
SETTINGS = Settings(url_hosts=f"{HOST},127.0.0.1,localhost,xn--bcher-kva.example")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD) + GOOD


def refusal(url: str, settings: Settings = SETTINGS) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        asyncio.run(fetch(url, settings))
    assert caught.value.message
    return caught.value.status, caught.value.code


# --- which URLs


def test_hosts_are_given_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRITIC_URL_HOSTS", "pictures.example, CDN.example")
    assert Settings().url_hosts == {"pictures.example", "cdn.example"}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{host} was looked up")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "url", [*URLS, "https://" + "a" * 100_000, "https://pictures.example:x", "https://\0", ""]
)
def test_only_allowed_hosts_by_https_are_resolved(url: str) -> None:
    assert refusal(url) in [(400, "bad_url"), (403, "host_refused")]


@pytest.mark.usefixtures("no_network")
def test_nothing_is_fetched_unless_hosts_are_allowed() -> None:
    assert refusal(URL, Settings()) == (403, "urls_off")


@pytest.mark.usefixtures("no_network")
@given(st.text() | st.text().map("https://".__add__))
def test_any_text_is_refused(text: str) -> None:
    assert refusal(text)[0] in (400, 403)


# --- which addresses


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_the_whole_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254", "172.16.0.1"),
        *(
            "192.168.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
        ),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1"),
        *("fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1"),
        *("2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "100::1", "4000::1"),
    ],
)
def test_addresses_inside_a_network_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], ["fe80::1%eth0"], []], ids=str
)
def test_a_name_at_an_address_inside_a_network_is_refused(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (a, 443)) for a in addresses])
    assert refusal(URL) == (403, "host_refused")


def test_a_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert refusal(URL) == (502, "url_failed")


# --- what comes back


@dataclass
class Site:
    """A host on the loopback with a given answer.

    Attributes:
        answer: the bytes to send, or a function that handles the connection.
        requests: the requests with their headers.
        names: the names that were resolved.
    """

    answer: bytes | Callable[[asyncio.StreamWriter], Any] = OK
    requests: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    servers: list[str | None] = field(default_factory=list)
    certificate: Path = Path()

    def fetch(self, url: str = URL, settings: Settings = SETTINGS) -> bytes:
        async def run() -> bytes:
            async with self._served():
                return await fetch(url, settings)

        return asyncio.run(run())

    def refusal(self, settings: Settings = SETTINGS) -> tuple[int, str]:
        with pytest.raises(Refused) as caught:
            self.fetch(settings=settings)
        assert HOST in caught.value.message
        return caught.value.status, caught.value.code

    @asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        context.sni_callback = lambda _, name, __: self.servers.append(name)
        server = await asyncio.start_server(self._serve, "127.0.0.1", fetching._PORT, ssl=context)
        yield
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if isinstance(self.answer, bytes):
            writer.write(self.answer)
            await writer.drain()
        else:
            await self.answer(writer)
        writer.close()


def make_certificate(host: str, file: Path) -> Path:
    """A self-signed certificate for a host, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now() - timedelta(days=2))
        .not_valid_after(datetime.now() + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Its name resolves to a public address the first time, and to another address afterwards."""
    site = Site(certificate=make_certificate(HOST, tmp_path / "site.pem"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(fetching, "_PORT", free.getsockname()[1])

    def look_up(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        if host != "127.0.0.1":
            site.names.append(host)
        address = "127.0.0.1" if len(site.names) < 2 else "127.6.6.6"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr("certifi.where", lambda: str(site.certificate))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    return site


def test_a_file_comes_from_the_address_that_was_looked_up_once(site: Site) -> None:
    assert site.fetch() == GOOD
    assert site.names == site.servers == [HOST]
    (request,) = site.requests
    assert request.startswith("GET /cats/cat.png?size=large HTTP/1.1\r\n")
    assert f"Host: {HOST}\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request
    assert "Authorization" not in request and "Cookie" not in request


def test_a_certificate_of_another_name_is_refused(site: Site, tmp_path: Path) -> None:
    make_certificate("evil.example", site.certificate)
    assert site.refusal() == (502, "url_failed")
    assert not site.requests


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(site: Site, status: int) -> None:
    site.answer = b"HTTP/1.1 %d Moved\r\nLocation: https://%s/b\r\nContent-Length: 0\r\n\r\n" % (
        status,
        HOST.encode(),
    )
    assert site.refusal() == (502, "url_failed")
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\n1",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\n1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"",
    ],
    ids=lambda answer: answer[:40].decode(),
)
def test_what_is_no_file_is_refused(site: Site, answer: bytes) -> None:
    site.answer = answer
    assert site.refusal() == (502, "url_failed")


@pytest.mark.parametrize(
    "head", [b"Content-Length: %d" % len(GOOD), b"Connection: close"], ids=["stated", "unstated"]
)
def test_a_file_over_the_limit_is_refused(site: Site, head: bytes) -> None:
    site.answer = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + GOOD
    assert site.fetch(settings=SETTINGS.model_copy(update={"max_image_bytes": len(GOOD)})) == GOOD
    site.names.clear()
    assert site.refusal(SETTINGS.model_copy(update={"max_image_bytes": len(GOOD) - 1})) == (413, "picture_too_big")


def test_an_endless_file_is_refused_soon(site: Site) -> None:
    sent = 0

    async def pour(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(2**16))
            sent += 2**16
            await writer.drain()

    site.answer = pour
    assert site.refusal(SETTINGS.model_copy(update={"max_image_bytes": 2**20})) == (413, "picture_too_big")
    assert sent < 2**24


@pytest.mark.parametrize("drop", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["head", "body"])
def test_a_file_that_trickles_is_refused_in_time(site: Site, drop: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_SECONDS", 0.5)

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(drop)
        while not writer.is_closing():
            writer.write(b"1")
            await asyncio.sleep(0.02)

    site.answer = trickle
    assert site.refusal() == (504, "url_timed_out")
