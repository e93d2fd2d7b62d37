package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/fault"
)

// RenewerConfig is what a Renewer needs.
type RenewerConfig struct {
	// Identity is renewed.
	Identity *Identity
	// Issuers are asked in this order until one signs, or answers fault.NoHost or
	// fault.Expelled. An agent lists the signer of its own replica, then the voters,
	// then the other members, and SelfIssuer last.
	Issuers []Issuer
	// Attempt bounds one request to one issuer.
	Attempt time.Duration
	// RetryMin and RetryMax bound the wait after a round in which no issuer signed.
	RetryMin, RetryMax time.Duration
	// MakeRoom makes room for a small file when the disk of the identity is full, and reports
	// whether it could; nil if nothing can.
	MakeRoom func() bool
	// Logger receives one line per renewal and per failed round.
	Logger *slog.Logger
	// Registerer receives the metrics; nil registers none.
	Registerer prometheus.Registerer
}

// DefaultRenewerConfig returns the configuration of a real host.
func DefaultRenewerConfig() RenewerConfig {
	return RenewerConfig{
		Attempt:  10 * time.Second,
		RetryMin: 2 * time.Second,
		RetryMax: 5 * time.Minute,
		Logger:   slog.New(slog.DiscardHandler),
	}
}

// Validate says what is missing or out of range.
func (c RenewerConfig) Validate() error {
	switch {
	case c.Identity == nil:
		return errors.New("renewer: Identity is nil")
	case len(c.Issuers) == 0:
		return errors.New("renewer: there is no Issuer")
	case c.Attempt <= 0:
		return errors.New("renewer: Attempt must be positive")
	case c.RetryMin <= 0 || c.RetryMax < c.RetryMin:
		return errors.New("renewer: want 0 < RetryMin <= RetryMax")
	case c.Logger == nil:
		return errors.New("renewer: Logger is nil")
	}
	return nil
}

// Renewer renews the certificate of this host before it expires: at about two thirds of
// its lifetime it has the next certificate signed and installs it. The key stays the same:
// the other hosts know this one by it. It
// repeats failed rounds with growing pauses until Shutdown, even after the certificate
// has expired. NewRenewer starts it and Shutdown ends it.
type Renewer struct {
	cfg     RenewerConfig
	metrics *renewMetrics
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const (
	// maxNap is the longest the Renewer sleeps before it looks at the wall clock again:
	// timers stand still while a host is suspended, and clocks are set.
	maxNap = time.Minute
	// aheadPause is the least time between two renewals because of a clock that was ahead:
	// the clock of the host that signs may be the one that is wrong.
	aheadPause = 10 * time.Minute
)

// NewRenewer starts a Renewer.
func NewRenewer(cfg RenewerConfig) (*Renewer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newRenewMetrics(cfg.Registerer, cfg.Identity)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Renewer{cfg: cfg, metrics: m, cancel: cancel}
	r.done.Go(func() { r.run(ctx) })
	return r, nil
}

// Shutdown ends the Renewer and waits until it has ended.
func (r *Renewer) Shutdown() {
	r.cancel()
	r.done.Wait()
	r.metrics.unregister()
}

func (r *Renewer) run(ctx context.Context) {
	var failures int
	due, early := r.renewalTime(), time.Now()
	for {
		if !r.napUntil(ctx, due, early) {
			return
		}
		early = time.Now().Add(aheadPause)
		err := r.Renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause := r.retryPause(failures)
			failures++
			r.cfg.Logger.Warn("certificate not renewed", "err", err, "expires", r.cfg.Identity.Leaf().NotAfter, "retryIn", pause)
			due = time.Now().Add(pause)
		default:
			failures = 0
			due = r.renewalTime()
			r.cfg.Logger.Info("certificate renewed", "expires", r.cfg.Identity.Leaf().NotAfter, "nextRenewal", due)
		}
	}
}

// Renew renews the certificate now, whatever its age. The agent calls it at startup
// when the certificate has expired, because nothing else works without a valid one.
func (r *Renewer) Renew(ctx context.Context) error {
	err := r.renewOnce(ctx)
	r.metrics.count(err)
	return err
}

