"""Token ids to raw vectors: the network, what makes it fast on each device, and the reference to compare with."""
