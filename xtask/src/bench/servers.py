"""A server to be loaded: tasks, a pool of threads, or one to which each line is submitted.

usage: servers.py asyncio|threads|submits|http

Ends with its input. Each line that comes is an object of JSON, which goes back with one more field. By HTTP, such an object is
the answer.
"""

import asyncio
import concurrent.futures
import json
import os
import socket
import sys
import threading


def answer(line):
    message = json.loads(line)
    message["sum"] = sum(message["numbers"])
    return json.dumps(message).encode() + b"\n"


async def serve_tasks():
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(answer(line))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    ready(server.sockets[0])
    await server.serve_forever()


async def serve_requests():
    message = {"id": 1, "name": "request", "numbers": [1, 2, 3, 4, 5, 6, 7, 8]}

    async def handle(reader, writer):
        while await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            body = answer(json.dumps(message))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    ready(server.sockets[0])
    await server.serve_forever()


def serve_threads():
    def handle(connection):
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(answer(line))

    listener = socket.create_server(("127.0.0.1", 0))
    ready(listener)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        while True:
            pool.submit(handle, listener.accept()[0])


def serve_submits():
    workers = concurrent.futures.ThreadPoolExecutor(2)

    def handle(connection):
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(workers.submit(answer, line).result())

    listener = socket.create_server(("127.0.0.1", 0))
    ready(listener)
    # Threads that stay: with one that ends, its CPU time would be gone.
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        while True:
            pool.submit(handle, listener.accept()[0])


def ready(listener):
    print(listener.getsockname()[1], flush=True)


def wait_for_end():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=wait_for_end, daemon=True).start()
if sys.argv[1] == "asyncio":
    asyncio.run(serve_tasks())
elif sys.argv[1] == "http":
    asyncio.run(serve_requests())
elif sys.argv[1] == "threads":
    serve_threads()
else:
    serve_submits()
