"""The data layouts of this package, one record each, and how a config's ``kind`` chooses one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastuda._outside import import_object
from fastuda.data.classes import ClassSet
from fastuda.data.dataset import Dataset, Entry, Unlabelled
from fastuda.data.errors import DataError
from fastuda.data.files import IMAGE_SUFFIXES
from fastuda.data.layout import Layout
from fastuda.data.streets import NATIVE, Streets
from fastuda.data.strict import close_name
from fastuda.data.tables import SYNTHIA, TRAIN_IDS
from fastuda.data.video import Video

if TYPE_CHECKING:  # config.py imports the layouts
    from fastuda.data.config import DatasetConfig


class DrawnStreets(Layout):
    """Street scenes that are drawn when they are asked for: no files."""

    kind = "streets"
    image_size = NATIVE
    in_files = False

    def dataset(self, config: DatasetConfig, classes: ClassSet, moves: Sequence[str] = ()) -> Dataset:
        if not classes.train_ids:
            raise DataError("streets draws the classes of Cityscapes: name one of the built-in class sets for it")
        streets = Streets(
            classes, look=config.look, split=config.split, count=config.count, seed=config.seed, size=config.size
        )
        return streets if config.labelled else Unlabelled(streets)


class Folder(Layout):
    """Any two directories, which the config names together with the suffixes; labels hold train ids."""

    kind = "folder"
    sub_folders = True
    ids = TRAIN_IDS

    def image_directory(self, config: DatasetConfig, root: Path) -> Path:
        return root / config.images

    def label_directory(self, config: DatasetConfig, root: Path) -> Path:
        return root / config.labels

    def suffixes(self, config: DatasetConfig) -> tuple[str, str]:
        label_suffix = config.label_suffix or self.label_suffix
        has_extension = label_suffix.lower().endswith(IMAGE_SUFFIXES)
        return config.image_suffix, label_suffix if has_extension else label_suffix + self.label_suffix


class GTA5(Layout):
    """``images/NAME.png``, ``labels/NAME.png`` (palette PNG)."""

    kind = "gta5"
    image_size = (1052, 1914)


class Synthia(Layout):
    """SYNTHIA-RAND-CITYSCAPES: ``RGB/NAME.png``, ``GT/LABELS/NAME.png`` (16-bit RGB, the class id in red)."""

    kind = "synthia"
    image_folder, label_folder = "RGB", "GT/LABELS"
    ids = SYNTHIA
    image_size = (760, 1280)


class Synscapes(Layout):
    """``img/rgb-2k/N.png``, ``img/class/N.png``, which are smaller."""

    kind = "synscapes"
    image_folder, label_folder = "img/rgb-2k", "img/class"
    image_size, label_size = (1024, 2048), (720, 1440)


class Cityscapes(Layout):
    """``leftImg8bit/SPLIT/CITY/X_leftImg8bit.png``, ``gtFine/SPLIT/CITY/X_gtFine_labelIds.png``."""

    kind = "cityscapes"
    image_folder, label_folder = "leftImg8bit/{split}", "gtFine/{split}"
    image_suffix, label_suffix = "_leftImg8bit.png", "_gtFine_labelIds.png"
    sub_folders = True
    image_size = (1024, 2048)


class CrossCity(Layout):
    """Cross-City (NTHU): ``CITY/Images/SPLIT/X.png``, ``CITY/Labels/Test/X_eval.png``; Train has no labels."""

    kind = "crosscity"
    image_folder, label_folder = "{city}/Images/{split}", "{city}/Labels/{split}"
    label_suffix = "_eval.png"
    image_size = (1024, 2048)
    cities = ("Rio", "Rome", "Taipei", "Tokyo")

    def check(self, config: DatasetConfig) -> None:
        if config.city not in self.cities:
            raise DataError(
                f"a crosscity data set needs the field 'city', one of {', '.join(self.cities)}, not '{config.city}'"
            )
        if config.split not in ("Train", "Test"):
            raise DataError(f"a crosscity data set needs the field 'split', Train or Test, not '{config.split}'")
        if config.labelled and config.split != "Test":
            raise DataError("Cross-City has labels for the split Test only: set labelled to false for Train")

    def entries(self, config: DatasetConfig, root: Path) -> list[Entry]:
        return [entry._replace(name=f"{config.city}/{entry.name}") for entry in super().entries(config, root)]


LAYOUTS: dict[str, Layout] = {
    layout.kind: layout
    for layout in (DrawnStreets(), Folder(), GTA5(), Synthia(), Synscapes(), Cityscapes(), CrossCity(), Video())
}


def find_layout(kind: str) -> Layout:
    """The layout of that name, or of ``package.module:Class`` outside this package, which is then imported.

    Raises ValueError, in one sentence, where there is none.
    """
    if kind in LAYOUTS:
        return LAYOUTS[kind]
    if ":" not in kind:
        raise DataError(
            f"there is no data layout '{kind}'{close_name(kind, LAYOUTS)}; there are {', '.join(LAYOUTS)}, "
            "or package.module:Class for one of your own"
        )
    found = import_object(kind, "the data layout")
    if isinstance(found, type) and issubclass(found, Layout):
        try:
            found = found()
        except TypeError as error:
            raise DataError(f"the data layout '{kind}' must be made without arguments: {error}") from error
    if not isinstance(found, Layout):
        raise DataError(f"the data layout '{kind}' is no subclass of fastuda.data.Layout")
    return found
