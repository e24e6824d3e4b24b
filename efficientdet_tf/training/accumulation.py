"""A large batch in parts, one after another, for devices that cannot hold all of it."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def sum_over_parts(function: Callable, batch: Any, parts: int) -> Any:
    """The sum of what a function gives for each part of a batch.

    What a part needs is given back before the next is computed.

    Args:
      function: of the part's number, int32 scalar, and the part; returns a structure of tensors
        whose shapes are static and do not depend on the part.
      batch: structure of tensors [B, ...], B a multiple of `parts`.
      parts: how many; 1 is the batch as it is.
    """
    if parts == 1:
        return function(tf.constant(0), batch)
    stacked = tf.nest.map_structure(lambda x: tf.reshape(x, [parts, -1, *x.shape[1:]]), batch)

    def of_part(index: tf.Tensor) -> Any:
        return function(index, tf.nest.map_structure(lambda x: x[index], stacked))

    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return _unrolled(of_part, parts)
    return _looped(of_part, parts)


def _looped(of_part: Callable, parts: int) -> Any:
    function = tf.function(of_part, autograph=False)
    signature = function.get_concrete_function(tf.TensorSpec([], tf.int32))
    zeros = tf.nest.map_structure(
        lambda x: tf.zeros(x.shape, x.dtype), signature.structured_outputs
    )
    _, total = tf.while_loop(
        lambda index, total: index < parts,
        lambda index, total: (index + 1, tf.nest.map_structure(tf.add, total, of_part(index))),
        (tf.constant(0), zeros),
        # One at a time is the purpose.
        parallel_iterations=1,
        maximum_iterations=parts,
    )
    return total


def _unrolled(of_part: Callable, parts: int) -> Any:
    """The same without a loop in the graph, in which replicas could not meet."""
    total = of_part(tf.constant(0))
    for index in range(1, parts):
        with tf.control_dependencies(tf.nest.flatten(total)):
            # An operation of its own, so that all that follows waits for the part before.
            at = tf.identity(tf.constant(index))
            total = tf.nest.map_structure(tf.add, total, of_part(at))
    return total
