package main

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// stuck is a log that nobody reads until it is freed, or that fails.
type stuck struct {
	mu    sync.Mutex
	text  bytes.Buffer
	free  chan struct{}
	fails bool
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.free
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails {
		return 0, errors.New("broken pipe")
	}
	return s.text.Write(b)
}

// F47: a log that blocks makes nobody wait; what was dropped is told when it is
// read again, and the end of the process is not held up by it.
func TestSinkDoesNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{free: make(chan struct{})}
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		s := newSink(to, encoder)
		log := zap.New(zapcore.NewCore(encoder, s, zap.InfoLevel))
		const lines = sinkLines + 500
		for range lines {
			log.Info("event")
		}
		start := time.Now()
		s.close()
		if took := time.Since(start); took != sinkEnd {
			t.Errorf("the end took %s", took)
		}
		close(to.free)
		synctest.Wait()
		got := strings.Count(to.text.String(), `"event"`)
		if got < sinkLines || got > sinkLines+1 || !strings.Contains(to.text.String(), "were dropped") ||
			!strings.Contains(to.text.String(), `"lines":`) {
			t.Errorf("%d lines\n%.300s", got, to.text.String())
		}
	})
}

// A log that is closed at its other end drops lines and ends nothing.
func TestSinkSurvivesBrokenLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &stuck{free: make(chan struct{}), fails: true}
		close(to.free)
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		s := newSink(to, encoder)
		log := zap.New(zapcore.NewCore(encoder, s, zap.InfoLevel))
		log.Info("one")
		log.Info("two")
		synctest.Wait()
		to.mu.Lock()
		to.fails = false
		to.mu.Unlock()
		log.Info("three")
		s.close()
		if text := to.text.String(); !strings.Contains(text, "three") || !strings.Contains(text, `"lines":2`) || strings.Contains(text, "one") {
			t.Error(text)
		}
	})
}
