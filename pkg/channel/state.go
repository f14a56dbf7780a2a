package channel

import "fmt"

// State is what is known of a node (M38).
type State int

// The states of a node. Zero is StateAbsent.
const (
	// StateAbsent: the table does not have it. Callers wait.
	StateAbsent State = iota
	// StateDown: the table says that it is down. Callers fail.
	StateDown
	// StateIdle: it has an address and no link, because nobody needed one since it
	// got the address or since the last link ended in order.
	StateIdle
	// StateUp: it has a link.
	StateUp
	// StateLeaving: it said that it takes no more.
	StateLeaving
	// StateLost: its link broke, or a dial failed; Reason says how.
	StateLost
)

var stateNames = [...]string{"absent", "down", "idle", "up", "leaving", "lost"}

// String is the state's name in lower case.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateNames[s]
}

// NodeInfo is the state of one node at one moment.
type NodeInfo struct {
	Node  string
	State State
	// Addr is its address in the table; "" where it has none.
	Addr string
	// Process and Incarnation are those of the peer of its latest link.
	Process     string
	Incarnation uint32
	// Reason says why it is lost or leaving.
	Reason string
}
