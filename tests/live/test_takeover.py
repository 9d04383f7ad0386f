"""What queue and lookup could still bring about if they were taken over: nothing that runs.

We speak in their place, through their own ends of their channels, to the parent, the agents and each other."""
