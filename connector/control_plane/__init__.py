"""Use cases: load -> pure step -> save + outbox in one transaction; what must be said is said afterwards."""
