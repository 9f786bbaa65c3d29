"""A real Prometheus for tests, something for it to scrape, and a proxy that makes it fail."""
