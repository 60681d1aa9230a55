"""Pre-provisioning hook: which devices may turn a claim certificate into one of their own."""
