"""AWS on this machine: moto's server, with what it lacks: draining, faults, and endpoints for credentials.

moto keeps the target groups and judges signatures and rights (by botocore). A test looks and meddles at /control.

Says its port, then serves until it is killed.
"""

import io
import json
import threading
from urllib.parse import parse_qs

import boto3
import moto.elbv2.models as elbv2
import moto.settings
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

faults, calls = [], []
drains = {"polls": 0}
documents = {}

health_for = elbv2.FakeTargetGroup.health_for


def health(self, target, ec2):
    """A target that was deregistered drains for some looks."""
    gone = self.deregistered_targets.get(target["Id"])
    if gone is not None and target["Id"] not in self.targets:
        return elbv2.FakeHealthStatus(
            target["Id"], gone["Port"], self.health_check_port, "draining", "Target.DeregistrationInProgress", "as AWS says"
        )
    return health_for(self, target, ec2)


def describe(self, target_group_arn, targets):
    """Without targets, AWS tells of those that drain, too."""
    group = self.target_groups.get(target_group_arn)
    if group is None:
        raise elbv2.TargetGroupNotFoundError()
    if not targets:
        if drains["polls"] <= 0:
            group.deregistered_targets.clear()
        drains["polls"] -= 1
        gone = [it for id, it in group.deregistered_targets.items() if id not in group.targets]
        targets = list(group.targets.values()) + gone
    return [group.health_for(target, self.ec2_backend) for target in targets]


elbv2.FakeTargetGroup.health_for = health
elbv2.ELBv2Backend.describe_target_health = describe


class Meddler:
    def __init__(self, application):
        self.application = application

    def __call__(self, environ, start):
        request = Request(environ)
        if request.path == "/control":
            answer = Response(json.dumps(self.control(json.loads(request.get_data()))), content_type="application/json")
            return answer(environ, start)
        if request.path in documents:
            wanted = documents[request.path]
            if any(request.headers.get(name) != value for name, value in wanted.get("headers", {}).items()):
                return Response("no", 401)(environ, start)
            return Response(wanted["body"])(environ, start)
        body = request.get_data(parse_form_data=False)
        action = parse_qs(body.decode()).get("Action", [""])[0]
        credential = request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        calls.append([action, credential, request.headers.get("X-Amz-Security-Token")])
        fault = next((it for it in faults if it["action"] == action), None)
        if fault:
            faults.remove(fault)
            if "hang" in fault:
                threading.Event().wait()
            if "code" in fault:
                text = (
                    f"<ErrorResponse><Error><Type>Sender</Type><Code>{fault['code']}</Code>"
                    f"<Message>as the test wished</Message></Error><RequestId>0</RequestId></ErrorResponse>"
                )
                return Response(text, fault.get("status", 400), content_type="text/xml")(environ, start)
            if "text" in fault:
                return Response(fault["text"], fault.get("status", 200))(environ, start)
        environ["wsgi.input"] = io.BytesIO(body)
        return self.application(environ, start)

    def control(self, wish):
        if "setUp" in wish:
            return set_up(**wish["setUp"])
        if "auth" in wish:
            # From now on moto looks at signatures and rights.
            moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        faults.extend(wish.get("faults", []))
        drains.update(wish.get("drains", {}))
        documents.update(wish.get("documents", {}))
        return {"calls": calls}


def client(name):
    return boto3.client(
        name, region_name="eu-west-1", endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
        aws_access_key_id="test", aws_secret_access_key="test",
    )


def set_up(targets, policies):
    """A VPC, two target groups with targets by address, and a user with a key for each policy."""
    ec2, balancers, iam = client("ec2"), client("elbv2"), client("iam")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    arns = []
    for name in ("chat", "admin"):
        group = balancers.create_target_group(
            Name=name, Protocol="TCP", Port=8080, VpcId=vpc, TargetType="ip", HealthCheckProtocol="TCP"
        )
        arns.append(group["TargetGroups"][0]["TargetGroupArn"])
        ids = [{"Id": ip, "Port": 8080} for ip in targets]
        if ids:
            balancers.register_targets(TargetGroupArn=arns[-1], Targets=ids)
    keys = []
    for number, actions in enumerate(policies):
        name = f"user-{number}"
        iam.create_user(UserName=name)
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys.append({"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]})
    calls.clear()
    return {"arns": arns, "keys": keys}


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *args):
        pass


application = Meddler(DomainDispatcherApplication(create_backend_app))
server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
