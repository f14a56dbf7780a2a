package access

import (
	"fmt"
	"slices"
	"strings"
)

// Right is what a peer may do beside calling services that have names.
type Right string

// The rights.
const (
	// Query: ask for the handle of a name.
	Query Right = "query"
	// Process: everything else that handle 0 answers: names, ping.
	Process Right = "process"
	// Forward: have this process call other nodes, by ClusterService.Call or
	// through a gateway.
	Forward Right = "forward"
	// Behalf: be believed where it says for whom it asks.
	Behalf Right = "behalf"
)

var rights = []Right{Query, Process, Forward, Behalf}

// Rules say which identities may call which names and methods. They are
// immutable. A nil *Rules allows everything.
type Rules struct {
	allowed bool // what no rule speaks of
	rules   []rule
}

// rule allows or denies one thing to some. Patterns are texts in which '*'
// stands for any characters.
type rule struct {
	allow   bool
	who     []string
	call    []string // names of services, with their signs
	methods []string // empty: all
	serve   []string // names that it may register through Serve
	rights  []Right
}

func (r *rule) speaksOf(id Identity) bool {
	if len(id.Names) == 0 {
		return matches(r.who, Unknown)
	}
	return slices.ContainsFunc(id.Names, func(n string) bool { return matches(r.who, n) })
}

// decide asks each rule for which about is true; deny wins, and where none
// speaks the default holds.
func (r *Rules) decide(id Identity, about func(*rule) bool) bool {
	if r == nil {
		return true
	}
	spoken, allowed := false, true
	for i := range r.rules {
		if x := &r.rules[i]; about(x) && x.speaksOf(id) {
			spoken, allowed = true, allowed && x.allow
		}
	}
	if !spoken {
		return r.allowed
	}
	return allowed
}

// MayCall says whether a peer may call a method of the service that was found.
// names are all that it has, as they are now; written is the name in the
// message, "" where it has a handle. A service without a name has the default
// alone.
func (r *Rules) MayCall(id Identity, names []string, written, method string) bool {
	return r.decide(id, func(x *rule) bool {
		named := written != "" && matches(x.call, written) ||
			slices.ContainsFunc(names, func(n string) bool { return matches(x.call, n) })
		return named && (len(x.methods) == 0 || matches(x.methods, method))
	})
}

// MayServe says whether a peer may register a name through Serve.
func (r *Rules) MayServe(id Identity, name string) bool {
	return r.decide(id, func(x *rule) bool { return matches(x.serve, name) })
}

// May says whether a peer has a right. Behalf is nobody's whom no rule names.
func (r *Rules) May(id Identity, right Right) bool {
	about := func(x *rule) bool { return slices.Contains(x.rights, right) }
	if right == Behalf && r != nil && !slices.ContainsFunc(r.rules, func(x rule) bool { return about(&x) && x.speaksOf(id) }) {
		return false
	}
	return r.decide(id, about)
}

func matches(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, s) })
}

// match compares byte for byte: no case is folded and nothing is cleaned, so
// that a look-alike is another name.
func match(pattern, s string) bool {
	first, rest, starred := strings.Cut(pattern, "*")
	if !starred {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	parts := strings.Split(rest, "*")
	last := parts[len(parts)-1]
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, last)
}

// String tells how many rules there are.
func (r *Rules) String() string {
	if r == nil {
		return "no rules: everything is allowed"
	}
	otherwise := "denied"
	if r.allowed {
		otherwise = "allowed"
	}
	return fmt.Sprintf("%d rules; what they do not speak of is %s", len(r.rules), otherwise)
}
