"""What the project stands on: every package it brings along, and whether its licence allows that.

    python -m dars_jax.drills.supply

prints one JSON line per package {name, version, licence} and one in the end; exits with 1 if a
licence is neither permissive nor among the exceptions below.  What is looked at is what is
installed here, by way of the requirements of the project with the extras it names.
"""

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement

PROJECT = "dars_jax"
# Parts of what packages call their licences, in small letters.
PERMISSIVE = (
    "apache", "mit", "bsd", "isc", "python software foundation", "psf", "mozilla public license",
    "mpl-2.0", "zlib", "public domain", "cc0", "cnri",
)  # fmt: skip
# Without one of those in its metadata, but known; why it may stay.
EXCEPTIONS = {
    "libtpu": "Google's terms: the TPU compiler, for those who run or compile for TPUs",
    "namex": "Apache-2.0 in its repository, nothing in its metadata",
}


def main() -> int:
    """Prints the packages; returns the exit code."""
    found = dict(sorted(_required(PROJECT)))
    refused = []
    for name, package in found.items():
        licence = licence_of(package)
        print(json.dumps({"name": name, "version": package.version, "licence": licence}))
        if name not in EXCEPTIONS and not is_permissive(licence):
            refused.append(name)
    print(json.dumps({"packages": len(found), "refused": refused}))
    return 1 if refused else 0


def licence_of(package: importlib.metadata.Distribution) -> str:
    """What the metadata says: the expression, else classifiers, else the first line of the text."""
    about = package.metadata.json
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in about.get("classifier", ())
        if line.startswith("License ::")
    ]
    text = str(about.get("license", "")).strip().partition("\n")[0][:60]
    return str(about.get("license_expression", "")) or ", ".join(classifiers) or text


def is_permissive(licence: str) -> bool:
    """Whether it asks for no more than to be named; of "A or B" one is enough."""
    allowed = lambda one: any(word in one for word in PERMISSIVE) and "gpl" not in one  # noqa: E731
    every = re.split(r"\s+and\s+|,", licence.lower())
    return all(any(map(allowed, re.split(r"\s+or\s+", part))) for part in every)


def _required(project: str) -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    """The project's packages and theirs, as far as they are installed."""
    extras = importlib.metadata.metadata(project).get_all("Provides-Extra") or []
    waiting = [(project, extra) for extra in ("", *extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform, or of an extra that is not installed
        if not extra and name != project:
            yield name, package
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                key = re.sub(r"[-_.]+", "-", needed.name).lower()
                new = {(key, more) for more in ("", *needed.extras)} - seen
                seen |= new
                waiting += new


if __name__ == "__main__":
    sys.exit(main())
