"""Pictures and texts from untrusted clients: valid ones pass unchanged, all others are refused."""

import base64
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from time import process_time
from typing import Any, get_args

import numpy as np
import pytest
from hostile import (
    GOOD,
    HOSTILE,
    INSTRUCTIONS,
    JPEG,
    PICTURES,
    TEXTS,
    WEBP,
    Hostile,
    chunk,
    data_url,
    jpeg_segments,
    png,
    small_png,
)
from hypothesis import example, given
from hypothesis import settings as checks
from hypothesis import strategies as st
from PIL import Image, ImageFile

from critic.edits import Edit
from critic.pictures import Code, decode, file_format
from critic.prompts import ContractError, load_contract
from critic.service.errors import Refused
from critic.service.input_checks import (
    _REFUSALS,
    check_characters,
    check_instruction,
    picture_bytes,
    read_picture,
)
from critic.service.settings import Settings

FILES = Path(__file__).parents[1] / "pictures"
SETTINGS = Settings()
CONTRACT = load_contract("tiny")


def refusal(take: Callable[[], Any]) -> Refused | None:
    """The refusal, None if there is none."""
    try:
        take()
    except Refused as refused:
        return refused
    return None


def take(entry: Hostile) -> None:
    """Check an entry as the service does; URLs are for test_fetching.py."""
    given = entry.make()
    if entry.kind == "instruction":
        check_instruction(given, SETTINGS)
        return
    data = picture_bytes(given, SETTINGS) if entry.kind == "text" else given
    if isinstance(data, str):
        raise Refused(403, "urls_off", "nothing is fetched")
    picture = read_picture(data, SETTINGS)
    try:
        CONTRACT.resize(picture)
    except ContractError as error:
        raise Refused(422, "bad_shape", str(error)) from None


@pytest.mark.parametrize("entry", [*PICTURES, *TEXTS, *INSTRUCTIONS], ids=lambda entry: entry.name)
def test_what_is_hostile_is_refused_with_a_reason_and_what_is_only_strange_is_taken(entry: Hostile) -> None:
    refused = refusal(lambda: take(entry))
    assert (entry.status, entry.code) == ((refused.status, refused.code) if refused else (200, ""))
    assert refused is None or refused.message


def test_the_corpus_has_names_of_its_own() -> None:
    names = [entry.name for entry in HOSTILE]
    assert len(names) == len({*names}) >= 50


# --- pictures


@pytest.mark.parametrize(
    "entry", [entry for entry in PICTURES if entry.status == 200], ids=lambda entry: entry.name
)
def test_a_picture_is_the_one_that_is_scored_offline(entry: Hostile) -> None:
    data = entry.make()
    picture = read_picture(data, SETTINGS)
    assert picture.mode == "RGB"
    assert np.array_equal(picture, decode(data))


def test_the_format_is_what_the_bytes_say() -> None:
    assert [file_format(data) for data in (GOOD, JPEG, WEBP)] == ["PNG", "JPEG", "WEBP"]


@pytest.mark.parametrize(
    "name", ["gray16.png", "gray16_trns.png", "exif6_neg.jpg", "motion.jpg", "mpo.jpg", "p3.png"]
)
def test_a_photo_is_the_picture_that_is_scored_offline(name: str) -> None:
    data = (FILES / name).read_bytes()
    assert np.array_equal(read_picture(data, SETTINGS), decode(data))


def test_a_photo_with_more_than_a_picture_is_taken_and_an_animation_isnt() -> None:
    plain = decode((FILES / "gray.png").read_bytes())
    assert np.array_equal(read_picture((FILES / "gray16.png").read_bytes(), SETTINGS), plain)
    refused = refusal(lambda: read_picture((FILES / "anim.webp").read_bytes(), SETTINGS))
    assert refused is not None and (refused.status, refused.code) == (415, "several_frames")


def test_each_fault_of_a_picture_has_a_status_and_a_code() -> None:
    assert {*_REFUSALS} == {*get_args(Code)}


def test_limits_are_the_settings_and_a_picture_at_the_limit_is_taken() -> None:
    width, height = Image.open(BytesIO(GOOD)).size
    read_picture(GOOD, Settings(max_image_bytes=len(GOOD), max_image_pixels=width * height))
    with pytest.raises(Refused, match=f"{len(GOOD)} bytes, the limit is {len(GOOD) - 1}"):
        read_picture(GOOD, Settings(max_image_bytes=len(GOOD) - 1))
    with pytest.raises(Refused, match=f"{width * height} pixels, the limit is {width * height - 1}"):
        read_picture(GOOD, Settings(max_image_pixels=width * height - 1))


def test_no_library_makes_pillow_lenient() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("pieces", [10, 9_000])
def test_a_file_of_many_parts_is_a_picture_still(pieces: int) -> None:
    for data in (small_png(chunk(b"aaAa") * pieces), jpeg_segments(b"\xff\xe5\0\2", pieces)):
        read_picture(data, SETTINGS)


