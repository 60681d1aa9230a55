"""Custom resource: fleet indexing, and the claim certificates that must not outlive the fleet."""
