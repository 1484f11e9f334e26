"""Linear bounds by backward substitution in torch: as in `verify.bounds.linear_bounds`, but differentiable, and
approximate.

One functional per lane; every array has the lanes in front. All neurons of all activations stand side by side in one
vector, in the order of `activations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from verify.bounds.activations import activations, is_relu, neuron_count, smooth
from verify.bounds.curves import CROWN_SLOPE
from verify.bounds.lines import Winners, lines_around, places_of, ratio, winners
from verify.core.functions import Function
from verify.core.intervals import Interval
from verify.core.linear_maps import Convolution, Dense, Diagonal, LinearMap, Reduction, Scaled
from verify.core.primitives import (
    Clip,
    Concatenate,
    Constant,
    Difference,
    Input,
    LeakyRelu,
    Linear,
    Maximum,
    MaxPool,
    Product,
    Quotient,
    Reshape,
    Round,
    Select,
    Sign,
    Softmax,
    Subsample,
    Sum,
    Tensor,
    Variance,
    topological,
)
from verify.core.rounding import REAL
from verify.core.softmax import Plane, has_plane, plane
from verify.proofs.paths import Splits
from verify.proofs.planes import reads_dense_layer, what_is_read
from verify.search.curves import Cells, line

Values = torch.Tensor

_AS_MANY = {Function: 16, Softmax: 4}
"""As so many numbers count the cells of a neuron of a smooth function, and the plane around an element of a softmax,
which is only read."""


@dataclass(frozen=True)
class Lanes:
    """What bounds are computed over: for each lane a functional, a box, and lines around its neurons.

    functional: of the output. centre, radius: of the box. lower, upper: of what neurons read. open: neurons for which
    the slope of a line is a choice; fixed: the share of slopes (as `bounds` takes it) for the others. above, offset:
    the line above a ReLU. side: 1 or -1 for ReLUs that are split, 1 for smooth functions, else 0. cells: of each smooth
    function, what `Cells` holds. others: centre and radius of what only intervals bound. curves: slope and offset of
    the lines below and above what lines without a choice bound. pools: the `Winners` of each max pooling. products: of
    each product of two values, the centres of these and their radii. quotients: of each quotient, its
    `Ratio`. planes: of each softmax, its `Plane`. reads: centre and radius of what each dense layer in front of a ReLU
    reads, flat.
    """

    functional: Values
    centre: Values
    radius: Values
    lower: Values
    upper: Values
    open: Values
    fixed: Values
    above: Values
    offset: Values
    side: Values
    cells: tuple[tuple[Values, ...], ...]
    others: tuple[tuple[Values, ...], ...]
    curves: tuple[tuple[Values, ...], ...]
    pools: tuple[tuple[Values, ...], ...]
    products: tuple[tuple[Values, ...], ...]
    quotients: tuple[tuple[Values, ...], ...]
    planes: tuple[tuple[Values, ...], ...]
    reads: tuple[tuple[Values, ...], ...]

    def __len__(self) -> int:
        return len(self.functional)

    def take(self, index: Values) -> Lanes:
        """The lanes of that index, or where it is true."""
        return self._mapped(lambda values: values[0][index], [self])

    def repeated(self, count: int) -> Lanes:
        """The only lane, that many times."""
        return self._mapped(lambda values: values[0].expand(count, *values[0].shape[1:]), [self])

    @staticmethod
    def joined(parts: Sequence[Lanes]) -> Lanes:
        """The lanes of all parts, one after the other."""
        return Lanes._mapped(torch.cat, parts)

    @property
    def chosen(self) -> Values:
        """The numbers of those neurons that are open or split in some lane."""
        return (self.open | (self.side != 0)).any(0).nonzero()[:, 0]

    @staticmethod
    def _mapped(function: Callable[[list[Values]], Values], parts: Sequence[Lanes]) -> Lanes:
        """Each array made of the corresponding ones of the parts."""

        def mapped(values: Sequence[Any]) -> Any:
            if isinstance(values[0], tuple):
                return tuple(mapped(each) for each in zip(*values, strict=True))
            return function(list(values))

        return Lanes(*(mapped([getattr(part, field.name) for part in parts]) for field in fields(Lanes)))


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
        weights: dict[int, Values] | None = None,
        target: Tensor | None = None,
    ) -> None:
        """target: that the functionals are of, if not of the output; then what lies behind it only matters by the
        multipliers of neurons that are split."""
        self.output, self.device, self.dtype = output, device, torch.float32
        self.target = target or output
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
        self._pools = [t for t in self.order if isinstance(t.primitive, MaxPool) and not t.primitive.padding]
        self._curves = [t for t in self.order if _is_curve(t)]
        self._products = [t for t in self.order if isinstance(t.primitive, Product)]
        self._quotients = [t for t in self.order if isinstance(t.primitive, Quotient)]
        self._planes = [t for t in self.order if isinstance(t.primitive, Softmax) and has_plane(t.shape)]
        self.sheaved = [t for t in self.activations if reads_dense_layer(t)]
        covered = {*self.activations, *self._pools, *self._curves, *self._products, *self._quotients, *self._planes}
        self._others = [
            t
            for t in self.order
            if type(t.primitive) not in self.RULES
            and t not in covered
            and t.varies
            and not isinstance(t.primitive, Input)
        ]
        self._weights: dict[int, Values] = {} if weights is None else weights
        self._places: dict[Tensor, Values] = {}
        self._inner: dict[Tensor, Backward] = {}

    def of(self, tensor: Tensor) -> Backward:
        """The same for functionals of a tensor inside the network."""
        if tensor not in self._inner:
            self._inner[tensor] = Backward(tensor, self.device, self._weights)
        return self._inner[tensor]

    def behind(self, output: Tensor, target: Tensor) -> Backward:
        """The same for functionals of a tensor inside a network that goes on from the output."""
        return Backward(output, self.device, dict(self._weights), target)

    def lanes(self, intervals: Mapping[Tensor, Interval], functional: np.ndarray[Any, Any]) -> Lanes:
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
        above = np.where(unstable, rising, slope * (1.0 - fixed) + fixed)
        cells = []
        for tensor in self._functions:
            part = self._slices[tensor]
            found = Cells.of(tensor, *(end[:, part] for end in (lower, upper)))
            fixed[:, part], unstable[:, part] = CROWN_SLOPE, found.usable
            cells.append(tuple(map(self.values, found[:-1])))
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
            cells=tuple(cells),
            others=tuple(
                (self.values((low + high) / 2), self.values((high - low) / 2))
                for low, high in (intervals[tensor] for tensor in self._others)
            ),
            curves=tuple(self._around(tensor, intervals) for tensor in self._curves),
            pools=tuple(self._winners(tensor, winners(tensor, intervals)) for tensor in self._pools),
            products=tuple(
                through_centres(*(map(self.values, intervals[operand]) for operand in tensor.operands))
                for tensor in self._products
            ),
            quotients=tuple(self._ratio(tensor, intervals) for tensor in self._quotients),
            planes=tuple(tuple(map(self.values, plane_of(tensor, intervals))) for tensor in self._planes),
            reads=tuple(
                (self.values((low + high) / 2).flatten(1), self.values((high - low) / 2).flatten(1))
                for low, high in (intervals[what_is_read(tensor)] for tensor in self.sheaved)
            ),
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
        cells = []
        for tensor, known in zip(self._functions, lanes.cells, strict=True):
            part = self._slices[tensor]
            new = (lower[:, part] != lanes.lower[:, part]) | (upper[:, part] != lanes.upper[:, part])
            lane, element = new.nonzero(as_tuple=True)
            if len(lane):
                ends = (end[:, part][lane, element].double().cpu().numpy()[np.newaxis] for end in (lower, upper))
                known = tuple(values.clone() for values in known)
                *pieces, usable = Cells.of(tensor, *ends)
                still_open[lane, part.start + element] &= torch.tensor(usable[0], device=self.device)
                for values, piece in zip(known, pieces, strict=True):
                    if values.ndim == 3:
                        values[lane, :, element] = self.values(piece)[0].T
                    else:
                        values[lane, element] = self.values(piece)[0]
            cells.append(known)
        return replace(
            lanes,
            lower=lower,
            upper=upper,
            open=still_open,
            fixed=torch.where(whole, lanes.fixed, (side > 0).to(self.dtype)),
            above=torch.where(whole, lanes.above, torch.where(side > 0, 1.0, self.slope)),
            offset=torch.where(whole, lanes.offset, 0.0),
            side=torch.where(self.smooth, side.abs(), side),
            cells=tuple(cells),
        )

    def points(self, lanes: Lanes) -> Values:
        """Where to split neurons, lanes x neurons: ReLUs at zero, smooth functions in the middle of what they read."""
        return torch.where(self.smooth, 0.5 * (lanes.lower + lanes.upper), 0.0)

    def gaps(self, lanes: Lanes, tensor: Tensor) -> Values:
        """How far CROWN's lines around a smooth function are apart in the middle of what it reads."""
        _, _, _, below, low, above, high, *_ = lanes.cells[self._functions.index(tensor)]
        part = self._slices[tensor]
        return (above - below) * 0.5 * (lanes.lower[:, part] + lanes.upper[:, part]) + high - low

    def losses(self, lanes: Lanes, coefficients: Sequence[Values], shares: Values, read: Values) -> Values:
        """What the lines around smooth functions lose where these read that, lanes x neurons; nothing for ReLUs.

        coefficients: of the activations. shares: of slopes, of all neurons.
        """
        found = torch.zeros_like(read)
        for tensor, cells in zip(self._functions, lanes.cells, strict=True):
            part = self._slices[tensor]
            primitive: Any = tensor.primitive
            a = coefficients[self.activations.index(tensor)]
            x = torch.minimum(torch.maximum(read[:, part], lanes.lower[:, part]), lanes.upper[:, part])
            slope, offset = line(a, shares[:, part], cells)
            y = self.values(primitive.apply(x.double().cpu().numpy()))
            found[:, part] = a * (y - slope * x - offset)
        return found.nan_to_num(nan=0.0).clamp(min=0.0)

    def above(self, lanes: Lanes, fractions: Sequence[Fractions]) -> list[Above]:
        """The planes that have these fractions, of each ReLU of `sheaved`; none if there are none."""
        found = []
        for relu, (centre, radius), (rows, values) in zip(self.sheaved, lanes.reads, fractions, strict=bool(fractions)):
            primitive: Any = relu.operands[0].primitive
            weight = self._constant(primitive.map.weight).T[rows]
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
        last = lanes.centre
        for tensor in reversed(self.order):
            if tensor not in waiting:
                continue
            a = waiting.pop(tensor)
            if isinstance(tensor.primitive, Input):
                last = a
                total = total + _dot(a, lanes.centre) - _dot(a.abs(), lanes.radius)
                continue
            if tensor in self._slices:
                part = self._slices[tensor]
                flat = a.reshape(len(a), -1)
                coefficients[tensor] = flat.detach()
            operands: list[Values]
            if tensor in self._functions:
                share, more = of_activations[tensor]
                slope, offset = line(flat, share, lanes.cells[self._functions.index(tensor)])
                kept = added_before[self.activations.index(tensor)]
                ends = torch.maximum(kept * lanes.lower[:, part], kept * lanes.upper[:, part])
                total = total + (flat * offset - ends).sum(1)
                operands = [torch.addcmul(more, flat, slope).reshape(a.shape)]
            elif tensor in self._slices:
                rise, offset = lanes.above[:, part], lanes.offset[:, part]
                if tensor in above:
                    covered = torch.zeros_like(lanes.open[:, part]).index_fill(1, above[tensor].rows, True)
                    covered &= lanes.open[:, part]
                    beyond, constant = _through_planes(flat.clamp(max=0) * covered, above[tensor])
                    rise, offset, total = rise * ~covered, offset * ~covered, total + constant
                    read = what_is_read(tensor)
                    beyond = beyond.reshape(len(a), *read.shape)
                    waiting[read] = waiting[read] + beyond if read in waiting else beyond
                passed, constant = _ThroughRelu.apply(flat, *of_activations[tensor], rise, offset)  # type: ignore[no-untyped-call]
                total = total + constant
                operands = [passed.reshape(a.shape)]
            elif tensor in self._others:
                centre, radius = lanes.others[self._others.index(tensor)]
                total = total + _dot(a, centre) - _dot(a.abs(), radius)
                continue
            elif tensor in self._curves:
                operands, constant = _between_lines(a, lanes.curves[self._curves.index(tensor)])
                total = total + constant
            elif tensor in self._pools:
                operands, constant = _through_pool(tensor, a, lanes.pools[self._pools.index(tensor)])
                total = total + constant
            elif tensor in self._products:
                operands, constant = through_product(a, lanes.products[self._products.index(tensor)])
                total = total + constant
            elif tensor in self._quotients:
                operands, constant = _through_quotient(a, lanes.quotients[self._quotients.index(tensor)])
                total = total + constant
            elif tensor in self._planes:
                slope, offset, deviation = lanes.planes[self._planes.index(tensor)]
                operands = [(a[..., None, :] @ slope)[..., 0, :]]
                total = total + _dot(a, offset) - _dot(a.abs(), deviation)
            else:
                operands, constant = self.RULES[type(tensor.primitive)](self, tensor, a)
                total = total + constant
            # Of a maximum or a variance, nothing is passed on to the operand that only its interval depends on.
            for operand, functional in zip(tensor.operands, operands, strict=False):
                waiting[operand] = waiting[operand] + functional if operand in waiting else functional
        for tensor in self.activations:  # those behind an operation that only intervals bound
            coefficients.setdefault(tensor, total.new_zeros(len(lanes), math.prod(tensor.shape)))
        return Backwards(total, [coefficients[tensor] for tensor in self.activations], last)

    def _linear(self, tensor: Tensor, a: Values) -> tuple[list[Values], Values | float]:
        primitive: Any = tensor.primitive
        (operand,) = tensor.operands
        bias = self._constant(primitive.bias)
        constant = _dot(a, bias.expand(tensor.shape)) if primitive.bias.any() else 0.0
        return [self._adjoint(primitive.map, a, operand.shape)], constant

    def _reshape(self, tensor: Tensor, a: Values) -> tuple[list[Values], float]:
        return [a.reshape(len(a), *tensor.operands[0].shape)], 0.0

    def _select(self, tensor: Tensor, a: Values) -> tuple[list[Values], Values | float]:
        primitive: Any = tensor.primitive
        (operand,) = tensor.operands
        size = math.prod(operand.shape)
        if tensor not in self._places:
            index = primitive.index.reshape(-1)
            self._places[tensor] = torch.tensor(np.where(index < 0, size, index), device=self.device)
        flat = a.reshape(len(a), -1)
        result = flat.new_zeros(len(a), size + 1).index_add(1, self._places[tensor], flat)
        return [result[:, :-1].reshape(len(a), *operand.shape)], primitive.fill * result[:, -1]

    def _subsample(self, tensor: Tensor, a: Values) -> tuple[list[Values], float]:
        primitive: Any = tensor.primitive
        (operand,) = tensor.operands
        taken, put = primitive.places(operand.shape)
        result = a.new_zeros(len(a), *operand.shape)
        result[taken] = a[put]
        return [result], 0.0

    def _fixed(self, tensor: Tensor, a: Values) -> tuple[list[Values], Values | float]:
        primitive: Any = tensor.primitive
        return [], _dot(a, self._constant(primitive.value))

    def _concatenate(self, tensor: Tensor, a: Values) -> tuple[list[Values], float]:
        primitive: Any = tensor.primitive
        sizes = [operand.shape[primitive.axis] for operand in tensor.operands]
        return list(torch.split(a, sizes, primitive.axis + 1)), 0.0

    def _sum(self, tensor: Tensor, a: Values) -> tuple[list[Values], float]:
        primitive: Any = tensor.primitive
        return [a, primitive.sign * a], 0.0

    def _difference(self, tensor: Tensor, a: Values) -> tuple[list[Values], float]:
        return [a, -a], 0.0

    def _maximum(self, tensor: Tensor, a: Values) -> tuple[list[Values], float]:
        return [a, a], 0.0

    def _variance(self, tensor: Tensor, a: Values) -> tuple[list[Values], float]:
        return [a], 0.0  # near enough

    RULES: Mapping[type, Callable[..., Any]] = {
        Constant: _fixed,
        Linear: _linear,
        Reshape: _reshape,
        Select: _select,
        Subsample: _subsample,
        Concatenate: _concatenate,
        Sum: _sum,
        Difference: _difference,
        Maximum: _maximum,
        Variance: _variance,
    }

    def _adjoint(self, map: LinearMap, y: Values, shape: tuple[int, ...]) -> Values:
        """A' y for every lane, where A takes arrays of that shape."""
        if isinstance(map, Diagonal):
            return y * self._constant(map.scale)
        if isinstance(map, Scaled):
            return self._adjoint(map.map, y * self._constant(map.scale), shape)
        if isinstance(map, Reduction):
            return y.expand(len(y), *shape)
        if isinstance(map, Dense):
            weight = self._constant(map.weight)
            if weight.ndim == 2:
                return (y.reshape(-1, y.shape[-1]) @ weight.T).reshape(len(y), *shape)
            x = y @ weight.transpose(-1, -2)
            repeated = [axis + 1 for axis, size in enumerate(shape) if size == 1 and x.shape[axis + 1] > 1]
            return x.sum(repeated, keepdim=True) if repeated else x
        assert isinstance(map, Convolution)
        window, axes = map.window, len(map.window.kernel)
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[axes - 1]
        samples = y.reshape(-1, *y.shape[-axes - 1 :])
        padded = transposed(
            samples,
            self._constant(map.weight),
            stride=window.strides,
            dilation=window.dilations,
            groups=map.groups,
        )
        # A negative pad crops the window's own padding; what no window reaches has coefficient 0.
        ends = [
            (-begin, size + begin - reached)
            for begin, size, reached in zip(window.begin, shape[-axes:], padded.shape[-axes:], strict=True)
        ]
        return F.pad(padded, [pad for pair in reversed(ends) for pad in pair]).reshape(len(y), *shape)

    def _constant(self, value: np.ndarray[Any, Any]) -> Values:
        """A weight on the device, converted once."""
        if id(value) not in self._weights:
            self._weights[id(value)] = self.values(value)
        return self._weights[id(value)]

    def _around(self, tensor: Tensor, intervals: Mapping[Tensor, Interval]) -> tuple[Values, ...]:
        with np.errstate(all="ignore"):
            lines = lines_around(tensor, intervals, REAL)  # near enough for the search, whatever the contract
        assert lines is not None
        return tuple(self.values(part) for line in lines for part in (line.slope, line.offset))

    def _ratio(self, tensor: Tensor, intervals: Mapping[Tensor, Interval]) -> tuple[Values, ...]:
        with np.errstate(all="ignore"):
            first, second = (intervals[operand] for operand in tensor.operands)
            *around, below, above = ratio(first, second, intervals[tensor], REAL)
        return tuple(map(self.values, (*around, below.slope, below.offset, above.slope, above.offset)))

    def _winners(self, tensor: Tensor, best: Winners) -> tuple[Values, Values, Values]:
        """Where they lie, whether they always win, and an upper bound of the maximum: lanes x windows."""
        place = torch.tensor(places_of(tensor, best.tap), device=self.device)
        always = torch.tensor(best.always, device=self.device)
        return place, always.flatten(1), self.values(best.highest).flatten(1)

    def values(self, value: np.ndarray[Any, Any]) -> Values:
        return torch.tensor(np.ascontiguousarray(value), device=self.device, dtype=self.dtype)


