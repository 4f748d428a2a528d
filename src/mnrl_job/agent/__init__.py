"""The agent of a node: a torch process that starts this node's workers, together with those of the other nodes."""
