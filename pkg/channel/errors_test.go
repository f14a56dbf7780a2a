package channel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// M23: what each condition says to gRPC.
func TestConditions(t *testing.T) {
	for _, c := range []struct {
		err    error
		reason string
		code   codes.Code
	}{
		{ErrAbsent, "ABSENT", codes.Unavailable},
		{ErrDown, "DOWN", codes.Unavailable},
		{ErrConnect, "CONNECT_FAILED", codes.Unavailable},
		{ErrClosed, "CLOSED", codes.Unavailable},
		{ErrGoaway, "GOAWAY", codes.Unavailable},
		{ErrDraining, "DRAINING", codes.Unavailable},
		{ErrOverloaded, "OVERLOADED", codes.ResourceExhausted},
		{ErrTooLarge, "TOO_LARGE", codes.ResourceExhausted},
		{ErrLinkBroken, "LINK_BROKEN", codes.Aborted},
		{ErrReplyTooLarge, "REPLY_TOO_LARGE", codes.OutOfRange},
		{ErrInvalidTarget, "INVALID_TARGET", codes.InvalidArgument},
		{ErrInvalidName, "INVALID_NAME", codes.InvalidArgument},
		{ErrInvalidRequest, "INVALID_REQUEST", codes.InvalidArgument},
		{ErrNameNotFound, "NAME_NOT_FOUND", codes.NotFound},
		{ErrStaleHandle, "STALE_HANDLE", codes.FailedPrecondition},
		{ErrLoop, "LOOP", codes.FailedPrecondition},
		{ErrUnknownMethod, "UNKNOWN_METHOD", codes.Unimplemented},
		{ErrNotPermitted, "NOT_PERMITTED", codes.PermissionDenied},
		{ErrExpired, "EXPIRED", codes.DeadlineExceeded},
		{ErrCancelled, "CANCELLED", codes.Canceled},
		{ErrPanic, "PANIC", codes.Internal},
		{context.DeadlineExceeded, "DEADLINE_EXCEEDED", codes.DeadlineExceeded},
		{context.Canceled, "CANCELLED", codes.Canceled},
	} {
		for verdict, executed := range map[Verdict]string{NotSent: "no", Rejected: "no", MaybeExecuted: "maybe", HandlerFailed: "yes"} {
			e := NewError(verdict, c.err, "")
			e.Node, e.Target, e.Method = "db", "db@a", "get"
			wrapped := fmt.Errorf("wrapped: %w", e)
			var back *Error
			if !errors.Is(wrapped, c.err) || !errors.As(wrapped, &back) || back != e || e.Error() != c.err.Error() {
				t.Errorf("%v is lost", c.err)
			}
			s, ok := status.FromError(e)
			if !ok || s.Code() != c.code || s.Message() != e.Message || status.Code(wrapped) != c.code || len(s.Details()) != 1 {
				t.Errorf("%v: status %v", c.err, s)
				continue
			}
			i, ok := s.Details()[0].(*errdetails.ErrorInfo)
			m := i.GetMetadata()
			if !ok || i.GetDomain() != "mesh" || i.GetReason() != c.reason || m["node"] != "db" || m["target"] != "db@a" || m["method"] != "get" || m["executed"] != executed {
				t.Errorf("%v: %v", c.err, i)
			}
		}
	}
}

// M23: UNAVAILABLE and RESOURCE_EXHAUSTED, which retry interceptors repeat, are
// used only where no handler ran.
func TestRetriedCodesAreNotExecuted(t *testing.T) {
	for reason, c := range reasonConditions {
		code := codeOf(c.err)
		if (code == codes.Unavailable || code == codes.ResourceExhausted) && c.verdict != Rejected {
			t.Errorf("%s is %s with the verdict %s", reason, code, c.verdict)
		}
	}
}

// M23, M30: what each reason of the wire becomes for the caller.
func TestFailuresOfThePeer(t *testing.T) {
	for reason, want := range map[meshv1.Reason]struct {
		verdict Verdict
		err     error
		code    codes.Code
	}{
		meshv1.Reason_REASON_UNSPECIFIED:     {HandlerFailed, nil, codes.DataLoss},
		meshv1.Reason_REASON_HANDLER:         {HandlerFailed, nil, codes.DataLoss},
		meshv1.Reason_REASON_PANIC:           {HandlerFailed, ErrPanic, codes.Internal},
		meshv1.Reason_REASON_UNKNOWN_METHOD:  {Rejected, ErrUnknownMethod, codes.Unimplemented},
		meshv1.Reason_REASON_INVALID_NAME:    {Rejected, ErrInvalidName, codes.InvalidArgument},
		meshv1.Reason_REASON_NAME_NOT_FOUND:  {Rejected, ErrNameNotFound, codes.NotFound},
		meshv1.Reason_REASON_STALE_HANDLE:    {Rejected, ErrStaleHandle, codes.FailedPrecondition},
		meshv1.Reason_REASON_OVERLOADED:      {Rejected, ErrOverloaded, codes.ResourceExhausted},
		meshv1.Reason_REASON_DRAINING:        {Rejected, ErrDraining, codes.Unavailable},
		meshv1.Reason_REASON_TOO_LARGE:       {Rejected, ErrTooLarge, codes.ResourceExhausted},
		meshv1.Reason_REASON_REPLY_TOO_LARGE: {HandlerFailed, ErrReplyTooLarge, codes.OutOfRange},
		meshv1.Reason_REASON_EXPIRED:         {Rejected, ErrExpired, codes.DeadlineExceeded},
		meshv1.Reason_REASON_CANCELLED:       {MaybeExecuted, ErrCancelled, codes.Canceled},
		meshv1.Reason_REASON_NOT_PERMITTED:   {Rejected, ErrNotPermitted, codes.PermissionDenied},
		meshv1.Reason_REASON_INVALID_REQUEST: {Rejected, ErrInvalidRequest, codes.InvalidArgument},
		meshv1.Reason_REASON_NAME_TAKEN:      {Rejected, errNameTaken, codes.AlreadyExists},
		meshv1.Reason_REASON_LINK_BROKEN:     {MaybeExecuted, ErrLinkBroken, codes.Aborted},
		meshv1.Reason_REASON_LOOP:            {Rejected, ErrLoop, codes.FailedPrecondition},
		meshv1.Reason(999):                   {HandlerFailed, nil, codes.DataLoss},
	} {
		e := failureOf(&meshv1.Failure{Reason: reason, Code: uint32(codes.DataLoss), Message: "text"}).failed()
		if e.Verdict != want.verdict || e.Err != want.err || e.Code != want.code || e.Message != "text" {
			t.Errorf("%s: %s, %v, %s, %q", reason, e.Verdict, e.Err, e.Code, e.Message)
		}
		if want.err != nil && Refuse(reason, "x").Code != want.code {
			t.Errorf("%s is refused with %s", reason, Refuse(reason, "x").Code)
		}
	}
	if len(reasonConditions) != len(meshv1.Reason_name)-2 {
		t.Error("a reason is missing here or in reasonConditions")
	}
}

