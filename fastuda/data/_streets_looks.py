"""The two looks of `streets`: what the world is made of, and how a picture of it comes out.

`rendered` is a game: clear air, bright flat colours, hard edges. `camera` is a dashboard camera in another town: greyer
and worn materials, low sun with shadows or a grey sky, haze, a lens that blurs and darkens the corners, sensor noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastuda.data._streets_canvas import Camera, Canvas, Colour, Draws

Range = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """What a world is made of. Ranges are (low, high) of an even draw; every range of counts is of whole numbers."""

    number: int  # part of the random key: the two looks never draw the same scene
    finish: Callable[[Canvas, Camera, Draws], np.ndarray]
    # the camera
    focal: Range  # in image widths
    horizon: Range  # in image heights
    eye: Range  # metres above the ground
    bonnet: float  # probability that the car's own bonnet is seen
    # materials
    road: tuple[Colour, ...]
    pavement: tuple[Colour, ...]
    grass: tuple[Colour, ...]
    walls: tuple[Colour, ...]
    glass: tuple[Colour, ...]
    leaves: tuple[Colour, ...]
    fences: tuple[Colour, ...]
    metal: tuple[Colour, ...]
    paint: tuple[Colour, ...]  # of vehicles
    cloth: tuple[Colour, ...]
    lit: tuple[Range, Range]  # brightness of walls on the sunny and on the shaded side
    jitter: float  # how far a colour strays from its palette
    ragged: float  # how frayed leaves are
    sun_shadow: float  # probability of a sunny day with long shadows
    # how much there is of everything
    storeys: tuple[int, int]
    built: float  # probability that a plot along the street holds a building
    trees: float  # probability of a tree at each of the places along the kerb
    traffic: float  # probability of a vehicle at each of the places in a lane
    parked: float  # the same along the kerb
    people: tuple[int, int]
    riders: tuple[int, int]
    signs: tuple[int, int]
    lamps: Range  # metres between lamp posts


def _sky(canvas: Canvas, camera: Camera, low: Colour, high: Colour) -> np.ndarray:
    """(H, 1, 3) float32: from `low` at the horizon to `high` above."""
    up = np.clip((camera.horizon - canvas.rows) / max(camera.horizon, 1.0), 0.0, 1.0).astype(np.float32)[:, None, None]
    low, high = np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)
    return low + (high - low) * up


def _distances(canvas: Canvas, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) float32 distance in metres (the sky is at 1000), and where the ground is."""
    depth = canvas.depths()
    ground = depth == 0.0
    below = np.maximum(canvas.rows - camera.horizon, 0.5)
    row_depth = (camera.focal * camera.height / below).astype(np.float32)
    return np.where(ground, row_depth[:, None], depth), ground


def _quantise(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)


def _finish_rendered(canvas: Canvas, camera: Camera, draws: Draws) -> np.ndarray:
    """Flat colours, a blue gradient for the sky, blobs of shadow under things and a little blue in the distance."""
    depth, ground = _distances(canvas, camera)
    image = canvas.colours()
    image *= np.where(ground, canvas.light, np.float32(1.0))[:, :, None]
    pale = draws.uniform(0.0, 0.4)
    sky_low, sky_high = (0.72 + 0.2 * pale, 0.86 + 0.1 * pale, 0.98), (0.25 + pale, 0.50 + 0.7 * pale, 0.92)
    air = (depth / (depth + np.float32(400.0)))[:, :, None]
    image += (np.array(sky_low, dtype=np.float32) - image) * air
    image = np.where((canvas.part == 0)[:, :, None], _sky(canvas, camera, sky_low, sky_high), image)
    return _quantise(image)


