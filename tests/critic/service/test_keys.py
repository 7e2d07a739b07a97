"""Keys name their callers, limit them, and are never shown."""

import base64
import logging
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.service.keys import LOCAL, Caller, Keys, KeysError, is_loopback
from critic.service.settings import Settings

ANN, BOB = "ann-has-this-key-0", "bob/has+this=key#1"


def keys(text: str) -> Keys:
    return Keys.load(Settings(keys=text))


# --- reading them


@pytest.mark.parametrize(
    "text",
    [
        f"ann:{ANN},bob:{BOB}:60",
        f" ann:{ANN} ,, bob:{BOB}:60 ,",
        f"# those of ann, and of bob\n\nann:{ANN}\r\n  # bob:{ANN}:2\nbob:{BOB}:60\n",
    ],
)
def test_keys_are_a_line_each_or_have_commas_between(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    for loaded in (keys(text), Keys.load(Settings(keys_file=file))):
        assert loaded.required
        assert loaded.authenticate(f"Bearer {ANN}", "10.0.0.1") == Caller("ann")
        assert loaded.authenticate(f"Bearer {BOB}", "10.0.0.1") == Caller("bob", per_minute=60)


def test_the_variable_and_the_file_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"bob:{BOB}")
    monkeypatch.setenv("CRITIC_KEYS", f"ann:{ANN}")
    monkeypatch.setenv("CRITIC_KEYS_FILE", str(tmp_path / "keys"))
    both = Keys.load(Settings())
    assert [both.authenticate(f"Bearer {key}", "::1") for key in (ANN, BOB)] == [Caller("ann"), Caller("bob")]
    monkeypatch.setenv("CRITIC_KEYS", f"bob:{ANN}")
    with pytest.raises(KeysError, match=r"keys, line 1, key 1 has the name or the key of an earlier one"):
        Keys.load(Settings())


SECRET = "hunter2" * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"ann:{ANN}\nhunter2", "line 2, key 2 isn't NAME:KEY"),
        (f"ann:{ANN}\n\nbob:hunter2", "line 3, key 2 isn't NAME:KEY .* at least 16"),
        (f"ann:{ANN},{SECRET}", "line 1, key 2 isn't NAME:KEY"),
        (f"ann bob:{SECRET}", "line 1, key 1 isn't NAME:KEY"),
        (f"ann:{SECRET}:", "line 1, key 1 isn't NAME:KEY"),
        (f"ann:{SECRET}:0", "line 1, key 1 isn't NAME:KEY"),
        (f"ann:{SECRET}:many", "line 1, key 1 isn't NAME:KEY"),
        (f"ann:{SECRET}:1:1", "line 1, key 1 isn't NAME:KEY"),
        (f"ann:{SECRET} x", "line 1, key 1 isn't NAME:KEY"),
        (f"ann:{SECRET}é", "line 1, key 1 isn't NAME:KEY"),
        (f"ann:{ANN}\nann:{SECRET}", "line 2, key 2 has the name or the key of an earlier one"),
        (f"ann:{SECRET}\nbob:{SECRET}", "line 2, key 2 has the name or the key of an earlier one"),
        (f"# ann:{SECRET}\n,", "has no keys"),
    ],
)
def test_what_is_no_key_is_named_by_its_line_and_not_shown(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)
    for place, options in (
        ("CRITIC_KEYS", {"keys": text}),
        ("CRITIC_KEYS_FILE .*", {"keys_file": tmp_path / "keys"}),
    ):
        with pytest.raises(KeysError, match=rf"^{place}.*{message}") as refused:
            Keys.load(Settings(**options))
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("content", [None, b"ann:\xff"])
def test_a_file_that_cant_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeysError, match=rf"CRITIC_KEYS_FILE {file} can't be read"):
        Keys.load(Settings(keys_file=file))


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_a_file_that_all_can_read_is_warned_of(
    mode: int, warnings: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann:{ANN}")
    file.chmod(mode)
    with caplog.at_level(logging.WARNING):
        Keys.load(Settings(keys_file=file))
    assert [record.message for record in caplog.records] == [
        f"every user of this machine can read CRITIC_KEYS_FILE {file}: run `chmod o-r` on it"
    ] * warnings


def test_no_key_is_shown_by_what_holds_it() -> None:
    loaded = keys(f"ann:{ANN}:60")
    shown = repr(loaded) + str(vars(loaded)) + repr(loaded.authenticate(f"Bearer {ANN}", "::1"))
    assert "ann" in shown and ANN not in shown


# --- knowing callers by them


@pytest.mark.parametrize("header", [f"Bearer {ANN}", f"bearer {ANN}", f"BEARER  {ANN} "])
def test_the_scheme_may_be_in_capitals(header: str) -> None:
    assert keys(f"ann:{ANN},bob:{BOB}").authenticate(header, "10.0.0.1") == Caller("ann")


def test_a_key_may_be_the_password_of_a_url() -> None:
    for credentials in (f"ann:{ANN}", f":{ANN}", f"me:{ANN}"):
        header = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        assert keys(f"ann:{ANN},bob:{BOB}").authenticate(header, "10.0.0.1") == Caller("ann")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"Basic {base64.b64encode(ANN.encode()).decode()}",
        f"Basic {base64.b64encode(f'{ANN}:'.encode()).decode()}",
        "Basic /w==",
        f"Digest {ANN}",
        "Bearer",
        "Bearer ",
        ANN,
        f"Basic {ANN}",
        f"Bearer {ANN}x",
        f"Bearer {ANN[:-1]}",
        f"Bearer ann:{ANN}",
    ],
)
def test_others_are_nobody_even_on_this_machine(header: str | None) -> None:
    assert keys(f"ann:{ANN},bob:{BOB}").authenticate(header, "127.0.0.1") is None


