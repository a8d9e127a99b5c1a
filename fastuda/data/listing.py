"""Which image files a directory holds or a split list names, in an order that is the same on every machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastuda._paths import check_regular
from fastuda.data.errors import DataError, UnreadableFile
from fastuda.data.files import IMAGE_SUFFIXES


def existing_directory(path: Path) -> Path:
    """The path itself. Raises DataError where it is no directory."""
    if not path.is_dir():
        raise DataError(f"the directory {path} does not exist")
    return path


def image_files(directory: Path, suffix: str = "", recursive: bool = False) -> list[Path]:
    """The image files in a directory whose names end in ``suffix``, sorted by path.

    suffix: with or without the extension, such as ``_left.png`` or ``_left``; "" is any image file.
    recursive: whether directories below it are searched too. Hidden files and directories are left out.
    Raises DataError for a directory that cannot be read, or a symbolic link that leads back to where it lies.
    """
    found = (Path(path) for path in walk_files(directory, recursive) if is_image(path, suffix))
    return sorted(found, key=lambda path: path.as_posix())


def walk_files(directory: str | Path, recursive: bool, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of the visible files in a directory in any order; errors are those of ``image_files``.

    above: the resolved directories that this one lies in.
    """
    resolved = os.path.realpath(directory)
    if resolved in above:
        raise DataError(f"the directory {directory} is a symbolic link to one that it lies in")
    try:
        with os.scandir(directory) as items:
            visible = [(item.path, item.is_dir()) for item in items if not item.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the directory {directory} cannot be read: {error.strerror}") from None
    yield from (path for path, is_directory in visible if not is_directory)
    if recursive:
        for path, is_directory in visible:
            if is_directory:
                yield from walk_files(path, recursive, (*above, resolved))


def is_image(name: str, suffix: str) -> bool:
    """Whether a file's name is that of an image and ends in ``suffix``, given with or without its extension."""
    if suffix.lower().endswith(IMAGE_SUFFIXES):
        return name.lower().endswith(suffix.lower())
    stem, extension = os.path.splitext(name)
    return extension.lower() in IMAGE_SUFFIXES and stem.endswith(suffix)


def without_suffix(name: str, suffix: str) -> str:
    """The name without the image suffix, which a line of a split list may lack already."""
    if suffix and name.lower().endswith(suffix.lower()):
        return name[: -len(suffix)]
    stem, extension = os.path.splitext(name)
    return stem.removesuffix(suffix) if extension.lower() in IMAGE_SUFFIXES else name


def listed_images(split_list: Path, images: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """(name below ``images``, path) of each image that a split list names, in the list's order.

    Raises DataError for a list that cannot be read, is empty or names one image twice, in whatever spellings, and
    UnreadableFile for an image that is not there.
    """
    lines: dict[str, str] = {}
    names_in: dict[Path, dict[str, str]] = {}
    for line in _read_list(split_list):
        name = os.path.normpath(line).replace(os.sep, "/")
        image = _find_image(images, name, suffix, names_in)
        if first := lines.get(real := os.path.normcase(os.path.normpath(image))):
            same = "" if first == line else f", as {first} and as {line}"
            raise DataError(f"the split list {split_list} names {line} twice{same}")
        lines[real] = line
        yield image.relative_to(images).as_posix() if image.is_relative_to(images) else name, image


def _find_image(images: Path, name: str, suffix: str, names_in: dict[Path, dict[str, str]]) -> Path:
    """The image that a list's line names; the line may lack the suffix, and the file may have it in capitals.

    names_in: the file names of each directory that was listed, by their spelling with a lower-case extension.
    """
    if is_image(name, suffix):
        candidates = [name]
    elif suffix.lower().endswith(IMAGE_SUFFIXES):
        candidates = [name + suffix]
    else:
        candidates = [name + suffix + extension for extension in IMAGE_SUFFIXES]
    for candidate in candidates:
        if (images / candidate).is_file():
            return images / candidate
    folder = (images / candidates[0]).parent
    if folder not in names_in:
        found = os.listdir(folder) if folder.is_dir() else []
        names_in[folder] = {_lower_extension(name): name for name in sorted(found)}
    for candidate in candidates:
        if real := names_in[folder].get(_lower_extension(os.path.basename(candidate))):
            return folder / real
    raise UnreadableFile(f"the image {images / candidates[0]} of the split list does not exist")


def _lower_extension(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return stem + extension.lower()


def _read_list(path: Path) -> list[str]:
    try:
        check_regular(path)
        content = path.read_bytes()
        # Editors of Windows begin a text file with a byte order mark, which is no part of the first name.
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
