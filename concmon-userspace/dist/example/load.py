"""Four clients of the shop: `python3 load.py PORT`."""

import http.client
import sys
import threading
import time


def ask():
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    while True:
        connection.request("GET", "/price")
        connection.getresponse().read()
        time.sleep(0.1)


for _ in range(4):
    threading.Thread(target=ask).start()
