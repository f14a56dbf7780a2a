//go:build faults

// Package faults_test breaks things: real processes that are killed, stopped and
// starved, a proxy that delays, cuts and corrupts, network namespaces that drop
// packets. Each test carries the number of its fault (F1 to F50), proves that
// the fault happened, and holds every run against one history: each call has one
// outcome, none runs twice, and what a verdict says is true.
//
// `make test-faults` runs it; docs/testing.md has the table.
package faults_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// How long the mesh may take: P, T, C and B of its defaults, and G as the tests
// set it. Upper bounds get slack, because machines are slow at times.
const (
	silence  = 6 * time.Second // T
	beat     = 2 * time.Second // P
	dialTime = 5 * time.Second // C
	backoff  = 3 * time.Second // B
	slack    = 4 * time.Second
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := play(role); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}
