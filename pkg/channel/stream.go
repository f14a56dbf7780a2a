package channel

import (
	"context"
	"errors"
	"io"
	"sync"
)

// ErrStreamEnded is what Send and Recv of a stream return when it is over, or
// when whoever waits is to stop.
var ErrStreamEnded = errors.New("the stream has ended")

// Stream is one end of a stream: messages in order, each way, and one outcome.
// Its methods are safe for concurrent use, but messages have an order only where
// one goroutine sends and one receives.
type Stream struct {
	lock     *sync.Mutex // of its end of the link: a sender's, or an agent's
	turn     Turn        // of the handler that uses it; nil where there is none
	limits   *Limits     // of this process
	largest  int64       // message that is received
	messages *budget     // for large ones

	// Under the lock.
	set     *streams // of the link that carries it; nil while none does
	session uint64
	listed  bool // in set.ready
	out     outgoing
	in      incoming
	headers []Header
	headed  bool // headers are known (dialling end), or sent
	offer   bool // headers wait to be sent (listening end)
	ended   bool

	over  chan struct{} // closed when ended
	known chan struct{} // closed with headed, at the dialling end

	// Of the dialling end.
	call   *call
	result outcome // once it has ended
	stop   func() bool
	abort  func(cause error, text string) // ends it from here
	peer   Peer

	// Of the listening end.
	request *Request
	last    answer   // once the handler is done
	broken  *Failure // the answer, where the caller broke a rule
	single  bool     // is a call whose one message comes this way
}

func newStream(lock *sync.Mutex, l *Limits, messages *budget) *Stream {
	return &Stream{
		lock: lock, limits: l, largest: l.MessageBytes, messages: messages,
		out:  outgoing{room: make(chan struct{}, 1)},
		in:   incoming{window: l.StreamWindow, credit: l.StreamWindow, ready: make(chan struct{}, 1)},
		over: make(chan struct{}),
	}
}

// Yield says whose turn is given away while Send or Recv wait. It is called
// before either is.
func (s *Stream) Yield(t Turn) { s.turn = t }

// Send queues a message, which is given away. It waits while as much waits to be
// sent as the limits allow, until done is closed. It returns ErrStreamEnded where
// the stream is over, and an *Error where the message is too large: a dialled
// stream ends with that.
func (s *Stream) Send(done <-chan struct{}, payload []byte) error {
	yielded := false
	for {
		s.lock.Lock()
		if err := s.refuses(int64(len(payload))); err != nil {
			s.lock.Unlock()
			return err
		}
		gate := s.set.gateWait() // before the look, so that no change is missed
		if s.out.admits(len(payload), s.limits, s.set) {
			s.out.push(payload, s.set)
			s.list()
			s.lock.Unlock()
			return nil
		}
		room := s.set.roomWait()
		s.lock.Unlock()
		if !yielded && s.turn != nil && s.turn.Yield() {
			defer s.turn.Retake()
		}
		yielded = true
		select {
		case <-s.out.room:
		case <-room:
		case <-gate:
		case <-s.over:
		case <-done:
			return ErrStreamEnded
		}
	}
}

// refuses says why a message of n bytes can never be sent.
func (s *Stream) refuses(n int64) error {
	limit, who := s.limits.MessageBytes, "this process"
	if s.set != nil && s.set.message < limit {
		limit, who = s.set.message, "the peer"
	}
	switch {
	case s.ended || s.out.closing || s.request != nil && s.in.deaf:
		return ErrStreamEnded
	case n <= limit:
		return nil
	}
	e := tooLarge(n, limit, who)
	if s.abort != nil {
		s.abort(ErrTooLarge, e.Message)
		return s.result.err
	}
	return e
}

// CloseSend says that no more messages follow. It never blocks.
func (s *Stream) CloseSend() {
	s.lock.Lock()
	defer s.lock.Unlock()
	if !s.ended && !s.out.closing {
		s.out.closing = true
		s.list()
	}
}

