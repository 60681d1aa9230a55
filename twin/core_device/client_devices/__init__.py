"""What AWS's components for client devices do on a core device: Auth, an MQTT broker, Bridge, IP detector.

AWS's are plugins: they run in the nucleus' own process, as these do in the core device's. Nothing of this package but
the names here is loaded on a device that has none of them.
"""

AUTH = "aws.greengrass.clientdevices.Auth"
MOQUETTE = "aws.greengrass.clientdevices.mqtt.Moquette"
EMQX = "aws.greengrass.clientdevices.mqtt.EMQX"
BRIDGE = "aws.greengrass.clientdevices.mqtt.Bridge"
IP_DETECTOR = "aws.greengrass.clientdevices.IPDetector"

PLAYED = frozenset({AUTH, MOQUETTE, EMQX, BRIDGE, IP_DETECTOR})
"""Components whose part the core device plays itself."""
