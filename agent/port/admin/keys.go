package admin

import (
	"context"
	"net/http"
)

// GossipPath is where the state of the gossip keys is read; a POST below it replaces the key.
const GossipPath = "/mesh/v1/gossip"

// Keys implements what concerns the keys of gossip and of Secrets.
type Keys interface {
	// GossipKeys says which hosts have the keys that encrypt gossip.
	GossipKeys(ctx context.Context) (*GossipKeys, error)
	// RotateGossipKey replaces the key that encrypts gossip on every host, in the name of by.
	RotateGossipKey(ctx context.Context, by string) error
	// SecretKeys says how Secrets are stored.
	SecretKeys(ctx context.Context) (*SecretKeys, error)
	// RotateSecretKey asks for another key for Secrets.
	RotateSecretKey(ctx context.Context) error
}

// SecretsPath is where it is read how Secrets are stored; a POST below it replaces their key.
const SecretsPath = "/mesh/v1/secrets"

// SecretKeys says how Secrets are stored. It holds no key.
type SecretKeys struct {
	// Active names the key that encrypts; empty as long as nothing is encrypted.
	Active string `json:"active,omitempty"`
	// Waiting names a key that encrypts once the recovery bundle gives it back and every voter has it; Wanted
	// reports whether one is still to be made.
	Waiting string `json:"waiting,omitempty"`
	Wanted  bool   `json:"wanted,omitempty"`
	// Bundled reports whether the recovery bundle gives back the key that waits, and StaysGood
	// whether it does so by itself soon after a key was made. Lacking are the voters that do not have the key, Silent
	// those that do not answer.
	Bundled   bool     `json:"bundled,omitempty"`
	StaysGood bool     `json:"staysGood,omitempty"`
	Lacking   []string `json:"lacking,omitempty"`
	Silent    []string `json:"silent,omitempty"`
	// Current, Older and Clear count the objects that are encrypted with the active key, that
	// are encrypted with an older one, and that are in clear.
	Current int `json:"current"`
	Older   int `json:"older"`
	Clear   int `json:"clear"`
}

// GossipKeys says which hosts have the keys that encrypt gossip. It holds no key.
type GossipKeys struct {
	// Generation is one higher for each change of the keys; 0 before the first.
	Generation uint64 `json:"generation"`
	// Accepted is how many keys the hosts accept: 1, and 2 while the key is replaced.
	Accepted int `json:"accepted"`
	// Stage says how far the last replacement is: Given (the hosts get the new key), Used
	// (they encrypt with it) or Replaced (they refuse the old one). Empty before the first.
	Stage string `json:"stage,omitempty"`
	// Have are the hosts that have the keys of this generation, Waiting those that are heard
	// and have other ones, and Off those that are not heard: they get the keys when they come back.
	Have    []string `json:"have"`
	Waiting []string `json:"waiting,omitempty"`
	Off     []string `json:"off,omitempty"`
}

// handleKeys serves what concerns the keys of gossip and of Secrets.
func handleKeys(mux *http.ServeMux, mesh Mesh, authenticate func(*http.Request) (user string, allowed bool)) {
	mux.HandleFunc("GET "+GossipPath, replySoon(func(r *http.Request) (any, error) { return mesh.GossipKeys(r.Context()) }))
	mux.HandleFunc("GET "+SecretsPath, replySoon(func(r *http.Request) (any, error) { return mesh.SecretKeys(r.Context()) }))
	mux.HandleFunc("POST "+SecretsPath+"/rotation", replySoon(func(r *http.Request) (any, error) {
		return nil, mesh.RotateSecretKey(r.Context())
	}))
	mux.HandleFunc("POST "+GossipPath+"/rotation", replyJSON(func(r *http.Request) (any, error) {
		user, _ := authenticate(r)
		return nil, mesh.RotateGossipKey(r.Context(), user)
	}))
}
