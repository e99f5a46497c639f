"""`setflow doctor`: what this installation has, what it lacks, and the command that mends each."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import setflow
from setflow.cli.endings import labelled
from setflow.environment import commit, processor
from setflow.shipped import CONFIGURATIONS, JETS, MODELS, RECIPES, clone, paths

if TYPE_CHECKING:
    from setflow.requirements import Need

__all__ = ["doctor"]

Line = tuple[str, str]  # a label, and what there is


def doctor() -> int:
    """Print what there is; return how many things that are needed are missing or wrong."""
    problems: list[str] = []
    lines = [*_setflow(), *_requirements(problems), *_devices(problems), *_filters(problems)]
    lines += _shipped(problems)
    for label, text in lines:
        print(labelled(label, text, 14))
    print()
    for problem in problems:
        print(f"problem: {problem}")
    print("nothing that is needed is missing" if not problems else _count(len(problems)))
    return len(problems)


def _count(problems: int) -> str:
    return f"{problems} problem{'' if problems == 1 else 's'} to mend"


def _setflow() -> Iterator[Line]:
    root = clone()
    where = Path(setflow.__file__).parent if root is None else root
    kind = "installed in" if root is None else "a clone in"
    state = commit()
    yield (
        "setflow",
        f"{setflow.__version__}, {kind} {where}" + (f", commit {state}" if state else ""),
    )
    system = f"{platform.system()} {platform.machine()}"
    yield "Python", f"{platform.python_version()} on {system}"


# --- packages ---


def _requirements(problems: list[str]) -> Iterator[Line]:
    try:
        from setflow.requirements import needs
    except ImportError as error:
        problems.append(f"{error.name} is missing: pip install {error.name}")
        return
    try:
        found = needs()
    except FileNotFoundError as error:
        yield "packages", str(error)
        return
    base = found.pop("")
    told = ", ".join(f"{need.name} {need.found}" for need in base if need.found)
    yield "packages", told
    problems += [f"{what}: {_pip(need)}" for need in base if (what := need.problem())]
    for extra, parts in found.items():
        wrong = [need for need in parts if need.problem() is not None]
        problems += [
            f"{need.problem()}: {_pip(need)}"
            for need in wrong
            if need.compromised and not any(need.name in problem for problem in problems)
        ]
        if not wrong:
            yield f"extra {extra}", f"complete: {_versions(parts)}"
            continue
        reasons = [str(need.problem()) for need in wrong]
        shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" * (len(reasons) > 3))
        yield f"extra {extra}", f"{shown}: {_pip_extra(extra)}"


def _versions(parts: Sequence[Need]) -> str:
    shown = [f"{need.name} {need.found}" for need in parts]
    more = f" and {len(shown) - 4} more" if len(shown) > 4 else ""
    return ", ".join(shown[:4]) + more


def _pip(need: Need) -> str:
    return f"pip install --upgrade {shlex.quote(need.requirement)}"


def _pip_extra(extra: str) -> str:
    """Return the command that installs an extra, from where this package comes from."""
    root = clone()
    if root is None:
        return f"pip install 'setflow[{extra}]'"
    place = "." if root == Path.cwd() else str(root)
    return f"pip install -e {shlex.quote(f'{place}[{extra}]')}"


# --- devices ---


def _devices(problems: list[str]) -> Iterator[Line]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library of CUDA that is not there
        problems.append(f"torch cannot be imported ({error}): pip install --force-reinstall torch")
        return
    cores, threads = os.cpu_count(), torch.get_num_threads()
    yield "CPU", f"{processor()}, {cores} cores, torch takes {threads} (OMP_NUM_THREADS)"
    devices = ["cpu"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            made = torch.cuda.get_device_properties(index)
            yield (
                f"CUDA {index}",
                f"{made.name}, {made.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, "
                f"compute capability {made.major}.{made.minor}",
            )
        devices.append("cuda")
    else:
        built = torch.version.cuda
        why = "without it" if built is None else f"for CUDA {built}, but finds no device"
        yield "CUDA", f"none: torch is built {why}"
    mps = torch.backends.mps.is_available()
    yield "Apple MPS", "there, not used: it has no float64, so the CPU computes" if mps else "none"
    for device in devices:
        yield f"attention {device}", _attention(device)


def _attention(device: str) -> str:
    """Return which kernels of attention work on a device, found out by a small one of each."""
    import torch

    told = []
    for dtype in (torch.float32, torch.bfloat16):
        for masked in (False, True):
            kernels = [name for name in _KERNELS if _works(name, device, dtype, masked)]
            kind = f"{str(dtype).removeprefix('torch.')}{' with a mask' if masked else ''}"
            told.append(f"{kind}: {', '.join(kernels) or 'none'}")
    return "; ".join(told)


_KERNELS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}


def _works(kernel: str, device: str, dtype: object, masked: bool) -> bool:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    x = torch.zeros(1, 2, 8, 32, device=device, dtype=dtype)  # type: ignore[call-overload]
    mask = torch.ones(1, 1, 8, 8, device=device, dtype=torch.bool) if masked else None
    with contextlib.suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say why not
        with sdpa_kernel(getattr(SDPBackend, _KERNELS[kernel])):
            torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)
        return True
    return False


# --- files ---


def _filters(problems: list[str]) -> Iterator[Line]:
    try:
        import h5py

        from setflow.data.filters import MENDED_BY, available
    except (ImportError, OSError) as error:
        problems.append(f"h5py cannot be imported ({error}): pip install --force-reinstall h5py")
        return
    found = available()
    here, lacking = ([n for n, there in found.items() if there is which] for which in (True, False))
    text = f"{h5py.version.hdf5_version} with the filters {', '.join(here)}"
    if lacking:
        text += (
            f"; without {', '.join(lacking)}, of which files of others may need some: {MENDED_BY}"
        )
    yield "HDF5", text
    problems += [
        f"HDF5 lacks the filter {name}, which files are written with: "
        "pip install --force-reinstall h5py"
        for name in ("gzip", "shuffle")
        if not found[name]
    ]


def _shipped(problems: list[str]) -> Iterator[Line]:
    kinds = (RECIPES, JETS, CONFIGURATIONS, MODELS)
    counts = [f"{kind.what}: {len(paths(kind))}" for kind in kinds]
    yield "shipped", ", ".join(counts)
    if not paths(JETS):
        problems.append(
            "the shipped recipes, configurations and jets are not there: install setflow from its "
            "wheel, or from a clone of the repository"
        )
