"""Other verifiers, for `peers.py` and `peers_solved.py`: run by the Python of an environment that has them.

    PEER_PYTHON benchmarks/peer_worker.py bounds float32|float64
    PEER_PYTHON benchmarks/peer_worker.py neuralsat|marabou MODEL.onnx PROPERTY.vnnlib SECONDS

`bounds` answers requests for bounds by the auto_LiRPA that the package `neuralsat` bundles: pickled, on standard input
and output. The others decide a property, and print `sat`, `unsat` or something else on the last line. Needs nothing of
adcert; the environment is made by

    python -m venv PEERS
    PEERS/bin/pip install torch==2.13.0 torchvision==0.28.0 beartype coloredlogs gurobipy joblib matplotlib onnx \
        onnxruntime onnxsim psutil requests scipy sortedcontainers termcolor tqdm
    PEERS/bin/pip install --no-deps neuralsat==0.2.17 maraboupy==2.0.0
"""

from __future__ import annotations

import importlib
import os
import pickle
import platform
import runpy
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def neuralsat_folder() -> Path:
    """Where the modules of `neuralsat` are, which find each other there."""
    import torch

    # torchvision's builds need CUDA, unless somebody else declares its operators.
    library: Any = torch.library.Library
    torchvision = library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        torchvision.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    folder = Path(str(importlib.import_module("src").__file__)).parent
    sys.path.insert(0, str(folder))
    return folder


class Bounds:
    """Bounds of a model's outputs. mode: how auto_LiRPA represents functionals of convolutions, `patches` or `matrix`;
    not every model works with both."""

    def __init__(self, path: str, mode: str) -> None:
        import torch

        self._lirpa: Any = importlib.import_module("abstractor.auto_LiRPA")
        network, self._shape, _ = importlib.import_module("helper.network.read_onnx").parse_onnx(path)
        example = torch.zeros(self._shape)
        self._module = self._lirpa.BoundedModule(
            network.to(example.dtype), example, bound_opts={"conv_mode": mode}, device="cpu"
        )
        self._module.eval()
        self._module.get_split_nodes()

    def __call__(self, method: str, lower: Any, upper: Any, functionals: Any, iterations: int, step: float) -> Any:
        """Lower bounds of the functionals (lanes x functionals x outputs) over boxes (lanes x inputs).

        method: `alpha-crown` keeps the bounds of neurons that CROWN gives, `alpha-crown-all` optimises them, too.
        """
        import torch

        dtype = torch.get_default_dtype()
        low, high = (torch.tensor(end, dtype=dtype).reshape(-1, *self._shape[1:]) for end in (lower, upper))
        x = self._lirpa.BoundedTensor(low, self._lirpa.PerturbationLpNorm(x_L=low, x_U=high))
        rows = torch.tensor(functionals, dtype=dtype)
        if method in ("alpha-crown", "alpha-crown-all"):
            options = {"iteration": iterations, "lr_alpha": step, "init_alpha": False, "early_stop_patience": 10**6}
            self._module.set_bound_opts({"optimize_bound_args": options})
            _, _, reference = self._module.init_alpha(x=(x,), c=rows, bound_upper=False)
            found, _ = self._module.compute_bounds(
                x=(x,),
                C=rows,
                method="crown-optimized",
                aux_reference_bounds=reference,
                interm_bounds=reference if method == "alpha-crown" else None,
                bound_upper=False,
            )
        else:
            with torch.no_grad():
                found, _ = self._module.compute_bounds(x=(x,), C=rows, method=method, bound_upper=False)
        return found.detach().double().numpy()


def answer_requests(precision: str) -> None:
    """(path, mode) loads a model; (arguments of `Bounds`, how many seconds count as enough) is answered by the time
    taken and the bounds. Whatever goes wrong is answered by a sentence."""
    import torch

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the packages print must not mix with the replies
    neuralsat_folder()
    torch.set_default_dtype(getattr(torch, precision))
    bundled = importlib.import_module("abstractor.auto_LiRPA").__version__
    reply: Any = (
        f"auto_LiRPA {bundled} of neuralsat {version('neuralsat')} in {precision}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    bounds: Bounds | None = None
    while True:
        pickle.dump(reply, replies)
        replies.flush()
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if len(request) == 2:
                bounds, reply = Bounds(*request), None
            else:
                assert bounds
                began = time.process_time()
                found = bounds(*request)
                reply = time.process_time() - began, found
        except (Exception, SystemExit) as error:  # the other measurements go on
            reply = f"{type(error).__name__} {error}".split("\n")[0][:100]


def decide_with_neuralsat(model: str, specification: str, seconds: str) -> None:
    main = neuralsat_folder() / "main.py"
    options = {"net": model, "spec": specification, "timeout": seconds, "device": "cpu", "verbosity": "0"}
    sys.argv = [str(main), *(part for name, value in options.items() for part in (f"--{name}", value))]
    runpy.run_path(str(main), run_name="__main__")  # whose last line is "verdict,seconds"


def decide_with_marabou(model: str, specification: str, seconds: str) -> None:
    marabou: Any = importlib.import_module("maraboupy.Marabou")
    network = marabou.read_onnx(model)
    options = marabou.createOptions(timeoutInSeconds=int(float(seconds)), verbosity=0)
    verdict, *_ = network.solve(propertyFilename=specification, options=options, verbose=False)
    print(verdict)


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    tasks: dict[str, Any] = {
        "bounds": answer_requests,
        "neuralsat": decide_with_neuralsat,
        "marabou": decide_with_marabou,
    }
    tasks[task](*arguments)
