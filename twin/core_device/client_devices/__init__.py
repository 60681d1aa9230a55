"""What AWS's components for client devices do on a core device: Auth, an MQTT broker, Bridge, IP detector.

AWS's are plugins: they run in the nucleus' own process, as these do in the core device's. Nothing of this package is
loaded on a device that has none of them.
"""
