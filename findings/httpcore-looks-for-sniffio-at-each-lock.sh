#!/bin/sh
# httpcore 1.0.9 under httpx 0.28.1 and anyio 4.16.0, CPython 3.11: the asynchronous client imports sniffio inside the function
# that says which library runs, and takes an import that fails for asyncio. anyio has not asked for sniffio since 4.12, so it
# is often not there, and Python keeps no failed import: each lock and each event of a connection pool looks through every folder
# of the path again. A client that makes many connections spends a tenth of its processor's time so. Installing sniffio 1.3.1
# beside it ends that: it is imported once.
# Seen, 50 requests on one client over one connection, then 50 with a connection each:
#   without sniffio: looked for it at every request, 205 and 302 times; with it: once and never
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check httpx==0.28.1 httpcore==1.0.9 anyio==4.16.0
cat >"$folder/ask.py" <<'PYTHON'
import asyncio
import importlib.util
import sys

import httpx

LOOKED = []


class Looker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "sniffio":
            LOOKED.append(name)


sys.meta_path.insert(0, Looker)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = "http://127.0.0.1:%d/" % server.sockets[0].getsockname()[1]
    counts = []
    for headers in ({}, {"Connection": "close"}):
        LOOKED.clear()
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(50):
                assert (await client.get(url, headers=headers)).status_code == 200
        counts.append(len(LOOKED))
    await asyncio.sleep(0.2)  # the server sees its peers go
    server.close()
    return counts


counts = asyncio.run(main())
there = importlib.util.find_spec("sniffio") is not None
print("with sniffio:" if there else "without sniffio:", "looked for it", *counts, "times in 50 requests each")
sys.exit(0 if (max(counts) <= 1 if there else min(counts) >= 50) else 1)
PYTHON
timeout 60 "$folder/venv/bin/python" "$folder/ask.py"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check sniffio==1.3.1
timeout 60 "$folder/venv/bin/python" "$folder/ask.py"
