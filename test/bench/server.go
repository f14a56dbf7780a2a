package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"
)

// report is what a server says: one line of JSON for each line that it is told.
type report struct {
	Addr  string `json:"addr,omitempty"`
	Count int64  `json:"count"`
	Sum   uint64 `json:"sum"`
	Usage usage  `json:"usage"`
	Where where  `json:"where,omitempty"`
}

// usage is what a process has used up to a moment.
type usage struct {
	CPU     time.Duration `json:"cpu"`
	Mallocs uint64        `json:"mallocs"`
}

// What a server is told.
const (
	askBegin   = "begin"   // collect garbage, forget what was pushed, tell the usage
	askCount   = "count"   // tell what was pushed
	askUsage   = "usage"   // tell both
	askProfile = "profile" // begin a profile
	askWhere   = "where"   // end it, and tell what the time was spent on
)

func measureUsage() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{CPU: processCPU(), Mallocs: m.Mallocs}
}

// serve is the server role: it runs until its standard input ends, which it
// does at the latest when the client process ends.
func serve(name string) error {
	c, err := contestantNamed(name)
	if err != nil {
		return err
	}
	var t tally
	addr, stop, err := c.serve(&t)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer stop()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(report{Addr: addr}); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	var light spotlight
	for in.Scan() {
		var r report
		var err error
		switch in.Text() {
		case askBegin:
			runtime.GC()
			t.count.Store(0)
			t.sum.Store(0)
			r.Usage = measureUsage()
		case askUsage:
			r.Usage = measureUsage()
			fallthrough
		case askCount:
			r.Count, r.Sum = t.count.Load(), t.sum.Load()
		case askProfile:
			err = light.start()
		case askWhere:
			r.Where, err = light.stop()
		}
		if err != nil {
			return err
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return in.Err()
}

// serverProcess is the client's end of a process in server role.
type serverProcess struct {
	cmd  *exec.Cmd
	addr string

	mu  sync.Mutex
	in  *os.File
	out *os.File
	dec *json.Decoder
}

// answerTime bounds what a server may take for an answer, and to end.
const answerTime = 15 * time.Second

func startServer(name string, args ...string) (*serverProcess, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, childOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, childIn.Close(), in.Close())
	}
	cmd := exec.Command(exe, append([]string{"-role", "server", "-contestants", name}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = childIn, childOut, os.Stderr
	err = cmd.Start()
	_, _ = childIn.Close(), childOut.Close()
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	s := &serverProcess{cmd: cmd, in: in, out: out, dec: json.NewDecoder(out)}
	r, err := s.read()
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("server %s: %w", name, err)
	}
	s.addr = r.Addr
	return s, nil
}

func (s *serverProcess) read() (r report, err error) {
	if err := s.out.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return r, err
	}
	err = s.dec.Decode(&r)
	return r, err
}

func (s *serverProcess) ask(what string) (report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fmt.Fprintln(s.in, what); err != nil {
		return report{}, fmt.Errorf("server: %w", err)
	}
	r, err := s.read()
	if err != nil {
		return r, fmt.Errorf("server: %w", err)
	}
	return r, nil
}

// stop ends the process: by the end of its input, and by a signal to it alone
// where that does not help.
func (s *serverProcess) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.in.Close()
	kill := time.AfterFunc(answerTime, func() { _ = s.cmd.Process.Kill() })
	_ = s.cmd.Wait()
	kill.Stop()
	_ = s.out.Close()
}
