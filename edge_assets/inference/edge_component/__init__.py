"""What every Python component on a device is made of, whatever it does: its connection, its outbox, its settings."""
