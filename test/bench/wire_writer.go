package main

import (
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"sync"
)

// A frame of the wire: the length of the payload, the session, and flags with
// the target in their low bits.
const (
	wireHeader  = 4 + 8 + 1
	wirePush    = 0x80
	wireTarget  = 0x7f
	wireCopied  = 4 << 10  // larger payloads are referenced, not copied
	wireWaiting = 1 << 20  // at it, those who add a frame wait
	wireEager   = 64 << 10 // at it, a reader that goes on reading has them written meanwhile
	wireBuffer  = 64 << 10 // of a reader
)

var errWireClosed = errors.New("wire: closed")

// wireWriter collects frames and writes all that wait with one system call. At
// most one goroutine writes at a time: its own, or one that calls flush.
type wireWriter struct {
	conn  net.Conn
	plain bool          // only run writes, and it does not yield
	wake  chan struct{} // has one place: there is something for run to write

	mu      sync.Mutex
	room    *sync.Cond  // fewer than wireWaiting bytes wait, or err is set
	bufs    net.Buffers // what waits: pieces of buf and referenced payloads
	buf     []byte
	cut     int // from here on buf is not in bufs yet
	spare   []byte
	waiting int // bytes
	writing bool
	err     error
}

func newWireWriter(conn net.Conn, plain bool) *wireWriter {
	w := &wireWriter{conn: conn, plain: plain, wake: make(chan struct{}, 1)}
	w.room = sync.NewCond(&w.mu)
	return w
}

// put adds a frame and returns how many bytes wait. A large payload that is not
// a push must not change until its reply has come.
func (w *wireWriter) put(session uint64, flags byte, payload []byte) (int, error) {
	var h [wireHeader]byte
	binary.LittleEndian.PutUint32(h[:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(h[4:], session)
	h[12] = flags
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.waiting >= wireWaiting && w.err == nil {
		w.signal()
		w.room.Wait()
	}
	if w.err != nil {
		return 0, w.err
	}
	w.buf = append(w.buf, h[:]...)
	if len(payload) <= wireCopied || flags&wirePush != 0 {
		w.buf = append(w.buf, payload...)
	} else {
		w.bufs = append(w.bufs, w.buf[w.cut:], payload)
		w.cut = len(w.buf)
	}
	w.waiting += wireHeader + len(payload)
	return w.waiting, nil
}

func (w *wireWriter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// flush writes what waits, unless another goroutine is writing: it, or run,
// then takes the rest.
func (w *wireWriter) flush() {
	if w.plain {
		w.signal()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing || w.waiting == 0 || w.err != nil {
		return
	}
	w.write()
	if w.waiting > 0 {
		w.signal()
	}
}

// run writes what others leave, until close.
func (w *wireWriter) run() {
	for range w.wake {
		if !w.plain {
			runtime.Gosched() // those who are about to add a frame do so first
		}
		w.mu.Lock()
		for w.waiting > 0 && !w.writing && w.err == nil {
			w.write()
		}
		ended := w.err != nil
		w.mu.Unlock()
		if ended {
			return
		}
	}
}

// write is called with mu held, and gives it away while it writes.
func (w *wireWriter) write() {
	w.writing = true
	bufs, buf := append(w.bufs, w.buf[w.cut:]), w.buf
	w.bufs, w.buf, w.spare, w.cut, w.waiting = nil, w.spare[:0], nil, 0, 0
	w.mu.Unlock()
	w.room.Broadcast()
	_, err := bufs.WriteTo(w.conn)
	w.mu.Lock()
	w.writing = false
	if cap(buf) <= 2*wireWaiting {
		w.spare = buf
	}
	if err != nil {
		w.fail(err)
		return
	}
	if w.waiting > 0 {
		w.signal()
	}
}

// fail is called with mu held.
func (w *wireWriter) fail(err error) {
	if w.err == nil {
		w.err = err
		_ = w.conn.Close()
	}
	w.room.Broadcast()
	w.signal()
}

func (w *wireWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail(errWireClosed)
}
