package raftstore

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// BootTime returns the time since the kernel booted, by CLOCK_BOOTTIME. It goes on while
// the host is suspended, nobody can set it, and all processes of the host read the same.
func BootTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(fmt.Sprintf("raftstore: read CLOCK_BOOTTIME: %v", err)) // every Linux since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}
