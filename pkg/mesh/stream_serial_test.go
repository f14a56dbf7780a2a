package mesh_test

import (
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// M26: a stream handler of a serial service that waits for its stream lets the
// next message start, as one that waits in a call does.
func TestStreamsOfASerialServiceGiveTheirTurn(t *testing.T) {
	inWorld(t, func(w *world) {
		server := w.process("server")
		w.open(server, "db:1")
		running := 0
		s := server.NewStreamService(func(_ any, stream grpc.ServerStream) error {
			for {
				var b []byte
				if err := stream.RecvMsg(&b); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if running++; running != 1 {
					t.Error("two handlers of a serial service run at once")
				}
				running--
				if err := stream.SendMsg(b); err != nil {
					return err
				}
			}
		}, mesh.Serial())
		if err := server.Register("serial", s); err != nil {
			t.Fatal(err)
		}
		client := w.process("client")
		w.reload(client, mesh.Table{"db": "db:1"})
		open := make([]grpc.ClientStream, 3)
		for i := range open {
			s, err := client.Proxy("db@serial").NewStream(w.within(time.Minute), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/a.B/C")
			if err != nil {
				t.Fatal(err)
			}
			open[i] = s
		}
		for range 3 {
			for i, s := range open {
				if err := s.SendMsg([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
				var b []byte
				if err := s.RecvMsg(&b); err != nil || len(b) != 1 || b[0] != byte(i) {
					t.Fatalf("stream %d: %v, %v", i, b, err)
				}
			}
		}
		if got, err := client.Call(w.within(time.Second), "db@serial", "/a.B/C", []byte("x")); err != nil || string(got) != "x" {
			t.Errorf("a call beside: %q, %v", got, err)
		}
		for _, s := range open {
			if err := s.CloseSend(); err != nil {
				t.Error(err)
			}
			if err := s.RecvMsg(new([]byte)); err != io.EOF {
				t.Errorf("the end: %v", err)
			}
		}
	})
}
