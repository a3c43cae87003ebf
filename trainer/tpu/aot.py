"""Compiles a TensorFlow function ahead of time for TPU chips, without a TPU.

TensorFlow lowers the function to a StableHLO module on the CPU. A jitted JAX function calls this
module, and JAX passes it to the compiler in libtpu, which can compile for a named topology without
any device. The batch is sharded over the chips; variables are replicated and updated in place; the
compiler inserts the all-reduces. The result is the program that a TPU would run; only its speed
stays unknown.

This is the only module that imports JAX, which comes with the extra `tpu-aot`. It uses JAX's
modules for such extensions: `topologies`, `extend` and `interpreters.mlir`.

    program = aot.compile_for(topology, step, batch_spec)
    program.memory_bytes, program.flops, program.all_reduces
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import time
import warnings
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import tensorflow as tf
from jax.experimental import topologies
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import func
from jax.interpreters import mlir
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trainer.errors import RunError
from trainer.system import text
from trainer.tpu import ops

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainer.topologies import Topology

# Without these variables, libtpu asks the metadata server of a TPU VM for its type, although any
# type will do for compiling. It would also lock the TPU of this machine, and wait up to five
# minutes if another process had locked it.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_DTYPES = {
    "i1": "bool", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "ui8": "uint8", "ui16": "uint16", "ui32": "uint32", "ui64": "uint64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
}  # fmt: skip
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = r"(?P<{0}>[\d.]+)(?P<{0}_unit>[KMGT]?)"
_NEEDED = tuple(
    re.compile(pattern.format(_SIZE.format("needed")))
    for pattern in (r"Used {0} of \S+ hbm", r"\({0}\) exceeds available HBM")
)


class OutOfMemoryError(RunError):
    """The program does not fit into the memory of a chip.

    Attributes:
      needed_bytes: per chip; infinite if the compiler does not report it.
    """

    def __init__(self, needed_bytes: float) -> None:
        super().__init__(f"the program needs {needed_bytes:,.0f} bytes a chip.")
        self.needed_bytes = needed_bytes


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiler's analysis of a compiled step; numbers are per chip and step.

    Attributes:
      memory_bytes: peak memory for variables, batch and intermediate results.
      flops: floating-point operations.
      moved_bytes: bytes read from memory and written to it.
      all_reduces: number of all-reduces, in which the chips wait for each other.
      compile_s: CPU seconds of the compiler, hardly affected by other load on the machine.
    """

    memory_bytes: int
    flops: float
    moved_bytes: float
    all_reduces: int
    compile_s: float


def compile_for(
    topology: Topology, step: Callable[..., Any], spec: tuple[tf.TensorSpec, ...]
) -> Program:
    """Compiles a step, with the variables that it captures, for all chips of a topology.

    Args:
      topology: the chips.
      step: a Python function of tensors with these specs.
      spec: a global batch of static shape; its first axis is sharded over the chips.

    Raises:
      OutOfMemoryError: when the step does not fit into the memory of a chip.
      RunError: when the step can't be compiled for a TPU.
    """
    module = _lower(step, spec)
    devices = _devices(topology)
    jitted, arguments = _jit(module, len(spec), Mesh(np.array(devices), ("batch",)))
    try:
        with warnings.catch_warnings():
            # All variables are donated; those that the step does not change give this warning.
            warnings.filterwarnings("ignore", message="Some donated buffers")
            lowered = jitted.lower(*arguments)
        start = time.process_time()
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise _explain(str(error)) from error
    program = _read(compiled, time.process_time() - start)
    if program.memory_bytes > topology.chip.hbm_bytes:
        raise OutOfMemoryError(program.memory_bytes)
    return program


def _lower(step: Callable[..., Any], spec: tuple[tf.TensorSpec, ...]) -> str:
    """Lowers the step to StableHLO: (batch, variables) -> the new values of the variables.

    Raises:
      RunError: when the step has ops without a TPU kernel, or can't be lowered.
    """
    function = tf.function(step, jit_compile=True)
    refused = ops.refused(ops.every_op(function.get_concrete_function(*spec)))
    if refused:
        raise RunError(f"the step has ops without a TPU kernel: {ops.describe(refused)}.")
    try:
        # Lowering gives the same module for every platform, but "TPU" would need a device.
        lower = function.experimental_get_compiler_ir(*spec)
        return str(lower(stage="stablehlo", platform_name="CPU"))
    except (ValueError, tf.errors.OpError) as error:
        raise RunError(
            f"the step can't be compiled for a TPU: {text.first_line(error)}."
        ) from error


