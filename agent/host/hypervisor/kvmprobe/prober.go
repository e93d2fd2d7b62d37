package kvmprobe

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

// retryAfter is for how long a probe's finding that KVM does not work is believed. It may be
// due to what was so for a moment only: the upgrade of a package that was half done, or load.
// A probe costs a process and some seconds of a CPU, so it is not tried at every look.
const retryAfter = 5 * time.Minute

// Prober knows whether KVM works on the host, and finds out again after the emulator was
// installed or replaced, or KVM's device came or went, and every five minutes while there is
// a device that does not work. Its methods may be called at once.
type Prober struct {
	config Config

	mu     sync.Mutex
	result Result
	// seen describes the emulator and the device that the result is of; empty before the
	// first probe.
	seen string
	// at is when the last probe ended.
	at time.Time
}

// NewProber returns a Prober that has not probed yet, or an error that names what is wrong
// with c.
func NewProber(c Config) (*Prober, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("probe KVM: %w", err)
	}
	return &Prober{config: c}, nil
}

// Result returns the result of the last probe, or probes if there was none or its result may
// no longer be true. A probe takes seconds. An error means that ctx has ended.
func (p *Prober) Result(ctx context.Context) (Result, error) {
	seen := describeFiles(p.config.Emulator, p.config.Device)
	p.mu.Lock()
	known := p.result
	fresh := p.seen == seen && !p.isDoubtful()
	p.mu.Unlock()
	if fresh {
		return known, nil
	}
	result, err := Probe(ctx, p.config)
	if err != nil {
		return Result{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result, p.seen, p.at = result, seen, time.Now()
	return result, nil
}

// isDoubtful reports whether the last probe found KVM not to work, so long ago that it may
// work now. The caller holds the lock.
func (p *Prober) isDoubtful() bool {
	return p.config.Mode == Auto && !p.result.Usable && time.Since(p.at) >= retryAfter
}

// Usable reports what the last probe found; false before the first one.
func (p *Prober) Usable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.result.Usable
}

// describeFiles tells the emulator's file from one that replaces it, by its size and time,
// and a device that is there from one that is not.
func describeFiles(emulator, device string) string {
	text := "no emulator"
	if info, err := os.Stat(emulator); err == nil {
		text = fmt.Sprintf("emulator of %d bytes, %s", info.Size(), info.ModTime().UTC())
	}
	if _, err := os.Stat(device); err != nil {
		return text + ", no device"
	}
	return text + ", device"
}
