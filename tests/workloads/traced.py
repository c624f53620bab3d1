"""A program with OpenTelemetry's own SDK, whose requests block its event loop.

usage: traced.py plain | web

plain: spans around blocking code; web: FastAPI with its instrumentation, behind uvicorn

{"block_s": S, "kept": true | false | null}    a request that blocks for so long; its trace is kept or not by who
                                               asks (null: by the program); null of `plain` has no span at all

The answer has the ids of the span that was current meanwhile, as OpenTelemetry's API tells them.
"""

import asyncio
import http.client
import json
import os
import socket
import sys
import threading
import time

from account import commands, say
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

# Who asks has this place in a trace of its own.
REMOTE = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def current():
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
        "sampled": bool(context.trace_flags.sampled),
    }


def block(seconds):
    ids = current()
    begin_ns = time.time_ns()
    time.sleep(seconds)
    return {"ids": ids, "begin_unix_ns": begin_ns, "end_unix_ns": time.time_ns()}


def remote(kept):
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if kept else trace.TraceFlags.DEFAULT)
    trace_id, span_id = (int(text, 16) for text in REMOTE)
    return trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, True, flags))


def plain():
    tracer = trace.get_tracer("traced")

    async def handle(command):
        if command["kept"] is None:
            return block(command["block_s"])
        parent = trace.set_span_in_context(remote(command["kept"]))
        with tracer.start_as_current_span("handle", context=parent):
            return block(command["block_s"])

    async def serve():
        loop = asyncio.get_running_loop()
        say(account="ready", pid=os.getpid())
        lines = commands()
        while True:
            command = await loop.run_in_executor(None, next, lines, None)
            if command is None:
                return
            # A task of its own, as servers have it.
            answer = await loop.create_task(handle(command))
            await asyncio.sleep(0.05)
            say(account="blocked", **answer)

    asyncio.run(serve())


def web():
    import uvicorn
    from fastapi import FastAPI
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    app = FastAPI()

    @app.get("/block")
    async def handle(seconds: float):
        return block(seconds)

    FastAPIInstrumentor.instrument_app(app)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))

    def ask():
        while not server.started:
            time.sleep(0.01)
        say(account="ready", pid=os.getpid())
        for command in commands():
            headers = {}
            if command["kept"] is not None:
                trace_id, span_id = REMOTE
                headers["traceparent"] = f"00-{trace_id}-{span_id}-0{int(command['kept'])}"
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", f"/block?seconds={command['block_s']}", headers=headers)
            answer = json.loads(connection.getresponse().read())
            connection.close()
            say(account="blocked", **answer)
        server.should_exit = True

    threading.Thread(target=ask, daemon=True).start()
    server.run(sockets=[listener])


trace.set_tracer_provider(TracerProvider())
{"plain": plain, "web": web}[sys.argv[1]]()
