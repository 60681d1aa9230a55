"""The Greengrass component IPC, server side: event-stream RPC over a Unix domain socket."""
