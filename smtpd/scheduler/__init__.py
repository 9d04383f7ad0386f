"""The process that knows when to try what again."""
