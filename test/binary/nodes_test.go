package binary_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// serveNodes starts a process that opens these nodes at addresses of a table,
// and returns the table's file. Between the choice of a port and its use another
// process may take it: then it chooses again.
func serveNodes(t *testing.T, nodes []string, args ...string) (*server, string) {
	t.Helper()
	for range 5 {
		var text strings.Builder
		flags := args
		for _, node := range nodes {
			fmt.Fprintf(&text, "%s: 127.0.0.1:%d\n", node, freePort(t))
			flags = append(flags[:len(flags):len(flags)], "--open", node)
		}
		table := newTable(t, text.String())
		s := start(t, append([]string{"--table", table}, flags...)...)
		for over := time.After(bound); ; {
			serving, grew := s.lines("serving", nil)
			if len(serving) > 0 {
				return s, table
			}
			if failed, _ := s.lines("cannot listen", nil); len(failed) > 0 {
				if !strings.Contains(failed[0]["error"].(string), "address already in use") || s.exit() != 1 {
					t.Fatal(s)
				}
				break
			}
			select {
			case <-grew:
			case <-over:
				t.Fatalf("the process neither serves nor ends:\n%s", s)
			}
		}
	}
	t.Fatal("no free ports in 5 tries")
	return nil, ""
}

// freePort finds a port on which nobody listens, below those that the system
// gives to whoever asks for any.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 20000 + rand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port in 100 tries")
	return 0
}
