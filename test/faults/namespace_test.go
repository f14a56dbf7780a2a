//go:build faults && linux

package faults_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// wire is two network namespaces and a cable between them: callers stand in one,
// a node in the other, which drops and refuses packets as nftables tells it.
type wire struct {
	t          *testing.T
	here, away string // the namespaces
}

const (
	hereAddr = "10.213.77.1"
	awayAddr = "10.213.77.2"
)

// newWire makes the namespaces, or skips the test and says why.
func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root; the proxy covers this fault")
	}
	for _, program := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed; the proxy covers this fault", program)
		}
	}
	w := &wire{t: t, here: fmt.Sprintf("mn-a-%d", os.Getpid()), away: fmt.Sprintf("mn-b-%d", os.Getpid())}
	for _, ns := range []string{w.here, w.away} {
		if out, err := exec.Command("ip", "netns", "add", ns).CombinedOutput(); err != nil {
			t.Skipf("no network namespace can be made here (%s); the proxy covers this fault", strings.TrimSpace(string(out)))
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	}
	w.run("ip", "-n", w.here, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", w.away)
	for ns, addr := range map[string]string{w.here: hereAddr, w.away: awayAddr} {
		w.run("ip", "-n", ns, "addr", "add", addr+"/30", "dev", "cable")
		w.run("ip", "-n", ns, "link", "set", "cable", "up")
		w.run("ip", "-n", ns, "link", "set", "lo", "up")
	}
	w.nft("add table inet t; add chain inet t in { type filter hook input priority 0 ; }; add chain inet t out { type filter hook output priority 0 ; }")
	return w
}

func (w *wire) run(command ...string) string {
	w.t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%q: %v: %s", command, err, out)
	}
	return string(out)
}

// nft tells the node's namespace what to do with packets.
func (w *wire) nft(rules string) { w.t.Helper(); w.run("ip", "netns", "exec", w.away, "nft", rules) }

// heal takes all rules away, and returns how many packets they hit.
func (w *wire) heal() (packets int) {
	w.t.Helper()
	for _, hit := range regexp.MustCompile(`counter packets (\d+)`).FindAllStringSubmatch(w.run("ip", "netns", "exec", w.away, "nft", "list", "table", "inet", "t"), -1) {
		n, _ := strconv.Atoi(hit[1])
		packets += n
	}
	w.nft("flush table inet t")
	return packets
}

// node is one in the far namespace.
func (w *wire) node() *node {
	n := newNode(w.t, "db")
	n.config.Addr, n.config.Open = awayAddr+":2528", true
	n.wrap = []string{"ip", "netns", "exec", w.away}
	return n.start()
}

// client dials from the near namespace: a socket stays in the namespace in which
// it was made.
func (w *wire) client(table mesh.Table) *mesh.Mesh {
	return client(w.t, "client", table, func(o *mesh.Options) {
		o.Insecure = true
		o.Dial = func(ctx context.Context, addr string) (conn net.Conn, err error) {
			done := make(chan struct{})
			go func() { // its thread is thrown away with it: it is never unlocked
				defer close(done)
				runtime.LockOSThread()
				f, ferr := os.Open("/var/run/netns/" + w.here)
				if ferr != nil {
					err = ferr
					return
				}
				defer f.Close()
				if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err == nil {
					conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
				}
			}()
			<-done
			return conn, err
		}
	})
}

// F11, F12: the cable is cut, both ways or one way, under load.
func TestF11F12Cable(t *testing.T) {
	for what, rules := range map[string]string{
		"F11 both ways": "add rule inet t in counter drop; add rule inet t out counter drop",
		"F12 to node":   "add rule inet t in counter drop",
		"F12 from node": "add rule inet t out counter drop",
	} {
		t.Run(what, func(t *testing.T) {
			w := newWire(t)
			n := w.node()
			h := newHistory(t, n)
			m := w.client(mesh.Table{"db": n.addr})
			l := h.begin(m, "db@echo", 32, 500, 30*time.Second)
			l.goesOn(200, 20*time.Second)
			start := time.Now()
			w.nft(rules)
			until(t, "the dialler finds out", silence+beat+slack, func() bool { return m.Stats().LinksLost > 0 })
			until(t, "the listener finds out", silence+beat+slack, func() bool { return n.stats().LinksIn == 0 })
			took := time.Since(start)
			if hits := w.heal(); hits == 0 {
				t.Error("no packet was dropped")
			} else {
				t.Logf("both ends knew after %s; %d packets were dropped", took.Round(time.Millisecond), hits)
			}
			timed(t, "the first success after the heal", backoff+time.Second+slack, func() { l.goesOn(1, 20*time.Second) })
			l.stop()
			h.check()
		})
	}
}

// F13: the node's kernel answers with RST.
func TestF13CableReset(t *testing.T) {
	w := newWire(t)
	n := w.node()
	h := newHistory(t, n)
	m := w.client(mesh.Table{"db": n.addr})
	l := h.begin(m, "db@echo", 16, 500, 20*time.Second, mesh.WaitUp)
	l.goesOn(200, 20*time.Second)
	w.nft("add rule inet t in tcp dport 2528 counter reject with tcp reset")
	until(t, "the link is lost at once", slack, func() bool { return m.Stats().LinksLost > 0 })
	if w.heal() == 0 {
		t.Error("nothing was reset")
	}
	l.goesOn(200, 20*time.Second)
	l.stop()
	h.check()
}

// F14: one packet in twenty is lost: nobody is taken for dead, and no call fails.
func TestF14Loss(t *testing.T) {
	w := newWire(t)
	n := w.node()
	h := newHistory(t, n)
	m := w.client(mesh.Table{"db": n.addr})
	w.nft("add rule inet t in numgen random mod 100 < 5 counter drop; add rule inet t out numgen random mod 100 < 5 counter drop")
	l := h.begin(m, "db@echo", 32, 2000, 30*time.Second, mesh.WaitUp)
	l.goesOn(200, 60*time.Second)
	time.Sleep(10 * time.Second) // long enough for a false down
	l.stop()
	hits := w.heal()
	if c := h.count(); len(c) != 1 || m.Stats().LinksLost != 0 || hits == 0 {
		t.Errorf("%v, %d links lost, %d packets dropped", c, m.Stats().LinksLost, hits)
	}
	t.Logf("%d packets dropped, %v", hits, h.count())
	h.check()
}

// F16: connects are not answered: a dial ends at C, and who waits keeps its own
// deadline.
func TestF16NoAnswer(t *testing.T) {
	w := newWire(t)
	n := w.node()
	h := newHistory(t, n)
	m := w.client(mesh.Table{"db": n.addr})
	w.nft("add rule inet t in tcp flags syn counter drop")
	start := time.Now()
	err := h.call(context.Background(), m, "db@echo", 0)
	if took := time.Since(start); !errors.Is(err, mesh.ErrConnect) || took < dialTime-time.Second || took > dialTime+slack {
		t.Errorf("after %s: %v", took, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := h.call(ctx, m, "db@echo", 0, mesh.WaitUp); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if w.heal() == 0 {
		t.Error("no SYN was dropped")
	}
	ctx, cancel = context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.call(ctx, m, "db@echo", 0, mesh.WaitUp); err != nil {
		t.Error(err)
	}
	h.check()
}
