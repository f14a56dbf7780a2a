// Package memnet is a network in memory for tests: it runs in virtual time
// (testing/synctest), and connections to an address can be cut, frozen in
// either direction, refused or left hanging.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// bufferBytes is what a direction holds before a writer waits, as a kernel's
// socket buffers do.
const bufferBytes = 64 << 10

// Net is one network. Its zero value is not usable; see New.
type Net struct {
	mu    sync.Mutex
	addrs map[string]*site
}

// site is an address, whether anyone listens there or not.
type site struct {
	listener *listener
	conns    map[*pair]struct{}
	hang     bool
	dials    int // attempts
	up, down bool
	next     int
}

// New makes an empty network.
func New() *Net { return &Net{addrs: make(map[string]*site)} }

func (n *Net) site(addr string) *site {
	s := n.addrs[addr]
	if s == nil {
		s = &site{conns: make(map[*pair]struct{})}
		n.addrs[addr] = s
	}
	return s
}

// Listen listens at addr, which is any text.
func (n *Net) Listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.site(addr)
	if s.listener != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, syscall.EADDRINUSE)
	}
	s.listener = &listener{n: n, addr: addr, accept: make(chan net.Conn, 128), closed: make(chan struct{})}
	return s.listener, nil
}

// Dial connects to addr. Where nobody listens it is refused; where Hang was
// said it waits for its context.
func (n *Net) Dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	s := n.site(addr)
	s.dials++
	if s.hang {
		n.mu.Unlock()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	l := s.listener
	if l == nil {
		n.mu.Unlock()
		return nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	}
	s.next++
	p := &pair{n: n, addr: addr, up: newPipe(), down: newPipe()}
	p.up.frozen, p.down.frozen = s.up, s.down
	s.conns[p] = struct{}{}
	local := address(fmt.Sprintf("client-%d", s.next))
	n.mu.Unlock()
	select {
	case l.accept <- &conn{p: p, in: p.up, out: p.down, local: address(addr), remote: local}:
		return &conn{p: p, in: p.down, out: p.up, local: local, remote: address(addr)}, nil
	case <-l.closed:
		p.reset()
		return nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	}
}

// Hang makes dials to addr wait for their contexts, or stops that.
func (n *Net) Hang(addr string, hang bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.site(addr).hang = hang
}

// Cut resets every connection to addr.
func (n *Net) Cut(addr string) {
	for _, p := range n.conns(addr) {
		p.reset()
	}
}

// Freeze stops the delivery of what is sent to addr (up) and from it (down), on
// its connections and on later ones: bytes wait as behind a cut cable. False
// lets them flow again.
func (n *Net) Freeze(addr string, up, down bool) {
	n.mu.Lock()
	s := n.site(addr)
	s.up, s.down = up, down
	n.mu.Unlock()
	for _, p := range n.conns(addr) {
		p.up.freeze(up)
		p.down.freeze(down)
	}
}

// Dials is how many dials to addr were tried.
func (n *Net) Dials(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.site(addr).dials
}

// Conns is how many connections to addr are open at both ends.
func (n *Net) Conns(addr string) (open int) {
	for _, p := range n.conns(addr) {
		if p.closed.Load() == 0 {
			open++
		}
	}
	return open
}

// Bytes is what was delivered to addr and from it on the open connections.
func (n *Net) Bytes(addr string) (up, down int64) {
	for _, p := range n.conns(addr) {
		up += p.up.count()
		down += p.down.count()
	}
	return up, down
}

func (n *Net) conns(addr string) []*pair {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ps []*pair
	for p := range n.site(addr).conns {
		ps = append(ps, p)
	}
	return ps
}

type address string

func (a address) Network() string { return "mem" }
func (a address) String() string  { return string(a) }

type listener struct {
	n      *Net
	addr   string
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

func (l *listener) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		if s := l.n.site(l.addr); s.listener == l {
			s.listener = nil
		}
		l.n.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.accept:
				_ = c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// pair is the two directions of a connection.
type pair struct {
	n        *Net
	addr     string
	up, down *pipe
	closed   atomic.Int32 // ends
}

func (p *pair) reset() {
	p.forget()
	p.up.end(syscall.ECONNRESET)
	p.down.end(syscall.ECONNRESET)
}

func (p *pair) forget() {
	p.n.mu.Lock()
	delete(p.n.site(p.addr).conns, p)
	p.n.mu.Unlock()
}

// pipe is one direction.
type pipe struct {
	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	frozen bool
	total  int64
	eof    bool  // the writer closed
	err    error // both ends: reset, or the reader closed
}

func newPipe() *pipe {
	p := &pipe{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

func (p *pipe) freeze(f bool) {
	p.mu.Lock()
	p.frozen = f
	p.mu.Unlock()
	p.cond.Broadcast()
}

func (p *pipe) end(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.mu.Unlock()
	p.cond.Broadcast()
}

func (p *pipe) closeWrite() {
	p.mu.Lock()
	p.eof = true
	p.mu.Unlock()
	p.cond.Broadcast()
}

func (p *pipe) count() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// conn is one end of a connection.
type conn struct {
	p             *pair
	in, out       *pipe
	local, remote net.Addr
	read, write   deadline
	once          sync.Once
}

// deadline wakes a waiting end when its time has come. It is guarded by the
// pipe's lock.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(p *pipe, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.at = t
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), p.cond.Broadcast)
	}
	p.cond.Broadcast()
}

func (c *conn) Read(b []byte) (int, error) {
	p := c.in
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.err != nil:
			return 0, p.err
		case c.read.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case p.frozen:
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			p.total += int64(n)
			p.cond.Broadcast()
			return n, nil
		case p.eof:
			return 0, io.EOF
		}
		p.cond.Wait()
	}
}

func (c *conn) Write(b []byte) (n int, err error) {
	p := c.out
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.err != nil:
			return n, p.err
		case p.eof:
			return n, net.ErrClosed
		case c.write.passed():
			return n, os.ErrDeadlineExceeded
		case len(p.buf) < bufferBytes:
			k := min(bufferBytes-len(p.buf), len(b)-n)
			p.buf = append(p.buf, b[n:n+k]...)
			n += k
			p.cond.Broadcast()
			if n == len(b) {
				return n, nil
			}
		}
		p.cond.Wait()
	}
}

// Close closes this end: the other reads what was sent, then the end of it, and
// cannot write any more.
func (c *conn) Close() error {
	c.once.Do(func() {
		if c.p.closed.Add(1) == 2 {
			c.p.forget()
		}
		c.out.closeWrite()
		c.in.end(errClosedByPeer)
		c.read.set(c.in, time.Time{})
		c.write.set(c.out, time.Time{})
	})
	return nil
}

var errClosedByPeer = errors.New("the connection is closed")

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(c.in, t)
	c.write.set(c.out, t)
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.read.set(c.in, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.write.set(c.out, t)
	return nil
}
