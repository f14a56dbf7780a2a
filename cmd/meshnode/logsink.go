package main

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap/zapcore"
)

const (
	// sinkLines is how many lines wait for a reader of the log.
	sinkLines = 1024
	// sinkEnd is how long the last lines may take at the end of the process.
	sinkEnd = time.Second
)

// sink writes lines without making anybody wait: whoever reads the log may be
// slow, or gone. What finds no room is dropped, counted, and told when lines
// pass again.
type sink struct {
	to      io.Writer
	encoder zapcore.Encoder
	lines   chan []byte
	dropped atomic.Int64

	once sync.Once
	end  chan struct{} // closed by close
	done chan struct{} // closed when the last line was written
}

func newSink(to io.Writer, encoder zapcore.Encoder) *sink {
	s := &sink{to: to, encoder: encoder, lines: make(chan []byte, sinkLines), end: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

// Write takes one line, and never fails or blocks.
func (s *sink) Write(line []byte) (int, error) {
	select {
	case s.lines <- append([]byte(nil), line...): // zap reuses its own
	default:
		s.dropped.Add(1)
	}
	return len(line), nil
}

// Sync does nothing: lines leave by themselves.
func (s *sink) Sync() error { return nil }

func (s *sink) run() {
	defer close(s.done)
	for {
		select {
		case line := <-s.lines:
			s.pass(line)
		case <-s.end:
			for len(s.lines) > 0 {
				s.pass(<-s.lines)
			}
			return
		}
	}
}

// pass writes a line. One that cannot be written, because nobody reads any more,
// is dropped as well.
func (s *sink) pass(line []byte) {
	if _, err := s.to.Write(line); err != nil {
		s.dropped.Add(1)
		return
	}
	n := s.dropped.Swap(0)
	if n == 0 {
		return
	}
	e := zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "lines of the log were dropped: it was not read fast enough"}
	text, err := s.encoder.EncodeEntry(e, []zapcore.Field{{Key: "lines", Type: zapcore.Int64Type, Integer: n}})
	if err == nil {
		_, err = s.to.Write(text.Bytes())
	}
	if err != nil {
		s.dropped.Add(n + 1)
	}
}

// close waits for the last lines, for a moment.
func (s *sink) close() {
	s.once.Do(func() { close(s.end) })
	select {
	case <-s.done:
	case <-time.After(sinkEnd):
	}
}
