"""What finished searches teach the next one."""

from autometa.priors.sampler import TransferSampler

__all__ = ["TransferSampler"]
