//go:build !unix

package main

import "time"

// processCPU is not known here.
func processCPU() time.Duration { return 0 }

// openFilesLimit is unknown here.
func openFilesLimit() uint64 { return 0 }
