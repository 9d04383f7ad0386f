"""The process that talks to the network."""
