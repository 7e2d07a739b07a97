"""The checks of pictures and texts from untrusted clients."""

import base64
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from PIL import Image

from critic import pictures
from critic.service.errors import Refused
from critic.service.settings import Settings

_REFUSALS: dict[pictures.Code, tuple[int, str]] = {
    "empty": (422, "empty_picture"),
    "not_a_picture": (415, "not_a_picture"),
    "several_pictures": (415, "several_frames"),
    "too_many_pixels": (413, "too_many_pixels"),
    "too_many_pieces": (422, "too_many_pieces"),
    "broken": (422, "broken_picture"),
    "unsupported": (422, "unsupported_picture"),
}
"""The status and the code of the refusal, by the code of the `PictureError`."""
_MEDIA_TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp")
_MAX_VALUES = 300_000
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def read_picture(data: bytes, settings: Settings) -> Image.Image:
    """Decode a file as `critic score` does, see `critic.pictures.decode`.

    Decodes no pixel before the limits are checked; Pillow stops at the first megabyte of a compressed text or
    colour profile. Decoding takes up to 27 bytes of memory per pixel.

    Raises:
        Refused: 413, too many bytes or pixels; 415, not a PNG, JPEG or WebP file, or an animation; 422, an empty,
            truncated or damaged file, or one that is built to be slow to read.
    """
    _check_bytes(len(data), settings.max_image_bytes)
    try:
        width, height, _ = pictures.size(data)
        if width * height > (limit := settings.max_image_pixels):
            message = f"the picture has {width * height} pixels, the limit is {limit}: make it smaller"
            raise Refused(413, "too_many_pixels", message)
        return pictures.decode(data)
    except pictures.PictureError as error:
        raise Refused(*_REFUSALS[error.code], str(error)) from None


def picture_bytes(text: str, settings: Settings) -> bytes | str:
    """Decode base64 or a data URL to a picture's file; return any other URL unchanged.

    Base64 is strict: no line breaks, and not the URL alphabet. A data URL must name PNG, JPEG or WebP, but may
    name the wrong one, as many clients do: `read_picture` goes by the bytes.

    Raises:
        Refused: 413, too many bytes; 415, a data URL of another media type; 422, not base64.
    """
    scheme = _SCHEME.match(text)
    if scheme and scheme[0].lower() != "data:":
        return text
    head, _, encoded = text.partition(",") if scheme else ("", "", text)
    if scheme and head.lower() not in [f"data:{media_type};base64" for media_type in _MEDIA_TYPES]:
        fix = "it must begin with `data:image/png;base64,`, or the same with jpeg or webp"
        raise Refused(415, "wrong_media_type", f"{head[:80]!r} isn't a supported data URL: {fix}")
    _check_bytes(len(encoded) // 4 * 3 - 2, settings.max_image_bytes)
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        message = f"the picture isn't base64 ({error}): send it without line breaks, as base64 -w0"
        raise Refused(422, "not_base64", message) from None


def check_instruction(text: str, settings: Settings) -> str:
    """Return the instruction unchanged: the contract, not this check, escapes its special tokens and tags.

    Raises `Refused`, 422: it is blank or too long, or has a control character or a lone surrogate.
    """
    if not text.strip():
        raise Refused(422, "empty_instruction", "the instruction is empty: say what the editor was asked to do")
    if len(text) > (limit := settings.max_instruction):
        message = f"the instruction has {len(text)} characters, the limit is {limit}: shorten it"
        raise Refused(422, "instruction_too_long", message)
    return check_characters(text)


def check_characters(text: str) -> str:
    """Return the text unchanged. Refuse lone surrogates and controls, except tabs and line breaks, with 422."""
    if found := _CONTROL.search(text):
        place = found.start()
        raise Refused(422, "control_character", f"character {place} is U+{ord(found[0]):04X}: remove it")
    return text


def check_json(body: bytes) -> None:
    """Refuse, with 422, JSON whose parsing would take gigabytes of memory: 60 MB can hold millions of values.

    Counts commas and brackets, also those in texts. The largest valid batch has fewer than the limit.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise Refused(422, "too_many_values", f"the JSON has over {_MAX_VALUES} values: send less at a time")


class CheckedJsonRoute(APIRoute):
    """A route that counts the values of its JSON before FastAPI parses it, see `check_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def check_and_handle(request: Request) -> Response:
            check_json(await request.body())
            return await handle(request)

        return check_and_handle


def _check_bytes(size: int, limit: int) -> None:
    if size > limit:
        message = f"the picture has {size} bytes, the limit is {limit}: send a smaller one"
        raise Refused(413, "picture_too_big", message)
