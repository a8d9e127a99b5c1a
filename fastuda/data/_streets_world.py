"""A street from far to near: sky, skyline, ground, the plots along both sides, what stands on road and pavement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastuda.data._streets_canvas import Camera, Canvas, Colour, Draws
from fastuda.data._streets_looks import Look
from fastuda.data._streets_objects import (
    BUILDING,
    FENCE,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    VEGETATION,
    VOID,
    WALL,
    WHITE,
    Scene,
    bush,
    cyclist,
    lamp,
    person,
    shaded,
    sign,
    traffic_light,
    tree,
)
from fastuda.data._streets_vehicles import vehicle

END = 95.0  # metres to the end of the street


@dataclass(frozen=True)
class Street:
    """The plan of a street, in metres: x of the kerbs and of the plots' fronts, left and right."""

    kerbs: tuple[float, float]
    fronts: tuple[float, float]
    middle: float  # x of the middle line
    crossing: tuple[float, float]  # z where a side street begins and ends; beyond END where there is none


def draw_scene(height: int, width: int, draws: Draws, look: Look) -> tuple[Canvas, Camera]:
    """Paint one street; the look's `finish` turns the canvas into a picture."""
    canvas = Canvas(height, width)
    camera = Camera(
        focal=width * draws.uniform(*look.focal),
        centre=width * draws.uniform(0.40, 0.60),
        horizon=height * draws.uniform(*look.horizon),
        height=draws.uniform(*look.eye),
    )
    sunny, shady = draws.uniform(*look.lit[0]), draws.uniform(*look.lit[1])
    sun = draws.integer(0, 2)  # from the left, from the right, from behind the camera
    lit = tuple(sunny if sun == side else shady for side in range(3))
    fray = None
    if look.ragged:
        fray = (draws.octets(32, 32).astype(np.float64) / 127.5 - 1.0) * look.ragged
    scene = Scene(canvas, camera, draws, look, lit, fray)
    canvas.add((0.0, 0.0, 0.0), SKY, 1000.0)  # part 0: what is not painted over

    street = _plan(draws)
    _skyline(scene)
    _ground(scene, street)
    if draws.chance(look.sun_shadow) and sun < 2:
        _long_shadow(scene, street, sun)
    for near, far, side, paint in sorted(_plots(scene, street), key=lambda plot: -plot[0]):
        paint(scene, street, side, near, far)
    for z, paint, x, options in sorted(_things(scene, street), key=lambda thing: -thing[0]):
        paint(scene, x, z, **options)
    if draws.chance(look.bonnet):
        _bonnet(scene)
    return canvas, camera


def _plan(draws: Draws) -> Street:
    lane = draws.uniform(3.0, 3.6)
    lanes_right, lanes_left = draws.choice(((1, 1), (1, 1), (2, 1), (2, 2)))
    middle = -0.5 * lane + draws.uniform(-0.4, 0.4) - (lane if lanes_right == 2 and draws.chance(0.5) else 0.0)
    left, right = lanes_left * lane + draws.uniform(0.3, 2.2), lanes_right * lane + draws.uniform(0.3, 2.2)
    kerbs = (middle - left, middle + right)
    fronts = (kerbs[0] - draws.uniform(2.2, 4.5), kerbs[1] + draws.uniform(2.2, 4.5))
    begin = draws.uniform(9.0, 45.0) if draws.chance(0.4) else END + 1.0
    return Street(kerbs, fronts, middle, (begin, begin + draws.uniform(7.0, 10.0)))


