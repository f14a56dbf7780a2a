package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

var natsSubjects = [targets]string{"echo", "other"}

// natsServe runs the broker and the responder in one process, so that there is
// one hop between processes, as with the others. The responder is connected to
// its broker by TCP, as responders are; with nats.InProcessServer's pipe a
// message costs some 20 % less CPU at one caller and at 16 KiB, and more with
// many callers and pushes.
func natsServe(t *tally) (string, func(), error) {
	broker, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		MaxPayload: maxMessage, MaxPending: 1 << 30,
	})
	if err != nil {
		return "", nil, err
	}
	go broker.Start()
	if !broker.ReadyForConnections(10 * time.Second) {
		return "", nil, errors.New("nats: the broker does not start")
	}
	addr := broker.ClientURL()
	conn, err := nats.Connect(addr)
	if err != nil {
		return "", nil, err
	}
	for _, subject := range natsSubjects {
		sub, err := conn.Subscribe(subject, func(m *nats.Msg) {
			if m.Reply == "" {
				t.take(m.Data)
				return
			}
			_ = m.Respond(m.Data) // the caller sees that it has no reply
		})
		if err != nil {
			return "", nil, err
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return "", nil, err
		}
	}
	stop := func() {
		conn.Close()
		broker.Shutdown()
	}
	return addr, stop, conn.Flush()
}

type natsClient struct{ conn *nats.Conn }

func natsDial(_ context.Context, addr string) (client, error) {
	conn, err := nats.Connect(addr, nats.NoReconnect())
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	return natsClient{conn}, nil
}

func (c natsClient) caller(ctx context.Context, target int) (caller, error) {
	return natsCaller{c.conn, ctx, natsSubjects[target]}, nil
}

func (c natsClient) close() { c.conn.Close() }

type natsCaller struct {
	conn    *nats.Conn
	ctx     context.Context
	subject string
}

func (c natsCaller) call(payload []byte) ([]byte, error) {
	m, err := c.conn.RequestWithContext(c.ctx, c.subject, payload)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

func (c natsCaller) push(payload []byte) error { return c.conn.Publish(c.subject, payload) }

func (c natsCaller) close() error { return nil }
