"""Where the files of each public data set lie. Every layout is a function: config, root -> entries.

No function here looks at label files unless the config says ``labelled``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from fastuda._paths import check_regular
from fastuda.data.config import DatasetConfig
from fastuda.data.dataset import Entry
from fastuda.data.errors import DataError, UnreadableFile
from fastuda.data.files import IMAGE_SUFFIXES

CITIES = ("Rio", "Rome", "Taipei", "Tokyo")


def image_directory(config: DatasetConfig, root: Path) -> Path:
    """The directory below which all images of a data set lie, whether it exists or not."""
    below = {
        "gta5": "images",
        "synthia": "RGB",
        "synscapes": "img/rgb-2k",
        "cityscapes": f"leftImg8bit/{config.split}",
        "crosscity": f"{config.city}/Images/{config.split}",
        "folder": config.images,
    }
    return root / below[config.kind]


def gta5(config: DatasetConfig, root: Path) -> list[Entry]:
    """GTA5: ``images/NAME.png``, ``labels/NAME.png`` (palette PNG, Cityscapes ids)."""
    return _two_folders(config, root, "labels")


def synthia(config: DatasetConfig, root: Path) -> list[Entry]:
    """SYNTHIA-RAND-CITYSCAPES: ``RGB/NAME.png``, ``GT/LABELS/NAME.png`` (16-bit RGB, class id in the red channel)."""
    return _two_folders(config, root, "GT/LABELS")


def synscapes(config: DatasetConfig, root: Path) -> list[Entry]:
    """Synscapes: ``img/rgb-2k/N.png`` (2048x1024), ``img/class/N.png`` (Cityscapes ids, the native 1440x720)."""
    return _two_folders(config, root, "img/class")


def cityscapes(config: DatasetConfig, root: Path) -> list[Entry]:
    """Cityscapes: ``leftImg8bit/SPLIT/CITY/X_leftImg8bit.png``, ``gtFine/SPLIT/CITY/X_gtFine_labelIds.png``."""
    if not config.split:
        raise DataError("a cityscapes data set needs the field 'split', such as train or val")
    images = existing_directory(image_directory(config, root))
    entries = []
    for city in sorted(p for p in images.iterdir() if p.is_dir()):
        for path in image_files(city, "_leftImg8bit.png"):
            stem = path.name.removesuffix("_leftImg8bit.png")
            label = root / "gtFine" / config.split / city.name / f"{stem}_gtFine_labelIds.png"
            entries.append(Entry(f"{city.name}/{stem}", path, label if config.labelled else None))
    return _checked(entries, images)


def crosscity(config: DatasetConfig, root: Path) -> list[Entry]:
    """Cross-City (NTHU): ``CITY/Images/SPLIT/X.png``, ``CITY/Labels/Test/X_eval.png`` (Cityscapes ids); the split
    Train has no labels."""
    if config.city not in CITIES:
        raise DataError(f"a crosscity data set needs the field 'city', one of {', '.join(CITIES)}, not '{config.city}'")
    if config.split not in ("Train", "Test"):
        raise DataError(f"a crosscity data set needs the field 'split', Train or Test, not '{config.split}'")
    if config.labelled and config.split != "Test":
        raise DataError("Cross-City has labels for the split Test only: set labelled to false for Train")
    images = existing_directory(image_directory(config, root))
    labels = root / config.city / "Labels" / config.split
    entries = [
        Entry(f"{config.city}/{path.stem}", path, labels / f"{path.stem}_eval.png" if config.labelled else None)
        for path in image_files(images)
    ]
    return _checked(entries, images)


def folder(config: DatasetConfig, root: Path) -> list[Entry]:
    """Any two directories: the label of ``images/STEM<image_suffix>`` is ``labels/STEM<label_suffix>``.

    STEM may hold sub-directories. Without a split list every image below ``images`` belongs to the data set; a split
    list names one STEM (or image file) a line.
    """
    images, labels = existing_directory(image_directory(config, root)), root / config.labels
    label_suffix = config.label_suffix or ".png"
    if not label_suffix.lower().endswith(IMAGE_SUFFIXES):
        label_suffix += ".png"
    if config.split:
        named: Iterable[tuple[str, Path]] = _listed(config, root, images, config.image_suffix)
    else:
        paths = image_files(images, config.image_suffix, recursive=True)
        named = ((path.relative_to(images).as_posix(), path) for path in paths)
    entries = []
    for name, path in named:
        stem = _stem(name, config.image_suffix)
        entries.append(Entry(stem, path, labels / (stem + label_suffix) if config.labelled else None))
    return _checked(entries, images)


LAYOUTS: dict[str, Callable[[DatasetConfig, Path], list[Entry]]] = {
    "gta5": gta5,
    "synthia": synthia,
    "synscapes": synscapes,
    "cityscapes": cityscapes,
    "crosscity": crosscity,
    "folder": folder,
}


def _two_folders(config: DatasetConfig, root: Path, label_folder: str) -> list[Entry]:
    """The label has the name of the image; ``config.split`` may name a list file of stems or file names."""
    images, labels = existing_directory(image_directory(config, root)), root / label_folder
    if config.split:
        paths: Iterable[Path] = (path for _, path in _listed(config, root, images, ""))
    else:
        paths = image_files(images)
    entries = [Entry(p.stem, p, labels / f"{p.stem}.png" if config.labelled else None) for p in paths]
    return _checked(entries, images)


def existing_directory(path: Path) -> Path:
    """The path itself. Raises DataError where it is no directory."""
    if not path.is_dir():
        raise DataError(f"the directory {path} does not exist")
    return path


def image_files(directory: Path, suffix: str = "", recursive: bool = False) -> list[Path]:
    """The image files in a directory, sorted by name so that every machine sees the same order.

    Hidden files and directories are none.  Raises DataError for a directory that cannot be read.
    """
    return sorted(
        (Path(p) for p in _walk(directory, recursive) if _is_image(p, suffix)), key=lambda path: path.as_posix()
    )


def _walk(directory: str | Path, recursive: bool, above: tuple[str, ...] = ()) -> Iterator[str]:
    real = os.path.realpath(directory)
    if real in above:
        raise DataError(f"the directory {directory} is a symbolic link to one that it lies in")
    try:
        with os.scandir(directory) as items:
            visible = [item for item in items if not item.name.startswith(".")]
            inside = [item.path for item in visible if item.is_dir()]
    except OSError as error:
        raise DataError(f"the directory {directory} cannot be read: {error.strerror}") from None
    yield from (item.path for item in visible if item.path not in inside)
    if recursive:
        for path in inside:
            yield from _walk(path, recursive, (*above, real))


def _is_image(name: str, suffix: str) -> bool:
    if suffix.lower().endswith(IMAGE_SUFFIXES):
        return name.lower().endswith(suffix.lower())
    stem, extension = os.path.splitext(name)
    return extension.lower() in IMAGE_SUFFIXES and stem.endswith(suffix)


def _stem(name: str, suffix: str) -> str:
    """The name without the image suffix; a split list may leave it out already."""
    if suffix and name.lower().endswith(suffix.lower()):
        return name[: -len(suffix)]
    stem, extension = os.path.splitext(name)
    return stem.removesuffix(suffix) if extension.lower() in IMAGE_SUFFIXES else name


def _listed(config: DatasetConfig, root: Path, images: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """(name below ``images``, path) of each image that the split list names.

    Raises DataError for a list that cannot be read, is empty or names one image twice, in whatever spellings.
    """
    path = root / config.split
    lines: dict[str, str] = {}
    in_directory: dict[Path, dict[str, str]] = {}
    for line in _read_list(path):
        name = os.path.normpath(line).replace(os.sep, "/")
        image = _find_image(images, name, suffix, in_directory)
        if first := lines.get(real := os.path.normcase(os.path.normpath(image))):
            same = "" if first == line else f", as {first} and as {line}"
            raise DataError(f"the split list {path} names {line} twice{same}")
        lines[real] = line
        yield image.relative_to(images).as_posix() if image.is_relative_to(images) else name, image


def _find_image(images: Path, name: str, suffix: str, in_directory: dict[Path, dict[str, str]]) -> Path:
    """The image of a list's line; its suffix may be left out, and be written in capitals on disk."""
    if _is_image(name, suffix):
        candidates = [name]
    elif suffix.lower().endswith(IMAGE_SUFFIXES):
        candidates = [name + suffix]
    else:
        candidates = [name + suffix + extension for extension in IMAGE_SUFFIXES]
    for candidate in candidates:
        if (images / candidate).is_file():
            return images / candidate
    folder = (images / candidates[0]).parent
    if folder not in in_directory:
        found = os.listdir(folder) if folder.is_dir() else []
        in_directory[folder] = {_lower_suffix(name): name for name in sorted(found)}
    for candidate in candidates:
        if real := in_directory[folder].get(_lower_suffix(os.path.basename(candidate))):
            return folder / real
    raise UnreadableFile(f"the image {images / candidates[0]} of the split list does not exist")


def _lower_suffix(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return stem + extension.lower()


def _read_list(path: Path) -> list[str]:
    try:
        check_regular(path)
        content = path.read_bytes()
        # Editors of Windows open a text with a byte order mark, which is no part of the first name.
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (
            "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror or "it is no regular file"
        )
        raise DataError(f"the split list {path} cannot be read: {reason}") from None
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise DataError(f"the split list {path} is empty")
    return lines


def _checked(entries: list[Entry], images: Path) -> list[Entry]:
    if not entries:
        raise DataError(f"the directory {images} holds no images of the data set")
    missing = [e.label for e in entries if e.label is not None and not e.label.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        raise UnreadableFile(f"the label {missing[0]} does not exist{more}")
    return entries
