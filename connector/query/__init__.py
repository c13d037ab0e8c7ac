"""The consumer's federated query: parse, plan, fetch, join. No HTTP here: peers come in as callables.

Only `federate` and `fetch` are cheap to import; `parse` and `plan` bring the SQL parser with them.
"""
