"""Matrices that are held as codes and scales, and multiplied so; whatever the checkpoint's format.

Of each matrix NAME of a layer there are NAME, the codes, NAME_scale, and where the format has them NAME_offset, the
zero points or minima, and weight_order, of the columns (act-order). ops.quant_linear says what they are.
"""

import functools
import logging
import math

import mindspore as ms

from sglang.srt.layers_ms import ops
from sglang.srt.layers_ms.quantization.base import (
    HeadMethod,
    LinearMethod,
    LookupMethod,
    Matrix,
    Method,
    MoEMethod,
)
from sglang.srt.layers_ms.quantization.formats import Encoding, WeightFormat
from sglang.srt.layers_ms.quantization.unquantized import unquantized
from sglang.srt.model_loader_ms.weight_slice import WeightSlice, parameter

logger = logging.getLogger(__name__)

ALL, SCALE, OFFSET, ORDER = slice(None), "_scale", "_offset", "weight_order"
LEAST_GROUP = 16  # columns: no operator knows less
MADE = ("float8_rows", "int8_rows", "nf4_blocks")  # layouts that make codes of a checkpoint's values
WEIGHT_ONLY = ("float", "int8_group")  # whose values may be multiplied instead


class Quantized(Method):
    """encoding: how the checkpoint holds the matrices; its format is the parameters' too.

    others: by their names, of the matrices that are held in another way; the other factor of a product is the same.
    """

    def __init__(self, encoding: Encoding, **others: Encoding):
        self.encoding, self.others = encoding, others

    @property
    def format(self) -> WeightFormat:
        return self.encoding.format

    def of(self, name: str) -> Encoding:
        """How the matrix of that name is held."""
        return self.others.get(name, self.encoding)

    def parameters(self, layer):
        found = {}
        for name, matrix in layer.matrices().items():
            found |= self._held(name, matrix)
            form = self.of(name).format
            if not form.offset and ops.computed_offset(form.kind, form.activations, layer.kind, matrix.dtype):
                found[name + OFFSET] = Matrix((*matrix.shape[:-1], 1), ms.float32, ())
        return found

    def _held(self, name: str, matrix: Matrix) -> dict[str, Matrix]:
        """The parameters of a matrix."""
        encoding = self.of(name)
        form, group = encoding.format, shared_columns(encoding, matrix)
        *stack, rows, columns = matrix.shape
        scale, parts = getattr(ms, form.scale), "_parts" if form.in_two_parts else ""
        found = {name: ("codes", ms.int8 if form.kind == "int8" else ms.uint8), name + SCALE: ("scale" + parts, scale)}
        if form.offset:
            found[name + OFFSET] = ("offset" + parts, ms.uint8 if form.offset == "zero_point" else scale)
        shapes = dict.fromkeys(("scale", "offset"), (*stack, rows, -(-columns // (group or columns or 1))))
        shapes["codes"] = (*stack, rows, form.nbytes(columns))
        if parts:
            shapes |= dict.fromkeys(("scale_parts", "offset_parts"), (*stack, rows, form.factor_bytes(columns, group)))
        return {
            held: _read_part(matrix, shapes[part], dtype, encoding._replace(part=part, group=group))
            for held, (part, dtype) in found.items()
        }

    def check(self, layer) -> None:
        """NotImplementedError where the operators cannot multiply this layer's matrices as they are held."""
        for name, matrix in layer.matrices().items():
            encoding = self.of(name)
            form, group = encoding.format, shared_columns(encoding, matrix)
            if any(column % form.unit for column in _ends(matrix)):
                raise NotImplementedError(f"{form.name} weights with a part of {form.unit} columns on a rank")
            held = (form.kind, group, form.offset, form.activations)
            ops.check_quant(*held, layer.kind, matrix.shape, matrix.dtype)
            if matrix.shape[-1] * form.bits % 8:
                raise NotImplementedError(f"{form.name} weights with {matrix.shape[-1]} columns on a rank: odd")

    def create_parameters(self, layer):
        if all(matrix.dtype == ms.float32 for matrix in layer.matrices().values()):
            self._become(_exact)
        if any(one.wider for one in (self.encoding, *self.others.values())) and not self._serves(layer):
            self._become(_wider)
        if self.format.activations == "int8_group" and not self._serves(layer):
            self._become(_unrounded)
        try:
            self.check(layer)
        except NotImplementedError as error:
            if self.format.activations not in WEIGHT_ONLY:
                raise
            _say_once(f"{error}; they are dequantized when they are loaded")
            layer.create_parameters(unquantized(layer.kind, self.encoding))
            return
        super().create_parameters(layer)
        for name, matrix in layer.matrices().items():
            encoding = self.of(name)
            setattr(layer, f"{name}_group", shared_columns(encoding, matrix))
            setattr(layer, f"{name}_kind", encoding.format.kind)
            if not hasattr(layer, name + OFFSET):
                setattr(layer, name + OFFSET, None)
        layer.activation_format = self.format.activations

    def _become(self, changed) -> None:
        """Hold the matrices as `changed` of their encodings says."""
        self.encoding = changed(self.encoding)
        self.others = {name: changed(encoding) for name, encoding in self.others.items()}

    def _serves(self, layer) -> bool:
        try:
            self.check(layer)
        except NotImplementedError:
            return False
        return True

    def process_weights_after_loading(self, layer):
        for name, matrix in layer.matrices().items():
            held = [getattr(layer, name + suffix) for suffix in ("", SCALE, OFFSET)]
            form = (getattr(layer, f"{name}_kind"), getattr(layer, f"{name}_group"), layer.activation_format)
            self.prepack(*held, *form, matrix.dtype)

    def prepack(self, *held) -> None:
        ops.prepack_quant(*held)


def _exact(encoding: Encoding) -> Encoding:
    return encoding if encoding.exact is None else encoding._replace(format=encoding.exact)


def _wider(encoding: Encoding) -> Encoding:
    exact = encoding.format == encoding.exact
    wider = encoding.wider or encoding
    return _exact(wider) if exact else wider


def _ends(matrix: Matrix) -> list[int]:
    """Columns at which a rank's parts of a matrix begin, and how many it has."""
    return [matrix.shape[-1], *(_columns(one).start for one in matrix.slices)]


def _unrounded(encoding: Encoding) -> Encoding:
    return encoding._replace(format=encoding.format._replace(activations="float"))


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)


def _read_part(matrix: Matrix, shape: tuple[int, ...], dtype: ms.Type, encoding: Encoding) -> Matrix:
    """Of a matrix, its codes, scales or zero points."""
    alternatives = [[_part(one, encoding) for one in slices] for slices in matrix.alternatives]
    return Matrix(shape, dtype, [_part(one, encoding) for one in matrix.slices], alternatives)


def shared_columns(encoding: Encoding, matrix: Matrix) -> int:
    """Of a rank's part of a matrix, how many columns have a scale; 0: all of them.

    Ranks that have some of the columns may begin inside a group: then there are more groups, with the same scales.
    """
    width = encoding.format.block[1]
    if not width:
        return 0
    shared = math.gcd(width, *(_columns(one).start for one in matrix.slices))
    if shared % LEAST_GROUP:
        raise NotImplementedError(
            f"{encoding.format.name} weights in groups of {width} columns, of which a rank's begin at column "
            f"{max(_columns(one).start for one in matrix.slices)}: give a --tp-size that divides them into groups of "
            f"{LEAST_GROUP} or more"
        )
    return shared


def _columns(one: WeightSlice) -> range:
    """Of the matrix, those that a slice reads."""
    axis = -2 if one.transposed else -1
    return range(one.whole[axis])[one.read[axis]]


def _part(one: WeightSlice, encoding: Encoding) -> WeightSlice:
    """The slice of the codes, scales or zero points of a slice of a matrix."""
    *stack, rows, _ = (*one.read[:-2], one.read[-1], one.read[-2]) if one.transposed else one.read
    *stacked, height, width = (*one.whole[:-2], one.whole[-1], one.whole[-2]) if one.transposed else one.whole
    columns, group = _columns(one), encoding.group or width or 1
    if encoding.layout in MADE:  # of codes that are there already the name is that of the matrix as it is multiplied
        encoding = encoding._replace(transposed=one.transposed)
    if encoding.part == "codes":
        held = slice(encoding.format.nbytes(columns.start), encoding.format.nbytes(columns.stop))
        width = encoding.format.nbytes(width)
    elif encoding.format.in_two_parts:
        of = encoding.format.factor_bytes
        held, width = slice(of(columns.start, group), of(columns.stop, group)), of(width, group)
    else:
        held = slice(columns.start // group, -(-columns.stop // group))
        width = -(-width // group)
    return one._replace(read=(*stack, rows, held), whole=(*stacked, height, width), transposed=False, encoding=encoding)


class QuantizedLinear(Quantized, LinearMethod):
    def parameters(self, layer):
        found = super().parameters(layer)
        if self.encoding.ordered:
            found[ORDER] = self._order(layer)
        return found

    def _order(self, layer) -> Matrix:
        """A row for each of the checkpoint's matrices."""
        (matrix,) = layer.matrices().values()
        sources = list(dict.fromkeys(one.source for one in matrix.slices))
        encoding, columns = self.encoding._replace(part="order"), matrix.shape[-1]
        slices = [
            WeightSlice(source, (ALL,), place, (columns,), encoding=encoding) for place, source in enumerate(sources)
        ]
        return Matrix((len(sources), columns), ms.int32, slices)

    def check(self, layer):
        super().check(layer)
        (matrix,) = layer.matrices().values()
        if self.encoding.ordered and any(len(_columns(one)) != one.whole[-1] for one in matrix.slices):
            raise NotImplementedError(
                "act-order (desc_act) with columns divided over ranks: their groups lie on other ranks"
            )

    def create_parameters(self, layer):
        layer.order = layer.input_scale = layer.input_offset = None
        super().create_parameters(layer)
        if layer.method is self and self.encoding.ordered:
            columns = layer.weight_order.shape[-1]
            layer.order = parameter((columns,), ms.int32)

    def process_weights_after_loading(self, layer):
        super().process_weights_after_loading(layer)
        if layer.order is not None:
            orders = layer.weight_order.host
            if (orders != orders[:1]).any():
                names = [one.source for one in layer.weight_order.slices]
                raise NotImplementedError(f"act-order of its own for each of {names}, which are multiplied as one")
            layer.order.host[:] = orders[0]

    def apply(self, layer, x, bias):
        x = x if layer.order is None else ops.take_columns(x, layer.order)
        return ops.quant_linear(
            x,
            layer.weight,
            layer.weight_scale,
            layer.weight_offset,
            layer.input_scale,
            layer.input_offset,
            bias,
            layer.weight_kind,
            layer.weight_group,
            layer.activation_format,
        )


class QuantizedMoE(Quantized, MoEMethod):
    def check(self, layer):
        super().check(layer)
        if self.encoding.ordered:
            raise NotImplementedError("experts with act-order (desc_act): each has columns in an order of its own")

    def apply(self, layer, x, weights, experts, lora=None):
        return ops.quant_experts(
            x,
            layer.gate_up,
            layer.gate_up_scale,
            layer.gate_up_offset,
            layer.gate_up_bias,
            layer.down,
            layer.down_scale,
            layer.down_offset,
            layer.down_bias,
            weights,
            experts,
            layer.activation,
            layer.alpha,
            layer.limit,
            layer.gate_up_kind,
            layer.gate_up_group,
            layer.down_kind,
            layer.down_group,
            layer.activation_format,
            layer.first,
            layer.count,
            lora,
        )

    def movable(self, layer):
        return {name: ops.plain_experts(getattr(layer, name)) for name in self.parameters(layer)}

    def put(self, layer, moved):
        """They were overwritten where they are."""


class QuantizedHead(Quantized, HeadMethod):
    def check(self, layer):
        super().check(layer)
        if self.encoding.ordered or self.format.activations not in WEIGHT_ONLY:
            raise NotImplementedError("a head with act-order (desc_act), or whose rows of activations are rounded")

    def logits(self, layer, x):
        return ops.quant_logits(x, *self._operands(layer))

    def host_logits(self, layer):
        return ops.host_quant_logits(layer.matrix.dtype, *self._operands(layer))

    @staticmethod
    def _operands(layer) -> tuple:
        form = (layer.weight_kind, layer.weight_group, layer.activation_format)
        return layer.weight, layer.weight_scale, layer.weight_offset, *form


class QuantizedEmbedding(QuantizedHead, LookupMethod):
    def create_parameters(self, layer):
        (matrix,) = layer.matrices().values()
        super().create_parameters(layer)
        if layer.method is self:
            layer.like = parameter((1,), matrix.dtype)

    def prepack(self, *held):
        ops.prepack_quant_embedding(*held)

    def embed(self, layer, ids):
        held = (layer.weight, layer.weight_scale, layer.weight_offset)
        return ops.quant_embedding(ids, *held, layer.like, layer.weight_kind, layer.weight_group, layer.first)
