package channel

// Limits are the named bounds of everything that a peer, or a caller, can make
// this process hold (M56). The zero value of a field means its default. Sizes
// are bytes; a message counts its payload, headers and names plus 256 bytes,
// and is admitted while its bound is not reached, whatever its own size.
type Limits struct {
	// LineCalls bounds the calls that wait for one node: 16,384. At it a call
	// fails: overloaded, not sent.
	LineCalls int
	// LinePushBytes bounds the pushes that wait for one node: 4 MiB. At it
	// Send waits.
	LinePushBytes int64
	// CallsInFlight bounds the unanswered calls that a peer may have on one
	// link: 16,384. The peer keeps the rest in its line; one that does not is
	// refused: overloaded.
	CallsInFlight int
	// QueueMessages and QueueBytes bound one service's queue: 16,384 messages
	// and 128 MiB; pushes may fill three quarters of either. At it a call is
	// refused (overloaded); a push stops the reading of its link.
	QueueMessages int
	QueueBytes    int64
	// ServiceWaiting bounds the handlers of one serial service that wait in
	// the mesh: 1,024. At it the service's next message does not start.
	ServiceWaiting int
	// LinkReplyBytes bounds the replies that wait for one link: 128 MiB. At it
	// that link is not read.
	LinkReplyBytes int64
	// ReplyBytes bounds the replies that wait in the whole process: 512 MiB.
	// At it links with more than 4 MiB of them are not read.
	ReplyBytes int64
	// UnfinishedBytes bounds the large messages that have begun and not ended,
	// by their total sizes, per link and direction: 64 MiB. The peer is told
	// and keeps the rest in its line; one that does not is refused.
	UnfinishedBytes int64
	// UnfinishedRequests bounds the same over all accepted links: 256 MiB. At
	// it a large request is refused: overloaded.
	UnfinishedRequests int64
	// MessageBytes is the largest payload, of a request or a reply: 64 MiB.
	MessageBytes int64
	// BatchBytes is the longest gRPC message that this process takes on a
	// link, 64 KiB to 1 MiB: 256 KiB.
	BatchBytes int
	// WindowBytes is the HTTP/2 window of a stream and of a connection, which
	// a peer can fill with what is not read: 1 MiB.
	WindowBytes int32
	// LinkStreams bounds the streams among the calls in flight on one link:
	// 4,096. The peer keeps the rest in its line; one that does not is refused:
	// overloaded.
	LinkStreams int
	// Streams bounds the streams of all accepted links: 16,384. At it a stream
	// is refused: overloaded.
	Streams int
	// StreamWindow bounds what one stream holds in each direction: what arrived
	// and was not received yet (the peer is told, and waits), and what waits to
	// be sent (Send waits): 64 KiB, at most 2 GiB. Either may go past it by one
	// message, which counts 64 bytes beside its payload: by 32 KiB of one that
	// arrives and nobody receives.
	StreamWindow int64
	// StreamMessages bounds the large messages of all streams that are being
	// received, by their total sizes: 256 MiB. At it the next one waits, and its
	// stream with it.
	StreamMessages int64
	// Links bounds the links of one listener, and the streams of programs that
	// serve, together: 1,024. One more is refused (too many links). A listener
	// takes 64 more connections than that.
	Links int
	// ProgramBytes bounds the calls that a program that serves has and has not
	// answered, beside its own bound of their number: 32 MiB. At it they wait in
	// the queue of their name, whose bytes it bounds too.
	ProgramBytes int64
	// ProgramNames bounds the names that one such program registers: 64. One
	// more is refused: overloaded.
	ProgramNames int
	// UnaryCalls bounds the unary calls of one listener: 1,024. One more is
	// refused: overloaded.
	UnaryCalls int
}

// Bounds that are part of the protocol, or that nobody needs to set.
const (
	partBytes        = 32 << 10 // a larger payload travels in parts of this size (M39)
	minUnfinished    = 64 << 10 // what an unfinished message counts at the least (M41)
	messageOverhead  = 256      // what a message counts beyond its bytes (M56)
	streamOverhead   = 64       // what a message of a stream does
	maxStreamWindow  = 2 << 30
	maxHeaderBytes   = 8 << 10
	maxMethodBytes   = 1 << 10
	maxErrorText     = 1 << 10
	maxDetailBytes   = 3 << 10
	maxNameBytes     = 255
	minBatchBytes    = 64 << 10
	maxBatchBytes    = 1 << 20
	maxBatchFrames   = 4096    // in one gRPC message
	fairReplyBytes   = 4 << 20 // a link with fewer waiting replies is read at ReplyBytes too
	extraConnections = 64
	streamsPerConn   = 32
)