// install installs a certificate. On a full disk it first has room made.
func (r *Renewer) install(key *ecdsa.PrivateKey, issued Issued) error {
	err := r.cfg.Identity.Install(key, issued)
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && r.cfg.MakeRoom != nil && r.cfg.MakeRoom() {
		return r.cfg.Identity.Install(key, issued)
	}
	return err
}

func (r *Renewer) renewOnce(ctx context.Context) error {
	key := r.cfg.Identity.key()
	csr, err := r.cfg.Identity.NextCSR()
	if err != nil {
		return err
	}
	var failed error
	for _, issuer := range r.cfg.Issuers {
		attempt, cancel := context.WithTimeout(ctx, r.cfg.Attempt)
		issued, err := issuer.IssueNode(attempt, csr)
		cancel()
		if err == nil {
			err = r.install(key, issued)
		}
		if err == nil {
			return nil
		}
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
		// A host that was removed must not ask SelfIssuer, the last in the list.
		if ctx.Err() != nil || errors.Is(err, fault.NoHost) || errors.Is(err, fault.Expelled) {
			break
		}
	}
	return fmt.Errorf("renew certificate of %s: %w", r.cfg.Identity.Host(), failed)
}

// renewalTime returns when the current certificate should be renewed: at two thirds of
// its lifetime, shifted at random by up to a tenth of it in either direction, so that
// hosts that started together do not renew together.
func (r *Renewer) renewalTime() time.Time {
	signed, life := signedAt(r.cfg.Identity.Leaf())
	jitter := time.Duration((rand.Float64() - 0.5) * float64(life) / 5)
	return signed.Add(life*2/3 + jitter)
}

// signedAt returns when a certificate was signed, and how long it is valid from then on:
// half of its time, see maxBackdate. One that is valid for longer afterwards than before,
// such as those that older versions signed, is taken for younger than it is.
func signedAt(leaf *x509.Certificate) (at time.Time, life time.Duration) {
	life = leaf.NotAfter.Sub(leaf.NotBefore) / 2
	return leaf.NotBefore.Add(life), life
}

// retryPause returns how long to wait after a number of failed rounds. It doubles from
// RetryMin to RetryMax, but stays short enough for ten rounds in the last third of the
// certificate's lifetime.
func (r *Renewer) retryPause(failures int) time.Duration {
	_, life := signedAt(r.cfg.Identity.Leaf())
	most := min(r.cfg.RetryMax, max(r.cfg.RetryMin, life/30))
	pause := r.cfg.RetryMin << min(failures, 20)
	if pause <= 0 || pause > most {
		pause = most
	}
	return pause/2 + rand.N(pause/2+1)
}

// signedAhead reports whether a certificate was signed by a clock that was far ahead of now.
// A host whose clock was ahead, signed for itself, and was set right would otherwise have a
// certificate that nobody takes for valid until the others' clocks have caught up. So would
// all hosts of a mesh whose time server was wrong.
func signedAhead(leaf *x509.Certificate, now time.Time) bool {
	backdate := min(leaf.NotAfter.Sub(leaf.NotBefore)/2, maxBackdate)
	return leaf.NotBefore.Add(backdate).Sub(now) > backdate/3
}

// MustRenew reports whether the certificate must be renewed before this host can talk to
// others: it has ended, or a clock that was far ahead has signed it.
func (i *Identity) MustRenew() bool {
	leaf, now := i.Leaf(), time.Now()
	return !now.Before(leaf.NotAfter) || signedAhead(leaf, now)
}

// napUntil waits until the wall clock reaches due and reports whether it did so before
// ctx ended. From early on, by the monotonic clock, it also returns when it finds that the
// certificate was signed by a clock that was far ahead.
func (r *Renewer) napUntil(ctx context.Context, due, early time.Time) bool {
	due = due.Round(0) // without the monotonic reading
	for {
		left := due.Sub(time.Now().Round(0))
		if left <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(min(left, maxNap))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
		if time.Until(early) <= 0 && signedAhead(r.cfg.Identity.Leaf(), time.Now()) {
			r.cfg.Logger.Warn("the certificate was signed by a clock that was far ahead of this host's: renewing it", "notBefore", r.cfg.Identity.Leaf().NotBefore)
			return true
		}
	}
}
