"""Feature networks of the comparison, and the settings of each."""

from typing import Any, NamedTuple

from efficientdet_tf.config import Config


class Compared(NamedTuple):
    """Feature network as it is compared.

    Attributes:
      name: value of `neck.name`.
      fusion: value of `neck.fusion`.
      per_cell: cells for each cell of the model's BiFPN, as in table 5 of the paper; 0 for a
        fixed number.
      fixed: number of cells if `per_cell` is 0, the fewest that the network is made for.
    """

    name: str
    fusion: str = "sum"
    per_cell: int = 0
    fixed: int = 1

    def cells(self, config: Config) -> int:
        """Return the number of cells that replaces the BiFPN cells of a config."""
        return self.per_cell * config.neck.num_repeats or self.fixed

    def title(self, config: Config) -> str:
        """Return the name in tables, for example "fpn x6"."""
        fusion = f" {self.fusion}" if self.name == "bifpn" else ""
        return f"{self.name}{fusion} x{self.cells(config)}"

    def settings(self, config: Config) -> dict[str, Any]:
        """Return the settings that replace the network of a config."""
        return {
            "neck.name": self.name,
            "neck.fusion": self.fusion,
            "neck.num_repeats": self.cells(config),
            # The context of FPA needs 8x8 positions at level 5.
            "neck.options": {"context": "none"} if self.name == "attention_fpn" else {},
        }


# The first is what costs are relative to.
NETWORKS = (
    Compared("fpn", per_cell=2),
    Compared("pafpn", per_cell=1),
    Compared("nasfpn", per_cell=1),
    Compared("fully_connected", per_cell=2),
    Compared("simplified_panet", per_cell=1),
    Compared("bifpn", "sum", per_cell=1),
    Compared("bifpn", "fast", per_cell=1),
    Compared("bifpn", "softmax", per_cell=1),
    Compared("bifpn", "unbounded", per_cell=1),
    Compared("bifpn", "channel_fast", per_cell=1),
    Compared("qufpn", "fast"),
    Compared("bfp"),
    Compared("asff"),
    Compared("rfp"),
    Compared("efm"),
    Compared("fpg", fixed=5),
    Compared("attention_fpn"),
    Compared("mlfpn", fixed=4),
    Compared("fpt"),
)
# Of table 5 of the paper, for D3: parameters and multiply-adds relative to FPN, and AP on COCO.
PUBLISHED = {
    ("fpn", "sum"): (1.0, 1.0, 42.29),
    ("pafpn", "sum"): (1.0, 1.0, 44.08),
    ("nasfpn", "sum"): (0.71, 0.72, 43.16),
    ("fully_connected", "sum"): (1.24, 1.21, 43.06),
    ("bifpn", "sum"): (0.88, 0.67, 43.94),
    ("bifpn", "fast"): (0.88, 0.68, 44.39),
}
