"""A local CLB: Tencent's API 3.0 as its documents and its own SDK describe it, with targets, tasks, limits and faults.

Signatures are made anew by Tencent's SDK for the request as it arrived and must be the same, byte for byte.
Requests and answers must fit the SDK's models. A test looks and meddles at /control.

Says its port, then serves until it is killed.
"""

import copy
import json
import sys
import threading
import time
import warnings
from collections import deque
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tencentcloud.clb.v20180317 import clb_client, models
from tencentcloud.common import credential
from tencentcloud.common.http.request import RequestInternal

warnings.simplefilter("error")  # the models warn of fields that they do not know


class Refused(Exception):
    def __init__(self, code, message=""):
        super().__init__(code)
        self.code, self.message = code, message


class Service:
    def __init__(self):
        self.lock = threading.Lock()
        self.keys = {}
        self.load_balancer = "lb-test"
        self.listeners = {}
        self.faults = []
        self.polls = 0
        self.tasks = {}
        self.requests = []
        self.recent = {}

    # What a test says and sees.

    def control(self, wish):
        for name, value in wish.items():
            setattr(self, name, value)
        return {"requests": self.requests, "listeners": self.listeners, "running": self.running()}

    # What the service does.

    def verify(self, method, uri, headers, body):
        try:
            authorization = headers["Authorization"]
            secret_id = authorization.split("Credential=")[1].split("/")[0]
            timestamp = int(headers["X-TC-Timestamp"])
        except (KeyError, IndexError, ValueError, TypeError):
            raise Refused("AuthFailure.InvalidAuthorization", "no signature")
        if secret_id not in self.keys:
            raise Refused("AuthFailure.SecretIdNotFound", "no such secret id")
        key = self.keys[secret_id]
        if abs(time.time() - timestamp) > 300:
            raise Refused("AuthFailure.SignatureExpire", "the signature is too old")
        if headers.get("X-TC-Token") != key.get("token"):
            raise Refused("AuthFailure.TokenFailure", "wrong token")
        client = clb_client.ClbClient(credential.Credential(secret_id, key["key"]), "ap-test")
        request = RequestInternal(headers["Host"], method, uri)
        request.header = {name: headers[name] for name in ("Content-Type", "Host", "X-TC-Timestamp")}
        request.data = body
        date = datetime.fromtimestamp(timestamp, timezone.utc).strftime("%Y-%m-%d")
        signature = client._get_tc3_signature(None, request, date, "clb", key["key"])
        expected = (
            f"TC3-HMAC-SHA256 Credential={secret_id}/{date}/clb/tc3_request, "
            f"SignedHeaders=content-type;host, Signature={signature}"
        )
        if authorization != expected:
            raise Refused("AuthFailure.SignatureFailure", "the signature differs")
        return key

    def answer(self, method, uri, headers, body):
        key = self.verify(method, uri, headers, body)
        action = headers.get("X-TC-Action", "")
        if headers.get("X-TC-Version") != "2018-03-17" or headers.get("X-TC-Region") != "ap-test":
            raise Refused("InvalidParameter", "version or region")
        if action in key.get("denied", []):
            raise Refused("UnauthorizedOperation", f"not allowed to call {action}")
        params = json.loads(body)
        self.fits(f"{action}Request", params)
        recent = self.recent.setdefault(action, deque())
        while recent and recent[0] < time.monotonic() - 1:
            recent.popleft()
        if len(recent) >= 20:
            raise Refused("RequestLimitExceeded", "more than 20 requests in a second")
        recent.append(time.monotonic())
        self.requests.append([action, params])
        fault = next((fault for fault in self.faults if fault["action"] == action), {})
        if fault:
            fault["times"] = fault.get("times", 1) - 1
            if not fault["times"]:
                self.faults.remove(fault)
        if "code" in fault:
            raise Refused(fault["code"], fault.get("message", "as the test wished"))
        if fault.get("hang"):
            return None
        if params.get("LoadBalancerId", self.load_balancer) != self.load_balancer:
            raise Refused("InvalidParameter.LBIdNotFound", params["LoadBalancerId"])
        content = getattr(self, action)(params, fault)
        content["RequestId"] = f"request-{len(self.requests)}"
        if "run" in content:
            self.tasks[content["RequestId"]] = {"polls": self.polls, "run": content.pop("run"), "failed": None}
        self.fits(f"{action}Response", content)
        return content

    def fits(self, model, params):
        if not hasattr(models, model):
            raise Refused("InvalidAction", model)
        try:
            getattr(models, model)()._deserialize(copy.deepcopy(params))
        except (UserWarning, TypeError, AttributeError) as error:
            raise Refused("InvalidParameter.FormatError", f"{model}: {error}")

    def running(self):
        return sum(task["polls"] > 0 for task in self.tasks.values())

    def place(self, listener_id, location_id):
        if listener_id not in self.listeners:
            raise Refused("InvalidParameter.ListenerIdNotFound", listener_id)
        listener = self.listeners[listener_id]
        if listener.get("Rules"):
            for rule in listener["Rules"]:
                if rule["LocationId"] == location_id:
                    return rule["Targets"]
            raise Refused("InvalidParameter.LocationNotFound", str(location_id))
        return listener["Targets"]

    @staticmethod
    def find(targets, wanted):
        for target in targets:
            same = (
                wanted["InstanceId"] == target.get("InstanceId")
                if wanted.get("InstanceId")
                else wanted.get("EniIp") in target["PrivateIpAddresses"]
            )
            if same and target["Port"] == wanted["Port"]:
                return target
        return None

    def DescribeTargets(self, params, fault):
        wanted = params.get("ListenerIds") or list(self.listeners)
        if len(wanted) > 20:
            raise Refused("InvalidParameterValue.Length", "ListenerIds")
        listeners = [
            {"ListenerId": id, "Protocol": "HTTP" if it.get("Rules") else "TCP", "Port": 443, **it}
            for id, it in self.listeners.items()
            if id in wanted
        ]
        return {"Listeners": copy.deepcopy(listeners)}

    def BatchModifyTargetWeight(self, params, fault):
        if self.running():
            raise Refused("FailedOperation.ResourceInOperating", "somebody else is at it")
        rules = params["ModifyList"]
        wishes = []
        for rule in rules:
            targets = self.place(rule["ListenerId"], rule.get("LocationId"))
            for wanted in rule["Targets"]:
                found = self.find(targets, wanted)
                if found is None:
                    raise Refused("InvalidParameter", f"no such target: {wanted}")
                wishes.append((found, wanted.get("Weight", rule.get("Weight"))))
        too_many = any(len(rule["Targets"]) > 50 for rule in rules)
        if len(rules) > 100 or len(wishes) > 500 or too_many:
            raise Refused("InvalidParameterValue.Length", "ModifyList")
        if any(not 0 <= weight <= 100 for _, weight in wishes):
            raise Refused("InvalidParameterValue.Range", "Weight")

        def run():
            half = len(wishes) // 2 if fault.get("half") else len(wishes)
            if not fault.get("ignored"):
                for target, weight in wishes[:half]:
                    target["Weight"] = weight
            return "some targets could not be changed" if fault.get("half") else None

        return {"run": run}

    def batch(self, params, fault, change):
        if not 0 < len(params["Targets"]) <= 500:
            raise Refused("InvalidParameterValue.Length", "Targets")
        failed = fault.get("listeners", [])
        for wanted in params["Targets"]:
            if wanted["ListenerId"] not in failed:
                change(self.place(wanted["ListenerId"], wanted.get("LocationId")), wanted)
        return {"FailListenerIdSet": failed, "Message": "the listener is being changed" if failed else ""}

    def BatchRegisterTargets(self, params, fault):
        def change(targets, wanted):
            if self.find(targets, wanted):
                raise Refused("InvalidParameterValue.Duplicate", "bound already")
            ip = wanted["EniIp"]
            weight = wanted.get("Weight", 10)
            targets.append({"Type": "ENI", "InstanceId": "", "Port": wanted["Port"], "Weight": weight, "PrivateIpAddresses": [ip]})

        return self.batch(params, fault, change)

    def BatchDeregisterTargets(self, params, fault):
        def change(targets, wanted):
            found = self.find(targets, wanted)
            if found is None:
                raise Refused("InvalidParameter", "not bound")
            targets.remove(found)

        return self.batch(params, fault, change)

    def DescribeTaskStatus(self, params, fault):
        task = self.tasks.get(params["TaskId"])
        if task is None:
            raise Refused("InvalidParameter", "no such task")
        if task["polls"] > 0:
            task["polls"] -= 1
            return {"Status": 2, "LoadBalancerIds": None, "Message": None}
        if task["run"]:
            task["failed"] = task.pop("run")()
            task["run"] = None
        return {"Status": 1 if task["failed"] else 0, "LoadBalancerIds": None, "Message": task["failed"]}


SERVICE = Service()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with SERVICE.lock:
            if self.path == "/control":
                self.send(SERVICE.control(json.loads(body)))
                return
            try:
                content = SERVICE.answer("POST", self.path, self.headers, body)
            except Refused as refused:
                content = {"Error": {"Code": refused.code, "Message": refused.message}, "RequestId": "none"}
        if content is None:
            # Silent, but there: until the client leaves.
            self.rfile.read(1)
            self.close_connection = True
            return
        self.send({"Response": content})

    def send(self, answer):
        body = json.dumps(answer).encode()
        self.send_response(200)
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
