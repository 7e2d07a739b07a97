"""The decoder of pictures: every file comes out upright, in sRGB and on white, or says why not."""

import base64
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
from hostile import animated, chunk, jpeg_segments, many_scans, png, small_png, zeros
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from PIL import features as pillow_features
from PIL.TiffImagePlugin import IFDRational

from critic import pictures
from critic.pictures import PictureError, data_uri, decode, decode_cell, file_format, from_array, normalise, size

FILES = Path(__file__).parent / "pictures"
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS)
SMOOTH = Image.fromarray(np.mgrid[0:256:6, 0:256:4].sum(0).astype(np.uint8)).convert("RGB")


def read(name: str) -> bytes:
    return (FILES / name).read_bytes()


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG, JPEG, WEBP = encode(PICTURE), encode(PICTURE, "JPEG"), encode(PICTURE, "WEBP", lossless=True)
GOOD = [PNG, JPEG, WEBP]


def code(data: bytes) -> str:
    """Why a file can't be decoded, "" if it can."""
    try:
        decode(data)
    except PictureError as error:
        return error.code
    return ""


def psnr(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    error = np.mean(np.subtract(one, other, dtype=float) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def grey_png(depth: int, rows: np.ndarray, *before: bytes, colour: int = 0) -> bytes:
    """A PNG of greys (or, with colour 2, RGB) whose rows are given as the file has them, in bytes."""
    height, width = rows.shape[0], rows.shape[1] * 8 // (depth * (3 if colour == 2 else 1))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return PNG[:8] + header + b"".join(before) + chunk(b"IDAT", packed) + chunk(b"IEND")


# --- files that came out wrong elsewhere

PLAIN = decode(read("plain.png"))


def test_exif_turns_a_png() -> None:
    assert same(decode(read("exif6.png")), PLAIN)


def test_a_transparent_palette_is_put_on_white() -> None:
    file = Image.open(FILES / "pal_trns.png")
    clear = np.asarray(file) == file.info["transparency"]
    opaque = np.array(file.convert("RGB"))
    assert 0 < clear.sum() < clear.size
    opaque[clear] = 255
    assert np.array_equal(decode(read("pal_trns.png")), opaque)


def test_16_bits_of_grey_are_the_picture_of_8_bits() -> None:
    assert same(decode(read("gray16.png")), decode(read("gray.png")))
    assert same(normalise(Image.open(FILES / "gray16.png")), decode(read("gray.png")))


def test_a_transparent_grey_of_16_bits_is_put_on_white() -> None:
    expected = np.array(decode(read("gray.png")))
    clear = expected == 33924 // 257
    assert 0 < clear.sum() < clear.size
    expected[clear] = 255
    assert np.array_equal(decode(read("gray16_trns.png")), expected)


@pytest.mark.parametrize("name", ["motion.jpg", "mpo.jpg"])
def test_the_first_picture_is_taken_of_a_photo_with_more_behind_it(name: str) -> None:
    assert psnr(decode(read(name)), PLAIN) > 28
    assert size(read(name)) == (160, 120, 1)
    assert psnr(normalise(Image.open(FILES / name)), PLAIN) > 28


def test_exif_that_cant_be_written_again_still_turns_the_picture() -> None:
    assert psnr(decode(read("exif6_neg.jpg")), PLAIN) > 28
    assert psnr(normalise(Image.open(FILES / "exif6_neg.jpg")), PLAIN) > 28


@pytest.mark.parametrize(
    "data", [read("anim.webp"), animated("PNG"), animated("WEBP")], ids=["case", "png", "webp"]
)
def test_several_pictures_are_refused_of_a_file_and_of_an_opened_image(data: bytes) -> None:
    assert code(data) == "several_pictures"
    assert size(data)[2] == 2
    with pytest.raises(PictureError, match="2 pictures"):
        normalise(Image.open(BytesIO(data)))


def test_display_p3_becomes_srgb() -> None:
    assert psnr(decode(read("p3.png")), PLAIN) > 58
    assert psnr(normalise(Image.open(FILES / "p3.png")), PLAIN) > 58


# --- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_in_all_orientations(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda pixels: pixels,
        2: lambda pixels: pixels[:, ::-1],
        3: lambda pixels: pixels[::-1, ::-1],
        4: lambda pixels: pixels[::-1],
        5: lambda pixels: pixels.swapaxes(0, 1),
        6: lambda pixels: np.rot90(pixels, -1),
        7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
        8: lambda pixels: np.rot90(pixels),
    }
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True})]:
        assert np.array_equal(decode(encode(PICTURE, kind, exif=exif, **options)), turns[orientation](PIXELS))
    turned = decode(encode(PICTURE, "JPEG", exif=exif))
    assert np.array_equal(turned, turns[orientation](np.asarray(decode(JPEG))))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"], ids=["empty", "junk", "cut"]
)
def test_exif_that_cant_be_read_is_ignored(exif: bytes) -> None:
    assert same(decode(encode(PICTURE, exif=exif)), PICTURE)
    assert same(decode(encode(PICTURE, "JPEG", exif=exif)), decode(JPEG))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_doesnt_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x011A] = IFDRational(72)
    assert same(decode(encode(PICTURE, exif=exif)), PICTURE)


