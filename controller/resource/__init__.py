"""The custom resource: its typed models, its definition, its annotations, and parsing into `ServiceSettings`."""
