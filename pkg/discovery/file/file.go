// Package file is a table in a file: it reads the file, and reads it again when
// it changed. A program that links the mesh gives Read to mesh.Options.Source,
// so that it starts with a table, and runs Watch beside it:
//
//	source := func() (mesh.Table, error) { return file.Read(path) }
//	m, err := mesh.New(mesh.Options{Source: source})
//	...
//	go file.Watch(ctx, path, file.Options{OnError: logError}, m.Reload)
package file

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/meshnode/meshnode/pkg/mesh"
)

// Options of Watch. The zero value works.
type Options struct {
	// Settle is how long a file must have the same content before it is taken,
	// so that one that is being written is not (M3). Zero: 100 ms.
	Settle time.Duration
	// OnError is told why a content of the file was not taken: it cannot be
	// read, is a bad table, or reload refused it. It is told once for as long as
	// that does not change, and never at the same time as reload. Nil: nobody is.
	OnError func(error)
}

const (
	defaultSettle = 100 * time.Millisecond
	// pollInterval is how late a change may be noticed of which the system tells
	// nothing: on network file systems, behind a link to another directory,
	// where a directory above was replaced, where inotify has no watch to give.
	pollInterval = 2 * time.Second
	// gather is how long after a notice the file is read: many come together.
	gather = 5 * time.Millisecond
	// maxText is more than mesh.ParseTable takes, so that it says what is too
	// large, and keeps us from reading without end.
	maxText = 32 << 20
)

// Read reads the table at path as it is now. The error has the path; for a bad
// table it is a *mesh.TableError beneath.
func Read(path string) (mesh.Table, error) { return readContent(path).table(path) }

// Watch calls reload with the table at path, and again whenever the content of
// the file changed and has settled. It returns nil when ctx ends, and an error
// only where it cannot begin: path is empty or reload is nil.
//
// What counts is the content, however it came there: written, renamed into
// place, a symlink that was moved (as a ConfigMap does), deleted and made again.
// The content that reload took last is not given to it again. The first content
// is, which is harmless where the mesh has it already (M5), and takes what
// changed between the mesh's own reading and this one. Where the system tells
// nothing of a change, it is found within 2 s.
//
// A file that is missing, bad, or refused by reload changes nothing: the last
// good table stays, and OnError is told. Watch calls reload and OnError one at a
// time, from its own goroutine.
func Watch(ctx context.Context, path string, o Options, reload func(mesh.Table) error) error {
	if reload == nil {
		return errNothing
	}
	return WatchText(ctx, path, o, func(text []byte) error {
		table, err := mesh.ParseTable(text)
		if err != nil {
			return err
		}
		return reload(table)
	})
}

var errNothing = errors.New("file: Watch needs a path and a function that takes what it holds")

// WatchText is Watch for a file of any kind: take gets its content, and its
// error says why that changes nothing.
func WatchText(ctx context.Context, path string, o Options, take func(text []byte) error) error {
	if path == "" || take == nil {
		return errNothing
	}
	o.Settle = cmp.Or(max(o.Settle, 0), defaultSettle)
	w := &watch{settle: settle{after: o.Settle}, read: func() content { return readContent(path) }}
	w.take = func(c content) bool {
		err := c.err
		if err == nil {
			if err = take(c.text); err != nil {
				err = fmt.Errorf("%s: %w", path, err)
			}
		}
		if err != nil && o.OnError != nil {
			o.OnError(err)
		}
		return err == nil
	}
	notices, err := fsnotify.NewWatcher()
	if err != nil {
		// Polling alone is late and right.
		w.run(ctx)
		return nil
	}
	defer notices.Close()
	w.events, w.errors = notices.Events, notices.Errors
	// The directory, because a file that is replaced takes its watch away. It
	// may be missing, come back, or be another one than before: hence again and
	// again, which does nothing where the watch stands.
	w.attach = func() { _ = notices.Add(filepath.Dir(path)) }
	w.run(ctx)
	return nil
}

// watch is the thin shell around settle: the clock and what is heard of the
// directory. Its functions stand for the file system and for the mesh.
type watch struct {
	settle settle
	read   func() content
	take   func(content) bool
	attach func() // nil: nothing is heard
	events <-chan fsnotify.Event
	errors <-chan error // lost notices, mostly: a reason to look
}

// run looks at the file at once, after every notice, when a content may have
// settled, and now and then, until ctx ends.
func (w *watch) run(ctx context.Context) {
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case _, open := <-w.events:
			if !open {
				w.events = nil
			}
			due = sooner(timer, due)
		case _, open := <-w.errors:
			if !open {
				w.errors = nil
			}
			due = sooner(timer, due)
		case <-timer.C:
			if w.attach != nil {
				w.attach()
			}
			wait := w.look()
			due = time.Now().Add(wait)
			timer.Reset(wait)
		}
	}
}

// sooner moves the next look, due then, to a moment from now. A look that is due
// earlier stays, so that a stream of notices puts nothing off.
func sooner(timer *time.Timer, due time.Time) time.Time {
	soon := time.Now().Add(gather)
	if soon.Before(due) {
		timer.Reset(gather)
		return soon
	}
	return due
}

// look reads the file, has it taken if it settled, and says when to look again.
func (w *watch) look() time.Duration {
	c := w.read()
	key := c.key()
	take, wait := w.settle.see(key, time.Now())
	if take && w.take(c) {
		w.settle.good = key
	}
	return min(wait, pollInterval)
}

// settle decides which content is taken, and when. It knows a content by its
// key, and has no clock of its own.
type settle struct {
	after time.Duration

	seen  string // what was read last
	since time.Time
	told  string // what settled last, good or not
	good  string // what was taken last; whoever takes sets it
}

// see hears that the file had the content key at now. It says whether that is to
// be taken, and how long until the next look would tell more.
func (s *settle) see(key string, now time.Time) (take bool, wait time.Duration) {
	if key != s.seen {
		s.seen, s.since = key, now
	}
	if key == s.told {
		return false, pollInterval
	}
	if left := s.after - now.Sub(s.since); left > 0 {
		return false, left
	}
	s.told = key
	return key != s.good, pollInterval
}

// content is what a file was found to be: its text, or why there is none.
type content struct {
	text []byte
	err  error
}

func readContent(path string) content {
	info, err := os.Stat(path)
	if err != nil {
		return content{err: err}
	}
	if !info.Mode().IsRegular() {
		// Reading a pipe would wait for its writer.
		return content{err: fmt.Errorf("%s: not a regular file", path)}
	}
	f, err := os.Open(path)
	if err != nil {
		return content{err: err}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText))
	return content{text, err}
}

// key is the same for the same content.
func (c content) key() string {
	if c.err != nil {
		return "error: " + c.err.Error()
	}
	sum := sha256.Sum256(c.text)
	return string(sum[:])
}

func (c content) table(path string) (mesh.Table, error) {
	if c.err != nil {
		return nil, c.err
	}
	t, err := mesh.ParseTable(c.text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}
