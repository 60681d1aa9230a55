"""The part of the Greengrass V1 SDK that handlers use, on top of Greengrass V2: `greengrasssdk.client("iot-data")`."""

from .client import client
from .Lambda import StreamingBody

__all__ = ["StreamingBody", "client"]
__version__ = "1.6.1"
INTERFACE_VERSION = "1.5"
