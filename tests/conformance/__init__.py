"""Whether the connector conforms to DSP 2025-1, as the official conformance kit judges it.

`connector` assembles the product's own app with a scripted hook (`script`), `kit` runs the kit against it and
reads what it says, `runs` does that on several stores at once. `make conformance` prints all of it.
"""