def _skyline(scene: Scene) -> None:
    """Distant houses and trees where the street ends."""
    canvas, camera, draws = scene.canvas, scene.camera, scene.draws
    x = -130.0
    while x < 130.0:
        width = draws.uniform(8.0, 22.0)
        if draws.chance(0.6):
            wall = canvas.add(shaded(scene.colour(scene.look.walls), 0.9 * scene.lit[2]), BUILDING, 1.5 * END, 0.05)
            left, right = camera.column(x, 1.5 * END), camera.column(x + width, 1.5 * END)
            canvas.rectangle(wall, left, right, camera.row(draws.uniform(6.0, 24.0), 1.5 * END), camera.horizon + 3.0)
        else:
            leaves = canvas.add(shaded(scene.colour(scene.look.leaves), 0.9), VEGETATION, 1.4 * END, 0.3)
            scale = camera.focal / (1.4 * END)
            middle, radius = camera.column(x + 0.5 * width, 1.4 * END), 0.7 * width * scale
            canvas.ellipse(leaves, middle, camera.horizon + 1.0, radius, draws.uniform(5.0, 10.0) * scale, scene.fray)
        x += 0.8 * width


def _ground_points(canvas: Canvas, camera: Camera) -> tuple[int, np.ndarray, np.ndarray]:
    """The first row below the horizon, and from there on x (rows, columns) and z (rows, 1) of the ground, in metres."""
    top = int(camera.horizon + 1.0)
    z = (camera.focal * camera.height / (canvas.rows[top:] - camera.horizon))[:, None]
    return top, (canvas.columns - camera.centre) * (z / camera.focal), z


def _ground(scene: Scene, street: Street) -> None:
    """Grass, pavement, kerb, road, side street and lane marks: strips in x, cut in z."""
    canvas, camera, draws = scene.canvas, scene.camera, scene.draws
    top, x, z = _ground_points(canvas, camera)
    view = canvas.part[top:]
    left, right = street.kerbs
    in_side_street = (z > street.crossing[0]) & (z < street.crossing[1])

    view[:] = canvas.add(scene.colour(scene.look.grass), TERRAIN, 0.0, 0.25)
    paving = scene.colour(scene.look.pavement)
    view[(x > street.fronts[0] - 1.0) & (x < street.fronts[1] + 1.0)] = canvas.add(paving, SIDEWALK, 0.0, 0.10)
    view[(x > left - 0.25) & (x < right + 0.25)] = canvas.add(shaded(paving, 0.82), SIDEWALK, 0.0, 0.08)
    asphalt = scene.colour(scene.look.road)
    view[((x > left) & (x < right)) | in_side_street] = canvas.add(asphalt, ROAD, 0.0, 0.14)

    mark = canvas.add(shaded(WHITE, draws.uniform(0.85, 1.0)), ROAD, 0.0, 0.12)
    clear = ~in_side_street & (z < END)
    dash = z / 9.0
    dashed = (dash - np.floor(dash) < 0.45) & clear
    view[dashed & (np.abs(x - street.middle) < 0.09)] = mark
    for edge, inward in ((left, 0.3), (right, -0.3)):
        view[clear & (np.abs(x - edge - inward) < 0.06)] = mark
    if draws.chance(0.35):
        begin = street.crossing[0] - 4.5 if 10.0 < street.crossing[0] < END else draws.uniform(6.0, 20.0)
        stripe = x / 1.1
        zebra = (z > begin) & (z < begin + 3.0) & (stripe - np.floor(stripe) < 0.5)
        view[zebra & (x > left + 0.4) & (x < right - 0.4)] = mark


def _long_shadow(scene: Scene, street: Street, sun: int) -> None:
    """The shadow that the houses on the sunny side throw over pavement and road, with a gap here and there."""
    canvas, camera, draws = scene.canvas, scene.camera, scene.draws
    top, x, z = _ground_points(canvas, camera)
    reach, light = draws.uniform(2.0, 9.0), draws.uniform(0.45, 0.65)
    gaps = z / draws.uniform(14.0, 30.0) + draws.uniform()
    # the wall that faces left is lit (0) when the sun is on the left: the houses on the left throw the shadow
    dark = x < street.fronts[0] + reach if sun == 0 else x > street.fronts[1] - reach
    canvas.light[top:][dark & (gaps - np.floor(gaps) < 0.75)] = light


# ---- the plots along the street ----

Plot = tuple[float, float, int, Callable[[Scene, Street, int, float, float], None]]


