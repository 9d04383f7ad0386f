"""The process that holds the private keys."""
