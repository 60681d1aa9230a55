"""The signals by which a core device is told to lose a daemon."""

import signal

FAULTS = {
    "ipc": signal.SIGUSR1,
    "mqtt": signal.SIGUSR2,
    "config": signal.SIGHUP,
    "pubsub": signal.SIGURG,
    "token": signal.SIGWINCH,
    "broker": signal.SIGALRM,
}
