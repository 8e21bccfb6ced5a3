"""Methods and metrics of the user's own."""
