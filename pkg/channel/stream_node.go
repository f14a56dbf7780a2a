package channel

import (
	"time"
)

// streamed takes what comes down for an open stream before its outcome.
func (n *node) streamed(o *outlet, c *call, f *frame, now time.Time) {
	s := c.stream
	if c.gone {
		return
	}
	s.out.fresh, s.out.kept = false, nil // the peer has it
	var err error
	switch f.kind {
	case kindWindow:
		err = s.widen(f.total)
	case kindStreamHeaders:
		switch {
		case s.headed:
			err = invalidStream("stream_headers twice, or after a message")
		case headerBytes(f.headers) > maxHeaderBytes:
			err = invalidStream("its headers are longer than %d bytes", maxHeaderBytes)
		default:
			s.head(f.headers)
		}
	default:
		s.head(nil)
		err = s.arrive(f, now)
	}
	if err != nil {
		n.faulty(o, c, err)
	}
}

// faulty ends a stream whose peer broke a rule: the others go on.
func (n *node) faulty(o *outlet, c *call, err error) {
	c.gone = true
	c.settle(outcome{err: err.(*streamFault).failed(), local: true})
	o.cancels = append(o.cancels, c.session)
	n.wake(o)
}

// reply is the outcome that a reply or failure gives to a stream.
func (s *Stream) reply(f *frame) (out outcome) {
	switch {
	case f.length() > 0 || f.total > 0:
		out.err = invalidStream("its reply has a payload").(*streamFault).failed()
	case s.in.part != nil:
		out.err = invalidStream("its reply came in the middle of a message").(*streamFault).failed()
	}
	out.reply = Reply{nil, f.headers, f.trailers}
	return out
}

// leaveStream ends a stream from this end: its context ended, or cause. text
// replaces the usual sentence.
func (n *node) leaveStream(c *call, cause error, text string) {
	if c.stream.ended {
		return
	}
	err := n.leave(c, cause)
	if err == nil {
		return
	}
	if text != "" {
		err.Message = text
	}
	c.stream.finish(outcome{err: err, local: true})
}
