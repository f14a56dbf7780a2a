package channel

import "sync/atomic"

// Counters count what a process lost or refused, by cause. They only rise.
type Counters struct {
	PushesLostConnect  atomic.Int64 // the link that they waited for could not be had
	PushesLostTable    atomic.Int64 // their node became down, or absent with nowaiting
	PushesLostGoaway   atomic.Int64 // the node left and had not taken them
	PushesLostBroken   atomic.Int64 // large ones cut by a break
	PushesUnsure       atomic.Int64 // sent on a link that broke before an answer showed that they were read
	PushesLostTooLarge atomic.Int64 // the node takes no message of that size
	PushesLostClosed   atomic.Int64 // this process closed
	PushesUnknown      atomic.Int64 // to a name, handle or method that is not here
	PushesRefused      atomic.Int64 // that broke a rule or a bound here, or came while draining
	PushesUnplaced     atomic.Int64 // read, and lost with their link before their queue had room
	RepliesLate        atomic.Int64 // for calls whose callers had left
	FramesStray        atomic.Int64 // for sessions that are not known
	RepliesDropped     atomic.Int64 // whose link had ended
	LogLost            atomic.Int64 // changes of state that a log that blocks did not take
	Dials              atomic.Int64
	DialsFailed        atomic.Int64
	LinksLost          atomic.Int64
}

// Stats are the counters of a process, and its gauges at one moment.
type Stats struct {
	// What was lost or refused, by cause; see Counters.
	PushesLostConnect, PushesLostTable, PushesLostGoaway, PushesLostBroken           int64
	PushesLostTooLarge, PushesLostClosed, PushesUnsure                               int64
	PushesUnknown, PushesRefused, PushesUnplaced                                     int64
	RepliesLate, RepliesDropped, FramesStray, Dials, DialsFailed, LinksLost, LogLost int64
	// Waiting are the calls that stand in a line, InFlight those that were
	// sent and not answered, PushBytes what waits of pushes.
	Waiting, InFlight int
	PushBytes         int64
	// LinksOut are the links that this process dialled, LinksIn those that it
	// accepted, ReplyBytes what waits to be sent on these.
	LinksOut, LinksIn int
	// Programs are those that serve here.
	Programs   int
	ReplyBytes int64
	// UnfinishedBytes weighs the large requests that arrive.
	UnfinishedBytes int64
	// StreamsOut are the streams among InFlight, StreamsIn those that this process
	// was asked for and has not answered, StreamBytes what these have to send, and
	// StreamMessages weighs the large messages that streams receive.
	StreamsOut                             int
	StreamsIn, StreamBytes, StreamMessages int64
}

// Stats returns the counters and gauges.
func (m *Manager) Stats() Stats {
	c := &m.Counters
	s := Stats{
		PushesLostConnect: c.PushesLostConnect.Load(), PushesLostTable: c.PushesLostTable.Load(),
		PushesLostGoaway: c.PushesLostGoaway.Load(), PushesLostBroken: c.PushesLostBroken.Load(),
		PushesLostTooLarge: c.PushesLostTooLarge.Load(), PushesUnsure: c.PushesUnsure.Load(), PushesLostClosed: c.PushesLostClosed.Load(),
		PushesUnknown: c.PushesUnknown.Load(), PushesRefused: c.PushesRefused.Load(), PushesUnplaced: c.PushesUnplaced.Load(),
		RepliesLate: c.RepliesLate.Load(), RepliesDropped: c.RepliesDropped.Load(), FramesStray: c.FramesStray.Load(),
		Dials: c.Dials.Load(), DialsFailed: c.DialsFailed.Load(), LinksLost: c.LinksLost.Load(), LogLost: c.LogLost.Load(),
		ReplyBytes: m.replies.bytes.Load(), UnfinishedBytes: m.parts.Load(),
		StreamsIn: m.streams.Load(), StreamBytes: m.backlogs.bytes.Load(), StreamMessages: m.messages.taken(),
	}
	for _, x := range m.all() {
		x.mu.Lock()
		s.Waiting += x.node.calls
		s.PushBytes += x.node.pushes
		s.LinksOut += len(x.links)
		if o := x.node.link; o != nil {
			s.InFlight += len(o.flights)
			s.StreamsOut += o.streams.open
		}
		for _, o := range x.node.old {
			s.InFlight += len(o.flights)
			s.StreamsOut += o.streams.open
		}
		x.mu.Unlock()
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for l := range m.listeners {
		l.mu.Lock()
		s.LinksIn += len(l.agents)
		s.Programs += len(l.served)
		l.mu.Unlock()
	}
	return s
}
