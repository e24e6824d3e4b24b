"""FPG: feature pyramid grids.

Chen, Cao, Loy, Lin, Feichtenhofer, "Feature Pyramid Grids", 2020,
https://arxiv.org/abs/2004.03580.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.fusion_graph import FusionGraph, Node, NodeTable
from keras_layers.options import check_bool, check_choice

PATHS = ("bu", "td")
SKIPS = ("conv", "identity")


@keras.utils.register_keras_serializable("efficientdet")
class FPG(FusionGraph):
    """Feature pyramid grids: parallel pathways over the same levels, densely connected.

    With O_0 = Pin, in pathway i, from the finest level to the coarsest:

        O_i,l = SameUp(O_i,l-1) + AcrossSame(O_i-1,l) + AcrossDown(O_i-1,l+1)
                + AcrossUp(O_i-1,l-1) + AcrossSkip(O_0,l)
        Pout_l = Conv(O_p,l)

    SameUp and AcrossUp are 3x3 convolutions with stride 2, AcrossDown is a 3x3 convolution
    after upsampling, AcrossSame and AcrossSkip are 1x1: each activation, convolution,
    BatchNorm. The last convolution has neither activation nor BatchNorm.

    The published network is `num_filters=256` with `conv_block={"separable": False,
    "activation": "relu", "bias": "without_norm"}`.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number p of pathways. Default 9.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      truncate: whether finer levels pass the first pathways unchanged: of L levels, the
        finest one L - 1 pathways, the next one L - 2. Default True.
      across_up: whether to use AcrossUp connections. Default False.
      across_skip: kind of AcrossSkip: a 1x1 "conv", or the "identity". Default "conv".
      paths: direction of each pathway, "bu" (bottom-up) or "td" (top-down, with upsampling
        and a 3x3 convolution instead of SameUp). Default: all "bu".

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    convolves_edges = True

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 9,
        fusion: str = "sum",
        conv_block: Any = None,
        truncate: bool = True,
        across_up: bool = False,
        across_skip: str = "conv",
        paths: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        check_choice("across_skip", across_skip, SKIPS)
        check_bool("truncate", truncate)
        self.truncate = truncate
        check_bool("across_up", across_up)
        self.across_up = across_up
        self.across_skip = across_skip
        if isinstance(paths, str) or not isinstance(paths or [], Sequence):
            raise ValueError(f"paths: {paths!r} is not a list of {', '.join(PATHS)}")
        self.paths = tuple(paths or ["bu"] * num_repeats)
        for path in self.paths:
            check_choice("paths", path, PATHS)
        if len(self.paths) != num_repeats:
            raise ValueError(f"paths: {len(self.paths)} directions for {num_repeats} pathways")

    @property
    def num_cells(self) -> int:
        return 1

    def make_nodes(self, levels: list[int]) -> list[Node]:
        if self.truncate and self.num_repeats < len(levels):
            raise ValueError(
                f"num_repeats: {self.num_repeats} pathways do not reach level {levels[0]}; "
                f"set {len(levels)} or more, or truncate=False"
            )
        table = NodeTable(levels)
        for pathway, direction in enumerate(self.paths):
            before = dict(table.newest)
            previous = None
            for level in levels if direction == "bu" else reversed(levels):
                if not self.truncate or pathway >= levels[-1] - level:
                    self._add_position(table, level, previous, before, pathway)
                previous = level
        for level in levels:
            table.add(level, table.newest[level], block="output", stage=self.num_repeats)
        return table.nodes

    def stage_title(self, stage: int) -> str:
        return f"pathway {stage + 1}" if stage < self.num_repeats else "outputs"

    def _add_position(
        self,
        table: NodeTable,
        level: int,
        previous: int | None,
        before: dict[int, int],
        pathway: int,
    ) -> None:
        """Add the nodes of one level of a pathway.

        Args:
          table: table of the pathways so far.
          level: level of the position.
          previous: previous level of this pathway; None for its first one.
          before: {level: id} of the previous pathway.
          pathway: number of the pathway, from 0.
        """
        strided = {"block": None, "downsample": "main"}
        edges = []
        if previous is not None:
            fields = strided if previous < level else {}
            edges.append(table.add(level, table.newest[previous], **fields))
        edges.append(table.add(level, before[level], block="pointwise"))
        if level + 1 in before:
            edges.append(table.add(level, before[level + 1]))
        if self.across_up and level - 1 in before:
            edges.append(table.add(level, before[level - 1], **strided))
        skip = table.inputs[level]
        if self.across_skip == "conv":
            skip = table.add(level, skip, block="pointwise")
        table.add(level, *edges, skip, block=None, stage=pathway)

    def conv_blocks(self) -> dict[str, ConvBlock]:
        return {
            "main": self.conv_block,
            "pointwise": dataclasses.replace(self.conv_block, kernel_size=1),
            "output": dataclasses.replace(self.conv_block, activation=None, norm=False),
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "truncate": self.truncate,
            "across_up": self.across_up,
            "across_skip": self.across_skip,
            "paths": self.paths,
        }
