"""The gateway in front of containers: the part of Replicate's HTTP API that its clients use, and the playground."""