// M30: code, message and details of a handler's status pass as they are; OK and
// codes that do not exist become UNKNOWN.
func TestHandlersStatusPasses(t *testing.T) {
	detail, err := anypb.New(durationpb.New(5))
	if err != nil {
		t.Fatal(err)
	}
	for code, want := range map[uint32]codes.Code{0: codes.Unknown, 1: codes.Canceled, 5: codes.NotFound, 16: codes.Unauthenticated, 17: codes.Unknown, 1 << 31: codes.Unknown} {
		e := failureOf(&meshv1.Failure{Reason: meshv1.Reason_REASON_HANDLER, Code: code, Message: "m\n", Details: []*anypb.Any{detail}}).failed()
		s := status.Convert(e)
		if s.Code() != want || s.Message() != "m\n" || len(s.Details()) != 1 || e.Unwrap() != nil {
			t.Errorf("code %d: %v, details %v", code, s, s.Details())
		}
		for _, cond := range []error{ErrAbsent, ErrClosed, ErrLinkBroken} {
			if errors.Is(e, cond) {
				t.Errorf("a handler's error matches %v", cond)
			}
		}
	}
}

// Every caller gets an error of its own.
func TestErrorsAreNotShared(t *testing.T) {
	a := downError("db")
	b := a.again()
	b.Method = "m"
	if a.Method != "" || b.Message != a.Message {
		t.Error("a copy is no copy")
	}
	for range 2 {
		if n := len(a.GRPCStatus().Details()); n != 1 {
			t.Errorf("%d details", n)
		}
	}
}

func TestVerdictNames(t *testing.T) {
	for v, want := range map[Verdict]string{NotSent: "not sent", Rejected: "rejected", MaybeExecuted: "maybe executed", HandlerFailed: "handler failed", 0: "unknown", 99: "unknown", -1: "unknown"} {
		if v.String() != want {
			t.Errorf("%d is %q", int(v), v)
		}
	}
}

// M56: a text is cut at a rune's end, and is UTF-8 afterwards.
func TestCutText(t *testing.T) {
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 5, ""}, {"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aé", 3, "aé"}, {"aé", 2, "a"}, {"é", 1, ""}, {"x", 0, ""},
		{"a\U0001f600b", 4, "a"}, {"a\U0001f600b", 5, "a\U0001f600"}, {"\xff", 5, "?"}, {"a\xc3", 5, "a?"}, {"\xff\xff\xff", 2, "?"}, {"é\xff", 2, "é"},
	} {
		if got := cutText(c.text, c.limit); got != c.want {
			t.Errorf("cutText(%q, %d) = %q, want %q", c.text, c.limit, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.String(), rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) })).Draw(t, "text")
		limit := rapid.IntRange(0, 40).Draw(t, "limit")
		got := cutText(s, limit)
		switch {
		case len(got) > limit || !utf8.ValidString(got):
			t.Fatalf("%q", got)
		case utf8.ValidString(s) && (!strings.HasPrefix(s, got) || len(got) < min(len(s), limit)-3):
			t.Fatalf("%q is no beginning of %q, or too short", got, s)
		}
	})
}

// Log injection: a text from outside is one line, without what moves a
// terminal's cursor or turns its direction.
func TestCleanText(t *testing.T) {
	if got := cleanText("connection refused: ¡x!"); got != "connection refused: ¡x!" {
		t.Errorf("a clean text became %q", got)
	}
	for _, s := range []string{
		"a\n{\"level\":\"error\"}", "a\rb", "\x1b[2J", "a\x00b", "\x7f", "a\u0085b", "\u009b2J", "a\u2028b", "a\u202eb", "\xff", strings.Repeat("é\n", 5000), strings.Repeat("x", 1023) + "é",
	} {
		got := cleanText(s)
		bad := func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u202e' }
		if len(got) > maxErrorText || !utf8.ValidString(got) || strings.ContainsFunc(got, bad) {
			t.Errorf("%.20q became %.40q of %d bytes", s, got, len(got))
		}
	}
	evil := errors.New("a\nb")
	for _, e := range []*Error{connectError("db", "A:1", evil), brokenError("db", evil)} {
		if strings.Contains(e.Message, "\n") {
			t.Errorf("%q", e.Message)
		}
	}
}