def _plots(scene: Scene, street: Street) -> list[Plot]:
    """(near, far, side, painter) of every plot; side 0 is left, 1 is right."""
    draws, plots = scene.draws, []
    for side in range(2):
        near = draws.uniform(-12.0, 0.0)
        while near < END:
            far = near + draws.uniform(8.0, 18.0)
            begin, end = street.crossing
            if near < end and far > begin:  # leave the side street open
                if begin - near > 3.0:
                    plots.append((near, begin, side, _building))
                near = end
                continue
            paint = _building if draws.chance(scene.look.built) else draws.choice(OPEN_PLOTS)
            if far > 1.5:
                plots.append((max(near, 0.8), far, side, paint))
            near = far
    return plots


@dataclass(frozen=True)
class _Surface:
    """An upright surface on the canvas: for each pixel of a window of it, where on the surface that is."""

    view: np.ndarray  # (rows, columns) part numbers
    along: np.ndarray  # (columns,) metres along the surface
    up: np.ndarray  # (rows, columns) metres above the ground


def _surface(scene: Scene, x0: float, x1: float, z0: float, z1: float, height: float) -> _Surface | None:
    """The pixels of an upright surface from (x0, z0) to (x1, z1): along the street (x0 = x1) or across (z0 = z1)."""
    canvas, camera = scene.canvas, scene.camera
    ends = sorted((camera.column(x0, z0), camera.column(x1, z1)))
    tops, bottoms = (camera.row(height, z0), camera.row(height, z1)), (camera.row(0.0, z0), camera.row(0.0, z1))
    rows, columns = canvas.box(ends[0], ends[1], min(tops), max(bottoms))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    ray = (canvas.columns[columns] - camera.centre) / camera.focal
    z = x0 / ray if x0 == x1 else np.full(len(ray), z0)
    along = z if x0 == x1 else ray * z0
    up = camera.height - (canvas.rows[rows] - camera.horizon)[:, None] * (z / camera.focal)
    return _Surface(canvas.part[rows, columns], along, up)


@dataclass(frozen=True)
class _House:
    height: float  # metres
    bay: float  # metres from window to window
    pane: float  # half a window's width, in bays
    wall: Colour
    base: Colour  # of the ground floor and the cornice
    glass: Colour


def _facade(scene: Scene, surface: _Surface | None, house: _House, light: float, depth: float) -> None:
    """A wall with rows of windows, a darker ground floor with shop windows or doors, and a cornice."""
    if surface is None:
        return
    canvas, view, up = scene.canvas, surface.view, surface.up
    inside = (up >= 0.0) & (up < house.height)
    bay, floor = surface.along / house.bay, up / 3.0
    bay, level = bay - np.floor(bay), np.floor(floor)
    floor = floor - level
    glazed = (bay > 0.5 - house.pane) & (bay < 0.5 + house.pane)
    ground_floor = inside & (up < 3.0)
    wall = canvas.add(shaded(house.wall, light), BUILDING, depth, 0.14)
    base = canvas.add(shaded(house.base, light), BUILDING, depth, 0.12)
    glass = canvas.add(shaded(house.glass, 0.5 + 0.5 * light), BUILDING, depth, 0.10)
    view[inside] = wall
    view[ground_floor] = base
    view[inside & (up > house.height - 0.5)] = base
    windows = (floor > 0.32) & (floor < 0.80) & (up > 3.0) & (up < house.height - 0.6)
    view[inside & glazed & (windows | (ground_floor & (floor > 0.12) & (floor < 0.78)))] = glass


def _building(scene: Scene, street: Street, side: int, near: float, far: float) -> None:
    draws, front = scene.draws, street.fronts[side]
    wall = scene.colour(scene.look.walls)
    house = _House(
        height=3.0 * draws.integer(*scene.look.storeys) + 0.8,
        bay=draws.uniform(2.0, 3.6),
        pane=draws.uniform(0.18, 0.34),
        wall=wall,
        base=shaded(wall, draws.uniform(0.6, 1.15)),
        glass=scene.colour(scene.look.glass),
    )
    near = max(near, 0.8)
    outer = front + (-14.0 if side == 0 else 14.0)
    end_on = _surface(scene, min(front, outer), max(front, outer), near, near, house.height)
    _facade(scene, end_on, house, scene.lit[2], near)
    along = _surface(scene, front, front, near, far, house.height)
    _facade(scene, along, house, scene.lit[1 - side], 0.5 * (near + far))  # what stands on the left faces right


