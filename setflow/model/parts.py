"""Whether the parts of a model belong together, and whether their statistics are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from setflow.distributions.cardinality import CardinalityModel
from setflow.fitted import Fitted

__all__ = ["FOR_USE", "NOT_FOR_USE", "check_parts", "distinct_names", "require_statistics"]


# layers that are another function in training than in use
NOT_FOR_USE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
FOR_USE = "it holds dropout or batch normalisation in training mode: call flow.eval() before"


def check_parts(
    parts: Mapping[str, nn.Module | None],
    cardinality: CardinalityModel | None,
    features: Sequence[str],
    conditions: Sequence[str],
) -> None:
    """Check that the parts of a model fit its features and conditions.

    Arguments:
        parts: `field`, `scaler` and `context_scaler`.
        cardinality: the cardinality model, or None.
        features: the names of the features.
        conditions: the names of the context features.

    Raises:
        TypeError: if one is text or a class, or a part stands in the place of another.
        ValueError: if one does not.
    """
    for name, part in {**parts, "cardinality": cardinality}.items():
        if part is not None and not isinstance(part, nn.Module):
            raise TypeError(
                f"{name} is {part!r}, expected an object, made by a call of its class, or None"
            )
    swapped = [name for name, part in parts.items() if isinstance(part, CardinalityModel)]
    if swapped or not isinstance(cardinality, CardinalityModel | None):
        name, part = (
            ("cardinality", cardinality) if not swapped else (swapped[0], parts[swapped[0]])
        )
        raise TypeError(
            f"{name} is {part!r}; expected a cardinality model such as "
            "setflow.EmpiricalCardinality(30) as cardinality, and nowhere else"
        )
    known = ", ".join(conditions) or "none"
    for name, part in parts.items():
        count = len(conditions if name == "context_scaler" else features)
        dim = getattr(part, "dim", count)  # a field of one's own need not tell, nor below
        if dim != count:
            which = "conditions" if name == "context_scaler" else "features"
            raise ValueError(
                f"{name} has dim={dim}, but there are {count} names: features "
                f"{', '.join(features)}; conditions {known}; build it with dim={count}, or name as "
                f"many by {which}="
            )
    field = parts["field"]
    for option in ("object_condition_dim", "set_condition_dim"):
        if getattr(field, option, 0):
            raise ValueError(
                f"field has {option}={getattr(field, option)}, but a SetFlow has one context row "
                "per event; give such contexts to the verbs, setflow.masked_fm_loss and "
                "setflow.masked_sample"
            )
    asked = getattr(field, "condition_dim", len(conditions))
    if asked != len(conditions):
        raise ValueError(
            f"field has condition_dim={asked}, but there are {len(conditions)} conditions: "
            f"{known}; build it with condition_dim={len(conditions)}, or name as many conditions "
            "as it takes"
        )
    asked = 0 if cardinality is None else cardinality.condition_dim
    if asked not in (0, len(conditions)):
        raise ValueError(
            f"cardinality has condition_dim={asked}, but there are {len(conditions)} conditions: "
            f"{known}; give as many, or take setflow.EmpiricalCardinality, which needs none"
        )


def distinct_names(**given: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the names of features and conditions as tuples.

    Raises:
        ValueError: if one is a single text, or holds a name twice.
    """
    for what, names in given.items():
        if isinstance(names, str) or len(set(names)) < len(names):
            raise ValueError(f"{what} are {names!r}, expected a sequence of names, all different")
    return tuple(tuple(names) for names in given.values())


def require_statistics(**parts: Fitted | None) -> None:
    """Raise unless all parts have their statistics.

    Raises:
        ValueError: if some were neither given nor fitted.
    """
    lacking = [name for name, part in parts.items() if part is not None and not part.is_fitted]
    if lacking:
        raise ValueError(
            f"the model has no statistics for its {' and '.join(lacking)}, they were never fitted; "
            "call flow.fit_statistics(batch) with the training events, load a trained model by "
            "SetFlow.load, or give them: setflow.data.Standardizer(mean=..., std=...) (mean 0 and "
            "std 1 leave features as they are), setflow.EmpiricalCardinality(counts=...)"
        )
