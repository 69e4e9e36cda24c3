"""A web server that needs a package."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import greet

TEXT = "PAGE"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{greet.hello_from('Python')} {TEXT}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
