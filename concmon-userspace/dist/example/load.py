import http.client
import threading
import time


def ask():
    connection = http.client.HTTPConnection("127.0.0.1", 8200)
    while True:
        connection.request("GET", "/price")
        connection.getresponse().read()
        time.sleep(0.1)


for _ in range(4):
    threading.Thread(target=ask).start()
