package containerdisk

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"virtmesh/storage/fetch"
)

// registries sends requests to registries, with the cache's limits and settings.
type registries struct {
	insecure, internal []string
	ways               ways
}

func newRegistries(cfg Config) *registries {
	check := cfg.Check
	if check == nil {
		check = fetch.Guard{}.Check
	}
	return &registries{insecure: cfg.InsecureRegistries, internal: cfg.InternalRegistries, ways: newWays(check, cfg.StallTimeout)}
}

// parse reads a reference the way container tools do: no registry means Docker
// Hub, no tag means latest. KubeVirt manifests may carry a docker:// prefix.
func (r *registries) parse(ref string) (name.Reference, error) {
	ref = strings.TrimPrefix(ref, "docker://")
	parsed, err := name.ParseReference(ref)
	if err == nil && slices.Contains(r.insecure, parsed.Context().RegistryStr()) {
		parsed, err = name.ParseReference(ref, name.Insecure)
	}
	if err != nil {
		// What the library says is advice to who calls it.
		return nil, fmt.Errorf("%w: %q", ErrBadReference, ref)
	}
	return parsed, nil
}

// resolve asks the registry which image ref names now, with the credentials in auth.
func (r *registries) resolve(ctx context.Context, ref name.Reference, auth authn.Authenticator) (*remote.Descriptor, error) {
	desc, err := remote.Get(ref, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(r.transportFor(ref.Context().RegistryStr())),
		remote.WithPlatform(hostPlatform()),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 2}))
	if err != nil {
		return nil, classify(ctx, err)
	}
	return desc, nil
}

// dockerConfig is the content of a kubernetes.io/dockerconfigjson secret.
type dockerConfig struct {
	Auths map[string]struct {
		Username      string `json:"username"`
		Password      string `json:"password"`
		Auth          string `json:"auth"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
}

// credentials picks the most exact entry for repo from the first secret that has one.
func credentials(secrets [][]byte, repo name.Repository) (authn.Authenticator, error) {
	for i, raw := range secrets {
		var c dockerConfig
		if err := json.Unmarshal(raw, &c); err != nil {
			// The parser's message is left out, because it quotes the content, which is
			// a secret.
			return nil, fmt.Errorf("%w: pull secret %d is not a docker config", ErrUnauthorized, i)
		}
		best, found := "", false
		for host := range c.Auths {
			if coversRepository(host, repo) && (!found || len(host) > len(best)) {
				best, found = host, true
			}
		}
		if !found {
			continue
		}
		e := c.Auths[best]
		conf := authn.AuthConfig{Username: e.Username, Password: e.Password,
			IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
		if e.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(e.Auth)
			user, password, ok := strings.Cut(string(plain), ":")
			if err != nil || !ok {
				return nil, fmt.Errorf("%w: pull secret %d has a broken auth for %s", ErrUnauthorized, i, best)
			}
			conf.Username, conf.Password = user, password
		}
		return authn.FromConfig(conf), nil
	}
	return authn.Anonymous, nil
}

// coversRepository says whether a key of a docker config ("registry", "https://registry/v1/",
// "registry/some/path") covers repo.
func coversRepository(key string, repo name.Repository) bool {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, path, _ := strings.Cut(strings.TrimSuffix(key, "/"), "/")
	registry := repo.RegistryStr()
	if host == "docker.io" {
		host = name.DefaultRegistry
	}
	if host != registry {
		return false
	}
	if path == "" || path == "v1" || path == "v2" {
		return true
	}
	return repo.RepositoryStr() == path || strings.HasPrefix(repo.RepositoryStr(), path+"/")
}