// MaxHops is how often a message may be passed on: it ends a loop (M62).
const MaxHops = 8

const loopText = "the message was passed on 8 times: it goes in a loop"

func or[T int | int32 | int64](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// WithDefaults returns the limits with every zero replaced by its default and
// BatchBytes brought into its range.
func (l Limits) WithDefaults() Limits {
	return Limits{
		LineCalls:          or(l.LineCalls, 16384),
		LinePushBytes:      or(l.LinePushBytes, 4<<20),
		CallsInFlight:      or(l.CallsInFlight, 16384),
		QueueMessages:      or(l.QueueMessages, 16384),
		QueueBytes:         or(l.QueueBytes, 128<<20),
		ServiceWaiting:     or(l.ServiceWaiting, 1024),
		LinkReplyBytes:     or(l.LinkReplyBytes, 128<<20),
		ReplyBytes:         or(l.ReplyBytes, 512<<20),
		UnfinishedBytes:    or(l.UnfinishedBytes, 64<<20),
		UnfinishedRequests: or(l.UnfinishedRequests, 256<<20),
		MessageBytes:       or(l.MessageBytes, 64<<20),
		BatchBytes:         min(max(or(l.BatchBytes, 256<<10), minBatchBytes), maxBatchBytes),
		WindowBytes:        or(l.WindowBytes, 1<<20),
		LinkStreams:        or(l.LinkStreams, 4096),
		Streams:            or(l.Streams, 16384),
		StreamWindow:       min(or(l.StreamWindow, 64<<10), maxStreamWindow),
		StreamMessages:     or(l.StreamMessages, 256<<20),
		Links:              or(l.Links, 1024),
		ProgramBytes:       or(l.ProgramBytes, 32<<20),
		ProgramNames:       or(l.ProgramNames, 64),
		UnaryCalls:         or(l.UnaryCalls, 1024),
	}
}

// PerPeer is the sum of the bounds of one accepted link: waiting replies, as
// much again of streams, unfinished requests, what its streams hold in both
// directions, the windows of its gRPC streams, and a batch being read.
// Beside it stand the queues of the services, the large messages that streams
// receive (StreamMessages), and what handlers hold that run: their requests, the
// message that they send, and the replies of those that had started when the
// link's bound of waiting replies was reached.
func (l Limits) PerPeer() int64 {
	l = l.WithDefaults()
	return 2*l.LinkReplyBytes + min(l.UnfinishedBytes, l.UnfinishedRequests) + l.streamBytes(min(l.LinkStreams, l.Streams)) +
		streamsPerConn*int64(l.WindowBytes) + int64(l.BatchBytes)
}

// PerProgram is the sum of the bounds of one program that serves: the calls and
// pushes that it has, those that wait for its names, its unfinished replies, the
// windows of its connection, and a batch being read.
func (l Limits) PerProgram() int64 {
	l = l.WithDefaults()
	return l.ProgramBytes + l.LinePushBytes + int64(l.ProgramNames)*min(l.QueueBytes, l.ProgramBytes) + l.UnfinishedBytes +
		streamsPerConn*int64(l.WindowBytes) + int64(l.BatchBytes)
}

// streamBytes is what n streams hold.
func (l Limits) streamBytes(n int) int64 {
	return int64(n) * (2*l.StreamWindow + 2*(partBytes+streamOverhead))
}

// AllPeers is the same for all the links that one listener takes. The bounds of
// the process keep it far below Links times PerPeer.
func (l Limits) AllPeers() int64 {
	l = l.WithDefaults()
	n := int64(l.Links)
	return 2*(l.ReplyBytes+n*fairReplyBytes) + l.UnfinishedRequests + l.StreamMessages + l.streamBytes(l.Streams) +
		(n+extraConnections)*streamsPerConn*int64(l.WindowBytes) + n*int64(l.BatchBytes)
}
