"""Fields that torch compiles."""

from __future__ import annotations

import os
import shutil

from setflow.model.model import SetFlow

__all__ = ["compile_field"]

_COMPILERS = ("g++", "c++", "clang++")


def compile_field(flow: SetFlow) -> None:
    """Let the field of a model be compiled when it is first called, for events of any shape.

    Values are the same to rounding, and the model stays what it is for saving and loading. It takes
    about a minute, once for sampling and once for training, and a call is then about a tenth faster
    on a CPU. The derivatives of a log-density are not compiled.

    Arguments:
        flow: the model, whose field changes in place.

    Raises:
        ValueError: if the model stands on a CPU and there is no C++ compiler.
    """
    own = os.environ.get("CXX")
    names = (own,) if own else _COMPILERS
    if flow.device.type == "cpu" and not any(map(shutil.which, names)):
        raise ValueError(
            f"compiling for a CPU needs a C++ compiler, and there is none of {', '.join(names)}; "
            "install one (g++), or leave compiling out"
        )
    flow.field.compile(dynamic=True)
