package script_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/meshnode/meshnode/pkg/mesh"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// process is one life of a process.
type process struct {
	w          *world
	name       string
	m          *mesh.Mesh
	commands   map[string]func(args)
	dead, over atomic.Bool // killed, stopped
	listeners  map[string]*mesh.Listener
	services   map[string]*mesh.Service
	proxies    map[string]*mesh.Proxy
	log        *observer.ObservedLogs
	source     string // the table that its source says

	mu    sync.Mutex
	ports map[string]net.Listener
	conns []net.Conn // that it dialled
}

func (w *world) newProcess(a args) {
	name := a.next()
	if old := w.processes[name]; old != nil && !old.over.Load() {
		panic("it lives")
	}
	core, log := observer.New(zap.WarnLevel)
	p := &process{
		w: w, name: name, log: log, source: "{}", listeners: map[string]*mesh.Listener{},
		services: map[string]*mesh.Service{}, proxies: map[string]*mesh.Proxy{}, ports: map[string]net.Listener{},
	}
	o := mesh.Options{
		Name: name, Dial: p.dial, Listen: p.listen, Insecure: true, Logger: zap.New(core),
		Source: func() (mesh.Table, error) { return parseTable(p.source) },
	}
	for _, option := range a {
		setOption(&o, option)
	}
	m, err := mesh.New(o)
	if err != nil {
		panic(err)
	}
	p.m, w.processes[name] = m, p
	p.commands = map[string]func(args){
		// reload [TABLE], and source TABLE, which is what a reload without one reads.
		"reload": p.reload,
		"source": func(a args) { p.source = strings.Join(a, " ") },
		"open":   p.open,
		"close": func(a args) {
			name, l := a.name(), p.listeners[a[0]]
			w.run(name, func(ctx context.Context) { p.tell(name, "closed", l.Close(ctx)) })
		},
		"service":    p.service,
		"register":   func(a args) { p.tell("", "", p.m.Register(a[0], p.services[a[1]])) },
		"unregister": func(a args) { p.m.Unregister(a[0]) },
		"end":        func(a args) { p.services[a[0]].Stop() },
		"proxy":      func(a args) { p.proxies[a[0]] = p.m.Proxy(a[1]) },
		"call":       func(a args) { p.send(a, false) },
		"send":       func(a args) { p.send(a, true) },
		// query TARGET [= VARIABLE].
		"query": func(a args) {
			p.run(a, func(ctx context.Context, o options, a args) (string, error) {
				h, err := p.m.Query(ctx, a[0], o.call...)
				if len(a) == 3 && err == nil {
					w.handles[a[2]] = h.String()
				}
				return "handle " + h.String(), err
			})
		},
		"names": p.names,
		"node":  func(a args) { p.tell("", w.state(p.m.Node(a[0])), nil) },
		"watch": p.watch,
		"waitready": func(a args) {
			p.run(a, func(ctx context.Context, _ options, a args) (string, error) { return "ready", p.m.WaitReady(ctx, a...) })
		},
		// stats FIELD...: of mesh.Stats.
		"stats": func(a args) {
			s := reflect.ValueOf(p.m.Stats())
			for i, name := range a {
				a[i] = fmt.Sprintf("%s %d", name, s.FieldByName(name).Int())
			}
			p.tell("", strings.Join(a, ", "), nil)
		},
		"log": p.logged,
	}
}

func setOption(o *mesh.Options, option string) {
	name, value, _ := strings.Cut(option, "=")
	field := reflect.ValueOf(o).Elem().FieldByName(name)
	if !field.IsValid() {
		field = reflect.ValueOf(&o.Limits).Elem().FieldByName(name)
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		n, _ := strconv.Atoi(value)
		d = time.Duration(n)
	}
	field.SetInt(int64(d))
}

func (p *process) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := p.w.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, conn)
	if p.dead.Load() {
		_ = conn.Close()
	}
	return conn, nil
}

func (p *process) listen(addr string) (net.Listener, error) {
	l, err := p.w.Listen(addr)
	if err == nil {
		p.mu.Lock()
		p.ports[addr] = l
		p.mu.Unlock()
	}
	return l, err
}

