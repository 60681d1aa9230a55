"""Edge servers: EC2 instances whose user data makes them Greengrass core devices, as processes of this machine."""

from twin.cloud.edge_server.supervisor import install

__all__ = ["install"]
