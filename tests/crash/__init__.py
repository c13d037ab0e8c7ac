"""Two connectors under load, killed at random moments: afterwards both must hold the same, whole and once.

`estate` starts and kills the processes, `load` negotiates and transfers through the client API, `havoc`
strikes, `verdict` compares what the two stores, the agreements and the audit logs say.
`python -m tests.crash` (or `make crash`) runs it for as long as one likes; tests/system/test_crash.py
runs a short form.
"""
