"""What tests of training and of verification share."""

from __future__ import annotations

import pytest
import torch

# Here, since torch counts its devices when the first gradient is computed. It takes this one for its accelerator, which
# tests with streams of CUDA would have to know.
from support.pretended_device import DEVICE, CpuGenerator


@pytest.fixture
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Stands for a GPU."""
    monkeypatch.setattr(torch, "Generator", CpuGenerator)
    return DEVICE
