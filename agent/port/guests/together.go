package guests

import "sync"

// RunTogether runs functions at the same time and returns when all have returned. If one
// panics, it panics with the same value, so that the server of the connection that they
// carry recovers it; a panic of a goroutine of its own would end the agent.
func RunTogether(parts ...func()) {
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		cause   any
	)
	for _, part := range parts {
		running.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					mu.Lock()
					defer mu.Unlock()
					cause = p
				}
			}()
			part()
		})
	}
	running.Wait()
	if cause != nil {
		panic(cause)
	}
}
