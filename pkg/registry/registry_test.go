package registry

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// M42, M43
func TestCanonicalName(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"sdb", "@sdb"},
		{"@sdb", "@sdb"},
		{".launcher", ".launcher"},
		{"@.b", "@.b"},
		{".b@c", ".b@c"},
		{"@@", "@@"},
		{":x", "@:x"},
		{"a b", "@a b"},
		{"日本", "@日本"},
		{"\uFFFD", "@\uFFFD"}, // the character itself, not broken UTF-8
		{strings.Repeat("a", 254), "@" + strings.Repeat("a", 254)},
		{"." + strings.Repeat("a", 254), "." + strings.Repeat("a", 254)},
		// invalid
		{"", ""},
		{"@", ""},
		{".", ""},
		{strings.Repeat("a", 255), ""},
		{"." + strings.Repeat("a", 255), ""},
		{"a\x00", ""},
		{"a\nb", ""},
		{"a\x7f", ""},
		{"a\u0085", ""},
		{"a\xff", ""},
		{"\xc3", ""},
	} {
		got, err := CanonicalName(c.in)
		if got != c.want {
			t.Errorf("CanonicalName(%q) = %q, want %q", c.in, got, c.want)
		}
		if invalid := c.want == ""; errors.Is(err, ErrInvalidName) != invalid || (err == nil) == invalid {
			t.Errorf("CanonicalName(%q): error %v", c.in, err)
		}
	}
}

// M42, M43: what is canonical stays so, and is what ByName takes.
func TestCanonicalNameIsWhatByNameTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.StringMatching(`[@.:a\x00-\x1f]{0,3}`)).Draw(t, "name")
		name, err := CanonicalName(in)
		if err != nil {
			return
		}
		if again, err := CanonicalName(name); again != name || err != nil {
			t.Fatalf("%q became %q, %v", name, again, err)
		}
		r := New(1)
		s := r.NewService(Limits{})
		if err := r.Register(in, s); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ByName(name); got != s || err != nil {
			t.Fatalf("ByName(%q) = %v, %v", name, got, err)
		}
	})
}

// M42, M44: a name from the wire is checked, and carries its sign.
func TestByNameChecksTheName(t *testing.T) {
	r := New(1)
	for _, c := range []struct {
		name string
		want error
	}{
		{"@nobody", ErrNameNotFound},
		{".nobody", ErrNameNotFound},
		{"sdb", ErrInvalidName},
		{"", ErrInvalidName},
		{"@", ErrInvalidName},
		{"@a\x01", ErrInvalidName},
		{"@\xff", ErrInvalidName},
		{"@" + strings.Repeat("a", 255), ErrInvalidName},
	} {
		if s, err := r.ByName(c.name); s != nil || !errors.Is(err, c.want) {
			t.Errorf("ByName(%q) = %v, %v, want %v", c.name, s, err, c.want)
		}
	}
}

// M43
func TestTakenNameIsAnError(t *testing.T) {
	r := New(1)
	a, b := r.NewService(Limits{}), r.NewService(Limits{})
	if err := r.Register("sdb", a); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sdb", "@sdb"} {
		for _, s := range []*Service{a, b} {
			if err := r.Register(name, s); !errors.Is(err, ErrNameTaken) {
				t.Errorf("Register(%q): %v", name, err)
			}
		}
	}
	if s, _ := r.ByName("@sdb"); s != a {
		t.Error("the name has moved")
	}
	if err := r.Register("a\n", b); !errors.Is(err, ErrInvalidName) {
		t.Error(err)
	}
	if err := r.Register("x", New(1).NewService(Limits{})); !errors.Is(err, ErrStopped) {
		t.Errorf("a service of another registry: %v", err)
	}
}

