package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// wireMessage is a request on its way to its handler.
type wireMessage struct {
	from    *wireWriter
	session uint64
	flags   byte
	payload []byte
}

// wireServer echoes. Without mailboxes the reader of a connection runs the
// handlers.
type wireServer struct {
	tally     *tally
	plain     bool
	mailboxes []*wireMailbox
}

// The wires.
const (
	wireBest = iota
	wireMailboxes
	wirePlain
)

func wireServe(kind int) func(*tally) (string, func(), error) {
	return func(t *tally) (string, func(), error) {
		s := &wireServer{tally: t, plain: kind == wirePlain}
		if kind == wireMailboxes {
			for range targets {
				m := newWireMailbox(s)
				s.mailboxes = append(s.mailboxes, m)
				go m.run()
			}
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", nil, err
		}
		go s.accept(l)
		return l.Addr().String(), func() { _ = l.Close() }, nil
	}
}

func (s *wireServer) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go s.serve(conn)
	}
}

// serve reads frames. Replies leave, and mailboxes are woken, when no whole
// frame is there to be read just now, or earlier where much waits.
func (s *wireServer) serve(conn net.Conn) {
	w := newWireWriter(conn, s.plain)
	go w.run()
	defer w.close()
	r := bufio.NewReaderSize(conn, wireBuffer)
	for {
		m, err := readWire(r, s.mailboxes != nil)
		if err != nil {
			return
		}
		m.from = w
		if s.mailboxes != nil {
			s.mailboxes[int(m.flags&wireTarget)%targets].put(m)
			if !wireReady(r) {
				for _, box := range s.mailboxes {
					box.signal()
				}
			}
			continue
		}
		if waiting := s.handle(m); waiting > wireEager {
			w.signal()
		} else if !wireReady(r) {
			w.flush()
		}
	}
}

// wireReady tells whether a whole frame is in the buffer.
func wireReady(r *bufio.Reader) bool {
	if r.Buffered() < wireHeader {
		return false
	}
	h, err := r.Peek(wireHeader)
	return err == nil && r.Buffered() >= wireHeader+int(binary.LittleEndian.Uint32(h))
}

func (s *wireServer) handle(m wireMessage) (waiting int) {
	if m.flags&wirePush != 0 {
		s.tally.take(m.payload)
		return 0
	}
	waiting, _ = m.from.put(m.session, 0, m.payload) // an error: the reader finds it too
	return waiting
}

// readWire reads a frame. A small payload that is not to be kept is valid until
// the next read.
func readWire(r *bufio.Reader, keep bool) (m wireMessage, err error) {
	h, err := r.Peek(wireHeader)
	if err != nil {
		return m, err
	}
	n := int(binary.LittleEndian.Uint32(h))
	m.session, m.flags = binary.LittleEndian.Uint64(h[4:]), h[12]
	if n <= wireCopied && !keep {
		whole, err := r.Peek(wireHeader + n)
		if err != nil {
			return m, err
		}
		m.payload = whole[wireHeader:]
		_, err = r.Discard(len(whole))
		return m, err
	}
	if _, err := r.Discard(wireHeader); err != nil {
		return m, err
	}
	m.payload = make([]byte, n)
	_, err = io.ReadFull(r, m.payload)
	return m, err
}

// The bounds of a mailbox; at them the reader waits.
const (
	mailboxMessages = 16384
	mailboxBytes    = 128 << 20
)

// wireMailbox runs the handlers of one target in one goroutine.
type wireMailbox struct {
	server *wireServer
	wake   chan struct{} // has one place

	mu    sync.Mutex
	room  *sync.Cond
	queue []wireMessage
	spare []wireMessage
	bytes int
}

func newWireMailbox(s *wireServer) *wireMailbox {
	m := &wireMailbox{server: s, wake: make(chan struct{}, 1)}
	m.room = sync.NewCond(&m.mu)
	return m
}

// put queues a message. The goroutine is woken where much waits; otherwise the
// reader does it.
func (m *wireMailbox) put(msg wireMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.queue) >= mailboxMessages || m.bytes >= mailboxBytes {
		m.signal()
		m.room.Wait()
	}
	m.queue = append(m.queue, msg)
	m.bytes += len(msg.payload)
	if m.bytes >= wireEager {
		m.signal()
	}
}

func (m *wireMailbox) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *wireMailbox) run() {
	for range m.wake {
		m.mu.Lock()
		queue := m.queue
		m.queue, m.spare, m.bytes = m.spare[:0], nil, 0
		m.mu.Unlock()
		m.room.Broadcast()
		var last *wireWriter
		for i := range queue {
			msg := queue[i]
			queue[i] = wireMessage{}
			if last != nil && last != msg.from {
				last.flush()
			}
			last = msg.from
			if m.server.handle(msg) > wireEager {
				last.signal()
			}
		}
		if last != nil {
			last.flush()
		}
		m.mu.Lock()
		m.spare = queue
		m.mu.Unlock()
	}
}
