"""A core device's way to the cloud: MQTT, HTTPS, credentials."""
