"""The process that talks to local tools, adds up statistics, and passes the log on."""
