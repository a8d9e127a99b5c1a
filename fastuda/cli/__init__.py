"""The commands, one file each: arguments, a call, the exit status."""
