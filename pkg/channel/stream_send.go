package channel

import "slices"

// streams is the state of the streams of one link, at one of its ends: plain
// state under the lock of that end.
type streams struct {
	window  int64     // what the peer takes of each, from its hello
	message int64     // the largest message that the peer takes
	limit   int       // how many the peer takes
	open    int       // that have a session and no outcome
	ready   []*Stream // those that have something to send, in turn
	backlog int64     // bytes that wait to be sent
	wake    func()    // the writer

	// Of the listening end.
	gate *replyGate    // for the backlogs of the process; nil at the dialling end
	most int64         // of the backlog
	room chan struct{} // closed when the backlog has room; nil where nobody waits
}

// outgoing is the sending half of a stream.
type outgoing struct {
	credit  int64    // what the peer's window has left
	queue   [][]byte // messages that were not sent to their end
	at      int      // bytes of the first of them that were
	bytes   int64    // of the queue, as the window counts
	closing bool     // nothing is added any more
	closed  bool     // and that has been said
	room    chan struct{}

	// While the peer may not have taken the stream, what was sent is kept: after
	// a goaway it is sent again on the next link.
	fresh bool
	kept  [][]byte
}

func streamBytes(n int) int64 { return int64(n) + streamOverhead }

// admits says whether a message of n bytes may be queued (M56): while the queue
// is below its bound; a large one also only while what waits on the link is, and
// what waits in the process where the link has more than its share.
func (q *outgoing) admits(n int, l *Limits, k *streams) bool {
	return q.bytes < l.StreamWindow && (n <= partBytes || !k.choked())
}

func (k *streams) choked() bool {
	return k != nil && k.gate != nil && (k.backlog >= k.most || k.backlog > fairReplyBytes && k.gate.full())
}

// gateWait and roomWait are what someone waits for who was not admitted.
func (k *streams) gateWait() <-chan struct{} {
	if k == nil || k.gate == nil {
		return nil
	}
	return k.gate.wait()
}

func (k *streams) roomWait() <-chan struct{} {
	if !k.choked() {
		return nil
	}
	if k.room == nil {
		k.room = make(chan struct{})
	}
	return k.room
}

// count notes that n bytes more wait to be sent.
func (k *streams) count(n int64) {
	if k == nil || k.gate == nil {
		return
	}
	k.backlog += n
	k.gate.add(n)
	if k.room != nil && !k.choked() {
		close(k.room)
		k.room = nil
	}
}

func (q *outgoing) push(payload []byte, k *streams) {
	q.queue = append(q.queue, payload)
	q.bytes += streamBytes(len(payload))
	k.count(streamBytes(len(payload)))
}

// sent notes that n bytes of the first message have left.
func (q *outgoing) sent(n int, k *streams) {
	p := q.queue[0]
	counts := int64(n)
	if q.at == 0 {
		counts += streamOverhead
	}
	q.credit -= counts
	q.bytes -= counts
	k.count(-counts)
	if q.at += n; q.at == len(p) {
		if q.fresh {
			q.kept = append(q.kept, p)
		}
		q.queue[0] = nil
		q.queue, q.at = q.queue[1:], 0
	}
	select {
	case q.room <- struct{}{}:
	default:
	}
}

// largest is the size of the largest message that waits to be sent.
func (q *outgoing) largest() (n int64) {
	for _, p := range q.queue {
		n = max(n, int64(len(p)))
	}
	return n
}

// drop forgets what waits to be sent.
func (q *outgoing) drop(k *streams) {
	k.count(-q.bytes)
	q.queue, q.kept, q.at, q.bytes = nil, nil, 0, 0
}

// begin gives a stream its session on this link.
func (k *streams) begin(s *Stream, session uint64) {
	k.open++
	s.set, s.session, s.out.credit = k, session, k.window
	s.list()
}

// list puts the stream among those that have something to send.
func (s *Stream) list() {
	if s.set == nil || s.listed || !s.pending() {
		return
	}
	s.listed = true
	s.set.ready = append(s.set.ready, s)
	s.set.wake()
}

// pending says that the stream has something to send now.
func (s *Stream) pending() bool {
	switch {
	case s.ended && s.request == nil:
		return false
	case s.in.due(), s.offer:
		return true
	case s.out.closed:
		return false
	case len(s.out.queue) > 0:
		return s.out.credit > 0
	default:
		return s.out.closing
	}
}

// fill adds a round of frames to the batch, one of each stream that has
// something to send, and more rounds up to roundBytes; fewer where the batch is
// full. It returns the streams that have sent their answer.
func (k *streams) fill(b *batch) (closed []*Stream) {
	for start := b.size; len(k.ready) > 0 && b.size-start < roundBytes; {
		s := k.ready[0]
		if s.pending() {
			f := s.next()
			if !b.fits(f.size() + 8) {
				return closed
			}
			b.add(&f)
			s.left(&f)
		}
		k.ready[0] = nil // the array may outlive it
		k.ready = k.ready[1:]
		s.listed = false
		if s.out.closed && s.request != nil {
			closed = append(closed, s)
			continue
		}
		if s.pending() {
			s.listed = true
			k.ready = append(k.ready, s)
		}
	}
	return closed
}

// next is the stream's next frame; left takes note that it was sent.
func (s *Stream) next() frame {
	f := frame{session: s.session}
	switch {
	case s.in.due():
		f.kind, f.total = kindWindow, uint64(s.in.pending)
	case s.offer:
		f.kind, f.headers = kindStreamHeaders, s.headers
	case len(s.out.queue) > 0:
		p := s.out.queue[0]
		f.kind, f.payload = kindMessage, p
		if len(p) > partBytes {
			f.total = uint64(len(p))
		}
		if s.out.at > 0 {
			f.kind, f.total = kindPart, 0
		}
		f.payload = p[s.out.at:min(s.out.at+partBytes, len(p))]
	case s.request != nil:
		f = s.last.frame()
		if s.headed {
			f = withoutHeaders(f)
		}
	default:
		f.kind = kindHalfClose
	}
	return f
}

func (s *Stream) left(f *frame) {
	switch f.kind {
	case kindWindow:
		s.in.credit += s.in.pending
		s.in.pending = 0
	case kindStreamHeaders:
		s.offer, s.headed, s.headers = false, true, nil
	case kindMessage, kindPart:
		s.headed = s.headed || s.request != nil
		s.out.sent(len(f.payload), s.set)
	default:
		s.out.closed = true
	}
}

// widen takes a window frame.
func (s *Stream) widen(n uint64) error {
	room := s.set.window - s.out.credit
	if n == 0 || n > uint64(room) {
		return invalidStream("a window of %d bytes, where it lacks %d", n, room)
	}
	s.out.credit += int64(n)
	s.list()
	return nil
}

// restart makes a stream that the peer did not take as it was before it was
// sent. It is false where the peer has said something about it.
func (s *Stream) restart() bool {
	if !s.out.fresh {
		return false
	}
	if s.listed {
		s.set.ready = slices.DeleteFunc(s.set.ready, func(x *Stream) bool { return x == s })
		s.listed = false
	}
	s.set = nil
	q := &s.out
	q.queue = append(q.kept, q.queue...)
	q.kept, q.at, q.bytes, q.closed = nil, 0, 0, false
	for _, p := range q.queue {
		q.bytes += streamBytes(len(p))
	}
	return true
}
