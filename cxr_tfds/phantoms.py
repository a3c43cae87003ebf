"""Procedural chest radiographs: a data set that needs no download. Uses NumPy only.

Each image is a sum of attenuations over a grid of (SIDE, SIDE): soft tissue, minus the air of two
lungs, plus heart, mediastinum, spine, ribs, clavicles, vessels; seen through a film curve of random
exposure, with scatter and quantum noise. As on a PA film the patient faces the viewer: the heart
points to the right of the image.

Bacterial pneumonia fills part of one lung (a lobar, mottled opacity with air bronchograms that
swallows the border of heart or diaphragm behind it); viral pneumonia thickens the interstitium of
both (streaks and rings around the hila, faint patches). Exposure and habitus vary more than disease
does, so brightness alone does not tell the classes apart.

    for record in phantoms.records():
        image = phantoms.render(record)        # (128, 128) uint8

A patient's habitus is seeded by the patient id, everything else in an image by its key. So images
can be drawn in any order and in parallel.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from cxr_tfds import shapes, source

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE: Final = shapes.SIDE
SEED: Final = 20180222
NUM_NORMAL: Final = 540
NUM_PNEUMONIA: Final = 1460
"""27 % to 73 %, as in the archive."""
_MAX_IMAGES_PER_PATIENT: Final = 5
_BACTERIA_SHARE: Final = 0.6
FINDING_SHARE: Final = 0.1
"""A finding is where disease attenuates by more than this share of its maximum: below a tenth,
little of it rises above the grain of the film."""

_Field = shapes.Field


@functools.cache
def records() -> tuple[source.Record, ...]:
    """Returns the phantom's records, named as Kaggle names its files, all in folder train."""
    normal = [
        f"train/NORMAL/IM-{patient:04d}-{image:04d}.jpeg"
        for patient, image, _ in _number_images(NUM_NORMAL, "normal")
    ]
    ill = [
        f"train/PNEUMONIA/person{patient}_{_draw_etiology(patient)}_{serial}.jpeg"
        for patient, _, serial in _number_images(NUM_PNEUMONIA, "pneumonia")
    ]
    return tuple(_record_for(key) for key in sorted(normal + ill))


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """One radiograph, and where its disease is.

    Attributes:
      image: (SIDE, SIDE) uint8, bright where dense.
      finding: (SIDE, SIDE) bool, true where disease is drawn; nowhere in a healthy chest.
    """

    image: NDArray[np.uint8]
    finding: NDArray[np.bool_]


def draw(record: source.Record) -> Drawing:
    """Draws one radiograph."""
    rng = _generator(record.key)
    habitus = _Habitus.draw(_generator(record.patient_id))
    anatomy = _Anatomy(habitus, rng)
    opacity = _OPACITIES[record.etiology](anatomy, rng)
    image = _expose(anatomy.attenuation(opacity), rng)
    disease = anatomy.disease(opacity)
    is_ill = record.etiology != "normal"  # The haze of a shallow breath is no disease.
    return Drawing(image, (disease > FINDING_SHARE * disease.max()) & is_ill)


def render(record: source.Record) -> NDArray[np.uint8]:
    """Returns the image of `draw`, (SIDE, SIDE) uint8."""
    return draw(record).image


def recipe(record: source.Record) -> str:
    """Returns a hash of the seeds of an image, used in place of a hash of its content."""
    return hashlib.sha256(f"phantom {SEED} {record.key}".encode()).hexdigest()


def _number_images(total: int, salt: str) -> list[tuple[int, int, int]]:
    """Returns (patient, image of the patient, serial), each from 1, for `total` images."""
    rng = _generator(f"patients {salt}")
    sizes = rng.integers(1, _MAX_IMAGES_PER_PATIENT + 1, size=total)
    pairs = [(p, i) for p, size in enumerate(sizes, start=1) for i in range(1, size + 1)]
    return [(p, i, serial) for serial, (p, i) in enumerate(pairs[:total], start=1)]


def _draw_etiology(patient: int) -> str:
    is_bacterial = _generator(f"etiology {patient}").random() < _BACTERIA_SHARE
    return "bacteria" if is_bacterial else "virus"


def _record_for(key: str) -> source.Record:
    _, label, file_name = key.split("/")
    etiology, patient_id = source.parse_name(file_name.removesuffix(".jpeg"))
    return source.Record(key, label, etiology, patient_id, path=key)