def _smooth_noise(draws: Draws, height: int, width: int, cell: int) -> np.ndarray:
    """(H, W) float32 in -1..1: random values every `cell` pixels, joined linearly."""
    grid = draws.octets(height // cell + 2, width // cell + 2).astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    y, x = np.arange(height), np.arange(width)
    fy = ((y % cell) / cell).astype(np.float32)[:, None]
    fx = ((x % cell) / cell).astype(np.float32)
    grid = grid[y // cell] * (1 - fy) + grid[y // cell + 1] * fy
    return grid[:, x // cell] * (1 - fx) + grid[:, x // cell + 1] * fx


def _ground_texture(canvas: Canvas, camera: Camera, draws: Draws) -> np.ndarray:
    """(H, W) float32 in -1..1: asphalt, seen in perspective: grains of 12 cm across and 40 cm along the street."""
    table = draws.octets(64, 64).astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    below = np.maximum(canvas.rows - camera.horizon, 0.5)
    z = camera.focal * camera.height / below
    x = (canvas.columns - camera.centre) * (z / camera.focal)[:, None]
    grain = table[(np.floor(z / 0.4).astype(np.int64) & 63)[:, None], np.floor(x / 0.12).astype(np.int64) & 63]
    return grain * np.minimum(1.0, 14.0 / z).astype(np.float32)[:, None]


def _blur(image: np.ndarray, weight: float) -> np.ndarray:
    """Weights (w, 1 - 2w, w) down and across; the border repeats."""
    side, centre = np.float32(weight), np.float32(1.0 - 2.0 * weight)
    padded = np.concatenate([image[:1], image, image[-1:]], axis=0)
    image = centre * image + side * (padded[:-2] + padded[2:])
    padded = np.concatenate([image[:, :1], image, image[:, -1:]], axis=1)
    return centre * image + side * (padded[:, :-2] + padded[:, 2:])


def _vignette(canvas: Canvas, strength: float) -> np.ndarray:
    """(H, W, 1) float32: 1 in the centre, 1 - strength in the corners."""
    y, x = canvas.rows * (2.0 / canvas.height) - 1.0, canvas.columns * (2.0 / canvas.width) - 1.0
    radius = 0.5 * ((y * y)[:, None] + x * x)
    return (1.0 - strength * radius).astype(np.float32)[:, :, None]


def _finish_camera(canvas: Canvas, camera: Camera, draws: Draws) -> np.ndarray:
    """In the order of the light: texture, shadow, haze, clouds, blur, white balance, vignette, tone curve, noise."""
    height, width = canvas.height, canvas.width
    depth, ground = _distances(canvas, camera)
    fine = draws.octets(height, width).astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    coarse = _smooth_noise(draws, height, width, 4) + _smooth_noise(draws, height, width, 11)
    grain = np.where(ground, _ground_texture(canvas, camera, draws), fine)
    shade = 1.0 + canvas.roughness() * (np.float32(0.6) * grain + np.float32(0.4) * coarse)
    shade *= np.where(ground, canvas.light, np.float32(1.0))
    image = canvas.colours() * shade[:, :, None]

    white = draws.uniform(0.80, 0.94)
    haze = (white * 0.97, white * 0.99, white)
    air = (depth / (depth + np.float32(draws.uniform(110.0, 350.0))))[:, :, None]
    image += (np.array(haze, dtype=np.float32) - image) * air
    blue = draws.uniform(0.05, 0.40)
    sky = _sky(canvas, camera, haze, (white - 0.05 - blue, white - 0.02 - 0.6 * blue, white))
    clouds = _smooth_noise(draws, height, width, 24) + np.float32(0.5) * _smooth_noise(draws, height, width, 8)
    sky = sky + (np.float32(0.07) * clouds)[:, :, None]
    image = np.where((canvas.part == 0)[:, :, None], sky, image)

    image = _blur(image, draws.uniform(0.06, 0.20))
    warm = draws.uniform(-0.06, 0.08)
    exposure = draws.uniform(1.0, 1.3)
    balance = (exposure * (1.0 + warm), exposure, exposure * (1.0 - warm))
    image = image * np.array(balance, dtype=np.float32) * _vignette(canvas, draws.uniform(0.2, 0.4))
    image = np.clip(image, 0.0, 1.0)
    contrast = np.float32(draws.uniform(0.0, 0.5))
    image = image + contrast * (image * image * (3.0 - 2.0 * image) - image)
    image = np.float32(0.04) + np.float32(0.92) * image
    noise = draws.octets(2, height, width, 3).astype(np.float32)
    strength = np.float32(draws.uniform(0.015, 0.05) / 255.0)
    return _quantise(image + strength * (noise[0] - noise[1]))


def _palette(colours: str) -> tuple[Colour, ...]:
    """Colours as red-green-blue hexadecimal, as in web pages."""
    return tuple((red / 255.0, green / 255.0, blue / 255.0) for red, green, blue in map(bytes.fromhex, colours.split()))


RENDERED = Look(
    number=0,
    finish=_finish_rendered,
    focal=(0.70, 0.85),
    horizon=(0.44, 0.52),
    eye=(1.4, 1.7),
    bonnet=0.3,
    road=_palette("45474f 54545c 66666b"),
    pavement=_palette("b8b0a8 9e9999 bdad99"),
    grass=_palette("599e38"),
    walls=_palette("cc6b52 e0bd80 9e5242 e6dbc7 8c99b8 c7997a"),
    glass=_palette("33527a 4d739e 24334d"),
    leaves=_palette("338c29 4d9e33 24702e"),
    fences=_palette("8c5c33 e6e6e0 6b472e"),
    metal=_palette("737880 4d5257"),
    paint=_palette("d91f1a 1f4dcc f2f2f2 f2bf1a 1a1a1f 339959 9aa0a8"),
    cloth=_palette("e63340 3359d9 f2cc33 262633 e6e6e6 8c3399"),
    lit=((1.0, 1.0), (0.82, 0.90)),
    jitter=0.04,
    ragged=0.0,
    sun_shadow=0.0,
    storeys=(3, 8),
    built=0.74,
    trees=0.35,
    traffic=0.45,
    parked=0.30,
    people=(2, 7),
    riders=(0, 2),
    signs=(2, 5),
    lamps=(16.0, 26.0),
)

CAMERA = Look(
    number=1,
    finish=_finish_camera,
    focal=(0.80, 1.05),
    horizon=(0.36, 0.47),
    eye=(1.3, 2.2),
    bonnet=0.8,
    road=_palette("575454 615e5c 706b66"),
    pavement=_palette("99948c a89e8f 8a807a"),
    grass=_palette("5c6138 706b47"),
    walls=_palette("998a75 857a73 b3a894 755c4d 666b70 a39470"),
    glass=_palette("2e3338 525c66 808a94"),
    leaves=_palette("33521f 475c24 5c5c26"),
    fences=_palette("574d42 3d4742 807a70"),
    metal=_palette("5c5e5e 3d403d"),
    paint=_palette("1f1f21 8c8f94 bfc2c2 333d57 6b2421 4d4f52"),
    cloth=_palette("292b38 4d4742 736b66 5c2e2e 33425c 9e998f"),
    lit=((1.0, 1.25), (0.55, 0.80)),
    jitter=0.05,
    ragged=0.35,
    sun_shadow=0.6,
    storeys=(2, 6),
    built=0.60,
    trees=0.60,
    traffic=0.40,
    parked=0.55,
    people=(3, 12),
    riders=(0, 3),
    signs=(2, 5),
    lamps=(22.0, 34.0),
)
