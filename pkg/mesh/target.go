package mesh

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"sync/atomic"

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
	route  channel.Route
}

var errHandle = errors.New("a handle is 16 hex digits, as Query gives it")

// parseTarget splits NODE@NAME, NODE.NAME or NODE:HANDLE.
func parseTarget(s string) (*target, error) {
	i := strings.IndexAny(s, "@.:")
	switch {
	case i < 0:
		return nil, fmt.Errorf("it has no service: write NODE@NAME, NODE.NAME or NODE:HANDLE")
	case i == 0:
		return nil, fmt.Errorf("it has no node: write NODE@NAME, NODE.NAME or NODE:HANDLE")
	case i == len(s)-1:
		return nil, fmt.Errorf("nothing follows %q: write NODE@NAME, NODE.NAME or NODE:HANDLE", s[i:])
	}
	t := &target{text: s, node: s[:i]}
	if err := channel.CheckNode(t.node); err != nil {
		return nil, fmt.Errorf("node: %w", err)
	}
	if s[i] == ':' {
		h, err := strconv.ParseUint(s[i+1:], 16, 64)
		if err != nil || len(s)-i-1 != 16 {
			return nil, errHandle
		}
		t.handle = Handle(h)
		return t, nil
	}
	name, err := registry.CanonicalName(s[i:])
	if err != nil {
		return nil, err
	}
	t.name = name
	return t, nil
}

// targetCache remembers targets that were parsed, because callers give the same
// few again and again. It is a table of fixed size: a target is where its hash
// says, or has been replaced by another.
type targetCache struct {
	seed  maphash.Seed
	slots [256]atomic.Pointer[target]
}

// parsed is parseTarget; the target is shared and must not be changed.
func (c *targetCache) parsed(s string) (*target, error) {
	slot := &c.slots[maphash.String(c.seed, s)%uint64(len(c.slots))]
	if t := slot.Load(); t != nil && t.text == s {
		return t, nil
	}
	t, err := parseTarget(strings.Clone(s)) // s may be a piece of something large
	if err != nil {
		return nil, err
	}
	slot.Store(t)
	return t, nil
}

// resolve finds a target, with the error that a caller of method gets.
func (m *Mesh) resolve(s, method string) (*target, error) {
	t, err := m.targets.parsed(s)
	if err != nil {
		return nil, invalidTarget(s, method, err)
	}
	return t, nil
}

func invalidTarget(s, method string, why error) error {
	return (&target{text: s}).fails(NotSent, ErrInvalidTarget, method, fmt.Sprintf("invalid target %q: %v", cut(s), why))
}

// cut keeps a text that someone gave from filling a message.
func cut(s string) string {
	const most = 300
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
