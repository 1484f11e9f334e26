"""Linear bounds by backward substitution in torch: as in `verify.bounds.linear_bounds`, but differentiable, and
approximate.

One functional per lane; every array has the lanes in front. All neurons of all activations stand side by side in one
vector, in the order of `activations`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Values

from verify.bounds.activations import activations, is_relu, neuron_count, smooth
from verify.bounds.curves import CROWN_SLOPE
from verify.core.functions import Function
from verify.core.intervals import Interval
from verify.core.primitives import Input, Product, Softmax, Tensor, topological
from verify.core.rounding import Array
from verify.proofs.paths import Splits
from verify.proofs.planes import reads_dense_layer, what_is_read
from verify.search.constants import Constants
from verify.search.curves import Cells, line
from verify.search.lanes import Lanes
from verify.search.relaxations import dot, rule_of

_Passed = list[tuple[Tensor, Values]]
"""Tensors, and functionals of them."""

_AS_MANY = {Function: 16, Softmax: 4}
"""As so many numbers count the cells of a neuron of a smooth function, and the plane around an element of a softmax,
which is only read."""


class Above(NamedTuple):
    """Planes above some neurons of a ReLU (`verify.proofs.planes`): the numbers of these, slopes (lanes x rows x
    inputs) and offsets (lanes x rows)."""

    rows: Values
    slope: Values
    offset: Values


class Fractions(NamedTuple):
    """Of the weights of some neurons of a ReLU: the numbers of these, and lanes x rows x inputs, from 0 to 1."""

    rows: Values
    values: Values


class Backwards(NamedTuple):
    """What a backward pass found. bounds: lower ones. coefficients: of each activation's output. direction: the
    coefficients of the input."""

    bounds: Values
    coefficients: list[Values]
    direction: Values


class Backward:
    """Lower bounds of functionals of a network's output. width: how many lanes to work on at a time."""

    def __init__(
        self,
        output: Tensor,
        device: torch.device,
        constants: Constants | None = None,
        target: Tensor | None = None,
    ) -> None:
        """target: that the functionals are of, if not of the output; then what lies behind it only matters by the
        multipliers of neurons that are split."""
        self.output, self.device, self.dtype = output, device, torch.float32
        self.target = target or output
        self._constants = constants or Constants(self.dtype, device)
        self.order = list(topological([output]))
        self._slices = activations(output)
        self.activations = list(self._slices)
        self._smooth = smooth(output)
        self.smooth = torch.tensor(self._smooth, device=device)
        self._functions = [t for t in self.activations if not is_relu(t)]
        # Few enough lanes at a time for memory, and on a CPU for its caches.
        elements = 2**20 if device.type == "cpu" else 2**26
        self.width = max(2, min(1024, elements // sum(map(_size, self.order))))
        self.neurons = neuron_count(output)
        slopes = [getattr(tensor.primitive, "slope", 0.0) * np.ones((1, *tensor.shape)) for tensor in self.activations]
        self.slope = self.values(_flat(slopes, 1)[0])
        self._leaky = bool(self.slope.any())
        self._rules = {
            tensor: rule_of(tensor)
            for tensor in self.order
            if tensor not in self._slices and not isinstance(tensor.primitive, Input)
        }
        self.sheaved = [tensor for tensor in self.activations if reads_dense_layer(tensor)]
        self._inner: dict[Tensor, Backward] = {}

    def of(self, tensor: Tensor) -> Backward:
        """The same for functionals of a tensor inside the network."""
        if tensor not in self._inner:
            self._inner[tensor] = Backward(tensor, self.device, self._constants)
        return self._inner[tensor]

    def behind(self, output: Tensor, target: Tensor) -> Backward:
        """The same for functionals of a tensor inside a network that goes on from the output."""
        return Backward(output, self.device, self._constants, target)

    def lanes(self, intervals: Mapping[Tensor, Interval], functional: Array) -> Lanes:
        """One lane per lane of the intervals. functional: lanes x the target's shape."""
        (source,) = (tensor for tensor in self.order if isinstance(tensor.primitive, Input))
        box = intervals[source]
        before = [intervals[tensor.operands[0]] for tensor in self.activations]
        lower, upper = (_flat([end[which] for end in before], len(box.lower)) for which in (0, 1))
        slope = self.slope.double().cpu().numpy()
        fixed = np.where(upper > -lower, 1.0, 0.0)
        unstable = (lower < 0) & (upper > 0)
        with np.errstate(all="ignore"):
            rising = (upper - slope * lower) / (upper - lower)
            known: dict[Tensor, Sequence[NDArray[Any]]]
            known = {tensor: rule.around(tensor, intervals) for tensor, rule in self._rules.items()}
        above = np.where(unstable, rising, slope * (1.0 - fixed) + fixed)
        for tensor in self._functions:
            part = self._slices[tensor]
            *pieces, usable = Cells.of(tensor, *(end[:, part] for end in (lower, upper)))
            fixed[:, part], unstable[:, part] = CROWN_SLOPE, usable
            known[tensor] = pieces
        for tensor in self.sheaved:
            low, high = (end.reshape(len(end), -1) for end in intervals[what_is_read(tensor)])
            known[tensor] = (low + high) / 2, (high - low) / 2
        return Lanes(
            functional=self.values(functional),
            centre=self.values((box.lower + box.upper) / 2),
            radius=self.values((box.upper - box.lower) / 2),
            lower=self.values(lower),
            upper=self.values(upper),
            open=torch.tensor(unstable, device=self.device),
            fixed=self.values(fixed),
            above=self.values(above),
            offset=self.values(np.where(unstable, (1.0 - above) * upper, 0.0)),
            side=self.values(np.zeros_like(lower)),
            around={tensor: tuple(self._of_lanes(len(lower), part) for part in each) for tensor, each in known.items()},
        )

    def along(self, lanes: Lanes, splits: Splits) -> Lanes:
        """The same lanes with neurons split along a path each."""
        side = np.zeros((len(lanes), self.neurons))
        side[splits.path, splits.neuron] = splits.side
        lower, upper = lanes.lower, lanes.upper
        if self._functions:
            least, largest = (end.double().cpu().numpy().copy() for end in (lower, upper))
            for end, way, narrow in ((least, 1, np.maximum), (largest, -1, np.minimum)):
                some = (splits.side == way) & self._smooth[splits.neuron]
                narrow.at(end, (splits.path[some], splits.neuron[some]), splits.point[some])
            nothing = torch.tensor(least > largest, device=self.device)  # which no execution reaches
            lower, upper = (
                torch.where(nothing, wide, self.values(end)) for wide, end in ((lower, least), (upper, largest))
            )
        return self.split(lanes, self.values(side), lower, upper)

    def split(self, lanes: Lanes, side: Values, lower: Values, upper: Values) -> Lanes:
        """The same lanes with neurons split where the side is not 0: ReLUs at zero, and smooth functions so that they
        read numbers from `lower` to `upper`, lanes x neurons, only."""
        whole = (side == 0) | self.smooth
        still_open = lanes.open & whole
        around = dict(lanes.around)
        for tensor in self._functions:
            part = self._slices[tensor]
            new = (lower[:, part] != lanes.lower[:, part]) | (upper[:, part] != lanes.upper[:, part])
            lane, element = new.nonzero(as_tuple=True)
            if len(lane):
                ends = (end[:, part][lane, element].double().cpu().numpy()[np.newaxis] for end in (lower, upper))
                around[tensor] = tuple(values.clone() for values in around[tensor])
                *pieces, usable = Cells.of(tensor, *ends)
                still_open[lane, part.start + element] &= torch.tensor(usable[0], device=self.device)
                for values, piece in zip(around[tensor], pieces, strict=True):
                    if values.ndim == 3:
                        values[lane, :, element] = self.values(piece)[0].T
                    else:
                        values[lane, element] = self.values(piece)[0]
        return replace(
            lanes,
            lower=lower,
            upper=upper,
            open=still_open,
            fixed=torch.where(whole, lanes.fixed, (side > 0).to(self.dtype)),
            above=torch.where(whole, lanes.above, torch.where(side > 0, 1.0, self.slope)),
            offset=torch.where(whole, lanes.offset, 0.0),
            side=torch.where(self.smooth, side.abs(), side),
            around=around,
        )

    def points(self, lanes: Lanes) -> Values:
        """Where to split neurons, lanes x neurons: ReLUs at zero, smooth functions in the middle of what they read."""
        return torch.where(self.smooth, 0.5 * (lanes.lower + lanes.upper), 0.0)

    def gaps(self, lanes: Lanes, tensor: Tensor) -> Values:
        """How far CROWN's lines around a smooth function are apart in the middle of what it reads."""
        _, _, _, below, low, above, high, *_ = lanes.around[tensor]
        part = self._slices[tensor]
        return (above - below) * 0.5 * (lanes.lower[:, part] + lanes.upper[:, part]) + high - low

    def losses(self, lanes: Lanes, coefficients: Sequence[Values], shares: Values, read: Values) -> Values:
        """What the lines around smooth functions lose where these read that, lanes x neurons; nothing for ReLUs.

        coefficients: of the activations. shares: of slopes, of all neurons.
        """
        found = torch.zeros_like(read)
        for tensor in self._functions:
            part = self._slices[tensor]
            primitive: Any = tensor.primitive
            a = coefficients[self.activations.index(tensor)]
            x = torch.minimum(torch.maximum(read[:, part], lanes.lower[:, part]), lanes.upper[:, part])
            slope, offset = line(a, shares[:, part], lanes.around[tensor])
            y = self.values(primitive.apply(x.double().cpu().numpy()))
            found[:, part] = a * (y - slope * x - offset)
        return found.nan_to_num(nan=0.0).clamp(min=0.0)

    def above(self, lanes: Lanes, fractions: Sequence[Fractions]) -> list[Above]:
        """The planes that have these fractions, of each ReLU of `sheaved`; none if there are none."""
        found = []
        for relu, (rows, values) in zip(self.sheaved, fractions, strict=bool(fractions)):
            centre, radius = lanes.around[relu]
            primitive: Any = relu.operands[0].primitive
            weight = self._constants(primitive.map.weight).T[rows]
            bias = self.values(np.broadcast_to(primitive.bias, relu.shape)).reshape(-1)[rows]
            slope = values * weight
            along, across = (slope @ centre[..., None])[..., 0], (slope.abs() @ radius[..., None])[..., 0]
            highest = centre @ weight.T + radius @ weight.T.abs() + bias
            found.append(Above(rows, slope, torch.maximum(across - along, highest - across - along)))
        return found

    def below(self, lanes: Lanes, chosen: Values, slopes: Values) -> Values:
        """The slopes of the lines below all ReLUs, and shares for smooth functions, lanes x neurons; chosen, slopes: as
        `bounds` takes them."""
        if len(chosen) == self.neurons:
            # torch.where takes several times as long.
            shares = torch.lerp(lanes.fixed, slopes, lanes.open.to(self.dtype))
        else:
            shares = torch.lerp(lanes.fixed[:, chosen], slopes, lanes.open[:, chosen].to(self.dtype))
            shares = lanes.fixed.index_copy(1, chosen, shares)
        return self.slope * (1.0 - shares) + shares if self._leaky else shares

    def bounds(
        self,
        lanes: Lanes,
        chosen: Values,
        slopes: Values,
        multipliers: Values,
        planes: Sequence[Above] = (),
        probe: Values | None = None,
    ) -> Backwards:
        """Pass the functionals back to the input.

        chosen: numbers of neurons, at least those that are open or split in some lane; all, where those are most of
        them, are quicker to work on. slopes, multipliers: lanes x chosen neurons; from 0 to 1, used where a neuron is
        open, and at least 0 for a ReLU, used where it is split. planes: in place of lines above, of each ReLU of
        `sheaved`; in as many lanes, or in fewer, each for as many lanes that stand side by side. probe: added to the
        coefficients of what the neurons read, for its gradient.
        """
        below = self.below(lanes, chosen, slopes)
        if len(chosen) == self.neurons:
            added = -lanes.side * multipliers
        else:
            added = torch.zeros_like(lanes.fixed).index_copy_(1, chosen, -lanes.side[:, chosen] * multipliers)
        # Split at once: each slice on its own would have a gradient as large as the whole.
        sizes = [part.stop - part.start for part in self._slices.values()]
        added_before = torch.split(added, sizes, 1)
        if probe is not None:
            added = added + probe
        pieces = zip(torch.split(below, sizes, 1), torch.split(added, sizes, 1), strict=True)
        of_activations = dict(zip(self.activations, pieces, strict=True))
        above = dict(zip(self.sheaved, planes, strict=bool(planes)))
        coefficients: dict[Tensor, Values] = {}
        waiting = {self.target: lanes.functional}
        if self.target is not self.output:
            waiting[self.output] = lanes.functional.new_zeros(len(lanes), *self.output.shape)
        total = torch.zeros(len(lanes), device=self.device, dtype=self.dtype)
        direction = lanes.centre
        for tensor in reversed(self.order):
            if tensor not in waiting:
                continue
            a = waiting.pop(tensor)
            if isinstance(tensor.primitive, Input):
                direction = a
                total = total + dot(a, lanes.centre) - dot(a.abs(), lanes.radius)
                continue
            passed: _Passed
            constant: Values | float
            if tensor in self._slices:
                flat = a.reshape(len(a), -1)
                coefficients[tensor] = flat.detach()
                share, more = of_activations[tensor]
                if tensor in self._functions:
                    split = added_before[self.activations.index(tensor)]
                    passed, constant = self._through_function(tensor, flat, lanes, share, more, split)
                else:
                    passed, constant = self._through_relu(tensor, flat, lanes, share, more, above.get(tensor))
            else:
                operands, constant = self._rules[tensor].through(tensor, a, lanes.around[tensor], self._constants)
                passed = list(zip(tensor.operands, operands, strict=False))
            total = total + constant
            for operand, functional in passed:
                waiting[operand] = waiting[operand] + functional if operand in waiting else functional
        for tensor in self.activations:  # those behind an operation that only intervals bound
            coefficients.setdefault(tensor, total.new_zeros(len(lanes), math.prod(tensor.shape)))
        return Backwards(total, [coefficients[tensor] for tensor in self.activations], direction)

    def _through_function(
        self, tensor: Tensor, a: Values, lanes: Lanes, share: Values, added: Values, split: Values
    ) -> tuple[_Passed, Values]:
        """Functionals of a smooth function, lanes x neurons. split: the coefficients that splits add, which are among
        those that are added."""
        part, (operand,) = self._slices[tensor], tensor.operands
        slope, offset = line(a, share, lanes.around[tensor])
        ends = torch.maximum(split * lanes.lower[:, part], split * lanes.upper[:, part])
        passed = torch.addcmul(added, a, slope)
        return [(operand, passed.reshape(len(a), *operand.shape))], (a * offset - ends).sum(1)

    def _through_relu(
        self, tensor: Tensor, a: Values, lanes: Lanes, below: Values, added: Values, above: Above | None
    ) -> tuple[_Passed, Values]:
        """Functionals of a ReLU, lanes x neurons."""
        part, (operand,) = self._slices[tensor], tensor.operands
        rise, offset = lanes.above[:, part], lanes.offset[:, part]
        found: _Passed = []
        over: Values | float = 0.0
        if above:
            open_ = lanes.open[:, part]
            covered = torch.zeros_like(open_).index_fill(1, above.rows, True) & open_
            beyond, over = _through_planes(a.clamp(max=0) * covered, above)
            rise, offset = rise * ~covered, offset * ~covered
            read = what_is_read(tensor)
            found.append((read, beyond.reshape(len(a), *read.shape)))
        passed, constant = _ThroughRelu.apply(a, below, added, rise, offset)  # type: ignore[no-untyped-call]
        found.append((operand, passed.reshape(len(a), *operand.shape)))
        return found, constant + over

    def values(self, value: NDArray[Any]) -> Values:
        return torch.tensor(np.ascontiguousarray(value), device=self.device, dtype=self.dtype)

    def _of_lanes(self, lanes: int, value: NDArray[Any]) -> Values:
        """For so many lanes, of which constants may have a single one; indices and truth values stay such."""
        value = np.broadcast_to(value, (lanes, *value.shape[1:]))
        return self.values(value) if value.dtype.kind == "f" else torch.tensor(value, device=self.device)


def _size(tensor: Tensor) -> int:
    """How many numbers a lane holds of it."""
    if isinstance(tensor.primitive, Product):  # the sums of a matrix product of two values never hold their terms
        return sum(math.prod(operand.shape) for operand in tensor.operands)
    return math.prod(tensor.shape) * _AS_MANY.get(type(tensor.primitive), 1)


def _flat(values: list[Array], lanes: int) -> Array:
    """Arrays of so many lanes, side by side."""
    return np.concatenate([np.zeros((lanes, 0)), *(value.reshape(lanes, -1) for value in values)], axis=1)


class _ThroughRelu(torch.autograd.Function):
    """Functionals of a ReLU (lanes x neurons) as such of its argument, and the constant that is left. Positive
    coefficients take the line of slope `below`, negative ones that of slope `above` and the offset; then `added`."""

    @staticmethod
    def forward(
        context: Any, a: Values, below: Values, added: Values, above: Values, offset: Values
    ) -> tuple[Values, Values]:
        positive = (a > 0).to(a.dtype)
        slope = torch.lerp(above, below, positive)
        context.save_for_backward(a, positive, slope, offset)
        return torch.addcmul(added, a, slope), torch.linalg.vecdot(a.clamp(max=0), offset)

    @staticmethod
    def backward(context: Any, *gradients: Values) -> tuple[Values | None, ...]:
        a, positive, slope, offset = context.saved_tensors
        of_passed, of_constant = gradients
        of_a = None
        if context.needs_input_grad[0]:
            of_a = torch.addcmul(offset, offset, positive, value=-1).mul_(of_constant[:, None])
            of_a.addcmul_(of_passed, slope)
        return of_a, of_passed * a.clamp(min=0), of_passed, None, None


def _through_planes(a: Values, above: Above) -> tuple[Values, Values]:
    """Functionals (lanes x neurons) that are nowhere positive, of a ReLU, as such of what its dense layer reads."""
    lanes, rows = above.offset.shape
    a = a[:, above.rows].reshape(lanes, len(a) // lanes, rows)
    return (a @ above.slope).flatten(0, 1), (a @ above.offset[..., None]).flatten()
