"""What is wanted: the configuration table, its rows, pipelines.yaml and the bodies of the set endpoints."""
