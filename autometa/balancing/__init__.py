"""How the tasks' losses, or their gradients on shared parameters, become one update.

Left out of what TorchJD has: methods that need preferences (COSMOS, PBI, PCD), a second batch
(SDMGrad, MoDo) or a state as large as the gradients of all tasks (ExcessMTL), and those made for
adversaries (Krum, trimmed mean).
"""

from autometa.balancing.base import Balancer, Unsolvable, View
from autometa.balancing.gradients import (
    MGDA,
    AlignedMTL,
    ConFIG,
    GradDrop,
    GradientBalancer,
    GradVac,
    ImtlG,
    PCGrad,
)
from autometa.balancing.gradnorm import GradNorm
from autometa.balancing.losses import (
    Dwa,
    Either,
    Equal,
    EqualConfig,
    Famo,
    GeometricMean,
    ImtlL,
    Random,
    Stch,
    Uncertainty,
)
from autometa.balancing.solved import CAGrad, DualProj, FairGrad, NashMTL, UPGrad

BALANCING: dict[str, type[Balancer]] = {
    "equal": Equal,
    "random": Random,
    "uncertainty": Uncertainty,
    "dwa": Dwa,
    "famo": Famo,
    "imtl_l": ImtlL,
    "geometric_mean": GeometricMean,
    "stch": Stch,
    "gradnorm": GradNorm,
    "pcgrad": PCGrad,
    "cagrad": CAGrad,
    "mgda": MGDA,
    "imtl_g": ImtlG,
    "nash_mtl": NashMTL,
    "upgrad": UPGrad,
    "aligned_mtl": AlignedMTL,
    "config": ConFIG,
    "gradvac": GradVac,
    "dualproj": DualProj,
    "fairgrad": FairGrad,
    "graddrop": GradDrop,
}

__all__ = [
    "BALANCING",
    "Balancer",
    "Either",
    "Equal",
    "EqualConfig",
    "GradientBalancer",
    "Unsolvable",
    "View",
]
