"""The agent of a node: a torch process that starts and monitors the node's workers, in step with the other nodes."""
