package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/meshnode/meshnode/pkg/mesh"
)

const aboutWaiting = `A node that is absent from the table's file is waited for, because the file is
watched meanwhile; with one that is down, or cannot be reached, it fails at once.
--no-wait does not wait for the former either, --wait-up waits for one that cannot
be reached too. All that within --timeout.`

// client is a process that sends one message and ends.
type client struct {
	table          tableFlags
	access         accessFlags
	timeout        time.Duration
	noWait, waitUp bool
	insecure       bool
	name           string
	headers        []string

	md    metadata.MD // what headers say
	trace mesh.Trace  // and these
}

func (c *client) add(flags *pflag.FlagSet) {
	c.table.add(flags)
	c.access.add(flags)
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long it may take, all in all; 0: for ever")
	flags.BoolVar(&c.noWait, "no-wait", false, "do not wait for a node that is absent")
	flags.BoolVar(&c.waitUp, "wait-up", false, "wait for a node that cannot be reached")
	flags.BoolVar(&c.insecure, "insecure", false, "speak plaintext to other machines too")
	flags.StringVar(&c.name, "name", "", "`NAME` of this process, which the service sees (default host name and process id)")
}

func (c *client) addHeader(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&c.headers, "header", "H", nil, "metadata for the service, `KEY=VALUE` or 'KEY: VALUE'; repeatable. traceparent and tracestate set the trace")
}

// parse completes the flags.
func (c *client) parse() error {
	if err := c.table.parse(); err != nil {
		return err
	}
	if !c.table.given() {
		return usagef("where are the nodes? Give --table FILE, or --node NODE=ADDR, or set %s", tableEnv)
	}
	if c.timeout < 0 {
		return usagef("--timeout %s: it cannot be negative; 0 is for ever", c.timeout)
	}
	if c.noWait && c.waitUp {
		return usagef("--no-wait and --wait-up: give one of them")
	}
	c.md = metadata.MD{}
	for _, h := range c.headers {
		key, value, ok := cutHeader(h)
		switch {
		case !ok || key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "":
			return usagef(`--header %q: write KEY=VALUE, the key with letters, digits, "-", "_" and "."`, h)
		case strings.HasPrefix(key, "grpc-"):
			return usagef("--header %q: keys that begin with grpc- are gRPC's own: choose another", h)
		case key == "traceparent":
			c.trace.Parent = value
		case key == "tracestate":
			c.trace.State = value
		default:
			c.md.Append(key, value)
		}
	}
	return nil
}

// cutHeader splits KEY=VALUE, or KEY: VALUE.
func cutHeader(h string) (key, value string, ok bool) {
	i := strings.IndexAny(h, "=:")
	if i < 0 {
		return "", "", false
	}
	value = h[i+1:]
	if h[i] == ':' {
		value = strings.TrimSpace(value)
	}
	return strings.ToLower(h[:i]), value, true
}

// options are those of the message.
func (c *client) options() []grpc.CallOption {
	opts := []grpc.CallOption{mesh.Owned, mesh.Headers(c.md)}
	if c.noWait {
		opts = append(opts, mesh.NoWait)
	}
	if c.waitUp {
		opts = append(opts, mesh.WaitUp)
	}
	return opts
}

// source is the table. Without a file nothing can bring a node that is absent.
func (c *client) source() (mesh.Table, error) {
	table, err := c.table.read()
	if err == nil && c.table.path == "" {
		table["__nowaiting"] = true
	}
	return table, err
}

// closingTime is how long the links of a process may take to end whose message
// has its outcome.
const closingTime = time.Second

// run joins the mesh, has send do its work, and leaves. A signal ends send, and a
// second one the process. ctx has the deadline.
func (c *client) run(send func(ctx context.Context, m *mesh.Mesh) error) error {
	drain := c.timeout
	if drain == 0 {
		drain = math.MaxInt64
	}
	o := mesh.Options{Name: c.name, Source: c.source, Insecure: c.insecure, DrainTime: drain}
	if err := c.access.options(&o); err != nil {
		return err
	}
	m, err := mesh.New(o)
	if err != nil {
		return usagef("%w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	watch, unwatch := context.WithCancel(ctx)
	defer unwatch()
	watching.Go(func() { c.table.watch(watch, m.Reload, nil) })
	if c.trace != (mesh.Trace{}) {
		ctx = mesh.WithTrace(ctx, c.trace)
	}
	err = explain(m, send(ctx, m))
	closing, cancel := context.WithTimeout(context.Background(), closingTime)
	defer cancel()
	_ = m.Close(closing) // the outcome is known
	return err
}

// explain adds to an error that the time was over why nothing was sent.
func explain(m *mesh.Mesh, err error) error {
	var e *mesh.Error
	if !errors.As(err, &e) || e.Verdict != mesh.NotSent || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	node := m.Node(e.Node)
	text := fmt.Sprintf("the node [%s] is %s", e.Node, node.State)
	if node.Reason != "" {
		text += " (" + node.Reason + ")"
	}
	return fmt.Errorf("%w: %s; --timeout sets how long to wait", e, text)
}
