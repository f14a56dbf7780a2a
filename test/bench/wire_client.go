package main

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
)

// wireClient matches replies with calls by session.
type wireClient struct {
	w *wireWriter

	mu      sync.Mutex
	last    uint64
	calls   map[uint64]chan []byte
	ended   bool
	stopped chan struct{} // closed when the reader has returned
}

func wireDial(plain bool) func(context.Context, string) (client, error) {
	return func(ctx context.Context, addr string) (client, error) { return dialWire(ctx, addr, plain) }
}

func dialWire(ctx context.Context, addr string, plain bool) (client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &wireClient{w: newWireWriter(conn, plain), calls: map[uint64]chan []byte{}, stopped: make(chan struct{})}
	go c.w.run()
	go c.read(bufio.NewReaderSize(conn, wireBuffer))
	return c, nil
}

func (c *wireClient) read(r *bufio.Reader) {
	defer close(c.stopped)
	defer c.end()
	for {
		m, err := readWire(r, true)
		if err != nil {
			return
		}
		c.mu.Lock()
		reply := c.calls[m.session]
		delete(c.calls, m.session)
		c.mu.Unlock()
		if reply != nil {
			reply <- m.payload // has room: a session is answered once
		}
	}
}

// end fails the calls that wait.
func (c *wireClient) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, reply := range c.calls {
		close(reply)
	}
	clear(c.calls)
}

// begin gives a call its session, and tells whether it is the only one.
func (c *wireClient) begin(reply chan []byte) (session uint64, alone bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return 0, false, errWireClosed
	}
	c.last++
	c.calls[c.last] = reply
	return c.last, len(c.calls) == 1, nil
}

func (c *wireClient) caller(ctx context.Context, target int) (caller, error) {
	return &wireCaller{client: c, ctx: ctx, target: byte(target), reply: make(chan []byte, 1)}, nil
}

func (c *wireClient) close() {
	c.w.close()
	<-c.stopped
}

type wireCaller struct {
	client *wireClient
	ctx    context.Context
	target byte
	reply  chan []byte
}

// call writes by itself where no other call is on its way; otherwise the writer
// finds more than one frame.
func (c *wireCaller) call(payload []byte) ([]byte, error) {
	session, alone, err := c.client.begin(c.reply)
	if err != nil {
		return nil, err
	}
	if _, err := c.client.w.put(session, c.target, payload); err != nil {
		return nil, err
	}
	if alone {
		c.client.w.flush()
	} else {
		c.client.w.signal()
	}
	select {
	case reply, ok := <-c.reply:
		if !ok {
			return nil, errWireClosed
		}
		return reply, nil
	case <-c.ctx.Done():
		return nil, errors.Join(errors.New("wire: no reply"), c.ctx.Err())
	}
}

func (c *wireCaller) push(payload []byte) error {
	if _, err := c.client.w.put(0, c.target|wirePush, payload); err != nil {
		return err
	}
	c.client.w.signal()
	return nil
}

func (c *wireCaller) close() error { return nil }
