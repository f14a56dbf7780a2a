package mesh

import (
	"errors"
	"slices"

	"github.com/meshnode/meshnode/pkg/channel"
)

// hand gives the message to a program. Under the group's lock.
func (in *inbound) hand(p *channel.Program, name string) {
	taken, refused := p.Forward(&in.req, name, in.mesh.guard.caller(&in.req).String(), in)
	switch {
	case refused != nil:
		in.refuse(refused)
	case !taken: // it has just ended
		in.putBack()
	case in.Push:
		in.mesh.work.remove(in)
	}
}

// refuse ends a message that no program has. Under the group's lock.
func (in *inbound) refuse(f *channel.Failure) {
	in.mesh.work.remove(in)
	in.end(cancelled)
	in.req.DropPayload()
	if in.Push {
		in.mesh.ch.Counters.PushesRefused.Add(1)
	}
	in.req.Fail(f)
}

// putBack returns the message to the head of its queue. Under the group's lock.
func (in *inbound) putBack() {
	if err := in.svc.reg.PutBack(in); err != nil {
		in.refuse(in.svc.programs.left())
	}
}

// Answered is called by the program's stream: the call has its answer.
func (in *inbound) Answered(reply channel.Reply, f *channel.Failure) {
	in.mesh.work.remove(in)
	in.end(cancelled)
	if f == nil {
		in.req.Reply(reply)
		return
	}
	f.Details = slices.DeleteFunc(f.Details, ofMesh) // no facts about this message
	in.req.Fail(f)
}

// Returned is called by the program's stream: the message certainly did not
// start, and waits again.
func (in *inbound) Returned() {
	g := in.svc.programs
	g.mu.Lock()
	defer g.mu.Unlock()
	if in.Push {
		in.mesh.work.add(in)
	}
	in.putBack()
}

// cancelPassed is Cancel for a message of a program's name.
func (in *inbound) cancelPassed(cause error) (neverStarted bool) {
	g := in.svc.programs
	g.mu.Lock()
	to := in.req.PassedTo()
	neverStarted = in.svc.reg.Remove(in)
	if !neverStarted && to != nil {
		neverStarted = to.Cancel(&in.req, errors.Is(cause, channel.ErrDraining))
	}
	g.mu.Unlock()
	if neverStarted {
		in.mesh.work.remove(in)
		in.end(cancelled)
		in.req.DropPayload()
		if to != nil {
			in.mesh.programs.Room(to)
		}
	}
	return neverStarted
}
