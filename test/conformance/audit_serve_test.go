package conformance_test

import (
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// serveAudit is the audit of a Serve stream.
type serveAudit struct {
	rules
	own        uint64 // the last session of a register or unregister
	calls      map[uint64]*served
	unfinished map[uint64]*large // replies
	left       bool              // the program said goaway
}

// served is a request of the puppet's.
type served struct{ push, answered bool }

func (a *serveAudit) took(f *meshv1.Frame) {
	if !a.orderly(f) {
		return
	}
	n := f.GetSession()
	switch b := f.GetBody().(type) {
	case *meshv1.Frame_Register, *meshv1.Frame_Unregister:
		if n <= a.own {
			a.breaks(2, "register or unregister with session %d after %d", n, a.own)
		}
		a.own = n
	case *meshv1.Frame_Goaway:
		if a.left || n != 0 {
			a.breaks(2, "a second goaway, or one with a session")
		}
		a.left = true
	case *meshv1.Frame_Reply:
		a.answers(n, "reply")
		a.headers(b.Reply.GetHeaders(), b.Reply.GetTrailers())
		if l := a.begins(n, b.Reply.GetPayload(), b.Reply.GetTotalSize()); l != nil {
			if a.unfinished == nil {
				a.unfinished = map[uint64]*large{}
			}
			a.unfinished[n] = l
			a.room(a.unfinished)
		}
	case *meshv1.Frame_Failure:
		if a.unfinished[n] != nil { // it breaks off a reply that has begun
			delete(a.unfinished, n)
			return
		}
		a.answers(n, "failure")
		a.headers(b.Failure.GetHeaders(), b.Failure.GetTrailers())
	case *meshv1.Frame_Part:
		l := a.unfinished[n]
		if l == nil {
			a.breaks(4, "a part of session %d, which began no large reply", n)
		} else if a.goesOn(n, l, len(b.Part.GetPayload())) {
			delete(a.unfinished, n)
		}
	default:
		a.breaks(2, "a frame that a program does not send: %s", short(f))
	}
}

// answers looks at the one answer of a call.
func (a *serveAudit) answers(n uint64, what string) {
	c := a.calls[n]
	switch {
	case c == nil:
		a.breaks(4, "a %s for session %d, which is no request", what, n)
	case c.push:
		a.breaks(4, "a %s for the push %d", what, n)
	case c.answered:
		a.breaks(4, "a second answer for session %d: %s", n, what)
	default:
		c.answered = true
	}
}

func (a *serveAudit) said(f *meshv1.Frame) {
	a.saidHello(f)
	if a.calls == nil {
		a.calls = map[uint64]*served{}
	}
	if q := f.GetRequest(); q != nil && a.calls[f.GetSession()] == nil {
		a.calls[f.GetSession()] = &served{push: q.GetPush()}
	} else if f.GetBody() == nil && f.GetSession() != 0 { // answered: invalid request
		a.calls[f.GetSession()] = &served{}
	}
}
