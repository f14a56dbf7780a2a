// Package interop_test lets other people's tests of gRPC clients and servers run
// over a mesh of two nodes: grpchan's cases for channels, and the client of
// gRPC's own interoperability tests. It is a module of its own, because what
// they import is nothing that the mesh should.
package interop_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/fullstorydev/grpchan/grpchantesting"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// caseEnv names the case that a process of this binary runs: gRPC's client ends
// its process where a case fails.
const caseEnv = "INTEROP_CASE"

func TestMain(m *testing.M) {
	if name := os.Getenv(caseEnv); name != "" {
		if err := play(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// pair is a mesh of two nodes, and what the one hosts as the other sees it.
func pair(register func(grpc.ServiceRegistrar)) (_ *mesh.Proxy, end func(), err error) {
	server, err := mesh.New(mesh.Options{Name: "server"})
	if err != nil {
		return nil, nil, err
	}
	s := server.NewService(nil)
	register(s)
	if err := server.Register("@test", s); err != nil {
		return nil, nil, err
	}
	l, err := server.Open("127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	client, err := mesh.New(mesh.Options{Name: "client"})
	if err != nil {
		return nil, nil, err
	}
	if err := client.Reload(mesh.Table{"db": l.Addr().String()}); err != nil {
		return nil, nil, err
	}
	return client.Proxy("db@test"), func() {
		_ = client.Close(context.Background())
		_ = server.Close(context.Background())
	}, nil
}

// M51: a Proxy is as good a channel as any, by grpchan's cases.
func TestGrpchan(t *testing.T) {
	p, end, err := pair(func(r grpc.ServiceRegistrar) {
		grpchantesting.RegisterTestServiceServer(r, &grpchantesting.TestServer{})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	grpchantesting.RunChannelTestCases(t, p, true)
}

type interopCase func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)

var cases = map[string]interopCase{
	"empty_unary":                 interop.DoEmptyUnaryCall,
	"large_unary":                 interop.DoLargeUnaryCall,
	"client_streaming":            interop.DoClientStreaming,
	"server_streaming":            interop.DoServerStreaming,
	"ping_pong":                   interop.DoPingPong,
	"empty_stream":                interop.DoEmptyStream,
	"cancel_after_begin":          interop.DoCancelAfterBegin,
	"cancel_after_first_response": interop.DoCancelAfterFirstResponse,
	"timeout_on_sleeping_server":  interop.DoTimeoutOnSleepingServer,
	"custom_metadata":             interop.DoCustomMetadata,
	"status_code_and_message":     interop.DoStatusCodeAndMessage,
	"special_status_message":      interop.DoSpecialStatusMessage,
	"unimplemented_method":        nil, // these two take other clients: see play
	"unimplemented_service":       nil,
}

// play runs one case in this process, which it ends where the case fails.
func play(name string) error {
	p, end, err := pair(func(r grpc.ServiceRegistrar) { testgrpc.RegisterTestServiceServer(r, interop.NewTestServer()) })
	if err != nil {
		return err
	}
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch run, known := cases[name]; {
	case !known:
		return fmt.Errorf("there is no case %q", name)
	case name == "unimplemented_service":
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(p))
	case name == "unimplemented_method": // gRPC's own function takes a *grpc.ClientConn
		err := p.Invoke(ctx, "/grpc.testing.TestService/UnimplementedCall", new(testgrpc.Empty), new(testgrpc.Empty))
		if status.Code(err) != codes.Unimplemented {
			return fmt.Errorf("%v; want UNIMPLEMENTED", err)
		}
	default:
		run(ctx, testgrpc.NewTestServiceClient(p))
	}
	fmt.Println("passed", name)
	return nil
}

// M51: the client of gRPC's interoperability tests, over a Proxy.
func TestInterop(t *testing.T) {
	for name := range cases {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), caseEnv+"="+name, "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			if err != nil || string(out) != "passed "+name+"\n" {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
