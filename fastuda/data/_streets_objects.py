"""The flat figures that stand in a street: trees, poles, signs, people and two-wheelers. Lengths are in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastuda.data._streets_canvas import Camera, Canvas, Colour, Draws
from fastuda.data._streets_looks import Look

# Cityscapes train ids
ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, BICYCLE, VOID = 10, 11, 12, 13, 18, 255

WHITE, BLACK = (0.93, 0.93, 0.92), (0.06, 0.06, 0.07)
RED, BLUE, YELLOW = (0.82, 0.10, 0.12), (0.10, 0.28, 0.72), (0.95, 0.80, 0.15)


@dataclass(frozen=True)
class Scene:
    """Everything that is needed to paint one street."""

    canvas: Canvas
    camera: Camera
    draws: Draws
    look: Look
    lit: tuple[float, float, float]  # brightness of surfaces that face left, right and the camera
    fray: np.ndarray | None  # table of numbers around 0 that frays the outline of leaves

    def colour(self, palette: tuple[Colour, ...]) -> Colour:
        """One of the palette, slightly off."""
        red, green, blue = self.draws.choice(palette)
        off = self.look.jitter
        brighter = 1.0 + self.draws.uniform(-2.0 * off, 2.0 * off)
        tint = self.draws.uniform(-0.4 * off, 0.4 * off)
        return red * brighter + tint, green * brighter, blue * brighter - tint


def shaded(colour: Colour, light: float) -> Colour:
    return colour[0] * light, colour[1] * light, colour[2] * light


class Board:
    """A flat figure that faces the camera and stands on the ground at (x, z), in metres right of and above there."""

    def __init__(self, scene: Scene, x: float, z: float) -> None:
        self.scene, self.z = scene, z
        self.scale = scene.camera.focal / z  # pixels per metre
        self.column, self.ground = scene.camera.column(x, z), scene.camera.row(0.0, z)

    def part(self, colour: Colour, label: int, rough: float = 0.05) -> int:
        return self.scene.canvas.add(shaded(colour, self.scene.lit[2]), label, self.z, rough)

    def point(self, x: float, y: float) -> tuple[float, float]:
        return self.column + x * self.scale, self.ground - y * self.scale

    def rectangle(self, part: int, left: float, right: float, bottom: float, top: float, thin: bool = False) -> None:
        (x0, y1), (x1, y0) = self.point(left, bottom), self.point(right, top)
        self.scene.canvas.rectangle(part, x0, x1, y0, y1, thin)

    def ellipse(self, part: int, x: float, y: float, rx: float, ry: float, edge: np.ndarray | None = None) -> None:
        self.scene.canvas.ellipse(part, *self.point(x, y), rx * self.scale, ry * self.scale, edge)

    def polygon(self, part: int, points: list[tuple[float, float]]) -> None:
        self.scene.canvas.polygon(part, [self.point(x, y) for x, y in points])

    def shadow(self, width: float) -> None:
        """The dark patch where something touches the ground."""
        self.scene.canvas.shadow(0.72, self.column, self.ground, 0.5 * width * self.scale, 0.12 * width * self.scale)


def tree(scene: Scene, x: float, z: float) -> None:
    """A trunk and a crown of overlapping tufts, lighter towards the top. All of it is vegetation."""
    draws, board = scene.draws, Board(scene, x, z)
    trunk, radius = draws.uniform(1.6, 2.8), draws.uniform(1.2, 2.2)
    leaves = scene.colour(scene.look.leaves)
    board.shadow(1.5 * radius)
    bark = board.part((0.34, 0.26, 0.18), VEGETATION, 0.2)
    board.rectangle(bark, -0.13, 0.13, 0.0, trunk + 0.5, thin=True)
    tones = [board.part(shaded(leaves, light), VEGETATION, 0.45) for light in (0.72, 0.9, 1.12)]
    for number in range(7):
        layer = number // 3  # three dark tufts at the bottom, three in the middle, a light one on top
        off, size = draws.uniform(-0.6, 0.6) * radius, draws.uniform(0.55, 0.8) * radius
        height = trunk + (0.5 + 0.55 * layer) * radius + draws.uniform(-0.15, 0.15) * radius
        board.ellipse(tones[layer], off, height, size, 0.85 * size, scene.fray)


def bush(scene: Scene, x: float, z: float) -> None:
    board, draws = Board(scene, x, z), scene.draws
    leaves = scene.colour(scene.look.leaves)
    for light in (0.8, 1.05):
        size = draws.uniform(0.5, 0.9)
        part = board.part(shaded(leaves, light), VEGETATION, 0.4)
        board.ellipse(part, draws.uniform(-0.5, 0.5), 0.45 * size, 1.2 * size, 0.75 * size, scene.fray)


def lamp(scene: Scene, x: float, z: float) -> None:
    """A lamp post whose arm reaches over the road."""
    board = Board(scene, x, z)
    metal = board.part(scene.colour(scene.look.metal), POLE)
    height, arm = scene.draws.uniform(5.0, 7.5), 1.6 if x < 0 else -1.6
    bulb = board.part(shaded(WHITE, 0.9), POLE)
    board.rectangle(metal, -0.12, 0.12, 0.0, height, thin=True)
    board.rectangle(metal, -0.17, 0.17, 0.0, 1.0, thin=True)
    board.rectangle(metal, min(arm, 0.0), max(arm, 0.0), height - 0.1, height + 0.05, thin=True)
    board.rectangle(bulb, min(arm, 0.7 * arm), max(arm, 0.7 * arm), height - 0.2, height)


def traffic_light(scene: Scene, x: float, z: float) -> None:
    board = Board(scene, x, z)
    board.rectangle(board.part(scene.colour(scene.look.metal), POLE), -0.10, 0.10, 0.0, 2.6, thin=True)
    board.rectangle(board.part(BLACK, LIGHT), -0.2, 0.2, 2.4, 3.4, thin=True)
    lamp_on = scene.draws.integer(0, 2)
    colour = ((0.2, 0.95, 0.5), (1.0, 0.75, 0.2), (1.0, 0.2, 0.15))[lamp_on]
    board.ellipse(board.part(colour, LIGHT), 0.0, 2.6 + 0.3 * lamp_on, 0.13, 0.13)


def sign(scene: Scene, x: float, z: float) -> None:
    """A pole with a round, triangular, square or direction sign."""
    board, draws = Board(scene, x, z), scene.draws
    y, half = draws.uniform(2.2, 2.7), draws.uniform(0.38, 0.52)
    board.rectangle(board.part(scene.colour(scene.look.metal), POLE), -0.07, 0.07, 0.0, y, thin=True)
    kind = draws.integer(0, 4)
    if kind == 0:
        board.ellipse(board.part(RED, SIGN), 0.0, y, half, half)
        board.ellipse(board.part(WHITE, SIGN), 0.0, y, 0.65 * half, 0.65 * half)
    elif kind == 1:
        for colour, size in ((RED, half), (WHITE, 0.55 * half)):
            corners = [(-1.1 * size, y - 0.7 * size), (1.1 * size, y - 0.7 * size), (0.0, y + 1.2 * size)]
            board.polygon(board.part(colour, SIGN), corners)
    elif kind == 2:
        board.rectangle(board.part(BLUE, SIGN), -half, half, y - half, y + half, thin=True)
        board.rectangle(board.part(WHITE, SIGN), -0.4 * half, 0.4 * half, y - 0.5 * half, y + 0.6 * half)
    elif kind == 3:
        corners = [(-1.2 * half, y), (0.0, y - 1.2 * half), (1.2 * half, y), (0.0, y + 1.2 * half)]
        board.polygon(board.part(YELLOW, SIGN), corners)
    else:
        board.rectangle(board.part(WHITE, SIGN), -2.2 * half, 2.2 * half, y - 0.6 * half, y + 0.6 * half, thin=True)
        board.rectangle(board.part(BLUE, SIGN), -2.0 * half, 2.0 * half, y - 0.45 * half, y + 0.45 * half)


def _figure(board: Board, label: int, x: float, feet: float, height: float, stride: float) -> None:
    """Legs, body, arms and head; `feet` is the height the figure starts at."""
    scene = board.scene
    top, trousers = scene.colour(scene.look.cloth), shaded(scene.colour(scene.look.cloth), 0.6)
    skin = scene.draws.choice(((0.90, 0.72, 0.60), (0.72, 0.52, 0.38), (0.45, 0.30, 0.22)))
    hip, neck, half = feet + 0.48 * height, feet + 0.84 * height, 0.13 * height
    legs, arms, chest = board.part(trousers, label), board.part(shaded(top, 0.8), label), board.part(top, label)
    wide, narrow = 0.06 * height, 0.05 * height
    for foot in (x - stride, x + stride):
        board.polygon(legs, [(x - wide, hip), (x + wide, hip), (foot + narrow, feet), (foot - narrow, feet)])
    board.rectangle(arms, x - 1.3 * half, x + 1.3 * half, hip - 0.02 * height, neck - 0.03 * height)
    board.rectangle(chest, x - 0.9 * half, x + 0.9 * half, hip - 0.04 * height, neck, thin=True)
    board.ellipse(board.part(skin, label), x, feet + 0.92 * height, 0.065 * height, 0.085 * height)


def person(scene: Scene, x: float, z: float) -> None:
    board, draws = Board(scene, x, z), scene.draws
    height = draws.uniform(1.55, 1.9) if draws.chance(0.88) else draws.uniform(1.0, 1.3)
    board.shadow(0.8)
    _figure(board, PERSON, 0.0, 0.0, height, draws.uniform(0.03, 0.16) * height)


def cyclist(scene: Scene, x: float, z: float) -> None:
    """A rider on a two-wheeler, seen from the side or from behind."""
    board, draws = Board(scene, x, z), scene.draws
    frame, tyre = board.part(scene.colour(scene.look.paint), BICYCLE), board.part(BLACK, BICYCLE)
    board.shadow(1.4)
    if draws.chance(0.4):
        for wheel in (-0.52, 0.52):
            board.ellipse(tyre, wheel, 0.36, 0.36, 0.36)
            board.ellipse(board.part((0.5, 0.5, 0.5), BICYCLE), wheel, 0.36, 0.25, 0.25)
        board.polygon(frame, [(-0.52, 0.34), (-0.1, 0.4), (0.5, 0.95), (-0.2, 0.9)])
    else:
        board.rectangle(tyre, -0.07, 0.07, 0.0, 0.7, thin=True)
        board.rectangle(frame, -0.28, 0.28, 0.85, 0.95, thin=True)
    _figure(board, RIDER, 0.0, 0.42, draws.uniform(1.4, 1.6), 0.08)
    if draws.chance(0.6):
        board.ellipse(board.part(scene.colour(scene.look.paint), RIDER), 0.0, 1.86, 0.13, 0.1)
