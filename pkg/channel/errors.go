package channel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Verdict says what is known of a message's execution (M23).
type Verdict int

// The verdicts. Zero is none of them.
const (
	// NotSent: the message certainly never reached a handler, because it never
	// left this process for good.
	NotSent Verdict = iota + 1
	// Rejected: the peer refused it before any handler ran.
	Rejected
	// MaybeExecuted: the link broke, or the caller's context ended, after it
	// was sent.
	MaybeExecuted
	// HandlerFailed: the handler ran and failed.
	HandlerFailed
)

var verdictNames = [...]string{"unknown", "not sent", "rejected", "maybe executed", "handler failed"}

// String is "not sent", "rejected", "maybe executed" or "handler failed".
func (v Verdict) String() string {
	if v < 0 || int(v) >= len(verdictNames) {
		v = 0
	}
	return verdictNames[v]
}

// executed is the verdict as ErrorInfo tells it to other languages.
func (v Verdict) executed() string {
	switch v {
	case NotSent, Rejected:
		return "no"
	case HandlerFailed:
		return "yes"
	default:
		return "maybe"
	}
}

// condition is a sentinel: one thing that can go wrong.
type condition struct {
	text   string
	reason string // as ErrorInfo says it
	code   codes.Code
}

func (c *condition) Error() string { return c.text }

// The conditions that errors.Is finds in an Error.
var (
	ErrAbsent         error = &condition{"node is absent", "ABSENT", codes.Unavailable}
	ErrDown           error = &condition{"node is down", "DOWN", codes.Unavailable}
	ErrConnect        error = &condition{"connect failed", "CONNECT_FAILED", codes.Unavailable}
	ErrClosed         error = &condition{"the mesh is closed", "CLOSED", codes.Unavailable}
	ErrGoaway         error = &condition{"the node left and did not take it", "GOAWAY", codes.Unavailable}
	ErrDraining       error = &condition{"the node is leaving", "DRAINING", codes.Unavailable}
	ErrOverloaded     error = &condition{"overloaded", "OVERLOADED", codes.ResourceExhausted}
	ErrTooLarge       error = &condition{"too large", "TOO_LARGE", codes.ResourceExhausted}
	ErrLinkBroken     error = &condition{"the link broke", "LINK_BROKEN", codes.Aborted}
	ErrReplyTooLarge  error = &condition{"reply too large", "REPLY_TOO_LARGE", codes.OutOfRange}
	ErrInvalidTarget  error = &condition{"invalid target", "INVALID_TARGET", codes.InvalidArgument}
	ErrInvalidName    error = &condition{"invalid name", "INVALID_NAME", codes.InvalidArgument}
	ErrInvalidRequest error = &condition{"invalid request", "INVALID_REQUEST", codes.InvalidArgument}
	ErrNameNotFound   error = &condition{"name not found", "NAME_NOT_FOUND", codes.NotFound}
	ErrStaleHandle    error = &condition{"stale handle", "STALE_HANDLE", codes.FailedPrecondition}
	ErrUnknownMethod  error = &condition{"unknown method", "UNKNOWN_METHOD", codes.Unimplemented}
	ErrNotPermitted   error = &condition{"not permitted", "NOT_PERMITTED", codes.PermissionDenied}
	ErrExpired        error = &condition{"expired", "EXPIRED", codes.DeadlineExceeded}
	ErrCancelled      error = &condition{"cancelled", "CANCELLED", codes.Canceled}
	ErrNoStreams      error = &condition{"streams are not known", "NO_STREAMS", codes.Unimplemented}
	ErrPanic          error = &condition{"the handler panicked", "PANIC", codes.Internal}
	ErrLoop           error = &condition{"passed on too often", "LOOP", codes.FailedPrecondition}
	errNameTaken      error = &condition{"name taken", "NAME_TAKEN", codes.AlreadyExists}
)

// reasonConditions maps what the wire says to a verdict and a condition. What
// is missing here is the handler's own failure.
var reasonConditions = map[meshv1.Reason]struct {
	verdict Verdict
	err     error
}{
	meshv1.Reason_REASON_PANIC:           {HandlerFailed, ErrPanic},
	meshv1.Reason_REASON_UNKNOWN_METHOD:  {Rejected, ErrUnknownMethod},
	meshv1.Reason_REASON_INVALID_NAME:    {Rejected, ErrInvalidName},
	meshv1.Reason_REASON_NAME_NOT_FOUND:  {Rejected, ErrNameNotFound},
	meshv1.Reason_REASON_STALE_HANDLE:    {Rejected, ErrStaleHandle},
	meshv1.Reason_REASON_OVERLOADED:      {Rejected, ErrOverloaded},
	meshv1.Reason_REASON_DRAINING:        {Rejected, ErrDraining},
	meshv1.Reason_REASON_TOO_LARGE:       {Rejected, ErrTooLarge},
	meshv1.Reason_REASON_REPLY_TOO_LARGE: {HandlerFailed, ErrReplyTooLarge},
	meshv1.Reason_REASON_EXPIRED:         {Rejected, ErrExpired},
	meshv1.Reason_REASON_CANCELLED:       {MaybeExecuted, ErrCancelled},
	meshv1.Reason_REASON_NOT_PERMITTED:   {Rejected, ErrNotPermitted},
	meshv1.Reason_REASON_INVALID_REQUEST: {Rejected, ErrInvalidRequest},
	meshv1.Reason_REASON_NAME_TAKEN:      {Rejected, errNameTaken},
	meshv1.Reason_REASON_LINK_BROKEN:     {MaybeExecuted, ErrLinkBroken},
	meshv1.Reason_REASON_LOOP:            {Rejected, ErrLoop},
}

