package mesh_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// withStreams runs f with a process that serves "db@str" by h, and a client.
func withStreams(t *testing.T, h grpc.StreamHandler, f func(w *world, server, client *mesh.Mesh), set ...func(*mesh.Options)) {
	t.Helper()
	inWorld(t, func(w *world) {
		server := w.process("server", set...)
		w.open(server, "db:1")
		w.streams(server, "str", h)
		w.register(server, "sdb", echo)
		client := w.process("client", set...)
		w.reload(client, mesh.Table{"db": "db:1"})
		f(w, server, client)
	})
}

// numbered is a message of n bytes that begins with a number.
func numbered(i, n int) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(i)), make([]byte, max(n-4, 0))...)
}

func numberOf(b []byte) int { return int(binary.BigEndian.Uint32(b)) }

// A caller that does not read holds up its stream alone: the handler waits in
// SendMsg once two windows are full, one here and one there. Calls and other
// streams on the link pass; when the caller reads, everything comes, in order.
func TestStreamNobodyReads(t *testing.T) {
	const size, count = 10000, 100
	var sent atomic.Int64
	withStreams(t, func(_ any, s grpc.ServerStream) error {
		if m, _ := grpc.MethodFromServerStream(s); m != "/x/Flood" {
			return echoStream(nil, s)
		}
		for i := range count {
			if err := s.SendMsg(numbered(i, size)); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	}, func(w *world, server, client *mesh.Mesh) {
		flood := w.opened(client, "db@str", "/x/Flood")
		synctest.Wait()
		most := int64(2 * (64<<10/(size+64) + 1))
		if n := sent.Load(); n < 2 || n > most {
			t.Errorf("%d messages were taken, want at most %d", n, most)
		}
		if s := server.Stats(); s.StreamBytes <= 0 || s.StreamBytes > 64<<10+size+64 || s.StreamsIn != 1 {
			t.Errorf("%d bytes wait to be sent, %d streams", s.StreamBytes, s.StreamsIn)
		}
		beside := w.opened(client, "db@str", "/x/Echo")
		for i := range 50 {
			if err := beside.SendMsg(numbered(i, 3*size)); err != nil {
				t.Fatal(err)
			}
			var b []byte
			if err := beside.RecvMsg(&b); err != nil || numberOf(b) != i || len(b) != 3*size {
				t.Fatalf("the stream beside: %d bytes, %v", len(b), err)
			}
			if got, err := client.Call(w.within(time.Second), "db@sdb", "M", []byte("x")); err != nil || string(got) != "x" {
				t.Fatalf("a call: %q, %v", got, err)
			}
		}
		if n := sent.Load(); n > most {
			t.Errorf("%d messages were taken while nobody read", n)
		}
		for i := range count {
			var b []byte
			if err := flood.RecvMsg(&b); err != nil || numberOf(b) != i || len(b) != size {
				t.Fatalf("message %d: %d bytes, %v", i, len(b), err)
			}
		}
		if err := flood.RecvMsg(new([]byte)); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if s := server.Stats(); s.StreamBytes != 0 || s.StreamsIn != 1 {
			t.Errorf("%d bytes wait, %d streams", s.StreamBytes, s.StreamsIn)
		}
	})
}

// The same for a handler that does not read.
func TestHandlerThatDoesNotReceive(t *testing.T) {
	const size, count = 10000, 100
	var read chan struct{} // made in the bubble, whose time would stand still else
	withStreams(t, func(_ any, s grpc.ServerStream) error {
		<-read
		for i := range count {
			var b []byte
			if err := s.RecvMsg(&b); err != nil || numberOf(b) != i {
				t.Errorf("message %d: %d bytes, %v", i, len(b), err)
			}
		}
		return s.RecvMsg(new([]byte)) // io.EOF is not nil: unknown
	}, func(w *world, _, client *mesh.Mesh) {
		read = make(chan struct{})
		s := w.opened(client, "db@str", "/x/M")
		var sent atomic.Int64
		done := make(chan error, 1)
		go func() {
			for i := range count {
				if err := s.SendMsg(numbered(i, size)); err != nil {
					done <- err
					return
				}
				sent.Add(1)
			}
			done <- s.CloseSend()
		}()
		time.Sleep(time.Minute)
		if n, most := sent.Load(), int64(2*(64<<10/(size+64)+1)); n < 2 || n > most {
			t.Errorf("%d messages were taken, want at most %d", n, most)
		}
		close(read)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := drain(s); mesh.VerdictOf(err) != mesh.HandlerFailed {
			t.Error(err)
		}
	})
}

// M39, M40: messages of all sizes pass both ways, byte for byte, also where both
// ends send a large one before they receive.
func TestMessagesOfAllSizes(t *testing.T) {
	sizes := []int{0, 1, 4095, 4096, partSize - 1, partSize, partSize + 1, 2 * partSize, 2*partSize + 1, 65472, 65473, 1 << 20, 5<<20 + 7}
	content := func(n int) []byte { return bytes.Repeat([]byte{1, 2, 3, 5, 7, 11, 13}, n/7+1)[:n] }
	withStreams(t, func(_ any, s grpc.ServerStream) error {
		for _, n := range sizes {
			if err := s.SendMsg(content(n)); err != nil {
				return err
			}
			var b []byte
			if err := s.RecvMsg(&b); err != nil || !bytes.Equal(b, content(n)) {
				t.Errorf("%d bytes, want %d: %v", len(b), n, err)
			}
		}
		return nil
	}, func(w *world, server, client *mesh.Mesh) {
		s := w.opened(client, "db@str", "/x/M")
		for _, n := range sizes {
			if err := s.SendMsg(content(n)); err != nil {
				t.Fatal(err)
			}
			var b []byte
			if err := s.RecvMsg(&b); err != nil || !bytes.Equal(b, content(n)) {
				t.Fatalf("%d bytes, want %d: %v", len(b), n, err)
			}
		}
		if n, err := drain(s); n != 0 || !errors.Is(err, io.EOF) {
			t.Error(n, err)
		}
		synctest.Wait()
		if a, b := server.Stats(), client.Stats(); a.StreamMessages != 0 || b.StreamMessages != 0 || a.FramesStray != 0 || b.FramesStray != 0 {
			t.Errorf("%+v %+v", a, b)
		}
	})
}

// M41: of a large message that nobody receives no more than a window travels, and
// a piece. The rest follows when someone does, and the window is given back.
func TestLargeMessageThatNobodyReceives(t *testing.T) {
	inWorld(t, func(w *world) {
		var came atomic.Int64
		m, _ := w.prey(func(e *rogueEnd, _ int) error {
			e.greet(knowsStreams)
			for f := e.hear(); f != nil; f = e.hear() {
				came.Add(int64(len(f.GetMessage().GetPayload()) + len(f.GetPart().GetPayload())))
				switch {
				case f.GetMessage() != nil:
					go func() {
						time.Sleep(time.Minute) // then it takes what has come
						e.say(windowFrame(f.GetSession(), 64<<10))
					}()
				case f.GetCancel() != nil:
					return nil
				}
			}
			return nil
		})
		s := w.opened(m, "db@str", "M")
		if err := s.SendMsg(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := came.Load(); n != 2*partSize {
			t.Errorf("%d bytes came, want 65536: what fits, and what takes the window below zero", n)
		}
		time.Sleep(2 * time.Minute)
		if n := came.Load(); n != 4*partSize {
			t.Errorf("%d bytes came after a window of 65536", n)
		}
	})
}
