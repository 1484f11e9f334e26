from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import verify
from verify.core.environment import require_ieee_arithmetic

ROOT = Path(verify.__file__).parent.parent


def test_this_process_computes_as_it_should() -> None:
    require_ieee_arithmetic()


def test_nothing_is_certified_where_another_library_flushes_subnormal_numbers() -> None:
    program = (
        "import torch\n"
        "from verify.core.environment import BrokenArithmetic, require_ieee_arithmetic\n"
        "assert torch.set_flush_denormal(True)\n"
        "try:\n    require_ieee_arithmetic()\n"
        "except BrokenArithmetic as problem:\n    print(problem)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "subnormal" in done.stdout
