"""What tests of training and of verification share."""

from __future__ import annotations

import pytest
import torch

# Here, since torch counts its devices when the first gradient is computed.
from support.pretended_device import DEVICE, CpuGenerator


@pytest.fixture
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Stands for a GPU."""
    monkeypatch.setattr(torch, "Generator", CpuGenerator)
    return DEVICE
