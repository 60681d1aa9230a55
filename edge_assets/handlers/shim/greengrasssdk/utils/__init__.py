"""What V1's SDK kept for itself; some functions import it."""
