"""The device that a command computes on; and a long job on several.

A process for each makes a part, and then there is one file of all. The parts are
those of `--part`, so the events do not depend on the number of devices, and a process that dies
takes nothing of the others with it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from setflow.background import end_with_parent
from setflow.cli.endings import warn
from setflow.files import check_hdf5_name
from setflow.parts import Part

__all__ = ["check_device", "device_of", "made_on_devices", "output_of", "parts_of"]


def output_of(config: Namespace) -> tuple[Path, Part | None]:
    """Return what a call of `setflow sample` or `score` writes, and which part that is, if one."""
    part = None if config.part is None else Part(*config.part)
    return Path(config.out) if part is None else part.path(Path(config.out)), part


def parts_of(out: str, devices: int) -> list[Path]:
    """Return the files of the parts of an output."""
    return [Part(k, devices).path(Path(out)) for k in range(devices)]


def check_device(name: str) -> None:
    """Check the name of a device, before torch is there to say whether there is such a one.

    Raises:
        ValueError: if it is none.
    """
    kind, colon, index = name.partition(":")
    numbered = kind == "cuda" and (index.isdigit() or not colon)
    if name not in ("auto", "cpu") and not numbered:
        raise ValueError(f"--device is {name!r}, expected auto, cpu, cuda or cuda:<number>")


def device_of(name: str) -> str:
    """Return the device that is meant, for torch.

    Raises:
        ValueError: if there is no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda"):
        return name
    if not torch.cuda.is_available():
        raise ValueError(f"--device is {name!r}, but torch finds no CUDA device here; use cpu")
    found, index = torch.cuda.device_count(), int(name.partition(":")[2] or 0)
    if index >= found:
        raise ValueError(f"--device is {name!r}, but there are {found}, counted from cuda:0")
    return name


def made_on_devices(out: Path, config: Namespace) -> bool:
    """Return whether an output is there already; if not, let a process for each device make a part.

    The parts are put together, and then it is there, and what follows only looks at it.

    Arguments:
        out: the output.
        config: the arguments of `setflow sample` or `score`; `given` holds them as they were given,
            and `make_part` is what a process does with them: it has a name in a module.

    Raises:
        ChildProcessError: if a process did not end well; what is done remains.
        ValueError: if the arguments do not fit several devices, or there are fewer.
    """
    there = out.exists() and not config.force
    if config.devices > 1 and not there:
        names = _names(config)
        parts = parts_of(config.out, len(names))
        _run(config.given, names, config.make_part)
        from setflow.data.merging import merge

        merge(parts, Path(config.out), overwrite=config.force)
        for part in parts:
            part.unlink()
        config.force = False
    return there


def _names(config: Namespace) -> list[str]:
    """Return the device of each process."""
    check_hdf5_name(config.out)
    if config.part is not None:
        raise ValueError(
            "--devices shares the events of this call among the devices here, and --part makes one "
            "part of them; give one of both, such as a part for each device"
        )
    if ":" in config.device:
        raise ValueError(
            f"--device {config.device} is one device, and --devices asks for {config.devices}; "
            "leave one of them out"
        )
    import torch

    cuda = config.device != "cpu" and torch.cuda.is_available()
    found = torch.cuda.device_count() if cuda else os.cpu_count() or 1
    if config.devices > found:
        what = "CUDA devices" if cuda else "cores, for a process each"
        raise ValueError(f"--devices is {config.devices}, but there are {found} {what}")
    return [f"cuda:{k}" if cuda else config.device for k in range(config.devices)]


def _run(arguments: Sequence[str], names: Sequence[str], work: Callable[[list[str]], None]) -> None:
    spawn, of = multiprocessing.get_context("spawn"), len(names)
    running: dict[Any, Any] = {}
    try:
        for k, name in enumerate(names):
            given = [*arguments, "--devices", "1", "--part", f"{k}/{of}", "--device", name]
            given += ["--progress", "none"] if k else []
            process = spawn.Process(target=_begin, args=(work, given, of))
            process.start()
            running[process.sentinel] = (k, process)
        failed = 0
        while running:
            for sentinel in connection.wait(list(running)):
                k, process = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    failed += 1
                    others = "; the others go on" if running else ""
                    warn(f"the process of part {k}/{of} ended with {process.exitcode}{others}")
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    if failed:
        raise ChildProcessError(
            f"{failed} of {of} processes did not end well; what is done is kept, and the same "
            "command goes on"
        )


def _begin(work: Callable[[list[str]], None], arguments: list[str], of: int) -> None:
    """Do the work of a process: it ends with the one that has started it, which takes Ctrl-C."""
    end_with_parent()
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // of))
    work(arguments)
