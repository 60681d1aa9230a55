"""The twin's Greengrass V2 core device: it does what a nucleus does, and two dozen of it run on a laptop."""
