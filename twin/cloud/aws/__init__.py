"""What every emulated service of AWS needs: errors, routes, pages, checks of requests, work in a process of its own."""
