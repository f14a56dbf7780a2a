package mesh

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/meshnode/meshnode/pkg/channel"
	"github.com/meshnode/meshnode/pkg/registry"
)

// Handle names a service of one life of a process: the incarnation of the
// process in the upper half, a number that is never used again in the lower.
// After a restart it is stale, and never another service.
type Handle uint64

// String is ':' and 16 hex digits, as it stands in a target.
func (h Handle) String() string { return fmt.Sprintf(":%016x", uint64(h)) }

// target is a parsed target.
type target struct {
	text   string
	node   string
	name   string // with its sign; "" where it is a handle
	handle Handle
}

// parseTarget splits NODE@NAME, NODE.NAME or NODE:HANDLE.
func parseTarget(s string) (target, error) {
	i := strings.IndexAny(s, "@.:")
	switch {
	case i < 0:
		return target{}, fmt.Errorf("it has no service: write NODE@NAME, NODE.NAME or NODE:HANDLE")
	case i == 0:
		return target{}, fmt.Errorf("it has no node: write NODE@NAME, NODE.NAME or NODE:HANDLE")
	case i == len(s)-1:
		return target{}, fmt.Errorf("nothing follows %q: write NODE@NAME, NODE.NAME or NODE:HANDLE", s[i:])
	}
	t := target{text: s, node: s[:i]}
	if err := channel.CheckNode(t.node); err != nil {
		return target{}, fmt.Errorf("node: %w", err)
	}
	if s[i] == ':' {
		h, err := strconv.ParseUint(s[i+1:], 16, 64)
		if err != nil || len(s)-i-1 != 16 {
			return target{}, fmt.Errorf("a handle is 16 hex digits, as Query gives it")
		}
		t.handle = Handle(h)
		return t, nil
	}
	name, err := registry.CanonicalName(s[i:])
	if err != nil {
		return target{}, err
	}
	t.name = name
	return t, nil
}

// resolve is parseTarget with the error that a caller of method gets.
func resolve(s, method string) (target, error) {
	t, err := parseTarget(s)
	if err != nil {
		return target{}, invalidTarget(s, method, err)
	}
	return t, nil
}

func invalidTarget(s, method string, why error) error {
	return target{text: s}.fails(NotSent, ErrInvalidTarget, method, fmt.Sprintf("invalid target %q: %v", cut(s), why))
}

// cut keeps a text that someone gave from filling a message.
func cut(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
