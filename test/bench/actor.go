package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var actorNames = [targets]string{"echo", "other"}

// startRemote makes an actor system that listens, as every proto.actor process
// does: replies come over a connection of their own.
func startRemote() (*actor.ActorSystem, *remote.Remote) {
	system := actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	}))
	r := remote.NewRemote(system, remote.Configure("127.0.0.1", 0,
		remote.WithDialOptions(grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16*maxMessage), grpc.MaxCallSendMsgSize(16*maxMessage))),
		remote.WithServerOptions(grpc.MaxRecvMsgSize(16*maxMessage), grpc.MaxSendMsgSize(16*maxMessage)),
	))
	r.Start()
	return system, r
}

func actorServe(t *tally) (string, func(), error) {
	system, r := startRemote()
	props := actor.PropsFromFunc(func(c actor.Context) {
		m, ok := c.Message().(*wrapperspb.BytesValue)
		if !ok {
			return
		}
		if c.Sender() == nil {
			t.take(m.GetValue())
			return
		}
		c.Respond(m)
	})
	for _, name := range actorNames {
		if _, err := system.Root.SpawnNamed(props, name); err != nil {
			return "", nil, err
		}
	}
	return system.Address(), func() { r.Shutdown(false) }, nil
}

type actorClient struct {
	system *actor.ActorSystem
	remote *remote.Remote
	addr   string
}

func actorDial(_ context.Context, addr string) (client, error) {
	system, r := startRemote()
	return &actorClient{system, r, addr}, nil
}

func (c *actorClient) caller(ctx context.Context, target int) (caller, error) {
	return actorCaller{c.system, ctx, actor.NewPID(c.addr, actorNames[target])}, nil
}

func (c *actorClient) close() {
	c.remote.Shutdown(false)
	c.system.Shutdown()
}

type actorCaller struct {
	system *actor.ActorSystem
	ctx    context.Context
	pid    *actor.PID
}

func (c actorCaller) call(payload []byte) ([]byte, error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	reply, err := c.system.Root.RequestFuture(c.pid, &wrapperspb.BytesValue{Value: payload}, 10*time.Second).Result()
	if err != nil {
		return nil, err
	}
	m, ok := reply.(*wrapperspb.BytesValue)
	if !ok {
		return nil, fmt.Errorf("protoactor: the reply is a %T", reply)
	}
	return m.GetValue(), nil
}

// push copies, because the message is encoded later.
func (c actorCaller) push(payload []byte) error {
	c.system.Root.Send(c.pid, &wrapperspb.BytesValue{Value: bytes.Clone(payload)})
	return nil
}

func (actorCaller) close() error { return nil }
