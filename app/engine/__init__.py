"""The engine: from the log through lanes to the sinks."""
