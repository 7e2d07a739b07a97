"""Pictures and text from strangers: what is taken, and why the rest isn't.

given = picture_bytes(pair.source, settings)  # a str is a URL, for `fetching.fetch`
picture = read_picture(given, settings)
instruction = check_instruction(pair.instruction, settings)
"""

import base64
import re
from io import BytesIO

from PIL import Image
from PIL.JpegImagePlugin import MARKER

from critic.edits import ImageError, decode_image
from critic.service.errors import Refused
from critic.service.settings import Settings

_FORMATS = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
"""By Pillow's names, how files begin."""
_MEDIA_TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp")
_SCAN = b"\xff\xda"
_MOST_PIECES, _MOST_SCANS, _MOST_VALUES = 10_000, 100, 300_000
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def read_picture(data: bytes, settings: Settings) -> Image.Image:
    """The RGB picture of a file, pixel by pixel the one that `critic score` reads from it (`decode_image`).

    A file is what its bytes say, whatever its name or media type. What follows the picture in it, as in a file
    that is a ZIP archive or a page too, is left alone. No pixel is decoded before the limits are known to be kept;
    Pillow itself stops at the first megabyte of a compressed text or colour profile. Decoding takes up to 27 bytes
    of memory a pixel.

    Raises:
        Refused: 413, too many bytes or pixels; 415, no PNG, JPEG or WebP file, or one of several frames; 422,
            empty, truncated, broken, or made to be slow to read.
    """
    if not data:
        raise Refused(422, "empty_picture", "the file is empty: send the picture itself")
    if len(data) > settings.max_image_bytes:
        raise _too_many_bytes(len(data), settings)
    _check_pieces(data, picture_format(data))
    try:
        with Image.open(BytesIO(data), formats=[*_FORMATS]) as file:
            pixels, frames = file.width * file.height, getattr(file, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise Refused(413, "too_many_pixels", f"{error}: send a smaller picture") from None
    except Exception as error:  # Pillow's plugins raise whatever broken bytes lead them to
        raise _broken(error) from None
    if pixels > settings.max_image_pixels:
        raise Refused(
            413,
            "too_many_pixels",
            f"the picture has {pixels} pixels, of {settings.max_image_pixels} at most: make it smaller",
        )
    if frames > 1:
        raise Refused(415, "several_frames", f"the file has {frames} pictures: send one, as a file of its own")
    try:
        return decode_image({"bytes": data})
    except ImageError as error:
        raise _broken(error) from None


def picture_format(data: bytes) -> str:
    """PNG, JPEG or WEBP, by how the file begins.

    Raises:
        Refused: 415, it is none of these.
    """
    for name, start in _FORMATS.items():
        if start.match(data):
            return name
    raise Refused(415, "not_a_picture", "this is no PNG, JPEG or WebP file: convert it to one")


def picture_bytes(text: str, settings: Settings) -> bytes | str:
    """A picture's file from base64 or a data URL; the URL itself if it is any other.

    Base64 is strict: no line breaks, and no letters for URLs. A data URL names PNG, JPEG or WebP, but may name the
    wrong one of them, as many clients do: `read_picture` goes by the bytes.

    Raises:
        Refused: 413, too many bytes; 415, a data URL of something else; 422, not base64.
    """
    scheme = _SCHEME.match(text)
    if scheme and scheme[0].lower() != "data:":
        return text
    head, _, encoded = text.partition(",") if scheme else ("", "", text)
    if scheme and head.lower() not in [f"data:{media_type};base64" for media_type in _MEDIA_TYPES]:
        raise Refused(
            415,
            "wrong_media_type",
            f"{head[:80]!r} is no picture: begin with `data:image/png;base64,`, or with jpeg or webp for png",
        )
    if (size := len(encoded) // 4 * 3 - 2) > settings.max_image_bytes:
        raise _too_many_bytes(size, settings)
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise Refused(
            422, "not_base64", f"the picture is no base64 ({error}): send it without line breaks, as base64 -w0"
        ) from None


def check_instruction(text: str, settings: Settings) -> str:
    """The instruction as it came: special tokens and tags in it are made harmless by the contract, not here.

    Raises:
        Refused: 422, it is blank or too long, or holds a control character or half a surrogate pair.
    """
    if not text.strip():
        raise Refused(422, "empty_instruction", "the instruction is empty: say what was asked for")
    if len(text) > settings.max_instruction:
        raise Refused(
            422,
            "instruction_too_long",
            f"the instruction has {len(text)} characters, of {settings.max_instruction} at most: shorten it",
        )
    return check_characters(text)


def check_characters(text: str) -> str:
    """The text; all of Unicode may be in it but control characters, of which tabs and line breaks may.

    Raises:
        Refused: 422, there is another one, or half a surrogate pair.
    """
    if found := _CONTROL.search(text):
        place = found.start()
        raise Refused(422, "control_character", f"character {place} is U+{ord(found[0]):04X}: leave it out")
    return text


def check_json(body: bytes) -> None:
    """Raises `Refused`, 422, for JSON of so many values that reading it would take gigabytes: 60 MB hold millions.

    Commas in texts count too. A full batch of the longest instructions of nothing else has fewer.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise Refused(422, "too_many_values", f"the JSON has over {_MOST_VALUES} values: send less at a time")


def _check_pieces(data: bytes, kind: str) -> None:
    """Raises `Refused` for a file that is slow to read for its size.

    Pillow reads the chunks of a PNG and the segments before a JPEG's first scan one by one, in Python, and keeps
    them: 20 MB of empty ones take it seconds and 700 MB. A scan can be written in 60 bytes, and takes a pass over
    all pixels.
    """
    if kind == "PNG":
        place, pieces = 8, 0
        while place < len(data) and pieces <= _MOST_PIECES:
            place += 12 + int.from_bytes(data[place : place + 4])
            pieces += 1
        _check_count(pieces, _MOST_PIECES, "chunks")
    if kind == "JPEG":
        place, pieces = 2, 0
        while (marker := data[place : place + 2]) not in (b"", _SCAN) and pieces <= _MOST_PIECES:
            place += _length(marker, data[place + 2 : place + 4])
            pieces += 1
        _check_count(pieces, _MOST_PIECES, "segments")
        _check_count(data.count(_SCAN), _MOST_SCANS, "scans")


def _check_count(pieces: int, most: int, name: str) -> None:
    if pieces > most:
        raise Refused(422, "too_many_pieces", f"the file has over {most} {name}: save the picture anew")


def _length(marker: bytes, size: bytes) -> int:
    """How many bytes Pillow goes on: past a segment, or, where there is none, by a byte or two."""
    known = MARKER.get(int.from_bytes(marker))
    if known is None:
        return 2 if marker == b"\xff\x00" else 1
    return 2 if known[2] is None else 2 + max(2, int.from_bytes(size))


def _too_many_bytes(size: int, settings: Settings) -> Refused:
    return Refused(
        413,
        "picture_too_big",
        f"the picture has {size} bytes, of {settings.max_image_bytes} at most: send a smaller one",
    )


def _broken(error: Exception) -> Refused:
    return Refused(422, "broken_picture", f"the picture is broken or cut off ({error}): send the whole file")
