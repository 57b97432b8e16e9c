"""Records -> tables and pictures; nothing here runs an experiment or reads a data set."""
