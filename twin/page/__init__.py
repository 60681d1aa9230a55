"""The live page of a fleet: what the account and its devices say, shown in a browser on this machine."""
