package main

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// server is a process that is nodes, until a signal ends it.
type server struct {
	table                  tableFlags
	access                 accessFlags
	rules                  ruleFlags
	open, listen, examples []string
	name                   string
	drain                  time.Duration
	noWatch, insecure      bool
	allowServe             bool
	allowForward           bool
	logFormat, logLevel    string
	gateways               gateways
	reflection             bool

	log   *zap.Logger
	flush func() // the log's last lines
	m     *mesh.Mesh
	taken atomic.Pointer[mesh.Table] // the last
}

func (s *server) run() error {
	// From here on no signal kills; what comes too early waits.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	s.flush = func() {}
	defer func() { s.flush() }()
	if err := s.parse(); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	watch, unwatch := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	if !s.noWatch {
		watching.Go(func() { s.table.watch(watch, s.reloadWatched, s.refused) })
		s.watchAccess(watch, &watching)
	}
	for sig := range signals {
		if sig != syscall.SIGHUP {
			unwatch()
			watching.Wait()
			return s.end(sig, signals)
		}
		s.reload()
	}
	unwatch()
	return nil
}

// parse checks the flags before anything begins.
func (s *server) parse() (err error) {
	log, flush, err := newLogger(s.logFormat, s.logLevel)
	if err != nil {
		return err
	}
	s.log, s.flush = log, flush
	if err := s.table.parse(); err != nil {
		return err
	}
	if err := s.gateways.parse(); err != nil {
		return err
	}
	switch {
	case len(s.open)+len(s.listen)+len(s.gateways.addrs) == 0:
		return usagef("nothing to listen on: give --open NODE, --listen ADDR or --gateway ADDR")
	case len(s.open) > 0 && !s.table.given():
		return usagef("--open %s: where is it? Give --table FILE, or --node %s=ADDR, or set %s", s.open[0], s.open[0], tableEnv)
	case s.drain < 0:
		return usagef("--drain %s: it cannot be negative", s.drain)
	case s.drain == 0:
		s.drain = -1 // as mesh.Options has it
	}
	return nil
}

// start joins the mesh: services first, so that nobody finds them missing.
func (s *server) start() (err error) {
	o := mesh.Options{Name: s.name, Source: s.source, Logger: s.log, DrainTime: s.drain, AllowServe: s.allowServe, AllowForward: s.allowForward, Schema: transcoderFor, Insecure: s.insecure}
	if err := s.access.options(&o); err != nil {
		return err
	}
	if err := s.rules.options(&o); err != nil {
		return err
	}
	if s.m, err = mesh.New(o); err != nil {
		return usagef("%w", err)
	}
	defer func() {
		if err != nil {
			_ = s.m.Close(context.Background()) // err tells more
			s.gateways.unhost()
		}
	}()
	s.log.Info("links are secured so", s.guarded()...)
	if s.insecure && o.TLS == nil {
		s.log.Warn("insecure: what is said to and by other machines can be read and forged on the way")
	}
	var limits mesh.Limits
	s.log.Info("memory that peers can make this process hold, at most, beside the queues of the services",
		zap.Int64("bytes_per_peer", limits.PerPeer()), zap.Int64("bytes_per_listener", limits.AllPeers()),
		zap.Int("links_per_listener", limits.WithDefaults().Links))
	if s.allowServe {
		s.log.Info("programs may register names; memory for each, at most, the queues of its names included", zap.Int64("bytes_per_program", limits.PerProgram()))
	}
	if err := host(s.m, s.log, s.examples, s.reflection); err != nil {
		return err
	}
	if err := s.gateways.host(s.m, s.log); err != nil {
		return err
	}
	for _, node := range append(s.open[:len(s.open):len(s.open)], s.listen...) {
		if _, err := s.m.Open(node); err != nil {
			return cannotListen(s.log, node, err)
		}
	}
	if err := s.gateways.start(s.m, s.log); err != nil {
		_ = s.gateways.close(context.Background()) // nobody calls yet; err tells more
		return err
	}
	s.log.Info("serving", zap.String("name", s.m.Name()), zap.String("version", version), zap.Strings("nodes", s.open),
		zap.Strings("addresses", s.listen), zap.Strings("examples", s.examples))
	return nil
}

// cannotListen is the error of an address that is wrong, or cannot be had.
func cannotListen(log *zap.Logger, on string, err error) error {
	var broken *net.OpError
	if !errors.As(err, &broken) {
		return usagef("%w", err)
	}
	log.Error("cannot listen", zap.String("on", on), zap.Error(err))
	return &failure{code: exitFailed, err: err, logged: true}
}

// source is the table as it is now.
func (s *server) source() (mesh.Table, error) {
	t, err := s.table.read()
	if err == nil {
		s.taken.Store(&t)
	}
	return t, err
}

// reload is what SIGHUP does.
func (s *server) reload() {
	if !s.table.given() {
		s.log.Warn("SIGHUP: there is no table to read again")
		return
	}
	if err := s.m.Reload(nil); err != nil {
		s.refused(err)
		return
	}
	s.log.Info("table reloaded", zap.String("cause", "SIGHUP"))
}

// reloadWatched is what a change of the file does.
func (s *server) reloadWatched(t mesh.Table) error {
	if err := s.m.Reload(t); err != nil {
		return err
	}
	// The content that the process started with, or that SIGHUP took, is no news.
	if last := s.taken.Swap(&t); last == nil || !maps.Equal(*last, t) {
		s.log.Info("table reloaded", zap.String("cause", "the file changed"))
	}
	return nil
}

// refused tells that a table was not taken.
func (s *server) refused(err error) {
	s.log.Error("the table was not taken; everything stays as it was", zap.Error(err))
}

// drained ends the gateways, which call through the mesh, and then the mesh: all
// that within the drain time, of which the gateways have half.
func (s *server) drained() error {
	all, cancel := context.WithTimeout(context.Background(), max(s.drain, time.Millisecond))
	defer cancel()
	first, cancel := context.WithTimeout(all, max(s.drain, 0)/2)
	defer cancel()
	err := s.gateways.close(first)
	err = errors.Join(err, s.m.Close(all))
	s.gateways.unhost()
	return err
}

// end drains, unless a second signal comes.
func (s *server) end(sig os.Signal, signals <-chan os.Signal) error {
	s.log.Info("draining", zap.Stringer("signal", sig), zap.Duration("at_most", max(s.drain, 0)))
	closed := make(chan error, 1)
	go func() { closed <- s.drained() }()
	for {
		select {
		case err := <-closed:
			if err != nil {
				s.log.Error("ended, and not all of it in order", zap.Error(err))
				return &failure{code: exitFailed, err: err, logged: true}
			}
			s.log.Info("ended")
			return nil
		case sig := <-signals:
			if number, ok := sig.(syscall.Signal); ok && sig != syscall.SIGHUP {
				s.log.Warn("ended at once, by a second signal", zap.Stringer("signal", sig), zap.Int("handlers_running", s.m.Stats().Running))
				return &failure{code: 128 + int(number), err: errors.New(sig.String()), logged: true}
			}
		}
	}
}
