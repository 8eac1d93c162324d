"""What a run will need, from shapes alone: memory by phase, operations, hours."""
