"""The folder that stands for the S3 prefix of a multi-model endpoint: TargetModel is a path below it."""

import hashlib
import os
import stat
from dataclasses import dataclass

from headrace.simulate.api_errors import ValidationError


def hashed(target: str) -> str:
    """The opaque name that a container knows a model by. Of the target alone: a package that was overwritten under the
    same name is, as SageMaker warns ("Add or Remove Models"), served as it was while it is cached."""
    return hashlib.sha256(target.encode()).hexdigest()[:32]


Version = tuple[int, int, int]  # changes when the file does: inode, time of change in ns, bytes
NO_VERSION: Version = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Package:
    """An archive. path: absolute."""

    path: str
    version: Version


def package_at(path: str, found: os.stat_result) -> Package:
    return Package(path, (found.st_ino, found.st_mtime_ns, found.st_size))


class Packages:
    """root: the folder. Links in it are followed: whoever may write there may say what is served."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)

    def find(self, target: str) -> Package:
        """The package of *target*. Raises ValidationError when there is none, or the name leads out of the folder."""
        parts = target.split("/")
        if target.startswith("/") or ".." in parts or "\0" in target:
            raise ValidationError(f"TargetModel {target!r} must be a relative path without `..`")
        path = os.path.join(self.root, *parts)
        try:
            found = os.stat(path)
        except OSError as error:
            raise _not_downloaded(target, self.root, error.strerror or str(error)) from None
        if not stat.S_ISREG(found.st_mode):
            raise _not_downloaded(target, self.root, "it is no file")
        return package_at(path, found)

    def version(self, target: str) -> Version | None:
        """The version that lies there now; None when there is none."""
        try:
            return self.find(target).version
        except ValidationError:
            return None


def _not_downloaded(target: str, root: str, why: str) -> ValidationError:
    return ValidationError(
        f"Failed to download model data for TargetModel {target!r}: {why}. It must be a .tar.gz file below {root}."
    )
