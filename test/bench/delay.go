package main

import (
	"net"
	"sync"
	"time"
)

// delayLine is a line between two processes that is far and fast: a TCP proxy in
// the client's process that hands on what it reads after a time, in both
// directions. It holds as much as is on its way.
type delayLine struct {
	net.Listener
	to  string
	one time.Duration // a direction's: half of the round trip

	mu    sync.Mutex
	conns []net.Conn
}

// newDelayLine begins one that leads to an address.
func newDelayLine(to string, roundTrip time.Duration) (*delayLine, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &delayLine{Listener: l, to: to, one: roundTrip / 2}
	go d.accept()
	return d, nil
}

func (d *delayLine) accept() {
	for {
		near, err := d.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", d.to)
		if err != nil {
			_ = near.Close()
			continue
		}
		d.mu.Lock()
		d.conns = append(d.conns, near, far)
		d.mu.Unlock()
		go d.carry(near, far)
		go d.carry(far, near)
	}
}

// piece is what was read at once, and when it has arrived.
type piece struct {
	bytes []byte
	due   time.Time
}

// maxPieces bounds what is on its way: 64 MiB at the most.
const maxPieces = 1024

func (d *delayLine) carry(from, to net.Conn) {
	pieces := make(chan piece, maxPieces)
	go func() {
		defer func() { _ = to.Close() }()
		for p := range pieces {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.bytes); err != nil {
				break
			}
		}
		for range pieces { // the reader must not wait for one who is gone
		}
	}()
	defer close(pieces)
	for {
		b := make([]byte, 64<<10)
		n, err := from.Read(b)
		if n > 0 {
			pieces <- piece{b[:n], time.Now().Add(d.one)}
		}
		if err != nil {
			return
		}
	}
}

// close ends the line and all that it carries.
func (d *delayLine) close() {
	_ = d.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		_ = c.Close()
	}
}
