package channel

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
)

// sender is the thin shell around a node: lock, clock, goroutines, gRPC. The
// node calls its host methods under the lock; none of them blocks.
type sender struct {
	m *Manager

	mu    sync.Mutex
	node  node
	stop  context.CancelFunc // of the dial that runs
	timer *time.Timer        // of the pause
	links map[*dialled]struct{}
	none  chan struct{} // closed when links became empty; nil where nobody waits
	muted bool          // wake does nothing: the caller will write itself
}

// dialled is the dialling end of a link.
type dialled struct {
	*link
	conn  *onceConn
	drain *time.Timer
	// Who is in Send, or about to be; under the sender's lock.
	writing bool // the writer
	direct  bool // a caller
}

// free says that nobody is in Send, and that a small one would return at once.
func (d *dialled) free() bool { return !d.writing && !d.direct && d.sent.all() }

func newSender(m *Manager, name string) *sender {
	s := &sender{m: m, links: make(map[*dialled]struct{})}
	s.node = node{
		host: s, name: name, self: m.opt.Process, limits: m.opt.Limits, timing: m.opt.timing(),
		counters: &m.Counters, insecure: m.opt.Insecure || m.opt.Security.Dial != nil, noWaiting: m.noWaiting, closed: m.shut,
	}
	return s
}

// wait waits for the outcome of a call that is in the line or beyond.
func (s *sender) wait(ctx context.Context, c *call, room bool) (Reply, error) {
	var full <-chan time.Time
	if room {
		t := time.NewTimer(max(s.node.timing.sendWait, 0))
		defer t.Stop()
		full = t.C
	}
	for {
		var cause error
		select {
		case o := <-c.done:
			return s.m.finish(c, o)
		case <-ctx.Done():
			cause = ctx.Err()
		case <-full:
			cause = ErrOverloaded
			full = nil
		}
		s.mu.Lock()
		if cause == ErrOverloaded && c.place != placeRoom {
			s.mu.Unlock() // it found room in time; now it waits for the node
			continue
		}
		err := s.node.leave(c, cause)
		s.mu.Unlock()
		if err != nil {
			return Reply{}, err
		}
		return s.m.finish(c, <-c.done)
	}
}

func (s *sender) dial(gen uint64, addr string) {
	ctx, cancel := context.WithCancel(s.m.ctx)
	s.stop = cancel
	s.m.wg.Add(1)
	go func() {
		defer s.m.wg.Done()
		defer cancel()
		s.run(ctx, gen, addr)
	}()
}

func (s *sender) abandon() { s.stop() }

func (s *sender) after(d time.Duration) {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.node.timeout(time.Now())
	})
}

func (s *sender) wake(o *outlet) {
	if !s.muted {
		o.link.wake()
	}
}

// submit gives a message to the node. It returns true where the caller is to
// write it itself (writeDirect): on an idle link that saves waking the writer.
// A push is always left to the writer, so that pushes gather into batches.
func (s *sender) submit(c *call) (direct bool) {
	n := &s.node
	direct = !c.Push && !c.isLarge() && n.phase == phaseOpen && n.line.head == nil && n.link.quiet() && n.link.link.free()
	s.muted = direct
	n.submit(c)
	s.muted = false
	return direct && !c.settled
}

// writeDirect sends what submit has put into the line. It is called under the
// lock and gives it back.
func (s *sender) writeDirect() {
	o := s.node.link
	d := o.link
	b := d.batch()
	s.node.fill(o, b, time.Now())
	d.direct = true
	s.mu.Unlock()
	if !b.empty() {
		_ = d.send(b) // where it fails, the reader knows why
	}
	s.mu.Lock()
	d.direct = false
	more := s.node.line.head != nil || len(o.cancels) > 0 || o.blocked.head != nil || len(o.streams.ready) > 0 || o.ending || d.pulse.beat.Load()
	s.mu.Unlock()
	if more {
		d.wake()
	}
}

