package libvirt

import (
	"fmt"
	"sync"

	"libvirt.org/go/libvirt"
)

// startLoop runs the client library's event loop. The library has one for the whole
// process, must be told of it before the first connection, and cannot be rid of it;
// hence the one variable of this package.
var startLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return fmt.Errorf("register libvirt's event loop: %w", err)
	}
	// The loop sleeps while nothing is registered; a timer that never matters keeps
	// it from spinning on a loop that has nothing to wait for.
	const hour = 3_600_000
	if _, err := libvirt.EventAddTimeout(hour, func(int) {}); err != nil {
		return fmt.Errorf("register libvirt's event loop: %w", err)
	}
	go func() {
		for {
			// An error here is of one handle or one turn; the next turn goes on.
			_ = libvirt.EventRunDefaultImpl()
		}
	}()
	return nil
})
