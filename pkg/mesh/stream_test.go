package mesh_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
)

var bidi = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// register gives a service of streams a name.
func (w *world) streams(m *mesh.Mesh, name string, h grpc.StreamHandler, opts ...mesh.ServiceOption) *mesh.Service {
	w.Helper()
	s := m.NewStreamService(h, opts...)
	if err := m.Register(name, s); err != nil {
		w.Fatal(err)
	}
	return s
}

// echoStream sends each message back.
func echoStream(_ any, s grpc.ServerStream) error {
	for {
		var b []byte
		if err := s.RecvMsg(&b); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.SendMsg(b); err != nil {
			return err
		}
	}
}

// M51: messages go both ways, in order, and the end is seen.
func TestStreamBothWays(t *testing.T) {
	inWorld(t, func(w *world) {
		db := w.process("db")
		w.open(db, "127.0.0.1:1")
		w.streams(db, "@echo", echoStream)
		a := w.process("a")
		w.reload(a, mesh.Table{"db": "127.0.0.1:1"})
		s, err := a.Proxy("db@echo").NewStream(w.within(time.Minute), bidi, "/x/Echo")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			size := []int{5, 40000, 300000}[i]
			sent := []byte(fmt.Sprintf("%0*d", size, i))
			if err := s.SendMsg(sent); err != nil {
				t.Fatal(err)
			}
			var got []byte
			if err := s.RecvMsg(&got); err != nil || string(got) != string(sent) {
				t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(new([]byte)); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
}