def _size(tensor: Tensor) -> int:
    """How many numbers a lane holds of it."""
    if isinstance(tensor.primitive, Product):  # the sums of a matrix product of two values never hold their terms
        return sum(math.prod(operand.shape) for operand in tensor.operands)
    return math.prod(tensor.shape) * _AS_MANY.get(type(tensor.primitive), 1)


def _flat(values: list[np.ndarray[Any, Any]], lanes: int) -> np.ndarray[Any, Any]:
    """Arrays of so many lanes, side by side."""
    return np.concatenate([np.zeros((lanes, 0)), *(value.reshape(lanes, -1) for value in values)], axis=1)


def plane_of(tensor: Tensor, intervals: Mapping[Tensor, Interval]) -> Plane:
    """Around a softmax, near enough for the search, whatever the contract."""
    primitive: Any = tensor.primitive
    with np.errstate(all="ignore"):
        return plane(*intervals[tensor.operands[0]], primitive.logarithm, REAL)


def through_centres(first: Iterable[Values], second: Iterable[Values]) -> tuple[Values, ...]:
    """What `through_product` takes, given the ends of both intervals."""
    (low, high), (least, largest) = first, second
    return (low + high) / 2, (least + largest) / 2, (high - low) / 2, (largest - least) / 2


def through_product(a: Values, around: Sequence[Values]) -> tuple[list[Values], Values]:
    """As `linear_bounds` does, through the centres of both operands."""
    first, second, radius, other = around
    if a.ndim > 3 and not a.stride(-1) and first.shape[-2] == second.shape[-3] == 1:
        # Of a matrix product of two values: the terms of each sum have the same coefficient.
        a = a[..., 0]
        rows, columns = first[..., 0, :], second[..., 0, :, :]
        of_rows, of_columns = (a @ columns).unsqueeze(-2), (a.mT @ rows).unsqueeze(-3)
        centre, deviation = rows @ columns.mT, radius[..., 0, :] @ other[..., 0, :, :].mT
    else:
        of_rows, of_columns = a * second, a * first
        centre, deviation = first * second, radius * other
    operands = [_summed(of_rows, first.shape), _summed(of_columns, second.shape)]
    return operands, -_dot(a, centre) - _dot(a.abs(), deviation)


