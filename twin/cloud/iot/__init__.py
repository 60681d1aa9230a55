"""What IoT Core lacks in MiniStack for a Greengrass device: job namespaces, role aliases, AWS's names and ports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twin.cloud.registry import Settings


def install(settings: Settings) -> None:
    """Extend MiniStack's IoT and put the device's listeners on the cloud's ports.

    Args:
        settings: Where the cloud listens.
    """
    # Imported here, so that the modules that need no MiniStack can be used without it.
    from twin.cloud.iot import device_endpoint, job_namespace, job_topics, role_alias
    from twin.cloud.iot.aws_front import front
    from twin.cloud.iot.connect_proxy import connect_proxy
    from twin.cloud.iot.job_notification import JobNotifier
    from twin.cloud.iot.keep_alive import KeepAlive
    from twin.cloud.iot.listener import Listener
    from twin.cloud.registry import register_background

    device_endpoint.install(settings)
    job_namespace.install()
    notifier = JobNotifier()
    job_topics.install(notifier)
    role_alias.install()
    ports = {443: settings.front_port, 8443: settings.data_port, 8883: settings.mqtt_port}
    listeners = (
        Listener("AWS front", settings.front_port, front(settings.gateway_port), tls=True),
        Listener("CONNECT proxy", settings.proxy_port, connect_proxy(ports), tls=False),
    )
    for listener in listeners:
        register_background(listener.name, start=listener.start, stop=listener.stop)
    keep_alive = KeepAlive()
    keep_alive.install()
    register_background("MQTT keep-alive", start=keep_alive.start, stop=keep_alive.stop)
    register_background("job notifications", start=_nothing, stop=notifier.stop)


async def _nothing() -> None:
    """The notifier starts with its first notification."""
