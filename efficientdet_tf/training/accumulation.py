"""Gradient accumulation: a batch computed in sequential micro-batches to save memory."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def sum_over_micro_batches(function: Callable, batch: Any, num_micro_batches: int) -> Any:
    """Sum the results of a function over the micro-batches of a batch.

    The memory of a micro-batch is released before the next one is computed.

    Args:
      function: takes the index of a micro-batch, int32 scalar, and the micro-batch; returns a
        structure of tensors with the same static shapes for every micro-batch.
      batch: structure of tensors [B, ...], B a multiple of `num_micro_batches`.
      num_micro_batches: number of micro-batches; 1 is the whole batch.

    Raises:
      ValueError: when B, as a static size, is no multiple.
      tf.errors.InvalidArgumentError: the same in a step, for a dynamic size.
    """
    if num_micro_batches == 1:
        return function(tf.constant(0), batch)
    batch = _with_even_size(batch, num_micro_batches)
    stacked = tf.nest.map_structure(
        lambda x: tf.reshape(x, [num_micro_batches, -1, *x.shape[1:]]), batch
    )

    def compute_micro_batch(index: tf.Tensor) -> Any:
        return function(index, tf.nest.map_structure(lambda x: x[index], stacked))

    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return _sum_unrolled(compute_micro_batch, num_micro_batches)
    return _sum_in_loop(compute_micro_batch, num_micro_batches)


def _with_even_size(batch: Any, num_micro_batches: int) -> Any:
    """Return the batch, whose use fails with advice if its size is no multiple."""
    first = tf.nest.flatten(batch)[0]
    advice = (
        f"cannot be divided into {num_micro_batches} micro-batches (gradient_accumulation_steps); "
        "batch the data set with drop_remainder=True and a multiple of it"
    )
    size = first.shape[0]
    if size is None:
        size = tf.shape(first)[0]
        is_even = tf.debugging.Assert(
            size % num_micro_batches == 0, ["batch of", size, "images: " + advice]
        )
        with tf.control_dependencies([is_even]):
            return tf.nest.map_structure(tf.identity, batch)
    if size % num_micro_batches:
        raise ValueError(f"batch of {size} images: {advice}")
    return batch


def _sum_in_loop(compute_micro_batch: Callable, num_micro_batches: int) -> Any:
    function = tf.function(compute_micro_batch, autograph=False)
    signature = function.get_concrete_function(tf.TensorSpec([], tf.int32))
    zeros = tf.nest.map_structure(
        lambda x: tf.zeros(x.shape, x.dtype), signature.structured_outputs
    )
    _, total = tf.while_loop(
        lambda index, total: index < num_micro_batches,
        lambda index, total: (
            index + 1,
            tf.nest.map_structure(tf.add, total, compute_micro_batch(index)),
        ),
        (tf.constant(0), zeros),
        # Parallel iterations would hold several micro-batches in memory.
        parallel_iterations=1,
        maximum_iterations=num_micro_batches,
    )
    return total


def _sum_unrolled(compute_micro_batch: Callable, num_micro_batches: int) -> Any:
    """Sum without a graph loop, inside which replicas cannot synchronise."""
    total = compute_micro_batch(tf.constant(0))
    for index in range(1, num_micro_batches):
        with tf.control_dependencies(tf.nest.flatten(total)):
            # A separate operation, so that the micro-batch waits for the previous one.
            at = tf.identity(tf.constant(index))
            total = tf.nest.map_structure(tf.add, total, compute_micro_batch(at))
    return total