def _generator(text: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{SEED} {text}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


@dataclasses.dataclass(frozen=True)
class _Habitus:
    """What all images of a patient share; lengths in units of half the image's side."""

    fat: float
    lung_width: float
    lung_apex: float
    lung_fork: float
    dome: float
    heart_size: float
    heart_tilt: float
    rib_phase: float
    rib_gap: float
    rib_slope: float
    bone: float
    markings: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Habitus:
        return cls(
            fat=rng.uniform(0.0, 1.0),
            lung_width=rng.uniform(0.30, 0.37),
            lung_apex=rng.uniform(-0.86, -0.72),
            lung_fork=rng.uniform(0.38, 0.43),
            dome=rng.uniform(0.36, 0.56),
            heart_size=rng.uniform(0.88, 1.15),
            heart_tilt=rng.uniform(0.55, 0.95),
            rib_phase=rng.uniform(0.0, 1.0),
            rib_gap=rng.uniform(0.150, 0.185),
            rib_slope=rng.uniform(0.20, 0.42),
            bone=rng.uniform(0.7, 1.25),
            markings=rng.uniform(0.6, 1.3),
        )


class _Anatomy:
    """A healthy chest in one pose: the geometry and attenuation of its parts.

    Attributes:
      x, y: coordinates of the body under each pixel, x to the right of the image, y down.
      sides: mask of each lung field, including the part behind the heart; -1 is the image's left.
      lungs: mask of both aerated lungs, without heart and mediastinum.
    """

    def __init__(self, habitus: _Habitus, rng: np.random.Generator) -> None:
        self._habitus = habitus
        self.x, self.y = _pose(rng)
        inspiration = rng.uniform(-0.05, 0.05)
        self._domes = {-1: habitus.dome - 0.06 + inspiration, 1: habitus.dome + inspiration}
        self.sides = {side: self._lung_field(side) for side in (-1, 1)}
        self._field = self.sides[-1] + self.sides[1]
        self._heart = self._draw_heart()
        self.lungs = self._field * (1 - self._heart) * (1 - self._mediastinum())
        self._vessels = self._draw_vessels(rng)

    def hilum(self, side: int) -> tuple[float, float]:
        """Returns (x, y) of the hilum, where the vessels enter; side -1 is the image's left."""
        return side * 0.17, -0.08 if side == 1 else -0.03

    def dome(self, side: int) -> float:
        """Returns y of the top of one half of the diaphragm."""
        return self._domes[side]

    def attenuation(self, opacity: _Field) -> _Field:
        """Returns the attenuation of the beam; `opacity` is what disease adds within the lungs."""
        fat = self._habitus.fat
        soft = self._body() * (0.60 + 0.10 * fat + 0.10 * self._below_diaphragm())
        air = (0.50 - 0.06 * fat) * self.lungs * (1 - 0.10 * np.abs(self.y))
        bones = self._habitus.bone * (self._ribs() + self._clavicles() + self._spine())
        vessels = 0.06 * self._habitus.markings * self._vessels * self.lungs
        disease = self.disease(opacity)
        behind = 0.05 * self._heart * self._field + 0.04 * self._mediastinum()
        return soft - air + bones + vessels + disease + behind - self._airways()

    def disease(self, opacity: _Field) -> _Field:
        """Returns what disease adds to the attenuation: behind the heart, nothing."""
        return opacity * self.lungs

    def _lung_field(self, side: int) -> _Field:
        u = self.x * side
        h = self._habitus
        taper = 0.70 + 0.30 * shapes.step(self.y + 0.40, 0.16)
        across = (u - h.lung_fork - 0.05 * shapes.step(self.y, 0.2)) / (h.lung_width * taper)
        centre = (h.lung_apex + 0.95) / 2
        along = (self.y - centre) / (0.95 - centre)
        inside = shapes.step(1 - np.abs(across) ** 2.4 - np.abs(along) ** 2.6, 0.045)
        return inside * shapes.step(self._diaphragm(side) - self.y, 0.016)

    def _diaphragm(self, side: int) -> _Field:
        """Returns y of the diaphragm under every x: a dome that falls to the costophrenic angle."""
        offset = self.x * side - self._habitus.lung_fork + 0.06
        return self._domes[side] + np.float32(1.45) * offset**2

    def _below_diaphragm(self) -> _Field:
        left = shapes.step(self.y - self._diaphragm(-1), 0.02) * (self.x < 0)
        right = shapes.step(self.y - self._diaphragm(1), 0.02) * (self.x >= 0)
        return left + right

    def _draw_heart(self) -> _Field:
        size, tilt = self._habitus.heart_size, self._habitus.heart_tilt
        dx, dy = self.x - 0.14 * size, self.y - (self._domes[1] - 0.17)
        along = (dx * np.cos(tilt) + dy * np.sin(tilt)) / (0.40 * size)
        across = (-dx * np.sin(tilt) + dy * np.cos(tilt)) / (0.26 * size)
        # Narrow towards the great vessels, broad towards the apex.
        return shapes.step(1 - along**2 - (across * (1.06 - 0.12 * along)) ** 2, 0.045)

    def _mediastinum(self) -> _Field:
        width = (
            0.105
            + 0.05 * shapes.step(self.y - 0.05, 0.12)
            + 0.03 * shapes.step(-self.y - 0.45, 0.08)
        )
        band = shapes.step(width - np.abs(self.x), 0.014)
        aortic_knob = shapes.blob(self.x - 0.125, self.y + 0.38, 0.075, 0.085)
        return np.maximum(band, aortic_knob)

    def _body(self) -> _Field:
        shoulder = 0.30 + 0.75 * shapes.step(self.y + 0.84 + 0.06 * self._habitus.fat, 0.045)
        trunk = shapes.step(shoulder - np.abs(self.x), 0.03)
        return trunk * (1 - 0.22 * np.clip(np.abs(self.x), 0, 1.1) ** 4)

    def _ribs(self) -> _Field:
        h = self._habitus
        u = np.abs(self.x)
        # Behind, a rib rises from the spine and falls to the flank; in front it runs back inwards.
        back = self.y + 0.10 * np.sin(np.pi * u / 0.62) - h.rib_slope * u**2 * 1.5
        front = self.y - 0.55 * u + 0.18 * u**2
        posterior = shapes.comb(back, h.rib_gap, h.rib_phase, 0.30)
        anterior = shapes.comb(front, 1.25 * h.rib_gap, h.rib_phase + 0.3, 0.22)
        cage = (
            shapes.step(0.80 - u, 0.02)
            * shapes.step(self.y + 0.90, 0.04)
            * shapes.step(0.74 - self.y, 0.08)
        )
        beside_spine = shapes.step(u - 0.07, 0.02)
        return (
            cage
            * beside_spine
            * (0.115 * posterior + 0.05 * anterior * shapes.step(u - 0.25, 0.05))
        )

    def _clavicles(self) -> _Field:
        u = np.abs(self.x)
        course = -0.60 - 0.16 * u + 0.035 * np.sin(7.0 * u)
        bar = shapes.ridge(self.y - course, 0.036)
        return 0.13 * bar * shapes.step(u - 0.07, 0.015) * shapes.step(0.86 - u, 0.04)

    def _spine(self) -> _Field:
        column = shapes.step(0.075 - np.abs(self.x), 0.012)
        discs = 0.5 + 0.5 * np.cos(2 * np.pi * self.y / 0.135 + 6.28 * self._habitus.rib_phase)
        return column * (0.10 + 0.035 * discs)

    def _airways(self) -> _Field:
        trachea = shapes.step(0.036 - np.abs(self.x), 0.010) * shapes.step(-0.30 - self.y, 0.02)
        bronchi = shapes.ridge(self.y + 0.30 - 0.75 * np.abs(self.x), 0.022) * shapes.step(
            0.15 - np.abs(self.x), 0.02
        )
        stomach = shapes.blob(self.x - 0.34, self.y - self._domes[1] - 0.14, 0.12, 0.06)
        return 0.13 * trachea + 0.07 * bronchi + 0.10 * stomach

    def _draw_vessels(self, rng: np.random.Generator) -> _Field:
        left, right = (_tree(self, side, rng, branches=16, width=0.017) for side in (-1, 1))
        hila = [
            shapes.blob(self.x - x, self.y - y, 0.075, 0.12) for x, y in map(self.hilum, (-1, 1))
        ]
        return left + right + 1.1 * (hila[0] + hila[1])


def _draw_haze(anatomy: _Anatomy, rng: np.random.Generator) -> _Field:
    """Healthy lungs, at times with the haze of a shallow breath at both bases."""
    haze = shapes.step(anatomy.y - anatomy.dome(-1) + 0.22, 0.10)
    return np.float32(0.07) * rng.random(dtype=np.float32) * haze


def _draw_lobar(anatomy: _Anatomy, rng: np.random.Generator) -> _Field:
    """Bacterial: one lobe, or part of one, filled; at times a second focus on the other side."""
    side = int(rng.choice([-1, 1]))
    opacity = _consolidate(anatomy, side, rng, strength=rng.uniform(0.30, 0.50))
    if rng.random() < 0.25:
        second = _consolidate(anatomy, -side, rng, strength=rng.uniform(0.20, 0.35))
        opacity = np.maximum(opacity, second)
    return opacity


def _consolidate(anatomy: _Anatomy, side: int, rng: np.random.Generator, strength: float) -> _Field:
    x0 = side * rng.uniform(0.30, 0.50)
    y0 = rng.uniform(-0.48, anatomy.dome(side) - 0.06)
    warp = shapes.texture(rng, 4.0)
    radius = np.hypot(
        (anatomy.x - x0) / rng.uniform(0.24, 0.36), (anatomy.y - y0) / rng.uniform(0.22, 0.34)
    )
    blob = shapes.step(1.0 + 0.28 * warp - radius, rng.uniform(0.06, 0.16))
    # A fissure stops the consolidation along a line, above or below.
    fissure = (anatomy.y - y0) - rng.uniform(-0.3, 0.3) * (anatomy.x - x0)
    edge = rng.choice([-1, 1]) * fissure + rng.uniform(0.12, 0.28)
    mottle = 1.0 + 0.22 * shapes.texture(rng, 1.6)
    bronchograms = _tree(anatomy, side, rng, branches=12, width=0.013)
    filled = blob * shapes.step(edge, 0.02) * anatomy.sides[side]
    return np.float32(strength) * filled * (mottle - 0.55 * np.minimum(bronchograms, 1))


def _draw_interstitial(anatomy: _Anatomy, rng: np.random.Generator) -> _Field:
    """Viral: streaks and rings around both hila, and faint patches."""
    strength = rng.uniform(1.3, 2.2)
    reach = rng.uniform(0.30, 0.48)
    mesh = np.maximum(shapes.texture(rng, 1.4) - 0.2, 0)
    patches = np.maximum(shapes.texture(rng, 7.0) - 0.5, 0)
    streaks: _Field = np.zeros_like(anatomy.x)
    near: _Field = np.zeros_like(anatomy.x)
    for side in (-1, 1):
        x0, y0 = anatomy.hilum(side)
        near += shapes.blob(
            anatomy.x - x0 - side * 0.08, anatomy.y - y0 - 0.05, reach, 1.25 * reach
        )
        streaks += _tree(anatomy, side, rng, branches=22, width=0.014)
    return np.float32(strength) * near * (0.05 + 0.06 * mesh + 0.09 * streaks + 0.07 * patches)


_OPACITIES: Final = {
    "normal": _draw_haze,
    "bacteria": _draw_lobar,
    "virus": _draw_interstitial,
}


def _pose(rng: np.random.Generator) -> tuple[_Field, _Field]:
    """Returns body coordinates: the patient is turned, shifted and closer or farther."""
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) * (2 / SIDE) - 1
    x, y = np.meshgrid(axis, axis)
    angle = rng.normal(0, 0.035)
    scale = rng.uniform(0.92, 1.06)
    dx, dy = rng.normal(0, 0.03, size=2)
    cos, sin = np.float32(np.cos(angle) * scale), np.float32(np.sin(angle) * scale)
    return cos * x - sin * y + np.float32(dx), sin * x + cos * y + np.float32(dy)


