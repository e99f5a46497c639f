"""A model that describes itself, and the folder that it is written to and read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from setflow.files import as_path, shortened
from setflow.model.finite import refuse_diverged
from setflow.model.folder import (
    CONFIG,
    UNBUILT,
    arguments_of,
    describe_model,
    read_folder,
    short_card,
    told,
    write_folder,
)
from setflow.model.trust import Bounded, require_numbers
from setflow.shipped import MODELS, find

__all__ = ["SavedModel"]


class SavedModel(nn.Module, ABC):
    """A model of parts that the library's table of classes knows."""

    def describe(self) -> dict[str, Any]:
        """Return the node from which `from_node` builds this object, without its weights.

        It has the statistics of the scalers and of p(N), given or fitted.
        """
        return describe_model(self)

    @classmethod
    def from_node(cls, node: Any, *, where: str = "model.flow") -> Self:
        """Build a model from its node; classes come from the library's own table.

        Raises:
            ValueError: if the node names another class or an argument that does not exist.
        """
        arguments = arguments_of(node, where)
        if arguments.get("context_model") is not None:
            inner = cls.from_node(arguments["context_model"], where=f"{where}.context_model")
            arguments["context_model"] = inner
        try:
            return cls(**arguments)
        except UNBUILT as error:
            raise ValueError(f"{where}: {told(error)}") from error

    @abstractmethod
    def require_fitted(self) -> None:
        """Raise unless the statistics of all parts are there.

        Raises:
            ValueError: if they were neither given nor fitted.
        """

    def save(
        self,
        folder: str | Path,
        *,
        overwrite: bool = False,
        config: Mapping[str, Any] | None = None,
        card: str | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the model as a folder, which appears when it is complete.

        Statistics that were fitted stand among the weights; in `config.yaml` stand those that were
        given, so that a training from it fits what this one has fitted.

        Arguments:
            folder: where.
            overwrite: replace a model folder that is there.
            config: further nodes for `config.yaml`, such as the training configuration; its node
                `model.flow` is written anew.
            card: the text of the card; None writes a short one.
            training: facts on how it was trained, for the manifest: numbers, texts, mappings.

        Returns:
            The path of the folder.

        Raises:
            FileExistsError: if it exists and may not be replaced.
            TypeError: if a part of the model has no name in the library's table.
            ValueError: if its statistics were neither given nor fitted, or weights are not finite.
        """
        self.require_fitted()
        refuse_diverged(self)
        folder = as_path(folder)
        nodes = dict(config or {})
        node = describe_model(self, fitted=False)
        nodes["model"] = {**dict(nodes.get("model") or {}), "flow": node}
        card = short_card(self, folder.name) if card is None else card
        write_folder(folder, nodes, self.state_dict(), card, training=training, overwrite=overwrite)
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """Read a model folder, verified against its manifest; the model is in evaluation mode.

        Arguments:
            folder: where, or the name of a shipped model, `top30`.
            device: the device to put it on.

        Raises:
            FileNotFoundError: if the folder or one of its files is not there.
            TypeError: if `folder` is neither a path nor a name.
            ValueError: if a hash does not match, the files do not describe a model, or weights and
                statistics are none: not finite, or probabilities that do not sum to one.
        """
        try:
            device = torch.device(device)
        except RuntimeError as error:
            raise ValueError(
                f"device is {device!r}, expected cpu, cuda or cuda:<number>"
            ) from error
        folder = find(MODELS, folder)
        stored = read_folder(folder)
        with Bounded(stored.shapes):  # a size in a file costs nothing but for those who have it
            flow = cls.from_node(stored.node, where=stored.where)
        mine = {name: tuple(value.shape) for name, value in flow.state_dict().items()}
        theirs = stored.shapes.of
        different = sorted(key for key in mine | theirs if mine.get(key) != theirs.get(key))
        if different:
            name = different[0]
            raise ValueError(
                f"{folder} does not hold the weights that its {CONFIG} describes: "
                f"{shortened(name)[1:-1]} has shape {shortened(theirs.get(name))} in the file and "
                f"{mine.get(name)} in the model"
            )
        flow.load_state_dict(stored.weights(), assign=True)  # in the stored dtype
        require_numbers(flow, str(stored.path))
        return flow.to(device).eval()
