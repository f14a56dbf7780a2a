package channel

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// callList against a slice: whoever leaves, and whoever comes back, the order
// is kept (M12, M13).
func TestCallListKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l callList
		var want, away []*call
		order := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) {
				order++
				c := &call{order: order}
				l.push(c)
				want = append(want, c)
			},
			"remove": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip("nobody there")
				}
				i := rapid.IntRange(0, len(want)-1).Draw(t, "which")
				want[i].remove()
				want[i].remove() // twice does nothing
				away = append(away, want[i])
				want = slices.Delete(want, i, i+1)
			},
			"put back": func(*rapid.T) {
				rand.New(rand.NewPCG(order, 1)).Shuffle(len(away), func(i, j int) { away[i], away[j] = away[j], away[i] })
				want = append(want, away...)
				l.merge(away)
				away = nil
				slices.SortFunc(want, func(a, b *call) int { return cmp.Compare(a.order, b.order) })
			},
			"all": func(*rapid.T) {
				if got := l.all(); !slices.Equal(got, want) {
					t.Fatal("all is not all")
				}
				want = nil
			},
			"": func(t *rapid.T) {
				var back []*call
				for c := l.tail; c != nil; c = c.prev {
					back = append(back, c)
				}
				slices.Reverse(back)
				if got := l.snapshot(); !slices.Equal(got, want) || !slices.Equal(back, want) || l.len != len(want) {
					t.Fatalf("%d of %d calls, %d backwards, counted as %d", len(got), len(want), len(back), l.len)
				}
				for _, c := range away {
					if c.list != nil || c.prev != nil || c.next != nil {
						t.Fatal("one that left still knows the list")
					}
				}
			},
		})
	})
}

// M60: a tag gets its prefix on its first hop, and is passed on unchanged.
func TestTraceTag(t *testing.T) {
	for tag, want := range map[string]string{"": "", "x": "(me-db@a-7)x", "(a-b-1)x": "(a-b-1)x", "(": "("} {
		c := &call{Message: Message{Target: "db@a", Tag: tag}, session: 7}
		if got := c.traceTag("me"); got != want {
			t.Errorf("%q becomes %q, want %q", tag, got, want)
		}
	}
}

// M31: a deadline leaves as time left, computed when the frame does; 0 means
// none, so what is late already has 1.
func TestTimeLeft(t *testing.T) {
	now := time.Unix(1e9, 0)
	for due, want := range map[time.Time]uint64{
		{}: 0, now.Add(time.Second): 1e6, now.Add(1500 * time.Nanosecond): 1, now.Add(time.Nanosecond): 1, now: 1, now.Add(-time.Hour): 1,
	} {
		c := &call{Message: Message{Due: due}}
		if f := c.first("me", now); f.timeLeft != want {
			t.Errorf("due in %s: %d us left, want %d", due.Sub(now), f.timeLeft, want)
		}
	}
}

// M39: up to 32 KiB a message is one frame; beyond it the first has 32 KiB and
// says how much there is.
func TestFirstFrame(t *testing.T) {
	for n, want := range map[int][2]int{0: {0, 0}, 1: {1, 0}, 32767: {32767, 0}, 32768: {32768, 0}, 32769: {32768, 32769}, 65537: {32768, 65537}} {
		c := &call{Message: Message{Name: "@a", Payload: make([]byte, n)}}
		if f := c.first("me", time.Time{}); len(f.payload) != want[0] || f.total != uint64(want[1]) || c.isLarge() != (want[1] > 0) {
			t.Errorf("%d bytes: %d in the first frame, total %d, large: %v", n, len(f.payload), f.total, c.isLarge())
		}
	}
}

// M56: a message counts its payload, headers and names plus 256 bytes.
func TestMessageSize(t *testing.T) {
	c := &call{Message: Message{Name: "@abc", Method: "m", Tag: "tt", Payload: make([]byte, 10), Headers: []Header{{"key", []byte("value")}}}}
	if n := c.size(); n < 256+4+1+2+10+8 || n > 256+4+1+2+10+8+64 {
		t.Errorf("it counts %d", n)
	}
}

// M21: an outcome is handed over once, to whoever waits or to whoever asks.
func TestOutcomeIsHandedOverOnce(t *testing.T) {
	c := &call{Message: Message{Node: "db", Target: "db@a", Method: "m"}}
	c.settle(outcome{err: downError("db")})
	c.settle(outcome{})
	if e := c.early.err; e == nil || e.Node != "db" || e.Target != "db@a" || e.Method != "m" {
		t.Errorf("the outcome is %+v", e)
	}
	d := &call{waited: true, done: make(chan outcome, 2)}
	d.settle(outcome{})
	d.settle(outcome{err: downError("db")})
	if len(d.done) != 1 {
		t.Errorf("%d outcomes", len(d.done))
	}
}
