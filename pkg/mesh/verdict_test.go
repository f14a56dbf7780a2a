package mesh_test

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

	"github.com/meshnode/meshnode/pkg/mesh"
)

// conditions are all that errors.Is may find, with the reason and code by which
// other languages know them.
var conditions = []struct {
	err    error
	reason string
	code   codes.Code
}{
	{mesh.ErrAbsent, "ABSENT", codes.Unavailable},
	{mesh.ErrDown, "DOWN", codes.Unavailable},
	{mesh.ErrConnect, "CONNECT_FAILED", codes.Unavailable},
	{mesh.ErrClosed, "CLOSED", codes.Unavailable},
	{mesh.ErrDraining, "DRAINING", codes.Unavailable},
	{mesh.ErrOverloaded, "OVERLOADED", codes.ResourceExhausted},
	{mesh.ErrTooLarge, "TOO_LARGE", codes.ResourceExhausted},
	{mesh.ErrInvalidTarget, "INVALID_TARGET", codes.InvalidArgument},
	{mesh.ErrInvalidRequest, "INVALID_REQUEST", codes.InvalidArgument},
	{mesh.ErrInvalidName, "INVALID_NAME", codes.InvalidArgument},
	{mesh.ErrNameNotFound, "NAME_NOT_FOUND", codes.NotFound},
	{mesh.ErrStaleHandle, "STALE_HANDLE", codes.FailedPrecondition},
	{mesh.ErrUnknownMethod, "UNKNOWN_METHOD", codes.Unimplemented},
	{mesh.ErrNotPermitted, "NOT_PERMITTED", codes.PermissionDenied},
	{mesh.ErrExpired, "EXPIRED", codes.DeadlineExceeded},
	{mesh.ErrCancelled, "CANCELLED", codes.Canceled},
	{mesh.ErrLinkBroken, "LINK_BROKEN", codes.Aborted},
	{mesh.ErrReplyTooLarge, "REPLY_TOO_LARGE", codes.OutOfRange},
	{mesh.ErrPanic, "PANIC", codes.Internal},
	{mesh.ErrLoop, "LOOP", codes.FailedPrecondition},
	{context.Canceled, "CANCELLED", codes.Canceled},
	{context.DeadlineExceeded, "DEADLINE_EXCEEDED", codes.DeadlineExceeded},
}

// wantError is what an error has to say. Zero fields are not looked at, but is:
// nil means that nothing of the mesh's may be found in it.
type wantError struct {
	verdict              mesh.Verdict
	is                   error
	code                 codes.Code // where is is nil
	text                 string     // that the message has in it
	node, target, method string
}

// check looks at an error in every way in which a caller can.
func (want wantError) check(t *testing.T, err error) {
	t.Helper()
	var e *mesh.Error
	if !errors.As(err, &e) {
		t.Errorf("%v is no *mesh.Error", err)
		return
	}
	wrapped := fmt.Errorf("on the way: %w", err)
	if e.Verdict != want.verdict || mesh.VerdictOf(err) != want.verdict || mesh.VerdictOf(wrapped) != want.verdict {
		t.Errorf("%v: the verdict is %q, want %q", err, e.Verdict, want.verdict)
	}
	if !strings.Contains(err.Error(), want.text) {
		t.Errorf("%q does not say %q", err, want.text)
	}
	for what, pair := range map[string][2]string{"node": {e.Node, want.node}, "target": {e.Target, want.target}, "method": {e.Method, want.method}} {
		if pair[1] != "" && pair[0] != pair[1] {
			t.Errorf("%v: its %s is %q, want %q", err, what, pair[0], pair[1])
		}
	}
	reason, code := "", want.code
	for _, c := range conditions {
		if c.err == want.is {
			reason, code = c.reason, c.code
		}
		if errors.Is(wrapped, c.err) != (c.err == want.is) {
			t.Errorf("%v: errors.Is finds %v: %t", err, c.err, errors.Is(wrapped, c.err))
		}
	}
	want.checkStatus(t, err, reason, code)
}

func (want wantError) checkStatus(t *testing.T, err error, reason string, code codes.Code) {
	t.Helper()
	st, ok := status.FromError(err)
	if !ok || st.Code() != code || st.Message() != err.Error() {
		t.Errorf("%v: its status is %v (%t), want code %v and the same message", err, st, ok, code)
	}
	var infos []*errdetails.ErrorInfo
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.GetDomain() == "mesh" {
			infos = append(infos, i)
		}
	}
	if want.is == nil {
		if len(infos) != 0 {
			t.Errorf("%v: the status of a handler holds facts of the mesh: %v", err, infos)
		}
		return
	}
	if len(infos) != 1 {
		t.Errorf("%v: %d details of the mesh, want 1", err, len(infos))
		return
	}
	executed := map[mesh.Verdict]string{mesh.NotSent: "no", mesh.Rejected: "no", mesh.MaybeExecuted: "maybe", mesh.HandlerFailed: "yes"}[want.verdict]
	md := infos[0].GetMetadata()
	if infos[0].GetReason() != reason || md["executed"] != executed {
		t.Errorf("%v: the detail says %q, executed %q; want %q, %q", err, infos[0].GetReason(), md["executed"], reason, executed)
	}
	for what, text := range map[string]string{"node": want.node, "target": want.target, "method": want.method} {
		if text != "" && utf8.ValidString(text) && md[what] != text { // others are cleaned for the wire
			t.Errorf("%v: the detail's %s is %q, want %q", err, what, md[what], text)
		}
	}
}
