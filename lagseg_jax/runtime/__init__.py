"""What every command stands on: errors, console, files, host, signals, processes, devices."""
