package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	pingserverv1 "github.com/meshnode/meshnode/examples/proto/pingserver/v1"
	"github.com/meshnode/meshnode/pkg/gateway"
)

// gatewayServe makes a node and, beside it in the same process, a gateway that
// reaches it by a link of its own over loopback.
func gatewayServe(t *tally) (string, func(), error) {
	addr, stop, err := meshServe(meshStub)(t)
	if err != nil {
		return "", nil, err
	}
	m, err := dialMesh(context.Background(), addr)
	if err != nil {
		stop()
		return "", nil, err
	}
	g, err := gateway.Listen(m, "127.0.0.1:0", gateway.Options{})
	if err != nil {
		closeMesh(m)
		stop()
		return "", nil, err
	}
	return g.Addr().String(), func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // nobody calls any more
		_ = g.Close(ctx)
		closeMesh(m)
		stop()
	}, nil
}

// gatewayClient is an ordinary gRPC client.
type gatewayClient struct{ conn *grpc.ClientConn }

func gatewayDial(_ context.Context, addr string) (client, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	return gatewayClient{conn}, err
}

func (c gatewayClient) caller(ctx context.Context, target int) (caller, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, "mesh-to", meshNode+meshTargets[target])
	return gatewayCaller{meshStubCaller{pingserverv1.NewPingServerServiceClient(c.conn), ctx}}, nil
}

func (c gatewayClient) close() { _ = c.conn.Close() }

// gatewayCaller calls as a stub does; its pushes are not measured.
type gatewayCaller struct{ meshStubCaller }

func (gatewayCaller) push([]byte) error { return errNoPushes }
