"""Blocks of a file that is made, kept until the file of all of them is there: a kill loses few.

Beside the target `jets.h5` stands, while it is made, the folder `jets.h5.part`. Its `manifest.json`
says what the blocks depend on; its files, `00000000.npz` and so on, hold a block each and are whole
or not there. The same call finds them again and makes what is missing.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setflow.files import MANIFEST, NewFile, in_use_by_one, read_bounded, shortened, write_text
from setflow.opened import Opened

__all__ = ["Block", "KeptBlocks"]

Block = dict[str, NDArray[Any]]

_NAME = re.compile(r"\d{8}\.npz")


class KeptBlocks(Opened):
    """The blocks of a file that is being made; a context manager.

    When it ends without an error the blocks are removed; an error leaves them.

    Arguments:
        target: the file that is made of them.
        plan: what they depend on, as JSON can tell it.
        overwrite: replace blocks of another plan.

    Raises:
        BlockingIOError: on entering, if another process makes the file.
        FileExistsError: on entering, if something else has the name of the folder.
        ValueError: on entering, if there are blocks of another plan.
    """

    def __init__(self, target: Path, plan: Mapping[str, Any], *, overwrite: bool) -> None:
        self._part = target.with_name(f"{target.name}.part")
        self._plan = json.loads(json.dumps(plan))
        self._overwrite = overwrite

    def _enter(self, stack: ExitStack) -> None:
        if self._part.is_dir() or not os.path.lexists(self._part):
            self._part.mkdir(exist_ok=True)
            stack.enter_context(in_use_by_one(self._part))
        if not self._is_ours():
            raise FileExistsError(
                f"{self._part} is not a folder that this command made, so it is not touched; "
                "choose another name for the output"
            )
        stack.push(self._end)
        self._prepare()

    def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or not any(self._part.glob("*.npz")):
            shutil.rmtree(self._part)

    def read(self, index: int) -> Block | None:
        """Return the block of a number, or None if it is to be made."""
        path = self._path(index)
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as held:
                return dict(held)
        except (ValueError, EOFError, LookupError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path} is made anew: {error}", stacklevel=2)
            return None

    def keep(self, index: int, block: Block, *, compress: bool = True) -> None:
        """Keep a block; what is made fast is kept faster without being compressed.

        Raises:
            OSError: if it cannot be written.
        """
        content = io.BytesIO()
        save = np.savez_compressed if compress else np.savez
        save(content, **block)  # type: ignore[arg-type]
        with NewFile(self._path(index), overwrite=True) as part:
            part.write_bytes(content.getbuffer())

    def drop(self) -> None:
        """Remove the blocks that are kept: they are of no use."""
        for path in self._part.glob("*.npz"):
            path.unlink()

    def _path(self, index: int) -> Path:
        return self._part / f"{index:08}.npz"

    def _is_ours(self) -> bool:
        names = [path.name for path in self._part.iterdir()] if self._part.is_dir() else ["none"]
        return all(name == MANIFEST or name[0] == "." or _NAME.fullmatch(name) for name in names)

    def _prepare(self) -> None:
        """Take the blocks that are there, if they belong to this plan, or begin."""
        told = self._part / MANIFEST
        there = json.loads(read_bounded(told)) if told.exists() else None
        if there not in (None, self._plan) and not self._overwrite:
            keys = sorted(key for key in self._plan if there.get(key) != self._plan[key])
            raise ValueError(
                f"{self._part} was begun with another {keys[0]}: {shortened(there.get(keys[0]))} "
                f"there and {shortened(self._plan[keys[0]])} now; go on without the change, choose "
                "another name for the output, or begin anew with overwrite=True"
            )
        for path in self._part.iterdir():
            if there != self._plan or path.name.startswith("."):  # of a process that was killed
                path.unlink()
        if there != self._plan:
            write_text(told, json.dumps(self._plan, indent=1) + "\n")
