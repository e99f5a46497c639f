"""`setflow dataset convert`: files of others into one that every command reads, or back."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from setflow.cli.endings import Ending, warn
from setflow.files import check_target

if TYPE_CHECKING:
    from setflow.data.formats.named import Given

__all__ = ["convert_files", "given_of"]


def convert_files(config: Namespace, ending: Ending) -> None:
    """Convert what the arguments say.

    Raises:
        ImportError: if a package that reads or writes a format is not installed.
        OSError: if a file cannot be read or written.
        ValueError: if arguments do not fit each other, or a file does not have the format.
    """
    out = Path(config.out)
    given = given_of(config)
    if out.suffix.lower() not in (".h5", ".hdf5", ".root", ".parquet"):
        raise ValueError(
            f"{out} is not named like a file that can be written, expected a name that ends in "
            ".h5 or .hdf5, .root or .parquet"
        )
    check_target(out, overwrite=config.force)
    from setflow.data.formats.convert import convert, inputs_of
    from setflow.data.inspection import following_links
    from setflow.schema import words_of

    with following_links() if config.follow_links else nullcontext():
        done = convert(
            inputs_of(config.files),
            out,
            given,
            overwrite=config.force,
            keep_unphysical=config.keep_unphysical,
            progress=True,
        )
    for note in done.notes:
        warn(note)
    following: list[Any] = ["setflow", "info", out]
    if out.suffix.lower() in (".root", ".parquet"):
        package = "uproot" if out.suffix.lower() == ".root" else "pyarrow.parquet"
        look = "uproot.open(sys.argv[1])['tree'].show()"
        look = look if package == "uproot" else "print(pyarrow.parquet.read_schema(sys.argv[1]))"
        following = ["python", "-c", f"import sys, {package}; {look}", out]
    ending(out, f"{done.n:,} {words_of(done.schema.generated).events}", following)


def given_of(config: Namespace) -> Given:
    """Return what arguments tell of the format of files.

    Raises:
        OSError, ValueError: if they do not fit each other, or a mapping cannot be read.
    """
    from setflow.data.formats.named import OF_FORMAT, Given, read_mapping, told_file

    for name, formats in OF_FORMAT.items():
        if config[name] is not None and config.format not in formats:
            of = f"the format {config.format}" if config.format else "files that need no format"
            raise ValueError(f"--{name} belongs to --format {' or '.join(formats)}, not to {of}")
    if config.voxels is not None and config.shape is not None:
        raise ValueError("--voxels and --shape both say where the voxels are; give one of them")
    told = {
        name: told_file(config[name], name, f"--{name}")
        for name in ("mapping", "voxels")
        if config[name] is not None
    }
    return Given(
        format=config.format,
        mapping=read_mapping(told["mapping"]) if "mapping" in told else None,
        columns=config.columns or (),
        features=config.features,
        mask=config.mask,
        voxels=told.get("voxels"),
        shape=config.shape or (),
        classes=config.classes or (),
    )