def _garden(scene: Scene, street: Street, side: int, near: float, far: float) -> None:
    """Trees or a house further back, behind a fence."""
    draws, front, outward = scene.draws, street.fronts[side], -1.0 if side == 0 else 1.0
    if draws.chance(0.35):
        _set_back(scene, front + outward * draws.uniform(6.0, 10.0), far, outward)
    for z in (far - 1.0, 0.5 * (near + far)):
        tree(scene, front + outward * draws.uniform(2.0, 5.0), max(z, 2.0))
    height, depth = draws.uniform(1.3, 2.4), 0.5 * (near + far)
    surface = _surface(scene, front, front, near, far, height)
    if surface is None:
        return
    bars = scene.colour(scene.look.fences)
    light = scene.lit[1 - side]
    gap = scene.canvas.add(shaded(bars, 0.5 * light), FENCE, depth, 0.2)
    bar = scene.canvas.add(shaded(bars, light), FENCE, depth, 0.1)
    inside = (surface.up >= 0.0) & (surface.up < height)
    pale = surface.along / draws.uniform(0.35, 0.6)
    rail = (surface.up > height - 0.15) | ((surface.up > 0.25) & (surface.up < 0.38))
    surface.view[inside] = gap
    surface.view[inside & (rail | (pale - np.floor(pale) < 0.5))] = bar


def _set_back(scene: Scene, x: float, z: float, outward: float) -> None:
    """A low house behind a garden, seen end on."""
    wall, glass = scene.colour(scene.look.walls), scene.colour(scene.look.glass)
    house = _House(3.0 * scene.draws.integer(1, 3) + 0.8, 2.6, 0.25, wall, shaded(wall, 0.85), glass)
    ends = sorted((x, x + outward * 12.0))
    _facade(scene, _surface(scene, ends[0], ends[1], z, z, house.height), house, scene.lit[2], z)


def _hedge(scene: Scene, street: Street, side: int, near: float, far: float) -> None:
    draws, front, outward = scene.draws, street.fronts[side], -1.0 if side == 0 else 1.0
    tree(scene, front + outward * draws.uniform(2.0, 5.0), max(far - 2.0, 2.0))
    height = draws.uniform(1.0, 2.0)
    surface = _surface(scene, front, front, near, far, height)
    if surface is not None:
        leaves = shaded(scene.colour(scene.look.leaves), scene.lit[1 - side])
        part = scene.canvas.add(leaves, VEGETATION, 0.5 * (near + far), 0.4)
        surface.view[(surface.up >= 0.0) & (surface.up < height)] = part


def _yard(scene: Scene, street: Street, side: int, near: float, far: float) -> None:
    """An open plot with bushes behind a low wall."""
    draws, front, outward = scene.draws, street.fronts[side], -1.0 if side == 0 else 1.0
    for z in (far, 0.5 * (near + far)):
        bush(scene, front + outward * draws.uniform(1.5, 4.0), max(z, 2.0))
    surface = _surface(scene, front, front, near, far, 0.8)
    if surface is not None:
        stone = shaded(scene.colour(scene.look.walls), 0.9 * scene.lit[1 - side])
        part = scene.canvas.add(stone, WALL, 0.5 * (near + far), 0.15)
        surface.view[(surface.up >= 0.0) & (surface.up < 0.8)] = part


OPEN_PLOTS = (_garden, _garden, _garden, _hedge, _yard)

# ---- what stands on road and pavement ----

Thing = tuple[float, Callable[..., None], float, dict]