// kill ends the process as a crash does: for the others its connections break.
func (p *process) kill() {
	delete(p.w.processes, p.name)
	p.mu.Lock()
	p.dead.Store(true)
	for addr, l := range p.ports {
		_ = l.Close()
		p.w.Cut(addr)
	}
	for _, conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	p.w.beside.Go(func() { _ = p.m.Close(now) })
}

func (p *process) stop(name string) {
	p.w.run(name, func(ctx context.Context) {
		err := p.m.Close(ctx)
		p.mu.Lock()
		clear(p.ports) // others may listen there from now on
		p.mu.Unlock()
		p.over.Store(true)
		p.tell(name, "closed", err)
	})
}

// tell tells what happens in the process, while it lives: the text, or the error.
func (p *process) tell(who, text string, err error) {
	if err != nil {
		text = p.failure(err)
	}
	if text != "" && !p.dead.Load() {
		p.w.tell(event{who: who, text: text})
	}
}

// parseTable reads "{a: x:1}", or "a: x:1 | b: false", where | begins a line.
func parseTable(text string) (mesh.Table, error) {
	return mesh.ParseTable([]byte(strings.ReplaceAll(text, " | ", "\n")))
}

func (p *process) reload(a args) {
	var t mesh.Table
	var err error
	if len(a) > 0 {
		t, err = parseTable(strings.Join(a, " "))
	}
	if err == nil {
		err = p.m.Reload(t)
	}
	p.tell("", "", err)
}

func (p *process) open(a args) {
	l, err := p.m.Open(a[0])
	if err == nil {
		p.listeners[a[0]] = l
		p.tell("", "listening on "+l.Addr().String(), nil)
	}
	p.tell("", "", err)
}

// service NAME [concurrent N] [loud]. A name that begins with - is not
// registered. A loud one tells when its handler starts and ends.
func (p *process) service(a args) {
	name, unnamed := strings.CutPrefix(a[0], "-")
	opt := mesh.Serial()
	if i := slices.Index(a, "concurrent"); i > 0 {
		n, _ := strconv.Atoi(a[i+1])
		opt = mesh.Concurrent(n)
	}
	p.services[name] = p.m.NewService(p.handler(p.name+" "+name, slices.Contains(a, "loud")), opt)
	if !unnamed {
		p.tell("", "", p.m.Register(name, p.services[name]))
	}
}

// names NODE: what handle 0 says of the names there.
func (p *process) names(a args) {
	reply, err := p.m.Call(context.Background(), a[0]+":0000000000000000", "Names", nil)
	var r meshv1.NamesResponse
	p.tell("", "", errors.Join(err, proto.Unmarshal(reply, &r)))
	for _, n := range r.GetNames() {
		p.tell("", n.GetName()+" "+mesh.Handle(n.GetHandle()).String(), nil)
	}
}

// watch NODE... & NAME.
func (p *process) watch(a args) {
	name := a.name()
	p.w.run(name, func(ctx context.Context) {
		for i := range p.m.Watch(ctx, a...) {
			p.w.tell(event{who: name, text: i.Node + " " + p.w.state(i), node: i.Node})
		}
		p.tell(name, "the watch ended", nil)
	})
}

// state tells a node's state, and the lives of its process by their number.
func (w *world) state(i mesh.NodeInfo) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch i.State {
	case mesh.Up:
		if !slices.Contains(w.lives[i.Process], i.Incarnation) {
			w.lives[i.Process] = append(w.lives[i.Process], i.Incarnation)
		}
		return fmt.Sprintf("up: process %s, life %d", i.Process, slices.Index(w.lives[i.Process], i.Incarnation)+1)
	case mesh.Lost, mesh.Leaving:
		return i.State.String() + ": " + i.Reason
	default:
		return i.State.String()
	}
}

// log [WORD]: the warnings since the last time, those with that word in them.
func (p *process) logged(a args) {
	for _, e := range p.log.TakeAll() {
		text := e.Level.String() + ": " + e.Message
		for _, key := range []string{"node", "service", "method", "error"} {
			if v, has := e.ContextMap()[key]; has {
				text += fmt.Sprintf(" %s=%v", key, v)
			}
		}
		if strings.Contains(text, strings.Join(a, " ")) {
			p.tell("", text, nil)
		}
	}
}