def peak() -> float:
    """The most megabytes of this process since the last reset."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def test_bombs_cost_neither_memory_nor_time() -> None:
    files = [entry.make() for entry in PICTURES]
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    memory, begun = peak(), process_time()
    for data in files:
        with suppress(Refused):
            read_picture(data, SETTINGS)
    assert peak() - memory < 100
    assert process_time() - begun < 5


@checks(deadline=None)
@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes_are_a_picture_or_are_refused(data: bytes) -> None:
    for start in (b"", GOOD[:8], GOOD[:33], JPEG[:3], JPEG[:200], WEBP[:12], WEBP[:30]):
        taken_or_refused(start + data)


@checks(deadline=None, max_examples=300)
@given(st.sampled_from([GOOD, JPEG, WEBP]), st.floats(0, 1), st.binary(min_size=1, max_size=20), st.booleans())
def test_any_damage_leaves_a_picture_or_a_refusal(good: bytes, place: float, junk: bytes, cut: bool) -> None:
    start = int(place * len(good))
    taken_or_refused(good[:start] + junk + (b"" if cut else good[start + len(junk) :]))


@checks(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"tEXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"tRNS", b"gAMA", b"PLTE"]),
            st.binary(max_size=60),
        )
    ),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
)
def test_any_chunks_are_a_picture_or_are_refused(
    chunks: list[tuple[bytes, bytes]], width: int, height: int
) -> None:
    before = [chunk(name, data) for name, data in chunks]
    taken_or_refused(small_png(*before))
    taken_or_refused(png(width, height, *before))


def taken_or_refused(data: bytes) -> None:
    refused = refusal(lambda: read_picture(data, SETTINGS))
    if refused:
        assert refused.status in (413, 415, 422) and refused.code and refused.message
    else:
        picture = read_picture(data, SETTINGS)
        assert picture.mode == "RGB"
        assert picture.width * picture.height <= SETTINGS.max_image_pixels


# --- pictures as JSON has them


@given(st.binary(max_size=100), st.sampled_from(["png", "jpeg", "jpg", "webp"]))
def test_base64_and_data_urls_are_read_back(data: bytes, kind: str) -> None:
    assert picture_bytes(base64.b64encode(data).decode(), SETTINGS) == data
    assert picture_bytes(data_url(data, f"image/{kind}"), SETTINGS) == data


@pytest.mark.parametrize("url", ["https://pictures.example/cat.png", "file:///etc/passwd", "HTTP://a", "x:"])
def test_any_other_url_is_given_back_to_be_fetched(url: str) -> None:
    assert picture_bytes(url, SETTINGS) == url


def test_base64_that_is_too_long_is_not_decoded() -> None:
    settings = Settings(max_image_bytes=300)
    assert picture_bytes("A" * 400, settings) == bytes(300)
    with pytest.raises(Refused) as caught:
        picture_bytes("!" * 440, settings)
    assert caught.value.code == "picture_too_big"


@given(st.text())
@example("data:,")
@example("A" * 5)
def test_any_text_is_bytes_or_a_url_or_is_refused(text: str) -> None:
    refused = refusal(lambda: picture_bytes(text, SETTINGS))
    if refused:
        assert refused.status in (413, 415, 422)
    else:
        assert isinstance(picture_bytes(text, SETTINGS), bytes) or ":" in text


# --- instructions


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=100).filter(str.strip))
@example("line\nbreaks\r\nand\ttabs")
def test_an_instruction_of_any_script_comes_through_as_it_is(text: str) -> None:
    assert check_instruction(text, SETTINGS) == text


@given(st.characters(categories=("Cc", "Cs"), exclude_characters="\t\n\r"))
def test_no_control_character_comes_through(character: str) -> None:
    with pytest.raises(Refused, match=f"character 2 is U\\+{ord(character):04X}"):
        check_characters(f"re{character}d")


STRUCTURE = ("<|", "|>", "<think>", "</think>", "<answer>", "</answer>", "<image>", "<video>")


def structure(instruction: str) -> list[int]:
    """The number of each part of tokens and tags in the prompt."""
    picture = Image.new("RGB", (56, 56))
    prompt = CONTRACT.render(CONTRACT.messages(Edit("0", picture, picture, instruction)))
    return [prompt.count(token) for token in STRUCTURE]


@pytest.mark.parametrize(
    "entry", [entry for entry in INSTRUCTIONS if entry.status == 200], ids=lambda entry: entry.name
)
def test_an_instruction_that_is_taken_changes_nothing_in_the_conversation(entry: Hostile) -> None:
    assert structure(check_instruction(entry.make(), SETTINGS)) == structure("make it red")
