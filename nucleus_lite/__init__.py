"""What AWS IoT Greengrass nucleus lite takes and what it does with it, written down once.

The edge rules (what is refused at synth) and the twin's core device in its dialect `lite` (what is refused or copied on
a device) read these facts; the table in docs/twin.md is printed from them. Versions are compared by each of the two in
its own way: a device that is independent of what it checks is worth more.
"""
