"""Everything on one machine, as child processes."""
