"""How arrays get from the processor to where networks live."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from esper_env.arrays import Bools, Floats, Ints


def upload(array: Bools | Floats | Ints, device: torch.device) -> Tensor:
    """The array as a tensor on the device; on a processor both share their memory.

    Nobody waits: from page-locked memory "the function should be fully asynchronous", while from ordinary memory "the
    driver may synchronize with the stream" (CUDA Runtime API, "API synchronization behavior"). What is locked is a
    copy, which torch keeps until it has gone, so that the array may change at once.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def upload_together(arrays: Sequence[Ints], device: torch.device) -> Sequence[Tensor]:
    """Several arrays of one type in a single transfer."""
    return torch.split(upload(np.concatenate(arrays), device), [len(array) for array in arrays])
