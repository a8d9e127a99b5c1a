"""Cars and vans: two boxes, body and cabin, with what belongs on their faces. Lengths are in metres."""

from __future__ import annotations

from dataclasses import dataclass

from fastuda.data._streets_canvas import Colour
from fastuda.data._streets_objects import BLACK, CAR, RED, WHITE, Board, Scene, shaded


@dataclass(frozen=True)
class _Box:
    """left and right in x, bottom and top in y, near and far in z."""

    left: float
    right: float
    bottom: float
    top: float
    near: float
    far: float

    @property
    def seen_side(self) -> float | None:
        """x of the side that the camera sees; None where the box is straight ahead."""
        return self.left if self.left > 0 else self.right if self.right < 0 else None


def vehicle(scene: Scene, x: float, z: float, oncoming: bool = False, across: bool = False) -> None:
    """A car or van with its near end at z: seen from behind, from the front (oncoming) or from the side (across)."""
    draws = scene.draws
    van, paint = draws.chance(0.2), scene.colour(scene.look.paint)
    waist, roof = (1.05, draws.uniform(1.9, 2.2)) if van else (0.9, draws.uniform(1.4, 1.6))
    width, length = (4.3, 1.8) if across else (draws.uniform(1.7, 1.95), 5.0 if van else 4.2)
    bonnet, boot = (0.05, 0.2) if van or across else (1.1, 0.6)
    first, last = (bonnet, boot) if oncoming else (boot, bonnet)
    inset = 0.16 if not across else 0.35 if van else 0.9
    body = _Box(x - 0.5 * width, x + 0.5 * width, 0.22, waist, z, z + length)
    cabin = _Box(body.left + inset, body.right - inset, waist, roof, z + first, body.far - last)

    Board(scene, x, z).shadow(1.25 * width)
    tyre = scene.canvas.add(BLACK, CAR, z)
    glass = scene.canvas.add(scene.colour(scene.look.glass), CAR, z, 0.03)
    if not across:
        _rear_tyres(scene, x, body, tyre)
    _paint(scene, body, paint)
    _paint(scene, cabin, paint)
    _windows(scene, x, cabin, glass, sill=0.3 if van and not oncoming else 0.04)
    if across:
        _broadside(scene, x, cabin, tyre, paint)
    else:
        _side_tyres(scene, body, tyre)
        _lights(scene, x, body, paint, WHITE if oncoming else RED)


def _paint(scene: Scene, box: _Box, colour: Colour) -> None:
    """The top, the side and the near face of a box, as far as the camera sees them."""
    camera, canvas = scene.camera, scene.canvas
    near = (camera.column(box.left, box.near), camera.column(box.right, box.near), camera.row(box.top, box.near))
    if camera.height > box.top:
        far = (camera.column(box.left, box.far), camera.column(box.right, box.far), camera.row(box.top, box.far))
        corners = [(near[0], near[2]), (near[1], near[2]), (far[1], far[2]), (far[0], far[2])]
        canvas.polygon(canvas.add(shaded(colour, 1.1), CAR, box.near, 0.03), corners)
    x = box.seen_side
    if x is not None:
        light = 0.85 * scene.lit[0 if x > 0 else 1]
        side = canvas.add(shaded(colour, light), CAR, box.near, 0.03)
        _side(scene, side, x, box.bottom, box.top, box.near, box.far)
    face = canvas.add(shaded(colour, scene.lit[2]), CAR, box.near, 0.03)
    canvas.rectangle(face, *near, camera.row(box.bottom, box.near), thin=True)


def _side(scene: Scene, part: int, x: float, bottom: float, top: float, near: float, far: float) -> None:
    """An upright rectangle in the plane at x."""
    camera = scene.camera
    tops, bottoms = (camera.row(top, near), camera.row(top, far)), (camera.row(bottom, near), camera.row(bottom, far))
    scene.canvas.upright(part, camera.column(x, near), camera.column(x, far), tops, bottoms)


def _windows(scene: Scene, x: float, cabin: _Box, glass: int, sill: float) -> None:
    side = cabin.seen_side
    if side is not None:
        _side(scene, glass, side, cabin.bottom + 0.05, cabin.top - 0.12, cabin.near + 0.3, cabin.far - 0.3)
    half = 0.5 * (cabin.right - cabin.left) - 0.1
    Board(scene, x, cabin.near).rectangle(glass, -half, half, cabin.bottom + sill, cabin.top - 0.12)


def _rear_tyres(scene: Scene, x: float, body: _Box, tyre: int) -> None:
    board, reach = Board(scene, x, body.near), 0.36 * (body.right - body.left)
    for wheel in (-reach, reach):
        board.rectangle(tyre, wheel - 0.12, wheel + 0.12, 0.0, 0.4)


def _side_tyres(scene: Scene, body: _Box, tyre: int) -> None:
    side = body.seen_side
    if side is not None:
        for wheel in (body.near + 0.8, body.far - 0.8):
            _side(scene, tyre, side, 0.0, 0.55, wheel - 0.32, wheel + 0.32)


def _broadside(scene: Scene, x: float, cabin: _Box, tyre: int, paint: Colour) -> None:
    """What the long side shows when that is the near face: the pillar between the windows, and wheels."""
    board = Board(scene, x, cabin.near)
    board.rectangle(scene.canvas.add(paint, CAR, cabin.near), -0.06, 0.06, cabin.bottom, cabin.top)
    for wheel in (-1.35, 1.35):
        board.ellipse(tyre, wheel, 0.33, 0.36, 0.34)


def _lights(scene: Scene, x: float, body: _Box, paint: Colour, colour: Colour) -> None:
    """Lamps, bumper and number plate."""
    board, half = Board(scene, x, body.near), 0.5 * (body.right - body.left)
    lamp, bumper, plate = (scene.canvas.add(c, CAR, body.near) for c in (colour, shaded(paint, 0.5), WHITE))
    board.rectangle(lamp, -half, 0.3 - half, 0.62, 0.8)
    board.rectangle(lamp, half - 0.3, half, 0.62, 0.8)
    board.rectangle(bumper, -half, half, 0.22, 0.38)
    board.rectangle(plate, -0.25, 0.25, 0.42, 0.54)
