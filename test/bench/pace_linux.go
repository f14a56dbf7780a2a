package main

import (
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

const prSetTimerSlack = 29

// paced runs f in a goroutine with a thread of its own, whose sleep is exact to
// some 10 µs. time.Sleep is not: an idle Go process on Linux sleeps whole
// milliseconds.
func paced(f func(sleep func(time.Duration))) {
	runtime.LockOSThread() // not unlocked: the thread ends with its goroutine
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, 1, 0)
	f(func(d time.Duration) {
		t := syscall.NsecToTimespec(d.Nanoseconds())
		// An interrupted sleep is short; the caller looks at the clock.
		_, _, _ = syscall.Syscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
	})
}
