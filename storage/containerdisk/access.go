package containerdisk

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// access says who may have an image from the cache. It is the content of access.json.
//
// An image that a registry gave to somebody without credentials is public: all may have
// it, and no registry is asked. Any other belongs to the repositories from which this host
// downloaded it, and each time that it is asked for, its registry says whether it accepts
// the credentials. While the registry does not answer, those may have it whose credentials
// it accepted before.
type access struct {
	Public bool `json:"public,omitempty"`
	// Repositories are those from which the whole image was downloaded, each with the
	// proofs of the credentials that its registry accepted, the latest at the end. A digest
	// alone gives no access: whoever knows it could name it in a repository of their own.
	Repositories map[string][]string `json:"repositories,omitempty"`
	// Salt makes the proofs of this image differ from those of others.
	Salt []byte `json:"salt,omitempty"`
}

// Bounds of an access. What is dropped costs a download, or a question that must be
// answered.
const (
	maxRepositories = 16
	maxProofs       = 64
)

// proofRounds makes the guessing of a password from a proof slow. One proof takes some ten
// milliseconds.
const proofRounds = 50_000

// checkTimeout bounds how long somebody whose credentials were accepted before waits for
// a registry that does not answer.
const checkTimeout = 10 * time.Second

// covers says whether the image is public or was downloaded from the repository.
func (a *access) covers(repository string) bool {
	_, known := a.Repositories[repository]
	return a.Public || known
}

// cover notes that the whole image was downloaded from a repository. It reports whether
// that was news.
func (a *access) cover(repository string) bool {
	if a.covers(repository) {
		return false
	}
	if len(a.Repositories) >= maxRepositories {
		delete(a.Repositories, slices.Sorted(maps.Keys(a.Repositories))[0])
	}
	if a.Repositories == nil {
		a.Repositories = map[string][]string{}
	}
	a.Repositories[repository] = nil
	return true
}

// note notes that the registry of a repository that is covered gave the image to somebody:
// with credentials whose proof is given, or without any if it is empty. It reports whether
// that was news.
func (a *access) note(repository, proof string) bool {
	proofs, known := a.Repositories[repository]
	switch {
	case a.Public, !known, slices.Contains(proofs, proof):
		return false
	case proof == "":
		a.Public, a.Repositories = true, nil
	default:
		proofs = append(proofs, proof)
		a.Repositories[repository] = proofs[max(0, len(proofs)-maxProofs):]
	}
	return true
}

// forget notes that a registry refused credentials. It reports whether that was news.
func (a *access) forget(repository, proof string) bool {
	proofs := a.Repositories[repository]
	left := slices.DeleteFunc(slices.Clone(proofs), func(p string) bool { return p == proof })
	if len(left) == len(proofs) {
		return false
	}
	a.Repositories[repository] = left
	return true
}

// asker is who asks for an image: from a repository, with credentials for its registry.
type asker struct {
	repository string
	auth       authn.Authenticator
}

func newAsker(ref name.Reference, secrets [][]byte) (asker, error) {
	auth, err := credentials(secrets, ref.Context())
	return asker{repository: ref.Context().Name(), auth: auth}, err
}

// proof returns what the cache remembers of the asker's credentials; empty if there are
// none. It takes a while.
func (a asker) proof(salt []byte) (string, error) {
	if a.auth == authn.Anonymous {
		return "", nil
	}
	shown, err := a.auth.Authorization()
	if err != nil {
		return "", err
	}
	secret, err := json.Marshal(shown)
	if err != nil {
		return "", err
	}
	sum, err := pbkdf2.Key(sha256.New, string(secret), append([]byte(a.repository+"\x00"), salt...), proofRounds, sha256.Size)
	return hex.EncodeToString(sum), err
}

// admit returns nil if who asks may have an image of the cache that covers the asker's
// repository. The caller holds the image. The registry is asked for what ref names now: it
// judges repositories and not single images, and the image that the reference named
// before may be gone there.
func (c *Cache) admit(ctx context.Context, e *entry, ref name.Reference, secrets [][]byte) error {
	a, err := newAsker(ref, secrets)
	if err != nil {
		return err
	}
	c.mu.Lock()
	salt := e.access.Salt
	c.mu.Unlock()
	proof, err := a.proof(salt)
	if err != nil {
		return err
	}
	c.mu.Lock()
	known := proof != "" && slices.Contains(e.access.Repositories[a.repository], proof)
	c.mu.Unlock()
	if known {
		bounded, cancel := context.WithTimeoutCause(ctx, checkTimeout, ErrRegistryTimeout)
		defer cancel()
		ctx = bounded
	}
	_, err = c.reg.resolve(ctx, ref, a.auth)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		if e.access.note(a.repository, proof) {
			c.storeAccess(e)
		}
	case known && (errors.Is(err, ErrRegistryUnavailable) || errors.Is(err, ErrRegistryTimeout)):
		c.cfg.Log.Info("a registry does not answer; an image of the cache is used with credentials that it accepted before",
			"repository", a.repository, "digest", e.Digest)
		return nil
	case errors.Is(err, ErrUnauthorized), errors.Is(err, ErrImageNotFound):
		if e.access.forget(a.repository, proof) {
			c.storeAccess(e)
		}
	}
	if err != nil {
		return fmt.Errorf("the image is on this host, for those to whom its registry gives it: %w", err)
	}
	return nil
}

// noteDownload notes that an image was downloaded for the asker; the caller holds the lock.
func (c *Cache) noteDownload(e *entry, a asker) {
	news := e.access.cover(a.repository)
	if a.auth == authn.Anonymous {
		news = e.access.note(a.repository, "") || news
	}
	if news {
		c.storeAccess(e)
	}
}

// noteAccess notes that a registry gave an image to the asker, who has shown its
// description. It takes a while if the image is not public.
func (c *Cache) noteAccess(e *entry, a asker) error {
	c.mu.Lock()
	public, salt := e.access.Public, e.access.Salt
	c.mu.Unlock()
	if public {
		return nil
	}
	proof, err := a.proof(salt)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.access.note(a.repository, proof) {
		c.storeAccess(e)
	}
	return nil
}

// storeAccess writes who may have an image; the caller holds the lock. If it cannot be
// written, only the next process asks more.
func (c *Cache) storeAccess(e *entry) {
	if err := writeJSON(c.accessPath(e.key()), e.access); err != nil {
		c.cfg.Log.Warn("who may have an image could not be stored", "digest", e.Digest, "err", err)
	}
}

func (c *Cache) accessPath(key string) string { return filepath.Join(c.imageDir(key), "access.json") }

// newAccess returns the access of an image that nobody has yet.
func newAccess() access {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // it never fails
	return access{Salt: salt}
}

// loadAccess reads who may have an image. Without the file (an earlier version wrote none)
// the references tell the repositories, and their registries are asked.
func (c *Cache) loadAccess(e *entry) {
	e.access = newAccess()
	raw, err := os.ReadFile(c.accessPath(e.key()))
	if err == nil {
		var stored access
		if err = json.Unmarshal(raw, &stored); err == nil && len(stored.Salt) > 0 {
			e.access = stored
			return
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.cfg.Log.Warn("who may have an image cannot be read; its registries will be asked", "digest", e.Digest, "err", err)
	}
	for ref, digest := range c.refs {
		if digest != e.Digest {
			continue
		}
		if parsed, err := c.reg.parse(ref); err == nil {
			e.access.cover(parsed.Context().Name())
		}
	}
}
