"""Stages 1, 2 and 6: who asks, what may leave, and the record of it."""
