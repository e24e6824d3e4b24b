"""NAS-FPN: feature pyramid with a cell from neural architecture search.

Ghiasi, Lin, Pang, Le, "NAS-FPN: Learning Scalable Feature Pyramid Architecture for Object
Detection", CVPR 2019, https://arxiv.org/abs/1904.07392.
"""

from collections.abc import Sequence
from typing import Any

import tf_keras as keras

from keras_layers.fusion import GLOBAL_POOLS
from keras_layers.fusion_graph import FusionGraph, Node, NodeTable
from keras_layers.options import check_choice
from keras_layers.resample import POOL_KERNELS

OPERATIONS = ("sum", "attention")
# The published cell for levels 3 to 7: (level, operation, ids of two inputs, is output).
BLOCK_SPECS = (
    (4, "attention", (1, 3), False),
    (4, "sum", (1, 5), False),
    (3, "sum", (0, 6), True),
    (4, "sum", (6, 7), True),
    (5, "attention", (7, 8), True),
    (7, "attention", (6, 9), True),
    (6, "attention", (9, 10), True),
)


@keras.utils.register_keras_serializable("efficientdet")
class NASFPN(FusionGraph):
    """NAS-FPN: merging cells from architecture search, each of two maps of any levels.

    A merging cell resizes its inputs to its level, then adds them ("sum") or merges them
    by GP(deep, shallow) = deep + sigmoid(global pool of deep) * shallow ("attention"), where
    the input of the higher level is the deep one. Earlier unused maps of an output's level
    are added to the output. Activation, 3x3 convolution and BatchNorm follow.

    The published network is `num_filters=256, num_repeats=7` with `conv_block={"separable":
    False, "activation": "relu"}`.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells, each with weights of its own. Default 3.
      fusion: fusion method of "sum", one of `keras_layers.feature_network.METHODS`.
        Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      block_specs: merging cells, each (level, "sum" or "attention", (id, id), whether it is
        an output). Ids number the inputs (0 is the finest level), then the merging cells;
        the last cells are the outputs, one per level. Default `BLOCK_SPECS`, for levels
        3 to 7.
      global_pool: global pooling of "attention", "max" or "avg". Default "max".
      pool_kernel: kernel size of the max pooling with stride s, "s" or "s+1". Default "s".

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 3,
        fusion: str = "sum",
        conv_block: Any = None,
        block_specs: Sequence[tuple[int, str, tuple[int, int], bool]] = BLOCK_SPECS,
        global_pool: str = "max",
        pool_kernel: str = "s",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        check_choice("global_pool", global_pool, GLOBAL_POOLS)
        check_choice("pool_kernel", pool_kernel, POOL_KERNELS)
        self.block_specs = read_block_specs(block_specs)
        self.global_pool = global_pool
        self.pool_kernel = pool_kernel

    def make_nodes(self, levels: list[int]) -> list[Node]:
        if self.block_specs == read_block_specs(BLOCK_SPECS) and levels != [3, 4, 5, 6, 7]:
            raise ValueError(
                f"block_specs: the published cell is for levels 3 to 7, not {levels[0]} to "
                f"{levels[-1]}; set cells for these, or another feature network"
            )
        check_block_specs(self.block_specs, levels)
        table = NodeTable(levels)
        # Level and id in the table of each map, in the numbering of `block_specs`: an
        # attention to which maps are added takes two nodes of the table.
        level_of, ids = list(levels), list(table.inputs.values())
        unread = set(ids)
        for level, operation, inputs, is_output in self.block_specs:
            unread -= set(inputs)
            absorbed = [i for i in sorted(unread) if is_output and level_of[i] == level]
            unread -= set(absorbed)
            added = [ids[i] for i in (*inputs, *absorbed)]
            if operation == "attention":
                # The sort is stable: for equal levels, the first input is the deep one.
                deep, shallow = sorted(inputs, key=lambda i: -level_of[i])
                merged = table.add(
                    *(level, ids[deep], ids[shallow]),
                    block=None if absorbed else "main",
                    fusion=f"attention_{self.global_pool}",
                )
                added = [merged, *added[2:]]
            is_done = operation == "attention" and not absorbed
            unread.add(len(ids))
            ids.append(merged if is_done else table.add(level, *added))
            level_of.append(level)
        return table.nodes

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "block_specs": self.block_specs,
            "global_pool": self.global_pool,
            "pool_kernel": self.pool_kernel,
        }


def read_block_specs(block_specs: Sequence[Sequence]) -> tuple[tuple, ...]:
    """Return merging cells as tuples of plain values.

    Raises:
      ValueError: if a merging cell is invalid; the message names it.
    """
    if isinstance(block_specs, str) or not isinstance(block_specs, Sequence):
        raise ValueError(f"block_specs: {block_specs!r} is not a list of merging cells")
    specs = []
    for spec in block_specs:
        try:
            level, operation, inputs, is_output = spec
            first, second = inputs
            specs.append((int(level), operation, (int(first), int(second)), bool(is_output)))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"block_specs: {spec!r} is not (level, operation, (id, id), is output)"
            ) from error
        check_choice("block_specs", operation, OPERATIONS)
    return tuple(specs)


def check_block_specs(block_specs: Sequence[Sequence], levels: list[int]) -> None:
    """Check merging cells against the levels of the input.

    Raises:
      ValueError: if a merging cell is invalid; the message names it.
    """
    for index, (level, _, inputs, _) in enumerate(block_specs):
        number = len(levels) + index
        if level not in levels:
            raise ValueError(f"block_specs: {number} is of level {level}, not one of {levels}")
        if not all(0 <= i < number for i in inputs):
            raise ValueError(f"block_specs: {number} reads {inputs}, not two ids below its own")
    outputs = [level for level, _, _, is_output in block_specs if is_output]
    last = [level for level, _, _, is_output in block_specs[-len(levels) :] if is_output]
    if sorted(last) != levels or outputs != last:
        raise ValueError(
            f"block_specs: outputs are of levels {outputs}, and have to be the last "
            f"{len(levels)}, one of each of {levels}"
        )