# --- transparency


def test_what_is_transparent_becomes_white() -> None:
    red = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    red.putpixel((1, 0), (255, 0, 0, 0))
    image = decode(encode(red))
    assert image.mode == "RGB"
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(255, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_half_transparent_is_half_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 2), (100, 100, 100, 128)).convert(mode)
    assert normalise(image).getpixel((0, 0)) == (177, 177, 177)


@pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17), (8, 1)])
def test_a_transparent_grey_of_few_bits_is_put_on_white(depth: int, step: int) -> None:
    levels = np.arange(2**depth if depth < 8 else 16)
    bits = (levels[:, None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(np.tile(bits.reshape(1, -1), (1, 8)), axis=1)
    opaque = decode(grey_png(depth, rows))
    assert [opaque.getpixel((level, 0)) for level in levels] == [(level * step,) * 3 for level in levels]
    clear = decode(grey_png(depth, rows, chunk(b"tRNS", b"\0\1")))
    expected = [255 if level == 1 else level * step for level in levels]
    assert [clear.getpixel((place, 0)) for place in levels] == [(level,) * 3 for level in expected]


@pytest.mark.parametrize("key", [(0x1234, 0x5678, 0x9ABC), (0x0012, 0x0034, 0x0056)])
def test_a_transparent_colour_of_16_bits_is_put_on_white(key: tuple[int, int, int]) -> None:
    rows = np.array([[*key, 0xFFFF, 0x8000, 0x0100]], dtype=">u2").view(np.uint8)
    image = decode(grey_png(16, rows, chunk(b"tRNS", struct.pack(">HHH", *key)), colour=2))
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(255, 255, 255), (255, 128, 1)]


# --- modes


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_an_opaque_image_keeps_its_pixels_as_pillow_converts_them(mode: str) -> None:
    image = PICTURE.convert(mode)
    assert same(normalise(image), image.convert("RGB"))


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_wide_greys_are_reduced_to_8_bits(mode: str) -> None:
    grey = np.arange(256, dtype=np.int32).reshape(16, 16)
    wide = Image.new("I", (16, 16))
    wide.putdata((grey * 257).ravel().tolist())
    assert np.array_equal(normalise(wide.convert(mode)).getchannel("R"), grey)


@pytest.mark.parametrize(
    "image", [Image.new("F", (4, 4)), Image.new("I", (4, 4), 255), Image.new("I", (4, 4), 70000)]
)
def test_a_mode_without_8_bit_form_is_refused(image: Image.Image) -> None:
    with pytest.raises(PictureError, match="save") as caught:
        normalise(image)
    assert caught.value.code == "unsupported"


def test_cmyk_files_are_decoded() -> None:
    file = encode(PICTURE.convert("CMYK"), "JPEG")
    assert same(decode(file), Image.open(BytesIO(file)).convert("RGB"))


def test_the_picture_has_no_metadata_and_the_given_image_stays() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.open(BytesIO(encode(PICTURE, exif=exif, icc_profile=P3, dpi=(300, 300))))
    before = image.tobytes()
    picture = normalise(image)
    assert picture.info == {} and not picture.getexif()
    assert image.tobytes() == before and image.info["icc_profile"] == P3


# --- colour profiles

P3 = Image.open(FILES / "p3.png").info["icc_profile"]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def curve_profile(space: bytes, curve: float) -> bytes:
    """A minimal ICC profile (v2) of greys with one curve."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    trc = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(curve * 256)) + b"\0\0"
    tags = {b"wtpt": white, b"kTRC": trc}
    table, data = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(value))
        data += value
    length = struct.pack(">I", 128 + len(table) + len(data))
    head = length + bytes(4) + b"\2\x40\0\0mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + table + data


def test_an_srgb_profile_changes_no_pixel() -> None:
    for kind in ("PNG", "WEBP"):
        assert same(
            decode(encode(PICTURE, kind, icc_profile=SRGB, **({"lossless": True} if kind == "WEBP" else {}))),
            PICTURE,
        )
    assert same(decode(encode(PICTURE, "JPEG", icc_profile=SRGB)), decode(JPEG))


@pytest.mark.parametrize("profile", [b"junk", P3[:200], P3[:16] + b"\x80" * 4 + P3[20:], bytes(500)])
def test_a_profile_that_cant_be_read_is_ignored(profile: bytes) -> None:
    assert same(decode(encode(PICTURE, icc_profile=profile)), PICTURE)


def test_a_profile_of_greys_converts_greys_and_no_colours() -> None:
    profile = curve_profile(b"GRAY", 1.0)
    grey = decode(encode(SMOOTH.convert("L"), icc_profile=profile))
    light = np.asarray(SMOOTH.convert("L")) / 255
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    assert np.abs(np.asarray(grey.getchannel("G")) - expected).max() <= 1
    layer = SMOOTH.convert("LA")
    assert same(decode(encode(layer, icc_profile=profile)), grey)
    assert same(decode(encode(PICTURE, icc_profile=profile)), PICTURE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_a_profile_of_colours_converts_every_mode_of_png(mode: str) -> None:
    image = SMOOTH.convert(mode)
    expected = decode(encode(image.convert("RGB"), icc_profile=P3))
    assert same(decode(encode(image, icc_profile=P3)), expected)


def test_transparency_stays_under_a_profile() -> None:
    layer = PICTURE.convert("RGBA")
    layer.putalpha(0)
    assert same(decode(encode(layer, icc_profile=P3)), Image.new("RGB", PICTURE.size, "white"))


# --- whole files and others


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"<html>404 Not Found</html>", "not_a_picture"),
        (encode(PICTURE, "GIF"), "not_a_picture"),
        (JPEG[: len(JPEG) // 2], "broken"),
        (JPEG[:-2], "broken"),
        (JPEG[:-300] + bytes(300), "broken"),
        (JPEG[:3], "broken"),
        (PNG[: len(PNG) // 2], "broken"),
        (PNG[:8], "broken"),
        (WEBP[: len(WEBP) // 2], "broken"),
        (png(0, 0), "broken"),
        (png(50000, 50000), "too_many_pixels"),
        (small_png(chunk(b"aaAa") * 11_000), "too_many_pieces"),
        (jpeg_segments(b"\xff\xe5\0\2", 11_000), "too_many_pieces"),
        (jpeg_segments(b"\xff", 11_000), "too_many_pieces"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_what_is_no_whole_picture_is_refused(data: bytes, expected: str) -> None:
    assert code(data) == expected


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (many_scans, "too_many_pieces"),
        (lambda: small_png(chunk(b"iCCP", b"c\0\0" + zeros())), "broken"),
        (lambda: JPEG[:-2] + b"\xff\x00" * 5_000_000, "broken"),
        (lambda: JPEG[:-2] + b"\xff" * 10_000_000, "broken"),
        (lambda: JPEG[:-2] + b"\xff\xe5\0\2" * 2_500_000, "too_many_pieces"),
        (lambda: JPEG[:-2] + b"\xff\xe5\xff\xff" * 2_500_000, "broken"),
        (lambda: JPEG[:20] + b"\0" * 10_000_000, "broken"),
        (lambda: PNG[:8] + bytes(10_000_000), "too_many_pieces"),
    ],
    ids=["scans", "profile", "escapes", "fill", "segments", "long segments", "zeros", "chunks"],
)
def test_a_hostile_file_is_refused_fast(make: Callable[[], bytes], expected: str) -> None:
    data = make()
    begun = process_time()
    assert code(data) == expected
    assert process_time() - begun < 1


def test_a_jpeg_cut_behind_its_thumbnail_is_refused() -> None:
    thumbnail = b"\xff\xe1" + struct.pack(">H", len(JPEG) + 2) + JPEG
    whole = JPEG[:2] + thumbnail + JPEG[2:]
    assert same(decode(whole), decode(JPEG))
    assert code(whole[: len(JPEG) + 400]) == "broken"


@pytest.mark.parametrize("behind", [b"\xff\xda\0\x08", bytes(100_000), b"PK\x05\x06", b"\xff", PNG, JPEG[:-2]])
def test_what_follows_the_picture_is_ignored(behind: bytes) -> None:
    for data in GOOD:
        assert same(decode(data + behind), decode(data))


def test_restart_markers_and_progressive_scans_are_within_a_picture() -> None:
    for options in ({"restart_marker_blocks": 1}, {"progressive": True}, {"progressive": True, "quality": 100}):
        data = encode(PICTURE, "JPEG", **options)
        assert same(decode(data), Image.open(BytesIO(data)).convert("RGB"))


def test_no_library_makes_pillow_lenient() -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert pillow_features.check("littlecms2")


def test_the_format_is_what_the_bytes_say() -> None:
    assert [file_format(data) for data in GOOD] == ["PNG", "JPEG", "WEBP"]
    for data, expected in [(b"", "empty"), (b" " + PNG, "not_a_picture"), (b"RIFF\0\0\0\0WAVE", "not_a_picture")]:
        with pytest.raises(PictureError) as caught:
            file_format(data)
        assert caught.value.code == expected


def test_the_size_is_known_before_a_pixel_is_decoded() -> None:
    assert [size(data) for data in GOOD] == [(64, 40, 1)] * 3
    assert size(png(9000, 9000)) == (9000, 9000, 1)
    with pytest.raises(PictureError) as caught:
        size(png(50000, 50000))
    assert caught.value.code == "too_many_pixels"


@pytest.mark.parametrize(
    "cell", [None, {}, {"bytes": None, "path": "photo.jpg"}, {"bytes": b"", "path": None}, {"bytes": "text"}]
)
def test_a_cell_without_bytes_is_refused(cell: Any) -> None:
    with pytest.raises(PictureError, match="no bytes") as caught:
        decode_cell(cell)
    assert caught.value.code == "empty"


def test_a_cell_is_decoded() -> None:
    assert same(decode_cell({"bytes": PNG, "path": None}), PICTURE)


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes_are_a_picture_or_an_error(data: bytes) -> None:
    for start in (b"", PNG[:8], PNG[:33], JPEG[:3], JPEG[:200], WEBP[:12], WEBP[:30]):
        picture_or_error(start + data)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*GOOD, *(file.read_bytes() for file in sorted(FILES.iterdir()))]), st.floats(0, 1))
def test_a_truncated_file_is_a_picture_or_an_error(good: bytes, place: float) -> None:
    picture_or_error(good[: int(place * len(good))])


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([*GOOD, *(file.read_bytes() for file in sorted(FILES.iterdir()))]),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=200),
)
def test_a_damaged_file_is_a_picture_or_an_error(good: bytes, place: float, junk: bytes) -> None:
    start = int(place * len(good))
    picture_or_error(good[:start] + junk + good[start + len(junk) :])


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(P3)), st.sampled_from(["L", "LA", "RGB", "RGBA"]))
def test_a_damaged_profile_is_used_or_ignored(junk: bytes, start: int, mode: str) -> None:
    profile = P3[:start] + junk + P3[start + len(junk) :]
    if profile:
        assert decode(encode(PICTURE.convert(mode), icc_profile=profile)).size == PICTURE.size


def picture_or_error(data: bytes) -> None:
    if not code(data):
        assert decode(data).mode == "RGB"


# --- pixels, and pictures as files


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_no_pixel_of_an_array_or_a_tensor_changes(dtype: torch.dtype) -> None:
    tensor = (torch.from_numpy(PIXELS).permute(2, 0, 1).to(dtype) / 255).requires_grad_()
    for pixels in (PIXELS, tensor):
        assert same(from_array(pixels), PICTURE)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((3, 4, 4), 200.0), "from 200 to 200: bring them to 0 to 1"),
        (torch.linspace(-1, 1, 48).reshape(3, 4, 4), "from -1 to 1"),
        (torch.full((3, 4, 4), float("nan")), "from nan to nan"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 3, 4, 4), "give floats"),
        (torch.zeros(3, 0, 4), "give uint8"),
        (np.zeros((4, 4, 3)), "float64"),
        (np.zeros((3, 4, 4), np.uint8), "give uint8"),
        (np.zeros((0, 4, 3), np.uint8), "give uint8"),
        (None, "NoneType isn't a picture"),
    ],
    ids=str,
)
def test_what_is_no_array_of_pixels_is_refused(value: Any, message: str) -> None:
    with pytest.raises(PictureError, match=message) as caught:
        from_array(value)
    assert caught.value.code == "unsupported"


def test_a_broken_file_behind_an_image_is_an_error() -> None:
    with pytest.raises(PictureError, match="can't be decoded"):
        normalise(Image.open(BytesIO(PNG[:2000])))


def test_a_png_is_read_back() -> None:
    assert same(decode(pictures.png(PICTURE)), PICTURE)


def test_a_data_uri_is_a_small_jpeg() -> None:
    start, encoded = data_uri(SMOOTH, 20).split(",")
    image = Image.open(BytesIO(base64.b64decode(encoded)))
    assert (start, image.format, max(image.size)) == ("data:image/jpeg;base64", "JPEG", 20)
    expected = SMOOTH.copy()
    expected.thumbnail((20, 20))
    assert base64.b64decode(encoded) == encode(expected, "JPEG", quality=92, subsampling=0)


def test_the_decoder_loads_no_heavy_library() -> None:
    program = "import sys, critic.pictures; print(*sorted({'torch', 'pandas', 'pyarrow'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
