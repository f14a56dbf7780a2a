package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// The exit codes. A command that a second signal ends at once exits with 128 and
// the signal's number, as a shell has it.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitNotSent  = 3
	exitRejected = 4
	exitMaybe    = 5
)

const exitCodes = `Exit codes:
  0  done
  1  the handler ran and failed, or its reply could not be written; serve: it
     could not listen
  2  the command, its table or its target is wrong: nothing was sent
  3  not sent: the message certainly did not run (node down, absent or not
     reached in time). Trying again is safe
  4  rejected: the node refused it before anything ran (no such service, stale
     handle, overloaded)
  5  maybe executed: the link broke, or the time was over, after it was sent.
     Trying again may run it twice
  A second SIGINT or SIGTERM ends a command at once, with 128 + its number.`

// failure is an error with its exit code.
type failure struct {
	code   int
	err    error
	logged bool // in the log, and not to be printed
}

// Error is that of the error.
func (f *failure) Error() string { return f.err.Error() }

// Unwrap returns the error.
func (f *failure) Unwrap() error { return f.err }

// usagef makes the error of a command that is wrong. It should say what to do.
func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// exitCode tells how the command ends. What has neither a code nor a verdict
// comes from the parsing of the command line.
func exitCode(err error) int {
	var f *failure
	if errors.As(err, &f) {
		return f.code
	}
	verdict := mesh.VerdictOf(err)
	switch {
	case verdict == mesh.NotSent && (errors.Is(err, mesh.ErrInvalidTarget) || errors.Is(err, mesh.ErrInvalidRequest)):
		return exitUsage
	case verdict == mesh.NotSent:
		return exitNotSent
	case verdict == mesh.Rejected:
		return exitRejected
	case verdict == mesh.MaybeExecuted:
		return exitMaybe
	case verdict == mesh.HandlerFailed:
		return exitFailed
	default:
		return exitUsage
	}
}

// sentence is what is printed of an error: for one of the mesh its verdict
// first, and for one of a handler its gRPC code.
func sentence(err error) string {
	var e *mesh.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	text := visible(err.Error())
	if _, direct := err.(interface{ GRPCStatus() *status.Status }); direct {
		text = visible(e.Message) // a stub's error has its status for a text
	}
	switch {
	case exitCode(err) == exitUsage:
		return text
	case e.Verdict == mesh.HandlerFailed && e.Code != codes.Unknown:
		return fmt.Sprintf("%s: %s: %s", e.Verdict, e.Code, text)
	default:
		return fmt.Sprintf("%s: %s", e.Verdict, text)
	}
}

// visible makes a text that a peer may have written fit for a line on a
// terminal.
func visible(text string) string {
	if !strings.ContainsFunc(text, unicode.IsControl) {
		return strings.ToValidUTF8(text, "?")
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}
