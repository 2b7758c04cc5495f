"""Apps: the command line and batch scoring. Apps may import everything; nothing imports apps."""
