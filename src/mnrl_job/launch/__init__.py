"""Worker processes and node agents, as the supervisor starts and watches them."""
