"""The way of the data at a provider: fragment -> policy relation -> source -> obligations -> transport."""
