"""The registry: services and endpoints, discovery."""
