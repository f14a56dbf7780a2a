package channel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// countedPool counts the buffers that are out.
type countedPool struct{ out atomic.Int64 }

func (p *countedPool) Get(n int) *[]byte {
	p.out.Add(1)
	b := make([]byte, n)
	return &b
}

func (p *countedPool) Put(*[]byte) { p.out.Add(-1) }

// acceptedPair is a connection that a connListener accepted, and its other end.
func acceptedPair(t *testing.T) (*keptConn, net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = inner.Close() })
	other, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := newConnListener(inner, 1).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), other.Close() })
	return conn.(*keptConn), other
}

// An accepted connection holds no buffer while nothing comes, hands over what
// does, and tells its end; also after it was told late.
func TestIdleConnectionHoldsNoBuffer(t *testing.T) {
	k, other := acceptedPair(t)
	pool := new(countedPool)
	if err := k.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if buf, n, err := k.ReadOnReady(16, pool); buf != nil || n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing was sent: %v, %d, %v", buf, n, err)
	}
	if err := k.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	type read struct {
		buf *[]byte
		n   int
		err error
	}
	got := make(chan read, 1)
	next := func() {
		buf, n, err := k.ReadOnReady(16, pool)
		got <- read{buf, n, err}
	}
	go next()
	// Whether it waits yet or not: a buffer is out only while the kernel is asked.
	for end := time.Now().Add(10 * time.Second); pool.out.Load() != 0; {
		if time.Now().After(end) {
			t.Fatalf("%d buffers are held while nothing comes", pool.out.Load())
		}
	}
	sent := []byte("twenty bytes of text")
	if _, err := other.Write(sent); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.err != nil || r.n != 16 || !bytes.Equal((*r.buf)[:r.n], sent[:16]) || pool.out.Load() != 1 {
		t.Fatalf("read %d bytes, %v; %d buffers are out", r.n, r.err, pool.out.Load())
	}
	pool.Put(r.buf)
	go next()
	if r = <-got; r.err != nil || !bytes.Equal((*r.buf)[:r.n], sent[16:]) {
		t.Fatalf("read %d bytes, %v", r.n, r.err)
	}
	pool.Put(r.buf)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if buf, n, err := k.ReadOnReady(16, pool); buf != nil || n != 0 || err != io.EOF {
		t.Errorf("at the end: %v, %d, %v", buf, n, err)
	}
	if pool.out.Load() != 0 {
		t.Errorf("%d buffers are out at the end", pool.out.Load())
	}
}

// A connection that has no descriptor of its own is read all the same.
func TestConnectionWithoutDescriptorIsRead(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	l := newConnListener(nil, 1)
	k, pool := l.keep(near), new(countedPool)
	go func() { _, _ = far.Write([]byte("text")); _ = far.Close() }()
	buf, n, err := k.ReadOnReady(16, pool)
	if err != nil || string((*buf)[:n]) != "text" {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	pool.Put(buf)
	if buf, _, err := k.ReadOnReady(16, pool); buf != nil || err != io.EOF || pool.out.Load() != 0 {
		t.Errorf("at the end: %v, %v; %d buffers are out", buf, err, pool.out.Load())
	}
}
