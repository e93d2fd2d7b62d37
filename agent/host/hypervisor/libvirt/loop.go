package libvirt

import (
	"fmt"
	"sync"

	"libvirt.org/go/libvirt"
)

// startLoop runs the event loop of libvirt's client library. The library has one event
// loop for the whole process. It must be registered before the first connection and
// cannot be removed, so it is in a variable of the package, the only one.
var startLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return fmt.Errorf("register libvirt's event loop: %w", err)
	}
	// The timer does nothing. It keeps the loop from spinning while nothing else is
	// registered.
	const hour = 3_600_000
	if _, err := libvirt.EventAddTimeout(hour, func(int) {}); err != nil {
		return fmt.Errorf("register libvirt's event loop: %w", err)
	}
	go func() {
		for {
			// An error concerns one handle or one turn of the loop; the next turn
			// continues.
			_ = libvirt.EventRunDefaultImpl()
		}
	}()
	return nil
})
