"""What every stage stands on: files, pairs, devices, command lines; and how a run is planned."""
