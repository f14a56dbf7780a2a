package conformance_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// patience is how long a driver may take for what needs no waiting.
const patience = 15 * time.Second

// driver is a helper's program: ops go in, answers and events come out.
type driver struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr *tail
	info   answer
	gone   chan struct{} // closed when it has ended

	mu      sync.Mutex
	last    int
	waiting map[int]*pending
	events  map[string]chan event // by serve
	serveOf map[int]string        // by request
	broken  error                 // the contract, by the driver
}

// pending is an op whose answer is due.
type pending struct {
	op   fields
	id   int
	done chan struct{}
	got  answer // when done is closed
}

// startDriver starts the program and asks who it is.
func startDriver(command ...string) (*driver, error) {
	d := &driver{cmd: exec.Command(command[0], command[1:]...), stderr: &tail{}, gone: make(chan struct{}), waiting: map[int]*pending{}, events: map[string]chan event{}, serveOf: map[int]string{}}
	d.cmd.Dir = "../.."
	d.cmd.Stderr = d.stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.cmd.WaitDelay = time.Second
	var err error
	if d.stdin, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go d.read(stdout)
	p := d.send(fields{"op": "info"})
	select {
	case <-p.done:
	case <-time.After(60 * time.Second): // a virtual machine may be slow to start
		d.kill()
		<-d.gone
	}
	d.info = p.got
	if !d.info.OK || d.info.Language == "" {
		d.stop()
		return nil, fmt.Errorf("the driver did not answer info: %s\n%s", d.info.Error, d.stderr)
	}
	return d, nil
}

func (d *driver) has(feature string) bool {
	for _, f := range d.info.Features {
		if f == feature {
			return true
		}
	}
	return false
}

// send writes one op.
func (d *driver) send(op fields) *pending {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	p := &pending{op: op, id: d.last, done: make(chan struct{})}
	line, err := json.Marshal(op.with(fields{"id": p.id}))
	if err == nil {
		d.waiting[p.id] = p
		_, err = d.stdin.Write(append(line, '\n'))
	}
	if err != nil {
		delete(d.waiting, p.id)
		p.fail("the driver takes no ops: " + err.Error())
	}
	return p
}

func (p *pending) fail(why string) {
	p.got = answer{ID: p.id, Error: &failed{Message: why}}
	close(p.done)
}

// read takes what the driver says, until it ends.
func (d *driver) read(stdout io.Reader) {
	r := bufio.NewReaderSize(stdout, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			d.take(line)
		}
		if err != nil {
			break
		}
	}
	_ = d.cmd.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, p := range d.waiting {
		delete(d.waiting, id)
		p.fail("the driver ended: " + d.cmd.ProcessState.String())
	}
	close(d.gone)
}

func (d *driver) take(line []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		d.broken = fmt.Errorf("a line that is no JSON object as agreed: %v: %.200q", err, line)
		return
	}
	if e.Event != "" {
		if e.Serve != "" {
			d.serveOf[e.Request] = e.Serve
		}
		e.Serve = d.serveOf[e.Request]
		d.eventsOf(e.Serve) <- e
		return
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		d.broken = fmt.Errorf("an answer that is not as agreed: %v: %.200q", err, line)
		return
	}
	p := d.waiting[a.ID]
	if p == nil {
		d.broken = fmt.Errorf("an answer to no op, or a second one: %.200q", line)
		return
	}
	delete(d.waiting, a.ID)
	if !a.OK && a.Error == nil {
		a.Error = &failed{Message: "ok is false and there is no error"}
	}
	p.got = a
	close(p.done)
}

// eventsOf is where the events of a serve go. The lock is held.
func (d *driver) eventsOf(serve string) chan event {
	c := d.events[serve]
	if c == nil {
		c = make(chan event, 10000)
		d.events[serve] = c
	}
	return c
}

// misdeed is how the driver broke the contract since it was asked last.
func (d *driver) misdeed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.broken
	d.broken = nil
	return err
}

func (d *driver) ended() bool {
	select {
	case <-d.gone:
		return true
	default:
		return false
	}
}

// kill ends the driver and what it started.
func (d *driver) kill() { _ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) }

// stop closes stdin: the driver exits with 0 at once.
func (d *driver) stop() error {
	_ = d.stdin.Close()
	select {
	case <-d.gone:
	case <-time.After(5 * time.Second):
		d.kill()
		<-d.gone
		return errors.New("the driver did not end within 5 s after the end of its stdin")
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the driver ended with %s, want exit status 0\n%s", d.cmd.ProcessState, d.stderr)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	if n := len(t.text) - 16<<10; n > 0 {
		t.text = append(t.text[:0], t.text[n:]...)
	}
	return len(b), nil
}

// String takes what is kept away.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := string(t.text)
	t.text = t.text[:0]
	return s
}
