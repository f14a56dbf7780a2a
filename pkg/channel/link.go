package channel

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// stream is what both ends of a gRPC stream have in common.
type stream interface {
	SendMsg(any) error
	RecvMsg(any) error
}

// link is one gRPC stream, the part that both ends share: a writer that turns
// what is ready into one Send, and a pulse that finds a dead peer. It has one
// terminal state: the first cause given to end wins.
type link struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	stream stream
	wakeup chan struct{} // has room for one
	limit  int           // BatchBytes of the peer
	pulse  pulse
	sent   sent
	logger *zap.Logger
}

// pulse is the evidence of life of a link (M37). Times are nanoseconds since
// base, on the monotonic clock.
type pulse struct {
	base     time.Time
	interval time.Duration // this side sends something at least so often
	silence  time.Duration // the peer is dead after so long without anything
	timer    *time.Timer

	sent        atomic.Int64 // when a Send last returned
	received    atomic.Int64 // when something last arrived
	sending     atomic.Int64 // when the Send that runs began, 0 for none
	beat        atomic.Bool  // a heartbeat is due
	stopped     atomic.Bool  // this side has stopped reading
	peerStopped atomic.Bool
	eof         atomic.Bool // the peer has half-closed: its silence is in order
}

var (
	errSilent       = errors.New("nothing arrived for too long: the peer is dead or cut off")
	errSlowConsumer = errors.New("slow consumer: a message could not be sent for 30 s and the peer did not say that it stopped reading")
)

func newLink(ctx context.Context, o *Options) *link {
	l := &link{wakeup: make(chan struct{}, 1), logger: o.Logger}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	l.pulse.base, l.pulse.interval = time.Now(), o.Heartbeat
	l.pulse.timer = time.AfterFunc(time.Hour, l.tick) // made here, since tick sets it again
	l.pulse.timer.Stop()
	return l
}

// start begins the pulse, once the hellos are exchanged.
func (l *link) start(peer peerLimits) {
	l.limit, l.pulse.silence = peer.batch, peer.silence
	now := l.pulse.now()
	l.pulse.sent.Store(now)
	l.pulse.received.Store(now)
	l.pulse.timer.Reset(l.pulse.interval)
}

// end gives the link its terminal state. Its goroutines see it and leave.
func (l *link) end(cause error) { l.cancel(cause) }

// wake tells the writer that there is something to send.
func (l *link) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

func (p *pulse) now() int64 { return int64(time.Since(p.base)) }

// tick is the link's only timer: it sends a heartbeat where one is due, and
// ends the link where the peer is silent or does not let a Send return.
func (l *link) tick() {
	p := &l.pulse
	if l.ctx.Err() != nil {
		return
	}
	now := p.now()
	due := now + int64(p.interval)
	if since := p.sending.Load(); since != 0 && !p.peerStopped.Load() && now-since >= int64(sendTimeout) {
		l.end(errSlowConsumer)
		return
	}
	if !p.stopped.Load() && !p.eof.Load() {
		quiet := p.received.Load() + int64(p.silence)
		if now >= quiet {
			l.end(errSilent)
			return
		}
		due = min(due, quiet)
	}
	if beat := p.sent.Load() + int64(p.interval); now >= beat {
		p.beat.Store(true)
		l.wake()
	} else {
		due = min(due, beat)
	}
	p.timer.Reset(time.Duration(due - now))
}

// stop and resume say that this side does not read, or reads again (M37).
func (l *link) stop() {
	l.pulse.stopped.Store(true)
	l.pulse.beat.Store(true)
	l.wake()
}

func (l *link) resume() {
	l.pulse.received.Store(l.pulse.now())
	l.pulse.stopped.Store(false)
	l.pulse.beat.Store(true)
	l.wake()
}

// write is the writer: it sends what fill gives it, one gRPC message at a time,
// until fill says that the link is done (nil) or the link ends (why).
func (l *link) write(fill func(*batch) bool) error {
	for l.ctx.Err() == nil {
		b := l.batch()
		done := fill(b)
		switch {
		case !b.empty():
			if err := l.send(b); err != nil {
				return err
			}
		case done:
			return nil
		default:
			select {
			case <-l.wakeup:
				runtime.Gosched() // those who are about to add a frame do so first
			case <-l.ctx.Done():
			}
		}
	}
	return context.Cause(l.ctx)
}

// batch is an empty one for the peer.
func (l *link) batch() *batch { return &batch{limit: l.limit, sent: &l.sent} }

// addBeat adds a heartbeat where one is due.
func (l *link) addBeat(b *batch) {
	if l.pulse.beat.Swap(false) {
		b.add(&frame{kind: kindHeartbeat, stopped: l.pulse.stopped.Load()})
	}
}

// send hands one batch to gRPC and notes how long that takes.
func (l *link) send(b *batch) error {
	l.pulse.sending.Store(max(l.pulse.now(), 1))
	err := l.stream.SendMsg(b)
	l.pulse.sending.Store(0)
	l.pulse.sent.Store(l.pulse.now())
	return err
}

// receive reads the next gRPC message.
func (l *link) receive(in *inbox) error {
	in.reset() // nothing is held while nothing comes
	err := l.stream.RecvMsg(in)
	l.pulse.received.Store(l.pulse.now())
	return err
}

// heard takes a peer's heartbeat: it may say that the peer does not read.
func (l *link) heard(f *frame) {
	p := &l.pulse
	if p.peerStopped.Load() && !f.stopped {
		// A Send that waited while the peer did not read has its time anew,
		// before tick can judge it.
		if since := p.sending.Load(); since != 0 {
			p.sending.CompareAndSwap(since, p.now())
		}
	}
	p.peerStopped.Store(f.stopped)
}

// close stops the pulse; the link has ended.
func (l *link) close(cause error) {
	l.end(cause)
	l.pulse.timer.Stop()
}

// guard keeps a mistake of ours in one link from ending the process (T: what
// comes from a peer never panics it).
func (l *link) guard(cause *error) {
	if p := recover(); p != nil {
		*cause = fmt.Errorf("internal error: %v", p)
		l.logger.Error("panic on a link", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	}
}
