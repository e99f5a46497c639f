"""What a file says of the model that it came from, and of how it was computed."""

from __future__ import annotations

import hashlib

from torch import nn

from setflow.model.folder import describe_model
from setflow.model.model import SetFlow
from setflow.version import __version__

__all__ = ["described", "identity_of"]


def identity_of(flow: SetFlow) -> dict[str, str]:
    """Return attributes of a file: the model, its device, and the version of setflow.

    The model is its description and the hash of its weights, which is that of the manifest of its
    folder.
    """
    import yaml
    from safetensors.torch import save

    try:
        description = yaml.safe_dump(describe_model(flow, fitted=False), sort_keys=False)
    except TypeError:  # a field of one's own has no description, but weights
        description = nn.Module.__repr__(flow)  # with all layers
    weights = {key: value.cpu().contiguous() for key, value in flow.state_dict().items()}
    return {
        "model": description,
        "weights_sha256": hashlib.sha256(save(weights)).hexdigest(),
        "conditions": ", ".join(flow.conditions),
        "device": flow.device.type,
        "setflow_version": __version__,
    }


def described(thing: object) -> str:
    """Return the text of a solver or estimator, the same in each process."""
    if type(thing).__repr__ is not object.__repr__:
        return repr(thing)
    plain = {k: v for k, v in vars(thing).items() if isinstance(v, (bool, int, float, str))}
    return f"{type(thing).__name__}({', '.join(f'{k}={v!r}' for k, v in plain.items())})"