// fill is what the link's writer sends next.
func (s *sender) fill(d *dialled, o *outlet, b *batch) (halfClose bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.writing = false
	if d.direct {
		return false // that caller wakes the writer when it is done
	}
	d.addBeat(b)
	halfClose = s.node.fill(o, b, time.Now())
	d.writing = !b.empty()
	return halfClose
}

func (s *sender) cut(o *outlet, cause error) { o.link.end(cause) }
func (s *sender) recycle(c *call)            { s.m.calls.put(c) }
func (s *sender) random() float64            { return rand.Float64() }

func (s *sender) drain(o *outlet, bound time.Duration) {
	if o.link.drain != nil {
		o.link.drain.Stop()
	}
	o.link.drain = time.AfterFunc(bound, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.node.lost(o, errors.New("the drain time was over"), time.Now())
	})
}

func (s *sender) tell(i NodeInfo) {
	s.m.logState(i)
	s.m.tell(i)
}

// run is one dial, and then, where it is wanted, the reader of its link.
func (s *sender) run(ctx context.Context, gen uint64, addr string) {
	d, o, in, err := s.m.connect(ctx, s.node.name, addr)
	s.mu.Lock()
	wanted := s.node.dialled(gen, o, err, time.Now())
	if err == nil && wanted {
		s.links[d] = struct{}{}
	}
	s.mu.Unlock()
	if err != nil {
		if wanted {
			s.m.opt.Logger.Warn("dial failed", zap.String("node", s.node.name), zap.String("addr", addr), zap.Error(err))
		}
		return
	}
	if !wanted {
		d.hangUp(errors.New("the dial was abandoned"))
		return
	}
	defer s.forget(d)
	written := make(chan error, 1)
	go func() {
		err := d.write(func(b *batch) bool { return s.fill(d, o, b) })
		if err == nil {
			err = d.stream.(interface{ CloseSend() error }).CloseSend()
		}
		written <- err
	}()
	err = s.read(d, o, in)
	s.mu.Lock()
	s.node.lost(o, err, time.Now())
	s.mu.Unlock()
	d.end(errors.New("the link has ended"))
	<-written
	d.hangUp(err)
}

// read takes what the listener sends until the link ends: nil where the
// listener ended it in order.
func (s *sender) read(d *dialled, o *outlet, in *inbox) (cause error) {
	defer d.guard(&cause)
	for {
		if err := s.take(d, o, in); err != nil {
			return err
		}
		err := d.receive(in)
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case d.ctx.Err() != nil:
			return context.Cause(d.ctx)
		default:
			return causeOf(err)
		}
	}
}

// take hands the frames of one batch to the node, under one lock.
func (s *sender) take(d *dialled, o *outlet, in *inbox) error {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range in.frames {
		f := &in.frames[i]
		switch f.kind {
		case kindReply, kindFailure, kindPart, kindMessage, kindWindow, kindStreamHeaders:
			if !s.node.received(o, f, now) {
				s.m.Counters.FramesStray.Add(1)
			}
		case kindGoaway:
			s.node.goaway(o, f.goaway.GetLastSession(), cleanText(f.goaway.GetMessage()), now)
		case kindHeartbeat:
			d.heard(f)
		case kindHello:
			return errors.New("protocol error: a second hello")
		default:
			s.m.Counters.FramesStray.Add(1)
		}
	}
	s.node.watch(o, now)
	return nil
}

// forget notes that a link is gone for good.
func (s *sender) forget(d *dialled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.drain != nil {
		d.drain.Stop()
	}
	delete(s.links, d)
	if len(s.links) == 0 && s.none != nil {
		close(s.none)
		s.none = nil
	}
}

// shut lets the links end in order.
func (s *sender) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node.shut(time.Now())
}

// waitLinks waits until the links have ended, or ctx has.
func (s *sender) waitLinks(ctx context.Context) {
	s.mu.Lock()
	if len(s.links) == 0 {
		s.mu.Unlock()
		return
	}
	if s.none == nil {
		s.none = make(chan struct{})
	}
	none := s.none
	s.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}

// finish cuts what is left.
func (s *sender) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node.finish()
	if s.timer != nil {
		s.timer.Stop()
	}
}
