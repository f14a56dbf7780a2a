package mesh

import (
	"errors"

	"github.com/meshnode/meshnode/pkg/channel"
	meshv1 "github.com/meshnode/meshnode/proto/mesh/v1"
)

// Reject makes the error of a handler that passes messages on, and refuses one
// before anything of it ran: its caller gets the verdict Rejected, the condition
// and the text, where another error would say that the handler ran. The
// condition is one of those that come with Rejected: ErrUnknownMethod,
// ErrDraining, ErrOverloaded, ErrTooLarge, ErrExpired, ErrNotPermitted, ErrLoop or
// ErrInvalidRequest; of another it makes ErrDraining. With ErrLinkBroken it says
// that the message was passed on and its outcome is not known: the verdict is
// MaybeExecuted.
func Reject(condition error, text string) error {
	reason := meshv1.Reason_REASON_DRAINING
	switch {
	case errors.Is(condition, ErrUnknownMethod):
		reason = meshv1.Reason_REASON_UNKNOWN_METHOD
	case errors.Is(condition, ErrOverloaded):
		reason = meshv1.Reason_REASON_OVERLOADED
	case errors.Is(condition, ErrTooLarge):
		reason = meshv1.Reason_REASON_TOO_LARGE
	case errors.Is(condition, ErrExpired):
		reason = meshv1.Reason_REASON_EXPIRED
	case errors.Is(condition, ErrNotPermitted):
		reason = meshv1.Reason_REASON_NOT_PERMITTED
	case errors.Is(condition, ErrLoop):
		reason = meshv1.Reason_REASON_LOOP
	case errors.Is(condition, ErrLinkBroken):
		reason = meshv1.Reason_REASON_LINK_BROKEN
	case errors.Is(condition, ErrInvalidRequest):
		reason = meshv1.Reason_REASON_INVALID_REQUEST
	}
	return refused{channel.Refuse(reason, text)}
}
