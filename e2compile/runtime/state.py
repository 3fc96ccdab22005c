"""State between a module's layout, as PyTorch names and shapes it, and a program's memory order."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from e2compile.errors import UsageError
from e2compile.runtime.manifest import Tensor

Array = NDArray[Any]
Arrays = dict[str, Array]

INITIAL = "state/initial.safetensors"
RATES = "state/rates.safetensors"


def name_of(tensor: Tensor) -> str:
    """The name of a state tensor in a file: the module's own, optimizer and pass state under a prefix."""
    prefix = {"optimizer state": "optimizer.", "pass state": "pass."}.get(tensor.kind, "")
    return prefix + tensor.target


def to_memory(array: Array, tensor: Tensor) -> Array:
    """An array of the tensor's shape as it lies in the program's memory."""
    assert tensor.order is not None
    squeezed = array.reshape([s for s in tensor.shape if s != 1])
    return np.array(squeezed.transpose(tensor.order), order="C")


def from_memory(array: Array, tensor: Tensor) -> Array:
    """The inverse of `to_memory`."""
    assert tensor.order is not None
    return np.array(array.transpose(np.argsort(tensor.order)).reshape(tensor.shape), order="C")


def read(path: Path) -> Arrays:
    """The arrays of a safetensors file; UsageError for anything else."""
    try:
        return load_file(path)
    except Exception as error:
        raise UsageError(f"{path} is not a readable safetensors file: {error}") from error


def fit(arrays: Mapping[str, Array], tensors: Iterable[Tensor], what: str) -> dict[str, Array]:
    """Arrays in memory order for each state tensor; UsageError that names what is missing or does not fit."""
    result, wrong = {}, []
    for tensor in tensors:
        name = name_of(tensor)
        if name not in arrays:
            wrong.append(f"{name} is missing")
        elif arrays[name].shape != tensor.shape or str(arrays[name].dtype) != tensor.dtype:
            found = f"{arrays[name].dtype}{list(arrays[name].shape)}"
            wrong.append(f"{name} is {found}, not {tensor.dtype}{list(tensor.shape)}")
        else:
            result[tensor.target] = to_memory(arrays[name], tensor)
    if wrong:
        raise UsageError(
            f"{what} does not fit the program: " + "; ".join(wrong[:5]) + (" ..." if wrong[5:] else "")
        )
    return result
