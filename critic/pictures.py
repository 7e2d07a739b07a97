"""The only decoder of pictures: a file's bytes to an upright sRGB picture on white, or the reason why not.

    picture = decode(Path("cat.jpg").read_bytes())
    picture = normalise(Image.open("cat.tif"))
    picture = from_array(np.zeros((64, 64, 3), np.uint8))

A file is a PNG, JPEG or WebP file if its first bytes say so, whatever its name or media type. It holds one
picture. What follows the picture in the file is ignored: the video of a motion photo, the second view of an MPO.
"""

import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union

from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

if TYPE_CHECKING:
    import numpy as np  # imported in functions, so that critic.client is imported quickly

Format = Literal["PNG", "JPEG", "WEBP"]
"""A file format, by Pillow's name."""

Code = Literal[
    "empty", "not_a_picture", "several_pictures", "too_many_pixels", "too_many_pieces", "broken", "unsupported"
]

_STARTS: dict[Format, re.Pattern[bytes]] = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""A JPEG marker that begins a segment, or the start or end of a picture; restart markers aren't among them."""
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"
_MAX_PIECES, _MAX_SCANS = 10_000, 100

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""
_GREY_LEVELS = {"L;2": 85, "L;4": 17}
"""8-bit levels in one step of a PNG file with 2 or 4 bits of grey, by Pillow's raw mode."""
_PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Pillow's mode of the pixels that a colour profile describes, by the profile's colour space."""
_SRGB_TOLERANCE = 2
"""8-bit levels by which a profile may move colours and still be sRGB: profiles of sRGB differ in rounding."""


class PictureError(ValueError):
    """A picture that can't be used; the message says what is wrong and what to do."""

    def __init__(self, code: Code, message: str):
        super().__init__(message)
        self.code = code


class Tensor(Protocol):
    """The part of `torch.Tensor` that identifies one, without importing torch."""

    def detach(self) -> Any:
        """The same tensor without its gradient."""


Given: TypeAlias = Union[Image.Image, str, os.PathLike[str], bytes, "np.ndarray[Any, Any]", Tensor]
"""A picture: a Pillow image; the path or the bytes of a file; an array (H, W, 3) of uint8; or a tensor (3, H, W)
of floats from 0 to 1."""


@contextmanager
def _explained() -> Iterator[None]:
    """Raises any exception of Pillow as a `PictureError`: its decoders raise many kinds for broken bytes."""
    try:
        yield
    except PictureError:
        raise
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise PictureError("too_many_pixels", f"over {limit} pixels: make the picture smaller") from error
    except Exception as error:
        reason = "its header can't be read" if isinstance(error, UnidentifiedImageError) else error
        raise _broken(reason) from error


@_explained()
def decode(data: bytes) -> Image.Image:
    """Decode a file to an upright sRGB picture.

    The orientation is applied, a colour profile converted to sRGB, transparency put on white, and 16 bits reduced
    to 8. Pixels of any other file are the file's own. An EXIF block or a colour profile that can't be read is
    ignored, as browsers do. Damage inside a JPEG that still decodes to wrong pixels can't be detected.

    Returns:
        An image of mode RGB without metadata.

    Raises:
        PictureError: any of `Code`.
    """
    with _open(data) as file:
        return normalise(file)


def decode_cell(cell: Mapping[str, Any] | None) -> Image.Image:
    """Decode a table's cell {"bytes": the file, "path": its name or None}; see `decode`."""
    data = cell.get("bytes") if isinstance(cell, Mapping) else None
    if not data or not isinstance(data, bytes):
        raise PictureError("empty", "no bytes: the table must hold the image file itself")
    return decode(data)