// ErrorDomain marks the google.rpc.ErrorInfo that the mesh puts into a status.
const ErrorDomain = "mesh"

// Error is the one error type of calls and pushes. errors.Is finds its cause
// (one of the Err conditions, context.Canceled or context.DeadlineExceeded);
// the fields hold the facts; GRPCStatus tells them to gRPC.
type Error struct {
	// Verdict says whether the message may have been executed.
	Verdict Verdict
	// Node, Target and Method are those of the message, as the caller gave them.
	Node, Target, Method string
	// Err is the cause; nil where the handler returned an error of its own.
	Err error
	// Message is the sentence that Error returns.
	Message string
	// Code is the gRPC status code.
	Code codes.Code

	details []*anypb.Any // of the status that the handler made
}

// Error returns the message alone; the facts are in the fields.
func (e *Error) Error() string { return e.Message }

// again returns a copy for one more caller.
func (e *Error) again() *Error {
	c := *e
	return &c
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// GRPCStatus returns code, message and details. A status that a handler made
// is passed as it is; every other one carries a google.rpc.ErrorInfo of domain
// "mesh" with the reason, node, target, method and "executed": no, maybe, yes.
func (e *Error) GRPCStatus() *status.Status {
	p := status.New(e.Code, validText(e.Message)).Proto()
	p.Details = e.details
	if e.Err != nil {
		info := &errdetails.ErrorInfo{Domain: ErrorDomain, Reason: reasonOf(e.Err), Metadata: map[string]string{
			"node": validText(e.Node), "target": validText(e.Target), "method": validText(e.Method), "executed": e.Verdict.executed(),
		}}
		if a, err := anypb.New(info); err == nil {
			p.Details = append(p.Details[:len(p.Details):len(p.Details)], a)
		}
	}
	return status.FromProto(p)
}

// validText is what protobuf can carry of s.
func validText(s string) string { return strings.ToValidUTF8(s, "?") }

func reasonOf(err error) string {
	var c *condition
	switch {
	case errors.As(err, &c):
		return c.reason
	case errors.Is(err, context.DeadlineExceeded):
		return "DEADLINE_EXCEEDED"
	default:
		return "CANCELLED"
	}
}

func codeOf(err error) codes.Code {
	var c *condition
	switch {
	case errors.As(err, &c):
		return c.code
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	default:
		return codes.Unknown
	}
}

// NewError makes an Error whose message is text, or that of err where text is
// empty.
func NewError(v Verdict, err error, text string) *Error {
	if text == "" {
		text = err.Error()
	}
	return &Error{Verdict: v, Err: err, Message: text, Code: codeOf(err)}
}

func absentError(node string) *Error {
	return NewError(NotSent, ErrAbsent, fmt.Sprintf("cluster node [%s] is absent.", node))
}

func downError(node string) *Error {
	return NewError(NotSent, ErrDown, fmt.Sprintf("cluster node [%s] is down.", node))
}

func connectError(node, addr string, cause error) *Error {
	return NewError(NotSent, ErrConnect, fmt.Sprintf("connect [%s] (%s): %s", node, addr, cleanText(cause.Error())))
}

func brokenError(node string, cause error) *Error {
	return NewError(MaybeExecuted, ErrLinkBroken, fmt.Sprintf("link to [%s] broke: %s", node, cleanText(cause.Error())))
}

func noStreams(node string) *Error {
	return NewError(NotSent, ErrNoStreams, fmt.Sprintf("node [%s] does not know streams: call a unary method of it, or bring it up to date", node))
}

// Failure is how a call fails on the wire.
type Failure struct {
	Reason            meshv1.Reason
	Code              codes.Code
	Message           string
	Details           []*anypb.Any
	Headers, Trailers []Header
}

// Refuse makes the failure for a condition, with its code; text says more.
func Refuse(reason meshv1.Reason, text string) *Failure {
	code := codes.Unknown
	if c, ok := reasonConditions[reason]; ok {
		code = codeOf(c.err)
	}
	return &Failure{Reason: reason, Code: code, Message: text}
}

// failed turns a failure of the peer into the caller's error.
func (f *Failure) failed() *Error {
	if c, ok := reasonConditions[f.Reason]; ok {
		return NewError(c.verdict, c.err, f.Message)
	}
	code := f.Code
	if code == codes.OK || code > codes.Unauthenticated {
		code = codes.Unknown
	}
	return &Error{Verdict: HandlerFailed, Message: f.Message, Code: code, details: f.Details}
}

// refusal is the error of a message that was passed on, as its first caller is
// told of it.
func (e *Error) refusal() *Failure {
	for reason, c := range reasonConditions {
		if c.err == e.Err && (c.verdict == e.Verdict || c.verdict == Rejected && e.Verdict == NotSent) {
			return Refuse(reason, e.Message)
		}
	}
	if e.Verdict == MaybeExecuted {
		return Refuse(meshv1.Reason_REASON_LINK_BROKEN, e.Message)
	}
	return Refuse(meshv1.Reason_REASON_DRAINING, e.Message)
}

// protocolError says which frame broke which rule; it ends the link.
func protocolError(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, "protocol error: "+fmt.Sprintf(format, args...))
}

// cutText bounds a text that goes on the wire, at a rune's end.
func cutText(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "?")
	for limit = min(limit, len(s)); limit > 0 && limit < len(s) && !utf8.RuneStart(s[limit]); limit-- {
	}
	return s[:limit]
}

// cleanText makes a text from a peer, or from gRPC, fit to stand in a line.
func cleanText(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		s = strconv.Quote(s)
	}
	return cutText(s, maxErrorText)
}