// M43: one name of each kind, a second replaces the first.
func TestServiceHasOneNameOfEachKind(t *testing.T) {
	r := New(1)
	s := r.NewService(Limits{})
	for _, step := range []struct {
		name string
		want []string
	}{
		{".local", []string{".local"}},
		{"first", []string{"@first", ".local"}},
		{"@second", []string{"@second", ".local"}},
		{".other", []string{"@second", ".other"}},
	} {
		if err := r.Register(step.name, s); err != nil {
			t.Fatal(err)
		}
		if got := s.Names(); !slices.Equal(got, step.want) {
			t.Fatalf("after %q: %q, want %q", step.name, got, step.want)
		}
	}
	if _, err := r.ByName("@first"); !errors.Is(err, ErrNameNotFound) {
		t.Error("the replaced name is still found")
	}
	// A name that was replaced is free.
	if err := r.Register("first", r.NewService(Limits{})); err != nil {
		t.Error(err)
	}
}

// M43, M44
func TestUnregister(t *testing.T) {
	r := New(1)
	s := r.NewService(Limits{})
	for _, name := range []string{"sdb", ".sdb"} {
		if err := r.Register(name, s); err != nil {
			t.Fatal(err)
		}
	}
	r.Unregister("nobody")
	r.Unregister("")
	r.Unregister("sdb")
	if _, err := r.ByName("@sdb"); !errors.Is(err, ErrNameNotFound) {
		t.Error(err)
	}
	if got := s.Names(); !slices.Equal(got, []string{".sdb"}) {
		t.Errorf("names left: %q", got)
	}
	if got, err := r.ByHandle(s.Handle()); got != s || err != nil {
		t.Error("the service went with its name")
	}
	if err := r.Register("sdb", s); err != nil {
		t.Error(err)
	}
}

// M47
func TestHandlesAreNeverUsedAgain(t *testing.T) {
	r := New(0xfeed0001)
	a := r.NewService(Limits{})
	if want := uint64(0xfeed0001_00000001); a.Handle() != want {
		t.Fatalf("first handle %x, want %x", a.Handle(), want)
	}
	a.Stop()
	b := r.NewService(Limits{})
	if b.Handle() != a.Handle()+1 {
		t.Errorf("second handle %x", b.Handle())
	}
	if got, err := r.ByHandle(b.Handle()); got != b || err != nil {
		t.Error(got, err)
	}
	stale := []uint64{
		0, 1, a.Handle(), b.Handle() + 1,
		0xfeed0000<<32 | 2, // the same counter of an earlier life
	}
	for _, h := range stale {
		if s, err := r.ByHandle(h); s != nil || !errors.Is(err, ErrStaleHandle) {
			t.Errorf("ByHandle(%x) = %v, %v", h, s, err)
		}
	}
	r.last = math.MaxUint32
	mustPanic(t, func() { r.NewService(Limits{}) })
	mustPanic(t, func() { New(0) })
}

func TestNamesAreSorted(t *testing.T) {
	r := New(1)
	if got := r.Names(); len(got) != 0 {
		t.Fatal(got)
	}
	a, b := r.NewService(Limits{}), r.NewService(Limits{})
	for name, s := range map[string]*Service{"b": a, ".z": a, "a": b, ".y": b} {
		if err := r.Register(name, s); err != nil {
			t.Fatal(err)
		}
	}
	want := []Name{{".y", b.Handle()}, {".z", a.Handle()}, {"@a", b.Handle()}, {"@b", a.Handle()}}
	if got := r.Names(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// M43, M48: of many who want one name, one gets it, and a Stop that runs at
// the same time leaves no name behind.
func TestRegisterRacesWithStop(t *testing.T) {
	r := New(1)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				s := r.NewService(Limits{})
				var inner sync.WaitGroup
				inner.Go(func() { _ = r.Register("shared", s) })
				inner.Go(func() { _ = r.Register(fmt.Sprintf(".own-%d-%d", i, j), s) })
				inner.Go(s.Stop)
				_, _ = r.ByName("@shared")
				inner.Wait()
			}
		})
	}
	wg.Wait()
	if got := r.Names(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestByNameDoesNotAllocate(t *testing.T) {
	r := New(1)
	s := r.NewService(Limits{})
	if err := r.Register("sdb", s); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"@sdb", "@nobody", "@\xff"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = r.ByName(name) }); n != 0 {
			t.Errorf("ByName(%q): %v allocations", name, n)
		}
	}
}
