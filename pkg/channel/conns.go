package channel

import (
	"net"
	"sync"
)

// connListener keeps the connections that it accepted, because a hard cut
// closes the socket, and refuses more than its bound: they are closed at once,
// which the dialler sees as a failed connect.
type connListener struct {
	net.Listener
	limit int

	mu    sync.Mutex
	conns map[*keptConn]struct{}
	links int           // connections that carried a link
	none  chan struct{} // closed when there is none of them; nil where nobody waits
}

// unlinked returns a channel that is closed when no connection is left that
// carried a link.
func (l *connListener) unlinked() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	none := make(chan struct{})
	if l.links == 0 {
		close(none)
	} else {
		l.none = none
	}
	return none
}

func newConnListener(l net.Listener, limit int) *connListener {
	return &connListener{Listener: l, limit: limit, conns: make(map[*keptConn]struct{})}
}

// Accept waits for the next connection that fits.
func (l *connListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if k := l.keep(conn); k != nil {
			tune(conn)
			return k, nil
		}
		_ = conn.Close()
	}
}

func (l *connListener) keep(conn net.Conn) *keptConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.conns) >= l.limit {
		return nil
	}
	k := &keptConn{Conn: conn, l: l}
	k.ready.init(conn)
	l.conns[k] = struct{}{}
	return k
}

// cutAll closes every connection.
func (l *connListener) cutAll() {
	l.mu.Lock()
	conns := make([]*keptConn, 0, len(l.conns))
	for k := range l.conns {
		conns = append(conns, k)
	}
	l.mu.Unlock()
	for _, k := range conns {
		_ = k.Close()
	}
}

// keptConn is a connection whose address leads back to it: gRPC shows a handler
// the address of its peer and nothing else of the connection.
type keptConn struct {
	net.Conn
	l      *connListener
	ready  readyRead
	linked bool // under l.mu
}

func (k *keptConn) carryLink() {
	k.l.mu.Lock()
	defer k.l.mu.Unlock()
	if _, open := k.l.conns[k]; open && !k.linked {
		k.linked = true
		k.l.links++
	}
}

// RemoteAddr is the peer's, as a *connAddr.
func (k *keptConn) RemoteAddr() net.Addr { return &connAddr{k.Conn.RemoteAddr(), k} }

// Close closes the connection and forgets it.
func (k *keptConn) Close() error {
	k.l.mu.Lock()
	delete(k.l.conns, k)
	if k.linked {
		k.linked = false
		if k.l.links--; k.l.links == 0 && k.l.none != nil {
			close(k.l.none)
			k.l.none = nil
		}
	}
	k.l.mu.Unlock()
	return k.Conn.Close()
}

type connAddr struct {
	net.Addr
	conn *keptConn
}