def _tree(
    anatomy: _Anatomy, side: int, rng: np.random.Generator, *, branches: int, width: float
) -> _Field:
    """Draws curved lines from a hilum outwards, thinner and fainter with distance."""
    x0, y0 = anatomy.hilum(side)
    # A lung and its margin occupy little more than half of the columns; the rest stays zero.
    columns = np.s_[:, : SIDE * 9 // 16] if side == -1 else np.s_[:, SIDE * 7 // 16 :]
    dx, dy = (anatomy.x[columns] - x0) * side, anatomy.y[columns] - y0
    angles = np.sort(rng.uniform(-1.75, 1.75, size=branches).astype(np.float32))
    bends = rng.normal(0, 0.55, size=branches).astype(np.float32)
    lengths = rng.uniform(0.18, 0.55, size=branches).astype(np.float32)
    # One branch at a time over the pixels within reach, which fit into the CPU's cache: twice as
    # fast as all branches at once.
    distances = np.hypot(dx, dy)
    reached = distances < lengths.max()
    distance, bearing = distances[reached], np.arctan2(dy, dx)[reached]
    caliber = np.float32(width / 1.41) * np.clip(1.25 - 1.2 * distance, 0.45, None)
    lines = np.zeros_like(distance)
    for angle, bend, length in zip(angles, bends, lengths, strict=True):
        off_course = (bearing - angle - bend * distance) * distance
        line = shapes.bump(np.square(off_course / caliber))
        line *= np.clip((length - distance) / np.float32(0.2), 0, 1)
        np.maximum(lines, line, out=lines)
    tree: _Field = np.zeros_like(anatomy.x)
    tree[columns][reached] = lines
    return tree


def _expose(attenuation: _Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Returns the film: adds scatter, random exposure and contrast, and quantum noise."""
    spectrum = np.fft.rfft2(attenuation)
    sharp = np.fft.irfft2(spectrum * shapes.gaussian_response(0.55), s=(SIDE, SIDE))
    scatter = np.fft.irfft2(spectrum * shapes.gaussian_response(12.0), s=(SIDE, SIDE))
    signal = 0.9 * sharp + 0.1 * scatter
    contrast = rng.uniform(3.6, 5.4)
    middle = rng.uniform(0.40, 0.60)
    film = 1 / (1 + np.exp(-contrast * (signal - middle)))
    grain = shapes.texture(rng, 0.5) * rng.uniform(0.008, 0.020)
    return np.clip((film + grain) * 255, 0, 255).astype(np.uint8)