@functools.cache
def _devices(topology: Topology) -> list[Any]:
    """Returns the devices to compile for: descriptions of the chips of a topology."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # Otherwise JAX looks for a TPU to run on.
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003 -- Keras counts steps in 64 bits.
    described = topologies.get_topology_desc(
        platform="tpu", topology_name=topology.name, chips_per_host_bounds=list(topology.host_grid)
    )
    return list(described.devices)


def _jit(module: str, batch_arguments: int, mesh: Mesh) -> tuple[Any, list[Any]]:
    """Returns a jitted function that calls `module` on a mesh, and the specs of its arguments."""
    inputs, outputs = _signature(module)
    whole = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec("batch"))
    count = len(inputs)
    jitted = jax.jit(
        lambda *arguments: _call_module.bind(*arguments, module=module, outputs=outputs),
        in_shardings=[divided] * batch_arguments + [whole] * (count - batch_arguments),
        out_shardings=whole,
        # Donated variables are updated in place, so the memory analysis counts them once.
        donate_argnums=tuple(range(batch_arguments, count)),
        keep_unused=True,  # A variable that the step doesn't read occupies memory as well.
    )
    return jitted, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in inputs]


def _signature(module: str) -> tuple[Any, Any]:
    """Returns (shape, dtype) of each argument and of each result of a module."""
    with mlir.make_ir_context() as context, ir.Location.unknown(context):
        function = _function_type(_parse(module, context))
        return tuple(map(_described, function.inputs)), tuple(map(_described, function.results))


def _described(mlir_type: Any) -> tuple[tuple[int, ...], str]:
    tensor = ir.RankedTensorType(mlir_type)
    return tuple(tensor.shape), _DTYPES[str(tensor.element_type)]


def _function_type(module: Any) -> Any:
    main = next(op for op in module.body.operations if op.sym_name.value == "main")
    return ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)


def _parse(module: str, context: Any) -> Any:
    """Parses TensorFlow's module and removes `mhlo.copy`, an op of a dialect that JAX lacks."""
    context.allow_unregistered_dialects = True
    parsed = ir.Module.parse(module, context)
    for op in [op for op in _operations(parsed.body) if op.name == "mhlo.copy"]:
        op.results[0].replace_all_uses_with(op.operands[0])
        op.erase()
    return parsed


def _operations(block: Any) -> Iterator[Any]:
    """Yields every operation of a block and of the blocks nested in it."""
    for view in block.operations:
        yield view.operation
        for region in view.operation.regions:
            for inner in region.blocks:
                yield from _operations(inner)


_call_module = Primitive("call_tensorflow")
_call_module.multiple_results = True


@_call_module.def_abstract_eval
def _call_module_shapes(*_: Any, module: str, outputs: Any) -> list[Any]:
    del module
    return [jax.core.ShapedArray(shape, np.dtype(dtype)) for shape, dtype in outputs]


def _inline_module(context: Any, *arguments: Any, module: str, outputs: Any) -> Any:
    """Merges TensorFlow's module into JAX's and calls it."""
    del outputs
    ours = context.module_context
    with ir.Location.unknown(ours.context):
        theirs = _parse(module, ours.context)
        results = list(_function_type(theirs).results)
        name = mlir.merge_mlir_modules(
            ours.module, "tensorflow_step", theirs, dst_symtab=ours.symbol_table
        )
        return func.CallOp(results, ir.FlatSymbolRefAttr.get(name), list(arguments)).results


mlir.register_lowering(_call_module, _inline_module)


def _read(compiled: Any, compile_s: float) -> Program:
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    live = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    live += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        memory_bytes=live,
        flops=cost["flops"],
        moved_bytes=cost["bytes accessed"],
        all_reduces=len(re.findall(r"= .*\ball-reduce(?:-start)?\(", compiled.as_text())),
        compile_s=compile_s,
    )


def _explain(message: str) -> RunError:
    """Turns an error message of the compiler into a RunError."""
    if not message.startswith("RESOURCE_EXHAUSTED"):
        return RunError(f"the step can't be compiled for a TPU: {text.first_line(message)}.")
    for pattern in _NEEDED:
        if match := pattern.search(message):
            return OutOfMemoryError(float(match["needed"]) * _UNITS[match["needed_unit"]])
    return OutOfMemoryError(float("inf"))
