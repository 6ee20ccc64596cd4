"""What all doors share: settings, containers, the request, the metrics."""
