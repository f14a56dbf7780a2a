package channel

import (
	"context"
	"errors"
	"io"
	"time"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// run is the reader: it reads until the program half-closes or the stream ends,
// and then returns or ends what the program had.
func (p *Program) run() {
	cause := p.read()
	if cause == nil {
		p.halfClosed()
		<-p.d.ctx.Done()
	}
	p.d.end(cause)
	p.release(cause)
}

func (p *Program) read() (cause error) {
	defer p.d.guard(&cause)
	for {
		if err := p.take(); err != nil {
			return err
		}
		if err := p.awaitAnswers(); err != nil {
			return err
		}
		if err := p.d.receive(p.in); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return readError(err)
		}
	}
}

// take handles the frames of one batch.
func (p *Program) take() error {
	now := time.Now()
	for i := range p.in.frames {
		f := &p.in.frames[i]
		switch f.kind {
		case kindHello:
			return protocolError("a second hello")
		case kindRegister:
			p.register(f)
		case kindUnregister:
			handle, refused := p.m.opt.Registrar.Unregister(p, f.unregister.GetName())
			p.answer(f, handle, refused)
		case kindRequest:
			p.answer(f, 0, Refuse(meshv1.Reason_REASON_INVALID_REQUEST, "invalid request: a program that serves is sent requests here and makes none; its own calls go by Link or Call"))
		default:
			p.mu.Lock()
			p.hear(f, now)
			p.unlock()
			if f.kind == kindGoaway {
				p.m.opt.Registrar.Leaving(p)
			}
		}
	}
	p.mu.Lock()
	p.node.watch(p.o, now)
	p.unlock()
	return nil
}

// hear handles what answers a request. Under the lock.
func (p *Program) hear(f *frame, now time.Time) {
	switch f.kind {
	case kindReply, kindFailure, kindPart:
		if !p.node.received(p.o, f, now) {
			p.m.Counters.FramesStray.Add(1)
		}
	case kindHeartbeat:
		p.d.heard(f)
	case kindGoaway:
		p.node.goaway(p.o, f.goaway.GetLastSession(), cleanText(f.goaway.GetMessage()), now)
	default:
		p.m.Counters.FramesStray.Add(1)
	}
	if p.node.link == nil {
		p.unsent()
	}
}

// register offers a name. Requests for it come after the answer.
func (p *Program) register(f *frame) {
	p.mu.Lock()
	p.mute = true
	out := p.node.link == nil || p.leaving
	p.mu.Unlock()
	if out {
		p.answer(f, 0, Refuse(meshv1.Reason_REASON_DRAINING, "this end of the stream is leaving"))
		return
	}
	handle, refused := p.m.opt.Registrar.Register(p, f.register.GetName(), f.register.GetShared())
	p.mu.Lock()
	p.mute, p.wanting = false, true
	p.mu.Unlock()
	p.answer(f, handle, refused)
}

// answer queues what a register or unregister is answered.
func (p *Program) answer(f *frame, handle uint64, refused *Failure) {
	a := frame{session: f.session, kind: kindRegistered, registered: &meshv1.Registered{Handle: handle}}
	if refused != nil {
		a = frame{session: f.session, kind: kindFailure, failure: refused.wire()}
	}
	p.mu.Lock()
	p.answers = append(p.answers, a)
	p.d.wake()
	p.unlock()
}

// awaitAnswers stops the reading while too many answers wait to be sent.
func (p *Program) awaitAnswers() error {
	p.mu.Lock()
	if len(p.answers) < maxAnswers {
		p.mu.Unlock()
		return nil
	}
	heard := make(chan struct{})
	p.heard = heard
	p.mu.Unlock()
	p.d.stop()
	select {
	case <-heard:
		p.d.resume()
		return nil
	case <-p.d.ctx.Done():
		return context.Cause(p.d.ctx)
	}
}

// halfClosed notes that the program has nothing more to say.
func (p *Program) halfClosed() {
	p.d.pulse.eof.Store(true)
	p.mu.Lock()
	p.eof = true
	p.node.lost(p.o, nil, time.Now())
	p.unsent()
	p.d.wake()
	p.unlock()
	p.m.opt.Registrar.Leaving(p)
}

// leave lets the program answer what it has been sent and is being sent, and
// then ends the stream.
func (p *Program) leave() {
	p.mu.Lock()
	if !p.leaving {
		p.leaving, p.final = true, errLeaving
		p.o.ending = true
		p.d.wake()
	}
	p.unlock()
	p.m.opt.Registrar.Leaving(p)
}

// release ends what the stream's end leaves behind: calls that it had may have
// run, what had not left is returned. The reader has ended.
func (p *Program) release(cause error) {
	if cause == nil {
		cause = errors.New("the program ended its stream")
	}
	p.mu.Lock()
	p.node.lost(p.o, cause, time.Now())
	p.unsent()
	if p.d.drain != nil {
		p.d.drain.Stop()
	}
	p.unlock()
	p.m.opt.Registrar.Gone(p)
}
