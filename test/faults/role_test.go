//go:build faults

package faults_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// The environment of a process that is a node of a test: this test's own binary.
const (
	roleEnv   = "FAULTS_ROLE"   // its name
	configEnv = "FAULTS_CONFIG" // config, as JSON
)

// config is what a node is told at its start.
type config struct {
	Addr    string // where it listens
	History string // the file to which it writes what it began
	Drain   time.Duration
	Limits  mesh.Limits
	TLS     *mesh.TLS
	Open    bool // plaintext off loopback: in a namespace of the test's own
	Log     bool // zap to standard output
}

// play is the process of a node: it says "ready ADDR", serves until SIGTERM, and
// answers "stats" on its standard input.
//
// Its services: @echo answers with what it got, @hold when its context ends,
// @serial as echo but one at a time, @panic not at all. Each writes the id that
// a payload begins with to the history before it does anything else.
func play(role string) error {
	var c config
	if err := json.Unmarshal([]byte(os.Getenv(configEnv)), &c); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM)
	history, err := os.OpenFile(c.History, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	o := mesh.Options{Name: role, DrainTime: c.Drain, Limits: c.Limits, TLS: c.TLS, Insecure: c.Open}
	if c.Log {
		if o.Logger, err = zap.NewProduction(); err != nil {
			return err
		}
	}
	m, err := mesh.New(o)
	if err != nil {
		return err
	}
	services(m, history)
	l, err := m.Open(c.Addr)
	if err != nil {
		return err
	}
	fmt.Println("ready", l.Addr())
	go answer(m)
	<-signals
	go func() { <-signals; os.Exit(143) }()
	return m.Close(context.Background())
}

// services hosts what a node answers. Writing to the history is one system call,
// so that a kill loses nothing that began.
func services(m *mesh.Mesh, history io.Writer) {
	var running atomic.Int64
	begin := func(payload []byte) {
		id, _, _ := strings.Cut(string(payload), " ")
		_, _ = io.WriteString(history, id+"\n")
	}
	add := func(name string, h mesh.Handler, opts ...mesh.ServiceOption) {
		if err := m.Register(name, m.NewService(h, opts...)); err != nil {
			panic(err)
		}
	}
	echo := func(_ context.Context, _ string, p []byte) ([]byte, error) { begin(p); return p, nil }
	add("@echo", echo, mesh.Concurrent(0))
	add("@serial", echo)
	add("@hold", func(ctx context.Context, _ string, p []byte) ([]byte, error) {
		begin(p)
		running.Add(1)
		defer running.Add(-1)
		<-ctx.Done()
		return nil, ctx.Err()
	}, mesh.Concurrent(1<<20))
	add("@deaf", func(_ context.Context, _ string, p []byte) ([]byte, error) {
		begin(p)
		select {}
	}, mesh.Concurrent(0))
	add("@slow", func(ctx context.Context, _ string, p []byte) ([]byte, error) {
		begin(p)
		select {
		case <-time.After(20 * time.Millisecond):
			return p, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, mesh.Concurrent(0))
	add("@panic", func(_ context.Context, method string, p []byte) ([]byte, error) {
		begin(p)
		switch method {
		case "nil":
			panic(nil)
		case "error":
			panic(errors.New("canary"))
		default:
			panic("canary")
		}
	}, mesh.Concurrent(0))
	add("@running", func(context.Context, string, []byte) ([]byte, error) {
		return fmt.Append(nil, running.Load()), nil
	})
}

// answer tells the process's figures to whoever asks on standard input.
func answer(m *mesh.Mesh) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		text, _ := json.Marshal(m.Stats())
		fmt.Println("stats", string(text))
	}
}
