"""A shop that answers slowly: `python3 shop.py PORT`. GET /price is cheap, and yet it takes long now and then."""

import http.server
import re
import sys
import threading
import time

# Nested repetitions: what does not match is tried in every way there is.
ADDRESS = re.compile(r"([a-z]+)+@shop\.example")
MAILS = ["someone@shop.example", "abcdefghijklmnopqrstuvw"]


class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        total = sum(price * 119 // 100 for price in range(2_000))
        body = f"{total}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def is_customer(mail):
    return ADDRESS.fullmatch(mail) is not None


def read_mails():
    while True:
        for mail in MAILS:
            is_customer(mail)
        time.sleep(0.3)


def main():
    threading.Thread(target=read_mails, name="mails", daemon=True).start()
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Shop).serve_forever()


if __name__ == "__main__":
    main()
