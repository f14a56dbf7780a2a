"""An ordinary gRPC server. It knows nothing of the mesh; a meshnode hosts it:

    python ordinary_server.py 127.0.0.1:50051
    meshnode serve --node ml=127.0.0.1:2530 --open ml --host model=127.0.0.1:50051

Callers in the mesh reach it as ml@model. Its health, where it has one, decides
whether the name is offered.
"""

import signal
import sys
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from simpledb.v1 import simpledb_pb2, simpledb_pb2_grpc


class DB(simpledb_pb2_grpc.SimpleDBServiceServicer):
    """Keeps strings by key."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def Get(self, request: simpledb_pb2.GetRequest, context: grpc.ServicerContext) -> simpledb_pb2.GetResponse:
        if not request.key:
            context.set_trailing_metadata((("hint", "give a key"),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a key is never empty")
        return simpledb_pb2.GetResponse(value=self.values.get(request.key))

    def Set(self, request: simpledb_pb2.SetRequest, context: grpc.ServicerContext) -> simpledb_pb2.SetResponse:
        last = self.values.get(request.key)
        self.values[request.key] = request.value
        return simpledb_pb2.SetResponse(last=last)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
simpledb_pb2_grpc.add_SimpleDBServiceServicer_to_server(DB(), server)
serving = health.HealthServicer()
serving.set("", health_pb2.HealthCheckResponse.SERVING)
health_pb2_grpc.add_HealthServicer_to_server(serving, server)
host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:0"
port = server.add_insecure_port(host)
server.start()
print(f"{host.rpartition(':')[0]}:{port}", flush=True)
signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=5))
server.wait_for_termination()
