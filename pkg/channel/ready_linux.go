package channel

import (
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// readyRead is what a keptConn needs for ReadOnReady. gRPC reads a connection
// from one goroutine.
type readyRead struct {
	raw syscall.RawConn // nil where the connection has no file descriptor
	try func(fd uintptr) (done bool)

	// Of the read that runs.
	pool mem.BufferPool
	size int
	buf  *[]byte
	n    int
	err  error
}

// init prepares the reading of conn: what is made here once is not made for
// every read.
func (r *readyRead) init(conn net.Conn) {
	var has syscall.Conn
	switch c := conn.(type) { // no other one: a wrapper's bytes may differ from its descriptor's
	case *net.TCPConn:
		has = c
	case *net.UnixConn:
		has = c
	default:
		return
	}
	raw, err := has.SyscallConn()
	if err != nil {
		return
	}
	r.raw, r.try = raw, r.read
}

// read takes a buffer and what is there; it is not done where nothing is.
func (r *readyRead) read(fd uintptr) (done bool) {
	r.buf = r.pool.Get(r.size)
	for {
		r.n, r.err = syscall.Read(int(fd), *r.buf)
		if r.err != syscall.EINTR {
			break
		}
	}
	if r.err == nil && r.n > 0 {
		return true
	}
	r.pool.Put(r.buf)
	r.buf = nil
	return r.err != syscall.EAGAIN
}

// ReadOnReady is gRPC's way of reading without holding a buffer while it waits,
// which it has for connections that are package net's own, or that offer it: an
// idle link would hold 32 KiB more.
func (k *keptConn) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	r := &k.ready
	if r.raw == nil {
		buf := pool.Get(size)
		n, err := k.Conn.Read(*buf)
		if n == 0 {
			pool.Put(buf)
			buf = nil
		}
		return buf, n, err
	}
	r.pool, r.size = pool, size
	err := r.raw.Read(r.try)
	buf, n := r.buf, r.n
	if err == nil {
		err = r.err
	}
	r.pool, r.buf, r.n, r.err = nil, nil, 0, nil
	switch {
	case buf != nil:
		return buf, n, nil
	case err == nil:
		err = io.EOF
	}
	return nil, 0, err
}
