"""The whole product: real processes, real data, seen from outside."""
