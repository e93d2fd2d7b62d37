package stewards

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// Loop is one thing that runs as long as the agent does.
type Loop struct {
	// Name says what runs, for errors.
	Name string
	// Run runs until its context ends. An error before that ends the agent.
	Run func(context.Context) error
}

// RunLoops runs every loop until ctx ends or one fails, and waits for all.
func RunLoops(ctx context.Context, loops []Loop) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, loop := range loops {
		group.Go(func() error {
			if err := loop.Run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", loop.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}
