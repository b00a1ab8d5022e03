"""The device that models run on."""

import torch

from pipelines.errors import UserError


def choose_device(name: str | None) -> torch.device:
    """The device `name` (`cpu`, `cuda`, `cuda:1`); without a name, a GPU if there is one.

    Raises:
        UserError: This machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: found no usable GPU. Expected: cpu, or a machine with a GPU. Fix: leave the option out."
        )
    device = torch.device(name)
    if device.index is not None and device.type == "cuda":
        count = torch.cuda.device_count()
        if device.index >= count:
            raise UserError(
                f"--device {name}: found {count} GPUs, numbered from 0. Expected: cuda:0 to cuda:{count - 1}. Fix: "
                f"name one of them."
            )
        torch.cuda.set_device(device)  # accelerate uses the current device
    return device
