package tokens

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

const (
	// askRate, in a second, and askBurst are how many tokens one user can ask a host for.
	askRate  = 5
	askBurst = 50
	// askAtOnce is how many tokens of users a host has signed at the same time.
	askAtOnce = 16
	// askPatience is how long a request waits for one of these places.
	askPatience = 5 * time.Second
	// askersKept is how many users' paces are kept; who is forgotten has a new burst.
	askersKept = 4096
)

// pace bounds how much work the requests for tokens make for voters, who sign them, and for the
// leader, who is asked for the account. Administrators are not bounded, so that users cannot take
// their turn. Its methods may be called concurrently.
type pace struct {
	mu     sync.Mutex
	askers *lru.Cache[string, *rate.Limiter]
	places chan struct{}
}

func newPace() *pace {
	askers, err := lru.New[string, *rate.Limiter](askersKept)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &pace{askers: askers, places: make(chan struct{}, askAtOnce)}
}

// enter takes a turn for the user in a context, which the caller gives back with leave, or returns
// an error of the API (429) that says when to try again.
func (p *pace) enter(ctx context.Context) (leave func(), err error) {
	who, known := genericapirequest.UserFrom(ctx)
	if known && slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) {
		return func() {}, nil
	}
	name := ""
	if known {
		name = who.GetName()
	}
	if !p.of(name).Allow() {
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("%s has asked this host for too many tokens: %d at once and then %d a second can be had", name, askBurst, askRate), 1)
	}
	wait := time.NewTimer(askPatience)
	defer wait.Stop()
	select {
	case p.places <- struct{}{}:
		return func() { <-p.places }, nil
	case <-wait.C:
		return nil, apierrors.NewTooManyRequests(fmt.Sprintf("this host has %d tokens signed already", askAtOnce), 1)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pace) of(user string) *rate.Limiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	limiter, known := p.askers.Get(user)
	if !known {
		limiter = rate.NewLimiter(askRate, askBurst)
		p.askers.Add(user, limiter)
	}
	return limiter
}
