"""Generate edit requests, and simulate editors that carry them out with faults.

An `Outcome` has an editor's faults: how far it followed the instruction, what else it changed, and how it damaged
the picture. The three are independent, so text alignment, fidelity and perceptual quality can be distinguished.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from critic.data.minibench.scenes import (
    COLOURS,
    LARGE,
    PLACES,
    RGB,
    SHAPES,
    SMALL,
    STYLES,
    Scene,
    random_backdrop,
    random_thing,
    render,
)

SIDE_CHANGES = ("fade", "recolour", "drift", "cast")
DAMAGES = ("noise", "blur", "blocks", "pixels")
_FREE_MATERIALS = ("brick", "grass", "stars", "coins", "tissue")


@dataclass(frozen=True)
class Request:
    """An instruction about a scene, and the function that carries it out.

    `subject` is the index of the thing to edit, or None for the whole picture. `apply(scene, subject, degree)`
    carries the instruction out to a degree from 0 (not at all) to 1 (fully).
    """

    edit_type: str
    instruction: str
    subject: int | None
    apply: Callable[[Scene, int, float], Scene]


@dataclass(frozen=True)
class Outcome:
    """An editor's faults on a request: degree and severities in 0..1, kinds of fault or None.

    `wrong_thing` is the index of the thing that was edited instead of the subject, `bystander` that of the thing
    changed by a side change of the kinds "fade" and "recolour".
    """

    degree: float
    wrong_thing: int | None
    side_change: str | None
    side_severity: float
    bystander: int
    damage: str | None
    damage_severity: float

    @property
    def alignment(self) -> float:
        """How well the instruction was followed, 1 to 5."""
        return 1.0 if self.wrong_thing is not None else 1 + 4 * self.degree

    @property
    def fidelity(self) -> float:
        """How well the rest was preserved, 1 to 5; editing the wrong thing changes the rest."""
        collateral = 0.5 if self.wrong_thing is not None else 0.0
        return 5 - 4 * max(self.side_severity, collateral)

    @property
    def quality(self) -> float:
        """How free of damage the picture is, 1 to 5."""
        return 5 - 4 * self.damage_severity

    @property
    def overall(self) -> float:
        """The true score of the edit as a whole, 1 to 5; the worst axis weighs most."""
        axes = (self.alignment, self.fidelity, self.quality)
        return 0.6 * sum(axes) / 3 + 0.4 * min(axes)


@dataclass(frozen=True)
class Editor:
    """A simulated editing model; each skill is the probability of no fault on that axis."""

    name: str
    obedience: float
    care: float
    craft: float

    def attempt(self, scene: Scene, request: Request, rng: np.random.Generator) -> Outcome:
        """Draw this editor's faults on a request."""
        degree, wrong_thing = 1.0, None
        others = [k for k in range(len(scene.things)) if k != request.subject]
        if rng.random() > self.obedience:
            fault = rng.random()
            if fault < 0.15 and request.subject is not None:
                wrong_thing = int(rng.choice(others))
            else:
                degree = 0.0 if fault < 0.55 else float(rng.uniform(0.1, 0.85))
        side_change, side_severity = None, 0.0
        if rng.random() > self.care:
            kinds = [k for k in SIDE_CHANGES if not (k == "drift" and request.edit_type == "background")]
            side_change, side_severity = str(rng.choice(kinds)), float(rng.uniform(0.4, 1))
        damage, damage_severity = None, 0.0
        if rng.random() > self.craft:
            damage, damage_severity = str(rng.choice(DAMAGES)), float(rng.uniform(0.2, 1))
        return Outcome(
            degree, wrong_thing, side_change, side_severity, int(rng.choice(others)), damage, damage_severity
        )


EDITORS = (
    Editor("alder", obedience=0.85, care=0.75, craft=0.80),
    Editor("birch", obedience=0.80, care=0.50, craft=0.70),
    Editor("cedar", obedience=0.75, care=0.70, craft=0.45),
    Editor("dogwood", obedience=0.70, care=0.45, craft=0.60),
    Editor("elm", obedience=0.60, care=0.65, craft=0.65),
    Editor("fir", obedience=0.55, care=0.80, craft=0.75),
    Editor("gum", obedience=0.50, care=0.40, craft=0.50),
    Editor("hazel", obedience=0.40, care=0.30, craft=0.30),
)


def carry_out(scene: Scene, request: Request, outcome: Outcome) -> Scene:
    """The scene after the edit with its side changes, without damage to the pixels."""
    subject = request.subject if outcome.wrong_thing is None else outcome.wrong_thing
    edited = request.apply(scene, -1 if subject is None else subject, outcome.degree)
    severity = outcome.side_severity
    thing = edited.things[outcome.bystander]
    match outcome.side_change:
        case "fade":
            return edited.with_thing(outcome.bystander, opacity=thing.opacity * (1 - severity))
        case "recolour":
            other = tuple(255 - c for c in thing.rgb)
            return edited.with_thing(outcome.bystander, rgb=_mix(thing.rgb, other, 0.25 + 0.75 * severity))
        case "drift":
            room = 1 - edited.backdrop.side
            left = edited.backdrop.left + (1 if edited.backdrop.left < room / 2 else -1) * 0.25 * severity
            return replace(edited, backdrop=replace(edited.backdrop, left=min(max(left, 0.0), room)))
        case "cast":
            tint = ((1, 0, -1), (-1, 0, 1), (0, 1, -1), (1, -1, 0))[outcome.bystander % 4]
            red, green, blue = (60 * severity * c for c in tint)
            return replace(edited, cast=(red, green, blue))
    return edited


