"""A small Hugging Face hub over HTTP: repositories as files of bytes, served as it does."""

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse


class Hub:
    """What it has, and what it was asked for."""

    def __init__(self):
        self.repos = {}  # "models/ORG/NAME" or "datasets/ORG/NAME" -> {revision: {file: bytes}}
        self.gated = set()
        self.asked = []  # method and path
        self.tokens = set()  # Authorization headers

    def add(self, name, files, commit="a" * 40, branch="main"):
        files = {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in files.items()}
        self.repos.setdefault(name, {}).update({commit: (commit, files), branch: (commit, files)})

    def answer(self, path):
        """Path -> (status, headers, body)."""
        path = urllib.parse.unquote(path.partition("?")[0]).strip("/")
        api = path.startswith("api/")
        path = path.removeprefix("api/")
        if not path.startswith(("models/", "datasets/")):
            path = f"models/{path}"
        kind, org, name, *rest = [*path.split("/"), "", ""][: max(3, path.count("/") + 1)]
        repo = f"{kind}/{org}/{name}"
        if repo not in self.repos:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        verb, revision = (rest[0], rest[1]) if rest else ("revision", "main")
        if revision not in self.repos[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        commit, files = self.repos[repo][revision]
        if api and verb == "revision":
            told = {
                "id": f"{org}/{name}",
                "sha": commit,
                "siblings": [{"rfilename": f} for f in files],
            }
            return 200, {}, json.dumps(told).encode()
        if api and verb == "tree":
            told = [{"type": "file", "path": f, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for f, b in files.items()]  # fmt: skip
            return 200, {}, json.dumps(told).encode()
        file = "/".join(rest[2:])
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if file not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        tag = hashlib.sha1(files[file]).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{tag}"'}, files[file]


@contextlib.contextmanager
def serving(hub):
    """The address of the hub, as long as the body runs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hub.asked.append(f"{self.command} {self.path}")
            hub.tokens.add(self.headers.get("Authorization"))
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
