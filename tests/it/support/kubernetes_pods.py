"""The Kubernetes API as far as one pod's metadata goes: a stand-in, because no API server can be had here.

It does what the API's documents say of reads and JSON merge patches of pods: bearer tokens, the media types, 404
for a missing pod, 409 where `metadata.uid` or `metadata.resourceVersion` differ, and Status objects for all of these.
A test looks and meddles at /control.

Says its port, then serves until it is killed.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
world = {"token": "the-token", "forbidden": False, "faults": [], "pods": {}, "patches": [], "before_patch": {}}


class Status(Exception):
    def __init__(self, code, reason, message, details=None):
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code, **({"details": details} if details else {}),
        }


def merge(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"")

    def do_PATCH(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_POST(self):
        wish = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        with lock:
            world.update(wish)
            self.send(200, world)

    def answer(self, body):
        try:
            with lock:
                pod = self.carry_out(body)
            if pod is None:
                # Silent, but there: until the client leaves.
                self.rfile.read(1)
                self.close_connection = True
                return
            self.send(200, {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": pod})
        except Status as status:
            self.send(status.code, status.body)

    def carry_out(self, body):
        if self.headers.get("Authorization") != f"Bearer {world['token']}":
            raise Status(401, "Unauthorized", "Unauthorized")
        fault = next((it for it in world["faults"] if it["method"] == self.command), None)
        if fault:
            world["faults"].remove(fault)
            if fault.get("hang"):
                return None
            raise Status(fault["code"], "Fault", "as the test wished", fault.get("details"))
        if world["forbidden"] and self.command == "PATCH":
            raise Status(403, "Forbidden", 'pods "x" is forbidden: User "ebbtide" cannot patch resource "pods"')
        if "as=PartialObjectMetadata" not in self.headers.get("Accept", ""):
            raise Status(406, "NotAcceptable", "only metadata is served here")
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:3] != ["api", "v1", "namespaces"] or parts[4] != "pods" or len(parts) != 6:
            raise Status(404, "NotFound", "the server could not find the requested resource")
        key = f"{parts[3]}/{parts[5]}"
        if self.command == "PATCH" and world["before_patch"]:
            # Somebody was quicker.
            world["pods"].update(world["before_patch"])
            world["before_patch"] = {}
        pod = world["pods"].get(key)
        if pod is None:
            raise Status(404, "NotFound", f'pods "{parts[5]}" not found')
        if self.command == "PATCH":
            if self.headers.get("Content-Type") != "application/merge-patch+json":
                raise Status(415, "UnsupportedMediaType", self.headers.get("Content-Type", ""))
            patch = json.loads(body)
            wanted = patch.get("metadata", {})
            for name in ("uid", "resourceVersion"):
                if name in wanted and wanted[name] != pod[name]:
                    raise Status(409, "Conflict", f"the {name} in the precondition does not match")
            world["patches"].append([key, patch])
            pod = merge({"metadata": pod}, patch)["metadata"]
            if any(not isinstance(it, str) for it in pod.get("annotations", {}).values()):
                raise Status(422, "Invalid", "annotations are texts")
            pod["resourceVersion"] = str(int(pod["resourceVersion"]) + 1)
            world["pods"][key] = pod
        return pod

    def send(self, code, answer):
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
