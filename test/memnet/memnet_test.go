package memnet_test

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshnode/meshnode/test/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFreezeCutAndRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		if _, err := n.Dial(t.Context(), "a:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial without a listener: %v", err)
		}
		l, err := n.Listen("a:1")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := n.Dial(t.Context(), "a:1")
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		n.Freeze("a:1", true, false)
		if _, err := c.Write([]byte("up")); err != nil {
			t.Fatal(err)
		}
		_ = s.SetReadDeadline(time.Now().Add(time.Second))
		b := make([]byte, 8)
		if _, err := s.Read(b); !errors.Is(err, context.DeadlineExceeded) && err == nil {
			t.Fatal("read through a frozen direction")
		}
		_ = s.SetReadDeadline(time.Time{})
		n.Freeze("a:1", false, false)
		if k, err := s.Read(b); err != nil || string(b[:k]) != "up" {
			t.Fatalf("after the thaw: %q %v", b[:k], err)
		}
		n.Cut("a:1")
		if _, err := s.Read(b); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("after the cut: %v", err)
		}
		c2, _ := n.Dial(t.Context(), "a:1")
		s2, _ := l.Accept()
		_ = c2.Close()
		if _, err := s2.Read(b); !errors.Is(err, io.EOF) {
			t.Fatalf("after the other end closed: %v", err)
		}
		n.Hang("a:1", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := n.Dial(ctx, "a:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("hanging dial: %v", err)
		}
		if n.Dials("a:1") != 4 {
			t.Fatalf("dials: %d", n.Dials("a:1"))
		}
	})
}