def damage(image: Image.Image, kind: str | None, severity: float, rng: np.random.Generator) -> Image.Image:
    """Damage a picture by one of `DAMAGES`, with a severity in 0..1."""
    side = image.width
    match kind:
        case "noise":
            noisy = np.asarray(image, np.float32) + rng.normal(0, 12 + 50 * severity, (side, side, 3))
            return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        case "blur":
            return image.filter(ImageFilter.GaussianBlur(side * (0.006 + 0.022 * severity)))
        case "blocks":
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=round(22 - 20 * severity))
            return Image.open(buffer).convert("RGB")
        case "pixels":
            few = round(side / (1.8 + 4 * severity))
            return image.resize((few, few), Image.Resampling.BOX).resize((side, side), Image.Resampling.NEAREST)
    return image


def draw_edit(
    scene: Scene, request: Request, outcome: Outcome, side: int, rng: np.random.Generator
) -> Image.Image:
    """The edited picture, side x side pixels."""
    edited = render(carry_out(scene, request, outcome), side)
    return damage(edited, outcome.damage, outcome.damage_severity, rng)


def random_request(scene: Scene, rng: np.random.Generator, edit_type: str | None = None) -> Request:
    """A request of the given or a random type that fits the scene."""
    kind = edit_type or str(rng.choice(EDIT_TYPES))
    subject = int(rng.integers(len(scene.things)))
    return _REQUESTS[kind](scene, subject, rng)


def _pick(rng: np.random.Generator, *wordings: str) -> str:
    return str(rng.choice(wordings))


def _mix(a: RGB, b: tuple[float, ...], weight: float) -> RGB:
    return tuple((1 - weight) * p + weight * q for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def _colour(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    thing = scene.things[subject]
    colour = str(rng.choice([c for c in COLOURS if c not in {t.colour for t in scene.things}]))

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        return scene.with_thing(subject, rgb=_mix(scene.things[subject].rgb, COLOURS[colour], degree))

    wording = _pick(rng, f"make the {thing.name} {colour}", f"change the colour of the {thing.name} to {colour}")
    return Request("colour", wording, subject, apply)


def _replace(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    thing = scene.things[subject]
    shape = str(rng.choice([s for s in SHAPES if s != thing.shape]))
    colour = str(rng.choice([c for c in COLOURS if c not in {t.colour for t in scene.things}]))

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        old = scene.things[subject]
        new = replace(old, shape=shape, colour=colour, rgb=COLOURS[colour], opacity=degree)
        faded = scene.with_thing(subject, opacity=1 - degree)
        return replace(faded, things=(*faded.things, new))

    wording = _pick(
        rng,
        f"replace the {thing.name} with a {colour} {shape}",
        f"turn the {thing.name} into a {colour} {shape}",
    )
    return Request("replace", wording, subject, apply)


def _remove(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        return scene.with_thing(subject, opacity=1 - degree)

    name = scene.things[subject].name
    return Request("remove", _pick(rng, f"remove the {name}", f"take the {name} away"), subject, apply)


def _add(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    new = random_thing(rng, scene.things)

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        return replace(scene, things=(*scene.things, replace(new, opacity=degree)))

    wording = _pick(rng, f"add a {new.name} at the {new.place}", f"put a {new.name} in the picture, {new.place}")
    return Request("add", wording, None, apply)


def _resize(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    thing = scene.things[subject]
    larger = thing.size < (SMALL + LARGE) / 2 * (0.9 if rng.random() < 0.5 else 1.1)
    factor = 1.8 if larger else 0.45

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        return scene.with_thing(subject, size=scene.things[subject].size * (1 + (factor - 1) * degree))

    words = ("larger", "bigger") if larger else ("smaller", "much smaller")
    return Request("resize", f"make the {thing.name} {_pick(rng, *words)}", subject, apply)


def _move(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    thing = scene.things[subject]
    place = str(rng.choice([p for p in PLACES if p not in {t.place for t in scene.things}]))
    x, y = PLACES[place]

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        old = scene.things[subject]
        return scene.with_thing(
            subject, x=old.x + degree * (x - old.x), y=old.y + degree * (y - old.y), place=place
        )

    wording = _pick(rng, f"move the {thing.name} to the {place}", f"put the {thing.name} at the {place}")
    return Request("move", wording, subject, apply)


def _background(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    new = random_backdrop(rng, avoid=scene.backdrop.photo)

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        return replace(scene, new_backdrop=new, backdrop_mix=degree)

    wording = _pick(rng, f"change the background to {new.photo}", f"put {new.photo} behind the objects")
    return Request("background", wording, None, apply)


def _style(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    style = str(rng.choice(STYLES))

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        return replace(scene, style=style, style_mix=degree)

    article = "" if style == "black and white" else "a "
    wording = _pick(rng, f"turn the picture into {article}{style}", f"make the whole picture {article}{style}")
    return Request("style", wording, None, apply)


def _material(scene: Scene, subject: int, rng: np.random.Generator) -> Request:
    material = str(rng.choice([m for m in _FREE_MATERIALS if m != scene.backdrop.photo]))

    def apply(scene: Scene, subject: int, degree: float) -> Scene:
        return scene.with_thing(subject, material=material, material_mix=degree)

    name = scene.things[subject].name
    wording = _pick(rng, f"cover the {name} with {material}", f"make the {name} out of {material}")
    return Request("material", wording, subject, apply)


_REQUESTS: dict[str, Callable[[Scene, int, np.random.Generator], Request]] = {
    "colour": _colour,
    "replace": _replace,
    "remove": _remove,
    "add": _add,
    "resize": _resize,
    "move": _move,
    "background": _background,
    "style": _style,
    "material": _material,
}
EDIT_TYPES = tuple(_REQUESTS)
