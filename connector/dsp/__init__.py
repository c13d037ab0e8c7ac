"""Dataspace Protocol 2025-1, pure: messages, state machines, catalogue. No I/O, no clock.

Plain JSON: the protocol's context is built so that compacted JSON-LD is schema-valid plain JSON. Context
URLs of others are tolerated and never fetched.
"""
