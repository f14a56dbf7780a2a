package channel

import (
	"context"
	"net"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Options configure a Manager. Everything but Dispatcher must be set; pkg/mesh
// knows the defaults.
type Options struct {
	Process     string // this process's name in every hello, see CheckProcess
	Incarnation uint32 // of this life of the process, never 0
	Limits      Limits // as WithDefaults returns them

	Heartbeat   time.Duration // this side sends something at least so often
	DialTimeout time.Duration // for a dial, hello and acceptance included
	Drain       time.Duration // for calls in flight on a link that ends; 0 cuts them
	SendWait    time.Duration // for a push to find room in the line
	Idle        time.Duration // after which an unused link is closed; 0: never

	Insecure bool // allow plaintext off loopback and unix sockets
	Security Security
	Dial     func(ctx context.Context, addr string) (net.Conn, error)
	Listen   func(addr string) (net.Listener, error)

	// Dispatcher takes what arrives. Nil refuses everything.
	Dispatcher Dispatcher
	// Registrar takes the programs that open Serve. Nil refuses them.
	Registrar Registrar
	// Unary answers the unary calls. Nil refuses them.
	Unary func(context.Context, *meshv1.CallRequest) (*meshv1.CallResponse, error)
	// ServerOptions and OnServer extend the gRPC server of each listener.
	ServerOptions []grpc.ServerOption
	OnServer      func(*grpc.Server)
	Logger        *zap.Logger
}

// Security says how links are secured, and who is at their other end. Its zero
// value is plaintext among peers of whom nothing is known.
type Security struct {
	// Dial secures the connection to a node; nil: plaintext.
	Dial func(node, addr string) credentials.TransportCredentials
	// Listen secures the connections to a listener; nil: plaintext.
	Listen credentials.TransportCredentials
	// Show is what the dialler shows when it opens a stream; nil: nothing.
	Show credentials.PerRPCCredentials
	// Identify returns the names that the peer proved to have; process is what
	// its hello says, "" where it says none. An error refuses it, and is a gRPC
	// status with a sentence. Nil: nothing is known of anybody.
	Identify func(stream context.Context, process string) ([]string, error)
}

func (s *Security) dial(node, addr string) credentials.TransportCredentials {
	if s.Dial == nil {
		return insecure.NewCredentials()
	}
	return s.Dial(node, addr)
}

func (s *Security) identify(stream context.Context, process string) ([]string, error) {
	if s.Identify == nil {
		return nil, nil
	}
	return s.Identify(stream, process)
}

// mayDial and mayListen say whether an address may be spoken to, and at (M61).
func (o *Options) mayDial(addr string) bool {
	return o.Insecure || o.Security.Dial != nil || IsLocal(addr)
}

func (o *Options) mayListen(addr string) bool {
	return o.Insecure || o.Security.Listen != nil || IsLocal(addr)
}

// NetDial is the default of Options.Dial.
func NetDial(ctx context.Context, addr string) (net.Conn, error) {
	network, address := Network(addr)
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tune(conn)
	return conn, nil
}

// NetListen is the default of Options.Listen.
func NetListen(addr string) (net.Listener, error) {
	network, address := Network(addr)
	return net.Listen(network, address)
}

const (
	backoffMin  = 100 * time.Millisecond // M15
	backoffMax  = 3 * time.Second
	leavingTime = 30 * time.Second
)

func (o *Options) timing() timing {
	return timing{
		drain: o.Drain, sendWait: o.SendWait, idle: o.Idle,
		backMin: backoffMin, backMax: backoffMax, leaving: leavingTime,
	}
}
