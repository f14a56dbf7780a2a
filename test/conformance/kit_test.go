package conformance_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// kit is what a case works with: a driver, and the nodes that it makes.
type kit struct {
	*testing.T
	d       *driver
	serial  *atomic.Int64 // of names of links and serves
	command string        // starts one more driver
	over    chan struct{} // closed when the case is over, before anything is cleaned up
}

// testCase is one row of the table.
type testCase struct {
	name string
	// slow cases wait for the clock and run beside each other.
	slow bool
	run  func(k *kit)
}

func (k *kit) name(prefix string) string { return fmt.Sprintf("%s%d", prefix, k.serial.Add(1)) }

// link makes a helper's link to addr, which is closed when the case ends.
func (k *kit) link(addr string, options ...fields) string {
	k.Helper()
	name := k.name("link")
	k.ok(k.d.send(fields{"op": "link", "link": name, "address": addr, "node": "db"}.with(options...)))
	k.Cleanup(func() { k.settle(k.d.send(fields{"op": "close", "link": name, "timeout_ms": 1000})) })
	return name
}

// settle waits for an answer of whatever kind.
func (k *kit) settle(p *pending) {
	select {
	case <-p.done:
	case <-time.After(patience):
		k.Errorf("%v: no answer within %s", p.op["op"], patience)
	}
}

func (k *kit) call(link, target, method string, more ...fields) *pending {
	return k.d.send(fields{"op": "call", "link": link, "target": target, "method": method}.with(more...))
}

func (k *kit) push(link, target, method string, more ...fields) *pending {
	return k.d.send(fields{"op": "push", "link": link, "target": target, "method": method}.with(more...))
}

func (k *kit) cancel(p *pending) {
	k.Helper()
	k.ok(k.d.send(fields{"op": "cancel", "call": p.id}))
}

func (k *kit) close(link string) *pending {
	return k.d.send(fields{"op": "close", "link": link, "timeout_ms": 10000})
}

// outcome is the answer, which has to come.
func (k *kit) outcome(p *pending) answer {
	k.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		k.Fatalf("%s: no answer within %s", p, patience)
	}
	return p.got
}

func (p *pending) String() string {
	return strings.TrimSpace(fmt.Sprintf("%v %v %v", p.op["op"], p.op["target"], p.op["method"]))
}

func (p *pending) answered() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (k *kit) ok(p *pending) answer {
	k.Helper()
	a := k.outcome(p)
	if !a.OK {
		k.Fatalf("%s: %s", p, a.Error)
	}
	return a
}

// replies says that a call has this reply.
func (k *kit) replies(p *pending, want []byte) answer {
	k.Helper()
	a := k.ok(p)
	if err := a.holds(want); err != nil {
		k.Errorf("%s: %v", p, err)
	}
	return a
}

// fails says that a call fails so; verdict and reason may name several, with |.
func (k *kit) fails(p *pending, verdict, reason string, code int) *failed {
	k.Helper()
	a := k.outcome(p)
	if a.OK {
		k.Fatalf("%s: it succeeded, want %s, reason %q, code %d", p, verdict, reason, code)
	}
	if !oneOf(a.Error.Verdict, verdict) || !oneOf(a.Error.Reason, reason) || a.Error.Code != code {
		k.Errorf("%s: got %s; want %s, reason %q, code %d", p, a.Error, verdict, reason, code)
	}
	return a.Error
}

func oneOf(got, want string) bool {
	for w := range strings.SplitSeq(want, "|") {
		if got == w {
			return true
		}
	}
	return false
}

// within says that it took from least to most since began.
func (k *kit) within(what string, began time.Time, least, most time.Duration) {
	k.Helper()
	if took := time.Since(began); took < least || took > most {
		k.Errorf("%s took %s, want %s to %s", what, took.Round(time.Millisecond), least, most)
	}
}

// eventually waits for something that has to become true.
func (k *kit) eventually(what string, f func() bool) {
	k.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.Fatalf("%s: not within %s", what, patience)
		}
	}
}

const (
	notSent  = "not sent"
	rejected = "rejected"
	maybe    = "maybe executed"
	ran      = "handler failed"
)
