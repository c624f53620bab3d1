"""A Flask or Django application that keeps its own account of which route each request was of.

usage: routes_wsgi.py flask|django SERVER [FORCE_SCRIPT_NAME]

SERVER: gunicorn, waitress, werkzeug, wsgiref, uvicorn (Django). A command on stdin: says how many requests each route had, by
method, path and status. The application is wrapped once more, in what only adds a header.
"""

import os
import socket
import sys
import threading
from collections import Counter

from account import commands, say

served = Counter()
STARTED = os.getpid()
FRAMEWORK, SERVER, *BELOW = sys.argv[1:]


class Header:
    """Adds a header to all responses."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        def start(status, headers, *more):
            return start_response(status, headers + [("x-own", "1")], *more)

        return self.app(environ, start)


def flask_application():
    import flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.middleware.proxy_fix import ProxyFix
    from werkzeug.routing import BaseConverter, ValidationError

    class Even(BaseConverter):
        regex = r"\d+"

        def to_python(self, value):
            if int(value) % 2:
                raise ValidationError()
            return int(value)

    class Word(BaseConverter):
        regex = "[a-z]+"

    app = flask.Flask(__name__, static_folder=None)
    app.url_map.converters.update(even=Even, word=Word)

    @app.after_request
    def account(response):
        rule = flask.request.url_rule
        before = "/inner" if flask.current_app.name == "inner" else ""
        route = before + rule.rule if rule else ""
        served["%s %s %d" % (flask.request.method, route, response.status_code)] += 1
        return response

    def answer(**parts):
        return "x"

    def rules(of, *paths):
        for number, (path, methods) in enumerate(paths):
            of.add_url_rule(path, "%s-%d" % (of.name, number), answer, methods=methods)

    # The order is werkzeug's own, not theirs.
    rules(
        app,
        ("/<path:rest>", ["GET"]),
        ("/", ["GET"]),
        ("/items/<item_id>", ["GET"]),
        ("/items/<int:item_id>", ["GET", "PUT"]),
        ("/items/latest", ["GET"]),
        ("/items/<item_id>/edit/", ["GET"]),
        ("/u/<uuid:user>", ["GET"]),
        ("/even/<even:number>", ["GET"]),
        ("/word/<word:word>", ["GET"]),
        ("/files/<path:name>/raw", ["GET"]),
        ("/bounded/<int(max=10):number>", ["GET"]),
    )
    blueprint = flask.Blueprint("users", __name__, url_prefix="/api")
    rules(blueprint, ("/users/<user>", ["GET"]), ("/users", ["POST"]))
    app.register_blueprint(blueprint)
    inner = flask.Flask("inner", static_folder=None)
    inner.after_request(account)
    rules(inner, ("/", ["GET"]), ("/a/<b>", ["GET"]))
    app.wsgi_app = DispatcherMiddleware(ProxyFix(app.wsgi_app), {"/inner": inner})
    return app


class DjangoAccount:
    """Django's middleware."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        match = request.resolver_match
        route = (match.route or "/") if match else ""
        served["%s %s %d" % (request.method, route, response.status_code)] += 1
        return response


class Four:
    """A converter of Django."""

    regex = "[0-9]{4}"

    def to_python(self, value):
        return int(value)

    def to_url(self, value):
        return str(value)


def django_application():
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import include, path, re_path, register_converter

    module = sys.modules[__name__]
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[__name__ + ".DjangoAccount", "django.middleware.common.CommonMiddleware"],
        SECRET_KEY="none",
        FORCE_SCRIPT_NAME=BELOW[0] if BELOW else None,
        LOGGING_CONFIG=None,
    )
    django.setup()
    register_converter(Four, "four")

    def answer(request, *args, **parts):
        return HttpResponse("x")

    inner = [
        path("<int:number>/", answer),
        re_path(r"^(?P<word>[a-z]+)/edit$", answer),
        path("", answer),
    ]
    module.urlpatterns = [
        path("", answer),
        path("items/latest/", answer),
        path("items/<int:item_id>/", answer),
        path("items/<slug:item_id>/", answer),
        path("u/<uuid:user>/", answer),
        path("api/<str:version>/", include(inner)),
        path("year/<four:year>/", answer),
        path("files/<path:name>", answer),
        re_path(r"^articles/(?P<year>[0-9]+)/(?:page-(?P<page>\d+)/)?$", answer),
        re_path(r"^old/(?P<number>\d+)", answer),
        re_path(r"^(?P<lang>en|de)/", include([path("hello/", answer)])),
    ]
    if SERVER == "uvicorn":
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def listen(port):
    def run():
        say(account="ready", pid=STARTED, worker=os.getpid(), port=port)
        for _ in commands():
            say(account="served", counts=dict(served))
        os._exit(0)

    threading.Thread(target=run, daemon=True).start()


def bound():
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def gunicorn(app, sock):
    from gunicorn.app.base import BaseApplication

    port = sock.getsockname()[1]
    sock.close()

    class Application(BaseApplication):
        def load_config(self):
            self.cfg.set("bind", "127.0.0.1:%d" % port)
            self.cfg.set("loglevel", "critical")
            self.cfg.set("worker_class", "gthread")
            self.cfg.set("post_worker_init", lambda worker: listen(port))

        def load(self):
            return app

    Application().run()


def main():
    app = flask_application() if FRAMEWORK == "flask" else django_application()
    sock = bound()
    port = sock.getsockname()[1]
    if SERVER != "uvicorn":
        app = Header(app)
    if SERVER == "gunicorn":
        return gunicorn(app, sock)
    listen(port)
    if SERVER == "waitress":
        import waitress

        waitress.serve(app, sockets=[sock], _quiet=True)
    elif SERVER == "werkzeug":
        import logging

        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").disabled = True
        make_server("127.0.0.1", port, app, threaded=True, fd=sock.fileno()).serve_forever()
    elif SERVER == "wsgiref":
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

        WSGIRequestHandler.log_message = lambda *args: None
        server = WSGIServer(("127.0.0.1", 0), WSGIRequestHandler, bind_and_activate=False)
        server.socket.close()
        server.socket = sock
        server.server_name, server.server_port = "127.0.0.1", port
        server.setup_environ()
        server.set_app(app)
        server.serve_forever()
    else:
        import uvicorn

        uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[sock])


if __name__ == "__main__":
    main()
