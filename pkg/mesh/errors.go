package mesh

import (
	"context"
	"errors"

	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
)

// Error is the error of Call, Send, Query and the rest of what leaves the
// process: what happened, to whom, and whether the message may have been
// executed. errors.Is finds its cause, one of the conditions below or the
// context's error; status.FromError gives its gRPC status.
type Error = channel.Error

// Verdict says what is known of a message's execution.
type Verdict = channel.Verdict

// The verdicts.
const (
	// NotSent: it certainly did not run. It never left for good.
	NotSent = channel.NotSent
	// Rejected: it certainly did not run. The peer refused it.
	Rejected = channel.Rejected
	// MaybeExecuted: the link broke or the context ended after it was sent.
	MaybeExecuted = channel.MaybeExecuted
	// HandlerFailed: it ran, and failed.
	HandlerFailed = channel.HandlerFailed
)

// VerdictOf returns the verdict of an error of this package; 0 for another one.
func VerdictOf(err error) Verdict {
	var e *Error
	if errors.As(err, &e) {
		return e.Verdict
	}
	return 0
}

// The conditions that errors.Is finds in an Error, with the verdicts that they
// come with. A context that ended shows as context.Canceled or
// context.DeadlineExceeded: NotSent in the line, MaybeExecuted after it.
var (
	// ErrAbsent: the table does not have the node, and nobody was to wait. NotSent.
	ErrAbsent = channel.ErrAbsent
	// ErrDown: the table says that the node is down. NotSent.
	ErrDown = channel.ErrDown
	// ErrConnect: the dial that the message waited for failed. NotSent.
	ErrConnect = channel.ErrConnect
	// ErrClosed: this process is closing. NotSent.
	ErrClosed = channel.ErrClosed
	// ErrDraining: the peer is leaving. Rejected.
	ErrDraining = channel.ErrDraining
	// ErrOverloaded: a bound was reached, here (NotSent) or there (Rejected).
	ErrOverloaded = channel.ErrOverloaded
	// ErrTooLarge: the payload is larger than this side (NotSent) or the peer
	// (NotSent, Rejected) takes.
	ErrTooLarge = channel.ErrTooLarge
	// ErrInvalidTarget: the target does not parse. NotSent.
	ErrInvalidTarget = channel.ErrInvalidTarget
	// ErrInvalidRequest: the message breaks a rule. NotSent or Rejected.
	ErrInvalidRequest = channel.ErrInvalidRequest
	// ErrInvalidName: the service name breaks the rules. Rejected.
	ErrInvalidName = channel.ErrInvalidName
	// ErrNameNotFound: no service of the node has the name. Rejected.
	ErrNameNotFound = channel.ErrNameNotFound
	// ErrStaleHandle: the handle is of an earlier life of the process, or its
	// service has stopped. Rejected.
	ErrStaleHandle = channel.ErrStaleHandle
	// ErrUnknownMethod: the service has no such method. Rejected.
	ErrUnknownMethod = channel.ErrUnknownMethod
	// ErrNoStreams: the node knows no streams. NotSent.
	ErrNoStreams = channel.ErrNoStreams
	// ErrNotPermitted: the caller may not call this. Rejected.
	ErrNotPermitted = channel.ErrNotPermitted
	// ErrExpired: the deadline had passed when the call's turn came. Rejected.
	ErrExpired = channel.ErrExpired
	// ErrCancelled ends the context of a handler whose caller cancelled.
	ErrCancelled = channel.ErrCancelled
	// ErrLinkBroken: the link broke with the call in flight. MaybeExecuted.
	ErrLinkBroken = channel.ErrLinkBroken
	// ErrReplyTooLarge: the reply is larger than the caller takes. HandlerFailed.
	ErrReplyTooLarge = channel.ErrReplyTooLarge
	// ErrNameTaken: Register found the name in use.
	ErrNameTaken = registry.ErrNameTaken
	// ErrLoop: the message was passed on 8 times. NotSent or Rejected.
	ErrLoop = channel.ErrLoop
	// ErrPanic: the handler panicked; the message has the id under which its
	// log tells more. HandlerFailed.
	ErrPanic = channel.ErrPanic
)

// stubError is an Error as the callers of stubs know errors: its text is that of
// the gRPC status, and where the caller's own context ended, there is no more in
// the status than gRPC would say. errors.As finds the Error.
type stubError struct{ e *Error }

// forStub makes the error of a stub's call of one of the mesh's.
func forStub(err error) error {
	if e, ok := err.(*Error); ok {
		return stubError{e}
	}
	return err
}

// Error is the status's text.
func (s stubError) Error() string { return s.GRPCStatus().Err().Error() }

// Unwrap returns the Error.
func (s stubError) Unwrap() error { return s.e }

// GRPCStatus is that of the Error.
func (s stubError) GRPCStatus() *status.Status {
	if errors.Is(s.e.Err, context.Canceled) || errors.Is(s.e.Err, context.DeadlineExceeded) {
		return status.New(s.e.Code, s.e.Message)
	}
	return s.e.GRPCStatus()
}
