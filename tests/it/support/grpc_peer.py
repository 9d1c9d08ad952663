"""A gRPC server and clients of grpcio's, without generated code: messages are bytes.

    grpc_peer.py server                 prints its port; ends with its standard input
    grpc_peer.py client ADDR ADDR...    prints `ready`, goes on until it reads a line, prints a report
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "ebbtide.Test"
CHANNELS = 4
STREAMS = 20
CALLERS = 4


def serve():
    def echo(requests, _context):
        yield from requests

    def same(request, _context):
        return request

    server = grpc.server(futures.ThreadPoolExecutor(STREAMS + 2 * CALLERS))
    methods = {
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Same": grpc.unary_unary_rpc_method_handler(same),
    }
    handler = grpc.method_handlers_generic_handler(SERVICE, methods)
    server.add_generic_rpc_handlers((handler,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()


class Load:
    def __init__(self, addrs):
        self.target = "ipv4:" + ",".join(addrs)
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.started = threading.Semaphore(0)
        self.messages = self.calls = self.ended = 0
        self.failures = []

    def channel(self):
        return grpc.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1)])

    def fail(self, what, error):
        with self.lock:
            self.failures.append(f"{what}: {error!r}")
        self.started.release()

    def stream(self, channel, name):
        """One message at a time, each expected back, until the load is over."""
        turn = threading.Semaphore(1)

        def requests():
            number = 0
            while not self.over.is_set():
                turn.acquire()
                yield f"{name} {number}".encode()
                number += 1

        try:
            call = channel.stream_stream(f"/{SERVICE}/Echo")(requests(), wait_for_ready=True)
            for number, message in enumerate(call):
                assert message == f"{name} {number}".encode(), message
                if number == 0:
                    self.started.release()
                with self.lock:
                    self.messages += 1
                time.sleep(0.02)
                turn.release()
            assert call.code() == grpc.StatusCode.OK, call.code()
            with self.lock:
                self.ended += 1
        except Exception as error:
            self.fail(f"stream {name}", error)

    def caller(self, channel):
        same = channel.unary_unary(f"/{SERVICE}/Same")
        number = 0
        try:
            while not self.over.is_set():
                message = str(number).encode()
                assert same(message, wait_for_ready=True, timeout=60) == message
                number += 1
                with self.lock:
                    self.calls += 1
                if number == 5:
                    self.started.release()
        except Exception as error:
            self.fail("call", error)

    def run(self):
        channels = [self.channel() for _ in range(CHANNELS)]
        threads = [
            threading.Thread(target=self.stream, args=(channels[name % CHANNELS], name))
            for name in range(STREAMS)
        ]
        threads += [
            threading.Thread(target=self.caller, args=(self.channel(),)) for _ in range(CALLERS)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            self.started.acquire()
        print("ready", flush=True)
        sys.stdin.readline()
        enough = self.calls + 200
        while self.calls < enough and not self.failures:
            time.sleep(0.01)
        self.over.set()
        for thread in threads:
            thread.join()
        report = {
            "streamsEnded": self.ended,
            "messages": self.messages,
            "calls": self.calls,
            "failures": self.failures,
        }
        print(json.dumps(report), flush=True)


if sys.argv[1] == "server":
    serve()
else:
    Load(sys.argv[2:]).run()
