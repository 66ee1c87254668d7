"""Differential privacy: contribution bounding, the private step, noise, accounting, the ledger."""
