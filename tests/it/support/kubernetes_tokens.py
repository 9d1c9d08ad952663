"""The Kubernetes API as far as TokenReviews and their pods go: a stand-in, because no API server can be had here.

It does what the API's documents say of POST /apis/authentication.k8s.io/v1/tokenreviews: its own caller's bearer token,
401 and 403 as Status objects, `audiences` intersected, `exp` of the token looked at, and the pod in `extra`. It knows
tokens by a table instead of by their signature. GET /api/v1/namespaces/{namespace}/pods/{name} gives the pod with
`podIP` and `podIPs`, once a kubelet would have told them. A test looks and meddles at /control.

Says its port, then serves until it is killed.
"""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

lock = threading.Lock()
# `tokens`: of each, its claims as a projected token has them. `pods`: of each namespace/name its UID and addresses.
world = {"token": "the-controller", "forbidden": False, "down": False, "silent_about_audiences": False,
         "tokens": {}, "pods": {}, "forbidden_pods": False, "reviews": 0, "under_way": 0, "most_under_way": 0}


def status_of(code, reason, message):
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": code}


def review(spec):
    """The status of a TokenReview."""
    claims = world["tokens"].get(spec.get("token"))
    if claims is None:
        return {"user": {}, "error": "invalid bearer token"}
    if claims["exp"] <= time.time():
        return {"user": {}, "error": "[invalid bearer token, service account token has expired]"}
    wanted = spec.get("audiences") or ["https://kubernetes.default.svc"]
    audiences = [it for it in wanted if it in claims["aud"]]
    if not audiences and not world["silent_about_audiences"]:
        return {"user": {}, "error": f"[invalid bearer token, token audiences {claims['aud']} is invalid]"}
    told = claims["kubernetes.io"]
    extra = {"authentication.kubernetes.io/credential-id": ["JTI=1"]}
    if "pod" in told:
        extra["authentication.kubernetes.io/pod-name"] = [told["pod"]["name"]]
        extra["authentication.kubernetes.io/pod-uid"] = [told["pod"]["uid"]]
    status = {"authenticated": True, "user": {"username": claims["sub"], "uid": "1", "extra": extra,
              "groups": ["system:serviceaccounts", "system:authenticated"]}}
    return status if world["silent_about_audiences"] else {**status, "audiences": audiences}


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if self.path == "/control":
            with lock:
                issue = body.pop("issue", None)
                world["pods"].update(body.pop("pods", {}))
                world.update(body)
                token = None
                if issue:
                    token = f"{encoded({'alg': 'none'})}.{encoded(issue)}.{len(world['tokens'])}-signature"
                    world["tokens"][token] = issue
                self.send(200, {"reviews": world["reviews"], "most_under_way": world["most_under_way"], "token": token})
            return
        with lock:
            world["under_way"] += 1
            world["most_under_way"] = max(world["most_under_way"], world["under_way"])
            code, answer = self.answer(body)
        with lock:
            world["under_way"] -= 1
        self.send(code, answer)

    def do_GET(self):
        with lock:
            code, answer = self.refused() or self.pod()
        self.send(code, answer)

    def refused(self):
        if world["down"]:
            return 503, status_of(503, "ServiceUnavailable", "the test wished it")
        if self.headers.get("Authorization") != f"Bearer {world['token']}":
            return 401, status_of(401, "Unauthorized", "Unauthorized")
        return None

    def pod(self):
        match self.path.split("?")[0].split("/"):
            case ["", "api", "v1", "namespaces", namespace, "pods", name]:
                pod = world["pods"].get(f"{namespace}/{name}")
            case _:
                pod = None
        if world["forbidden_pods"]:
            return 403, status_of(403, "Forbidden", "pods is forbidden")
        if pod is None:
            return 404, status_of(404, "NotFound", "the server could not find the requested resource")
        status = {"phase": "Running"}
        if pod["ips"]:
            status |= {"podIP": pod["ips"][0], "podIPs": [{"ip": ip} for ip in pod["ips"]]}
        return 200, {"kind": "Pod", "apiVersion": "v1", "status": status,
                     "metadata": {"namespace": namespace, "name": name, "uid": pod["uid"]}}

    def answer(self, body):
        refused = self.refused()
        if refused:
            return refused
        if self.path.split("?")[0] != "/apis/authentication.k8s.io/v1/tokenreviews":
            return 404, status_of(404, "NotFound", "the server could not find the requested resource")
        if world["forbidden"]:
            return 403, status_of(403, "Forbidden", "tokenreviews.authentication.k8s.io is forbidden")
        if body.get("kind") != "TokenReview" or body.get("apiVersion") != "authentication.k8s.io/v1":
            return 400, status_of(400, "BadRequest", "no TokenReview")
        world["reviews"] += 1
        return 201, {**body, "status": review(body["spec"])}

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
