package channel

import (
	"fmt"
	"sync"
	"time"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// incoming is the receiving half of a stream.
type incoming struct {
	window  int64     // what this end takes
	credit  int64     // of it, what the peer may still send
	pending int64     // what was consumed and not said
	queue   []message // whole messages
	part    *joiner   // a large one whose parts arrive
	claim   *claim    // for it, where someone waits for it
	counted bool      // it counts as consumed: the claim was granted
	eof     bool      // no more messages come
	deaf    bool      // what comes is dropped
	taken   bool      // the one message of a call has come
	ready   chan struct{}
}

// message is a whole message.
type message struct {
	payload []byte
	held    *held // instead of payload
	counted bool
	claim   *claim
}

func (m *message) size() int {
	if m.held != nil {
		return m.held.size
	}
	return len(m.payload)
}

// streamFault is what a peer did wrong on one stream.
type streamFault struct {
	reason meshv1.Reason
	text   string
}

func (f *streamFault) Error() string { return f.text }

func invalidStream(format string, args ...any) error {
	return &streamFault{meshv1.Reason_REASON_INVALID_REQUEST, "invalid stream: " + fmt.Sprintf(format, args...)}
}

// failure is the fault as its maker is told: whether a handler started decides
// what it means (M23).
func (f *streamFault) failure(started bool) *Failure {
	fail := Refuse(f.reason, f.text)
	if started {
		fail.Reason = meshv1.Reason_REASON_HANDLER
	}
	return fail
}

// failed is the fault of a listener as the caller is told.
func (f *streamFault) failed() *Error {
	if f.reason == meshv1.Reason_REASON_TOO_LARGE {
		return NewError(HandlerFailed, ErrReplyTooLarge, f.text)
	}
	return NewError(MaybeExecuted, ErrInvalidRequest, f.text)
}

// due says that enough was consumed to tell the peer of it.
func (in *incoming) due() bool {
	return in.pending > 0 && 2*in.pending >= in.window && !in.eof && !in.deaf
}

func (in *incoming) notify() {
	select {
	case in.ready <- struct{}{}:
	default:
	}
}

// arrive takes a message or a part.
func (s *Stream) arrive(f *frame, now time.Time) error {
	in := &s.in
	n := int64(f.length())
	if f.kind == kindMessage {
		n += streamOverhead
	}
	switch {
	case in.deaf:
		return nil
	case in.eof:
		return invalidStream("a message after half_close")
	case f.kind == kindMessage && in.part != nil:
		return invalidStream("a message before the last part of the one before it")
	case f.kind == kindPart && in.part == nil:
		return invalidStream("a part of no message")
	case s.single && f.kind == kindMessage && in.taken:
		return errManyMessages
	case in.credit <= 0:
		return invalidStream("a message beyond its window of %d bytes", in.window)
	}
	in.credit -= n
	if f.kind == kindPart {
		return s.arrivePart(f, n, now)
	}
	size := max(uint64(f.length()), f.total)
	switch {
	case f.total == 0 && size > partBytes:
		return invalidStream("a payload of more than %d bytes travels in parts: set total_size", partBytes)
	case size > uint64(s.largest):
		return &streamFault{meshv1.Reason_REASON_TOO_LARGE, fmt.Sprintf("too large: %d bytes; at most %d are taken", size, s.largest)}
	case f.total == 0:
		in.queue = append(in.queue, message{payload: f.payload, held: f.held})
		in.notify()
		return nil
	}
	part, err := newJoiner(f, now)
	if err != nil {
		return invalidStream("%s", err)
	}
	in.part = part
	in.notify() // who receives may have to claim room for it
	if s.single {
		s.want()
	}
	return nil
}

var errManyMessages = invalidStream("the method is no stream: it takes one message")

func (s *Stream) arrivePart(f *frame, n int64, now time.Time) error {
	in := &s.in
	whole, err := in.part.add(f, now)
	if err != nil {
		return invalidStream("%s", err)
	}
	if in.counted {
		in.pending += n
		s.list()
	}
	if whole {
		in.queue = append(in.queue, message{held: in.part.held, counted: in.counted, claim: in.claim})
		in.part, in.claim, in.counted = nil, nil, false
		in.notify()
	}
	return nil
}

// halfClosed takes the caller's word that no more messages come.
func (s *Stream) halfClosed() error {
	in := &s.in
	switch {
	case in.eof:
		return invalidStream("a second half_close")
	case in.part != nil:
		return invalidStream("half_close in the middle of a message")
	}
	in.eof = true
	in.notify()
	if s.single && !in.taken && !in.deaf {
		return invalidStream("the method is no stream: it takes one message, and none came")
	}
	return nil
}

// pop takes the next message, which counts as consumed.
func (s *Stream) pop() (message, bool) {
	in := &s.in
	if len(in.queue) == 0 {
		return message{}, false
	}
	m := in.queue[0]
	in.queue[0] = message{}
	in.queue = in.queue[1:]
	s.messages.giveBack(m.claim)
	if !m.counted {
		in.pending += streamBytes(m.size())
	}
	s.list()
	return m, true
}

// want says that someone waits for the message that arrives: where it does not
// fit into the window, the rest of it is let in as soon as the process has room.
func (s *Stream) want() {
	in := &s.in
	if in.part == nil || in.claim != nil {
		return
	}
	in.claim = s.messages.claim(int64(in.part.total), func() {
		s.lock.Lock()
		defer s.lock.Unlock()
		s.letIn()
	})
	s.letIn()
}

// letIn counts the message that arrives as consumed, once there is room for it.
func (s *Stream) letIn() {
	in := &s.in
	if in.part == nil || in.counted || !s.messages.granted(in.claim) {
		return
	}
	in.counted = true
	in.pending += streamBytes(in.part.held.size)
	in.part.last = time.Now()
	s.list()
}

// late says that the parts of a message that was let in have stopped.
func (s *Stream) late(now time.Time) bool {
	return s.in.counted && now.Sub(s.in.part.last) >= partTimeout
}

var errLateParts = invalidStream("no part for %s", partTimeout)

// drop forgets what has arrived, or only what is not whole.
func (s *Stream) drop(keep bool) {
	in := &s.in
	in.deaf = true
	s.messages.giveBack(in.claim)
	in.part, in.claim, in.counted = nil, nil, false
	if keep {
		return
	}
	for _, m := range in.queue {
		s.messages.giveBack(m.claim)
	}
	in.queue = nil
}

// budget is a number of bytes that large messages share: first come, first
// served.
type budget struct {
	limit int64

	mu   sync.Mutex
	used int64
	line []*claim
}

// claim is a part of a budget, or a place in its line.
type claim struct {
	n    int64
	has  bool
	tell func()
}

// claim asks for n bytes, or all that there are where n is more. Where they are
// not to be had at once, tell is called, on a goroutine of its own, when they
// are.
func (b *budget) claim(n int64, tell func()) *claim {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &claim{n: min(n, b.limit), tell: tell}
	if len(b.line) == 0 && b.used+c.n <= b.limit {
		b.used += c.n
		c.has = true
		return c
	}
	b.line = append(b.line, c)
	return c
}

// granted says whether a claim has its bytes.
func (b *budget) granted(c *claim) bool {
	if c == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return c.has
}

// taken is what the claims have.
func (b *budget) taken() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// giveBack ends a claim; nil is none.
func (b *budget) giveBack(c *claim) {
	if c == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.has {
		b.used -= c.n
		c.has = false
	} else {
		for i := range b.line {
			if b.line[i] == c {
				b.line = append(b.line[:i:i], b.line[i+1:]...)
				break
			}
		}
	}
	for len(b.line) > 0 && b.used+b.line[0].n <= b.limit {
		next := b.line[0]
		b.line[0] = nil
		b.line = b.line[1:]
		b.used += next.n
		next.has = true
		go next.tell()
	}
}
