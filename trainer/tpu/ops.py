"""Finds TensorFlow ops without a TPU kernel in a traced function.

The function that TPUStrategy replicates is compiled as a whole: one op without a TPU kernel fails
the run, minutes after its start. In the graph, such an op is found at once, with its name.

    ops.refused(ops.replicated(traced))     # {"AsString": ["while/replica/AsString"]}
    ops.refused(ops.every_op(traced))       # for a step that was traced without a strategy
"""

from __future__ import annotations

import collections
import functools
import importlib.resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_REPLICATED = "_tpu_replicate"
"""The attribute that TPUStrategy sets on each op of the function that it replicates."""
_REWRITTEN = frozenset({"TPUReplicateMetadata", "TPUReplicatedInput", "TPUReplicatedOutput"})
"""Markers of the replication itself, which TensorFlow removes before it looks up kernels."""


@functools.cache
def supported() -> frozenset[str]:
    """Returns the names of the ops that have a TPU kernel."""
    text = (importlib.resources.files("trainer.tpu") / "ops.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def refused(nodes: Iterable[Any]) -> dict[str, list[str]]:
    """Returns the ops among `nodes` without a TPU kernel: op -> names of its nodes."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for node in nodes:
        if node.op not in supported() | _REWRITTEN:
            names[node.op].append(node.name)
    return dict(names)


def describe(ops: dict[str, list[str]]) -> str:
    """Returns a list of ops as text, with the name of the first node of each."""
    return ", ".join(f"{op} ({names[0]})" for op, names in sorted(ops.items()))


def every_op(traced: Any) -> list[Any]:
    """Returns the NodeDefs of a concrete function and of all functions that it calls."""
    library = _library(traced)
    return list(_with_callees(traced.function_def.node_def, library))


def replicated(traced: Any) -> list[Any]:
    """Returns the NodeDefs of a concrete function that a TPU would run.

    These are the ops inside `strategy.run`, also if it is called in nested loops, and those of the
    functions they call. The loop itself and its input pipeline run on the host.
    """
    library = _library(traced)
    marked = [node for node in every_op(traced) if _REPLICATED in node.attr]
    return list(_with_callees(marked, library))


def _library(traced: Any) -> dict[str, Any]:
    functions = traced.graph.as_graph_def().library.function
    return {function.signature.name: function for function in functions}


def _with_callees(nodes: Iterable[Any], library: dict[str, Any]) -> Iterator[Any]:
    """Yields `nodes` and, once each, the nodes of all functions that they call, also indirectly."""
    waiting, seen = list(nodes), set[str]()
    while waiting:
        node = waiting.pop()
        yield node
        for name in set(_called_by(node)) & library.keys() - seen:
            seen.add(name)
            waiting.extend(library[name].node_def)


def _called_by(node: Any) -> Iterator[str]:
    """Yields the functions that a node may call: its op, and branches, bodies and calls."""
    yield node.op
    for value in node.attr.values():
        yield value.func.name
        yield from (function.name for function in value.list.func)
