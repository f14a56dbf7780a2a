//go:build faults

package faults_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between a dialler and a node and breaks what passes. Up is the
// direction of the dialler's bytes.
type proxy struct {
	t  *testing.T
	to string
	l  net.Listener

	up, down lane

	mu    sync.Mutex
	conns map[*pair]struct{}
	wg    sync.WaitGroup
	taken atomic.Int64 // connections
}

// lane is one direction. Its fields may be changed while bytes pass.
type lane struct {
	delay   atomic.Int64 // nanoseconds that each piece is held
	jitter  atomic.Int64 // and up to so many more
	rate    atomic.Int64 // bytes a second; 0: as fast as it goes
	hole    atomic.Bool  // swallow all
	corrupt atomic.Int64 // one byte in so many is changed; 0: none
	passed  atomic.Int64 // bytes
	eaten   atomic.Int64 // bytes that the hole swallowed
	spoilt  atomic.Int64 // bytes that were changed
}

type pair struct{ client, server *net.TCPConn }

// newProxy listens and passes on to addr.
func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, to: to, l: l, conns: make(map[*pair]struct{})}
	p.wg.Go(p.accept)
	t.Cleanup(func() { _ = l.Close(); p.reset(); p.wg.Wait() })
	return p
}

func (p *proxy) addr() string { return p.l.Addr().String() }

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.taken.Add(1)
		_ = c.(*net.TCPConn).SetReadBuffer(128 << 10) // a line holds little; less than a segment of the loopback stalls TCP
		p.wg.Go(func() { p.pass(c.(*net.TCPConn)) })
	}
}

func (p *proxy) pass(client *net.TCPConn) {
	server, err := net.DialTimeout("tcp", p.to, time.Second)
	if err != nil {
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	c := &pair{client, server.(*net.TCPConn)}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.up.copy(c.server, c.client) })
	both.Go(func() { p.down.copy(c.client, c.server) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
	_ = c.client.Close()
	_ = c.server.Close()
}

// piece is what was read at one moment.
type piece struct {
	bytes []byte
	due   time.Time
}

// copy passes bytes on as the lane says, until either end closes.
func (l *lane) copy(to, from *net.TCPConn) {
	pieces := make(chan piece, 8)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 8<<10)
			n, err := from.Read(b)
			if n > 0 {
				hold := l.delay.Load()
				if j := l.jitter.Load(); j > 0 {
					hold += rand.Int64N(j)
				}
				pieces <- piece{b[:n], time.Now().Add(time.Duration(hold))}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if r := l.rate.Load(); r > 0 {
			time.Sleep(time.Duration(len(p.bytes)) * time.Second / time.Duration(r))
		}
		if l.hole.Load() {
			l.eaten.Add(int64(len(p.bytes)))
			continue
		}
		l.spoil(p.bytes)
		if _, err := to.Write(p.bytes); err != nil {
			_ = from.Close()
			for range pieces { // until the reader has ended
			}
			return
		}
		l.passed.Add(int64(len(p.bytes)))
	}
	_ = to.CloseWrite()
}

func (l *lane) spoil(b []byte) {
	if one := l.corrupt.Load(); one > 0 {
		for i := range b {
			if rand.Int64N(one) == 0 {
				b[i] ^= byte(1 + rand.IntN(255))
				l.spoilt.Add(1)
			}
		}
	}
}

// reset ends all connections with a RST at both ends, and says how many.
func (p *proxy) reset() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		for _, end := range []*net.TCPConn{c.client, c.server} {
			_ = end.SetLinger(0)
			_ = end.Close()
		}
		n++
	}
	return n
}

// finish sends a FIN up, and leaves the other direction open.
func (p *proxy) finish() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if c.server.CloseWrite() == nil {
			n++
		}
	}
	return n
}

// garbage listens and answers every connection with what speak does to it.
func garbage(t *testing.T, speak func(net.Conn)) (addr string, taken *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	taken = new(atomic.Int64)
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			taken.Add(1)
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() { speak(c); _, _ = io.Copy(io.Discard, c); _ = c.Close() })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String(), taken
}