// Recv returns the next message, which belongs to the caller. At the end it
// returns io.EOF: the peer sends no more messages, and a dialled stream has
// succeeded; or the *Error with which a dialled one failed; or ErrStreamEnded,
// also when done is closed.
func (s *Stream) Recv(done <-chan struct{}) ([]byte, error) {
	yielded := false
	for {
		s.lock.Lock()
		m, ok := s.pop()
		err := s.finished()
		if !ok && err == nil {
			s.want()
		}
		s.lock.Unlock()
		switch {
		case ok && m.held != nil:
			return m.held.join(), nil
		case ok:
			return m.payload, nil
		case err != nil:
			return nil, err
		}
		if !yielded && s.turn != nil && s.turn.Yield() {
			defer s.turn.Retake()
		}
		yielded = true
		select {
		case <-s.in.ready:
		case <-s.over:
		case <-done:
			return nil, ErrStreamEnded
		}
	}
}

// finished is what follows the last message; nil while more may come.
func (s *Stream) finished() error {
	switch {
	case s.request != nil && s.in.deaf: // it was answered, cancelled, or broken off
		return ErrStreamEnded
	case s.ended && s.result.err != nil:
		return s.result.err
	case s.ended, s.in.eof:
		return io.EOF
	default:
		return nil
	}
}

// Abort ends a dialled stream from this end, with an error that matches cause
// and says text. Nothing that has arrived is received any more. Where the stream
// has ended before, it stays as it is. It returns false where the stream was
// certainly not sent.
func (s *Stream) Abort(cause error, text string) (sent bool) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.abort(cause, text)
	return s.result.err == nil || s.result.err.Verdict != NotSent
}

// Header waits for the headers of a dialled stream, until it ends or done is
// closed. It is false where it ended without.
func (s *Stream) Header(done <-chan struct{}) ([]Header, bool) {
	select {
	case <-s.known:
	default:
		if s.turn != nil && s.turn.Yield() {
			defer s.turn.Retake()
		}
		select {
		case <-s.known:
		case <-s.over:
		case <-done:
		}
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.headers, s.headed
}

// Trailer returns the trailers of a dialled stream that has ended.
func (s *Stream) Trailer() []Header {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.result.reply.Trailers
}

// Peer is the process that has the stream; the zero Peer while none has.
func (s *Stream) Peer() Peer {
	s.lock.Lock()
	defer s.lock.Unlock()
	return s.peer
}

// end makes the stream over, once: nothing more is sent or received. Messages
// that have arrived can still be received where keep is set. Under the lock.
func (s *Stream) end(keep bool) {
	if s.ended {
		return
	}
	s.ended = true
	s.out.drop(s.set)
	s.drop(keep)
	close(s.over)
}

// finish gives a dialled stream its outcome. Under the lock.
func (s *Stream) finish(o outcome) {
	if s.ended {
		return
	}
	s.result = o
	if len(o.reply.Headers) > 0 {
		s.head(o.reply.Headers)
	}
	s.end(!o.local)
	if s.stop != nil {
		s.stop()
	}
}

// head notes the headers of a dialled stream.
func (s *Stream) head(hs []Header) {
	if !s.headed {
		s.headers, s.headed = hs, true
		close(s.known)
	}
}

// Open begins a stream. It returns once the opening stands in the node's line,
// and with an error, which is an *Error, where that fails at once. The stream
// ends when its outcome was received, or ctx ends. largest is the largest message
// that is received; 0 is the limit of the process.
func (m *Manager) Open(ctx context.Context, msg *Message, largest int64) (*Stream, error) {
	err := m.check(ctx, msg)
	if err == nil && msg.Hops > 0 {
		err = m.meet(msg.Node)
	}
	if err != nil {
		err.Node, err.Target, err.Method = msg.Node, msg.Target, msg.Method
		return nil, err
	}
	s := m.to(msg)
	st := newStream(&s.mu, &m.opt.Limits, &m.messages)
	st.turn, st.known, st.out.fresh = msg.Turn, make(chan struct{}), true
	if largest > 0 {
		st.largest = min(largest, st.largest)
	}
	c := &call{Message: *msg, stream: st}
	st.call = c
	s.mu.Lock()
	defer s.mu.Unlock()
	st.abort = func(cause error, text string) { s.node.leaveStream(c, cause, text) }
	s.node.submit(c)
	if st.ended {
		return nil, st.result.err
	}
	st.stop = context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.node.leaveStream(c, ctx.Err(), "")
	})
	return st, nil
}
