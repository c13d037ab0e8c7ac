"""A federated data-space connector: contracts, consent and policy enforced on every byte."""

__version__ = "0.1.0"