def _things(scene: Scene, street: Street) -> list[Thing]:
    """(z, painter, x, options) of everything in the street."""
    return _along_the_kerbs(scene, street) + _on_the_road(scene, street) + _on_foot(scene, street)


def _along_the_kerbs(scene: Scene, street: Street) -> list[Thing]:
    draws, look, things = scene.draws, scene.look, []
    for side, (kerb, outward) in enumerate(zip(street.kerbs, (-1.0, 1.0), strict=True)):
        z, step = draws.uniform(4.0, 20.0), draws.uniform(*look.lamps)
        while z < 80.0:
            things.append((z, lamp, kerb + outward * 0.5, {}))
            z += step
        z = draws.uniform(5.0, 12.0)
        planted = draws.chance(look.trees + 0.25)
        while planted and z < 70.0:
            if draws.chance(look.trees):
                things.append((z, tree, kerb + outward * 1.1, {}))
            z += draws.uniform(6.0, 10.0)
        z = draws.uniform(3.5, 9.0)
        while z < 60.0:
            if draws.chance(look.parked) and not street.crossing[0] - 5.0 < z < street.crossing[1]:
                things.append((z, vehicle, kerb - outward * 1.05, {"oncoming": side == 0}))
            z += draws.uniform(5.6, 8.5)
    for _ in range(draws.integer(*look.signs)):
        side = draws.integer(0, 1)
        x = street.kerbs[side] + (-0.6 if side == 0 else 0.6)
        things.append((draws.uniform(5.5, 22.0), sign, x, {}))
    if street.crossing[0] < END:
        for kerb, outward in zip(street.kerbs, (-0.7, 0.7), strict=True):
            things.append((max(street.crossing[0] - 1.0, 3.0), traffic_light, kerb + outward, {}))
    return things


def _on_the_road(scene: Scene, street: Street) -> list[Thing]:
    draws, look, things = scene.draws, scene.look, []
    right_lane = 0.5 * (street.middle + min(street.kerbs[1], street.middle + 3.8))
    for x, oncoming in ((street.middle - 1.8, True), (right_lane, False)):
        z = draws.uniform(7.0, 16.0)
        while z < 75.0:
            if draws.chance(look.traffic):
                things.append((z, vehicle, x + draws.uniform(-0.3, 0.3), {"oncoming": oncoming}))
            z += draws.uniform(8.0, 16.0)
    if street.crossing[0] < END and draws.chance(0.5):
        z = 0.5 * (street.crossing[0] + street.crossing[1]) - 0.9
        things.append((z, vehicle, draws.uniform(-9.0, 9.0), {"across": True}))
    for _ in range(draws.integer(*look.riders)):
        kerb, inward = draws.choice(((street.kerbs[0], 1.0), (street.kerbs[1], -1.0)))
        things.append((draws.uniform(5.0, 18.0), cyclist, kerb + inward * draws.uniform(0.5, 2.4), {}))
    return things


def _on_foot(scene: Scene, street: Street) -> list[Thing]:
    draws, things = scene.draws, []
    for _ in range(draws.integer(*scene.look.people)):
        if draws.chance(0.15):
            things.append((draws.uniform(8.0, 24.0), person, draws.uniform(*street.kerbs), {}))
            continue
        side = draws.integer(0, 1)
        ends = sorted((street.kerbs[side], street.fronts[side]))
        things.append((draws.uniform(4.5, 24.0), person, draws.uniform(ends[0] + 0.5, ends[1] - 0.4), {}))
    return things


def _bonnet(scene: Scene) -> None:
    """The front of the car that carries the camera, which no class describes."""
    canvas, draws = scene.canvas, scene.draws
    rise = draws.uniform(0.05, 0.11) * canvas.height
    paint = canvas.add(shaded(scene.colour(scene.look.paint), 0.7), VOID, 1.0, 0.02)
    middle = canvas.width * draws.uniform(0.47, 0.53)
    canvas.ellipse(paint, middle, canvas.height + rise, 0.62 * canvas.width, 2.0 * rise)
