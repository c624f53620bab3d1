"""A receiver of OTLP/HTTP, which reads what it is sent by OpenTelemetry's own classes.

usage: receiver.py [CERTIFICATE KEY]        with these, by TLS

{"do": "behave", "as": "ok" | "slow" | "500" | "503" | "close" | "down"}    from now on; the answer has its port
{"do": "take"}                                                              what came since this was asked last

`slow` answers nothing for long, `503` asks for another try in a second, `close` ends the connection in the middle of a
request, `down` does not listen.
"""

import gzip
import http.server
import os
import ssl
import sys
import threading
import time

from account import commands, say
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SLOW_S = 60
MESSAGES = {
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
}

came = []
behaviour = "ok"
server = None


def text(attributes):
    """Attributes by their names; a number stays one."""

    def value(of):
        kind = of.WhichOneof("value")
        return getattr(of, kind) if kind else None

    return {pair.key: value(pair.value) for pair in attributes}


def number(point):
    return {
        "attributes": text(point.attributes),
        "start": point.start_time_unix_nano,
        "at": point.time_unix_nano,
        "value": point.as_double if point.WhichOneof("value") == "as_double" else point.as_int,
    }


def histogram(point):
    return {
        "attributes": text(point.attributes),
        "start": point.start_time_unix_nano,
        "at": point.time_unix_nano,
        "count": point.count,
        "sum": point.sum,
        "scale": point.scale,
        "zero": point.zero_count,
        "offset": point.positive.offset,
        "counts": list(point.positive.bucket_counts),
    }


def metric(of, resource):
    kind = of.WhichOneof("data")
    data = getattr(of, kind)
    read = histogram if kind == "exponential_histogram" else number
    return {
        "resource": resource,
        "name": of.name,
        "unit": of.unit,
        "kind": kind,
        "temporality": getattr(data, "aggregation_temporality", None),
        "monotonic": getattr(data, "is_monotonic", None),
        "points": [read(point) for point in data.data_points],
    }


def log(of, resource):
    return {
        "resource": resource,
        "name": of.event_name,
        "severity": of.severity_text,
        "at": of.time_unix_nano,
        "body": of.body.string_value,
        "trace_id": of.trace_id.hex(),
        "span_id": of.span_id.hex(),
        "flags": of.flags,
        "attributes": text(of.attributes),
    }


def span(of, resource):
    return {
        "resource": resource,
        "name": of.name,
        "trace_id": of.trace_id.hex(),
        "span_id": of.span_id.hex(),
        "parent": of.parent_span_id.hex(),
        "start": of.start_time_unix_nano,
        "end": of.end_time_unix_nano,
        "attributes": text(of.attributes),
    }


def items(path, message):
    if path == "/v1/metrics":
        tables = message.resource_metrics, "scope_metrics", "metrics", metric
    elif path == "/v1/logs":
        tables = message.resource_logs, "scope_logs", "log_records", log
    else:
        tables = message.resource_spans, "scope_spans", "spans", span
    resources, scopes, records, read = tables
    for of in resources:
        resource = text(of.resource.attributes)
        for scope in getattr(of, scopes):
            for record in getattr(scope, records):
                yield read(record, resource)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        if behaviour == "close":
            self.rfile.read(10)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if behaviour == "slow":
            time.sleep(SLOW_S)
            return
        if behaviour in ("500", "503"):
            came.append({"refused": behaviour, "path": self.path})
            self.send_response(int(behaviour))
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        message = MESSAGES[self.path]()
        message.ParseFromString(body)
        # All that it has is known to these classes.
        MessageToDict(message)
        came.append(
            {
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "items": list(items(self.path, message)),
            }
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def listen(port):
    global server
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    if len(sys.argv) > 1:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[1:3])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server.server_address[1]


def behave(how):
    global behaviour, server
    behaviour = how
    if how == "down" and server:
        server.shutdown()
        server.server_close()
        server = None
    elif how != "down" and not server:
        listen(port)


port = listen(0)
say(account="ready", pid=os.getpid(), port=port)
for command in commands():
    if command["do"] == "behave":
        behave(command["as"])
        say(account="done", port=port)
    else:
        taken, came[:] = list(came), []
        say(account="came", requests=taken)
