//go:build !linux

package main

import "time"

func paced(f func(sleep func(time.Duration))) { f(time.Sleep) }