@_explained()
def normalise(image: Image.Image) -> Image.Image:
    """Convert an opened image, of any format that Pillow reads, as `decode` does.

    Loads the image, which isn't thread-safe.

    Raises:
        PictureError: an animation, a mode that has no 8-bit form, or broken bytes behind the image.
    """
    if (frames := _frames(image)) > 1:
        raise PictureError("several_pictures", f"the file has {frames} pictures: give one of them")
    tiles = getattr(image, "tile", None)
    raw_mode = tiles[0][3] if tiles else image.mode
    image.load()
    turn = _turn(image)
    profile = image.info.get("icc_profile")
    image = _eight_bits(image, raw_mode)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if profile:
            colours = _to_srgb(layer.convert("L" if image.mode in ("L", "LA") else "RGB"), profile)
            colours.putalpha(layer.getchannel("A"))
            layer = colours
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    else:
        picture = _to_srgb(image, profile)
    if turn is not None:
        picture = picture.transpose(turn)
    picture.info = {}
    return picture


def file_format(data: bytes) -> Format:
    """The format of a file, by its first bytes; raises a `PictureError`, "empty" or "not_a_picture"."""
    if not data:
        raise PictureError("empty", "the file is empty: give the picture itself")
    for name, start in _STARTS.items():
        if start.match(data):
            return name
    raise PictureError("not_a_picture", "not a PNG, JPEG or WebP file: convert it to one")


@_explained()
def size(data: bytes) -> tuple[int, int, int]:
    """Read width and height in pixels, before the orientation is applied, and the number of pictures.

    Decodes no pixel.

    Raises:
        PictureError: as `decode`, except "several_pictures" and "unsupported".
    """
    with _open(data) as file:
        return file.width, file.height, _frames(file)


def from_array(array: "np.ndarray[Any, Any] | Tensor") -> Image.Image:
    """Make a picture of pixels.

    Args:
        array: uint8 (height, width, 3), or a tensor of floats (3, height, width) from 0 to 1.

    Raises:
        PictureError: "unsupported", for any other shape, type or range.
    """
    import numpy as np

    pixels = array if isinstance(array, np.ndarray) else _pixels(array)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        what = f"an array of {pixels.dtype} {pixels.shape} isn't a picture"
        raise PictureError("unsupported", f"{what}: give uint8 (height, width, 3)")
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    """Encode a picture as a PNG file, with zlib's fastest compression."""
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def read(picture: Given) -> Image.Image:
    """A picture in whatever form it is given: a path, a file's bytes, a Pillow image, an array or a tensor.

    Raises:
        OSError: the file can't be read.
        PictureError: as `decode`, `normalise` and `from_array`.
    """
    if isinstance(picture, str | os.PathLike):
        return decode(Path(picture).read_bytes())
    if isinstance(picture, bytes):
        return decode(picture)
    return normalise(picture) if isinstance(picture, Image.Image) else from_array(picture)


def data_uri(image: Image.Image, max_side: int) -> str:
    """Encode an RGB picture, reduced to at most `max_side` pixels a side, as the data URI of a JPEG file."""
    thumbnail = image.copy()
    thumbnail.thumbnail((max_side, max_side))
    file = BytesIO()
    thumbnail.save(file, "JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _broken(reason: object) -> PictureError:
    fix = "The file is truncated or damaged: get it again, or save the picture again"
    return PictureError("broken", f"can't be decoded: {reason}. {fix}")


def _open(data: bytes) -> Image.Image:
    """The image with its header read, no pixel decoded yet."""
    kind = file_format(data)
    if kind == "PNG":
        _check_chunks(data)
    if kind == "JPEG":
        data = data[: _jpeg_end(data)]
    return Image.open(BytesIO(data), formats=[kind])


def _frames(image: Image.Image) -> int:
    """How many pictures a viewer shows: an MPO's other views and a PSD's layers aren't shown."""
    return 1 if image.format in ("MPO", "PSD") else getattr(image, "n_frames", 1)


def _check_chunks(data: bytes) -> None:
    """Refuse a PNG of very many chunks: Pillow reads them one by one, in Python, and keeps them."""
    place, chunks = 8, 0
    while place < len(data) and data[place + 4 : place + 8] != b"IEND":
        place += 12 + int.from_bytes(data[place : place + 4])
        chunks += 1
        _check_count(chunks, _MAX_PIECES, "chunks")


def _jpeg_end(data: bytes) -> int:
    """Where the file's first picture ends: the offset behind its end marker.

    Walks from segment to segment (ITU-T T.81, annex B), so that the markers of a thumbnail in a segment, or of
    whatever follows the picture, don't count. Pillow reads the bytes before the first scan one by one, in Python;
    a scan can be written in 60 bytes, and takes a pass over all pixels: too many of either are refused.
    """
    place, pieces, scans = 2, 0, 0
    while (marker := _MARKER.search(data, place)) and marker[0] != _START_OF_IMAGE:
        if marker[0] == _END_OF_IMAGE:
            return marker.end()
        pieces += 1 if scans else 1 + marker.start() - place
        scans += marker[0] == _START_OF_SCAN
        _check_count(pieces, _MAX_PIECES, "segments")
        _check_count(scans, _MAX_SCANS, "scans")
        place = marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2]))
    raise _broken("a JPEG without its end")


