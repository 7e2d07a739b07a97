"""Generate and render scenes: photographs from scikit-image with drawn objects on them.

A `Scene` is plain data; `render` draws it. An edit changes fields with continuous values (a colour, a size, an
opacity), so that simulated editors can carry out an instruction to any degree.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from skimage import data

RGB = tuple[float, float, float]

COLOURS: dict[str, RGB] = {
    "red": (215, 35, 35),
    "green": (40, 165, 60),
    "blue": (45, 80, 220),
    "yellow": (245, 215, 40),
    "purple": (140, 50, 175),
    "orange": (245, 135, 25),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
PLACES: dict[str, tuple[float, float]] = {
    "top left": (0.2, 0.2),
    "top": (0.5, 0.2),
    "top right": (0.8, 0.2),
    "left": (0.2, 0.5),
    "centre": (0.5, 0.5),
    "right": (0.8, 0.5),
    "bottom left": (0.2, 0.8),
    "bottom": (0.5, 0.8),
    "bottom right": (0.8, 0.8),
}
SMALL, MEDIUM, LARGE = 0.22, 0.30, 0.38
PHOTOS: dict[str, str] = {
    "brick": "brick",
    "grass": "grass",
    "gravel": "gravel",
    "stars": "hubble_deep_field",
    "coffee": "coffee",
    "cat": "chelsea",
    "coins": "coins",
    "tissue": "immunohistochemistry",
    "moon": "moon",
    "people": "astronaut",
    "rocket": "rocket",
    "retina": "retina",
}
STYLES = ("black and white", "sketch", "painting", "negative")


@dataclass(frozen=True)
class Thing:
    """An object in the scene.

    `rgb` is in 0..255; `x` and `y` (the centre) and `size` are fractions of the picture's side; `opacity` and
    `material_mix` (the opacity of the photograph `material` over the colour) are in 0..1.
    """

    shape: str
    colour: str
    rgb: RGB
    place: str
    x: float
    y: float
    size: float
    opacity: float = 1.0
    material: str | None = None
    material_mix: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Backdrop:
    """A square crop of a photograph: corner and side as fractions of its shorter side; it can be mirrored."""

    photo: str
    left: float
    top: float
    side: float
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    """A background, the things on it, and effects on the whole picture; each mix is in 0..1."""

    backdrop: Backdrop
    things: tuple[Thing, ...]
    new_backdrop: Backdrop | None = None
    backdrop_mix: float = 0.0
    style: str | None = None
    style_mix: float = 0.0
    cast: RGB = (0.0, 0.0, 0.0)

    def with_thing(self, index: int, **changes: object) -> "Scene":
        """The same scene with the fields of one thing changed."""
        things = list(self.things)
        things[index] = replace(things[index], **changes)  # type: ignore[arg-type]
        return replace(self, things=tuple(things))


def random_thing(rng: np.random.Generator, taken: tuple[Thing, ...] = ()) -> Thing:
    """A thing whose colour and place differ from those of the things in `taken`."""
    colours, places = {t.colour for t in taken}, {t.place for t in taken}
    while True:
        colour = str(rng.choice(list(COLOURS)))
        shape = str(rng.choice(SHAPES))
        place = str(rng.choice(list(PLACES)))
        if colour not in colours and place not in places:
            x, y = (float(c + rng.uniform(-0.03, 0.03)) for c in PLACES[place])
            size = float(rng.choice((SMALL, MEDIUM, LARGE)) * rng.uniform(0.95, 1.05))
            return Thing(shape, colour, COLOURS[colour], place, x, y, size)


def random_backdrop(rng: np.random.Generator, avoid: str | None = None) -> Backdrop:
    """A random crop of a random photograph other than `avoid`."""
    photo = str(rng.choice([name for name in PHOTOS if name != avoid]))
    side = float(rng.uniform(0.4, 0.7))
    left, top = (float(v) for v in rng.uniform(0, 1 - side, size=2))
    return Backdrop(photo, left, top, side, bool(rng.integers(2)))


def random_scene(rng: np.random.Generator) -> Scene:
    """A background with two or three things on it."""
    things: tuple[Thing, ...] = ()
    for _ in range(int(rng.integers(2, 4))):
        things += (random_thing(rng, things),)
    return Scene(random_backdrop(rng), things)


def render(scene: Scene, side: int) -> Image.Image:
    """Draw a scene as an RGB picture of side x side pixels."""
    canvas = _crop(scene.backdrop, side)
    if scene.new_backdrop is not None:
        canvas = Image.blend(canvas, _crop(scene.new_backdrop, side), scene.backdrop_mix)
    for thing in scene.things:
        _paint(canvas, thing)
    if scene.style is not None:
        canvas = Image.blend(canvas, stylise(canvas, scene.style), scene.style_mix)
    if any(scene.cast):
        canvas = _as_image(np.asarray(canvas, np.float32) + np.asarray(scene.cast, np.float32))
    return canvas


def stylise(image: Image.Image, style: str) -> Image.Image:
    """The picture in one of `STYLES`."""
    match style:
        case "black and white":
            return ImageOps.grayscale(image).convert("RGB")
        case "sketch":
            edges = ImageOps.grayscale(image).filter(ImageFilter.FIND_EDGES)
            return ImageOps.invert(ImageOps.autocontrast(edges, cutoff=2)).convert("RGB")
        case "painting":
            return ImageOps.posterize(image.filter(ImageFilter.ModeFilter(5)), 2)
        case "negative":
            return ImageOps.invert(image)
    raise ValueError(f"unknown style {style!r}: one of {', '.join(STYLES)}")


@cache
def _photo(name: str) -> Image.Image:
    pixels = np.asarray(getattr(data, PHOTOS[name])())
    image = Image.fromarray(pixels).convert("RGB")
    image.thumbnail((640, 640))
    return image


def _crop(backdrop: Backdrop, side: int) -> Image.Image:
    photo = _photo(backdrop.photo)
    short = min(photo.size)
    left, top = backdrop.left * short, backdrop.top * short
    box = (left, top, left + backdrop.side * short, top + backdrop.side * short)
    image = photo.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return ImageOps.mirror(image) if backdrop.mirrored else image


def _paint(canvas: Image.Image, thing: Thing) -> None:
    side = canvas.width
    box = max(4, round(thing.size * side))
    corner = (round(thing.x * side - box / 2), round(thing.y * side - box / 2))
    mask = _mask(thing.shape, box)
    rim = mask.filter(ImageFilter.MaxFilter(3))
    shine = np.asarray(_material("gravel", box).convert("L"), np.float32)[..., None] / 128 - 1
    paint = np.asarray(thing.rgb, np.float32) + 18 * shine
    if thing.material is not None:
        stuff = np.asarray(_material(thing.material, box), np.float32)
        paint = (1 - thing.material_mix) * paint + thing.material_mix * stuff
    outline = (15, 15, 15) if sum(thing.rgb) > 200 else (235, 235, 235)
    canvas.paste(outline, corner, rim.point(lambda v: v * thing.opacity * 0.8))
    canvas.paste(_as_image(paint), corner, mask.point(lambda v: v * thing.opacity))


@cache
def _material(photo: str, side: int) -> Image.Image:
    return _photo(photo).resize((side, side), Image.Resampling.BILINEAR, box=(60, 60, 180, 180))


@cache
def _mask(shape: str, side: int) -> Image.Image:
    big = side * 4
    mask = Image.new("L", (big, big), 0)
    draw = ImageDraw.Draw(mask)
    match shape:
        case "circle":
            draw.ellipse((2, 2, big - 3, big - 3), fill=255)
        case "ring":
            draw.ellipse((2, 2, big - 3, big - 3), fill=255)
            draw.ellipse((big * 0.3, big * 0.3, big * 0.7, big * 0.7), fill=0)
        case "heart":
            draw.ellipse((0, big * 0.05, big * 0.52, big * 0.57), fill=255)
            draw.ellipse((big * 0.48, big * 0.05, big, big * 0.57), fill=255)
            draw.polygon([(big * f, big * g) for f, g in _HEART_POINT], fill=255)
        case _:
            draw.polygon([(big * f, big * g) for f, g in _outline(shape)], fill=255)
    return mask.resize((side, side), Image.Resampling.BOX)


_HEART_POINT = ((0.04, 0.42), (0.5, 0.36), (0.96, 0.42), (0.5, 0.98))


def _outline(shape: str) -> list[tuple[float, float]]:
    match shape:
        case "square":
            return [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)]
        case "triangle":
            return [(0.5, 0.03), (0.98, 0.95), (0.02, 0.95)]
        case "diamond":
            return [(0.5, 0.0), (0.85, 0.5), (0.5, 1.0), (0.15, 0.5)]
        case "cross":
            arm = (0.33, 0.67)
            return [
                (arm[0], 0), (arm[1], 0), (arm[1], arm[0]), (1, arm[0]), (1, arm[1]), (arm[1], arm[1]),
                (arm[1], 1), (arm[0], 1), (arm[0], arm[1]), (0, arm[1]), (0, arm[0]), (arm[0], arm[0]),
            ]  # fmt: skip
        case "star":
            return list(_star_points())
    raise ValueError(f"unknown shape {shape!r}: one of {', '.join(SHAPES)}")


def _star_points() -> Iterator[tuple[float, float]]:
    for k in range(10):
        radius = 0.5 if k % 2 == 0 else 0.21
        yield 0.5 + radius * sin(k * pi / 5), 0.52 - radius * cos(k * pi / 5)


def _as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