@given(st.text(st.characters(codec=None)))
def test_any_header_is_nobodys_or_somebodys(header: str) -> None:
    assert keys(f"ann:{ANN}").authenticate(header, "127.0.0.1") is None


@pytest.mark.parametrize("asked", [ANN, BOB, "nobody-has-this-key"])
def test_every_key_is_compared_whichever_is_asked_for(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    monkeypatch.setattr(
        "critic.service.keys.compare_digest", lambda one, other: compared.append(one) or one == other
    )
    keys(f"ann:{ANN},bob:{BOB}").authenticate(f"Bearer {asked}", "10.0.0.1")
    assert len(compared) == 2


def test_without_keys_only_this_machine_is_served() -> None:
    none = Keys.load(Settings())
    assert not none.required
    assert none.authenticate(None, "127.0.0.1") == none.authenticate(f"Bearer {ANN}", "::1") == LOCAL
    assert none.authenticate(None, "10.0.0.1") is None
    assert none.authenticate(f"Bearer {ANN}", "8.8.8.8") is None


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "::1", "::1%lo", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"]
)
def test_addresses_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "128.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "127.1",
        "127.0.0.1:80",
    ],
)
def test_addresses_and_names_that_arent(host: str) -> None:
    assert not is_loopback(host)


# --- limiting them


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in its only item, in seconds."""
    now = [1_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


def test_a_minutes_answers_and_no_more(clock: list[float]) -> None:
    limits, ann = Keys({}), Caller("ann", per_minute=10)
    assert limits.allow(ann, 6) is None
    clock[0] += 20
    assert limits.allow(ann, 4) is None
    assert limits.allow(ann, 1) == pytest.approx(40)
    assert limits.allow(Caller("bob", per_minute=1), 1) is None


def test_after_the_wait_it_is_allowed_and_not_before(clock: list[float]) -> None:
    limits, ann = Keys({}), Caller("ann", per_minute=10)
    for _ in range(5):
        assert limits.allow(ann, 2) is None
        clock[0] += 5
    for cost, seconds in ((1, 35), (2, 35), (3, 40), (10, 55)):
        assert limits.allow(ann, cost) == pytest.approx(seconds)
    clock[0] += 39.9
    assert limits.allow(ann, 3) == pytest.approx(0.1)
    clock[0] += 0.2
    assert limits.allow(ann, 3) is None


def test_more_than_a_minutes_answers_are_never_allowed() -> None:
    assert Keys({}).allow(Caller("ann", per_minute=10), 11) == inf


def test_a_caller_without_a_limit_has_none() -> None:
    limits = Keys({})
    assert all(limits.allow(Caller("ann"), 1000) is None for _ in range(100))