def _summed(a: Values, shape: torch.Size) -> Values:
    """Over the axes along which something of that shape is repeated."""
    axes = [axis for axis, size in enumerate(shape) if size == 1 and a.shape[axis] > 1]
    return a.sum(axes, keepdim=True) if axes else a


def _through_quotient(a: Values, around: Sequence[Values]) -> tuple[list[Values], Values]:
    """As `linear_bounds` does."""
    first, second, offset, deviation, *lines = around
    operands, constant = _between_lines(a * second, tuple(lines))
    return [a * first, *operands], constant + _dot(a, offset) - _dot(a.abs(), deviation)


def _dot(a: Values, x: Values) -> Values:
    """Functionals (lanes x shape) of values, lanes x shape or shape."""
    return a.flatten(1) @ x.flatten() if x.ndim < a.ndim else (a * x).flatten(1).sum(1)


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


def _is_curve(tensor: Tensor) -> bool:
    primitive = tensor.primitive
    negative = isinstance(primitive, LeakyRelu) and primitive.slope < 0
    return negative or isinstance(primitive, Clip | Round | Sign)


def _between_lines(a: Values, lines: tuple[Values, ...]) -> tuple[list[Values], Values]:
    below, low, above, high = lines
    positive, negative = a.clamp(min=0), a.clamp(max=0)
    return [positive * below + negative * above], _dot(positive, low) + _dot(negative, high)


def _through_pool(tensor: Tensor, a: Values, best: tuple[Values, ...]) -> tuple[list[Values], Values]:
    place, always, highest = best
    flat = a.reshape(len(a), -1)
    (operand,) = tensor.operands
    passed = torch.where(always, flat, flat.clamp(min=0))
    result = flat.new_zeros(len(a), math.prod(operand.shape)).scatter_add(1, place, passed)
    return [result.reshape(len(a), *operand.shape)], (flat.clamp(max=0) * highest).sum(1)
