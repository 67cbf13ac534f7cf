"""What finished searches teach the next one."""
