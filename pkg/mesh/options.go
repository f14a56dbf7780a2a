package mesh

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/meshnode/meshnode/pkg/channel"
)

// Limits are the bounds of what a process holds. The zero value of a field means
// its default; the fields are listed in package channel and in docs/limits.md.
type Limits = channel.Limits

// Options configure a Mesh. The zero value works. Durations: zero is the
// default, a negative value switches the wait off where that is said.
type Options struct {
	// Name is what the process says of itself in every hello, for logs and for
	// handlers that ask who calls; it is no name of the table. Characters
	// other than letters, digits, '_', '-' and '.' become '-'. Default: host
	// name and process id.
	Name string
	// Source reads the table: once in New, and at every Reload(nil). It must not
	// call Reload itself. Default: none.
	Source func() (Table, error)
	// Logger gets what an operator acts upon. Default: none.
	Logger *zap.Logger
	// Interceptors run around every handler, the first outermost, as gRPC's
	// do. For a method of a generated service they see its messages and full
	// method; for a plain handler []byte and "/@name/METHOD". Messages that go on
	// to a program (AllowServe) pass none of them: Rules guard those.
	Interceptors []grpc.UnaryServerInterceptor
	// StreamInterceptors do so around the handlers of streams, and around those
	// of NewStreamService whatever their callers opened; a method that is no
	// stream has Interceptors also where it was opened as one.
	StreamInterceptors []grpc.StreamServerInterceptor
	// Limits bound what is held. Default: see Limits.
	Limits Limits

	// DialTimeout bounds a dial, the exchange of hellos included. Default 5 s.
	DialTimeout time.Duration
	// DrainTime is what calls in flight get when a node moves, a listener
	// closes or the process does. Default 10 s; negative: they are cut.
	DrainTime time.Duration
	// IdleTime is how long an unused link stays. Default 5 min; negative: for
	// ever.
	IdleTime time.Duration
	// SendWait is how long Send waits for room in the line. Default 1 s;
	// negative: not at all.
	SendWait time.Duration
	// CallTimeout is the deadline of calls whose context has none. Default:
	// none; such a call may wait for ever.
	CallTimeout time.Duration
	// HeartbeatInterval is the longest time for which a link carries nothing.
	// Default 2 s. A peer is dead after three of its intervals, and at least
	// 6 s.
	HeartbeatInterval time.Duration

	// TLS encrypts every link, with certificates at both ends. Default: none;
	// then plaintext is spoken, on loopback and unix sockets only.
	TLS *TLS
	// Tokens are secrets that a team shares, each of at least 16 visible ASCII
	// characters: the first is shown to peers, all are taken from them. A peer
	// that shows none of them is refused. Without TLS they are sent in clear,
	// and thus leave this machine only where Insecure is set. Default: none are
	// asked for.
	Tokens []string
	// Rules say which peers may call what; SetRules exchanges them. Default:
	// every peer that may link may call everything.
	Rules *Rules
	// AllowServe lets programs that cannot listen register names here and answer
	// for them (ClusterService.Serve). Whoever reaches a listener of this process
	// may then take any name that is free, so it is off unless told.
	AllowServe bool
	// AllowForward lets programs that keep no stream have this process call other
	// nodes for them (ClusterService.Call); where there are rules they need the
	// right "forward" as well. What those nodes see is a call of this process, so it is off
	// unless told. Calls to the services of this process need nothing: they are
	// open to whoever may link.
	AllowForward bool
	// Schema lets a unary Call give its payload as JSON: it finds the schema of a
	// full gRPC method by asking target, which is nil for the services of this
	// process. Its error is the caller's. Default: none; JSON is refused.
	Schema func(ctx context.Context, target grpc.ClientConnInterface, method string) (Transcoder, error)
	// Insecure allows plaintext off loopback and unix sockets.
	Insecure bool
	// Dial and Listen replace package net's, for tests and proxies.
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	Listen func(addr string) (net.Listener, error)
}

const defaultDrain = 10 * time.Second

// orDefault is the duration, or its default where it is zero; off is 0.
func orDefault(d, otherwise time.Duration) time.Duration {
	switch {
	case d == 0:
		return otherwise
	case d < 0:
		return 0
	default:
		return d
	}
}

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	if o.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "host"
		}
		o.Name = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	o.Name = channel.ProcessName(o.Name)
	if o.Dial == nil {
		o.Dial = channel.NetDial
	}
	if o.Listen == nil {
		o.Listen = channel.NetListen
	}
	o.Limits = o.Limits.WithDefaults()
	return o
}

// channel is the part of the options that pkg/channel needs.
func (o *Options) channel(incarnation uint32) channel.Options {
	return channel.Options{
		Process: o.Name, Incarnation: incarnation, Limits: o.Limits, Logger: o.Logger,
		Heartbeat:   max(orDefault(o.HeartbeatInterval, 2*time.Second), time.Millisecond),
		DialTimeout: max(orDefault(o.DialTimeout, 5*time.Second), time.Millisecond),
		Drain:       orDefault(o.DrainTime, defaultDrain),
		SendWait:    orDefault(o.SendWait, time.Second),
		Idle:        orDefault(o.IdleTime, 5*time.Minute),
		Insecure:    o.Insecure, Dial: o.Dial, Listen: o.Listen,
	}
}
