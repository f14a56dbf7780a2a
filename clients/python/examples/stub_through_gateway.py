"""An ordinary generated stub, one channel to the nearest gateway, one header.

It needs grpcio alone, and the stub of the service:

    python -m grpc_tools.protoc -I../../examples/proto --python_out=. --grpc_python_out=. simpledb/v1/simpledb.proto
    python stub_through_gateway.py 127.0.0.1:2600
"""

import sys

import grpc
from simpledb.v1 import simpledb_pb2, simpledb_pb2_grpc

TO_DB = (("mesh-to", "db@sdb"),)

gateway = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:2600"
with grpc.insecure_channel(gateway) as channel:
    db = simpledb_pb2_grpc.SimpleDBServiceStub(channel)
    reply = db.Get(simpledb_pb2.GetRequest(key="greeting"), metadata=TO_DB, timeout=5)
    print(reply.value if reply.HasField("value") else "greeting has no value")
