"""Edge servers: EC2 instances whose user data makes them Greengrass core devices, as processes of this machine."""
