"""Assembly: settings -> parts -> services -> one application. The only place that picks adapters."""
