package keyring

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"virtmesh/agent/fault"
	"virtmesh/agent/port"
	"virtmesh/agent/sealed"
)

// secretKeysAnswer is the answer to a voter that asks for the private keys for Secrets.
type secretKeysAnswer struct {
	Keys [][]byte `json:"keys"`
}

func (a secretKeysAnswer) parse() ([]sealed.PrivateKey, error) {
	keys := make([]sealed.PrivateKey, len(a.Keys))
	for i, data := range a.Keys {
		var err error
		if keys[i], err = sealed.ParsePrivateKey(data); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func (s server) secretKeys(r *http.Request) (any, error) {
	peer, err := s.onlyVoters(r, "the key for Secrets")
	if err != nil {
		return nil, err
	}
	var answer secretKeysAnswer
	for _, key := range s.cfg.SecretKeys() {
		data, err := key.Bytes()
		if err != nil {
			return nil, fmt.Errorf("read a key for Secrets: %w", err)
		}
		answer.Keys = append(answer.Keys, data)
	}
	s.cfg.Logger.Info("the keys for Secrets were given to a voter", "host", peer, "keys", len(answer.Keys))
	return answer, nil
}

// openRequest asks for the data keys of what is encrypted.
type openRequest struct {
	Locks []sealed.Lock `json:"locks"`
}

// openAnswer has a data key for every lock; null for one that no key of the mesh opens.
type openAnswer struct {
	DataKeys [][]byte `json:"dataKeys"`
}

// open hands out data keys to a host of the mesh. It answers for all locks or for none, so
// that the host asks the next voter if this one lacks a key that the mesh has.
func (s server) open(r *http.Request) (any, error) {
	peer := port.PeerOfRequest(r)
	if peer == "" {
		return nil, fault.New(fault.Forbidden, "only hosts of the mesh read what is encrypted")
	}
	var request openRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&request); err != nil {
		return nil, fault.New(fault.Invalid, "read which Secrets are to be opened: %w", err)
	}
	if len(request.Locks) > sealed.MaxLocks {
		return nil, fault.New(fault.Invalid, "%d locks, at most %d are opened at once", len(request.Locks), sealed.MaxLocks)
	}
	answer := openAnswer{DataKeys: make([][]byte, len(request.Locks))}
	var opened []string
	for i, lock := range request.Locks {
		dataKey, err := s.unlock(r.Context(), lock)
		if err != nil {
			return nil, err
		}
		if answer.DataKeys[i] = dataKey; dataKey != nil {
			opened = append(opened, lock.Object)
		}
	}
	s.opening.logOpenings(peer, opened)
	return answer, nil
}

// unlock returns the data key of a lock, or nil if no key of the mesh opens it.
func (s server) unlock(ctx context.Context, lock sealed.Lock) ([]byte, error) {
	held := s.cfg.SecretKeys()
	if i := slices.IndexFunc(held, func(key sealed.PrivateKey) bool { return key.ID() == lock.Key }); i >= 0 {
		dataKey, err := held[i].Unlock(lock)
		if err != nil {
			return nil, nil //nolint:nilerr // it was sealed for another object, or by nobody
		}
		return dataKey, nil
	}
	listed, err := s.cfg.ListedSecretKeys(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(listed, lock.Key) {
		return nil, nil
	}
	return nil, fault.New(fault.Unavailable, "%s does not hold the key for Secrets yet", s.cfg.Self).About(s.cfg.Self)
}

// openings logs which host has read what. A host reads the same Secret again and again, and
// one that is taken over may read all of them: so each is told once an hour, and there is a
// bound for what is told in a minute, above which only the number is.
type openings struct {
	log *slog.Logger

	mu     sync.Mutex
	told   *lru.Cache[string, time.Time]
	minute time.Time
	lines  int
	untold int
}

const (
	// tellAgain is after what time the same reading is told again.
	tellAgain = time.Hour
	// toldReadings is how many readings are remembered.
	toldReadings = 10000
	// toldAMinute is how many readings are told in a minute.
	toldAMinute = 200
)

func newOpenings(log *slog.Logger) *openings {
	told, err := lru.New[string, time.Time](toldReadings)
	if err != nil {
		panic(err) // the size is positive
	}
	return &openings{log: log, told: told}
}

func (o *openings) logOpenings(host string, opened []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if now.Sub(o.minute) >= time.Minute {
		if o.untold > 0 {
			o.log.Warn("hosts read more Secrets than are told", "untold", o.untold)
		}
		o.minute, o.lines, o.untold = now, 0, 0
	}
	for _, object := range opened {
		what := host + " " + object
		if last, ok := o.told.Get(what); ok && now.Sub(last) < tellAgain {
			continue
		}
		if o.lines >= toldAMinute {
			o.untold++
			continue
		}
		o.lines++
		o.told.Add(what, now)
		o.log.Info("a Secret was opened for a host", "host", host, "object", object)
	}
}