def _check_count(count: int, most: int, name: str) -> None:
    if count > most:
        raise PictureError("too_many_pieces", f"the file has over {most} {name}: save the picture again")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises many kinds for broken EXIF
        return None


def _eight_bits(image: Image.Image, raw_mode: Any) -> Image.Image:
    """The image with 8 bits a channel, its transparent colour too: Pillow leaves that as the PNG file has it.

    16 bits are reduced to the upper 8, as Pillow does it for colour.
    """
    key = image.info.get("transparency")
    if image.mode == "F" or (image.mode == "I" and not str(raw_mode).startswith("I;16")):
        raise PictureError(
            "unsupported", f"a picture of mode {image.mode} has no known range: save it with 8 bits a channel"
        )
    if image.mode.startswith("I"):
        import numpy as np

        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if key is None:
            return grey
        return Image.merge("LA", [grey, Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))])
    if key is not None and raw_mode in _GREY_LEVELS:
        image = image.copy()
        image.info["transparency"] = key * _GREY_LEVELS[raw_mode]
    elif isinstance(key, tuple) and (raw_mode == "RGB;16B" or max(key) > 255):
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The opaque image as RGB, converted to sRGB if the ICC profile fits its pixels and isn't sRGB's."""
    plain = image.convert("RGB")
    if not profile:
        return plain
    import numpy as np

    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = _PROFILE_MODES.get(source.profile.xcolor_space)
        if mode not in ("RGB", image.mode):
            return plain
        flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
        if mode == "L":  # exact for each grey; the optimised transform is off by up to 10 levels
            greys = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
            return Image.fromarray(np.asarray(transform.apply(greys))[0][np.asarray(image)])
        if mode == "CMYK":
            return transform.apply(image)
        colours = np.mgrid[0:256:17, 0:256:17, 0:256:17].T.reshape(64, 64, 3).astype(np.uint8)
        moved = np.asarray(transform.apply(Image.fromarray(colours)), np.int16) - colours
        return plain if np.abs(moved).max() <= _SRGB_TOLERANCE else transform.apply(plain)
    except Exception:  # ImageCms raises many kinds for a broken profile
        return plain


def _pixels(tensor: Any) -> "np.ndarray[Any, Any]":
    if not hasattr(tensor, "detach"):
        what = f"{type(tensor).__name__} isn't a picture"
        raise PictureError("unsupported", f"{what}: give an array or a tensor, or an image of Pillow")
    floats = tensor.detach()
    if not floats.is_floating_point() or floats.ndim != 3 or floats.shape[0] != 3:
        what = f"a tensor of {floats.dtype} {tuple(floats.shape)} isn't a picture"
        raise PictureError("unsupported", f"{what}: give floats (3, height, width)")
    import numpy as np

    values = floats.float().cpu().numpy()
    if not ((values >= 0) & (values <= 1)).all():
        what = f"the tensor has values from {values.min():g} to {values.max():g}"
        raise PictureError("unsupported", f"{what}: bring them to 0 to 1")
    return (values.transpose(1, 2, 0) * 255).round().astype(np.uint8)
