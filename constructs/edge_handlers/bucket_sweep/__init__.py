"""Custom resource: empties a bucket at destroy."""
