"""HTTP at the edge: parse, call one use case, render. Exceptions become status codes here only."""
